//! Reload: what a changed file changes, what it does not, and that nobody who is being served notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use pierhead_tests::eventually;
use pierhead_tests::image::Image;
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::pull::Client;
use pierhead_tests::registry::DockerRegistry;
use pierhead_tests::server::certificate;
use pierhead_tests::wire::Wire;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MIB: u64 = 1 << 20;

/// Reloads a file that cannot be used, and returns what the log says about it.
async fn refused(edge: &Pierhead, problem: &str) -> String {
    let before = edge.log().len();
    edge.signal(Signal::HUP);
    eventually("refused", Duration::from_secs(20), async || {
        edge.log().find(before, |line| {
            let event: Value = serde_json::from_str(line).ok()?;
            let found = event["fields"]["problem"].as_str()?;
            found.contains(problem).then(|| found.to_owned())
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_changes_nothing_and_says_why() {
    let registry = DockerRegistry::start().await;
    registry.push("team/app", "latest", &Image::new(1, &[1000])).await;
    let mut edge = Setup::new().registry_with("up.test", registry.url(), json!({ "default": true })).start().await;
    edge.rewrite(|config| {
        config["registries"][0]["tag_tl"] = json!("5m");
        config["drain_wait"] = json!("soon");
    });
    refused(&edge, "registries[0].tag_tl: ").await;
    refused(&edge, "drain_wait: ").await;
    edge.client().pull("team/app", "latest").await.unwrap();
    // Nor does one that is in order by itself and cannot be had: somebody else has the address.
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    edge.rewrite(|config| {
        config["registries"][0].as_object_mut().unwrap().remove("tag_tl");
        config["drain_wait"] = json!("0s");
        config["registries"][0]["default"] = json!(false);
        let listeners = config["listeners"].as_array_mut().unwrap();
        listeners.push(json!({ "name": "taken", "bind": taken.local_addr().unwrap().to_string() }));
    });
    refused(&edge, "listeners[1].bind: ").await;
    edge.client().pull("team/app", "latest").await.unwrap();
    // Once it is put right it is taken.
    drop(taken);
    edge.reload().await;
    assert_eq!(edge.client().get("/v2/team/app/manifests/latest").await.status, 404);
    edge.client().pull("up.test/team/app", "latest").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_come_and_go_and_their_pulls_go_on() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[4 << 20]);
    registry.push("team/app", "latest", &image).await;
    let wire = Wire::to(registry.address).await;
    let mut edge = Setup::new().registry_with("up.test", wire.url(), json!({ "default": true })).start().await;
    edge.rewrite(|config| {
        let listeners = config["listeners"].as_array_mut().unwrap();
        listeners.push(json!({ "name": "second", "bind": "127.0.0.1:0" }));
    });
    edge.reload().await;
    let second = edge.address("second");
    wire.limit(3 * MIB / 2);
    let (client, digest) = (Client::new(format!("http://{second}")), image.layers[0].digest);
    let pull = tokio::spawn(async move { client.blob("team/app", &digest).await });
    eventually("a pull that runs", Duration::from_secs(10), async || (wire.carried() > MIB / 2).then_some(())).await;
    edge.rewrite(|config| drop(config["listeners"].as_array_mut().unwrap().pop()));
    edge.reload().await;
    eventually("closed", Duration::from_secs(5), async || TcpStream::connect(second).await.err()).await;
    assert_eq!(edge.client().get("/v2/").await.status, 200);
    assert!(!pull.is_finished(), "the pull was over too soon to prove anything");
    pull.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_file_changes_holds_from_the_next_request_on() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[100_000]);
    registry.push("team/app", "latest", &image).await;
    let mut edge = Setup::new().registry("up.test", registry.url()).set("/drain_wait", "1h").start().await;
    // One connection throughout: it is not its end that makes the difference.
    let kept = reqwest::Client::builder().no_proxy().http1_only().build().unwrap();
    let client = edge.client().over(kept);
    assert_eq!(client.get("/v2/more.test/team/app/manifests/latest").await.status, 404);
    let upstream = registry.url();
    edge.rewrite(|config| {
        let registries = config["registries"].as_array_mut().unwrap();
        registries.push(json!({ "name": "more.test", "upstream": upstream, "insecure": true }));
    });
    edge.reload().await;
    client.pull("more.test/team/app", "latest").await.unwrap();
    let health = |reply: pierhead_tests::pull::Reply| serde_json::from_slice::<Value>(&reply.body).unwrap();
    for client in [edge.client(), edge.operator()] {
        let health = health(client.get("/health/endtoend").await);
        assert_eq!(health["data"]["services"]["more.test"], true, "{health}");
    }
    // The other way round, and users.
    let users = edge.dir().join("users");
    // The hash of `secret`.
    std::fs::write(&users, "ann:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\n").unwrap();
    edge.rewrite(|config| {
        drop(config["registries"].as_array_mut().unwrap().pop());
        config["access"] = json!({ "htpasswd": users });
        config["drain_wait"] = json!("0s");
    });
    edge.reload().await;
    assert_eq!(client.get("/v2/up.test/team/app/manifests/latest").await.status, 401);
    assert_eq!(health(edge.client().get("/health/endtoend").await)["data"]["services"]["more.test"], Value::Null);
    // And the end is as the new file says.
    edge.stop().await;
}

/// A connection keeps the name of the listener that accepted it, for as long as it is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_outlives_any_number_of_names_of_its_listener() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let setup = Setup::new().registry("up.test", "http://127.0.0.1:1");
    let mut edge = setup.set("/listeners/0/bind", free.to_string()).start().await;
    let mut kept = TcpStream::connect(edge.registry).await.unwrap();
    for name in ["first", "second", "third"] {
        let mut answer = vec![0; 15];
        kept.write_all(b"HEAD /v2/ HTTP/1.1\r\nHost: edge\r\n\r\n").await.unwrap();
        kept.read_exact(&mut answer).await.unwrap_or_else(|error| panic!("before {name}: {error}"));
        assert_eq!(answer, b"HTTP/1.1 200 OK");
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(kept.read_u8().await.unwrap());
        }
        edge.rewrite(|config| config["listeners"][0]["name"] = json!(name));
        edge.reload().await;
    }
}

/// Else somebody is woken by an alarm about a certificate that nobody shows any more.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_go_with_their_listener() {
    let setup = Setup::new().registry("up.test", "http://127.0.0.1:1");
    let (cert, key, _) = certificate(setup.dir.path(), &["localhost"]);
    let tls = json!({ "certificates": [{ "cert": cert, "key": key }] });
    let setup = setup.with("listeners", json!({ "name": "gone", "bind": "127.0.0.1:0", "tls": tls }));
    let mut edge = setup.with("listeners", json!({ "name": "plain", "bind": "127.0.0.1:0", "tls": tls })).start().await;
    let ends = "pierhead_certificate_expiry_timestamp_seconds";
    assert!(edge.metric(ends, &[("listener", "gone")]).await > 0.0);
    assert!(edge.metric(ends, &[("listener", "plain")]).await > 0.0);
    edge.rewrite(|config| {
        let listeners = config["listeners"].as_array_mut().unwrap();
        listeners.remove(1);
        listeners[1].as_object_mut().unwrap().remove("tls");
    });
    edge.reload().await;
    assert_eq!(edge.metric(ends, &[]).await, 0.0);
}

/// The address that is wanted and the one that is open would be in each other's way.
#[tokio::test(flavor = "multi_thread")]
async fn a_listener_moves_from_one_address_to_all_and_back() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let setup = Setup::new().registry("up.test", "http://127.0.0.1:1");
    let mut edge = setup.set("/listeners/0/bind", free.to_string()).start().await;
    let elsewhere = format!("127.0.0.2:{}", free.port());
    for (bind, everywhere) in [(format!("0.0.0.0:{}", free.port()), true), (free.to_string(), false)] {
        edge.rewrite(|config| config["listeners"][0]["bind"] = json!(bind));
        edge.reload().await;
        assert_eq!(edge.client().get("/v2/").await.status, 200, "{bind}");
        eventually("the old socket is closed", Duration::from_secs(5), async || {
            (TcpStream::connect(&elsewhere).await.is_ok() == everywhere).then_some(())
        })
        .await;
    }
    // Another edge that is started by mistake is still told so.
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.set_reuseaddr(true).unwrap();
    other.bind(free).expect_err("the port is shared");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_stays_open_and_what_can_change_of_it_does() {
    let registry = DockerRegistry::start().await;
    for (tag, seed) in [("one", 1), ("two", 2), ("three", 3)] {
        registry.push("team/app", tag, &Image::new(seed, &[1 << 20])).await;
    }
    let mut edge = Setup::new().registry_with("up.test", registry.url(), json!({ "default": true })).start().await;
    for tag in ["one", "two", "three"] {
        edge.client().pull("team/app", tag).await.unwrap();
    }
    edge.metric_until("pierhead_cache_bytes", &[], |bytes| bytes > (3 * MIB) as f64).await;
    edge.rewrite(|config| config["cache"]["max_size"] = json!("2MiB"));
    edge.reload().await;
    assert_eq!(edge.metric("pierhead_cache_limit_bytes", &[]).await, (2 * MIB) as f64);
    assert!(edge.metric("pierhead_cache_bytes", &[]).await <= (2 * MIB) as f64);
    for tag in ["one", "two", "three"] {
        edge.client().pull("team/app", tag).await.unwrap();
    }
    let elsewhere = edge.dir().join("elsewhere");
    edge.rewrite(|config| config["cache"]["path"] = json!(elsewhere));
    assert!(refused(&edge, "cache.path: ").await.contains("needs a restart"));
    edge.client().pull("team/app", "three").await.unwrap();
}

/// Clients that pull as fast as they can, over new connections and over kept ones.
struct Load {
    stop: Arc<AtomicBool>,
    pulled: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(edge: &Pierhead, image: &Image) -> Load {
        let (stop, pulled) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let kept = reqwest::Client::builder().no_proxy().http1_only().build().unwrap();
        let clients = [edge.client(), edge.client(), edge.client().over(kept.clone()), edge.client().over(kept)];
        let clients = clients.map(|client| {
            let (stop, pulled, digest) = (Arc::clone(&stop), Arc::clone(&pulled), image.layers[0].digest);
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    client.manifest("team/app", "latest").await.unwrap();
                    client.blob("team/app", &digest).await.unwrap();
                    pulled.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        Load { stop, pulled, clients: clients.into() }
    }

    fn pulled(&self) -> usize {
        self.pulled.load(Ordering::Relaxed)
    }

    /// Ends it; panics when a client met an error.
    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        self.pulled.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_two_hundred_reloads_fail_no_request_and_leave_nothing_behind() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[200_000]);
    registry.push("team/app", "latest", &image).await;
    let mut edge = Setup::new()
        .registry_with("up.test", registry.url(), json!({ "default": true }))
        .set("/access_log", false)
        .start()
        .await;
    edge.client().pull("team/app", "latest").await.unwrap();
    let load = Load::start(&edge, &image);
    let mut settled = None;
    for round in 0..200 {
        let pulled = load.pulled();
        let upstream = registry.url();
        edge.rewrite(|config| {
            config["registries"][0]["tag_ttl"] = json!(format!("{}s", 1 + round % 3));
            config["listeners"][0]["max_connections"] = json!(100 + round % 7);
            config["listeners"][0]["idle_timeout"] = json!(format!("{}s", 30 + round % 5));
            config["drain_timeout"] = json!(format!("{}s", 10 + round));
            config["cache"]["max_size"] = json!(format!("{}MiB", 100 + round));
            let listeners = config["listeners"].as_array_mut().unwrap();
            listeners.truncate(1);
            if round % 2 == 0 {
                listeners.push(json!({ "name": format!("extra{}", round % 4), "bind": "127.0.0.1:0" }));
            }
            let registries = config["registries"].as_array_mut().unwrap();
            registries.truncate(1);
            if round % 3 == 0 {
                registries.push(json!({ "name": "more.test", "upstream": upstream, "insecure": true }));
            }
        });
        edge.reload().await;
        eventually("pulls between reloads", Duration::from_secs(20), async || (load.pulled() > pulled).then_some(()))
            .await;
        if round == 40 {
            settled = Some((edge.descriptors(), edge.memory()));
        }
    }
    let pulled = load.end().await;
    assert!(pulled > 200, "{pulled} pulls");
    let (descriptors, memory) = settled.unwrap();
    eventually("descriptors are given back", Duration::from_secs(20), async || {
        (edge.descriptors() <= descriptors + 4).then_some(())
    })
    .await;
    let grown = edge.memory().saturating_sub(memory);
    assert!(grown < 24 * MIB, "grown by {grown} bytes in 160 reloads");
    edge.stop().await;
}

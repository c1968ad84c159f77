//! From the configuration to the last answer: checks, starts, stops, limits, and what is seen from outside.

use std::time::{Duration, Instant};

use pierhead_tests::eventually;
use pierhead_tests::image::{Blob, Image};
use pierhead_tests::pierhead::Setup;
use pierhead_tests::registry::DockerRegistry;
use pierhead_tests::wire::{Mode, Wire};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn starting_needs_no_upstream() {
    let mut registry = DockerRegistry::start().await;
    let image = Image::new(1, &[100_000]);
    registry.push("team/app", "latest", &image).await;
    let keys = json!({ "default": true, "tag_ttl": "1ms", "retries": 0 });
    let mut edge = Setup::new().registry_with("up.test", registry.url(), keys).start().await;
    edge.client().pull("team/app", "latest").await.unwrap();
    edge.stop().await;
    registry.stop().await;
    let begun = Instant::now();
    edge.start_again().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(edge.client().get("/health/instance").await.status, 200);
    edge.client().pull("team/app", "latest").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_uplink_costs_no_time() {
    for mode in [Mode::Closed, Mode::Silent] {
        let registry = DockerRegistry::start().await;
        let image = Image::new(1, &[100_000]);
        for tag in ["one", "two", "three"] {
            registry.push("team/app", tag, &image).await;
        }
        let mut wire = Wire::to(registry.address).await;
        let keys = json!({ "default": true, "tag_ttl": "1ms" });
        let edge = Setup::new().registry_with("up.test", wire.url(), keys).start().await;
        let client = edge.client();
        for tag in ["one", "two", "three"] {
            client.pull("team/app", tag).await.unwrap();
        }
        wire.set(mode).await;
        wire.cut();
        // The first to ask pays the budget, once; then it is known that asking takes long.
        client.pull("team/app", "one").await.unwrap();
        // Twice the fifty milliseconds that are promised, since these machines are busy.
        let patience = Duration::from_millis(100);
        for reference in ["one", "two", "three", &image.digest().to_string()] {
            let begun = Instant::now();
            client.manifest("team/app", reference).await.unwrap();
            assert!(begun.elapsed() < patience, "{mode:?}: {reference} took {:?}", begun.elapsed());
        }
        for digest in [image.layers[0].digest, image.config.digest] {
            let received = client.blob("team/app", &digest).await.unwrap();
            assert!(received.total < patience, "{mode:?}: {received:?}");
        }
        // And it is noticed when it is back.
        wire.set(Mode::Open).await;
        wire.cut();
        let moved = Image::new(2, &[1000]);
        registry.push("team/app", "two", &moved).await;
        if mode == Mode::Closed {
            continue; // after the cool-down
        }
        eventually("the new image", Duration::from_secs(40), async || {
            let reply = client.manifest("team/app", "two").await.unwrap();
            (reply.body == moved.manifest.blob.bytes).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_never_asks_anybody() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[100_000]);
    registry.push("team/app", "latest", &image).await;
    registry.push("team/other", "latest", &Image::new(2, &[1000])).await;
    let wire = Wire::to(registry.address).await;
    let keys = json!({ "default": true, "tag_ttl": "1ms" });
    let mut edge = Setup::new().registry_with("up.test", wire.url(), keys).start().await;
    edge.client().pull("team/app", "latest").await.unwrap();
    edge.stop().await;
    edge.reconfigure("/cache/offline", true);
    edge.start_again().await;
    let accepted = wire.accepted();
    for _ in 0..2 {
        edge.client().pull("team/app", "latest").await.unwrap();
    }
    assert_eq!(edge.client().head(&format!("/v2/team/app/blobs/{}", image.layers[0].digest)).await.status, 200);
    let unknown = edge.client().get("/v2/team/other/manifests/latest").await;
    assert!(unknown.status >= 400, "{}", unknown.status);
    let unknown = edge.client().get(&format!("/v2/team/app/blobs/{}", Blob::random(5, 5).digest)).await;
    assert!(unknown.status >= 400, "{}", unknown.status);
    assert_eq!(wire.accepted(), accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_pull_finishes_after_sigterm() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[4 << 20]);
    registry.push("team/app", "latest", &image).await;
    let wire = Wire::to(registry.address).await;
    let mut edge = Setup::new()
        .registry_with("up.test", wire.url(), json!({ "default": true }))
        .set("/drain_wait", "500ms")
        .set("/drain_timeout", "30s")
        .start()
        .await;
    wire.limit(3 * MIB / 2);
    let (client, digest) = (edge.client(), image.layers[0].digest);
    let pull = tokio::spawn(async move { client.blob("team/app", &digest).await });
    eventually("a pull that runs", Duration::from_secs(10), async || (wire.carried() > MIB / 2).then_some(())).await;
    edge.terminate();
    // First readiness fails, while connections are still taken …
    let client = edge.client();
    eventually("not ready", Duration::from_secs(5), async || {
        let reply = pierhead_tests::pull::reply(client.request(reqwest::Method::GET, "/health/instance")).await;
        (reply.unwrap().status == 503).then_some(())
    })
    .await;
    // … then no more are.
    eventually("no new connections", Duration::from_secs(5), async || TcpStream::connect(edge.registry).await.err())
        .await;
    assert!(!pull.is_finished(), "the pull was over too soon to prove anything");
    pull.await.unwrap().unwrap();
    // It does not wait out the time it has.
    let status = edge.wait(Duration::from_secs(3)).await;
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_not_held_up_for_ever() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[4 << 20]);
    registry.push("team/app", "latest", &image).await;
    let wire = Wire::to(registry.address).await;
    let mut edge = Setup::new()
        .registry_with("up.test", wire.url(), json!({ "default": true }))
        .set("/drain_timeout", "300ms")
        .start()
        .await;
    wire.limit(64 * 1024);
    let _open = edge.client().open_blob("team/app", &image.layers[0].digest).await.unwrap();
    let mut idle = TcpStream::connect(edge.registry).await.unwrap();
    edge.terminate();
    edge.wait(Duration::from_secs(5)).await;
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap_or(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[4 << 20]);
    registry.push("team/app", "latest", &image).await;
    let wire = Wire::to(registry.address).await;
    let mut edge = Setup::new().registry_with("up.test", wire.url(), json!({ "default": true })).start().await;
    wire.limit(64 * 1024);
    let _open = edge.client().open_blob("team/app", &image.layers[0].digest).await.unwrap();
    edge.terminate();
    eventually("draining", Duration::from_secs(5), async || TcpStream::connect(edge.registry).await.err()).await;
    assert!(edge.running());
    edge.terminate();
    edge.wait(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_let_go() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[24 << 20]);
    registry.push("team/app", "latest", &image).await;
    let edge = Setup::new()
        .registry_with("up.test", registry.url(), json!({ "default": true }))
        .set("/listeners/0/write_timeout", "500ms")
        .set("/listeners/0/idle_timeout", "500ms")
        .start()
        .await;
    let _stuck = edge.client().open_blob("team/app", &image.layers[0].digest).await.unwrap();
    let _idle = TcpStream::connect(edge.registry).await.unwrap();
    let listener = [("listener", "registry")];
    edge.metric_until("pierhead_connections", &listener, |open| open >= 1.0).await;
    edge.metric_until("pierhead_connections", &listener, |open| open == 0.0).await;
    let line = edge.logged("the answer that was not read", |line| line["kind"] == "blob").await;
    assert_eq!(line["aborted"], true);
    edge.client().pull("team/app", "latest").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_can_be_off() {
    let registry = DockerRegistry::start().await;
    let mut edge =
        Setup::new().registry_with("up.test", registry.url(), json!({})).set("/access_log", false).start().await;
    assert_eq!(edge.client().get("/v2/").await.status, 200);
    edge.stop().await;
    assert!(edge.access_log().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_have_a_size_and_a_time() {
    let registry = DockerRegistry::start().await;
    let edge = Setup::new()
        .registry("up.test", registry.url())
        .set("/listeners/0/header_timeout", "500ms")
        .set("/listeners/0/max_header_size", "8KiB")
        .start()
        .await;
    // One byte at a time keeps nobody waiting for ever.
    let mut slow = TcpStream::connect(edge.registry).await.unwrap();
    let (mut read, mut write) = slow.split();
    let dripping = async {
        while write.write_all(b"G").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        std::future::pending::<()>().await;
    };
    let begun = Instant::now();
    let mut answer = Vec::new();
    tokio::select! {
        _ = read.read_to_end(&mut answer) => {}
        () = dripping => {}
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());

    let mut huge = TcpStream::connect(edge.registry).await.unwrap();
    let filler = format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Filler: {}\r\n\r\n", "a".repeat(20_000));
    let _ = huge.write_all(filler.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), huge.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");

    let mut smuggled = TcpStream::connect(edge.registry).await.unwrap();
    let request = "GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    smuggled.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), smuggled.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(edge.client().get("/v2/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn https_speaks_both_versions_and_knows_its_names() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[2 << 20]);
    registry.push("team/app", "latest", &image).await;
    let setup = Setup::new().registry_with("up.test", registry.url(), json!({ "default": true }));
    let mut pems = Vec::new();
    let mut certificates = Vec::new();
    for name in ["localhost", "edge.test"] {
        let pair = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let (cert, key) = (setup.dir.path().join(format!("{name}.crt")), setup.dir.path().join(format!("{name}.key")));
        std::fs::write(&cert, pair.cert.pem()).unwrap();
        std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
        certificates.push(json!({ "cert": cert, "key": key }));
        pems.push(pair.cert.pem());
    }
    let tls = json!({ "certificates": certificates, "min_version": "1.3" });
    let edge = setup.set("/listeners/0/tls", tls).start().await;
    for (name, pem) in ["localhost", "edge.test"].into_iter().zip(&pems) {
        for version in [reqwest::Version::HTTP_11, reqwest::Version::HTTP_2] {
            let builder = reqwest::Client::builder()
                .no_proxy()
                .tls_certs_only([reqwest::Certificate::from_pem(pem.as_bytes()).unwrap()])
                .resolve(name, edge.registry);
            let http = if version == reqwest::Version::HTTP_11 { builder.http1_only() } else { builder };
            let client = pierhead_tests::pull::Client::new(format!("https://{name}:{}", edge.registry.port()))
                .over(http.build().unwrap());
            let ping = client.request(reqwest::Method::GET, "/v2/").send().await.unwrap();
            assert_eq!((ping.status().as_u16(), ping.version()), (200, version));
            let pulls = (0..4).map(|_| client.pull("team/app", "latest"));
            for pulled in futures_util::future::join_all(pulls).await {
                pulled.unwrap();
            }
            let part = client.range("team/app", &image.layers[0].digest, "bytes=7-8").await;
            assert_eq!((part.status, part.body), (206, image.layers[0].bytes.slice(7..9)));
        }
    }
    edge.logged("HTTP/2", |line| line["protocol"] == "HTTP/2").await;
    // An older version is refused.
    let old = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([reqwest::Certificate::from_pem(pems[0].as_bytes()).unwrap()])
        .tls_version_max(reqwest::tls::Version::TLS_1_2)
        .resolve("localhost", edge.registry)
        .build()
        .unwrap();
    assert!(old.get(format!("https://localhost:{}/v2/", edge.registry.port())).send().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_with_its_own_authority_is_trusted_when_told() {
    let setup = Setup::new();
    let pair = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (cert, key) = (setup.dir.path().join("tls.crt"), setup.dir.path().join("tls.key"));
    std::fs::write(&cert, pair.cert.pem()).unwrap();
    std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    // An edge behind an edge: TLS on the inner one.
    let registry = DockerRegistry::start().await;
    registry.push("team/app", "latest", &Image::new(1, &[100_000])).await;
    let inner = setup
        .registry_with("up.test", registry.url(), json!({ "default": true }))
        .set("/listeners/0/tls", json!({ "certificates": [{ "cert": cert, "key": key }] }))
        .start()
        .await;
    let url = format!("https://{}", inner.registry);
    let keys = json!({ "default": true, "ca": cert });
    let outer = Setup::new().registry_with("up.test", url.clone(), keys).start().await;
    outer.client().pull("team/app", "latest").await.unwrap();
    let strict = Setup::new().registry_with("up.test", url, json!({ "default": true, "retries": 0 })).start().await;
    assert!(strict.client().pull("team/app", "latest").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_health_and_the_access_log_tell_what_happened() {
    let mut registry = DockerRegistry::start().await;
    let image = Image::new(1, &[100_000]);
    registry.push("team/app", "latest", &image).await;
    let edge = Setup::new().registry_with("up.test", registry.url(), json!({ "cool_down": "1h" })).start().await;
    let client = edge.client();
    client.pull("up.test/team/app", "latest").await.unwrap();
    // A blob is kept a moment after its last byte was sent. Until then it is an entry in part.
    edge.metric_until("pierhead_cache_entries", &[], |entries| entries == 3.0).await;
    edge.metric_until("pierhead_fills_in_progress", &[], |fills| fills == 0.0).await;
    client.pull("up.test/team/app", "latest").await.unwrap();
    let layer = image.layers[0].digest.to_string();
    let is_blob = |outcome: &'static str| {
        let layer = layer.clone();
        move |line: &Value| line["reference"] == layer.as_str() && line["outcome"] == outcome
    };
    for outcome in ["miss", "hit"] {
        let line = edge.logged(outcome, is_blob(outcome)).await;
        assert_eq!(line["registry"], "up.test");
        assert_eq!(line["repository"], "team/app");
        assert_eq!(line["kind"], "blob");
        assert_eq!(line["status"], 200);
        assert_eq!(line["bytes"], image.layers[0].bytes.len());
        assert_eq!(line["client"], "127.0.0.1");
        assert!(line["ttfb_ms"].as_f64().unwrap() <= line["total_ms"].as_f64().unwrap());
        assert!(line["id"].as_str().is_some_and(|id| !id.is_empty()));
        let labels = [("registry", "up.test"), ("kind", "blob"), ("outcome", outcome)];
        assert_eq!(edge.metric("pierhead_requests_total", &labels).await, 2.0);
        let bytes = (image.layers[0].bytes.len() + image.config.bytes.len()) as f64;
        assert_eq!(edge.metric("pierhead_response_bytes_total", &labels).await, bytes);
    }
    let up = [("registry", "up.test")];
    assert!(edge.metric("pierhead_upstream_requests_total", &up).await >= 3.0);
    assert!(edge.metric("pierhead_upstream_received_bytes_total", &up).await >= image.size() as f64);
    // Blobs, configuration and manifest.
    assert_eq!(edge.metric("pierhead_cache_entries", &[]).await, 3.0);
    // Counted in blocks, as the disk does.
    let bytes = edge.metric("pierhead_cache_bytes", &[]).await;
    assert!((image.size() as f64..=image.size() as f64 + 3.0 * 4096.0).contains(&bytes), "{bytes}");
    assert_eq!(edge.metric("pierhead_cache_limit_bytes", &[]).await, f64::from(4u32) * f64::from(1u32 << 30));
    let metrics = String::from_utf8(edge.operator().get("/metrics").await.body.to_vec()).unwrap();
    for forbidden in ["team/app", "sha256:"] {
        assert!(!metrics.contains(forbidden), "{forbidden} is a label");
    }
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("pierhead_") || line.starts_with("process_"), "{line}");
    }
    for path in ["/health/instance", "/health/endtoend"] {
        for client in [edge.client(), edge.operator()] {
            let reply = client.get(path).await;
            assert_eq!(reply.status, 200, "{path}");
            let health: Value = serde_json::from_slice(&reply.body).unwrap();
            assert_eq!(health["status_code"], 200, "{health}");
            assert!(health["data"]["services"].is_object(), "{health}");
        }
    }
    registry.stop().await;
    assert!(client.get(&format!("/v2/up.test/team/app/blobs/{}", Blob::random(9, 9).digest)).await.status >= 400);
    assert!(edge.metric("pierhead_upstream_errors_total", &up).await >= 1.0);
    assert_eq!(edge.operator().get("/health/endtoend").await.status, 503);
    assert_eq!(edge.operator().get("/health/instance").await.status, 200);
}

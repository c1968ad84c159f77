//! Servers that are away, die and come back under load, and pushes that go on meanwhile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pierhead_tests::clients::Podman;
use pierhead_tests::eventually;
use pierhead_tests::image::Image;
use pierhead_tests::pull::Client;
use pierhead_tests::raw::{backend, curl, front, rest, secure, until};
use pierhead_tests::registry::DockerRegistry;
use pierhead_tests::server::Server;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[tokio::test]
async fn who_finds_no_server_is_told_when_to_come_back() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let edge = front(&[nobody]).set("/pools/0/retries", 0).start().await;
    let reply = edge.client().get("/v2/").await;
    assert_eq!((reply.status, reply.header("retry-after").is_empty()), (503, false));

    let server = backend(|mut tcp| async move {
        until(&mut tcp, "\r\n\r\n").await;
        rest(&mut tcp).await;
    })
    .await;
    let edge = front(&[])
        .set("/pools/0/servers", json!([{ "address": server.to_string(), "max_connections": 1 }]))
        .set("/pools/0/queue_timeout", "200ms")
        .set("/pools/0/first_byte_timeout", "1s")
        .start()
        .await;
    let client = edge.client();
    let (first, second) = tokio::join!(client.get("/one"), client.get("/two"));
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [503, 504], "one was too slow, the other did not get its turn");
    let refused = if first.status == 503 { first } else { second };
    assert!(!refused.header("retry-after").is_empty());
}

#[tokio::test]
async fn that_nobody_is_left_is_told_once() {
    let mut server = Server::nginx(1, "server { listen 127.0.0.1:@PORT@; location / { return 200 ok; } }").await;
    let edge = front(&[server.address()])
        .set("/pools/0/health", json!({ "kind": "tcp", "interval": "50ms", "rise": 1, "fall": 1 }))
        .start()
        .await;
    let client = edge.client();
    let told = |what: &str| edge.log().count(|line| line.contains(what));
    for round in 1..=2 {
        assert_eq!(client.get("/x").await.status, 200);
        server.kill().await;
        edge.metric_until("pierhead_server_state", &[("state", "down")], |down| down == 1.0).await;
        for _ in 0..3 {
            assert_eq!(client.get("/x").await.status, 503);
        }
        server.start_again().await;
        edge.metric_until("pierhead_server_state", &[("state", "up")], |up| up == 1.0).await;
        assert_eq!(client.get("/x").await.status, 200);
        let end = async || (told("a server can be asked again") == round).then_some(());
        eventually("the end is told of", Duration::from_secs(20), end).await;
        assert_eq!(told("no server can be asked"), round);
    }
}

/// Asks again and again until told to stop; how often it was answered, and what was not.
async fn load(client: Client, path: String, stop: Arc<AtomicBool>) -> (usize, Vec<String>) {
    let (mut answered, mut failed) = (0, Vec::new());
    while !stop.load(Ordering::SeqCst) {
        match client.request(Method::GET, &path).send().await {
            Ok(reply) if reply.status() == 200 => match reply.bytes().await {
                Ok(_) => answered += 1,
                Err(error) => failed.push(format!("{error:?}")),
            },
            Ok(reply) => failed.push(reply.status().to_string()),
            Err(error) => failed.push(format!("{error:?}")),
        }
    }
    (answered, failed)
}

#[tokio::test]
async fn no_read_fails_while_servers_die_and_come_back() {
    let block = "server { listen 127.0.0.1:@PORT@; location / { return 200 \"hello\"; } }";
    let mut servers = [Server::nginx(1, block).await, Server::nginx(1, block).await, Server::nginx(1, block).await];
    let edge = front(&servers.each_ref().map(Server::address)).start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let loads: Vec<_> =
        (0..4).map(|_| tokio::spawn(load(edge.client(), "/v2/".to_owned(), Arc::clone(&stop)))).collect();
    for round in 0..2 {
        for number in 0..3 {
            servers[number].kill().await;
            if round == 0 {
                servers[(number + 1) % 3].kill().await;
            }
            let before = edge.metric("pierhead_requests_total", &[("code", "200")]).await;
            edge.metric_until("pierhead_requests_total", &[("code", "200")], |now| now > before + 100.0).await;
            servers[number].start_again().await;
            if round == 0 {
                servers[(number + 1) % 3].start_again().await;
            }
        }
    }
    stop.store(true, Ordering::SeqCst);
    let mut total = 0;
    for load in loads {
        let (answered, failed) = load.await.unwrap();
        assert!(answered > 0 && failed.is_empty(), "{answered} answered, failed: {failed:?}");
        total += answered;
    }
    // Six rounds of more than 100; how the clients shared them is the scheduler's choice.
    assert!(total > 600, "{total} answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_pushes_and_pulls_survive_a_rolling_restart() {
    let first = DockerRegistry::start().await;
    let mut nodes = vec![first.sibling().await, first.sibling().await, first];
    nodes[0].push("team/podman", "v", &Image::new(99, &[200_000, 3_000_000])).await;
    let addresses: Vec<SocketAddr> = nodes.iter().map(|node| node.address).collect();
    let edge =
        front(&addresses).set("/pools/0/health", json!({ "kind": "tcp", "interval": "200ms", "fall": 1, "rise": 1 }));
    let edge = edge.start().await;
    let rounds: Arc<[AtomicU64; 2]> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let (client, done, counted) = (edge.client(), Arc::clone(&stop), Arc::clone(&rounds));
    let bare = tokio::spawn(async move {
        while !done.load(Ordering::SeqCst) {
            let round = counted[0].fetch_add(1, Ordering::SeqCst);
            let image = Image::new(100 + round, &[200_000, 400_000]);
            for blob in image.blobs() {
                client.push_blob("team/app", &blob.digest, blob.bytes.clone()).await;
            }
            let manifest = &image.manifest;
            let (reference, bytes) = (format!("v{round}"), manifest.blob.bytes.clone());
            client.push_manifest("team/app", &reference, &manifest.media_type, bytes).await;
            client.pull("team/app", &reference).await.unwrap();
        }
    });
    let (registry, done, counted) = (edge.registry, Arc::clone(&stop), Arc::clone(&rounds));
    let podman = tokio::spawn(async move {
        let podman = Podman::with_registries(&format!("[[registry]]\nlocation = \"{registry}\"\ninsecure = true\n"));
        let image = format!("{registry}/team/podman:v");
        while !done.load(Ordering::SeqCst) {
            podman.pull(&image).await.expect_success();
            let round = counted[1].fetch_add(1, Ordering::SeqCst);
            let other = format!("{registry}/team{round}/podman:v{round}");
            podman.run(&["push", "--quiet", &image, &other]).await.expect_success();
            podman.forget().await;
        }
    });
    let operator = edge.operator();
    for node in &mut nodes {
        let before = rounds.each_ref().map(|round| round.load(Ordering::SeqCst));
        // As an operator does it: nothing new for the node, then its end once nothing is left on it.
        let name = node.address.to_string();
        let path = format!("/api/v1/pools/web/servers/{name}");
        let order = |action: &str| operator.request(Method::POST, &path).json(&json!({ "action": action }));
        let drained = order("drain").send().await.unwrap();
        assert!(drained.status().is_success(), "{}", drained.status());
        edge.metric_until("pierhead_server_connections", &[("server", &name)], |busy| busy < 1.0).await;
        node.stop().await;
        eventually("both go on while it is away", Duration::from_secs(60), async || {
            assert!(!bare.is_finished() && !podman.is_finished(), "one of them failed");
            let more = |(round, before): (&AtomicU64, u64)| round.load(Ordering::SeqCst) > before + 1;
            rounds.iter().zip(before).all(more).then_some(())
        })
        .await;
        node.restart().await;
        let ready = order("ready").send().await.unwrap();
        assert!(ready.status().is_success(), "{}", ready.status());
        edge.metric_until("pierhead_server_state", &[("server", &name), ("state", "up")], |up| up > 0.0).await;
    }
    stop.store(true, Ordering::SeqCst);
    bare.await.unwrap();
    podman.await.unwrap();
}

#[tokio::test]
async fn heavy_a_large_push_needs_little_memory() {
    let server = backend(|mut tcp| async move {
        let head = until(&mut tcp, "\r\n\r\n").await;
        let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
        let (mut left, mut buffer) = (length.parse::<usize>().unwrap(), vec![0; 1 << 20]);
        while left > 0 {
            left -= tcp.read(&mut buffer).await.unwrap();
        }
        tcp.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    })
    .await;
    let edge = secure(front(&[server])).start().await;
    let url = format!("https://localhost:{}/layer", edge.registry.port());
    let file = edge.dir().join("layer");
    std::fs::File::create(&file).unwrap().set_len(2 << 30).unwrap();
    for http in ["--http1.1", "--http2"] {
        let sent = [http, "-T", file.to_str().unwrap(), "-o", "/dev/null", "-w", "%{http_code}", &url];
        assert_eq!(curl(&sent).await.stdout.trim(), "201", "{http}");
    }
    let peak = edge.peak_memory() >> 20;
    assert!(peak <= 96, "{peak} MiB");
}

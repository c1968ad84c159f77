//! Requests that are forwarded to the servers of a pool, and what comes back: real registries behind the edge, nginx as a
//! strict server, and servers that do what no real one does.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use pierhead_tests::clients::Podman;
use pierhead_tests::eventually;
use pierhead_tests::image::Image;
use pierhead_tests::pierhead::Setup;
use pierhead_tests::process::run;
use pierhead_tests::pull::reply;
use pierhead_tests::raw::{LONG, backend, curl, exchange, front, rest, says, secure, until};
use pierhead_tests::registry::DockerRegistry;
use pierhead_tests::server::{Server, certificate};
use reqwest::Method;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::process::Command;

#[tokio::test]
async fn podman_pushes_and_pulls_through_a_pool() {
    let first = DockerRegistry::start().await;
    let (second, third) = (first.sibling().await, first.sibling().await);
    let edge = front(&[first.address, second.address, third.address]).start().await;
    let image = Image::new(1, &[300_000, 5_000_000]);
    first.push("team/app", "v1", &image).await;
    let podman = Podman::with_registries(&format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", edge.registry));
    let name = |tag: &str| format!("{}/team/app:{tag}", edge.registry);
    podman.pull(&name("v1")).await.expect_success();
    podman.run(&["tag", &name("v1"), &name("v2")]).await.expect_success();
    podman.run(&["push", "--quiet", &name("v2")]).await.expect_success();
    podman.run(&["push", "--quiet", &name("v1"), &format!("{}/other/app:v3", edge.registry)]).await.expect_success();
    podman.forget().await;
    podman.pull(&format!("{}/other/app:v3", edge.registry)).await.expect_success();
    assert!(edge.metric("pierhead_server_requests_total", &[("pool", "web"), ("code", "2xx")]).await > 10.0);
    for server in [&first, &second, &third] {
        let asked = edge.metric("pierhead_server_requests_total", &[("server", &server.address.to_string())]).await;
        assert!(asked > 0.0, "all servers have their turn");
    }
}

#[tokio::test]
async fn servers_are_told_of_the_way_and_clients_told_nothing_wrong() {
    let nginx = Server::nginx(
        1,
        "server { listen 127.0.0.1:@PORT@; \
         location / { return 200 \"$http_x_forwarded_for|$http_x_forwarded_proto|$http_host|$http_x_request_id|$http_forwarded\"; } \
         location /moved { return 302 http://127.0.0.1:@PORT@/there; } \
         location /away { return 302 https://s3.example/bucket; } }",
    )
    .await;
    let edge = secure(front(&[nginx.address()])).set("/listeners/0/hsts", "1h").start().await;
    let get = |path: &str, more: &[&str]| {
        let url = format!("https://localhost:{}{path}", edge.registry.port());
        let more: Vec<String> = more.iter().map(|text| (*text).to_owned()).collect();
        async move {
            let more: Vec<&str> = more.iter().map(String::as_str).collect();
            curl(&[&["-i", &url][..], &more].concat()).await.expect_success().stdout
        }
    };
    let port = edge.registry.port();
    for http in ["--http1.1", "--http2"] {
        let answer = get("/", &[http, "-H", "X-Forwarded-For: 192.0.2.66", "-H", "X-Request-Id: mine"]).await;
        assert!(answer.contains(&format!("127.0.0.1|https|localhost:{port}|")), "{answer}");
        assert!(!answer.contains("192.0.2.66") && !answer.contains("mine"), "{answer}");
        assert!(
            answer.contains("strict-transport-security: max-age=3600")
                || answer.contains("Strict-Transport-Security: max-age=3600"),
            "{answer}"
        );
        let moved = get("/moved", &[http]).await.to_ascii_lowercase();
        assert!(moved.contains(&format!("location: https://localhost:{port}/there")), "{moved}");
        let away = get("/away", &[http]).await.to_ascii_lowercase();
        assert!(away.contains("location: https://s3.example/bucket"), "{away}");
    }
    let line = edge.logged("a forwarded request", |line| line["path"] == "/moved").await;
    assert_eq!((line["outcome"].as_str(), line["reason"].as_str()), (Some("bypass"), Some("forwarded")));
    assert_eq!((line["pool"].as_str(), line["status"].as_u64()), (Some("web"), Some(302)));
    assert_eq!(line["server"], nginx.address().to_string());
}

#[tokio::test]
async fn trusted_proxies_are_believed_as_far_as_they_go() {
    let nginx = Server::nginx(
        1,
        "server { listen 127.0.0.1:@PORT@; location / { \
         return 200 \"$http_x_forwarded_for|$http_x_forwarded_proto|$http_x_forwarded_host|$http_x_request_id\"; } }",
    )
    .await;
    let edge = front(&[nginx.address()]).set("/trusted_proxies", json!(["127.0.0.0/8", "10.0.0.0/8"])).start().await;
    let told = [
        ("X-Forwarded-For", "192.0.2.66, 198.51.100.7, 10.0.0.9"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "reg.example"),
        ("X-Request-Id", "given-1"),
    ];
    let reply = edge.client().get_with("/x", &told).await;
    assert_eq!(reply.body, "192.0.2.66, 198.51.100.7, 10.0.0.9, 127.0.0.1|https|reg.example|given-1");
    let line = edge.line_of(&reply).await;
    assert_eq!((line["client"].as_str(), line["id"].as_str()), (Some("198.51.100.7"), Some("given-1")));
}

#[tokio::test]
async fn http_is_sent_to_https_and_health_is_not() {
    let edge = Setup::front()
        .pool(json!({ "name": "web", "servers": ["127.0.0.1:1"] }))
        .set("/listeners/0/redirect_to_https", 8443)
        .start()
        .await;
    let reply = edge.client().get("/v2/x?n=1").await;
    assert_eq!((reply.status, reply.header("location")), (301, "https://127.0.0.1:8443/v2/x?n=1"));
    let put = edge.client().request(Method::PUT, "/v2/x").body("body").send().await.unwrap();
    assert_eq!(put.status(), 308);
    assert_eq!(edge.client().get("/health/instance").await.status, 200);
}

#[tokio::test]
async fn the_edges_own_health_is_told_where_all_else_is_forwarded() {
    let nginx = Server::nginx(1, "server { listen 127.0.0.1:@PORT@; location / { return 200 \"nginx\"; } }").await;
    let health = json!({ "kind": "tcp", "interval": "50ms", "fast_interval": "20ms" });
    let pool = json!({ "name": "web", "servers": [nginx.address().to_string()], "health": health });
    let mut nginx = nginx;
    let edge = Setup::front().pool(pool).set("/listeners/0/pool", "web").start().await;
    let client = edge.client();
    for path in ["/", "/health", "/health/", "/health/instance/", "/v2/"] {
        assert_eq!(client.get(path).await.body, "nginx", "{path}");
    }
    assert_eq!(client.request(Method::POST, "/health/instance").send().await.unwrap().text().await.unwrap(), "nginx");
    let services = |body: &[u8]| serde_json::from_slice::<serde_json::Value>(body).unwrap()["data"]["services"].clone();
    let instance = client.get("/health/instance").await;
    assert_eq!((instance.status, services(&instance.body)), (200, json!({ "listeners": true })));
    let all = client.get("/health/endtoend").await;
    assert_eq!((all.status, services(&all.body)), (200, json!({ "listeners": true, "web": true })));
    nginx.kill().await;
    let all = eventually("its pool does not answer", LONG, async || {
        Some(client.get("/health/endtoend").await).filter(|reply| reply.status == 503)
    })
    .await;
    assert_eq!(services(&all.body), json!({ "listeners": true, "web": false }));
    assert_eq!(client.get("/health/instance").await.status, 200);
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_reaches_the_client() {
    let nginx = Server::nginx(
        1,
        "server { listen 127.0.0.1:@PORT@; client_max_body_size 1m; location / { return 413 \"too much\"; } }",
    )
    .await;
    let edge = secure(front(&[nginx.address()])).start().await;
    let url = format!("https://localhost:{}/upload", edge.registry.port());
    let file = edge.dir().join("large");
    std::fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
    for more in [&["--http1.1"][..], &["--http1.1", "-H", "Expect:"], &["--http2"]] {
        let started = std::time::Instant::now();
        let common = ["-o", "/dev/null", "-w", "%{http_code}", "-T", file.to_str().unwrap(), &url];
        assert_eq!(curl(&[&common[..], more].concat()).await.stdout.trim(), "413", "{more:?}");
        assert!(started.elapsed() < Duration::from_secs(20), "the gigabyte was waited for");
    }
}

#[tokio::test]
async fn a_client_waits_for_the_servers_own_100() {
    let said = Arc::new(AtomicBool::new(false));
    let says = Arc::clone(&said);
    let server = backend(move |mut tcp| {
        let says = Arc::clone(&says);
        async move {
            let head = until(&mut tcp, "\r\n\r\n").await;
            assert!(head.contains("expect: 100-continue\r\n") && head.contains("content-length: 4\r\n"), "{head}");
            says.store(true, Ordering::SeqCst);
            tcp.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
                .await
                .unwrap();
            until(&mut tcp, "body").await;
            tcp.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let edge = front(&[server]).start().await;
    let mut tcp = TcpStream::connect(edge.registry).await.unwrap();
    tcp.write_all(b"PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await.unwrap();
    let answers = until(&mut tcp, "100 Continue\r\n\r\n").await;
    assert!(said.load(Ordering::SeqCst), "the edge answered itself");
    assert!(answers.starts_with("HTTP/1.1 103 "), "{answers}");
    tcp.write_all(b"body").await.unwrap();
    assert!(until(&mut tcp, "\r\n\r\n").await.starts_with("HTTP/1.1 201 "));
}

/// An upload over HTTP/2 whose length is not known ends with an empty frame, which once was written as a second end.
#[tokio::test]
async fn an_upload_that_ends_in_an_empty_frame_leaves_its_connection_clean() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&connections);
    let server = backend(move |mut tcp| {
        counting.fetch_add(1, Ordering::SeqCst);
        async move {
            let mut request = until(&mut tcp, "\r\n\r\n").await;
            if request.starts_with("PUT") {
                if !request.contains("\r\n0\r\n\r\n") {
                    request += &until(&mut tcp, "0\r\n\r\n").await;
                }
                assert!(request.contains("transfer-encoding: chunked\r\n"), "{request}");
                assert!(request.ends_with("\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), "{request:?}");
                tcp.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await.unwrap();
                // The next request, and nothing before it.
                let next = until(&mut tcp, "\r\n\r\n").await;
                assert!(next.starts_with("GET /next HTTP/1.1\r\n"), "{next:?}");
            }
            tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext").await.unwrap();
        }
    })
    .await;
    let edge = secure(front(&[server])).start().await;
    let url = format!("https://localhost:{}", edge.registry.port());
    let upload = format!(
        "printf hello | curl -sk --noproxy '*' --http2 -T - -o /dev/null -w '%{{http_code}} ' {url}/up \
                          --next -sk --noproxy '*' --http2 {url}/next"
    );
    let mut command = Command::new("sh");
    command.args(["-c", &upload]);
    assert_eq!(run(command, Duration::from_secs(60)).await.expect_success().stdout.trim(), "201 next");
    assert_eq!(connections.load(Ordering::SeqCst), 1, "the connection was used again");
}

#[tokio::test]
async fn an_upgraded_connection_goes_both_ways_until_one_side_ends() {
    let server = backend(|mut tcp| async move {
        let head = until(&mut tcp, "\r\n\r\n").await;
        assert!(head.contains("connection: upgrade\r\nupgrade: websocket\r\n"), "{head}");
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nwelcome";
        tcp.write_all(answer).await.unwrap();
        let (mut from, mut to) = tcp.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.write_all(b"bye").await;
    })
    .await;
    let edge = front(&[server]).start().await;
    let mut tcp = TcpStream::connect(edge.registry).await.unwrap();
    tcp.write_all(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await.unwrap();
    let answer = until(&mut tcp, "welcome").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    for word in ["one", "two", "three"] {
        tcp.write_all(word.as_bytes()).await.unwrap();
        assert_eq!(until(&mut tcp, word).await, word);
    }
    tcp.shutdown().await.unwrap();
    assert_eq!(rest(&mut tcp).await, "bye");
    let line = edge.logged("the upgraded request", |line| line["path"] == "/ws").await;
    assert_eq!((line["status"].as_u64(), line["bytes"].as_u64()), (Some(101), Some(21)));
}

#[tokio::test]
async fn nobody_upgrades_to_http2_past_the_edge() {
    let server = backend(|mut tcp| async move {
        let head = until(&mut tcp, "\r\n\r\n").await.to_ascii_lowercase();
        let answer = match head.contains("upgrade") || head.contains("http2-settings") {
            true => "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
            false => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        };
        tcp.write_all(answer.as_bytes()).await.unwrap();
        rest(&mut tcp).await;
    })
    .await;
    let edge = front(&[server]).start().await;
    let url = format!("http://{}/", edge.registry);
    let output = curl(&["--http2", &url]).await.expect_success();
    assert_eq!(output.stdout, "hello");
}

#[tokio::test]
async fn a_client_that_stops_in_its_body_is_told_and_let_go() {
    let server = backend(|mut tcp| async move { drop(rest(&mut tcp).await) }).await;
    let edge = front(&[server]).set("/listeners/0/body_timeout", "200ms").start().await;
    let begun = std::time::Instant::now();
    let answer = exchange(&edge, b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello").await;
    assert!(
        answer.starts_with("HTTP/1.1 408 ") && answer.to_ascii_lowercase().contains("connection: close"),
        "{answer}"
    );
    assert!(begun.elapsed() < Duration::from_secs(8), "let go after {:?}", begun.elapsed());
}

/// A client wants another protocol.
const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";

/// And its server agrees.
async fn agree(tcp: &mut TcpStream) {
    until(tcp, "\r\n\r\n").await;
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n";
    tcp.write_all(answer).await.unwrap();
}

#[tokio::test]
async fn a_silent_upgraded_connection_ends() {
    let server = backend(|mut tcp| async move {
        agree(&mut tcp).await;
        rest(&mut tcp).await;
    })
    .await;
    let edge = front(&[server]).set("/listeners/0/tunnel_timeout", "500ms").start().await;
    let answer = exchange(&edge, UPGRADE).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
}

/// A listener's other patience is for connections that wait for requests.
#[tokio::test]
async fn an_upgraded_connection_may_be_silent_for_longer_than_others_may_be_idle() {
    let server = backend(|mut tcp| async move {
        agree(&mut tcp).await;
        until(&mut tcp, "late").await;
        tcp.write_all(b"heard").await.unwrap();
    })
    .await;
    let edge = front(&[server]).set("/listeners/0/idle_timeout", "200ms").start().await;
    let mut client = TcpStream::connect(edge.registry).await.unwrap();
    client.write_all(UPGRADE).await.unwrap();
    until(&mut client, "\r\n\r\n").await;
    // Another connection shows that the time in which one may be idle has passed.
    assert_eq!(exchange(&edge, b"").await, "");
    client.write_all(b"late").await.unwrap();
    assert_eq!(until(&mut client, "heard").await, "heard");
}

/// The operator's first question: who failed, and how. The client is told neither.
#[tokio::test]
async fn why_there_is_no_answer_is_in_the_log() {
    let (silent, broken) = (
        backend(|mut tcp| async move { drop(rest(&mut tcp).await) }).await,
        backend(|mut tcp| async move {
            until(&mut tcp, "\r\n\r\n").await;
            tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await.unwrap();
        })
        .await,
    );
    let keys = Setup::front();
    let (cert, key, _) = certificate(keys.dir.path(), &["localhost"]);
    let (cert, key) = (cert.display(), key.display());
    let tls = format!("server {{ listen 127.0.0.1:@PORT@ ssl; ssl_certificate {cert}; ssl_certificate_key {key}; }}");
    let stranger = Server::nginx(1, &tls).await;
    let closed: SocketAddr = (Ipv4Addr::LOCALHOST, 1).into();
    for (server, more, status, retries, error) in [
        (closed, json!({}), 503, 2, "refused"),
        (stranger.address(), json!({ "tls": {} }), 503, 2, "certificate"),
        (silent, json!({ "first_byte_timeout": "300ms" }), 504, 0, "silent for too long"),
        (broken, json!({}), 200, 0, "within its answer"),
    ] {
        let mut pool = json!({ "name": "web", "servers": [server.to_string()], "retries": 2 });
        pool.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let edge = Setup::front().pool(pool).set("/listeners/0/pool", "web").start().await;
        let answer = exchange(&edge, b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let line = edge.logged("the request", |line| line["path"] == "/x").await;
        assert_eq!(line["server"], server.to_string(), "{line}");
        assert_eq!(line["retries"].as_u64().unwrap_or_default(), retries, "{line}");
        let told = line["error"].as_str().unwrap_or_default();
        assert!(told.contains(error), "{line}");
        assert!(!answer.contains(told) && !answer.contains(&server.to_string()), "{answer}");
    }
}

/// Also where no registry is served, a client hears which pool failed and how.
#[tokio::test]
async fn a_server_that_breaks_off_is_told_with_its_pool() {
    for (answer, expected) in [
        ("", "the pool web: the server closed the connection without an answer"),
        ("HTTP/1.1 200 OK\r\nContent-", "the pool web: the server closed the connection within its answer"),
        ("220 smtp.example ESMTP\r\n\r\n", "the pool web sent an invalid answer: not an HTTP/1 answer"),
    ] {
        let server = says(answer).await;
        let edge = front(&[server]).start().await;
        let reply = reply(edge.client().request(Method::POST, "/v2/team/app/blobs/uploads/").body("x")).await.unwrap();
        let said = String::from_utf8_lossy(&reply.body);
        assert!(reply.status == 502 && said.contains(expected), "{answer:?}: {said}");
        assert!(!said.contains(&server.to_string()), "{said}");
    }
}

#[tokio::test]
async fn an_answer_that_can_be_read_in_two_ways_reaches_nobody() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n",
        "HTTP/1.1 200 OK\r\n Folded: 1\r\n\r\n",
        "220 smtp.example ESMTP\r\n\r\n",
        "",
    ] {
        let server = says(answer).await;
        let edge = front(&[server]).start().await;
        let reply = edge.client().get("/v2/").await;
        assert_eq!(reply.status, 502, "{answer:?}");
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(body["errors"][0]["code"], "UNAVAILABLE", "{body}");
    }
}

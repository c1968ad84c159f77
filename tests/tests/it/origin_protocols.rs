//! HTTP/1.1 and HTTP/2, in TLS and without it; certificates that are replaced.

use std::time::Duration;

use pierhead_tests::origin::Setup;
use pierhead_tests::server::certificate;
use reqwest::{Certificate, ClientBuilder, Version};
use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn client() -> ClientBuilder {
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).pool_max_idle_per_host(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_are_spoken_without_tls() {
    let origin = Setup::new().start().await;
    let url = format!("{}/health/instance", origin.url());
    for (client, version) in
        [(client().http1_only(), Version::HTTP_11), (client().http2_prior_knowledge(), Version::HTTP_2)]
    {
        let answer = client.build().unwrap().get(&url).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
    }
    origin.logged("HTTP/2 in the log", |line| line["protocol"] == "HTTP/2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_names_one_host() {
    let origin = Setup::new().start().await;
    for (request, expected) in [
        ("GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 401"),
        ("GET /v2/ HTTP/1.0\r\n\r\n", "HTTP/1.0 401"),
        ("GET /v2/ HTTP/1.1\r\n\r\n", "HTTP/1.1 400"),
        ("GET /v2/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "HTTP/1.1 400"),
    ] {
        let mut tcp = TcpStream::connect(origin.registry).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; expected.len()];
        tcp.read_exact(&mut answer).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), expected, "{request:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_while_it_serves() {
    let setup = Setup::new();
    let (cert, key, first) = certificate(setup.dir.path(), &["localhost"]);
    let mut origin = setup.set("/listener/tls", json!({ "cert": cert, "key": key })).start().await;
    let url = format!("https://localhost:{}/health/instance", origin.registry.port());
    let trusting = |pem: &str| {
        let authority = Certificate::from_pem(pem.as_bytes()).unwrap();
        client().tls_certs_only([authority]).build().unwrap()
    };
    let answer = trusting(&first).get(&url).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_2));

    let mark = origin.log().len();
    let (_, _, second) = certificate(origin.dir(), &["localhost"]);
    origin.signal(Signal::HUP);
    origin.says(mark, "certificate reloaded").await;
    assert!(trusting(&first).get(&url).send().await.is_err());
    assert_eq!(trusting(&second).get(&url).send().await.unwrap().status().as_u16(), 200);

    let mark = origin.log().len();
    std::fs::write(&cert, "no certificate").unwrap();
    origin.signal(Signal::HUP);
    origin.says(mark, "the new certificate cannot be used; the one before serves on").await;
    assert_eq!(trusting(&second).get(&url).send().await.unwrap().status().as_u16(), 200);
    let refused = origin.setup().command(&["check"]).await.expect_failure();
    assert!(
        refused.stderr.contains("listener.tls: ") && refused.stderr.contains("localhost.crt"),
        "{}",
        refused.stderr
    );
    origin.stop().await;
}

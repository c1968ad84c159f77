//! HTTP/1.1 and HTTP/2, in TLS and without it; certificates that are replaced.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pierhead_tests::origin::Setup;
use pierhead_tests::server::{certificate, certificate_from_to};
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
    let url = format!("{}/v2/", origin.url());
    for (client, version) in
        [(client().http1_only(), Version::HTTP_11), (client().http2_prior_knowledge(), Version::HTTP_2)]
    {
        let answer = client.build().unwrap().get(&url).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (401, version));
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
async fn who_ends_its_side_after_a_request_hears_the_answer() {
    let setup = Setup::new();
    setup.user("org", "password of org", &[]).await;
    let origin = setup.start().await;
    let credentials = STANDARD.encode("org:password of org");
    // A password takes a while to check.
    let request = format!("GET /v2/auth?service=x HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {credentials}\r\n\r\n");
    let mut tcp = TcpStream::connect(origin.registry).await.unwrap();
    tcp.write_all(request.as_bytes()).await.unwrap();
    tcp.shutdown().await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 "), "{answer:?}");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_out_of_its_time_is_served_and_told() {
    let setup = Setup::new();
    let (now, week) = (SystemTime::now(), Duration::from_secs(7 * 24 * 3600));
    let (cert, key, _) = certificate_from_to(setup.dir.path(), &["localhost"], now - 2 * week, now - week);
    let setup = setup.set("/listener/tls", json!({ "cert": cert, "key": key }));
    let checked = setup.command(&["check"]).await.expect_success();
    assert!(checked.stderr.contains("localhost.crt: the certificate has expired"), "{}", checked.stderr);
    let origin = setup.start().await;
    origin.says(0, "the certificate has expired").await;
    let mark = origin.log().len();
    certificate_from_to(setup.dir.path(), &["localhost"], now + week, now + 2 * week);
    origin.signal(Signal::HUP);
    origin.says(mark, "the certificate is not yet valid").await;
    let mark = origin.log().len();
    certificate(setup.dir.path(), &["localhost"]);
    origin.signal(Signal::HUP);
    origin.says(mark, "certificate reloaded").await;
    assert!(setup.command(&["check"]).await.expect_success().stderr.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_are_mended_without_a_certificate() {
    let setup = Setup::new().set("/listener/tls", json!({ "cert": "missing.crt", "key": "missing.key" }));
    setup.user("ann", "correct horse", &[]).await;
    setup.command(&["gc"]).await.expect_success();
    for command in ["check", "serve"] {
        let refused = setup.command(&[command]).await.expect_failure();
        assert!(refused.stderr.contains("listener.tls.cert: "), "{}", refused.stderr);
    }
}

//! TLS that is passed on unopened, by the name that its client asks for, and TLS that is added on the way.

use std::net::SocketAddr;

use pierhead_tests::pierhead::Setup;
use pierhead_tests::server::{Server, certificate};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::layer4::{LONG, ask_redis, passing_on};

/// A client that believes one certificate and looks up every name at one address.
fn https(address: SocketAddr, names: &[&str], certificates: &[&str]) -> reqwest::Client {
    let roots = certificates.iter().map(|pem| reqwest::Certificate::from_pem(pem.as_bytes()).unwrap());
    let mut client = reqwest::Client::builder().no_proxy().tls_certs_only(roots).timeout(LONG);
    for name in names {
        client = client.resolve(name, address);
    }
    client.build().unwrap()
}

#[tokio::test]
async fn tls_is_passed_through_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["one.example.com", "two.example.com", "own.example.org", "other.example.org"];
    let [one, two, own] = [0, 1, 2].map(|index| certificate(folder.path(), &names[index..=index]));
    let server = |port: &str, files: &(std::path::PathBuf, std::path::PathBuf, String), says: &str| {
        let (cert, key) = (files.0.display(), files.1.display());
        format!(
            "server {{ listen 127.0.0.1:{port} ssl http2; ssl_certificate {cert}; ssl_certificate_key {key}; return 200 {says}; }}\n"
        )
    };
    let nginx = Server::nginx(2, &(server("@PORT@", &one, "one") + &server("@PORT1@", &two, "two"))).await;
    let redis = Server::redis(&[]).await;
    let routes = json!([
        { "names": ["one.example.com"], "pool": "one" },
        { "names": ["*.example.com"], "pool": "two" },
    ]);
    let edge = Setup::new()
        .registry("upstream.example", "http://127.0.0.1:9")
        .set("/listeners/0/tls", json!({ "certificates": [{ "cert": own.0, "key": own.1 }] }))
        .set("/listeners/0/sni", routes.clone())
        .with("listeners", json!({ "name": "strict", "bind": "127.0.0.1:0", "mode": "tcp", "sni": routes.clone() }))
        .with(
            "listeners",
            json!({ "name": "lenient", "bind": "127.0.0.1:0", "mode": "tcp", "sni": routes, "pool": "redis" }),
        )
        .pool(json!({ "name": "one", "servers": [nginx.addresses[0].to_string()] }))
        .pool(json!({ "name": "two", "servers": [nginx.addresses[1].to_string()] }))
        .pool(json!({ "name": "redis", "servers": [redis.address().to_string()] }))
        .start()
        .await;
    for listener in ["registry", "strict", "lenient"] {
        let client = https(edge.address(listener), &names, &[&one.2, &two.2, &own.2]);
        for says in ["one", "two"] {
            let answer = client.get(format!("https://{says}.example.com/")).send().await.unwrap();
            assert_eq!(answer.version(), reqwest::Version::HTTP_2, "{listener}");
            assert_eq!(answer.text().await.unwrap(), says, "{listener}");
        }
    }
    // What has no route is served here, or by the pool for all else, or is told that nobody has its name.
    let client = https(edge.registry, &names, &[&own.2]);
    let answer = client.get("https://own.example.org/health/instance").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut plain = TcpStream::connect(edge.address("lenient")).await.unwrap();
    ask_redis(&mut plain, "PING\r\n", "+PONG\r\n").await;
    let client = https(edge.address("strict"), &names, &[&own.2]);
    let error = format!("{:?}", client.get("https://other.example.org/").send().await.unwrap_err());
    assert!(error.contains("UnrecognisedName"), "{error}");
    let mut plain = TcpStream::connect(edge.address("strict")).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: one.example.com\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // It may see a reset: what it sent is not read to its end.
    drop(timeout(LONG, plain.read_to_end(&mut answer)).await.expect("the connection stays open"));
    assert_eq!(answer, b"");
    let refused = [("listener", "strict"), ("reason", "sni")];
    edge.metric_until("pierhead_refusals_total", &refused, |refused| refused == 2.0).await;
}

#[tokio::test]
async fn a_client_that_does_not_say_what_it_wants_is_let_go() {
    let redis = Server::redis(&[]).await;
    let setup = passing_on(&[redis.address()])
        .set("/listeners/0/sni", json!([{ "names": ["a.example"], "pool": "servers" }]))
        .set("/listeners/0/header_timeout", "200ms");
    let edge = setup.start().await;
    let mut client = TcpStream::connect(edge.registry).await.unwrap();
    client.write_all(b"\x16\x03\x01").await.unwrap();
    drop(timeout(LONG, client.read_u8()).await.expect("the connection stays open"));
    edge.metric_until("pierhead_refusals_total", &[("reason", "hello")], |refused| refused == 1.0).await;
}

#[tokio::test]
async fn tls_may_be_added_on_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key, _) = certificate(folder.path(), &["server.example"]);
    let nginx = Server::nginx(
        1,
        &format!(
            "server {{ listen 127.0.0.1:@PORT@ ssl; ssl_certificate {}; ssl_certificate_key {}; return 200 $ssl_server_name; }}",
            cert.display(),
            key.display()
        ),
    )
    .await;
    let edge = passing_on(&[nginx.address()])
        .set("/pools/0/tls", json!({ "ca": cert, "sni": "server.example" }))
        .start()
        .await;
    let answer = reqwest::Client::builder().no_proxy().build().unwrap().get(edge.url()).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "server.example");
}

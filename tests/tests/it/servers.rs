//! What servers behind the edge learn and ask for before the first request: the PROXY header, TLS by name, certificates of
//! both sides. nginx is the strict one of them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pierhead_tests::dns::NameServer;
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::server::{Server, certificate};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(20);

/// An edge whose listener forwards to this pool.
fn front(pool: Value) -> Setup {
    Setup::front().set("/listeners/0/pool", pool["name"].as_str().unwrap()).pool(pool)
}

/// A request over a connection that is kept; the body of its answer.
async fn ask(client: &mut TcpStream) -> String {
    client.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    loop {
        assert!(timeout(LONG, client.read_buf(&mut answer)).await.expect("no answer").unwrap() > 0);
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.split_once("content-length: ").unwrap().1.split("\r\n").next().unwrap();
            if body.len() == length.parse::<usize>().unwrap() {
                assert!(head.starts_with("http/1.1 200"), "{head}");
                return body.to_owned();
            }
        }
    }
}

#[tokio::test]
async fn servers_learn_the_client_by_a_proxy_header() {
    let nginx = Server::nginx(
        1,
        "server { listen 127.0.0.1:@PORT@ proxy_protocol; \
         location / { return 200 \"$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_port\"; } }",
    )
    .await;
    for version in ["v1", "v2"] {
        let pool = json!({ "name": "web", "servers": [nginx.address().to_string()], "send_proxy": version });
        let edge = front(pool).start().await;
        let port = edge.registry.port();
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(TcpStream::connect(edge.registry).await.unwrap());
        }
        // In turn: were a connection kept, the next client would be taken for the one before.
        for _ in 0..3 {
            for client in &mut clients {
                let expected = format!("{} {port}", client.local_addr().unwrap());
                assert_eq!(ask(client).await, expected, "{version}");
            }
        }
        assert_eq!(edge.metric("pierhead_server_errors_total", &[("pool", "web")]).await, 0.0);
    }
}

/// An authority, and certificates that it gave to a server of this name and to a client; all files.
struct Authority {
    ca: PathBuf,
    server: [PathBuf; 2],
    client: [PathBuf; 2],
}

impl Authority {
    fn new(dir: &Path, name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("authority of {name}"));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let write = |file: &str, text: String| {
            let path = dir.join(file);
            std::fs::write(&path, text).unwrap();
            path
        };
        let give = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            let certificate = params.signed_by(&key, &issuer).unwrap();
            [write(&format!("{name}.crt"), certificate.pem()), write(&format!("{name}.key"), key.serialize_pem())]
        };
        Authority {
            server: give(name),
            client: give(&format!("edge.{name}")),
            ca: write(&format!("{name}.ca"), issuer.pem()),
        }
    }
}

/// The status of a request, and its body.
async fn get(edge: &Pierhead) -> (u16, String) {
    let reply = edge.client().get("/").await;
    (reply.status, String::from_utf8(reply.body.to_vec()).unwrap())
}

#[tokio::test]
async fn servers_are_verified_and_shown_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let own = Authority::new(folder.path(), "quay.test");
    let other = Authority::new(folder.path(), "other.test");
    let nginx = Server::nginx(
        1,
        &format!(
            "server {{ listen 127.0.0.1:@PORT@ ssl; ssl_certificate {}; ssl_certificate_key {}; \
             ssl_client_certificate {}; ssl_verify_client optional; \
             location / {{ return 200 \"$ssl_server_name $ssl_client_verify $ssl_client_s_dn\"; }} }}",
            own.server[0].display(),
            own.server[1].display(),
            own.ca.display(),
        ),
    )
    .await;
    let shows = |pair: &[PathBuf; 2]| json!({ "cert": pair[0], "key": pair[1] });
    for (tls, expected) in [
        (json!({ "ca": own.ca, "sni": "quay.test" }), Some("quay.test NONE ")),
        (
            json!({ "ca": own.ca, "sni": "quay.test", "client_certificate": shows(&own.client) }),
            Some("quay.test SUCCESS CN=edge.quay.test"),
        ),
        (json!({ "sni": "quay.test", "verify": false }), Some("quay.test NONE ")),
        (json!({ "ca": own.ca, "sni": "wrong.test" }), None),
        (json!({ "ca": other.ca, "sni": "quay.test" }), None),
        (json!({ "sni": "quay.test" }), None),
    ] {
        let pool = json!({ "name": "web", "servers": [nginx.address().to_string()], "tls": tls, "retries": 0 });
        let edge = front(pool).start().await;
        let (status, body) = get(&edge).await;
        let of_tls = edge.metric("pierhead_server_errors_total", &[("pool", "web"), ("kind", "tls")]).await;
        let of_all = edge.metric("pierhead_server_errors_total", &[("pool", "web")]).await;
        match expected {
            Some(expected) => assert_eq!((status, body.as_str(), of_all), (200, expected, 0.0), "{tls}"),
            None => assert_eq!((status, of_tls, of_all), (503, 1.0, 1.0), "{tls}: {body}"),
        }
    }
    // One whose certificate nginx does not believe is told so by nginx.
    let tls = json!({ "ca": own.ca, "sni": "quay.test", "client_certificate": shows(&other.client) });
    let edge = front(json!({ "name": "web", "servers": [nginx.address().to_string()], "tls": tls })).start().await;
    let (status, body) = get(&edge).await;
    assert!(status == 400 && body.contains("SSL certificate error"), "{status} {body}");
}

#[tokio::test]
async fn servers_at_one_address_are_told_apart_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let block = |name: &str| {
        let (cert, key, _) = certificate(folder.path(), &[name]);
        format!(
            "server {{ listen 127.0.0.1:@PORT@ ssl; server_name {name}; ssl_certificate {}; ssl_certificate_key {}; \
             location / {{ return 200 \"$ssl_server_name\"; }} }}\n",
            cert.display(),
            key.display(),
        )
    };
    // The edge keeps the client's Host, which chooses the block: it is the connection's own name that counts here.
    let nginx = Server::nginx(1, &[block("a.test"), block("b.test")].concat()).await;
    let both = folder.path().join("both.ca");
    let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    std::fs::write(&both, text("a.test.crt") + &text("b.test.crt")).unwrap();
    let names = NameServer::start().await;
    names.set(&[("a.test", "127.0.0.1"), ("b.test", "127.0.0.1")]);
    let address: SocketAddr = nginx.address();
    let servers = ["a.test", "b.test"].map(|name| format!("{name}:{}", address.port()));
    let pool = json!({
        "name": "web", "servers": servers, "tls": { "ca": both },
        "dns": { "servers": [names.address().to_string()] },
    });
    let edge = front(pool).start().await;
    let mut seen = Vec::new();
    for _ in 0..6 {
        let (status, body) = get(&edge).await;
        assert_eq!(status, 200, "{body}");
        seen.push(body);
    }
    assert_eq!(seen[..2], seen[2..4], "{seen:?}");
    seen.sort();
    assert_eq!(seen, ["a.test", "a.test", "a.test", "b.test", "b.test", "b.test"]);
    assert!(edge.metric("pierhead_server_reused_connections_total", &[("pool", "web")]).await > 0.0);
}

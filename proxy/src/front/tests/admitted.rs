//! Who is let in: load balancers with their word on clients, and no client too often.

use std::time::Duration;

use pierhead_config::{HttpListener, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{LONG, http, settings, speaking, start, start_trusting, start_with, until};

#[tokio::test]
async fn a_load_balancer_says_who_its_client_is() {
    let running = start(pierhead_config::Listener { accept_proxy: true, ..settings() }).await;
    let request = b"GET /client HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = running.exchange(&[b"PROXY TCP4 192.0.2.1 198.51.100.7 4000 443\r\n", &request[..]].concat()).await;
    assert!(answer.ends_with("192.0.2.1:4000 127.0.0.1 198.51.100.7:443"), "{answer}");
    let answer = running.exchange(&[b"PROXY UNKNOWN\r\n", &request[..]].concat()).await;
    assert!(answer.contains("\r\n\r\n127.0.0.1:") && answer.contains(&running.address.to_string()), "{answer}");
    assert_eq!(running.exchange(request).await, "");
    assert!(running.refused("proxy_header", 1));
}

#[tokio::test]
async fn nobody_else_may_say_so() {
    let settings = pierhead_config::Listener { accept_proxy: true, ..settings() };
    let running = start_trusting(settings, &Limits::default(), "192.0.2.0/24").await;
    let mut client = running.connect().await;
    // May be reset before it is written.
    drop(client.write_all(b"PROXY UNKNOWN\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").await);
    let mut answer = Vec::new();
    drop(timeout(LONG, client.read_to_end(&mut answer)).await.expect("the connection stays open"));
    assert!(answer.is_empty());
    assert!(running.refused("untrusted", 1));
}

#[tokio::test]
async fn a_proxy_header_has_a_time() {
    let http = HttpListener { header_timeout: Duration::from_millis(100), ..http() };
    let running = start(pierhead_config::Listener { accept_proxy: true, ..speaking(http) }).await;
    assert_eq!(running.exchange(b"PROXY TCP4 192.").await, "");
    assert!(running.refused("proxy_header", 1));
}

#[tokio::test]
async fn a_client_has_a_number_of_connections() {
    let limits = Limits { max_connections_per_client: Some(1), ..Limits::default() };
    let running = start_with(pierhead_config::Listener { accept_proxy: true, ..settings() }, &limits).await;
    let request = |client: &str, path: &str| {
        format!("PROXY TCP4 {client} 198.51.100.7 4000 443\r\nGET {path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
    };
    let mut first = running.connect().await;
    first.write_all(&request("192.0.2.1", "/first")).await.unwrap();
    until(&mut first, "/first").await;
    assert_eq!(running.exchange(&request("192.0.2.1", "/second")).await, "");
    let mut other = running.connect().await;
    other.write_all(&request("192.0.2.2", "/other")).await.unwrap();
    until(&mut other, "/other").await;
    assert!(running.refused("connections", 1));
    drop(first);
    let freed = async {
        loop {
            let mut again = running.connect().await;
            again.write_all(&request("192.0.2.1", "/again")).await.unwrap();
            if again.read_u8().await.is_ok() {
                return;
            }
        }
    };
    timeout(LONG, freed).await.expect("its place is not freed");
}

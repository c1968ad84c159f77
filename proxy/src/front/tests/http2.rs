//! TLS and HTTP/2 as clients meet them.

use std::time::Duration;

use pierhead_config::HttpListener;
use tokio::time::timeout;

use super::{LONG, https, speaking, start};
use crate::front::Phase;

#[tokio::test]
async fn https_speaks_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, _) = https(folder.path());
    drop(settings);
    for (version, http1) in [(http::Version::HTTP_2, false), (http::Version::HTTP_11, true)] {
        let (settings, client) = https(folder.path());
        let running = start(speaking(settings)).await;
        let client = if http1 { client.http1_only() } else { client }.build().unwrap();
        for path in ["/one", "/two"] {
            let url = format!("https://localhost:{}{path}", running.address.port());
            let answer = client.get(url).send().await.unwrap();
            assert_eq!(answer.version(), version);
            assert_eq!(answer.text().await.unwrap(), path);
        }
    }
}

#[tokio::test]
async fn http2_drains_and_shows_what_broke_off() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, client) = https(folder.path());
    let running = start(speaking(settings)).await;
    let client = client.build().unwrap();
    let url = |path: &str| format!("https://localhost:{}{path}", running.address.port());
    for path in ["/broken", "/panic"] {
        let broken = client.get(url(path)).send().await;
        let body = match broken {
            Ok(answer) => answer.bytes().await,
            Err(error) => Err(error),
        };
        assert!(body.is_err(), "{path} looks complete");
    }
    let slow = tokio::spawn(client.get(url("/slow")).send());
    running.echo.reached.notified().await;
    running.drain.advance(Phase::Draining);
    running.echo.go_on.notify_one();
    let answer = slow.await.unwrap().unwrap();
    assert_eq!(answer.text().await.unwrap(), "/slow");
    assert_eq!(running.drain.wait(LONG).await, 0);
}

#[tokio::test]
async fn http2_requests_that_are_given_up_have_a_number() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, client) = https(folder.path());
    let running = start(speaking(settings)).await;
    let client = client.build().unwrap();
    let url = format!("https://localhost:{}/slow", running.address.port());
    let refused = || String::from_utf8(running.metrics.render().unwrap()).unwrap().contains("reason=\"abandoned\"");
    for number in 0..2000 {
        // Dropping an answer that has begun resets its stream.
        drop(timeout(LONG, client.get(&url).send()).await.unwrap());
        if number % 100 == 0 && refused() {
            return;
        }
    }
    panic!("2000 requests that nobody waits for are being answered on one connection");
}

#[tokio::test]
async fn http2_connections_without_requests_end() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, client) = https(folder.path());
    let running = start(speaking(HttpListener { idle_timeout: Duration::from_millis(100), ..settings })).await;
    let client = client.pool_max_idle_per_host(1).build().unwrap();
    let url = format!("https://localhost:{}/one", running.address.port());
    client.get(&url).send().await.unwrap().text().await.unwrap();
    running.drain.advance(Phase::Leaving);
    // Only the accept loop is left once the connection has ended.
    let ended = async {
        while running.drain.running() > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, ended).await.expect("the idle connection stays open");
    drop(client);
}

#[tokio::test]
async fn tls_handshakes_have_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, _) = https(folder.path());
    let running = start(speaking(HttpListener { header_timeout: Duration::from_millis(100), ..settings })).await;
    assert_eq!(running.exchange(b"\x16\x03\x01").await, "");
}

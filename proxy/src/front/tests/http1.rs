//! HTTP/1 as clients meet it: what bounds them, and what they see of an end.

use std::time::Duration;

use pierhead_config::HttpListener;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{LONG, get, http, rest, settings, speaking, start, until};
use crate::front::Phase;

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let running = start(settings()).await;
    let mut client = running.connect().await;
    for path in ["/one", "/two", "/three"] {
        client.write_all(&get(path)).await.unwrap();
        let answer = until(&mut client, path).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    client.write_all(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(rest(&mut client).await.ends_with("/last"));
}

#[tokio::test]
async fn requests_may_arrive_together_or_in_pieces_with_small_bodies() {
    let running = start(settings()).await;
    let mut client = running.connect().await;
    let body = b"\r\nPOST /two HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    client.write_all(&[&get("/one")[..], body, &get("/three")[..30 - 12]].concat()).await.unwrap();
    assert!(until(&mut client, "/two").await.contains("/one"));
    client.write_all(&get("/three")[30 - 12..]).await.unwrap();
    until(&mut client, "/three").await;
}

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_refused_and_closed() {
    let running = start(settings()).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        ("\r\n\r\n\r\n\r\n", 400),
    ] {
        let answer = running.exchange(request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer:?}");
        assert!(answer.contains("Connection: close"), "{request:?}");
    }
    let metrics = String::from_utf8(running.metrics.render().unwrap()).unwrap();
    assert!(metrics.contains("pierhead_refusals_total{listener=\"registry\",reason=\"malformed\"} 9"), "{metrics}");
}

#[tokio::test]
async fn a_header_has_a_size() {
    let running = start(settings()).await;
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Large: {}", "x".repeat(5000));
    for end in ["", "\r\n\r\n"] {
        let answer = running.exchange(format!("{large}{end}").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    }
}

#[tokio::test]
async fn a_header_has_a_time_however_it_drips() {
    let running = start(speaking(HttpListener { header_timeout: Duration::from_millis(300), ..http() })).await;
    let mut client = running.connect().await;
    let (mut reader, mut writer) = client.split();
    let drip = async {
        loop {
            if writer.write_all(b"GET").await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut answer = [0; 12];
    tokio::select! {
        () = drip => unreachable!(),
        read = timeout(LONG, reader.read_exact(&mut answer)) => { read.unwrap().unwrap(); }
    }
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn a_silent_connection_is_closed_without_a_word() {
    let running = start(speaking(HttpListener { idle_timeout: Duration::from_millis(100), ..http() })).await;
    assert_eq!(running.exchange(b"").await, "");
    let answer = running.exchange(&get("/one")).await;
    assert!(answer.ends_with("/one"), "{answer}");
}

#[tokio::test]
async fn a_large_body_is_not_read_but_the_answer_arrives() {
    let running = start(settings()).await;
    let mut client = running.connect().await;
    client.write_all(b"PUT /blob HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").await.unwrap();
    client.write_all(&[0; 100_000]).await.unwrap();
    let answer = rest(&mut client).await;
    assert!(answer.contains("Connection: close") && answer.ends_with("/blob"), "{answer}");
}

#[tokio::test]
async fn a_body_belongs_to_the_application_and_has_a_time() {
    let running = start(speaking(HttpListener { body_timeout: Duration::from_millis(100), ..http() })).await;
    let put = |framing: &str| format!("PUT /body HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
    let mut client = running.connect().await;
    for _ in 0..2 {
        client.write_all(put("Content-Length: 5").as_bytes()).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        until(&mut client, "\r\n\r\nhello").await;
        client.write_all(put("Transfer-Encoding: chunked").as_bytes()).await.unwrap();
        client.write_all(b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n").await.unwrap();
        until(&mut client, "\r\n\r\nhello").await;
    }
    for (framing, part) in [("Content-Length: 5", "hel"), ("Transfer-Encoding: chunked", "5\r\nhel")] {
        let begun = std::time::Instant::now();
        assert_eq!(running.exchange(format!("{}{part}", put(framing)).as_bytes()).await, "");
        assert!(begun.elapsed() < LONG / 2, "{framing}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_ends_its_connection() {
    let running = start(settings()).await;
    for path in ["/broken", "/panic"] {
        let answer = running.exchange(&get(path)).await;
        assert!(answer.ends_with("\r\n\r\n/"), "{path}: {answer}");
    }
    assert!(running.exchange(b"GET /well HTTP/1.0\r\n\r\n").await.ends_with("/well"));
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let running = start(pierhead_config::Listener { max_connections: 1, ..settings() }).await;
    let mut first = running.connect().await;
    first.write_all(&get("/slow")).await.unwrap();
    running.echo.reached.notified().await;
    let mut second = running.connect().await;
    second.write_all(&get("/second")).await.unwrap();
    assert!(timeout(Duration::from_millis(100), second.read_u8()).await.is_err(), "served beyond the limit");
    running.echo.go_on.notify_one();
    until(&mut first, "/slow").await;
    drop(first);
    until(&mut second, "/second").await;
}

#[tokio::test]
async fn a_drain_lets_requests_finish_and_closes_the_rest() {
    let running = start(settings()).await;
    let (mut idle, mut busy) = (running.connect().await, running.connect().await);
    idle.write_all(&get("/idle")).await.unwrap();
    until(&mut idle, "/idle").await;
    busy.write_all(&get("/slow")).await.unwrap();
    running.echo.reached.notified().await;
    running.drain.advance(Phase::Draining);
    assert_eq!(rest(&mut idle).await, "");
    assert!(TcpStream::connect(running.address).await.is_err() || running.drain.wait(Duration::ZERO).await > 0);
    running.echo.go_on.notify_one();
    assert!(rest(&mut busy).await.ends_with("/slow"));
    assert_eq!(running.drain.wait(LONG).await, 0);
    assert!(TcpStream::connect(running.address).await.is_err());
}

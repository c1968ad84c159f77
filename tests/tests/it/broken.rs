//! Requests and answers that break off within, and clients of old that know an answer's end by nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pierhead_tests::eventually;
use pierhead_tests::raw::{LONG, backend, curl, exchange, front, rest, says, secure, until};
use pierhead_tests::server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

#[tokio::test]
async fn a_broken_chunk_is_refused_and_its_connection_ends() {
    let arrived = Arc::new(Semaphore::new(0));
    let arrives = Arc::clone(&arrived);
    let server = backend(move |mut tcp| {
        let arrives = Arc::clone(&arrives);
        async move {
            until(&mut tcp, "\r\n\r\n").await;
            arrives.add_permits(1);
            rest(&mut tcp).await;
        }
    })
    .await;
    let edge = front(&[server]).start().await;
    for (first, then) in [("", "x\r\n"), ("5\r\nhello\r\n", "5\nhello\r\n"), ("5\r\nhel", "lo!\r\n")] {
        let mut tcp = TcpStream::connect(edge.registry).await.unwrap();
        let head = "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        tcp.write_all(format!("{head}{first}").as_bytes()).await.unwrap();
        // What is wrong right behind the header is seen with it, and refused in another place.
        arrived.acquire().await.unwrap().forget();
        tcp.write_all(then.as_bytes()).await.unwrap();
        let answer = rest(&mut tcp).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.matches("HTTP/1.1").count() == 1, "{answer:?}");
    }
    let refused = |line: &serde_json::Value| line["status"] == 400;
    let line = edge.logged("a refusal", refused).await;
    assert_eq!((line["pool"].as_str(), line["reason"].as_str()), (Some("web"), Some("forwarded")));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_never_whole() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n",
    ] {
        let server = says(answer).await;
        let edge = secure(front(&[server])).start().await;
        let url = format!("https://localhost:{}/x", edge.registry.port());
        for http in ["--http1.1", "--http2"] {
            let output = curl(&[http, &url]).await;
            assert!(!output.success, "{http} {answer:?}: {}", output.stdout);
        }
        let line = edge.logged("the request", |line| line["path"] == "/x").await;
        assert_eq!(line["aborted"], true);
    }
}

#[tokio::test]
async fn a_client_that_goes_away_costs_its_server_no_more() {
    let (began, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (Arc::clone(&began), Arc::clone(&ended));
    let server = backend(move |mut tcp| {
        let (began, ended) = (Arc::clone(&counts.0), Arc::clone(&counts.1));
        async move {
            let head = until(&mut tcp, "\r\n\r\n").await;
            if head.starts_with("GET /body") {
                tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello").await.unwrap();
            }
            began.fetch_add(1, Ordering::SeqCst);
            rest(&mut tcp).await;
            ended.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let edge = front(&[server]).start().await;
    for (number, request) in [
        "GET /header HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /body HTTP/1.1\r\nHost: a\r\n\r\n",
        "PUT /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhello",
    ]
    .into_iter()
    .enumerate()
    {
        let mut tcp = TcpStream::connect(edge.registry).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        eventually("the server has it", LONG, async || (began.load(Ordering::SeqCst) > number).then_some(())).await;
        drop(tcp);
        eventually("the server is let go", LONG, async || (ended.load(Ordering::SeqCst) > number).then_some(())).await;
    }
    assert_eq!(edge.logged("499", |line| line["path"] == "/header").await["status"], 499);
}

#[tokio::test]
async fn old_clients_get_answers_they_understand() {
    let server = backend(|mut tcp| async move {
        until(&mut tcp, "\r\n\r\n").await;
        let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        tcp.write_all(answer).await.unwrap();
    })
    .await;
    let edge = front(&[server]).start().await;
    let answer = exchange(&edge, b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    let lower = answer.to_ascii_lowercase();
    assert!(answer.starts_with("HTTP/1.") && answer.contains(" 200 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\nhello") && !lower.contains("transfer-encoding"), "{answer}");
}

/// Where only the end of the connection tells the end of the answer, an ordinary end would make half of it the whole.
#[tokio::test]
async fn old_clients_see_that_an_answer_broke_off() {
    let server = backend(|mut tcp| async move {
        until(&mut tcp, "\r\n\r\n").await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await.unwrap();
    })
    .await;
    let edge = front(&[server]).start().await;
    let mut tcp = TcpStream::connect(edge.registry).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let read = timeout(LONG, tcp.read_to_end(&mut answer)).await.expect("the connection stays open");
    assert_eq!(read.expect_err("looks complete").kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn old_clients_need_not_name_a_host() {
    let nginx = Server::nginx(1, "server { listen 127.0.0.1:@PORT@; location / { return 200 \"$http_host\"; } }").await;
    let edge = front(&[nginx.address()]).start().await;
    let answer = exchange(&edge, b"GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.contains(" 200 ") && answer.ends_with(&format!("\r\n\r\n{}", edge.registry)), "{answer}");
}

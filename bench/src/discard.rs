//! A client that costs next to nothing: it lets the kernel throw the body away (`MSG_TRUNC`), so that a hundred of them
//! on the server's own machine take little of what they measure. Plain HTTP/1.1, one request a connection.
//!
//! Invariant: a time is returned only for an answer that came whole.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;

/// Longest response header.
const HEADER: usize = 16 << 10;
/// Most bytes thrown away at a time. Memory that is never touched.
const STEP: usize = 1 << 20;

/// How long an answer took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// From connecting to the first byte of the body.
    pub(crate) first_byte: Duration,
    /// From connecting to the last byte.
    pub(crate) total: Duration,
}

/// Downloads a path, whose body must have `size` bytes.
pub(crate) async fn download(server: SocketAddr, path: &str, size: u64) -> Times {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(server).await.expect("connection");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nAccept: */*\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("request");
    let mut received = Vec::with_capacity(HEADER);
    let header = loop {
        assert!(received.len() < HEADER, "an endless header");
        assert_ne!(stream.read_buf(&mut received).await.expect("answer"), 0, "no answer: {path}");
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let length = content_length(&received[..header]);
    assert_eq!(length, Some(size), "{path}: {}", String::from_utf8_lossy(&received[..header]));
    let mut left = size - (received.len() - header) as u64;
    let mut first_byte = (received.len() > header).then(|| begun.elapsed());
    let mut nowhere = vec![0; STEP];
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(STEP).min(STEP);
        let gone = throw_away(&stream, &mut nowhere[..want]).await.expect("body");
        assert_ne!(gone, 0, "{path}: the body ended {left} bytes early");
        first_byte.get_or_insert_with(|| begun.elapsed());
        left -= gone as u64;
    }
    Times { first_byte: first_byte.unwrap_or_else(|| begun.elapsed()), total: begun.elapsed() }
}

async fn throw_away(stream: &TcpStream, nowhere: &mut [u8]) -> io::Result<usize> {
    stream
        .async_io(Interest::READABLE, || {
            let (_, received) = rustix::net::recv(stream, &mut *nowhere, RecvFlags::TRUNC)?;
            Ok(received)
        })
        .await
}

/// The length that a success announces.
pub(crate) fn content_length(header: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(header).ok()?;
    let (status, lines) = text.split_once("\r\n")?;
    if !status.starts_with("HTTP/1.1 200 ") {
        return None;
    }
    let mut fields = lines.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pierhead_tests::http::{Answer, Server};

    use super::{content_length, download};

    #[test]
    fn only_successes_have_a_length() {
        for (header, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Some(5)),
            ("HTTP/1.1 200 OK\r\nX: 1\r\ncontent-length:7\r\n\r\n", Some(7)),
            ("HTTP/1.1 206 Partial\r\nContent-Length: 5\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\n\r\n", None),
        ] {
            assert_eq!(content_length(header.as_bytes()), expected, "{header}");
        }
    }

    #[tokio::test]
    async fn a_whole_body_is_thrown_away_and_timed() {
        let size = 5 << 20;
        let server = Server::start([127, 0, 0, 1], move |_| Answer::new(200, &[], vec![7; size])).await;
        let times = download(server.address, "/x", size as u64).await;
        assert!(times.first_byte > Duration::ZERO && times.first_byte <= times.total);
    }

    #[tokio::test]
    async fn a_body_that_ends_early_is_no_measurement() {
        let server = Server::start([127, 0, 0, 1], |_| Answer::head(200, &[("Content-Length", "9")])).await;
        let address = server.address;
        assert!(tokio::spawn(async move { download(address, "/x", 9).await }).await.is_err());
    }
}

//! Plain HTTP that comes to a port of HTTPS: it gets an answer that says so, and not a closed connection.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

/// How long the client may take to read the answer.
const FAREWELL: Duration = Duration::from_secs(2);
/// What is still read of the request, so that closing the connection does not reset it before the answer is read.
const UNREAD: u64 = 64 * 1024;

const MESSAGE: &str = "this port speaks HTTPS, and the request came over plain HTTP: use https://\n";

/// Whether the first byte of a connection is one of HTTP: a method's. TLS begins with 22. Waits for it, and leaves it unread.
pub(super) async fn is_http(tcp: &TcpStream, until: Instant) -> bool {
    let mut first = [0];
    let seen = timeout_at(until, tcp.peek(&mut first)).await;
    matches!(seen, Ok(Ok(1))) && first[0].is_ascii_uppercase()
}

/// Answers 400 and ends the connection.
pub(super) async fn refuse(mut tcp: impl AsyncRead + AsyncWrite + Unpin) {
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{MESSAGE}",
        MESSAGE.len()
    );
    let farewell = async {
        tcp.write_all(answer.as_bytes()).await?;
        tcp.shutdown().await?;
        tokio::io::copy(&mut tcp.take(UNREAD), &mut tokio::io::sink()).await
    };
    // A client that does not read it has lost nothing.
    drop(timeout(FAREWELL, farewell).await);
}

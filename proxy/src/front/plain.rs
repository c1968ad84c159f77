//! A client that speaks plain HTTP to a port for TLS gets an answer that says so, and not a handshake that fails in silence.
//!
//! Invariants: a TLS client is never mistaken for one, for no TLS record begins with a letter; no more than [`LIMIT`] bytes
//! are read of what a plain client sends; and nothing that it asks for is looked at.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::accepted::Accepted;

/// Most bytes that are read so that the client sees the answer: a connection that is closed on unread bytes is reset.
const LIMIT: u64 = 64 * 1024;

const ANSWER: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 73\r\nConnection: close\r\n\r\n\
                      this port speaks HTTPS only, and the request came without TLS: use https\n";

/// Answers a connection that begins with plain HTTP, to its end; gives back any other.
pub(super) async fn refuse(mut accepted: Accepted) -> io::Result<Option<Accepted>> {
    let first = match accepted.received.first() {
        Some(first) => *first,
        None => {
            let mut first = [0];
            // An end is the handshake's to notice.
            accepted.tcp.peek(&mut first).await?;
            first[0]
        }
    };
    // Every method of HTTP begins with a letter.
    if !first.is_ascii_alphabetic() {
        return Ok(Some(accepted));
    }
    accepted.tcp.write_all(ANSWER.as_bytes()).await?;
    accepted.tcp.shutdown().await?;
    let mut rest = accepted.tcp.take(LIMIT);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::ANSWER;

    #[test]
    fn the_answer_is_as_long_as_it_says() {
        let (head, body) = ANSWER.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
    }
}

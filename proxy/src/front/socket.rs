//! The client's TCP connection.
//!
//! Invariants: what was read of it before comes first; a write that makes no progress for `write_timeout` fails,
//! whichever protocol lies above.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::accepted::Accepted;
use super::deadline::Deadline;
use crate::admin::sessions::Session;

/// A connection.
#[derive(Debug)]
pub(crate) struct Socket {
    tcp: TcpStream,
    /// Read from the connection before this was made, not yet by the protocol.
    received: BytesMut,
    write_timeout: Duration,
    /// Notes whether the edge waits for the client.
    session: Option<Arc<Session>>,
    /// When the write that is pending fails.
    stall: Option<Deadline>,
    stalled: bool,
}

impl Socket {
    /// Wraps an accepted connection.
    pub(crate) fn new(accepted: Accepted, write_timeout: Duration, session: Option<Arc<Session>>) -> Socket {
        Socket { tcp: accepted.tcp, received: accepted.received, write_timeout, session, stall: None, stalled: false }
    }

    /// Has the client see, when this is dropped, that it was not all.
    pub(super) fn break_off(&self) {
        break_off(&self.tcp);
    }

    /// What the system calls it.
    pub(super) fn descriptor(&self) -> RawFd {
        self.tcp.as_raw_fd()
    }
}

/// Has the peer see, when the socket is closed, that it was not done.
pub(super) fn break_off(socket: &TcpStream) {
    if let Err(error) = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO)) {
        tracing::debug!(%error, "not broken off");
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.received.is_empty() {
            return Pin::new(&mut self.tcp).poll_read(context, buffer);
        }
        let count = buffer.remaining().min(self.received.len());
        buffer.put_slice(&self.received.split_to(count));
        if self.received.is_empty() {
            self.received = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(buffer)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // The system's call for one buffer is cheaper than the one for many.
        let result = match buffers {
            [buffer] => Pin::new(&mut self.tcp).poll_write(context, buffer),
            _ => Pin::new(&mut self.tcp).poll_write_vectored(context, buffers),
        };
        if let Poll::Ready(written) = &result {
            self.stalled = false;
            if let (Ok(count), Some(session)) = (written, &self.session) {
                session.moved(*count);
            }
            return result;
        }
        if !self.stalled {
            self.stalled = true;
            self.session.as_ref().inspect(|session| session.waits());
            let at = Instant::now() + self.write_timeout;
            Deadline::at(&mut self.stall, at);
        }
        if self.stall.as_mut().is_some_and(|deadline| deadline.poll_passed(context).is_ready()) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "client does not read")));
        }
        Poll::Pending
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair(received: &[u8], write_timeout: Duration) -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        (Socket::new(Accepted { tcp, received: received.into() }, write_timeout, None), client)
    }

    #[tokio::test]
    async fn what_was_read_before_comes_first() {
        let (mut socket, mut client) = pair(b"one ", Duration::from_secs(5)).await;
        client.write_all(b"two").await.unwrap();
        let mut all = [0; 7];
        socket.read_exact(&mut all).await.unwrap();
        assert_eq!(&all, b"one two");
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_given_up() {
        let (mut socket, _client) = pair(b"", Duration::from_millis(50)).await;
        let chunk = vec![0; 1 << 20];
        let error = loop {
            if let Err(error) = socket.write_all(&chunk).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}

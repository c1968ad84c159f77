//! The client's TCP connection as Pingora's protocols want to see it.
//!
//! Invariants: a write that makes no progress for `write_timeout` fails, whichever protocol lies above; the first small
//! write of an answer waits for the next one or a flush, so that header and body leave in one packet and one call;
//! nothing waits while the connection is being read, so neither end can be left waiting for the other.
//!
//! Pingora's own stream type cannot be given buffers or a write deadline from outside.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::accepted::Accepted;
use super::chunks::Chunks;
use super::deadline::Deadline;

/// What a response header may measure to be held back for its body.
const HOLD_LIMIT: usize = 2 * 1024;

/// How many buffers one system call writes at most.
const VECTORS: usize = 32;

/// A connection.
#[derive(Debug)]
pub(crate) struct Socket {
    tcp: TcpStream,
    /// Read from the connection before this was made, not yet by the protocol.
    received: BytesMut,
    /// Looks at what is read, unless it is encrypted.
    chunks: Option<Arc<Chunks>>,
    /// Written by the protocol, not yet by us.
    held: Vec<u8>,
    /// How much of `held` the kernel has taken.
    taken: usize,
    /// Whether the next small write is held.
    hold: bool,
    write_timeout: Duration,
    /// When the write that is pending fails.
    stall: Option<Deadline>,
    stalled: bool,
}

impl Socket {
    /// Wraps an accepted connection.
    pub(crate) fn new(accepted: Accepted, write_timeout: Duration) -> Socket {
        Socket {
            tcp: accepted.tcp,
            received: accepted.received,
            chunks: None,
            held: Vec::new(),
            taken: 0,
            hold: false,
            write_timeout,
            stall: None,
            stalled: false,
        }
    }

    /// Bodies in chunks are looked at here.
    pub(crate) fn watched(self, chunks: Arc<Chunks>) -> Socket {
        Socket { chunks: Some(chunks), ..self }
    }

    /// Has the client see, when this is dropped, that it was not all.
    pub(crate) fn break_off(&self) {
        break_off(&self.tcp);
    }

    /// One write to the kernel, under the deadline.
    fn poll_tcp_write(&mut self, context: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.tcp).poll_write_vectored(context, buffers);
        if result.is_ready() {
            self.stalled = false;
            return result;
        }
        if !self.stalled {
            self.stalled = true;
            let at = Instant::now() + self.write_timeout;
            match &mut self.stall {
                Some(deadline) => deadline.set(at),
                None => self.stall = Some(Deadline::new(at)),
            }
        }
        if self.stall.as_mut().is_some_and(|deadline| deadline.poll_passed(context).is_ready()) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "client does not read")));
        }
        Poll::Pending
    }

    /// Writes what is held, followed by `buffers`; how much of `buffers` was taken. It is only zero when they are empty.
    fn poll_write_after_held(&mut self, context: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        while !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            let result = {
                let mut vector = [IoSlice::new(&[]); VECTORS];
                vector[0] = IoSlice::new(&held[self.taken..]);
                let mut used = 1;
                for (slot, buffer) in vector[1..].iter_mut().zip(buffers) {
                    *slot = *buffer;
                    used += 1;
                }
                self.poll_tcp_write(context, &vector[..used])
            };
            self.held = held;
            let written = self.taken + ready!(result)?;
            if written < self.held.len() {
                if written == self.taken {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.taken = written;
                continue;
            }
            let beyond = written - self.held.len();
            self.held.clear();
            self.taken = 0;
            if beyond > 0 {
                return Poll::Ready(Ok(beyond));
            }
        }
        if buffers.iter().all(|buffer| buffer.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        self.poll_tcp_write(context, buffers)
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
        if !self.received.is_empty() {
            let count = buffer.remaining().min(self.received.len());
            let bytes = self.received.split_to(count);
            if let Some(chunks) = &self.chunks {
                chunks.see(&bytes)?;
            }
            buffer.put_slice(&bytes);
            if self.received.is_empty() {
                self.received = BytesMut::new();
            }
            self.hold = true;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.tcp).poll_read(context, buffer);
        match &result {
            Poll::Ready(Ok(())) => {
                self.hold = buffer.filled().len() > before;
                if let Some(chunks) = &self.chunks {
                    return Poll::Ready(chunks.see(&buffer.filled()[before..]));
                }
            }
            // About to wait for the client, who may be waiting for what is held.
            Poll::Pending if !self.held.is_empty() => {
                if let Poll::Ready(Err(error)) = self.poll_write_after_held(context, &[]) {
                    return Poll::Ready(Err(error));
                }
            }
            _ => {}
        }
        result
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
        if self.hold && self.held.is_empty() {
            let length = buffers.iter().map(|buffer| buffer.len()).sum();
            if length <= HOLD_LIMIT {
                self.hold = false;
                for buffer in buffers {
                    self.held.extend_from_slice(buffer);
                }
                return Poll::Ready(Ok(length));
            }
        }
        self.hold = false;
        self.poll_write_after_held(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_after_held(context, &[]).map_ok(drop)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_after_held(context, &[]))?;
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

#[async_trait]
impl Shutdown for Socket {
    async fn shutdown(&mut self) {
        // A client that is gone already is no news.
        drop(AsyncWriteExt::shutdown(self).await);
    }
}

impl UniqueID for Socket {
    fn id(&self) -> UniqueIDType {
        self.tcp.as_raw_fd()
    }
}

impl Ssl for Socket {}

impl Peek for Socket {}

impl GetTimingDigest for Socket {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Socket {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Socket {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair(write_timeout: Duration) -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        (Socket::new(Accepted::new(server), write_timeout), client)
    }

    #[tokio::test]
    async fn what_was_read_before_comes_first() {
        let (socket, mut client) = pair(Duration::from_secs(5)).await;
        let mut socket =
            Socket::new(Accepted { tcp: socket.tcp, received: b"one ".as_slice().into() }, Duration::from_secs(5));
        client.write_all(b"two").await.unwrap();
        let mut all = [0; 7];
        socket.read_exact(&mut all).await.unwrap();
        assert_eq!(&all, b"one two");
    }

    #[tokio::test]
    async fn header_leaves_with_its_body() {
        let (mut socket, mut client) = pair(Duration::from_secs(5)).await;
        client.write_all(b"request").await.unwrap();
        socket.read_exact(&mut [0; 7]).await.unwrap();
        socket.write_all(b"header ").await.unwrap();
        assert_eq!(socket.held, b"header ");
        socket.write_all(b"body").await.unwrap();
        let mut buffer = [0; 64];
        let count = client.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..count], b"header body");
    }

    #[tokio::test]
    async fn what_is_held_leaves_before_the_client_is_waited_for() {
        let (mut socket, mut client) = pair(Duration::from_secs(5)).await;
        client.write_all(b"a").await.unwrap();
        socket.read_exact(&mut [0; 1]).await.unwrap();
        socket.write_all(b"question").await.unwrap();
        let answer = tokio::spawn(async move { socket.read_u8().await.unwrap() });
        let mut question = [0; 8];
        client.read_exact(&mut question).await.unwrap();
        client.write_all(b"!").await.unwrap();
        assert_eq!(answer.await.unwrap(), b'!');
    }

    #[tokio::test]
    async fn later_small_writes_are_not_held() {
        let (mut socket, mut client) = pair(Duration::from_secs(5)).await;
        client.write_all(b"a").await.unwrap();
        socket.read_exact(&mut [0; 1]).await.unwrap();
        for part in ["header", "one", "two"] {
            socket.write_all(part.as_bytes()).await.unwrap();
        }
        let mut all = [0; 12];
        client.read_exact(&mut all).await.unwrap();
        assert_eq!(&all, b"headeronetwo");
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_given_up() {
        let (mut socket, _client) = pair(Duration::from_millis(50)).await;
        let chunk = vec![0; 1 << 20];
        let error = loop {
            if let Err(error) = socket.write_all(&chunk).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}

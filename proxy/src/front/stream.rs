//! A client's connection, encrypted or not, as Pingora's protocols want to see it.
//!
//! Invariants: the first small write of an answer waits for the next one or a flush, so that header and body leave in one
//! record of TLS, one packet and one call; nothing waits while the connection is being read, so neither end can be left
//! waiting for the other; bodies in chunks are looked at before the protocol sees them.
//!
//! Pingora's own stream types cannot be given buffers or a write deadline from outside.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_util::either::Either;

use super::chunks::Chunks;
use super::encrypted::Encrypted;
use super::socket::Socket;

/// What a response header may measure to be held back for its body.
const HOLD_LIMIT: usize = 2 * 1024;

/// How many buffers one call writes at most.
const VECTORS: usize = 32;

/// How bytes travel: as they are, or in TLS.
pub(super) type Transport = Either<Socket, Box<Encrypted>>;

/// A connection.
#[derive(Debug)]
pub(super) struct ClientStream {
    transport: Transport,
    /// Looks at what is read.
    chunks: Arc<Chunks>,
    /// Written by the protocol, not yet by us.
    held: Vec<u8>,
    /// How much of `held` has been written.
    taken: usize,
    /// Whether the next small write is held.
    hold: bool,
}

impl ClientStream {
    /// Over this transport.
    pub(super) fn new(transport: Transport, chunks: Arc<Chunks>) -> ClientStream {
        ClientStream { transport, chunks, held: Vec::new(), taken: 0, hold: false }
    }

    /// Has the client see, when this is dropped, that it was not all. In TLS it sees that the closing alert is missing.
    pub(super) fn break_off(&self) {
        if let Either::Left(socket) = &self.transport {
            socket.break_off();
        }
    }

    /// Writes what is held, followed by `buffers`; how much of `buffers` was taken. It is only zero when they are empty.
    fn poll_write_after_held(&mut self, context: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        while self.taken < self.held.len() {
            let mut vector = [IoSlice::new(&[]); VECTORS];
            vector[0] = IoSlice::new(&self.held[self.taken..]);
            let mut used = 1;
            for (slot, buffer) in vector[1..].iter_mut().zip(buffers) {
                *slot = *buffer;
                used += 1;
            }
            let count = ready!(Pin::new(&mut self.transport).poll_write_vectored(context, &vector[..used]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let written = self.taken + count;
            self.taken = written.min(self.held.len());
            if written > self.held.len() {
                let beyond = written - self.held.len();
                self.release();
                return Poll::Ready(Ok(beyond));
            }
        }
        self.release();
        if buffers.iter().all(|buffer| buffer.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        Pin::new(&mut self.transport).poll_write_vectored(context, buffers)
    }

    fn release(&mut self) {
        self.held.clear();
        self.taken = 0;
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.transport).poll_read(context, buffer);
        match &result {
            Poll::Ready(Ok(())) => {
                let fresh = &buffer.filled()[before..];
                self.hold = !fresh.is_empty();
                return Poll::Ready(self.chunks.see(fresh));
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

impl AsyncWrite for ClientStream {
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
        ready!(self.poll_write_after_held(context, &[]))?;
        Pin::new(&mut self.transport).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_after_held(context, &[]))?;
        Pin::new(&mut self.transport).poll_shutdown(context)
    }
}

#[async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        // A client that is gone already is no news.
        drop(AsyncWriteExt::shutdown(self).await);
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> UniqueIDType {
        match &self.transport {
            Either::Left(socket) => socket.descriptor(),
            Either::Right(stream) => stream.descriptor(),
        }
    }
}

impl Ssl for ClientStream {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        match &self.transport {
            Either::Left(_) => None,
            Either::Right(stream) => stream.alpn(),
        }
    }
}

impl Peek for ClientStream {}

impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::super::accepted::Accepted;
    use super::*;

    async fn pair() -> (ClientStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let socket = Socket::new(Accepted::new(server), Duration::from_secs(5), None);
        (ClientStream::new(Either::Left(socket), Arc::default()), client)
    }

    #[tokio::test]
    async fn header_leaves_with_its_body() {
        let (mut stream, mut client) = pair().await;
        client.write_all(b"request").await.unwrap();
        stream.read_exact(&mut [0; 7]).await.unwrap();
        stream.write_all(b"header ").await.unwrap();
        assert_eq!(stream.held, b"header ");
        stream.write_all(b"body").await.unwrap();
        let mut buffer = [0; 64];
        let count = client.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..count], b"header body");
    }

    #[tokio::test]
    async fn what_is_held_leaves_before_the_client_is_waited_for() {
        let (mut stream, mut client) = pair().await;
        client.write_all(b"a").await.unwrap();
        stream.read_exact(&mut [0; 1]).await.unwrap();
        stream.write_all(b"question").await.unwrap();
        let answer = tokio::spawn(async move { stream.read_u8().await.unwrap() });
        let mut question = [0; 8];
        client.read_exact(&mut question).await.unwrap();
        client.write_all(b"!").await.unwrap();
        assert_eq!(answer.await.unwrap(), b'!');
    }

    #[tokio::test]
    async fn later_small_writes_are_not_held() {
        let (mut stream, mut client) = pair().await;
        client.write_all(b"a").await.unwrap();
        stream.read_exact(&mut [0; 1]).await.unwrap();
        for part in ["header", "one", "two"] {
            stream.write_all(part.as_bytes()).await.unwrap();
        }
        let mut all = [0; 12];
        client.read_exact(&mut all).await.unwrap();
        assert_eq!(&all, b"headeronetwo");
    }

    #[tokio::test]
    async fn what_is_held_comes_before_a_body_larger_than_the_connection_takes() {
        let (mut stream, mut client) = pair().await;
        client.write_all(b"a").await.unwrap();
        stream.read_exact(&mut [0; 1]).await.unwrap();
        let body = vec![7; 8 << 20];
        let sending = tokio::spawn(async move {
            stream.write_all(b"header").await.unwrap();
            stream.write_all(&body).await.unwrap();
            Shutdown::shutdown(&mut stream).await;
        });
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        sending.await.unwrap();
        assert_eq!((&all[..6], all.len()), (&b"header"[..], 6 + (8 << 20)));
    }
}

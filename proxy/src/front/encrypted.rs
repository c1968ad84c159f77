//! A client's connection within TLS.
//!
//! Invariant: what is encrypted but not yet taken by the client is bounded. Pingora's own acceptor leaves no say in that.

use std::io::{self, IoSlice};
use std::os::fd::RawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pingora_core::protocols::ALPN;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::socket::Socket;
use super::tls;

/// Most bytes that wait, encrypted, for one client. It is also how much one system call sends: less memory for each
/// client that is slow, more calls for each that is fast.
const SEND_BUFFER: usize = 32 * 1024;

/// How much of the plaintext is handed over in one piece. rustls copies each piece into a record behind a header of five
/// bytes, and from 4 KiB on the C library copies with `rep movsb`, which is twenty times slower than it could be where the
/// target's offset in its page lies just above the source's: always, for a buffer that starts a page (glibc bug 30994).
const PIECE: usize = 2 * 1024;

/// The pieces of as much as the send buffer takes, and their number.
fn pieces<'a>(buffers: &'a [IoSlice<'_>]) -> ([IoSlice<'a>; SEND_BUFFER / PIECE], usize) {
    let mut pieces = [IoSlice::new(&[]); SEND_BUFFER / PIECE];
    let mut used = 0;
    for (slot, piece) in pieces.iter_mut().zip(buffers.iter().flat_map(|buffer| buffer.chunks(PIECE))) {
        *slot = IoSlice::new(piece);
        used += 1;
    }
    (pieces, used)
}

/// An encrypted connection.
#[derive(Debug)]
pub(crate) struct Encrypted {
    stream: TlsStream<Socket>,
}

impl Encrypted {
    /// Shakes hands.
    pub(crate) async fn accept(config: Arc<ServerConfig>, socket: Socket) -> io::Result<Encrypted> {
        let limit = |connection: &mut rustls::ServerConnection| connection.set_buffer_limit(Some(SEND_BUFFER));
        let stream = TlsAcceptor::from(config).accept_with(socket, limit).await?;
        Ok(Encrypted { stream })
    }

    /// Whether it is TLS 1.3, and not 1.2.
    pub(crate) fn is_tls13(&self) -> bool {
        self.stream.get_ref().1.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3)
    }

    /// Whom the client's certificate is for, where it showed one.
    pub(crate) fn client_subject(&self) -> Option<String> {
        tls::subject(self.stream.get_ref().1.peer_certificates()?.first()?)
    }

    /// Whether it took up an earlier session.
    pub(crate) fn is_resumed(&self) -> bool {
        self.stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// The protocol that was agreed upon.
    pub(super) fn alpn(&self) -> Option<ALPN> {
        match self.stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Some(ALPN::H2),
            Some(_) => Some(ALPN::H1),
            None => None,
        }
    }

    /// What the system calls the connection.
    pub(super) fn descriptor(&self) -> RawFd {
        self.stream.get_ref().0.descriptor()
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(buffer)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let (pieces, used) = pieces(buffers);
        Pin::new(&mut self.stream).poll_write_vectored(context, &pieces[..used])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::{PIECE, SEND_BUFFER, pieces};

    #[test]
    fn pieces_are_small_and_in_order() {
        let (header, payload) = ([1; 9], [2; 16 * 1024]);
        let buffers = [IoSlice::new(&header), IoSlice::new(&[]), IoSlice::new(&payload)];
        let (found, used) = pieces(&buffers);
        assert_eq!(used, 1 + payload.len() / PIECE);
        assert!(found.iter().all(|piece| piece.len() <= PIECE));
        assert_eq!(
            found.iter().flat_map(|piece| piece.iter().copied()).collect::<Vec<_>>(),
            [&header[..], &payload].concat()
        );
        let long = vec![3; 2 * SEND_BUFFER];
        assert_eq!(pieces(&[IoSlice::new(&long)]).0.iter().map(|piece| piece.len()).sum::<usize>(), SEND_BUFFER);
    }
}

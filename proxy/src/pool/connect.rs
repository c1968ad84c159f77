//! A connection to a server: TCP, the PROXY header, TLS.
//!
//! Invariant: all of it together ends within the pool's `connect_timeout`.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pierhead_config as config;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::Server;

/// What a server is told of the client, by the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// The client.
    pub(crate) source: SocketAddr,
    /// Where it connected.
    pub(crate) destination: SocketAddr,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// In TCP or TLS.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It took too long.
    #[error("no connection in time")]
    Timeout,
}

/// A connection to a server.
#[derive(Debug)]
pub(crate) enum ServerStream {
    /// As it is.
    Plain(TcpStream),
    /// With TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Opens one.
pub(super) async fn connect(
    pool: &config::Pool,
    _tls: Option<&Arc<ClientConfig>>,
    server: &Server,
    _told: Option<&Told>,
) -> Result<ServerStream, ConnectError> {
    let connecting = async {
        let tcp = TcpStream::connect(server.address()).await?;
        tcp.set_nodelay(true)?;
        Ok(ServerStream::Plain(tcp))
    };
    timeout(pool.connect_timeout, connecting).await.map_err(|_| ConnectError::Timeout)?
}

/// The TLS of a pool.
pub(super) fn client_config(_settings: &config::ServerTls) -> Result<Arc<ClientConfig>, String> {
    Err("TLS to servers is not there yet".to_owned())
}

impl AsyncRead for ServerStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ServerStream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            ServerStream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            ServerStream::Plain(stream) => Pin::new(stream).poll_write(context, buffer),
            ServerStream::Tls(stream) => Pin::new(stream).poll_write(context, buffer),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ServerStream::Plain(stream) => Pin::new(stream).poll_flush(context),
            ServerStream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ServerStream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            ServerStream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

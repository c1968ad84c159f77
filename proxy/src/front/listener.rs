//! One listening socket: accept, limit, hand on.
//!
//! Invariant: no more than `max_connections` are open at once. Those beyond wait in the kernel's queue, unaccepted,
//! until one ends: waiting costs us nothing, and a client that is served late is better off than one that is refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::{ALPN, Stream};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::drain::Drain;
use super::encrypted::Encrypted;
use super::service::{Limits, Service};
use super::socket::Socket;
use super::tls::{self, TlsError};
use super::{Application, Connection, http1, http2};
use crate::admin::metrics::Metrics;

/// Connections that the kernel keeps for us until they are accepted. It takes less when `net.core.somaxconn` says so.
const BACKLOG: u32 = 4096;

/// How soon a silent peer is asked whether it is still there, and how often again before it is given up.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_COUNT: u32 = 4;

/// How long to wait before accepting again when the system is short of descriptors or memory.
const SHORTAGE: Duration = Duration::from_millis(200);

/// Why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// The address cannot be had.
    #[error("listener {name}: {address}: {source}")]
    Address {
        /// Which listener.
        name: String,
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The certificates cannot be used.
    #[error("listener {name}: {source}")]
    Tls {
        /// Which listener.
        name: String,
        /// Why not.
        source: Box<TlsError>,
    },
}

/// An open listener.
pub(crate) struct Listener {
    name: Arc<str>,
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    limits: Limits,
    free: Arc<Semaphore>,
}

impl Listener {
    /// Opens it: from here on the kernel queues connections.
    pub(crate) fn bind(settings: &pierhead_config::Listener) -> Result<Listener, BindError> {
        let tls = settings.tls.as_ref().map(tls::server_config).transpose();
        let tls = tls.map_err(|source| BindError::Tls { name: settings.name.clone(), source: Box::new(source) })?;
        let (socket, address) = listen(settings.bind).map_err(|source| BindError::Address {
            name: settings.name.clone(),
            address: settings.bind,
            source,
        })?;
        Ok(Listener {
            name: settings.name.as_str().into(),
            socket,
            address,
            tls,
            limits: Limits {
                header_timeout: settings.header_timeout,
                max_header_size: usize::try_from(settings.max_header_size).unwrap_or(usize::MAX),
                idle_timeout: settings.idle_timeout,
                write_timeout: settings.write_timeout,
            },
            free: Arc::new(Semaphore::new(settings.max_connections.min(Semaphore::MAX_PERMITS))),
        })
    }

    /// The configured name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The real address, also when port 0 was asked for.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until the edge drains, then closes. Connections go on by themselves.
    pub(crate) async fn serve<A: Application>(self, application: Arc<A>, drain: Drain, metrics: Arc<Metrics>) {
        let service = Arc::new(Service { application, limits: self.limits, drain, metrics });
        tokio::select! {
            () = service.drain.draining() => {}
            () = self.accept(&service) => {}
        }
    }

    async fn accept<A: Application>(&self, service: &Arc<Service<A>>) {
        loop {
            // Never closed, so it never fails.
            let Ok(place) = Arc::clone(&self.free).acquire_owned().await else { return };
            let (tcp, peer) = match self.socket.accept().await {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    tracing::warn!(listener = %self.name, %error, "cannot accept");
                    tokio::time::sleep(SHORTAGE).await;
                    continue;
                }
            };
            let connection = Connection { listener: Arc::clone(&self.name), peer };
            let open = service.metrics.connection(&self.name);
            let (own, tls) = (Arc::clone(service), self.tls.clone());
            service.drain.spawn(async move {
                serve(tcp, tls, &own, &connection).await;
                drop((place, open));
            });
        }
    }
}

/// One connection from its first byte to its last.
async fn serve<A: Application>(
    tcp: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    service: &Service<A>,
    connection: &Connection,
) {
    let socket = Socket::new(tcp, service.limits.write_timeout);
    let stream: Stream = match tls {
        None => Box::new(socket),
        Some(config) => match timeout(service.limits.header_timeout, Encrypted::accept(config, socket)).await {
            Ok(Ok(stream)) => Box::new(stream),
            Ok(Err(error)) => return service.refused(connection, "tls", Some(&error)),
            Err(_) => return service.refused(connection, "tls", Some(&"timed out")),
        },
    };
    if stream.selected_alpn_proto() == Some(ALPN::H2) {
        http2::serve(stream, service, connection).await;
    } else {
        http1::serve(stream, service, connection).await;
    }
}

/// Opens a socket. What is set here is inherited by every connection that it accepts.
fn listen(bind: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let socket = if bind.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_nodelay(true)?;
    socket.set_keepalive(true)?;
    rustix::net::sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    rustix::net::sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
    rustix::net::sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_COUNT)?;
    socket.bind(bind)?;
    let listener = socket.listen(BACKLOG)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

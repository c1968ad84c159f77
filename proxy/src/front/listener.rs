//! One listening socket: accept, limit, hand on.
//!
//! Invariant: no more than `max_connections` are open at once. Those beyond wait in the kernel's queue, unaccepted,
//! until one ends: waiting costs us nothing, and a client that is served late is better off than one that is refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pierhead_config::{Mode, SniRoute};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;

use super::admission::Admission;
use super::drain::Drain;
use super::service::{Limits, Service};
use super::tls::{Termination, TlsError, Watch};
use super::{Application, Connection, accepted};
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
    mode: Mode,
    sni: Vec<SniRoute>,
    accept_proxy: bool,
    tls: Option<Arc<Termination>>,
    free: Arc<Semaphore>,
}

impl Listener {
    /// Opens it: from here on the kernel queues connections.
    pub(crate) fn bind(settings: &pierhead_config::Listener) -> Result<Listener, BindError> {
        let tls = settings.http().and_then(|http| http.tls.as_ref());
        let tls = tls.map(|tls| Termination::new(tls, None).map(Arc::new)).transpose();
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
            mode: settings.mode.clone(),
            sni: settings.sni.clone(),
            accept_proxy: settings.accept_proxy,
            tls,
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
    pub(crate) async fn serve<A: Application>(
        self,
        application: Arc<A>,
        admission: Arc<Admission>,
        drain: Drain,
        metrics: Arc<Metrics>,
    ) {
        let limits = Limits::of(&self.mode);
        let _watch = self.tls.as_ref().map(|tls| Watch::start(&self.name, tls, &metrics));
        let (mode, sni, accept_proxy, tls) = (self.mode.clone(), self.sni.clone(), self.accept_proxy, self.tls.clone());
        let counts = metrics.listener(&self.name);
        let service =
            Arc::new(Service { mode, sni, accept_proxy, admission, tls, application, limits, drain, metrics, counts });
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
            let everywhere = service.admission.place().await;
            let destination = tcp.local_addr().unwrap_or(self.address);
            let listener = Arc::clone(&self.name);
            let connection = Connection { listener, client: peer, peer, destination, secure: false };
            let open = service.metrics.connection(&self.name);
            let own = Arc::clone(service);
            service.drain.spawn(async move {
                accepted::serve(tcp, &own, connection).await;
                drop((place, everywhere, open));
            });
        }
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

//! A listener: who connects is served, so many at a time and no more, in fair shares.
//!
//! Those that wait for a place are accepted already, for only then is it known which network they are from. So many may wait; the kernel
//! keeps no others waiting, and those beyond are closed.
//!
//! The accept loop is our own and not axum's, which has no limits, no timeouts, and no word on what it still has to finish.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body;
use hyper::service::Service;
use pierhead_service::shares::{Party, Room};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::arriving::Arriving;
use super::tls::Tls;
use super::{AppError, connection};
use crate::api::Departures;
use crate::metrics::ListenerMetrics;

/// Connections that the kernel keeps until we take them.
const BACKLOG: u32 = 4096;
/// How soon to accept again when the system is short of descriptors.
const SHORTAGE: Duration = Duration::from_millis(200);

/// An open socket.
pub(super) struct Listener {
    name: &'static str,
    tcp: TcpListener,
}

/// What connections are served with.
pub(super) struct Served<S> {
    /// Who answers requests.
    pub(super) service: S,
    /// HTTPS.
    pub(super) tls: Option<Arc<Tls>>,
    /// Connections at a time; more wait for a while.
    pub(super) connections: Arc<Room>,
    /// Peers whose connections are not charged to their network: many clients come through them.
    pub(super) trusted: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
    /// For connections that begin now.
    pub(super) patience: Arc<dyn Fn() -> Patience + Send + Sync>,
    /// What is counted.
    pub(super) metrics: Arc<ListenerMetrics>,
}

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For the handshake, and for the first request.
    pub(super) header: Duration,
    /// For a pause in a body, and for the next request.
    pub(super) idle: Duration,
}

/// What is running, and whether it is to end.
#[derive(Clone, Default)]
pub(super) struct Running {
    /// Connections.
    pub(super) tasks: TaskTracker,
    /// That they are to finish what they have begun, and nobody is to be accepted.
    pub(super) finish: CancellationToken,
}

impl Listener {
    /// Opens it. `name`: what logs and metrics call it; `section`: where it stands in the configuration.
    pub(super) fn open(name: &'static str, section: &'static str, address: SocketAddr) -> Result<Listener, AppError> {
        let open = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // Connections of the process before this one may still linger.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        let tcp = open().map_err(|source| AppError::Bind { listener: section, address, source })?;
        Ok(Listener { name, tcp })
    }

    /// Accepts until it is to end.
    pub(super) async fn serve<S, B>(self, served: Served<S>, running: Running)
    where
        S: Service<Request<Arriving>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if let Ok(address) = self.tcp.local_addr() {
            let tls = served.tls.is_some();
            let url = format!("{}://{address}", if tls { "https" } else { "http" });
            tracing::info!(listener = self.name, %address, url, tls, "listening");
        }
        let served = Arc::new(served);
        let accepting = async {
            loop {
                match self.tcp.accept().await {
                    Ok((tcp, peer)) => {
                        let (served, finish) = (Arc::clone(&served), running.finish.clone());
                        running.tasks.spawn(async move {
                            let party = match (served.trusted)(peer.ip()) {
                                true => Party::default(),
                                false => Party::of_network(peer.ip()),
                            };
                            let departures = Arc::new(Departures::default());
                            let place = tokio::select! {
                                place = served.connections.enter_with(party, departures.flow()) => place,
                                () = finish.cancelled() => return,
                            };
                            match place {
                                Ok(place) => {
                                    departures.holds(place.pace());
                                    connection::serve(tcp, peer, served, departures, finish).await;
                                }
                                Err(full) => tracing::debug!(%peer, %full, "no place for a connection"),
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(listener = self.name, %error, "cannot accept");
                        tokio::time::sleep(SHORTAGE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = accepting => {}
            () = running.finish.cancelled() => {}
        }
    }
}

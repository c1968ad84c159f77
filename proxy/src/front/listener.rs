//! One listener: accept, limit, hand on.
//!
//! Invariants: no more than `max_connections` are open at once. Those beyond wait in the kernel's queue, unaccepted,
//! until one ends: waiting costs us nothing, and a client that is served late is better off than one that is refused.
//! A connection stays with the [`Service`] that it was accepted under; a reload changes what the next one gets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use pierhead_config::Mode;
use pierhead_service::shares::{Floor, Room, Rules};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::admission::Admission;
use super::drain::Drain;
use super::listening::Listening;
use super::service::{Limits, Service};
use super::tls::{Certificate, Termination, TlsError, Watch};
use super::{Application, Connection, accepted, lanes};
use crate::admin::metrics::Metrics;
use crate::admin::sessions::Sessions;

/// How long to wait before accepting again when the system is short of descriptors or memory.
const SHORTAGE: Duration = Duration::from_millis(200);

/// How long a connection waits for a place of its network's share.
const WAIT: Duration = Duration::from_secs(1);
/// The part of all places that is for such connections alone: as long as one can wait, slow clients lose their places to it.
const WAITING_PART: usize = 20;
/// Of so many connections one may send a second request of HTTP/2 beside the first, or one of them so many more. Each may hold buffers of
/// 128 KiB for a client that takes nothing.
const STREAMS_PART: usize = 2;
/// But no fewer, so that a few clients need not wait for each other.
const LEAST_STREAMS: usize = 1024;

/// What all listeners of an edge have in common.
pub(crate) struct Common<A: Application> {
    /// Answers requests.
    pub(crate) application: Arc<A>,
    /// Of the whole edge.
    pub(crate) drain: Drain,
    /// Counts connections and refusals.
    pub(crate) metrics: Arc<Metrics>,
    /// All connections that are open.
    pub(crate) sessions: Arc<Sessions>,
}

/// What a configuration makes of a listener: all that can fail has not.
pub(crate) struct Prepared<A: Application> {
    name: Arc<str>,
    places: usize,
    service: Service<A>,
}

impl<A: Application> Prepared<A> {
    /// Prepares a listener that is new, or takes the place of `before`.
    pub(crate) fn new(
        settings: &pierhead_config::Listener,
        common: &Common<A>,
        admission: &Arc<Admission>,
        before: Option<&Listener<A>>,
    ) -> Result<Prepared<A>, TlsError> {
        let known = before.map(|before| before.current.load_full());
        let known_tls = known.as_ref().and_then(|known| known.service.tls.as_deref());
        let known_service = known.as_ref().map(|known| &known.service);
        let (places, floor) = (settings.max_connections, admission.floor());
        let metrics = &common.metrics;
        let waiting = places / WAITING_PART;
        let known = known_service.map(|known| &known.connections);
        let connections = shared("connection", places - waiting, waiting, floor, metrics, known);
        let streams = (places / STREAMS_PART).max(LEAST_STREAMS);
        let known = known_service.map(|known| &known.streams);
        let streams = shared("stream", streams, streams / WAITING_PART, floor, metrics, known);
        let tls = settings.http().and_then(|http| http.tls.as_ref());
        let service = Service {
            connections,
            streams,
            tls: tls.map(|tls| Termination::new(tls, known_tls).map(Arc::new)).transpose()?,
            limits: Limits::of(&settings.mode),
            sni: settings.sni.clone(),
            accept_proxy: settings.accept_proxy,
            admission: Arc::clone(admission),
            mode: settings.mode.clone(),
            application: Arc::clone(&common.application),
            drain: before.map_or_else(|| common.drain.branch(), |before| before.drain.clone()),
            metrics: Arc::clone(&common.metrics),
            counts: common.metrics.listener(&settings.name),
            sessions: Arc::clone(&common.sessions),
        };
        Ok(Prepared { name: settings.name.as_str().into(), places: settings.max_connections, service })
    }

    /// The configured name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether clients speak TLS to it.
    pub(crate) fn has_tls(&self) -> bool {
        self.service.tls.is_some()
    }

    /// Whether it understands HTTP, and does not only pass bytes on.
    pub(crate) fn speaks_http(&self) -> bool {
        matches!(self.service.mode, Mode::Http(_))
    }
}

/// A listener at work. It closes when the edge drains, or by [`Listener::close`].
pub(crate) struct Listener<A: Application> {
    socket: Listening,
    drain: Drain,
    places: Arc<Places>,
    current: ArcSwap<Current<A>>,
}

/// What a listener shows to clients.
pub(crate) struct ListenerCertificates {
    /// Its name.
    pub(crate) listener: String,
    /// The default first.
    pub(crate) certificates: Arc<[Certificate]>,
    /// Why newer files were refused.
    pub(crate) refused: Option<String>,
}

/// What the next connection gets.
struct Current<A: Application> {
    name: Arc<str>,
    service: Arc<Service<A>>,
    /// Looks after the certificates.
    _watch: Option<Watch>,
}

impl<A: Application> Current<A> {
    fn new(name: Arc<str>, service: Service<A>) -> Current<A> {
        let watch = service.tls.as_ref().map(|tls| Watch::start(&name, tls, &service.metrics));
        Current { name, service: Arc::new(service), _watch: watch }
    }
}

impl<A: Application> Listener<A> {
    /// Accepts from here on.
    pub(crate) fn start(socket: Listening, prepared: Prepared<A>) -> Arc<Listener<A>> {
        let listener = Arc::new(Listener {
            socket,
            drain: prepared.service.drain.clone(),
            places: Arc::new(Places::new(prepared.places)),
            current: ArcSwap::from_pointee(Current::new(prepared.name, prepared.service)),
        });
        tokio::spawn(Arc::clone(&listener).run());
        listener
    }

    /// What it shows to clients now, under its name.
    pub(crate) fn certificates(&self) -> Option<ListenerCertificates> {
        let current = self.current.load();
        let tls = current.service.tls.as_ref()?;
        let listener = current.name.as_ref().to_owned();
        Some(ListenerCertificates { listener, certificates: tls.certificates(), refused: tls.refused() })
    }

    /// The socket, to be handed on.
    pub(crate) fn socket(&self) -> &Listening {
        &self.socket
    }

    /// From here on, connections get this.
    pub(crate) fn replace(&self, prepared: Prepared<A>) {
        self.places.resize(prepared.places);
        self.current.store(Arc::new(Current::new(prepared.name, prepared.service)));
    }

    /// Closes. Connections that are open finish what they are at.
    pub(crate) fn close(&self) {
        self.drain.end();
    }

    async fn run(self: Arc<Self>) {
        tokio::select! {
            () = self.drain.draining() => {}
            () = self.accept() => {}
        }
        if self.drain.is_paused() {
            // The queue is another process's.
            return;
        }
        // Those who are in the queue already were not refused, so they are not to be reset.
        while let Some(Ok((tcp, peer))) = self.socket.socket().accept().now_or_never() {
            if let Some(place) = self.places.try_take() {
                self.serve(tcp, peer, place).await;
            }
        }
    }

    async fn accept(&self) {
        loop {
            self.drain.paused(false).await;
            let place = self.places.take().await;
            let accepted = tokio::select! {
                biased;
                () = self.drain.paused(true) => continue,
                accepted = self.socket.socket().accept() => accepted,
            };
            match accepted {
                Ok((tcp, peer)) => self.serve(tcp, peer, place).await,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(listener = %self.current.load().name, %error, "cannot accept");
                    tokio::time::sleep(SHORTAGE).await;
                }
            }
        }
    }

    async fn serve(&self, tcp: TcpStream, peer: SocketAddr, place: Place) {
        let current = self.current.load_full();
        let everywhere = current.service.admission.place().await;
        let destination = tcp.local_addr().unwrap_or(self.socket.address());
        // A socket of `[::]` shows IPv4 in disguise, which no list of networks and no reader of logs wants to know.
        let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let (peer, destination) = (plain(peer), plain(destination));
        let listener = Arc::clone(&current.name);
        let open = current.service.counts.connection();
        let listed = current.service.sessions.open(&listener, peer);
        let session = Arc::clone(listed.session());
        let connection =
            Connection { listener, client: peer, peer, destination, secure: false, subject: None, session };
        let service = Arc::clone(&current.service);
        self.drain.spawn(async move {
            let mut serving = std::pin::pin!(serve(tcp, service, connection));
            tokio::select! {
                biased;
                () = &mut serving => {}
                () = listed.session().closed() => {
                    if listed.session().is_passed_on() {
                        // It sees to its own end, which its other side is to see as well.
                        serving.await;
                    }
                }
            }
            drop((place, everywhere, open, listed));
        });
    }
}

/// The places of a listener in fair shares: those of the one before it, where there was one.
///
/// The accept loop takes no more connections than there are places. A connection beyond its network's share waits here for a moment, with few
/// others, so that the loop goes on accepting those of other networks.
fn shared(
    kind: &'static str,
    served: usize,
    waiting: usize,
    floor: Floor,
    metrics: &Metrics,
    before: Option<&Arc<Room>>,
) -> Arc<Room> {
    let room = served as u64;
    if let Some(before) = before {
        before.resize(room, floor);
        return Arc::clone(before);
    }
    let queue = waiting.max(1) as u64;
    Room::new(Rules { kind, room, queue, wait: WAIT, floor, reserve: true }, metrics.share(kind))
}

/// Serves a connection to its end: on a lane where all that comes over it is only passed on.
async fn serve<A: Application>(tcp: TcpStream, service: Arc<Service<A>>, connection: Connection) {
    if !service.only_forwards() {
        return accepted::serve(tcp, &service, connection).await;
    }
    let Ok(tcp) = tcp.into_std() else { return };
    lanes::run(async move {
        if let Ok(tcp) = TcpStream::from_std(tcp) {
            accepted::serve(tcp, &service, connection).await;
        }
    })
    .await;
}

/// How many connections may be open. Unlike those of a semaphore, places can be taken away while they are in use.
struct Places {
    limit: AtomicUsize,
    open: AtomicUsize,
    freed: Notify,
}

/// One of them, until it is dropped.
struct Place(Arc<Places>);

impl Places {
    fn new(limit: usize) -> Places {
        Places { limit: AtomicUsize::new(limit), open: AtomicUsize::new(0), freed: Notify::new() }
    }

    fn resize(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        self.freed.notify_one();
    }

    /// Only one task, the accept loop, ever takes places, so none is taken between the look and the count.
    fn try_take(self: &Arc<Self>) -> Option<Place> {
        (self.open.load(Ordering::Relaxed) < self.limit.load(Ordering::Relaxed)).then(|| {
            self.open.fetch_add(1, Ordering::Relaxed);
            Place(Arc::clone(self))
        })
    }

    async fn take(self: &Arc<Self>) -> Place {
        loop {
            if let Some(place) = self.try_take() {
                return place;
            }
            // A place that is given up between the look and here has left a permit.
            self.freed.notified().await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_can_be_added_and_taken_away_while_they_are_in_use() {
        let places = Arc::new(Places::new(2));
        let (one, _two) = (places.take().await, places.take().await);
        assert!(places.try_take().is_none());
        places.resize(1);
        drop(one);
        assert!(places.try_take().is_none(), "two were open, one is allowed");
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take().await }
        });
        tokio::task::yield_now().await;
        places.resize(2);
        let _three = waiting.await.unwrap();
        assert!(places.try_take().is_none());
    }
}

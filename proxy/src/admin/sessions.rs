//! The connections that are open: one entry each, from its acceptance to its end, for operators to look at and to close.
//!
//! Invariants: an entry lives exactly as long as its [`Open`], so there are never more than listeners let in; what a
//! connection notes about itself costs an atomic addition or, once or twice in its life, a lock that nobody else wants.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use parking_lot::Mutex;
use pierhead_service::shares::{Flow, Pace};
use tokio_util::sync::CancellationToken;

/// All of an edge.
#[derive(Default)]
pub(crate) struct Sessions {
    last: AtomicU64,
    /// By number, so in the order of their acceptance.
    open: Mutex<BTreeMap<u64, Arc<Session>>>,
}

impl Sessions {
    /// A connection that was just accepted; it is listed until the answer is dropped.
    pub(crate) fn open(self: &Arc<Self>, listener: &Arc<str>, peer: SocketAddr) -> Open {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let session = Arc::new(Session {
            id,
            listener: Arc::clone(listener),
            peer,
            since: SystemTime::now(),
            noted: Mutex::new(Noted { client: peer, protocol: Protocol::Unknown, secure: false, to: None }),
            passed: Passed::default(),
            closed: CancellationToken::new(),
            pace: OnceLock::new(),
        });
        self.open.lock().insert(id, Arc::clone(&session));
        Open { all: Arc::clone(self), session }
    }

    /// As they are just now, the oldest first.
    pub(crate) fn list(&self) -> Vec<Arc<Session>> {
        self.open.lock().values().cloned().collect()
    }

    /// Ends a connection as if its client had gone away. `false`: there is none of this number.
    pub(crate) fn close(&self, id: u64) -> bool {
        let session = self.open.lock().get(&id).cloned();
        session.inspect(|session| session.closed.cancel()).is_some()
    }
}

/// A connection that is listed.
pub(crate) struct Open {
    all: Arc<Sessions>,
    session: Arc<Session>,
}

impl Open {
    /// Its entry.
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.all.open.lock().remove(&self.session.id);
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Session {
    id: u64,
    listener: Arc<str>,
    peer: SocketAddr,
    since: SystemTime,
    noted: Mutex<Noted>,
    passed: Passed,
    closed: CancellationToken,
    pace: OnceLock<Arc<Pace>>,
}

/// What a session of layer 4 has passed on so far.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// From the client to the server.
    pub(crate) up: AtomicU64,
    /// From the server to the client.
    pub(crate) down: AtomicU64,
}

/// What is not known from the start.
#[derive(Clone, Debug)]
struct Noted {
    client: SocketAddr,
    protocol: Protocol,
    secure: bool,
    to: Option<(Arc<str>, Arc<str>)>,
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Nothing yet.
    Unknown,
    /// HTTP/1.1 or HTTP/1.0
    Http1,
    /// HTTP/2
    Http2,
    /// Bytes are passed on as they are.
    Tcp,
}

impl Protocol {
    fn as_str(self) -> &'static str {
        match self {
            Protocol::Unknown => "unknown",
            Protocol::Http1 => "HTTP/1.1",
            Protocol::Http2 => "HTTP/2",
            Protocol::Tcp => "tcp",
        }
    }
}

impl Session {
    /// A load balancer in front has named the client.
    pub(crate) fn on_behalf_of(&self, client: SocketAddr) {
        self.noted.lock().client = client;
    }

    /// What it speaks, and whether over TLS that ends here.
    pub(crate) fn speaks(&self, protocol: Protocol, secure: bool) {
        let mut noted = self.noted.lock();
        (noted.protocol, noted.secure) = (protocol, secure);
        if protocol == Protocol::Tcp {
            // How fast it may be is for its two ends to say.
            self.moved(0);
        }
    }

    /// A session of layer 4 was connected to a server.
    pub(crate) fn to(&self, pool: &str, server: &Arc<str>) {
        self.noted.lock().to = Some((pool.into(), Arc::clone(server)));
    }

    /// Where a session of layer 4 counts its bytes.
    pub(crate) fn passed(&self) -> &Passed {
        &self.passed
    }

    /// What the listener's room knows of the connection: its place is given to another by closing it.
    pub(crate) fn flow(&self) -> Flow {
        Flow { cut: self.closed.clone(), ..Flow::default() }
    }

    /// It has a place.
    pub(crate) fn holds(&self, pace: &Arc<Pace>) {
        // It has one.
        drop(self.pace.set(Arc::clone(pace)));
    }

    /// The edge waits for the client from now on.
    pub(crate) fn waits(&self) {
        self.pace.get().inspect(|pace| pace.waits());
    }

    /// The edge works; the client has moved so many bytes.
    pub(crate) fn moved(&self, bytes: usize) {
        self.pace.get().inspect(|pace| pace.moved(bytes as u64));
    }

    /// Comes when an operator wants it closed, or others need its place.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Whether it is a session of layer 4, which ends by itself when an operator wants it closed.
    pub(crate) fn is_passed_on(&self) -> bool {
        self.noted.lock().protocol == Protocol::Tcp
    }

    /// Everything about it, as it is just now.
    pub(crate) fn view(&self) -> SessionView {
        let noted = self.noted.lock().clone();
        let (pool, server) = noted.to.unzip();
        SessionView {
            id: self.id,
            listener: Arc::clone(&self.listener),
            peer: self.peer,
            since: self.since,
            client: noted.client,
            protocol: noted.protocol.as_str(),
            secure: noted.secure,
            pool,
            server,
            received: self.passed.up.load(Ordering::Relaxed),
            sent: self.passed.down.load(Ordering::Relaxed),
        }
    }
}

/// A connection at one moment.
#[derive(Clone, Debug)]
pub(crate) struct SessionView {
    /// Counted from the start of the edge.
    pub(crate) id: u64,
    /// By its name.
    pub(crate) listener: Arc<str>,
    /// Who connected.
    pub(crate) peer: SocketAddr,
    /// For whom: the same, or whom a load balancer in front named.
    pub(crate) client: SocketAddr,
    /// When it was accepted.
    pub(crate) since: SystemTime,
    /// See [`Protocol`].
    pub(crate) protocol: &'static str,
    /// Whether over TLS that ends here.
    pub(crate) secure: bool,
    /// Of layer 4: where to.
    pub(crate) pool: Option<Arc<str>>,
    /// Of layer 4: to whom.
    pub(crate) server: Option<Arc<str>>,
    /// Of layer 4: bytes from the client.
    pub(crate) received: u64,
    /// Of layer 4: bytes to the client.
    pub(crate) sent: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_open_is_listed_and_can_be_closed() {
        let sessions = Arc::new(Sessions::default());
        let peer = "192.0.2.1:1000".parse().unwrap();
        let client = "192.0.2.9:9".parse().unwrap();
        let first = sessions.open(&"a".into(), peer);
        let second = sessions.open(&"b".into(), peer);
        second.session().on_behalf_of(client);
        second.session().speaks(Protocol::Tcp, false);
        second.session().to("redis", &"one".into());
        second.session().passed().up.store(13, Ordering::Relaxed);
        second.session().passed().down.store(24, Ordering::Relaxed);
        let seen: Vec<SessionView> = sessions.list().iter().map(|session| session.view()).collect();
        assert_eq!(seen.iter().map(|seen| (seen.id, &*seen.listener)).collect::<Vec<_>>(), [(1, "a"), (2, "b")]);
        assert_eq!((seen[0].client, seen[0].protocol, seen[0].server.as_deref()), (peer, "unknown", None));
        assert_eq!((seen[1].client, seen[1].protocol, seen[1].server.as_deref()), (client, "tcp", Some("one")));
        assert_eq!((seen[1].received, seen[1].sent), (13, 24));

        assert!(sessions.close(2));
        second.session().closed().await;
        drop(second);
        assert!(!sessions.close(2), "it is gone");
        assert!(!first.session().closed.is_cancelled());
        drop(first);
        assert!(sessions.list().is_empty());
    }
}

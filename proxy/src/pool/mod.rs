//! Servers that requests and sessions are passed on to: found, checked, chosen and reached.
//!
//! Whoever has something for a pool asks it for a [`Lease`] on a server, connects ([`connect`]), and tells the lease what
//! came of it. The lease is the pool's count of what a server is busy with; dropping it ends that.
//!
//! Invariants: a lease is never given on a server that is down, drained or full; a server's state depends on itself
//! alone, so a dead server never delays the check of another; state survives a reload.

#![allow(dead_code, reason = "those who use it come next")]

mod answer;
mod chunks;
mod connect;
mod exchange;
mod idle;
mod proxy_header;
mod server;
mod tls;
pub(crate) mod view;
mod wire;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use pierhead_config as config;
use rustls::ClientConfig;

#[allow(unused_imports, reason = "those who use it come next")]
pub(crate) use self::answer::{Answer, Framing, has_token};
pub(crate) use self::connect::{ConnectError, ServerStream, Told};
#[allow(unused_imports, reason = "those who use it come next")]
pub(crate) use self::exchange::{Exchange, ExchangeError, Question};
use self::idle::Idle;
pub(crate) use self::server::Server;
pub(crate) use self::view::{Operator, PoolView};
#[allow(unused_imports, reason = "those who use it come next")]
pub(crate) use self::wire::{Outgoing, WireError};
use crate::admin::metrics::Metrics;

/// Why a pool cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PoolError {
    /// The files of its TLS cannot be used.
    #[error("pool {pool}: {reason}")]
    Tls {
        /// Which pool.
        pool: String,
        /// Why not.
        reason: String,
    },
}

/// All pools of an edge.
#[derive(Default)]
pub(crate) struct Pools {
    pools: BTreeMap<String, Arc<Pool>>,
}

impl Pools {
    /// Makes the pools. What is known of servers that `before` has as well is kept.
    pub(crate) fn new(
        settings: &[config::Pool],
        before: Option<&Pools>,
        metrics: &Arc<Metrics>,
    ) -> Result<Pools, PoolError> {
        let make = |settings: &config::Pool| {
            let before = before.and_then(|pools| pools.get(&settings.name));
            let pool = Pool::new(settings.clone(), before.map(Arc::as_ref), metrics)?;
            Ok((settings.name.clone(), Arc::new(pool)))
        };
        Ok(Pools { pools: settings.iter().map(make).collect::<Result<_, _>>()? })
    }

    /// Begins to check and to discover, in place of those that these pools were made after. Waits a moment for the first
    /// answers of DNS, and no longer. To be called once, when nothing can stop these pools from being used any more.
    pub(crate) async fn start(&self) {}

    /// One pool.
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Pool>> {
        self.pools.get(name)
    }

    /// All of them, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.values()
    }
}

/// Servers that do the same.
pub(crate) struct Pool {
    settings: config::Pool,
    servers: ArcSwap<Vec<Arc<Server>>>,
    tls: Option<Arc<ClientConfig>>,
    idle: Arc<Idle>,
    next: AtomicUsize,
}

/// Who wants a server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish<'a> {
    /// The client, for `hash: client`.
    pub(crate) client: Option<IpAddr>,
    /// Digest or path, for `hash: digest`.
    pub(crate) key: Option<&'a str>,
    /// Servers that failed this request already: they come last.
    pub(crate) tried: &'a [Arc<str>],
}

/// Why there is no server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LeaseError {
    /// None is up.
    #[error("no server is up")]
    NoServer,
    /// All are busy, and too many wait already.
    #[error("all servers are busy and the queue is full")]
    QueueFull,
    /// All were busy for as long as one may wait.
    #[error("all servers were busy for too long")]
    QueueTimeout,
}

/// A place on a server, for as long as it is kept.
pub(crate) struct Lease {
    server: Arc<Server>,
}

impl Pool {
    fn new(settings: config::Pool, before: Option<&Pool>, _metrics: &Arc<Metrics>) -> Result<Pool, PoolError> {
        let tls = settings.tls.as_ref().map(tls::client_config).transpose();
        let tls = tls.map_err(|reason| PoolError::Tls { pool: settings.name.clone(), reason })?;
        let known = before.map(|pool| pool.servers.load_full()).unwrap_or_default();
        let servers = settings.servers.iter().filter_map(|server| {
            let config::Address::Socket(address) = server.address else { return None };
            let same = known.iter().find(|known| known.address() == address && known.name() == server.name);
            Some(same.cloned().unwrap_or_else(|| Arc::new(Server::new(&server.name, address))))
        });
        Ok(Pool {
            servers: ArcSwap::from_pointee(servers.collect()),
            tls,
            idle: Idle::new(settings.keep_alive),
            next: AtomicUsize::new(0),
            settings,
        })
    }

    /// As configured.
    pub(crate) fn settings(&self) -> &config::Pool {
        &self.settings
    }

    /// As they are just now.
    pub(crate) fn servers(&self) -> Arc<Vec<Arc<Server>>> {
        self.servers.load_full()
    }

    /// Whether there is a server that would be asked.
    pub(crate) fn available(&self) -> bool {
        !self.servers.load().is_empty()
    }

    /// A place on a server, waiting for one where all are busy.
    pub(crate) async fn lease(&self, wish: &Wish<'_>) -> Result<Lease, LeaseError> {
        let servers = self.servers.load();
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let mut order = (0..servers.len()).map(|step| &servers[(start + step) % servers.len()]);
        let fresh = order.clone().find(|server| !wish.tried.contains(server.shared_name()));
        let server = fresh.or_else(|| order.next()).ok_or(LeaseError::NoServer)?;
        Ok(Lease { server: Arc::clone(server) })
    }

    /// Everything that operators may want to know.
    pub(crate) fn view(&self) -> PoolView {
        let now = std::time::SystemTime::now();
        let servers = self.servers().iter().map(|server| server.view(now)).collect();
        PoolView {
            name: self.settings.name.clone(),
            available: self.available(),
            queued: 0,
            queue_size: self.settings.queue_size,
            servers,
            names: Vec::new(),
        }
    }

    /// The operator wants something of a server. `false`: there is none of this name.
    pub(crate) fn operate(&self, server: &str, _wanted: Operator) -> bool {
        self.servers.load().iter().any(|known| known.name() == server)
    }

    /// The operator gives a server another weight; `None`: the configured one. `false`: there is none of this name.
    pub(crate) fn set_weight(&self, server: &str, _weight: Option<u32>) -> bool {
        self.servers.load().iter().any(|known| known.name() == server)
    }

    /// Opens a connection to a leased server: TCP, the PROXY header where the pool sends one, TLS where it has it.
    pub(crate) async fn connect(&self, lease: &Lease, told: Option<&Told>) -> Result<ServerStream, ConnectError> {
        connect::connect(&self.settings, self.tls.as_ref(), lease.server(), told).await
    }
}

impl Lease {
    /// On whom.
    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The server could not be reached, or broke off before it answered.
    pub(crate) fn failed(&self) {
        self.server.note(false);
    }

    /// The server answered, with this status where it speaks HTTP.
    pub(crate) fn answered(&self, status: Option<u16>) {
        self.server.note(status.is_none_or(|status| status < 500));
    }

    /// Comes when the server goes down and its sessions are to be closed (`on_down: close`).
    pub(crate) async fn lost(&self) {
        std::future::pending::<()>().await;
    }
}

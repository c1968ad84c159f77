//! Servers that requests and sessions are passed on to: found, checked, chosen and reached.
//!
//! Whoever has something for a pool asks it for a [`Lease`] on a server, connects ([`connect`]), and tells the lease what
//! came of it. The lease is the pool's count of what a server is busy with; dropping it ends that.
//!
//! Invariants: a lease is never given on a server that is down, drained or full; a server's state depends on itself
//! alone, so a dead server never delays the check of another; state survives a reload.
//!
//! A generation of the configuration has pools of its own, with its own settings and its own list of servers, so that a
//! request never meets a server with the settings of another generation. The servers themselves are shared, and a pool
//! of which nothing has changed is, whole.

mod answer;
mod attempts;
mod check;
mod chunks;
mod connect;
mod discover;
mod dns;
mod exchange;
mod heritage;
mod idle;
mod lease;
mod members;
mod orders;
mod proxy_header;
mod queue;
mod select;
mod server;
mod spec;
mod state;
#[cfg(test)]
mod tests;
mod tls;
pub(crate) mod transport;
pub(crate) mod view;
mod wire;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use parking_lot::Mutex;
use pierhead_config as config;
use rustls::ClientConfig;
use tokio::sync::oneshot;
use tokio::time::{Duration, timeout};
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::answer::{Answer, Framing, has_token};
pub(crate) use self::attempts::{ExchangeError, Question};
use self::check::{Checker, Checks};
pub(crate) use self::connect::{ConnectError, ServerStream, Told, socket};
pub(crate) use self::exchange::Exchange;
pub(crate) use self::heritage::Heritage;
use self::idle::Idle;
pub(crate) use self::lease::{Lease, LeaseError, Wish};
use self::members::{Answers, Members};
use self::orders::Waiting;
use self::select::Open;
pub(crate) use self::server::Server;
use self::spec::Surroundings;
pub(crate) use self::tls::check_tls;
#[cfg(test)]
pub(crate) use self::tls::client_config;
pub(crate) use self::view::{NameView, Operator, PoolView, ServerView};
pub(crate) use self::wire::{Outgoing, WireError};
use crate::admin::metrics::{Metrics, PoolMetrics, ServerFailure};

/// How long a start waits for the first answers of DNS.
const FIRST_ANSWERS: Duration = Duration::from_secs(1);

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
    /// Those that end when these begin.
    before: Vec<Weak<Pool>>,
}

impl Pools {
    /// Makes the pools. One that is as it is in `before` stays the same; of others, what is known of their servers is
    /// kept. `before` goes on undisturbed until these are started.
    pub(crate) fn new(
        settings: &[config::Pool],
        before: Option<&Pools>,
        metrics: &Arc<Metrics>,
    ) -> Result<Pools, PoolError> {
        let make = |settings: &config::Pool| {
            let before = before.and_then(|pools| pools.get(&settings.name));
            let files = tls::fingerprint(settings);
            if let Some(same) = before.filter(|before| before.settings == *settings && before.files == files) {
                return Ok((settings.name.clone(), Arc::clone(same)));
            }
            let pool = Pool::new(settings.clone(), files, before.map(Arc::as_ref), metrics)?;
            Ok((settings.name.clone(), Arc::new(pool)))
        };
        let pools: BTreeMap<String, Arc<Pool>> = settings.iter().map(make).collect::<Result<_, _>>()?;
        let gone = |pool: &&Arc<Pool>| !pools.values().any(|kept| Arc::ptr_eq(kept, pool));
        let before = before.map(|before| before.iter().filter(gone).map(Arc::downgrade).collect()).unwrap_or_default();
        Ok(Pools { pools, before })
    }

    /// Begins to check and to discover, in place of those that these pools were made after. Waits a moment for the first
    /// answers of DNS, and no longer. To be called once, when nothing can stop these pools from being used any more.
    pub(crate) async fn start(&self) {
        for pool in self.before.iter().filter_map(Weak::upgrade) {
            pool.stop();
        }
        let asked: Vec<_> = self.iter().flat_map(Pool::start).collect();
        // A pool that has no server yet refuses until it has: an edge must start while DNS is away.
        drop(timeout(FIRST_ANSWERS, join_all(asked)).await);
    }

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
    /// What its files held: see [`tls::fingerprint`].
    files: u64,
    tls: Option<Arc<ClientConfig>>,
    idle: Arc<Idle>,
    members: ArcSwap<Members>,
    work: Mutex<Work>,
    surroundings: Surroundings,
    checker: Option<Arc<Checker>>,
    next: AtomicUsize,
    /// Whether the last who wanted a server found that none can be asked.
    deserted: AtomicBool,
    all_metrics: Arc<Metrics>,
    metrics: PoolMetrics,
}

/// What goes on by itself, while this generation is the newest.
#[derive(Default)]
struct Work {
    running: bool,
    /// The last good answers of DNS.
    answers: Answers,
    questions: Vec<AbortOnDropHandle<()>>,
    checks: Checks,
}

impl Pool {
    fn new(
        settings: config::Pool,
        files: u64,
        before: Option<&Pool>,
        metrics: &Arc<Metrics>,
    ) -> Result<Pool, PoolError> {
        let tls = settings.tls.as_ref().map(tls::client_config).transpose();
        let tls = tls.map_err(|reason| PoolError::Tls { pool: settings.name.clone(), reason })?;
        let checker = Checker::new(&settings, tls.as_ref());
        let checker = checker.map_err(|reason| PoolError::Tls { pool: settings.name.clone(), reason })?;
        let surroundings = before.map_or_else(
            || Surroundings { pool: settings.name.as_str().into(), queue: Arc::default(), waiting: Waiting::default() },
            |pool| pool.surroundings.clone(),
        );
        let known = before.map(Pool::servers).unwrap_or_default();
        let answers = before.map(|pool| pool.work.lock().answers.clone()).unwrap_or_default();
        let specs = members::specs(&settings, &answers);
        let members = Members::of(&specs, &known, &members::terms(&settings), &surroundings, metrics);
        Ok(Pool {
            tls,
            idle: Idle::new(settings.keep_alive),
            members: ArcSwap::from_pointee(members),
            work: Mutex::new(Work { answers, ..Work::default() }),
            metrics: metrics.pool(&settings.name),
            all_metrics: Arc::clone(metrics),
            surroundings,
            checker: checker.map(Arc::new),
            next: AtomicUsize::new(0),
            deserted: AtomicBool::new(before.is_some_and(|pool| pool.deserted.load(Ordering::Relaxed))),
            files,
            settings,
        })
    }

    /// From here on this generation says what holds for its servers. The answers come when DNS has answered, or not, what
    /// has never been asked before.
    fn start(self: &Arc<Pool>) -> Vec<oneshot::Receiver<()>> {
        let mut work = self.work.lock();
        if work.running {
            return Vec::new();
        }
        work.running = true;
        work.checks.begin();
        self.renew(&mut work);
        let mut new = Vec::new();
        for question in members::questions(&self.settings) {
            let known = work.answers.contains_key(&question);
            let (handle, first) = discover::watch(self, question);
            work.questions.push(handle);
            if !known {
                new.push(first);
            }
        }
        new
    }

    /// Ends what goes on by itself. Leases go on.
    fn stop(&self) {
        let mut work = self.work.lock();
        work.running = false;
        work.questions.clear();
        work.checks.end();
    }

    /// The servers are these from here on.
    fn renew(&self, work: &mut Work) {
        let specs = members::specs(&self.settings, &work.answers);
        let terms = members::terms(&self.settings);
        let before = self.servers();
        let members = Members::of(&specs, &before, &terms, &self.surroundings, &self.all_metrics);
        for gone in before.iter().filter(|known| specs.iter().all(|spec| spec.name != known.name())) {
            self.surroundings.waiting.keep(gone.name(), gone.orders());
        }
        for (server, spec) in members.servers.iter().zip(&specs) {
            server.adopt(spec, &terms);
            self.surroundings.waiting.given(&spec.name);
        }
        work.checks.follow(&members.servers, self.checker.as_ref());
        self.members.store(Arc::new(members));
        // Who waits looks again.
        self.surroundings.queue.wake();
    }

    /// Its name.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.surroundings.pool
    }

    /// As configured.
    pub(crate) fn settings(&self) -> &config::Pool {
        &self.settings
    }

    /// As they are just now.
    pub(crate) fn servers(&self) -> Arc<Vec<Arc<Server>>> {
        Arc::clone(&self.members.load().servers)
    }

    /// Whether there is a server that would be asked.
    pub(crate) fn available(&self) -> bool {
        self.members.load().servers.iter().any(|server| server.open() == Open::Yes)
    }

    /// Everything that operators may want to know.
    pub(crate) fn view(&self) -> PoolView {
        PoolView {
            name: self.settings.name.clone(),
            available: self.available(),
            queued: self.surroundings.queue.len(),
            queue_size: self.settings.queue_size,
            servers: self.servers().iter().map(|server| server.view()).collect(),
            names: self.names(),
        }
    }

    fn names(&self) -> Vec<NameView> {
        let work = self.work.lock();
        let view =
            |question: members::Question| work.answers.get(&question).cloned().unwrap_or_default().view(&question);
        members::questions(&self.settings).into_iter().map(view).collect()
    }

    /// The operator wants something of a server. `false`: there is none of this name.
    pub(crate) fn operate(&self, server: &str, wanted: Operator) -> bool {
        self.servers().iter().find(|known| known.name() == server).map(|server| server.operate(wanted)).is_some()
    }

    /// The operator gives a server another weight; `None`: the configured one. `false`: there is none of this name.
    pub(crate) fn set_weight(&self, server: &str, weight: Option<u32>) -> bool {
        self.servers().iter().find(|known| known.name() == server).map(|server| server.set_weight(weight)).is_some()
    }

    /// Opens a connection to a leased server: TCP, the PROXY header where the pool sends one, TLS where it has it.
    pub(crate) async fn connect(&self, lease: &Lease, told: Option<&Told>) -> Result<ServerStream, ConnectError> {
        let (server, begun) = (lease.server(), Instant::now());
        let outcome = connect::connect(&self.settings, self.tls.as_ref(), server.address(), server.host(), told).await;
        match &outcome {
            Ok(_) => server.metrics().connected(begun.elapsed()),
            Err(ConnectError::Timeout) => server.metrics().failed(ServerFailure::Timeout),
            Err(ConnectError::Tls(_) | ConnectError::Name(_)) => server.metrics().failed(ServerFailure::Tls),
            Err(ConnectError::Io(_)) => server.metrics().failed(ServerFailure::Connect),
        }
        outcome
    }
}

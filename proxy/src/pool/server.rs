//! One server of a pool: what is known of it, what it is busy with, and what the choice sees of it.
//!
//! Invariants: what the choice reads costs no lock, and says what the state says; nobody gets a place on a server that
//! is not open, or more places than there are; a server is one and the same for all generations of the configuration
//! that have it, by its pool, its name and its address, so its state and its counts outlive them.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use pierhead_service::shares::Party;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};
use twox_hash::XxHash3_64;

use super::select::{Candidate, Open};
use super::spec::{self, Orders, Spec, Surroundings, Terms};
use super::state::{self, Standing, WHOLE};
use super::view::{CheckView, Operator, ServerState, ServerView};
use crate::admin::metrics::ServerMetrics;

/// No number is given twice.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// A server.
pub(crate) struct Server {
    number: u64,
    name: Arc<str>,
    address: SocketAddr,
    host: Option<String>,
    seed: u64,
    surroundings: Surroundings,
    metrics: Arc<ServerMetrics>,
    // As configured by the newest generation, and as the operator wants it.
    weight: AtomicU32,
    ordered_weight: AtomicU32,
    backup: AtomicBool,
    places: AtomicUsize,
    // What the state comes to.
    open: AtomicU8,
    troubled: AtomicBool,
    errors_count: AtomicBool,
    /// Milliseconds from `born` to when it began to come back, and one; 0: it has its whole share.
    risen: AtomicU64,
    born: Instant,
    known: Mutex<Known>,
    active: AtomicUsize,
    /// How often its sessions were to be closed.
    departures: AtomicU64,
    departed: Notify,
    hurry: Notify,
}

struct Known {
    standing: Standing,
    terms: Terms,
    last_check: Option<LastCheck>,
}

struct LastCheck {
    at: Instant,
    took: Duration,
    failure: Option<String>,
}

impl Server {
    /// One that nothing is known of but what the operator said of its predecessor.
    pub(super) fn new(
        spec: &Spec,
        terms: &Terms,
        orders: Orders,
        surroundings: &Surroundings,
        metrics: Arc<ServerMetrics>,
    ) -> Server {
        let now = Instant::now();
        let standing = Standing::new(&terms.rules, spec.checked_first, orders.operator, now);
        let server = Server {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            name: spec.name.as_str().into(),
            address: spec.address,
            host: spec.host.clone(),
            seed: XxHash3_64::oneshot(spec.name.as_bytes()),
            surroundings: surroundings.clone(),
            metrics,
            weight: AtomicU32::new(spec.weight),
            ordered_weight: AtomicU32::new(orders.weight),
            backup: AtomicBool::new(spec.backup),
            places: AtomicUsize::new(spec.max_connections.unwrap_or(usize::MAX)),
            open: AtomicU8::new(0),
            troubled: AtomicBool::new(false),
            errors_count: AtomicBool::new(false),
            risen: AtomicU64::new(0),
            born: now,
            known: Mutex::new(Known { standing, terms: *terms, last_check: None }),
            active: AtomicUsize::new(0),
            departures: AtomicU64::new(0),
            departed: Notify::new(),
            hurry: Notify::new(),
        };
        server.show(&server.known.lock());
        server
    }

    /// No other server, of whatever pool or time, has it.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Its name in the pool.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The same, to be kept.
    pub(crate) fn shared_name(&self) -> &Arc<str> {
        &self.name
    }

    /// Where.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The host name that its address was found by, which its certificate is for.
    pub(crate) fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Its counts.
    pub(crate) fn metrics(&self) -> &Arc<ServerMetrics> {
        &self.metrics
    }

    /// Whether this is the server that is meant.
    pub(super) fn is(&self, spec: &Spec) -> bool {
        *self.name == *spec.name && self.address == spec.address && self.host == spec.host
    }

    /// What is written down of it, and what results mean, is this from here on.
    pub(super) fn adopt(self: &Arc<Server>, spec: &Spec, terms: &Terms) {
        self.weight.store(spec.weight, Ordering::Relaxed);
        self.backup.store(spec.backup, Ordering::Relaxed);
        self.places.store(spec.max_connections.unwrap_or(usize::MAX), Ordering::SeqCst);
        let mut known = self.known.lock();
        known.terms = *terms;
        let turned = known.standing.adopt(&terms.rules, Instant::now());
        self.settle(&mut known, turned);
    }

    /// What the operator has said of it.
    pub(super) fn orders(&self) -> Orders {
        Orders { operator: self.known.lock().standing.operator(), weight: self.ordered_weight.load(Ordering::Relaxed) }
    }

    /// As the choice sees it. `now` is only needed where servers start slowly.
    pub(super) fn candidate(&self, now: Option<(Instant, Duration)>, tried: &[Arc<str>]) -> Candidate {
        let active = self.active.load(Ordering::Relaxed);
        Candidate {
            open: self.open(),
            full: active >= self.places.load(Ordering::Relaxed),
            tried: tried.iter().any(|name| **name == *self.name),
            backup: self.backup.load(Ordering::Relaxed),
            weight: self.effective_weight(),
            share: now.map_or(WHOLE, |(now, slow_start)| self.share(now, slow_start)),
            active,
            seed: self.seed,
        }
    }

    /// Whether it may be asked.
    pub(super) fn open(&self) -> Open {
        match self.open.load(Ordering::SeqCst) {
            0 => Open::No,
            1 => Open::Last,
            _ => Open::Yes,
        }
    }

    /// Takes a place, if there is one. The answer is the number of departures before.
    pub(super) fn enter(&self) -> Option<u64> {
        // Read before it is seen to be open: whoever closes it does so in the other order.
        let departures = self.departures.load(Ordering::SeqCst);
        let places = self.places.load(Ordering::SeqCst);
        let one_more = |active: usize| (active < places).then_some(active + 1);
        self.active.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).ok()?;
        self.metrics.connections.inc();
        if self.open() == Open::No {
            self.leave();
            return None;
        }
        Some(departures)
    }

    /// Whether so many places are all there are.
    pub(super) fn is_limited(&self) -> bool {
        self.places.load(Ordering::Relaxed) != usize::MAX
    }

    /// A party is about to give its place back.
    pub(super) fn left_by(&self, party: &Party) {
        self.surroundings.queue.left(party);
    }

    /// Gives the place back.
    pub(super) fn leave(&self) {
        self.metrics.connections.dec();
        self.active.fetch_sub(1, Ordering::SeqCst);
        self.surroundings.queue.wake();
    }

    /// Comes when sessions that began after so many departures are to be closed.
    pub(super) async fn departed(&self, departures: u64) {
        loop {
            let mut next = std::pin::pin!(self.departed.notified());
            next.as_mut().enable();
            if self.departures.load(Ordering::SeqCst) != departures {
                return;
            }
            next.await;
        }
    }

    /// A request ended: with a status, where the server speaks HTTP, or with a failure.
    pub(super) fn requested(self: &Arc<Server>, result: Result<Option<u16>, &dyn Display>) {
        let failure = match result {
            Ok(Some(status @ 500..)) if self.errors_count.load(Ordering::Relaxed) => Some(format!("status {status}")),
            Ok(_) => None,
            Err(failure) => Some(failure.to_string()),
        };
        if failure.is_none() && !self.troubled.load(Ordering::Relaxed) {
            return;
        }
        let mut known = self.known.lock();
        let rules = known.terms.rules;
        let turned = known.standing.requested(failure.as_deref().map_or(Ok(()), Err), &rules, Instant::now());
        self.settle(&mut known, turned);
        match turned {
            Some(ServerState::Down) => self.hurry.notify_one(),
            Some(ServerState::Held) => {
                let hold = rules.passive.map_or(Duration::ZERO, |passive| passive.hold);
                self.release_after(hold, known.standing.since());
            }
            Some(ServerState::Up) | None => {}
        }
    }

    /// A check ended; the text says why it failed.
    pub(super) fn checked(&self, result: Result<(), String>, took: Duration) {
        let now = Instant::now();
        let mut known = self.known.lock();
        let rules = known.terms.rules;
        let result = result.as_ref().copied().map_err(String::as_str);
        self.metrics.checked(result.is_ok(), took);
        let turned = known.standing.checked(result, &rules, now);
        known.last_check = Some(LastCheck { at: now, took, failure: result.err().map(str::to_owned) });
        self.settle(&mut known, turned);
    }

    /// Others have found it down.
    pub(super) fn doubt(&self, reason: &str) {
        let mut known = self.known.lock();
        let rules = known.terms.rules;
        let turned = known.standing.doubt(reason, &rules, Instant::now());
        self.settle(&mut known, turned);
    }

    /// Whether checks are to come faster, and when the last one ended.
    pub(super) fn rhythm(&self) -> (bool, Option<Instant>) {
        let known = self.known.lock();
        (known.standing.changing(), known.last_check.as_ref().map(|check| check.at))
    }

    /// Comes when a check is wanted before its time.
    pub(super) async fn hurry(&self) {
        self.hurry.notified().await;
    }

    /// The operator wants something of it.
    pub(super) fn operate(&self, wanted: Operator) {
        let mut known = self.known.lock();
        if !known.standing.operate(wanted, Instant::now()) {
            return;
        }
        tracing::info!(pool = %self.surroundings.pool, server = %self.name, wanted = wanted.name(), "an operator's order");
        self.settle(&mut known, None);
        if wanted == Operator::Maintenance {
            self.depart();
        }
    }

    /// The operator gives it a weight, or the configured one back.
    pub(super) fn set_weight(&self, weight: Option<u32>) {
        self.ordered_weight
            .store(weight.map_or(spec::UNSAID, |weight| weight.min(spec::UNSAID - 1)), Ordering::Relaxed);
        let weight = weight.map_or_else(|| "configured".to_owned(), |weight| weight.to_string());
        tracing::info!(pool = %self.surroundings.pool, server = %self.name, weight, "an operator's order");
        self.surroundings.queue.wake();
    }

    /// As operators see it.
    pub(super) fn view(&self) -> ServerView {
        let (now, today) = (Instant::now(), SystemTime::now());
        let date = |at: Instant| today.checked_sub(now.saturating_duration_since(at)).unwrap_or(today);
        let places = self.places.load(Ordering::Relaxed);
        let (checks_passed, checks_failed) = self.metrics.checks();
        let known = self.known.lock();
        let standing = &known.standing;
        ServerView {
            name: self.name.to_string(),
            address: self.address,
            weight: self.effective_weight(),
            configured_weight: self.weight.load(Ordering::Relaxed),
            backup: self.backup.load(Ordering::Relaxed),
            state: standing.state(),
            operator: standing.operator(),
            reason: standing.reason().to_owned(),
            since: date(standing.since()),
            active: self.active.load(Ordering::Relaxed),
            max_connections: (places != usize::MAX).then_some(places),
            requests: self.metrics.requests() + self.metrics.sessions.get(),
            errors: self.metrics.errors(),
            checks_passed,
            checks_failed,
            last_check: known.last_check.as_ref().map(|check| CheckView {
                at: date(check.at),
                took: check.took,
                failure: check.failure.clone(),
            }),
        }
    }

    fn effective_weight(&self) -> u32 {
        match self.ordered_weight.load(Ordering::Relaxed) {
            spec::UNSAID => self.weight.load(Ordering::Relaxed),
            weight => weight,
        }
    }

    fn share(&self, now: Instant, slow_start: Duration) -> u32 {
        let Some(risen) = self.risen.load(Ordering::Relaxed).checked_sub(1) else { return WHOLE };
        let risen = self.born + Duration::from_millis(risen);
        let share = state::share(slow_start, now.saturating_duration_since(risen));
        if share == WHOLE {
            self.risen.store(0, Ordering::Relaxed);
        }
        share
    }

    /// The state may have changed: shows it, and tells whom it concerns.
    fn settle(&self, known: &mut Known, turned: Option<ServerState>) {
        let before = self.open();
        self.show(known);
        if let Some(state) = turned {
            let (pool, server, reason) = (&*self.surroundings.pool, &*self.name, known.standing.reason());
            match state {
                ServerState::Up => tracing::info!(pool, server, reason, "server is up"),
                ServerState::Down => tracing::warn!(pool, server, reason, "server is down"),
                ServerState::Held => tracing::warn!(pool, server, reason, "server is left alone for a while"),
            }
            if state == ServerState::Down && known.terms.closes {
                self.depart();
            }
        }
        // Who waits looks again: there is a server more, or, when it was the last, nothing to wait for.
        if before != self.open() {
            self.surroundings.queue.wake();
        }
    }

    fn show(&self, known: &Known) {
        let standing = &known.standing;
        let open = match (standing.operator(), standing.state()) {
            (Operator::Ready, ServerState::Up) => 2,
            (Operator::Ready, ServerState::Held) => 1,
            (Operator::Drain | Operator::Maintenance, _) | (_, ServerState::Down) => 0,
        };
        let slow = standing.risen().filter(|_| !known.terms.slow_start.is_zero());
        let risen = slow.map_or(0, |risen| risen.saturating_duration_since(self.born).as_millis() + 1);
        self.risen.store(u64::try_from(risen).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.troubled.store(standing.troubled(), Ordering::Relaxed);
        let errors_count = known.terms.rules.passive.is_some_and(|passive| passive.server_errors);
        self.errors_count.store(errors_count, Ordering::Relaxed);
        self.open.store(open, Ordering::SeqCst);
        self.metrics.state(match standing.operator() {
            Operator::Ready => standing.state().name(),
            wanted => wanted.name(),
        });
    }

    fn depart(&self) {
        self.departures.fetch_add(1, Ordering::SeqCst);
        self.departed.notify_waiters();
    }

    fn release_after(self: &Arc<Server>, hold: Duration, since: Instant) {
        let server = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(hold).await;
            if let Some(server) = server.upgrade() {
                let mut known = server.known.lock();
                let turned = known.standing.released(since, Instant::now());
                server.settle(&mut known, turned);
            }
        });
    }
}

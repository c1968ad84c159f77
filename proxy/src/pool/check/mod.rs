//! Health checks: one task a server, from the moment that its pool is started until another generation takes over.
//!
//! Invariants: a check ends within its timeout, whatever the server does or leaves undone; no server's check waits for
//! another's; what a server sends is read up to a limit; an outcome is for logs, so it holds no credential.

mod http;
mod redis;

use std::net::SocketAddr;
use std::sync::Arc;

use pierhead_config as config;
use pierhead_config::{Health, HealthCheck};
use rustls::ClientConfig;
use tokio::time::{Duration, Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::connect::{self, ConnectError, ServerStream};
use super::select::Open;
use super::{Server, tls};

/// The first check of a server that waits for it comes within this.
const LONGEST_AWAITED: Duration = Duration::from_millis(100);

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    /// It took too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke off.
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
    /// No HTTP answer.
    #[error("http: {0}")]
    Http(#[from] hyper::Error),
    /// The check cannot be asked.
    #[error("http: {0}")]
    Request(#[from] ::http::Error),
    /// An answer with a status that does not mean success.
    #[error("status {0}")]
    Status(u16),
    /// A body without the text.
    #[error("the expected text is not in the body")]
    Text,
    /// A body that is no JSON, or longer than a check reads.
    #[error("the body is no JSON, or too long")]
    NoJson,
    /// A body without the field, or with another value.
    #[error("{0} is not what is expected")]
    Field(String),
    /// A Redis server said no.
    #[error("redis: {0}")]
    Redis(#[from] redis::RedisError),
}

/// Checks the servers of a pool.
pub(super) struct Checker {
    health: Health,
    /// As connections of checks are made.
    settings: config::Pool,
    tls: Option<Arc<ClientConfig>>,
}

impl Checker {
    /// For the servers of this pool, where they are checked.
    pub(super) fn new(pool: &config::Pool, tls: Option<&Arc<ClientConfig>>) -> Result<Option<Checker>, String> {
        let Some(health) = &pool.health else { return Ok(None) };
        let mut settings = pool.clone();
        // The check's own timeout is for everything.
        settings.connect_timeout = Duration::MAX;
        if health.port.is_some() {
            // Another port is another service: it does not expect what this pool says to its servers first.
            settings.send_proxy = None;
        }
        settings.tls.clone_from(&health.tls);
        let tls = match (&health.tls, tls) {
            (Some(own), Some(tls)) if pool.tls.as_ref() == Some(own) => Some(Arc::clone(tls)),
            (Some(own), _) => Some(tls::client_config(own)?),
            (None, _) => None,
        };
        Ok(Some(Checker { health: health.clone(), settings, tls }))
    }

    /// Checks a server until the answer is dropped.
    pub(super) fn watch(self: &Arc<Checker>, server: &Arc<Server>) -> AbortOnDropHandle<()> {
        let (checker, server) = (Arc::clone(self), Arc::clone(server));
        AbortOnDropHandle::new(tokio::spawn(async move { checker.run(&server).await }))
    }

    async fn run(&self, server: &Server) {
        // Where another generation has checked it, its rhythm goes on.
        let (changing, last) = server.rhythm();
        let mut next = match last {
            Some(last) => last + self.pause(changing),
            None => Instant::now() + delay(&self.health, server.open() == Open::No, rand::random()),
        };
        loop {
            tokio::select! {
                () = sleep_until(next) => {}
                () = server.hurry() => {}
            }
            let begin = Instant::now();
            let result = match timeout(self.health.timeout, self.ask(server)).await {
                Ok(result) => result,
                Err(_) => Err(CheckError::Timeout(self.health.timeout)),
            };
            server.checked(result.map_err(|error| error.to_string()), begin.elapsed());
            next = begin + self.pause(server.rhythm().0);
        }
    }

    fn pause(&self, changing: bool) -> Duration {
        pause(&self.health, changing, rand::random())
    }

    async fn ask(&self, server: &Server) -> Result<(), CheckError> {
        match &self.health.check {
            HealthCheck::Tcp | HealthCheck::Tls => self.connect(server).await.map(drop),
            HealthCheck::Http(expected) => {
                let at = self.address(server);
                let own = server.host().map_or_else(|| at.to_string(), |host| format!("{host}:{}", at.port()));
                http::ask(self.connect(server).await?, expected, &own).await
            }
            HealthCheck::Redis(expected) => redis::ask(self.connect(server).await?, expected).await,
        }
    }

    fn address(&self, server: &Server) -> SocketAddr {
        let mut address = server.address();
        address.set_port(self.health.port.unwrap_or(address.port()));
        address
    }

    async fn connect(&self, server: &Server) -> Result<ServerStream, CheckError> {
        let address = self.address(server);
        Ok(connect::connect(&self.settings, self.tls.as_ref(), address, server.host(), None).await?)
    }
}

/// The checks that are running. `None`: it is not for this generation to check, not yet or not any more.
#[derive(Default)]
pub(super) struct Checks(Option<Vec<(Arc<Server>, AbortOnDropHandle<()>)>>);

impl Checks {
    /// There may be checks.
    pub(super) fn begin(&mut self) {
        self.0.get_or_insert_default();
    }

    /// There are none any more.
    pub(super) fn end(&mut self) {
        self.0 = None;
    }

    /// Those of servers that have gone end, those of new ones begin.
    pub(super) fn follow(&mut self, servers: &[Arc<Server>], checker: Option<&Arc<Checker>>) {
        let (Some(running), Some(checker)) = (&mut self.0, checker) else { return };
        running.retain(|(known, _)| servers.iter().any(|server| Arc::ptr_eq(server, known)));
        for server in servers {
            if !running.iter().any(|(known, _)| Arc::ptr_eq(server, known)) {
                running.push((Arc::clone(server), checker.watch(server)));
            }
        }
    }
}

/// How long the first check of a server waits. Many that begin at once are spread over a fast interval, by chance between
/// 0 and 1; those that get nothing before it over as little as makes a difference.
fn delay(health: &Health, awaited: bool, chance: f64) -> Duration {
    let whole = health.fast_interval.min(health.interval);
    let whole = if awaited { (whole / 10).min(LONGEST_AWAITED) } else { whole };
    if health.jitter == 0 { Duration::ZERO } else { whole.mul_f64(chance) }
}

/// From the beginning of one check to that of the next. Chance is between 0 and 1, and spreads the checks of many
/// servers over time.
fn pause(health: &Health, changing: bool, chance: f64) -> Duration {
    let whole = if changing { health.fast_interval.min(health.interval) } else { health.interval };
    let spread = f64::from(health.jitter.min(100)) / 100.0 * (2.0 * chance - 1.0);
    whole.mul_f64(1.0 + spread)
}

#[cfg(test)]
mod tests;

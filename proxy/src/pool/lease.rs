//! A place on a server: how it is got, what is told of it, and its end.
//!
//! Invariant: a place is counted from the moment it is given until the lease is dropped, whatever becomes of its holder.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pierhead_config::{Balance, HashBy};
use pierhead_service::shares::Party;
use tokio::time::{Instant, timeout};

use super::select::{Choice, Rule, select};
use super::{Pool, Server};

/// Who wants a server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish<'a> {
    /// The client: for `hash: client`, and the party that the place is charged to.
    pub(crate) client: Option<IpAddr>,
    /// Digest or path, for `hash: digest`.
    pub(crate) key: Option<&'a str>,
    /// Servers that failed this request already: they come last.
    pub(crate) tried: &'a [Arc<str>],
}

impl Wish<'_> {
    fn party(&self) -> Party {
        self.client.map_or(Party::NOBODY, Party::of_network)
    }
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
    departures: u64,
    /// The party that holds it, where places are limited.
    party: Option<Party>,
}

impl Pool {
    /// A place on a server, waiting for one where all are busy.
    pub(crate) async fn lease(&self, wish: &Wish<'_>) -> Result<Lease, LeaseError> {
        // Nobody goes before those who wait.
        let at_once = if self.surroundings.queue.len() == 0 { self.take(wish) } else { Ok(None) };
        let leased = match at_once {
            Ok(Some(lease)) => Ok(lease),
            Ok(None) => self.wait(wish).await,
            Err(error) => Err(error),
        };
        match &leased {
            Ok(_) => self.tell(true),
            Err(LeaseError::NoServer) => {
                self.tell(false);
                self.metrics.no_server.inc();
            }
            Err(LeaseError::QueueFull) => self.metrics.queue_full.inc(),
            Err(LeaseError::QueueTimeout) => self.metrics.queue_timeout.inc(),
        }
        leased
    }

    /// Somebody found a server, or that there is none: told when it was the other way before.
    fn tell(&self, somebody: bool) {
        if self.deserted.load(Ordering::Relaxed) != somebody
            || self.deserted.swap(!somebody, Ordering::Relaxed) != somebody
        {
            return;
        }
        let pool = &self.settings.name;
        if somebody {
            tracing::info!(pool, "a server can be asked again");
        } else {
            tracing::error!(pool, "no server can be asked: who wants one is refused");
        }
    }

    async fn wait(&self, wish: &Wish<'_>) -> Result<Lease, LeaseError> {
        let queue = &self.surroundings.queue;
        let waiting = queue.join(self.settings.queue_size, &wish.party()).ok_or(LeaseError::QueueFull)?;
        let gauge = Waits::begin(self);
        let place = async {
            loop {
                waiting.turn().await;
                if let Some(lease) = self.take(wish)? {
                    return Ok(lease);
                }
            }
        };
        let leased = timeout(self.settings.queue_timeout, place).await.unwrap_or(Err(LeaseError::QueueTimeout));
        drop(gauge);
        leased
    }

    /// A place, if there is one just now.
    fn take(&self, wish: &Wish<'_>) -> Result<Option<Lease>, LeaseError> {
        let members = self.members.load();
        let servers = &*members.servers;
        let slow_start = self.settings.slow_start;
        let slowly = (!slow_start.is_zero()).then(|| (Instant::now(), slow_start));
        let candidates = servers.iter().map(|server| server.candidate(slowly, wish.tried));
        // What others take meanwhile is seen in the next round; so many rounds are never lost by chance.
        for _ in 0..2 * servers.len() + 8 {
            let octets = address_octets(wish.client);
            let key = match self.settings.balance {
                Balance::Hash(HashBy::Client) => octets.as_ref().map(|octets| &octets[..]),
                Balance::Hash(HashBy::Digest) => wish.key.map(str::as_bytes),
                Balance::RoundRobin | Balance::LeastConnections | Balance::Random => None,
            };
            let choice = match (self.settings.balance, key) {
                (Balance::LeastConnections, _) => {
                    select(candidates.clone(), Rule::Fewest(self.next.fetch_add(1, Ordering::Relaxed)))
                }
                (Balance::Random, _) => select(candidates.clone(), Rule::OfTwo(rand::random(), rand::random())),
                (Balance::Hash(_), Some(key)) => select(candidates.clone(), Rule::Hash(key)),
                (Balance::RoundRobin | Balance::Hash(_), _) => {
                    select(candidates.clone(), Rule::InTurn(&mut members.credits.lock()))
                }
            };
            let server = match choice {
                Choice::Server(index) => servers.get(index),
                Choice::Busy => return Ok(None),
                Choice::Nobody => return Err(LeaseError::NoServer),
            };
            if let Some(server) = server
                && let Some(departures) = server.enter()
            {
                let party = server.is_limited().then(|| wish.party());
                party.iter().for_each(|party| self.surroundings.queue.took(party));
                return Ok(Some(Lease { server: Arc::clone(server), departures, party }));
            }
        }
        Ok(None)
    }
}

impl Lease {
    /// On whom.
    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The server could not be reached, or broke off before it answered.
    pub(crate) fn failed(&self, why: &dyn Display) {
        self.server.requested(Err(why));
    }

    /// The server answered, with this status where it speaks HTTP.
    pub(crate) fn answered(&self, status: Option<u16>) {
        self.server.requested(Ok(status));
    }

    /// Comes when the server goes down and its sessions are to be closed (`on_down: close`), or when the operator wants
    /// nothing on it any more.
    pub(crate) async fn lost(&self) {
        self.server.departed(self.departures).await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.party.iter().for_each(|party| self.server.left_by(party));
        self.server.leave();
    }
}

/// Counts one that waits.
struct Waits<'a> {
    pool: &'a Pool,
    since: Instant,
}

impl Waits<'_> {
    fn begin(pool: &Pool) -> Waits<'_> {
        pool.metrics.queue_length.inc();
        Waits { pool, since: Instant::now() }
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.pool.metrics.queue_length.dec();
        self.pool.metrics.waited(self.since.elapsed());
    }
}

/// An address, as it is hashed: an IPv4 client is the same however its address is written.
fn address_octets(client: Option<IpAddr>) -> Option<[u8; 16]> {
    client.map(|client| match client {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    })
}

//! One server of a pool: what is known of it and what it is busy with.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::view::{Operator, ServerState, ServerView};

/// A server.
#[derive(Debug)]
pub(crate) struct Server {
    name: Arc<str>,
    address: SocketAddr,
    failures: AtomicU64,
}

impl Server {
    /// One that nothing is known of.
    pub(crate) fn new(name: &str, address: SocketAddr) -> Server {
        Server { name: name.into(), address, failures: AtomicU64::new(0) }
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

    /// As operators see it.
    pub(super) fn view(&self, now: SystemTime) -> ServerView {
        ServerView {
            name: self.name.to_string(),
            address: self.address,
            weight: 1,
            configured_weight: 1,
            backup: false,
            state: ServerState::Up,
            operator: Operator::Ready,
            reason: String::new(),
            since: now,
            active: 0,
            max_connections: None,
            requests: 0,
            errors: 0,
            checks_passed: 0,
            checks_failed: 0,
            last_check: None,
        }
    }

    /// Takes note of how a request went.
    pub(super) fn note(&self, well: bool) {
        if well {
            self.failures.store(0, Ordering::Relaxed);
        } else {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }
}

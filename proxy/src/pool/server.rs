//! One server of a pool: what is known of it and what it is busy with.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

    /// Takes note of how a request went.
    pub(super) fn note(&self, well: bool) {
        if well {
            self.failures.store(0, Ordering::Relaxed);
        } else {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }
}

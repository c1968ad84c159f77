//! Keeps a fill registered, for as long as anybody reads from it or is about to.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pierhead_registry::client::Repository;

use super::{Fill, Found};
use crate::cache::gather::Aim;

/// Keeps a fill registered.
pub(in crate::cache) struct Lease {
    fill: Arc<Fill>,
    /// How many downloads of the whole had failed when this was taken. What upstream said to those answers an earlier request.
    since: u64,
}

impl Lease {
    /// One more.
    pub(super) fn new(fill: &Arc<Fill>) -> Lease {
        fill.users.fetch_add(1, Ordering::SeqCst);
        Lease { fill: Arc::clone(fill), since: fill.ends() }
    }

    /// The fill itself.
    pub(super) fn fill(&self) -> &Arc<Fill> {
        &self.fill
    }

    /// See [`Fill::find`].
    pub(in crate::cache) fn find(&self, position: u64, aim: &Aim, party: Option<&Repository>) -> Found {
        self.fill.find(position, aim, party, self.since)
    }

    /// How many downloads of the whole had failed when this was taken.
    pub(super) fn since(&self) -> u64 {
        self.since
    }
}

impl Clone for Lease {
    fn clone(&self) -> Lease {
        self.fill.users.fetch_add(1, Ordering::SeqCst);
        Lease { fill: Arc::clone(&self.fill), since: self.since }
    }
}

impl Deref for Lease {
    type Target = Fill;

    fn deref(&self) -> &Fill {
        &self.fill
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.fill.users.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.fill.idle.notify_one();
        }
    }
}

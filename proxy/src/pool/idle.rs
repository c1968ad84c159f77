//! Connections to servers that wait for another request.
//!
//! Invariants: a connection is kept no longer than the pool's `keep_alive`, whether anybody asks for it or not; one that
//! its server closed, or on which it said something unasked, is never handed out. The last that was kept is the first to
//! be used again: it is the least likely to be closed, and those that are not needed grow old. Each lane keeps its own.
//!
//! They belong to one generation of a pool, and in it to one server: after a change of its TLS nobody meets a connection of
//! before, and of two servers at one address that are asked for different certificates neither gets the other's.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Server;
use super::wire::Wire;
use crate::front::lanes;

/// Connections kept for one server: enough for all requests that end at about the same time.
const MOST: usize = 512;
/// Old ones are looked for so often in the time that they are kept, and are closed that much before it has passed.
const LOOKS: u32 = 16;

/// See the module.
pub(super) struct Idle {
    keep: Duration,
    kept: Mutex<Kept>,
}

/// Since when, the oldest first.
type Waiting = Vec<(Instant, Wire)>;

#[derive(Default)]
struct Kept {
    /// Those of a server, and of the lane that they were made on.
    servers: HashMap<(u64, Option<usize>), Waiting>,
    /// Whether somebody is looking after the old ones.
    watched: bool,
}

impl Idle {
    /// Keeps for so long.
    pub(super) fn new(keep: Duration) -> Arc<Idle> {
        Arc::new(Idle { keep, kept: Mutex::default() })
    }

    /// One that can be used, if there is any.
    pub(super) fn take(&self, server: &Server) -> Option<Wire> {
        let oldest = Instant::now().checked_sub(self.keep)?;
        loop {
            let (since, mut wire) = self.kept.lock().servers.get_mut(&(server.number(), lanes::current()))?.pop()?;
            if since >= oldest && wire.is_quiet() {
                return Some(wire);
            }
        }
    }

    /// Keeps one whose answer has been read to its end.
    pub(super) fn keep(self: &Arc<Self>, server: &Server, wire: Wire) {
        if self.keep.is_zero() {
            return;
        }
        let mut kept = self.kept.lock();
        let connections = kept.servers.entry((server.number(), lanes::current())).or_default();
        if connections.len() >= MOST {
            return;
        }
        connections.push((Instant::now(), wire));
        if !kept.watched {
            kept.watched = true;
            tokio::spawn(watch(Arc::downgrade(self), self.keep));
        }
    }

    /// Lets go of those that are as old as that; since when the oldest of the others is kept.
    fn expire(&self, age: Duration) -> Option<Instant> {
        let mut old = Vec::new();
        let mut kept = self.kept.lock();
        if let Some(eldest) = Instant::now().checked_sub(age) {
            kept.servers.retain(|_, connections| {
                let count = connections.partition_point(|(since, _)| *since <= eldest);
                old.extend(connections.drain(..count));
                !connections.is_empty()
            });
        }
        let oldest = kept.servers.values().filter_map(|connections| Some(connections.first()?.0)).min();
        kept.watched = oldest.is_some();
        drop(kept);
        // Closed without holding anybody up.
        drop(old);
        oldest
    }
}

/// Lets go of old connections for as long as there are any. Each look takes those along that would be next.
async fn watch(idle: Weak<Idle>, keep: Duration) {
    let pause = keep / LOOKS;
    let mut oldest = Instant::now();
    loop {
        tokio::time::sleep_until(oldest + (keep - pause)).await;
        let Some(idle) = idle.upgrade() else { return };
        match idle.expire(keep - 2 * pause) {
            Some(left) => oldest = left,
            None => return,
        }
    }
}

//! Those who wait for a place on a server of a pool that is busy.
//!
//! Invariants: who came first is served first, also before those who did not have to wait yet; no more than the pool
//! allows wait; whoever gives up, for whatever reason, leaves the line.
//!
//! The line belongs to a pool's name and not to one generation of it: a place that somebody leaves under the old
//! configuration is free for who waits under the new one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The length of the line, to be seen without the lock.
    waiting: AtomicUsize,
    line: Mutex<VecDeque<Arc<Notify>>>,
}

/// A place in the line, until it is dropped.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    queue: &'a Queue,
    turn: Arc<Notify>,
}

impl Queue {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        // Whoever leaves a place looks at this afterwards; whoever joins looks for a place afterwards. One of both sees
        // the other, in this one order of everything.
        self.waiting.load(Ordering::SeqCst)
    }

    /// Joins the line, unless `size` wait already.
    pub(super) fn join(&self, size: usize) -> Option<Waiting<'_>> {
        let mut line = self.line.lock();
        if line.len() >= size {
            return None;
        }
        let turn = Arc::new(Notify::new());
        if line.is_empty() {
            turn.notify_one();
        }
        line.push_back(Arc::clone(&turn));
        self.waiting.store(line.len(), Ordering::SeqCst);
        Some(Waiting { queue: self, turn })
    }

    /// There may be a place: the first in the line is to look.
    pub(super) fn wake(&self) {
        if self.len() == 0 {
            return;
        }
        if let Some(first) = self.line.lock().front() {
            first.notify_one();
        }
    }
}

impl Waiting<'_> {
    /// Comes when it is worth looking for a place. It may be in vain: then it comes again.
    pub(super) async fn turn(&self) {
        self.turn.notified().await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut line = self.queue.line.lock();
        let first = line.front().is_some_and(|first| Arc::ptr_eq(first, &self.turn));
        if first {
            line.pop_front();
        } else {
            line.retain(|turn| !Arc::ptr_eq(turn, &self.turn));
        }
        self.queue.waiting.store(line.len(), Ordering::SeqCst);
        // There may be more than the one place that this one was told of.
        if first && let Some(next) = line.front() {
            next.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_first_looks_and_then_the_next() {
        let queue = Queue::default();
        let (first, second) = (queue.join(2).unwrap(), queue.join(2).unwrap());
        assert!(queue.join(2).is_none(), "the line is full");
        first.turn().await;
        assert!(first.turn().now_or_never().is_none(), "nothing has changed");
        assert!(second.turn().now_or_never().is_none(), "not first");
        queue.wake();
        first.turn().await;
        drop(first);
        second.turn().await;
        assert_eq!(queue.len(), 1);
        drop(second);
        assert_eq!(queue.len(), 0);
        queue.wake();
        queue.join(1).unwrap().turn().await;
    }

    #[tokio::test]
    async fn who_gives_up_passes_on_what_it_was_told() {
        let queue = Queue::default();
        let (first, second, third) = (queue.join(9).unwrap(), queue.join(9).unwrap(), queue.join(9).unwrap());
        drop(second);
        queue.wake();
        drop(first);
        third.turn().await;
    }
}

//! Answers that are made, or on their way out, over one connection, and whether their client takes them.
//!
//! What a client of HTTP/1 does not take, the kernel sees. One of HTTP/2 may take everything of a connection and nothing of one answer, which
//! then would hold its room for ever: only we see that nobody asks for the next piece.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use pierhead_service::shares::{Flow, Pace};
use tokio::time::Instant;

/// Nobody waits for the client.
const OURS: u64 = u64::MAX;

/// Those of a connection.
#[derive(Debug)]
pub(crate) struct Departures {
    begun: Instant,
    open: Mutex<Vec<Weak<AtomicU64>>>,
    /// What passes over the connection, and that it is to end because others need its place.
    flow: Flow,
    /// That of the connection's own place.
    pace: OnceLock<Arc<Pace>>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Departure {
    begun: Instant,
    departures: Weak<Departures>,
    watched: bool,
    /// When the last piece was given, in milliseconds; [`OURS`] while the next one is made.
    given: Arc<AtomicU64>,
}

impl Default for Departures {
    fn default() -> Departures {
        let flow = Flow { counted: Some(Arc::default()), ..Flow::default() };
        Departures { begun: Instant::now(), open: Mutex::default(), flow, pace: OnceLock::new() }
    }
}

impl Departures {
    /// A new answer. `watched`: whether it is for us to see that it is taken.
    pub(super) fn depart(self: &Arc<Self>, watched: bool) -> Departure {
        let given = Arc::new(AtomicU64::new(OURS));
        let mut open = self.open.lock();
        open.retain(|other| other.strong_count() > 0);
        open.push(Arc::downgrade(&given));
        drop(open);
        if let Some(pace) = self.pace.get() {
            pace.moved(0);
        }
        Departure { begun: self.begun, departures: Arc::downgrade(self), watched, given }
    }

    /// What is known of the connection's client, for the rooms that it has a place in.
    pub(crate) fn flow(&self) -> Flow {
        self.flow.clone()
    }

    /// The connection has a place: while nothing is being answered over it, the server waits for the client.
    pub(crate) fn holds(&self, pace: &Arc<Pace>) {
        // It has one place.
        drop(self.pace.set(Arc::clone(pace)));
    }

    /// Whether nothing is being answered.
    pub(crate) fn are_none(&self) -> bool {
        self.open.lock().iter().all(|open| open.strong_count() == 0)
    }

    /// Whether the client has taken nothing of one of them for so long.
    pub(crate) fn are_stuck(&self, patience: Duration) -> bool {
        let now = since(self.begun);
        let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let is_stuck = |given: u64| given != OURS && now.saturating_sub(given) > patience;
        self.open.lock().iter().filter_map(Weak::upgrade).any(|given| is_stuck(given.load(Ordering::Relaxed)))
    }
}

impl Departure {
    /// The client wants the next piece.
    pub(super) fn is_wanted(&self) {
        self.given.store(OURS, Ordering::Relaxed);
    }

    /// It was given one.
    pub(super) fn is_given(&self) {
        if self.watched {
            self.given.store(since(self.begun), Ordering::Relaxed);
        }
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        // This one still counts as open here.
        if let Some(departures) = self.departures.upgrade()
            && let Some(pace) = departures.pace.get()
            && departures.open.lock().iter().filter(|open| open.strong_count() > 0).count() <= 1
        {
            pace.waits();
        }
    }
}

fn since(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(OURS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_client_that_takes_nothing_is_stuck() {
        let (departures, patience) = (Arc::new(Departures::default()), Duration::from_secs(5));
        assert!(departures.are_none());
        let (slow, stuck, not_ours) = (departures.depart(true), departures.depart(true), departures.depart(false));
        not_ours.is_given();
        slow.is_given();
        stuck.is_given();
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(!departures.are_stuck(patience));
        slow.is_wanted();
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(departures.are_stuck(patience));
        drop(stuck);
        assert!(!departures.are_stuck(patience), "the next piece is ours to make");
        assert!(!departures.are_none());
        drop((slow, not_ours));
        assert!(departures.are_none());
    }
}

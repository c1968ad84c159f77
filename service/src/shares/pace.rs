//! How fast a client moves bytes while the server waits for it.
//!
//! Invariant: only time that the server spends waiting for the client counts. A slow disk, a slow database or a slow upstream never makes
//! a client slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The lowest rate that a client must keep while others wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Bytes a second. 0: no client is too slow.
    pub rate: u64,
    /// The rate is measured over this long, so a client has as long before it counts as slow.
    pub grace: Duration,
}

/// What the server knows of a client besides what a permit's holder says.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    /// Bytes that the client's socket counts.
    pub counted: Option<Arc<AtomicU64>>,
    /// Is cancelled when the room wants its unit back.
    pub cut: CancellationToken,
}

/// The pace of one permit.
#[derive(Debug)]
pub struct Pace {
    floor: Floor,
    state: Mutex<State>,
    flow: Flow,
}

/// Everything that decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    /// Since when the server waits for the client.
    waiting: Option<Instant>,
    waited: Duration,
    moved: u64,
    /// What `waited` and `moved` were when the present window began.
    mark: (Duration, u64),
    /// Bytes a second in the last whole window.
    rate: Option<u64>,
}

impl Pace {
    /// A client that the server is waiting for from `now` on.
    pub(super) fn new(floor: Floor, flow: Flow, now: Instant) -> Pace {
        let pace = Pace { floor, state: Mutex::new(State::default()), flow };
        pace.begin(now);
        pace
    }

    /// Begins anew: a client that had to wait for its unit could move nothing until now.
    pub(super) fn begin(&self, now: Instant) {
        let mark = (Duration::ZERO, self.counted());
        *self.state.lock() = State { waiting: Some(now), mark, ..State::default() };
    }

    fn counted(&self) -> u64 {
        self.flow.counted.as_ref().map_or(0, |counted| counted.load(Ordering::Relaxed))
    }

    /// The server waits for the client from now on.
    pub fn waits(&self) {
        self.state.lock().waits(Instant::now());
    }

    /// The server works; the client has moved so many bytes.
    pub fn moved(&self, bytes: u64) {
        self.state.lock().moved(bytes, Instant::now());
    }

    /// Whether the room wants its unit back.
    pub fn is_cut(&self) -> bool {
        self.flow.cut.is_cancelled()
    }

    /// Comes when the room wants its unit back.
    pub fn when_cut(&self) -> CancellationToken {
        self.flow.cut.clone()
    }

    pub(super) fn cut(&self) {
        self.flow.cut.cancel();
    }

    /// Bytes, without the end of the wait.
    #[cfg(test)]
    pub(super) fn credit(&self, bytes: u64) {
        self.state.lock().moved += bytes;
    }

    /// The rate of a client that the server waits for and that is below the floor.
    pub(super) fn slow(&self, now: Instant) -> Option<u64> {
        let counted = self.counted();
        self.state.lock().slow(self.floor, counted, now)
    }
}

impl State {
    fn waits(&mut self, now: Instant) {
        self.waiting.get_or_insert(now);
    }

    fn moved(&mut self, bytes: u64, now: Instant) {
        if let Some(since) = self.waiting.take() {
            self.waited += now.saturating_duration_since(since);
        }
        self.moved += bytes;
    }

    /// Looks at the window, and begins another when it is as long as the grace.
    fn slow(&mut self, floor: Floor, counted: u64, now: Instant) -> Option<u64> {
        let since = self.waiting?;
        let (waited, moved) = (self.waited + now.saturating_duration_since(since), self.moved + counted);
        let span = waited.saturating_sub(self.mark.0);
        if span >= floor.grace {
            let milliseconds = u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1);
            self.rate = Some(moved.saturating_sub(self.mark.1).saturating_mul(1000) / milliseconds);
            self.mark = (waited, moved);
        }
        self.rate.filter(|rate| *rate < floor.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: Floor = Floor { rate: 100, grace: Duration::from_secs(10) };

    /// What a client does, and whether it is slow afterwards.
    enum Step {
        /// The server waits so many seconds.
        Wait(u64),
        /// Bytes come, and the server works so many seconds.
        Move(u64, u64),
    }
    use Step::{Move, Wait};

    #[test]
    fn only_a_client_that_keeps_the_server_waiting_is_slow() {
        for (steps, expected) in [
            (&[Wait(9)][..], None),
            (&[Wait(10)], Some(0)),
            // A byte every second.
            (&[Wait(5), Move(5, 0), Wait(5)], Some(0)),
            (&[Wait(5), Move(900, 0), Wait(5)], Some(90)),
            (&[Wait(5), Move(1000, 0), Wait(5)], None),
            // While the server works nothing counts.
            (&[Wait(1), Move(0, 3600), Wait(5)], None),
            (&[Wait(5), Move(0, 3600), Wait(5)], Some(0)),
            (&[Wait(10), Move(0, 0)], None),
            // Each window anew.
            (&[Wait(5), Move(1_000_000, 0), Wait(5), Wait(10)], Some(0)),
            (&[Wait(10), Move(1_000_000, 0), Wait(10)], None),
        ] {
            let mut now = Instant::now();
            let mut state = State { waiting: Some(now), ..State::default() };
            let mut slow = None;
            for step in steps {
                match step {
                    Wait(seconds) => {
                        state.waits(now);
                        now += Duration::from_secs(*seconds);
                    }
                    Move(bytes, seconds) => {
                        state.moved(*bytes, now);
                        now += Duration::from_secs(*seconds);
                    }
                }
                slow = state.slow(FLOOR, 0, now);
            }
            assert_eq!(slow, expected, "{state:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_a_socket_counts_are_the_clients() {
        let counted = Arc::new(AtomicU64::new(7_000_000));
        let pace = Pace::new(FLOOR, Flow { counted: Some(Arc::clone(&counted)), ..Flow::default() }, Instant::now());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(pace.slow(Instant::now()), Some(0), "what came before is another request's");
        counted.fetch_add(1000, Ordering::Relaxed);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(pace.slow(Instant::now()), None);
    }
}

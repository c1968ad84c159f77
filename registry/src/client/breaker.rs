//! The circuit breaker of one endpoint: an address that does not answer is left alone for a while.
//!
//! Closed lets everything through. A failure to connect, or to answer in time, opens it for the cool-down, in which
//! nobody waits for it. After that one request is let through as a probe; all others go on avoiding the endpoint until
//! it comes back. So a dead address costs at most one time-out in a cool-down. An address that answered somebody else
//! meanwhile is not dead, only slow in one thing: such a failure opens nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub(super) struct Breaker {
    cool_down: Duration,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// When it last answered anybody.
    answered: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Instant },
    Probing,
}

/// Leave to ask an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// It is in good standing.
    Granted,
    /// This request finds out whether it is back. It must report, or [`Breaker::abandoned`].
    Probe,
}

impl Breaker {
    /// Closed.
    pub(super) fn new(cool_down: Duration) -> Breaker {
        Breaker { cool_down, inner: Mutex::new(Inner { state: State::Closed, answered: None }) }
    }

    /// Asks for leave; `None` while it is open.
    pub(super) fn admit(&self, now: Instant) -> Option<Leave> {
        let mut inner = self.lock();
        match inner.state {
            State::Closed => Some(Leave::Granted),
            State::Open { until } if until <= now => {
                inner.state = State::Probing;
                Some(Leave::Probe)
            }
            State::Open { .. } | State::Probing => None,
        }
    }

    /// Whether [`Breaker::admit`] would give leave.
    pub(super) fn would_admit(&self, now: Instant) -> bool {
        match self.lock().state {
            State::Closed => true,
            State::Open { until } => until <= now,
            State::Probing => false,
        }
    }

    /// The endpoint answered, whatever it said. True when that is news.
    pub(super) fn succeeded(&self, now: Instant) -> bool {
        let mut inner = self.lock();
        inner.answered = Some(now);
        std::mem::replace(&mut inner.state, State::Closed) != State::Closed
    }

    /// It did not answer a request that began then. True when that is news.
    pub(super) fn failed(&self, began: Instant, now: Instant) -> bool {
        let mut inner = self.lock();
        if inner.answered.is_some_and(|answered| answered > began) {
            return false;
        }
        let before = std::mem::replace(&mut inner.state, State::Open { until: now + self.cool_down });
        before == State::Closed
    }

    /// A probe ended without finding out, because whoever asked went away: the next one may try.
    pub(super) fn abandoned(&self, now: Instant) {
        let mut inner = self.lock();
        if inner.state == State::Probing {
            inner.state = State::Open { until: now };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Breaker, Leave};

    #[test]
    fn opens_probes_and_closes() {
        let (cool_down, start) = (Duration::from_secs(10), Instant::now());
        let breaker = Breaker::new(cool_down);
        assert_eq!(breaker.admit(start), Some(Leave::Granted));
        assert!(breaker.failed(start, start));
        assert!(!breaker.failed(start, start));
        assert_eq!(breaker.admit(start + cool_down - Duration::from_nanos(1)), None);

        let later = start + cool_down;
        assert!(breaker.would_admit(later));
        assert_eq!(breaker.admit(later), Some(Leave::Probe));
        assert!(!breaker.would_admit(later));
        assert_eq!(breaker.admit(later), None, "one probe at a time");
        breaker.failed(later, later);
        assert_eq!(breaker.admit(later), None, "a failed probe opens it anew");

        let again = later + cool_down;
        assert_eq!(breaker.admit(again), Some(Leave::Probe));
        breaker.abandoned(again);
        assert_eq!(breaker.admit(again), Some(Leave::Probe), "an abandoned probe is no verdict");
        assert!(breaker.succeeded(again));
        assert!(!breaker.succeeded(again));
        assert_eq!(breaker.admit(again), Some(Leave::Granted));
        breaker.abandoned(again);
        assert_eq!(breaker.admit(again), Some(Leave::Granted));
    }

    #[test]
    fn slow_in_one_thing_is_not_dead() {
        let (second, start) = (Duration::from_secs(1), Instant::now());
        let breaker = Breaker::new(second);
        breaker.succeeded(start + second);
        assert!(!breaker.failed(start, start + 2 * second));
        assert!(breaker.would_admit(start + 2 * second));
        assert!(breaker.failed(start + second, start + 2 * second));
        assert!(!breaker.would_admit(start + 2 * second));
    }
}

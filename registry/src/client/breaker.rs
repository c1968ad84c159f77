//! The circuit breaker of one endpoint: an address that does not answer is left alone until it does.
//!
//! Closed lets everything through. A failure to connect, or to answer in time, opens it. From then on nobody waits for
//! the endpoint: a lookout ([`super::lookout`]) asks it now and then, on nobody's behalf, and closes the breaker when it
//! answers. So a dead address costs one time-out, and those who come later nothing. An address that answered somebody
//! else meanwhile is not dead, only slow in one thing: such a failure opens nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    open: bool,
    /// When it last answered anybody.
    answered: Option<Instant>,
}

impl Breaker {
    /// Whether the endpoint is not to be asked.
    pub(super) fn is_open(&self) -> bool {
        self.lock().open
    }

    /// The endpoint answered, whatever it said. True when that is news.
    pub(super) fn succeeded(&self, now: Instant) -> bool {
        let mut inner = self.lock();
        inner.answered = Some(now);
        std::mem::take(&mut inner.open)
    }

    /// It did not answer a request that began then. True when that is news.
    pub(super) fn failed(&self, began: Instant) -> bool {
        let mut inner = self.lock();
        if inner.answered.is_some_and(|answered| answered > began) {
            return false;
        }
        !std::mem::replace(&mut inner.open, true)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::Breaker;

    #[test]
    fn opens_once_and_closes_once() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        assert!(!breaker.is_open());
        assert!(breaker.failed(start));
        assert!(!breaker.failed(start));
        assert!(breaker.is_open());
        assert!(breaker.succeeded(start));
        assert!(!breaker.succeeded(start));
        assert!(!breaker.is_open());
    }

    #[test]
    fn slow_in_one_thing_is_not_dead() {
        let (second, start) = (Duration::from_secs(1), Instant::now());
        let breaker = Breaker::default();
        breaker.succeeded(start + second);
        assert!(!breaker.failed(start));
        assert!(!breaker.is_open());
        assert!(breaker.failed(start + second));
        assert!(breaker.is_open());
    }
}

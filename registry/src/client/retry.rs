//! Which endpoint is asked next, and when: in order, past those whose breaker is open or who were ruled out, then again
//! after a pause that doubles.
//!
//! The first endpoint that answers decides, a 404 included: endpoints are addresses of one registry. Somebody who is
//! not there is only asked elsewhere, never twice; when nobody is left to ask, the failure is told at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::ClientError;
use super::failure::Failure;
use super::lookout;
use super::upstream::Upstream;

/// The first pause.
const FIRST: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST: Duration = Duration::from_secs(5);

/// The pause after the `round`th time (from 0): doubling, and between half and all of that by `jitter` (0 to 1), so
/// that those who failed together do not come back together.
pub(super) fn pause(round: u32, jitter: f64) -> Duration {
    let whole = FIRST.saturating_mul(2_u32.saturating_pow(round)).min(LONGEST);
    whole / 2 + (whole / 2).mul_f64(jitter.clamp(0.0, 1.0))
}

/// The endpoints in order, those to `avoid` last.
pub(super) fn order(endpoints: usize, avoid: &[usize]) -> Vec<usize> {
    let (last, first): (Vec<_>, Vec<_>) = (0..endpoints).partition(|index| avoid.contains(index));
    first.into_iter().chain(last).collect()
}

/// How many rounds somebody who found an address dead waits for it.
const PATIENCE: u32 = 3;

/// The attempts at one request.
pub(super) struct Attempts {
    upstream: Arc<Upstream>,
    /// Those still worth asking.
    order: Vec<usize>,
    position: usize,
    round: u32,
    /// Somebody was asked.
    asked: bool,
    last: Failure,
}

impl Attempts {
    /// None yet.
    pub(super) fn new(upstream: &Arc<Upstream>, avoid: &[usize]) -> Attempts {
        Attempts {
            upstream: Arc::clone(upstream),
            order: order(upstream.endpoints.len(), avoid),
            position: 0,
            round: 0,
            asked: false,
            last: Failure::dead("no address answered lately"),
        }
    }

    /// Whom to ask next; the last failure when that is nobody.
    pub(super) async fn next(&mut self) -> Result<Turn, ClientError> {
        loop {
            self.upstream.check_limit(Instant::now())?;
            while let Some(&index) = self.order.get(self.position) {
                self.position += 1;
                if let Some(turn) = Turn::admit(&self.upstream, index) {
                    self.asked = true;
                    return Ok(turn);
                }
            }
            // Whoever finds an address dead gives it a moment, for it may only be restarting; who comes later does not wait.
            let patient = self.asked && self.round < PATIENCE;
            if self.round >= self.upstream.settings.retries || !(self.hope() || patient) {
                return Err(self.exhausted());
            }
            sleep(pause(self.round, rand::random())).await;
            self.round += 1;
            self.position = 0;
        }
    }

    /// Fails at once when there is nobody to ask just now; for those who must wait for something else first.
    pub(super) fn check(&self) -> Result<(), ClientError> {
        self.upstream.check_limit(Instant::now())?;
        if self.hope() { Ok(()) } else { Err(self.exhausted()) }
    }

    fn hope(&self) -> bool {
        self.order.iter().any(|index| self.upstream.endpoints[*index].is_available())
    }

    fn exhausted(&self) -> ClientError {
        self.last.clone().into_error(self.upstream.name())
    }

    /// Takes note of a failure; it comes back when it is final.
    pub(super) fn failed(&mut self, turn: Turn, failure: Failure) -> Result<(), ClientError> {
        let index = turn.index;
        turn.settle(Some(&failure));
        let failure = failure.at(self.upstream.endpoints[index].host(), None);
        match failure {
            Failure::NotFound
            | Failure::Unconfirmed(_)
            | Failure::Unauthorized
            | Failure::Forbidden
            | Failure::Rejected(_)
            | Failure::AccountRefused(_)
            | Failure::RateLimited(..) => {
                return Err(failure.into_error(self.upstream.name()));
            }
            Failure::Invalid(_) | Failure::Astray(_) => {
                if let Some(at) = self.order.iter().position(|other| *other == index) {
                    self.order.remove(at);
                    // Always true, for it was asked.
                    if at < self.position {
                        self.position -= 1;
                    }
                }
            }
            Failure::Dead(_) | Failure::Broken(_) => {}
        }
        self.last = failure;
        Ok(())
    }
}

/// Leave to ask one endpoint once, whose breaker then hears how it went.
pub(super) struct Turn {
    upstream: Arc<Upstream>,
    /// Which.
    pub(super) index: usize,
    began: Instant,
}

impl Turn {
    /// If the endpoint is available.
    pub(super) fn admit(upstream: &Arc<Upstream>, index: usize) -> Option<Turn> {
        upstream.endpoints[index].is_available().then(|| Turn::insist(upstream, index))
    }

    /// Even if it does not.
    pub(super) fn insist(upstream: &Arc<Upstream>, index: usize) -> Turn {
        Turn { upstream: Arc::clone(upstream), index, began: Instant::now() }
    }

    /// Reports how it went (`None`: well).
    pub(super) fn settle(self, failure: Option<&Failure>) {
        let endpoint = &self.upstream.endpoints[self.index];
        let (registry, host) = (self.upstream.name(), endpoint.host());
        if endpoint.transport.is_some() {
            return;
        }
        match failure {
            Some(Failure::Dead(why)) => {
                if endpoint.breaker.failed(self.began) {
                    let reason = &why.reason;
                    tracing::warn!(registry, host, reason, "address does not answer; leaving it alone until it does");
                    lookout::start(&self.upstream, self.index);
                }
            }
            _ => {
                if endpoint.breaker.succeeded(Instant::now()) {
                    tracing::info!(registry, host, "address answers again");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{order, pause};

    #[test]
    fn pauses_double_with_jitter() {
        for (round, jitter, milliseconds) in [
            (0, 0.0, 50),
            (0, 1.0, 100),
            (1, 0.5, 150),
            (3, 1.0, 800),
            (20, 0.0, 2500),
            (u32::MAX, 1.0, 5000),
            (0, 9.0, 100),
        ] {
            assert_eq!(pause(round, jitter), Duration::from_millis(milliseconds), "{round} {jitter}");
        }
    }

    #[test]
    fn avoided_endpoints_go_last() {
        assert_eq!(order(3, &[]), [0, 1, 2]);
        assert_eq!(order(3, &[0]), [1, 2, 0]);
        assert_eq!(order(2, &[0, 1, 7]), [0, 1]);
    }
}

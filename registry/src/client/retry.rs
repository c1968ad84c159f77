//! Which endpoint is asked next, and when: in order, past those whose breaker is open or who were ruled out, then again
//! after a pause that doubles.
//!
//! A no of one address asks the next: the addresses before the last are mirrors, which may be partial, refuse, or want a
//! pause. What all of them come to is for [`super::verdict`] to say. An address that cannot do better is not asked again
//! for a request; when none is left, the failure is final at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::ClientError;
use super::exchange::Caller;
use super::failure::Failure;
use super::lookout;
use super::pauses::{Kind, PATIENCE as PAUSED};
use super::upstream::Upstream;
use super::verdict;

/// The first pause.
const FIRST: Duration = Duration::from_millis(100);
/// The first pause of a client, and its further tries, where the edge answers so that the client does not try again itself.
const FIRST_OF_CLIENTS: Duration = Duration::from_millis(10);
const ROUNDS_OF_CLIENTS: u32 = 2;
/// The longest.
const LONGEST: Duration = Duration::from_secs(5);

/// The pause after the `round`th time (from 0): doubling, and between half and all of that by `jitter` (0 to 1), so
/// that those who failed together do not come back together.
pub(super) fn pause(round: u32, jitter: f64) -> Duration {
    pause_from(FIRST, round, jitter)
}

fn pause_from(first: Duration, round: u32, jitter: f64) -> Duration {
    let whole = first.saturating_mul(2_u32.saturating_pow(round)).min(LONGEST);
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
    /// How many rounds come after the first.
    rounds: u32,
    /// The first pause.
    first: Duration,
    /// An address was asked and found dead.
    dead: bool,
    /// How each endpoint failed last.
    failures: Vec<Option<Failure>>,
}

impl Attempts {
    /// None yet.
    pub(super) fn new(upstream: &Arc<Upstream>, avoid: &[usize]) -> Attempts {
        Attempts {
            upstream: Arc::clone(upstream),
            order: order(upstream.endpoints.len(), avoid),
            position: 0,
            round: 0,
            rounds: upstream.settings.retries,
            first: FIRST,
            dead: false,
            failures: vec![None; upstream.endpoints.len()],
        }
    }

    /// None yet, and one at most of each address.
    pub(super) fn once(upstream: &Arc<Upstream>, avoid: &[usize]) -> Attempts {
        Attempts { rounds: 0, ..Attempts::new(upstream, avoid) }
    }

    /// None yet, and as many as a client makes who gets the failure itself.
    pub(super) fn of_a_client(upstream: &Arc<Upstream>) -> Attempts {
        Attempts { rounds: ROUNDS_OF_CLIENTS, first: FIRST_OF_CLIENTS, ..Attempts::new(upstream, &[]) }
    }

    /// The registry itself is asked alone, as if its mirrors had said no.
    pub(super) fn of_the_registry(mut self) -> Attempts {
        let last = self.failures.len().saturating_sub(1);
        self.order.retain(|index| *index == last);
        for failure in self.failures.iter_mut().take(last) {
            *failure = Some(Failure::NotFound);
        }
        self
    }

    /// The endpoint at `index` is asked before the others.
    pub(super) fn first_of_all(mut self, index: usize) -> Attempts {
        self.order.sort_by_key(|other| *other != index);
        self
    }

    /// What the failures so far come to.
    pub(super) fn concluded(&self) -> Option<Failure> {
        verdict::conclude(self.failures.clone())
    }

    /// The addresses are asked once more, in another way: all but those that did not answer in time.
    pub(super) fn in_another_way(&mut self) {
        let is_final = |failure: &Failure| {
            let silent = matches!(failure, Failure::Silent(_) | Failure::Astray(_));
            // Said by a token service, and not of the way to ask.
            silent || matches!(failure, Failure::Unauthorized | Failure::Forbidden | Failure::AccountRefused(_))
        };
        let known = self.failures.iter().enumerate();
        let open = known.filter(|(_, failure)| !failure.as_ref().is_some_and(is_final));
        self.order = open.map(|(index, _)| index).collect();
        // A no to the first way is none to what is asked now.
        for failure in &mut self.failures {
            failure.take_if(|failure| matches!(failure, Failure::Unconfirmed(_)));
        }
        (self.position, self.round, self.rounds) = (0, 0, self.upstream.settings.retries);
    }

    /// The next endpoint to ask; what the failures come to when there is none.
    pub(super) async fn next(&mut self) -> Result<Turn, ClientError> {
        loop {
            while let Some(&index) = self.order.get(self.position) {
                self.position += 1;
                if let Some(turn) = Turn::admit(&self.upstream, index) {
                    return Ok(turn);
                }
            }
            // A request that finds an address dead gives it a moment, for it may only be restarting; later ones do not.
            let patient = self.dead && self.round < PATIENCE && !self.order.is_empty();
            if self.is_decided() || self.round >= self.rounds || !(self.hope() || patient) {
                return Err(self.exhausted());
            }
            sleep(pause_from(self.first, self.round, rand::random())).await;
            self.round += 1;
            self.position = 0;
        }
    }

    /// Fails at once when no endpoint would be asked now in any of these ways; for callers that must wait for something else first.
    pub(super) fn check(&self, ways: &[Kind], caller: &Caller) -> Result<(), ClientError> {
        if !self.hope() {
            return Err(self.exhausted());
        }
        let pauses = self.order.iter().map(|index| (self.upstream.blob_pause(*index, ways, caller), index));
        match pauses.min() {
            Some((left, index)) if left > PAUSED => {
                let host = self.upstream.endpoints[*index].host();
                Err(Failure::rate_limited(left).at(host, Some(429)).into_error(self.upstream.name()))
            }
            _ => Ok(()),
        }
    }

    fn hope(&self) -> bool {
        self.order.iter().any(|index| self.upstream.endpoints[*index].is_available())
    }

    /// Whether the last address, whose word counts, has said what it will say again.
    fn is_decided(&self) -> bool {
        let asked = self.failures.last().is_some_and(Option::is_some);
        asked && !self.order.contains(&(self.failures.len() - 1))
    }

    fn exhausted(&self) -> ClientError {
        let unasked = || {
            let host = self.upstream.endpoints.last().map_or("", |endpoint| endpoint.host());
            Failure::dead("the address did not answer lately").at(host, None)
        };
        self.concluded().unwrap_or_else(unasked).into_error(self.upstream.name())
    }

    /// Takes note of a failure of an endpoint that is asked in another way at once.
    pub(super) fn note(&mut self, index: usize, failure: Failure) {
        if let Some(known) = self.failures.get_mut(index) {
            *known = Some(failure);
        }
    }

    /// Takes note of a failure.
    pub(super) fn failed(&mut self, turn: Turn, failure: Failure) {
        let index = turn.index;
        turn.settle(Some(&failure));
        let failure = failure.at(self.upstream.endpoints[index].host(), None);
        self.dead |= matches!(failure, Failure::Dead(_));
        let before = self.failures.get(index).and_then(Option::as_ref);
        if !verdict::is_worth_another_try(&failure, before)
            && let Some(at) = self.order.iter().position(|other| *other == index)
        {
            self.order.remove(at);
            // Always true, for it was asked.
            if at < self.position {
                self.position -= 1;
            }
        }
        self.note(index, failure);
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
            Some(Failure::Dead(why) | Failure::Silent(why)) => {
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

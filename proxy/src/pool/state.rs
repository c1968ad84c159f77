//! The state of one server: what checks, requests and the operator make of it. Pure.
//!
//! Invariants: a result changes the server that it is about and no other; a server that is not checked never stays down.
//!
//! A server is believed to work before anything is known of it, since an edge that starts must not refuse what it could
//! serve; but that belief is weak: the first check that fails ends it, as with haproxy.

use pierhead_config::Passive;
use tokio::time::{Duration, Instant};

use super::view::{Operator, ServerState};

/// A full share, in thousandths.
pub(super) const WHOLE: u32 = 1000;

/// The least share within a slow start, in thousandths.
const LEAST: u32 = 10;

/// What results mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// Checks in a row that bring a server up.
    pub(super) rise: u32,
    /// Checks in a row that take it down.
    pub(super) fall: u32,
    /// Whether there are checks at all.
    pub(super) checked: bool,
    /// What failing requests mean.
    pub(super) passive: Option<Passive>,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    state: ServerState,
    operator: Operator,
    /// Whether a check has ended yet.
    proven: bool,
    /// Checks in a row that contradict the state.
    contrary: u32,
    /// Requests in a row that failed.
    failures: u32,
    since: Instant,
    reason: String,
    risen: Option<Instant>,
}

impl Standing {
    /// Of a server that nothing is known of.
    pub(super) fn new(rules: &Rules, checked_first: bool, operator: Operator, now: Instant) -> Standing {
        let waits = rules.checked && checked_first;
        let (state, reason) = match (waits, rules.checked) {
            (true, _) => (ServerState::Down, "not checked yet"),
            (false, true) => (ServerState::Up, "believed to be up until it is checked"),
            (false, false) => (ServerState::Up, "not checked"),
        };
        Standing {
            state,
            operator,
            proven: false,
            contrary: 0,
            failures: 0,
            since: now,
            reason: reason.to_owned(),
            risen: None,
        }
    }

    pub(super) fn state(&self) -> ServerState {
        self.state
    }

    pub(super) fn operator(&self) -> Operator {
        self.operator
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }

    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// Since when it has been coming back, for the slow start.
    pub(super) fn risen(&self) -> Option<Instant> {
        self.risen
    }

    /// Whether a request that goes well would change anything.
    pub(super) fn troubled(&self) -> bool {
        self.failures > 0 || self.state == ServerState::Held
    }

    /// Whether rise or fall are being counted: then checks come faster.
    pub(super) fn changing(&self) -> bool {
        self.contrary > 0 || !self.proven
    }

    /// The rules are others from here on.
    pub(super) fn adopt(&mut self, rules: &Rules, now: Instant) -> Option<ServerState> {
        if rules.checked || self.state != ServerState::Down {
            return None;
        }
        self.proven = false;
        Some(self.rise("not checked any more", now))
    }

    /// Others have found it down, who know it longer. Only where checks say otherwise in the end, and have not yet.
    pub(super) fn doubt(&mut self, reason: &str, rules: &Rules, now: Instant) -> Option<ServerState> {
        let believed = rules.checked && !self.proven && self.state == ServerState::Up;
        believed.then(|| self.sink(ServerState::Down, reason.to_owned(), now))
    }

    /// A check ended; a failure says why.
    pub(super) fn checked(&mut self, result: Result<(), &str>, rules: &Rules, now: Instant) -> Option<ServerState> {
        let first = !std::mem::replace(&mut self.proven, true);
        match (self.state, result) {
            (ServerState::Up, Ok(())) => {
                self.contrary = 0;
                if first {
                    "check passed".clone_into(&mut self.reason);
                }
                None
            }
            (ServerState::Up, Err(failure)) => {
                self.contrary += 1;
                (first || self.contrary >= rules.fall).then(|| self.sink(ServerState::Down, failure.to_owned(), now))
            }
            (ServerState::Down | ServerState::Held, Ok(())) => {
                self.contrary += 1;
                (first || self.contrary >= rules.rise).then(|| self.rise("check passed", now))
            }
            (ServerState::Down | ServerState::Held, Err(failure)) => {
                self.contrary = 0;
                failure.clone_into(&mut self.reason);
                None
            }
        }
    }

    /// A request ended; a failure says why.
    pub(super) fn requested(&mut self, result: Result<(), &str>, rules: &Rules, now: Instant) -> Option<ServerState> {
        let passive = rules.passive?;
        let Err(failure) = result else {
            self.failures = 0;
            // It has shown what the hold was to wait for.
            return (self.state == ServerState::Held).then(|| self.rise("a request went well", now));
        };
        self.failures = self.failures.saturating_add(1);
        if self.state != ServerState::Up || self.failures < passive.failures {
            return None;
        }
        self.proven = true;
        let state = if rules.checked { ServerState::Down } else { ServerState::Held };
        let reason = format!("{} requests in a row failed, the last one: {failure}", self.failures);
        Some(self.sink(state, reason, now))
    }

    /// The hold that began at `since` is over.
    pub(super) fn released(&mut self, since: Instant, now: Instant) -> Option<ServerState> {
        let same = self.state == ServerState::Held && self.since == since;
        same.then(|| self.rise("left alone for long enough", now))
    }

    /// The operator wants something else. Whether it is something else.
    pub(super) fn operate(&mut self, wanted: Operator, now: Instant) -> bool {
        let before = std::mem::replace(&mut self.operator, wanted);
        if before != wanted && wanted == Operator::Ready {
            self.risen = Some(now);
        }
        before != wanted
    }

    fn rise(&mut self, reason: &str, now: Instant) -> ServerState {
        self.failures = 0;
        self.risen = Some(now);
        self.turn(ServerState::Up, reason.to_owned(), now)
    }

    fn sink(&mut self, state: ServerState, reason: String, now: Instant) -> ServerState {
        self.risen = None;
        self.turn(state, reason, now)
    }

    fn turn(&mut self, state: ServerState, reason: String, now: Instant) -> ServerState {
        self.state = state;
        self.reason = reason;
        self.since = now;
        self.contrary = 0;
        state
    }
}

/// The share of its weight, in thousandths, that a server gets this long after it came up.
pub(super) fn share(slow_start: Duration, risen_for: Duration) -> u32 {
    if risen_for >= slow_start {
        return WHOLE;
    }
    let thousandths = risen_for.as_micros() * u128::from(WHOLE) / slow_start.as_micros().max(1);
    u32::try_from(thousandths).unwrap_or(WHOLE).clamp(LEAST, WHOLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECKED: Rules = Rules { rise: 2, fall: 3, checked: true, passive: None };
    const PASSIVE: Passive = Passive { failures: 3, server_errors: true, hold: Duration::from_secs(10) };

    /// What happens to a server: a check that passed or failed, a request that went well or not, the end of its hold.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Pass,
        Fail,
        Well,
        Ill,
        Over,
    }

    use Event::{Fail, Ill, Over, Pass, Well};

    fn run(rules: &Rules, checked_first: bool, events: &[Event]) -> (Standing, String) {
        let mut now = Instant::now();
        let mut standing = Standing::new(rules, checked_first, Operator::Ready, now);
        let mut seen = String::new();
        for event in events {
            now += Duration::from_secs(1);
            match event {
                Pass => standing.checked(Ok(()), rules, now),
                Fail => standing.checked(Err("no answer"), rules, now),
                Well => standing.requested(Ok(()), rules, now),
                Ill => standing.requested(Err("no connection"), rules, now),
                Over => standing.released(standing.since(), now),
            };
            seen.push(match standing.state() {
                ServerState::Up => 'u',
                ServerState::Down => 'd',
                ServerState::Held => 'h',
            });
        }
        (standing, seen)
    }

    #[test]
    fn rise_and_fall_are_counted_in_a_row() {
        let passive = Rules { passive: Some(PASSIVE), ..CHECKED };
        let unchecked = Rules { checked: false, ..passive };
        for (rules, first, events, seen) in [
            // The first check that fails ends the belief of the beginning.
            (CHECKED, false, &[Fail, Pass, Pass][..], "ddu"),
            (CHECKED, false, &[Pass, Fail, Fail, Pass, Fail, Fail, Fail][..], "uuuuuud"),
            (CHECKED, false, &[Fail, Pass, Fail, Pass, Pass][..], "ddddu"),
            // Checked first: down until the first success, which is enough.
            (CHECKED, true, &[Pass, Fail, Fail, Fail][..], "uuud"),
            (CHECKED, true, &[Fail, Pass, Pass][..], "ddu"),
            // Requests mean nothing unless they are to.
            (CHECKED, false, &[Pass, Ill, Ill, Ill, Ill][..], "uuuuu"),
            (passive, false, &[Pass, Ill, Ill, Well, Ill, Ill, Ill][..], "uuuuuud"),
            // Down by requests, up by checks, whatever requests still say.
            (passive, false, &[Ill, Ill, Ill, Ill, Well, Pass, Well, Pass, Ill, Ill][..], "uuddddduuu"),
            // Without checks there is the hold, or a request that goes well.
            (unchecked, true, &[Ill, Ill, Ill, Ill, Over, Ill, Ill, Ill][..], "uuhhuuuh"),
            (unchecked, false, &[Ill, Ill, Ill, Well][..], "uuhu"),
            (unchecked, false, &[Over][..], "u"),
        ] {
            assert_eq!(run(&rules, first, events).1, seen, "{events:?}");
        }
    }

    #[test]
    fn checks_come_faster_while_something_is_being_counted() {
        for (events, changing) in [
            (&[][..], true),
            (&[Pass][..], false),
            (&[Pass, Fail][..], true),
            (&[Pass, Fail, Pass][..], false),
            (&[Fail][..], false),
            (&[Fail, Pass][..], true),
            (&[Fail, Pass, Pass][..], false),
        ] {
            assert_eq!(run(&CHECKED, false, events).0.changing(), changing, "{events:?}");
        }
    }

    #[test]
    fn a_hold_that_ended_otherwise_does_not_end_the_next() {
        let rules = Rules { checked: false, passive: Some(PASSIVE), ..CHECKED };
        let (mut standing, _) = run(&rules, false, &[Ill, Ill, Ill]);
        let first = standing.since();
        let later = first + Duration::from_secs(1);
        standing.requested(Ok(()), &rules, later);
        for _ in 0..3 {
            standing.requested(Err("no connection"), &rules, later);
        }
        assert_eq!(standing.released(first, later), None);
        assert_eq!(standing.state(), ServerState::Held);
    }

    #[test]
    fn a_server_that_is_not_checked_any_more_is_not_down_for_ever() {
        let (mut standing, _) = run(&CHECKED, false, &[Fail]);
        assert_eq!(standing.adopt(&CHECKED, Instant::now()), None);
        let unchecked = Rules { checked: false, ..CHECKED };
        assert_eq!(standing.adopt(&unchecked, Instant::now()), Some(ServerState::Up));
        assert_eq!(standing.adopt(&unchecked, Instant::now()), None);
    }

    #[test]
    fn reasons_are_the_newest() {
        let (standing, _) = run(&CHECKED, false, &[Fail, Pass]);
        assert_eq!(standing.reason(), "no answer");
        let (standing, _) = run(&CHECKED, false, &[Fail, Pass, Pass]);
        assert_eq!(standing.reason(), "check passed");
        let rules = Rules { passive: Some(PASSIVE), ..CHECKED };
        let (standing, _) = run(&rules, false, &[Ill, Ill, Ill]);
        assert_eq!(standing.reason(), "3 requests in a row failed, the last one: no connection");
    }

    #[test]
    fn a_share_grows_with_time() {
        let minute = Duration::from_secs(60);
        for (slow_start, risen_for, expected) in [
            (Duration::ZERO, Duration::ZERO, 1000),
            (minute, Duration::ZERO, 10),
            (minute, Duration::from_secs(6), 100),
            (minute, Duration::from_secs(30), 500),
            (minute, minute, 1000),
            (minute, Duration::from_secs(100), 1000),
        ] {
            assert_eq!(share(slow_start, risen_for), expected, "{risen_for:?} of {slow_start:?}");
        }
    }

    #[test]
    fn only_what_comes_back_starts_slowly() {
        assert!(run(&CHECKED, false, &[Pass, Pass]).0.risen().is_none());
        assert!(run(&CHECKED, false, &[Fail, Pass, Pass]).0.risen().is_some());
        let (mut standing, _) = run(&CHECKED, false, &[Pass]);
        assert!(standing.operate(Operator::Maintenance, Instant::now()));
        assert!(!standing.operate(Operator::Maintenance, Instant::now()));
        assert!(standing.risen().is_none());
        assert!(standing.operate(Operator::Ready, Instant::now()));
        assert!(standing.risen().is_some());
    }
}

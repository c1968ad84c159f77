//! How many requests a client, or all for a registry, may make.
//!
//! Invariants: memory is fixed, however many clients there are; a limit that a reload leaves as it is goes on counting;
//! what is refused is not counted, so a client that asks too often gets what it may have, and not nothing.
//!
//! Counts are kept in two windows, each long enough for a burst and what a pause earns; what the older still weighs
//! shrinks as the younger fills. Each window is a count-min sketch, which may take one client's requests for another's
//! when there are very many, but never forgets any.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pierhead_config as config;
use pierhead_config::{Globs, Rate};
use pierhead_service::told::contains;
use pingora_limits::estimator::Estimator;

use super::admission::Client;

/// The sketch: so many counters in so many rows, 512 KiB for each limit of clients.
const ROWS: usize = 4;
const COLUMNS: usize = 8192;

/// Most of a request to come that is told to wait: nobody comes back later than this.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// The limits of one configuration.
#[derive(Default)]
pub(crate) struct RequestLimits {
    clients: Option<Arc<Limit>>,
    registries: HashMap<String, Arc<Limit>>,
    exempt_networks: Vec<ipnet::IpNet>,
    exempt_repositories: Globs,
}

impl RequestLimits {
    /// Those of a configuration. What the one before counted under the same limit goes on.
    pub(crate) fn new(
        limits: &config::Limits,
        registries: &[config::Registry],
        before: Option<&RequestLimits>,
    ) -> RequestLimits {
        let keep = |known: Option<&Arc<Limit>>, rate: Rate, columns: usize| match known {
            Some(known) if known.rate == rate => Arc::clone(known),
            _ => Arc::new(Limit::new(rate, columns, Instant::now())),
        };
        let registry = |registry: &config::Registry| {
            let known = before.and_then(|before| before.registries.get(&registry.name));
            Some((registry.name.clone(), keep(known, registry.rate?, 1)))
        };
        let known = before.and_then(|before| before.clients.as_ref());
        RequestLimits {
            clients: limits.requests_per_client.map(|rate| keep(known, rate, COLUMNS)),
            registries: registries.iter().filter_map(registry).collect(),
            exempt_networks: limits.exempt_networks.clone(),
            exempt_repositories: limits.exempt_repositories.clone(),
        }
    }

    /// Whether a repository's requests count. Only worth finding out its name where some do not.
    pub(crate) fn exempts_some(&self) -> bool {
        !self.exempt_repositories.is_empty()
    }

    /// One request of a client; the error is how long it should wait. `repository` is what it is about, as far as that is
    /// known.
    pub(crate) fn client(&self, client: IpAddr, repository: Option<&str>) -> Result<(), Duration> {
        let Some(limit) = &self.clients else { return Ok(()) };
        if self.exempts(client, repository) {
            return Ok(());
        }
        limit.take(&Client::from(client), Instant::now())
    }

    /// One request for a registry; the error is how long to wait.
    pub(crate) fn registry(&self, registry: &str, client: IpAddr, repository: Option<&str>) -> Result<(), Duration> {
        let Some(limit) = self.registries.get(registry) else { return Ok(()) };
        if self.exempts(client, repository) {
            return Ok(());
        }
        limit.take(&(), Instant::now())
    }

    fn exempts(&self, client: IpAddr, repository: Option<&str>) -> bool {
        contains(&self.exempt_networks, client)
            || repository.is_some_and(|repository| self.exempt_repositories.matches(repository))
    }
}

/// One limit, for any number of keys.
struct Limit {
    rate: Rate,
    start: Instant,
    /// Of the newest window, counted from the start.
    newest: AtomicU64,
    turning: Mutex<()>,
    /// The newest and the one before, in turn.
    windows: [Estimator; 2],
}

/// What a key has used, and where in the window that is. Everything that decides.
struct Used {
    before: isize,
    now: isize,
    /// How much of the newest window has passed, 0 to 1.
    passed: f64,
}

impl Limit {
    fn new(rate: Rate, columns: usize, start: Instant) -> Limit {
        let rows = if columns == 1 { 1 } else { ROWS };
        Limit {
            rate,
            start,
            newest: AtomicU64::new(0),
            turning: Mutex::new(()),
            windows: [Estimator::new(rows, columns), Estimator::new(rows, columns)],
        }
    }

    /// Counts one request, or says how long to wait.
    fn take<K: Hash>(&self, key: &K, now: Instant) -> Result<(), Duration> {
        let windows = now.saturating_duration_since(self.start).as_secs_f64() / window(self.rate).as_secs_f64();
        // Bounded by what a clock can show.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and far from 2^53")]
        let number = windows as u64;
        self.turn(number);
        let (current, other) = match number % 2 {
            0 => (&self.windows[0], &self.windows[1]),
            _ => (&self.windows[1], &self.windows[0]),
        };
        let used = Used { before: other.get(key), now: current.get(key), passed: windows.fract() };
        match wait(self.rate, &used) {
            None => {
                current.incr(key, 1);
                Ok(())
            }
            Some(wait) => Err(wait),
        }
    }

    /// Begins the windows up to this one.
    fn turn(&self, number: u64) {
        if self.newest.load(Ordering::Acquire) >= number {
            return;
        }
        let _turning = self.turning.lock();
        let newest = self.newest.load(Ordering::Acquire);
        if newest >= number {
            return;
        }
        if newest + 1 < number {
            self.windows[0].reset();
            self.windows[1].reset();
        } else {
            self.windows[usize::from(number % 2 == 1)].reset();
        }
        self.newest.store(number, Ordering::Release);
    }
}

/// As long as it takes to earn all that may come at once.
fn window(rate: Rate) -> Duration {
    Duration::from_secs_f64(f64::from(allowance(rate)) / f64::from(rate.per_second.max(1)))
}

/// What a window allows.
fn allowance(rate: Rate) -> u32 {
    rate.per_second.saturating_add(rate.burst).max(1)
}

/// How long until there is room for another request; `None`: there is. Pure.
#[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn wait(rate: Rate, used: &Used) -> Option<Duration> {
    let (most, before, now) = (f64::from(allowance(rate)), used.before.max(0) as f64, used.now.max(0) as f64);
    if before * (1.0 - used.passed) + now < most {
        return None;
    }
    // Within this window as far as the one before makes room, else within the next, where this one does.
    let until = if now < most { 1.0 - (most - now) / before } else { 2.0 - most / now };
    let wait = window(rate).mul_f64((until - used.passed).max(0.0));
    Some(wait.clamp(Duration::from_millis(1), LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate { per_second, burst }
    }

    #[test]
    fn a_pause_earns_a_burst_and_no_more() {
        let start = Instant::now();
        let limit = Limit::new(rate(10, 20), COLUMNS, start);
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let many = |milliseconds, tries| (0..tries).filter(|_| limit.take(&"a", at(milliseconds)).is_ok()).count();
        assert_eq!(many(0, 100), 30);
        assert_eq!(limit.take(&"b", at(0)), Ok(()), "another's");
        assert_eq!(many(2900, 10), 0);
        // Over a minute of asking all the time, 10 a second come through.
        let steady: usize = (30..630).map(|tenth| many(tenth * 100, 3)).sum();
        assert!((590..=630).contains(&steady), "{steady}");
        assert_eq!(many(1_000_000, 100), 30, "after a pause");
    }

    #[test]
    fn who_waits_as_told_is_served() {
        let start = Instant::now();
        for (per_second, burst) in [(1, 0), (1, 10), (10, 0), (10, 20), (1000, 1)] {
            let limit = Limit::new(rate(per_second, burst), 1, start);
            let mut now = start;
            let mut served = 0;
            while served < 200 {
                match limit.take(&(), now) {
                    Ok(()) => served += 1,
                    Err(wait) => {
                        now += wait + Duration::from_micros(10);
                        assert_eq!(limit.take(&(), now), Ok(()), "{per_second} {burst} after {wait:?}");
                        served += 1;
                    }
                }
            }
            let seconds = now.duration_since(start).as_secs_f64();
            let expected = f64::from(200 - per_second.saturating_add(burst).min(200)) / f64::from(per_second);
            assert!((seconds - expected).abs() <= expected * 0.15 + 1.0, "{per_second} {burst}: {seconds} {expected}");
        }
    }

    fn limits(per_second: u32) -> config::Limits {
        config::Limits {
            requests_per_client: Some(rate(per_second, 0)),
            exempt_networks: vec!["10.0.0.0/8".parse().unwrap()],
            exempt_repositories: Globs::new(vec!["library/*".to_owned()]).unwrap(),
            ..config::Limits::default()
        }
    }

    #[test]
    fn the_exempt_are_neither_counted_nor_refused() {
        let limits = RequestLimits::new(&limits(1), &[], None);
        let client = "2001:db8::1".parse().unwrap();
        let neighbour = "2001:db8::2".parse().unwrap();
        for (client, repository, served) in [
            (client, Some("library/alpine"), true),
            (client, Some("team/app"), true),
            (neighbour, Some("team/app"), false),
            (client, None, false),
            (client, Some("library/alpine"), true),
            ("10.0.0.1".parse().unwrap(), None, true),
            ("10.0.0.1".parse().unwrap(), None, true),
            ("::ffff:10.0.0.1".parse().unwrap(), None, true),
            ("192.0.2.1".parse().unwrap(), None, true),
        ] {
            assert_eq!(limits.client(client, repository).is_ok(), served, "{client} {repository:?}");
        }
        assert_eq!(limits.registry("unlimited", client, None), Ok(()));
    }

    #[test]
    fn counting_goes_on_under_an_equal_limit() {
        let first = RequestLimits::new(&limits(1), &[], None);
        let client = "192.0.2.1".parse().unwrap();
        assert!(first.client(client, None).is_ok());
        let equal = RequestLimits::new(&limits(1), &[], Some(&first));
        assert!(equal.client(client, None).is_err());
        let other = RequestLimits::new(&limits(2), &[], Some(&equal));
        assert!(other.client(client, None).is_ok());
    }
}

//! Rate limits: a host that said "too many requests" is asked more slowly, or not at all for as long as it asked.
//!
//! A pause belongs to the host that sent the 429, to the kind of request that it was sent for, and to the caller's account that was
//! shown: the 429 of a redirect's target, of a manifest, or of another caller's account stops nothing else. Where the answer says how long (`Retry-After`), nothing of that
//! kind goes out before. Where it does not say, requests go out one after the other, at an interval that doubles with each
//! further 429 and shrinks with each success. Waiting for a short time is better than a refusal, which clients often
//! answer with another request at once; so a request waits up to [`PATIENCE`] for its turn.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use moka::sync::Cache;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use tokio::time::Instant;

/// What upstream may ask for at most; beyond that we look again ourselves.
const LONGEST: Duration = Duration::from_secs(3600);
/// `Retry-After: 0` must not become a busy loop.
const SHORTEST: Duration = Duration::from_secs(1);
/// The first interval between requests when upstream does not say.
const FIRST: Duration = Duration::from_millis(100);
/// The longest interval while only a few things are limited: they may have a limit of their own.
const FEW: Duration = Duration::from_millis(400);
/// The longest when everything is. It is shorter than [`PATIENCE`], so that a client that asks for one thing after the other is never refused
/// by the edge itself.
const ALL: Duration = Duration::from_secs(4);
/// So many different things limited in a row, without a success in between, mean everything.
const MANY: usize = 4;
/// An interval below this is none.
const NONE: Duration = Duration::from_millis(10);
/// How long a request waits for its turn.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Redirects name hosts at will, so their number is bounded.
const KEPT: u64 = 4096;

/// What kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// HEAD of a manifest: many registries do not count it.
    ManifestHead,
    /// GET of a manifest.
    Manifest,
    /// HEAD of a blob: a GET decides, so its limit stops no GET.
    BlobHead,
    /// GET of a blob.
    Blob,
    /// GET of a blob with a range: clients ask for blobs without one, so its limit stops none of those.
    BlobPart,
    /// A list of tags.
    Tags,
    /// A list of referrers.
    Referrers,
    /// A token.
    Token,
    /// Anything else.
    Other,
}

/// Whose pause it is: a host with its port, a kind of request, and an account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PauseKey {
    /// As [`super::failure::host_of`] writes it.
    pub(super) host: String,
    /// Of request.
    pub(super) kind: Kind,
    /// The caller's account, as a hash. `None`: the endpoint's own, or none.
    pub(super) account: Option<u64>,
}

/// All pauses of one registry's client.
pub(super) struct Pauses {
    known: Cache<PauseKey, Arc<Mutex<Pace>>>,
}

#[derive(Clone, Debug)]
struct Pace {
    /// Nothing goes out before.
    until: Instant,
    /// When the next request may go out.
    next: Instant,
    interval: Duration,
    /// When the interval last grew: answers to requests from before are no news.
    grown: Instant,
    /// What was limited since the last success, as hashes.
    limited: Vec<u64>,
}

impl Pauses {
    /// None.
    pub(super) fn new() -> Pauses {
        Pauses { known: Cache::builder().max_capacity(KEPT).time_to_idle(LONGEST).build() }
    }

    fn with<T>(&self, key: &PauseKey, work: impl FnOnce(&mut Pace) -> T) -> Option<T> {
        let pace = self.known.get(key)?;
        Some(work(&mut pace.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// How long requests of this kind are stopped still.
    pub(super) fn left(&self, key: &PauseKey, now: Instant) -> Duration {
        self.with(key, |pace| pace.until.max(pace.next).saturating_duration_since(now)).unwrap_or_default()
    }

    /// Whether nothing of this kind may go out.
    pub(super) fn is_stopped(&self, key: &PauseKey, now: Instant) -> bool {
        self.with(key, |pace| pace.until > now).unwrap_or_default()
    }

    /// Takes a turn: how long to wait for it. It is an error, and no turn is taken, when that is longer than `patience`.
    pub(super) fn turn(&self, key: &PauseKey, now: Instant, patience: Duration) -> Result<Duration, Duration> {
        let turn = self.with(key, |pace| {
            let turn = pace.until.max(pace.next).max(now);
            let wait = turn - now;
            if wait > patience {
                return Err(wait);
            }
            if pace.interval >= NONE || pace.until > now {
                pace.next = turn + pace.interval;
            }
            Ok(wait)
        });
        turn.unwrap_or(Ok(Duration::ZERO))
    }

    /// A request for `thing` that went out at `sent` got a 429, which asked for `asked`. True when that is news.
    pub(super) fn limited(
        &self,
        key: &PauseKey,
        thing: u64,
        sent: Instant,
        now: Instant,
        asked: Option<Duration>,
    ) -> bool {
        let fresh = Pace { until: now, next: now, interval: Duration::ZERO, grown: sent, limited: Vec::new() };
        let pace = self.known.get_with_by_ref(key, || Arc::new(Mutex::new(fresh)));
        let mut pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
        if pace.limited.len() < MANY && !pace.limited.contains(&thing) {
            pace.limited.push(thing);
        }
        let news = pace.interval < NONE;
        if let Some(asked) = asked {
            pace.until = pace.until.max(now + asked);
            pace.interval = pace.interval.max(FIRST);
        } else if sent >= pace.grown {
            let longest = if pace.limited.len() < MANY { FEW } else { ALL };
            pace.interval = (pace.interval * 2).clamp(FIRST, longest);
            pace.grown = now;
            pace.next = pace.next.max(now + pace.interval);
        }
        news
    }

    /// A request that went out at `sent` was answered with something else.
    pub(super) fn answered(&self, key: &PauseKey, sent: Instant) {
        self.with(key, |pace| {
            if sent < pace.grown {
                return;
            }
            pace.limited.clear();
            pace.interval = pace.interval * 7 / 10;
            if pace.interval < NONE {
                pace.interval = Duration::ZERO;
            }
        });
    }
}

/// How long a 429 asks to wait: seconds or a date; `None` where it does not say.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::trim);
    let asked = text.and_then(|text| match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok().map(|date| date.duration_since(now).unwrap_or_default()),
    });
    asked.map(|asked| asked.clamp(SHORTEST, LONGEST))
}

/// How many requests are left: `ratelimit-remaining`, as `100` or `100;w=21600`.
pub(super) fn remaining(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get("ratelimit-remaining")?.to_str().ok()?;
    text.split(';').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use reqwest::header::{HeaderMap, HeaderValue};
    use tokio::time::Instant;

    use super::{ALL, FEW, FIRST, Kind, PATIENCE, PauseKey, Pauses, remaining, retry_after};

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static(value))])
    }

    fn key(host: &str, kind: Kind) -> PauseKey {
        PauseKey { host: host.to_owned(), kind, account: None }
    }

    #[test]
    fn reads_retry_after() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, seconds) in [
            ("5", Some(5)),
            (" 7 ", Some(7)),
            ("0", Some(1)),
            ("86400", Some(3600)),
            ("99999999999999999999", None),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(1)),
            ("Mon, 06 Nov 1995 08:49:00 GMT", Some(3600)),
            ("soon", None),
            ("-1", None),
        ] {
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(retry_after(&headers("retry-after", value), now), expected, "{value}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn reads_what_is_left() {
        for (value, left) in [("100;w=21600", Some(100)), ("0", Some(0)), (" 7 ; w=1", Some(7)), ("many", None)] {
            assert_eq!(remaining(&headers("ratelimit-remaining", value)), left, "{value}");
        }
        assert_eq!(remaining(&HeaderMap::new()), None);
    }

    #[test]
    fn a_pause_is_that_of_its_host_and_kind() {
        let (pauses, now) = (Pauses::new(), Instant::now());
        let limited = key("a", Kind::Manifest);
        let of = |account| PauseKey { account: Some(account), ..limited.clone() };
        assert!(pauses.limited(&of(1), 1, now, now, Some(Duration::from_secs(3600))));
        assert_eq!((pauses.is_stopped(&of(1), now), pauses.is_stopped(&of(2), now)), (true, false));
        assert_eq!(pauses.turn(&limited, now, PATIENCE), Ok(Duration::ZERO));
        assert!(pauses.limited(&limited, 1, now, now, Some(Duration::from_secs(3600))));
        assert_eq!(pauses.turn(&limited, now, PATIENCE), Err(Duration::from_secs(3600)));
        let others = [Kind::ManifestHead, Kind::Blob, Kind::BlobPart, Kind::BlobHead].map(|kind| key("a", kind));
        for other in others.into_iter().chain([key("b", Kind::Manifest)]) {
            assert_eq!(pauses.turn(&other, now, PATIENCE), Ok(Duration::ZERO), "{other:?}");
        }
        assert_eq!(pauses.turn(&limited, now + Duration::from_secs(3600), PATIENCE), Ok(Duration::ZERO));
    }

    #[test]
    fn without_a_time_requests_go_one_after_the_other() {
        let (pauses, now, key) = (Pauses::new(), Instant::now(), key("a", Kind::Manifest));
        assert_eq!(pauses.turn(&key, now, PATIENCE), Ok(Duration::ZERO));
        // Of many that went out together the first counts.
        for thing in 0..30 {
            pauses.limited(&key, thing, now, now + Duration::from_millis(1), None);
        }
        let now = now + Duration::from_millis(1);
        for turn in 1..=30 {
            assert_eq!(pauses.turn(&key, now, PATIENCE), Ok(FIRST * turn), "{turn}");
        }
        // Success makes it faster, until there is nothing to wait for.
        let later = now + Duration::from_secs(4);
        for _ in 0..10 {
            pauses.answered(&key, later);
        }
        assert_eq!(pauses.turn(&key, later, PATIENCE), Ok(Duration::ZERO));
        assert_eq!(pauses.turn(&key, later, PATIENCE), Ok(Duration::ZERO));
    }

    #[test]
    fn one_limited_thing_hardly_slows_others_and_a_limited_registry_is_left_alone() {
        let again = |things: u64| {
            let (pauses, key) = (Pauses::new(), key("a", Kind::Manifest));
            let mut now = Instant::now();
            for time in 0..20 {
                pauses.limited(&key, time % things, now, now, None);
                now += Duration::from_secs(60);
            }
            pauses.limited(&key, 0, now, now, None);
            pauses.left(&key, now)
        };
        assert_eq!(again(1), FEW);
        assert_eq!(again(10), ALL);
    }
}

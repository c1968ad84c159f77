//! Rate limits: an upstream that said "too many requests" is left in peace by everybody, for as long as it asked.
//!
//! The time is kept for the whole registry, not for a request or a caller: asking again before it is over only makes
//! upstream prolong it. Without `Retry-After` the pause is ten seconds, long enough to matter and short enough for one
//! stray 429 not to be felt for long.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};
use tokio::time::Instant;

/// What upstream may ask for at most; beyond that we look again ourselves.
const LONGEST: Duration = Duration::from_secs(3600);
/// `Retry-After: 0` must not become a busy loop.
const SHORTEST: Duration = Duration::from_secs(1);
/// When upstream does not say.
const UNSAID: Duration = Duration::from_secs(10);

/// Until when nothing is to be asked.
#[derive(Debug, Default)]
pub(super) struct RateLimit {
    until: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// How long to wait still; `None` when there is nothing to wait for.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.and_then(|until| until.checked_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Upstream asked to wait.
    pub(super) fn wait(&self, now: Instant, time: Duration) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(now + time);
    }
}

/// How long a 429 asks to wait: seconds or a date.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Duration {
    let text = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::trim);
    let asked = text.and_then(|text| match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok().map(|date| date.duration_since(now).unwrap_or_default()),
    });
    asked.unwrap_or(UNSAID).clamp(SHORTEST, LONGEST)
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

    use super::{RateLimit, remaining, retry_after};

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static(value))])
    }

    #[test]
    fn reads_retry_after() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, seconds) in [
            ("5", 5),
            (" 7 ", 7),
            ("0", 1),
            ("86400", 3600),
            ("99999999999999999999", 10),
            ("Sun, 06 Nov 1994 08:50:07 GMT", 30),
            ("Sun, 06 Nov 1994 08:49:00 GMT", 1),
            ("Mon, 06 Nov 1995 08:49:00 GMT", 3600),
            ("soon", 10),
            ("-1", 10),
        ] {
            assert_eq!(retry_after(&headers("retry-after", value), now), Duration::from_secs(seconds), "{value}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), Duration::from_secs(10));
    }

    #[test]
    fn reads_what_is_left() {
        for (value, left) in [("100;w=21600", Some(100)), ("0", Some(0)), (" 7 ; w=1", Some(7)), ("many", None)] {
            assert_eq!(remaining(&headers("ratelimit-remaining", value)), left, "{value}");
        }
        assert_eq!(remaining(&HeaderMap::new()), None);
    }

    #[test]
    fn waits_and_forgets() {
        let (limit, now) = (RateLimit::default(), Instant::now());
        assert_eq!(limit.left(now), None);
        limit.wait(now, Duration::from_secs(5));
        assert_eq!(limit.left(now + Duration::from_secs(2)), Some(Duration::from_secs(3)));
        assert_eq!(limit.left(now + Duration::from_secs(5)), None);
    }
}

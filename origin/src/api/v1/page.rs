//! Lists in pages, and times as Quay writes them: pure.
//!
//! `next_page` is made of what the next page begins after. It is nothing secret, and nothing that clients should look into: it is encoded so that
//! they need not escape it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer};

use super::error::ApiError;
use crate::meta::Millis;

/// Rows of a page where Quay lets nobody choose.
pub(super) const PAGE: u32 = 100;
/// Most rows of a list that has no pages.
pub(super) const MOST: u64 = 10_000;
/// Longest `next_page`.
const TOKEN_LIMIT: usize = 1024;
/// The last second that has a date of the usual form: the end of the year 9999.
pub(super) const LAST: i64 = 253_402_300_799;

/// What the next page begins after.
pub(super) fn token(after: &str) -> String {
    URL_SAFE_NO_PAD.encode(after)
}

/// What a page begins after; the first begins after nothing.
pub(super) fn after(token: Option<&str>) -> Result<String, ApiError> {
    let wrong = || ApiError::invalid("next_page is none that was given out here");
    let Some(token) = token.filter(|token| !token.is_empty()) else { return Ok(String::new()) };
    if token.len() > TOKEN_LIMIT {
        return Err(wrong());
    }
    let decoded = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    // A database would refuse it.
    decoded.filter(|text| !text.contains('\0')).ok_or_else(wrong)
}

/// A page of rows of which one more was read than is shown, and whether there are more.
pub(super) fn cut<T>(mut rows: Vec<T>, size: usize) -> (Vec<T>, bool) {
    let more = rows.len() > size;
    rows.truncate(size);
    (rows, more)
}

/// A time as Quay writes it: `Tue, 05 Mar 2024 12:00:00 -0000`.
pub(super) fn date(at: Millis) -> String {
    httpdate::fmt_http_date(time(at)).replace("GMT", "-0000")
}

/// A time as it stands in a tag's history: seconds since the epoch.
pub(super) fn seconds(at: Millis) -> i64 {
    at.div_euclid(1000)
}

fn time(at: Millis) -> SystemTime {
    let since = Duration::from_millis(u64::try_from(at).unwrap_or_default());
    UNIX_EPOCH + since.min(Duration::from_secs(LAST.unsigned_abs()))
}

/// A day as it is asked for: `03/05/2024`, or `2024-03-05`. Its beginning.
pub(super) fn day(text: &str) -> Result<Millis, ApiError> {
    let wrong = || ApiError::invalid(format!("{text:?} is no day; write mm/dd/yyyy"));
    let parts: Vec<&str> = text.split('/').collect();
    let iso = match parts.as_slice() {
        [month, day, year] => format!("{year}-{month:0>2}-{day:0>2}"),
        _ => text.to_owned(),
    };
    let time = humantime::parse_rfc3339(&format!("{iso}T00:00:00Z")).map_err(|_| wrong())?;
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| wrong())?;
    Millis::try_from(since.as_millis()).map_err(|_| wrong())
}

/// How long a day is.
pub(super) const DAY: Millis = 24 * 3600 * 1000;

/// Yes or no in a query, in any of the ways in which people and Python write it.
pub(super) fn flag<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    let text = String::deserialize(from)?;
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" | "" => Ok(false),
        _ => Err(serde::de::Error::custom("neither true nor false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_goes_on_where_the_last_one_ended() {
        assert_eq!(after(None).unwrap(), "");
        assert_eq!(after(Some("")).unwrap(), "");
        assert_eq!(after(Some(&token("acme/app"))).unwrap(), "acme/app");
        for bad in ["!", "_w", &token("a\0b"), &"A".repeat(2000)] {
            assert!(after(Some(bad)).is_err(), "{bad}");
        }
        assert_eq!(cut(vec![1, 2, 3], 2), (vec![1, 2], true));
        assert_eq!(cut(vec![1, 2], 2), (vec![1, 2], false));
    }

    #[test]
    fn times_are_written_as_quay_writes_them() {
        assert_eq!(date(1_709_640_000_123), "Tue, 05 Mar 2024 12:00:00 -0000");
        assert_eq!(date(-1), "Thu, 01 Jan 1970 00:00:00 -0000");
        assert_eq!(date(Millis::MAX), "Fri, 31 Dec 9999 23:59:59 -0000");
        assert_eq!(seconds(1_709_640_000_999), 1_709_640_000);
        for text in ["03/05/2024", "3/5/2024", "2024-03-05"] {
            assert_eq!(day(text).unwrap(), 1_709_596_800_000, "{text}");
        }
        for text in ["", "x", "13/40/2024", "2024", "01/01/1900", "1/2/3/4", "99999-01-01"] {
            assert!(day(text).is_err(), "{text}");
        }
    }
}

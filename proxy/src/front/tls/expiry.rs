//! When a certificate is of use, and what is said when it is not, or soon will not be. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Certificate;

const DAY: i64 = 24 * 3600;

/// How little time a certificate has left, the least first. Each is worth one warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// None.
    Expired,
    /// At most a day.
    Day,
    /// At most 7 days.
    Week,
    /// At most 30 days.
    Month,
}

/// Seconds since 1970.
pub(super) fn seconds(now: SystemTime) -> i64 {
    let since = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(since).unwrap_or(i64::MAX)
}

/// The stage that a certificate has reached; `None`: more than 30 days are left.
pub(super) fn stage(not_after: i64, now: i64) -> Option<Stage> {
    match not_after.saturating_sub(now) {
        left if left < 0 => Some(Stage::Expired),
        left if left <= DAY => Some(Stage::Day),
        left if left <= 7 * DAY => Some(Stage::Week),
        left if left <= 30 * DAY => Some(Stage::Month),
        _ => None,
    }
}

/// Whether clients believe it at this moment.
pub(super) fn is_valid(certificate: &Certificate, now: i64) -> bool {
    (certificate.not_before..=certificate.not_after).contains(&now)
}

/// What is wrong with the time of a certificate, or soon will be.
pub(super) fn doubt(certificate: &Certificate, now: i64) -> Option<String> {
    let (from, until) = (date(certificate.not_before), date(certificate.not_after));
    if certificate.not_before > now {
        return Some(format!("the certificate is not valid before {from}"));
    }
    Some(match stage(certificate.not_after, now)? {
        Stage::Expired => format!("the certificate expired on {until}"),
        Stage::Day => format!("the certificate expires within a day, on {until}"),
        Stage::Week | Stage::Month => {
            format!("the certificate expires in {} days, on {until}", (certificate.not_after - now) / DAY)
        }
    })
}

/// A time that a certificate names; what lies before 1970 or after the year 9999 is shown as that.
fn date(at: i64) -> String {
    const LAST: u64 = 253_402_300_799;
    let since = Duration::from_secs(u64::try_from(at).unwrap_or_default().min(LAST));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(not_before: i64, not_after: i64) -> Certificate {
        Certificate {
            file: "a.crt".into(),
            names: Vec::new(),
            subject: String::new(),
            issuer: String::new(),
            serial: String::new(),
            fingerprint: String::new(),
            not_before,
            not_after,
        }
    }

    #[test]
    fn what_is_said_depends_on_the_time_that_is_left() {
        let now = 1_800_000_000;
        for (left, stage_reached, says) in [
            (-1, Some(Stage::Expired), Some("expired on 2027-01-15T07:59:59Z")),
            (0, Some(Stage::Day), Some("within a day")),
            (DAY, Some(Stage::Day), Some("within a day")),
            (DAY + 1, Some(Stage::Week), Some("in 1 days")),
            (7 * DAY, Some(Stage::Week), Some("in 7 days")),
            (7 * DAY + 1, Some(Stage::Month), Some("in 7 days")),
            (30 * DAY, Some(Stage::Month), Some("in 30 days")),
            (30 * DAY + 1, None, None),
            (i64::MAX - now, None, None),
        ] {
            assert_eq!(stage(now + left, now), stage_reached, "{left}");
            let said = doubt(&certificate(0, now + left), now);
            assert_eq!(said.is_some(), says.is_some(), "{left}: {said:?}");
            assert!(said.unwrap_or_default().contains(says.unwrap_or_default()), "{left}");
        }
        let early = doubt(&certificate(now + 1, now + 2), now).unwrap();
        assert!(early.contains("not valid before 2027-01-15T08:00:01Z"), "{early}");
        assert!(!is_valid(&certificate(now + 1, now + 2), now) && is_valid(&certificate(now, now), now));
    }
}

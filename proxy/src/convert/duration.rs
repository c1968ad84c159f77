//! haproxy's durations: a number of milliseconds, or one with a unit.

use std::time::Duration;

/// What a haproxy.cfg means. Its 0 is no timeout at all, which is for the caller to say something about.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok().filter(|number| *number < 1 << 32)?;
    match unit {
        "us" => Some(Duration::from_micros(number)),
        "ms" | "" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(60 * number)),
        "h" => Some(Duration::from_secs(3600 * number)),
        "d" => Some(Duration::from_secs(24 * 3600 * number)),
        _ => None,
    }
}

/// As this configuration writes it.
pub(super) fn written(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    for (unit, length) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if milliseconds >= length && milliseconds.is_multiple_of(length) {
            return format!("{}{unit}", milliseconds / length);
        }
    }
    if duration.is_zero() { "0s".to_owned() } else { format!("{}ms", milliseconds.max(1)) }
}

#[cfg(test)]
mod tests {
    use super::{parse, written};

    #[test]
    fn reads_and_writes() {
        for (haproxy, ours) in [
            ("10s", "10s"),
            ("500", "500ms"),
            ("60000", "1m"),
            ("90s", "90s"),
            ("24h", "1d"),
            ("1500ms", "1500ms"),
            ("10us", "1ms"),
            ("0", "0s"),
        ] {
            assert_eq!(parse(haproxy).map(written).as_deref(), Some(ours), "{haproxy}");
        }
        for wrong in ["", "s", "5w", "-1s", "1.5s", "99999999999d"] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}

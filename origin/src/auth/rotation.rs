//! When a key signs, and when the next one is made: pure.
//!
//! A key is published before it signs, so that whoever verifies has it by then, and after it has signed, for as long as the last of
//! its tokens lives. Nodes that make a key at the same time are held apart by the database.

use std::time::Duration;

use crate::meta::Millis;

/// How long before it signs a key is published, where a rotation is long enough for that.
const AHEAD: Duration = Duration::from_secs(3600);
/// How long after its last token a key is published: clocks differ, and so does what a token that has just been issued meets.
const BEYOND: Duration = Duration::from_secs(600);

/// How keys follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// How long one signs.
    pub(crate) period: Duration,
    /// How long a token lives.
    pub(crate) lifetime: Duration,
}

/// When a key does what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// From when on it signs.
    pub(crate) signs_from: Millis,
    /// Until when.
    pub(crate) signs_until: Millis,
    /// Until when it is published.
    pub(crate) published_until: Millis,
}

impl Rotation {
    /// The key that signs now: of those that do, the one that began last. When none does, which is when nobody has made one
    /// for too long, one that began and whose tokens would still be verified.
    pub(crate) fn signing(self, keys: &[Span], now: Millis) -> Option<usize> {
        let begun = || keys.iter().enumerate().filter(|(_, span)| span.signs_from <= now);
        let newest = |(index, span): (usize, &Span)| (span.signs_from, index);
        let due = begun().filter(|(_, span)| now < self.end(span)).map(newest).max();
        let end = now.saturating_add(millis(self.lifetime));
        let late = || begun().filter(|(_, span)| end < span.published_until).map(newest).max();
        due.or_else(late).map(|(_, index)| index)
    }

    /// The key that must be made now, if one must.
    pub(crate) fn next(self, keys: &[Span], now: Millis) -> Option<Span> {
        let signs = keys.iter().any(|span| span.signs_from <= now && now < self.end(span));
        if !signs {
            return Some(self.span(now));
        }
        let last = keys.iter().map(|span| self.end(span)).max()?;
        let ahead = millis(AHEAD.min(self.period / 2));
        (last.saturating_sub(ahead) <= now).then(|| self.span(last))
    }

    /// Until when a key signs. One that was made when tokens lived less long is not published long enough for the last of its tokens.
    fn end(self, span: &Span) -> Millis {
        let tokens = millis(self.lifetime).saturating_add(millis(BEYOND));
        span.signs_until.min(span.published_until.saturating_sub(tokens))
    }

    fn span(self, signs_from: Millis) -> Span {
        let signs_until = signs_from.saturating_add(millis(self.period));
        let published_until = signs_until.saturating_add(millis(self.lifetime)).saturating_add(millis(BEYOND));
        Span { signs_from, signs_until, published_until }
    }
}

fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Millis = 3_600_000;
    const ROTATION: Rotation =
        Rotation { period: Duration::from_secs(30 * 24 * 3600), lifetime: Duration::from_secs(3600) };
    const PERIOD: Millis = 30 * 24 * HOUR;

    #[test]
    fn the_first_key_signs_at_once_and_its_follower_is_published_first() {
        let first = ROTATION.next(&[], 0).unwrap();
        assert_eq!((first.signs_from, first.signs_until), (0, PERIOD));
        assert!(first.published_until > PERIOD + HOUR);
        assert_eq!(ROTATION.next(&[first], PERIOD - HOUR - 1), None);
        let second = ROTATION.next(&[first], PERIOD - HOUR).unwrap();
        assert_eq!(second.signs_from, PERIOD);
        let keys = [first, second];
        assert_eq!(ROTATION.next(&keys, PERIOD - HOUR), None);
        for (now, expected) in [(0, 0), (PERIOD - 1, 0), (PERIOD, 1), (2 * PERIOD - 1, 1)] {
            assert_eq!(ROTATION.signing(&keys, now), Some(expected), "{now}");
        }
    }

    #[test]
    fn after_a_long_rest_a_key_is_made_that_signs_at_once() {
        let first = ROTATION.next(&[], 0).unwrap();
        let now = 3 * PERIOD;
        assert_eq!(ROTATION.signing(&[first], now), None);
        assert_eq!(ROTATION.next(&[first], now).unwrap().signs_from, now);
        // Until somebody makes one, the last signs what can still be verified, and nothing else.
        assert_eq!(ROTATION.signing(&[first], PERIOD + 1), Some(0));
        assert_eq!(ROTATION.signing(&[first], PERIOD + HOUR), None);
    }

    #[test]
    fn a_key_signs_no_token_that_outlives_its_publication() {
        let first = ROTATION.next(&[], 0).unwrap();
        let longer = Rotation { lifetime: Duration::from_secs(24 * 3600), ..ROTATION };
        let end = PERIOD - 23 * HOUR;
        assert_eq!(longer.signing(&[first], end - 1), Some(0));
        let second = longer.next(&[first], end - HOUR).unwrap();
        assert_eq!(second.signs_from, end);
        assert_eq!(longer.signing(&[first, second], end), Some(1));
        // Tokens that live less long than before change nothing.
        let shorter = Rotation { lifetime: Duration::from_secs(60), ..ROTATION };
        assert_eq!(shorter.signing(&[first], PERIOD - 1), Some(0));
        assert_eq!(shorter.next(&[first], PERIOD - HOUR - 1), None);
    }

    #[test]
    fn a_short_rotation_is_prepared_half_way() {
        let short = Rotation { period: Duration::from_secs(60), lifetime: Duration::from_secs(10) };
        let first = short.next(&[], 0).unwrap();
        assert_eq!(short.next(&[first], 29_999), None);
        assert_eq!(short.next(&[first], 30_000).unwrap().signs_from, 60_000);
    }
}

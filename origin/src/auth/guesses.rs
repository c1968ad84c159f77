//! How long who guesses must wait: pure.
//!
//! Wrong passwords are counted for a name from one network, and for the name from all of them. Nothing here depends on whether somebody
//! has the name, so that waiting tells nothing of that; and a success forgets nothing, for the same reason. From its own
//! network a guesser waits ever longer and keeps nobody else waiting. Many networks together make the name wait at all of them,
//! except where its owner logged in before: nobody is locked out for good by somebody else.

use std::time::Duration;

use crate::meta::{LoginCell, Millis};

/// Wrong passwords are forgotten after so long without another.
pub(crate) const FAILURES: Millis = 3_600_000;
/// Networks are forgotten after so long without a right one.
pub(crate) const PLACES: Millis = 90 * 24 * 3_600_000;
/// Wrong passwords in a row, from anywhere, after which a name must wait where its owner never was.
const ANYWHERE: u32 = 100;
/// Of one network, so many count as from anywhere: alone it does not make the name wait elsewhere.
pub(super) const FEW: i32 = 10;
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);

/// Since when wrong passwords count. A new password begins anew.
pub(super) fn since(password_set: Option<Millis>, now: Millis) -> Millis {
    now.saturating_sub(FAILURES).max(password_set.unwrap_or_default())
}

/// How long a name must still wait at one network after what failed there and anywhere. `allowed`: wrong passwords there after which it
/// must.
pub(super) fn wait([here, anywhere]: [LoginCell; 2], allowed: u32, since: Millis, now: Millis) -> Option<Duration> {
    let known = here.succeeded.is_some_and(|at| now.saturating_sub(at) < PLACES);
    let elsewhere = if known { None } else { backoff(anywhere, ANYWHERE, since, now) };
    backoff(here, allowed, since, now).max(elsewhere)
}

/// A second, then twice as long each time.
fn backoff(cell: LoginCell, allowed: u32, since: Millis, now: Millis) -> Option<Duration> {
    let last = cell.failed.filter(|at| *at > since)?;
    let beyond = u32::try_from(cell.failures).unwrap_or_default().checked_sub(allowed)?;
    let wait = Duration::from_secs(1u64.checked_shl(beyond).unwrap_or(u64::MAX)).min(LONGEST_WAIT);
    let waited = Duration::from_millis(u64::try_from(now.saturating_sub(last)).unwrap_or_default());
    wait.checked_sub(waited).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 10_000_000_000;

    fn failed(failures: i32, ago: Millis) -> LoginCell {
        LoginCell { failures, failed: Some(NOW - ago), ..LoginCell::default() }
    }

    fn waits(here: LoginCell, anywhere: LoginCell) -> Option<u128> {
        wait([here, anywhere], 5, since(None, NOW), NOW).map(|wait| wait.as_millis())
    }

    #[test]
    fn a_guesser_waits_ever_longer() {
        for (failures, ago, expected) in [
            (0, 0, None),
            (4, 0, None),
            (5, 0, Some(1_000)),
            (5, 400, Some(600)),
            (5, 1_000, None),
            (6, 0, Some(2_000)),
            (10, 0, Some(32_000)),
            (15, 0, Some(900_000)),
            (i32::MAX, 0, Some(900_000)),
            (i32::MAX, 900_000, None),
            (-1, 0, None),
            // A clock that went back is no reason to wait longer than that.
            (5, -10_000, Some(1_000)),
        ] {
            assert_eq!(waits(failed(failures, ago), LoginCell::default()), expected, "{failures} {ago}");
        }
        assert_eq!(waits(LoginCell { failures: 9, ..LoginCell::default() }, LoginCell::default()), None);
    }

    #[test]
    fn a_name_waits_where_its_owner_never_was() {
        let known = |ago| LoginCell { succeeded: Some(NOW - ago), ..LoginCell::default() };
        for (here, anywhere, expected) in [
            (LoginCell::default(), failed(99, 0), None),
            (LoginCell::default(), failed(100, 0), Some(1_000)),
            (LoginCell::default(), failed(1_000, 0), Some(900_000)),
            (known(0), failed(1_000, 0), None),
            (known(PLACES - 1), failed(1_000, 0), None),
            (known(PLACES), failed(1_000, 0), Some(900_000)),
            (failed(6, 0), failed(100, 0), Some(2_000)),
            (LoginCell { failures: 6, failed: Some(NOW), ..known(0) }, failed(1_000, 0), Some(2_000)),
        ] {
            assert_eq!(waits(here, anywhere), expected, "{here:?} {anywhere:?}");
        }
    }

    #[test]
    fn what_failed_before_the_password_was_set_is_forgotten() {
        let cells = [failed(20, 10), failed(200, 10)];
        assert!(wait(cells, 5, since(Some(NOW - 11), NOW), NOW).is_some());
        assert_eq!(wait(cells, 5, since(Some(NOW - 10), NOW), NOW), None);
    }
}

//! What an answer proves. Pure: every rule of this client about statuses stands here, and its table below.
//!
//! Invariants: only a GET proves absence or a refusal, for real registries answer HEADs with 404, 401, 403 and 405 for
//! what they serve to a GET; the target of a redirect says nothing about the caller's rights; with several addresses a
//! no is the registry's only when its last address has said it, and it makes nothing be forgotten while another failed.

use reqwest::{Method, StatusCode};

use super::failure::Failure;

/// What the status of an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It carries what was asked for.
    Success,
    /// There is no such thing.
    Absent,
    /// A no to a HEAD: a GET decides.
    Unproven,
    /// 401: not for this caller.
    Unauthorized,
    /// 403: not for this caller.
    Forbidden,
    /// The request is wrong.
    Rejected,
    /// The redirect is too old: a new one is worth a try, at once.
    Expired,
    /// Upstream could not, and may the next time.
    Transient,
    /// Upstream cannot, or says what has no meaning here.
    Useless,
}

/// Reads the status of an answer to `method`. `foreign`: the answer is that of a redirect's target on another host.
pub(super) fn judge(method: &Method, status: StatusCode, foreign: bool) -> Verdict {
    match status.as_u16() {
        200..=299 => Verdict::Success,
        401 | 403 if foreign => Verdict::Expired,
        408 | 421 | 425 => Verdict::Transient,
        400..=499 if method == Method::HEAD => Verdict::Unproven,
        404 | 410 => Verdict::Absent,
        401 => Verdict::Unauthorized,
        403 => Verdict::Forbidden,
        407 => Verdict::Useless,
        400..=499 => Verdict::Rejected,
        500 | 502..=504 => Verdict::Transient,
        _ => Verdict::Useless,
    }
}

/// What an answer of the registry says of the account that its request showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AccountVerdict {
    /// The account was taken: the registry went on to the request itself.
    Taken,
    /// It is refused, or what was asked for is refused to it.
    Refused,
    /// The registry could not answer.
    Failed,
    /// It does not say.
    Silent,
}

/// Reads the status of the registry's own answer to a request that showed an account as it was asked to.
pub(super) fn judge_account(status: StatusCode) -> AccountVerdict {
    match status.as_u16() {
        200..=399 | 404..=406 | 410 | 416 => AccountVerdict::Taken,
        401 | 403 => AccountVerdict::Refused,
        408 | 421 | 425 | 500..=599 => AccountVerdict::Failed,
        _ => AccountVerdict::Silent,
    }
}

/// What the failures of all addresses come to, in the order of the settings; `None` where an address was not asked,
/// because it does not answer. The last address is the registry itself, and so its word counts. While another address
/// failed its "not found" proves nothing: that address might have had it.
pub(super) fn conclude(mut failures: Vec<Option<Failure>>) -> Option<Failure> {
    let last = failures.pop()?;
    let all_said_no = failures.iter().all(|failure| failure.as_ref().is_some_and(is_no));
    match last {
        Some(Failure::NotFound) if !all_said_no => Some(Failure::Unconfirmed(404)),
        last => last,
    }
}

/// Whether an address answered that it does not give this, as opposed to failing.
fn is_no(failure: &Failure) -> bool {
    match failure {
        Failure::NotFound
        | Failure::Unconfirmed(_)
        | Failure::Unauthorized
        | Failure::Forbidden
        | Failure::Rejected(_) => true,
        Failure::AccountRefused(_)
        | Failure::RateLimited(..)
        | Failure::Dead(_)
        | Failure::Silent(_)
        | Failure::Astray(_)
        | Failure::Broken(_)
        | Failure::Expired(_)
        | Failure::Invalid(_) => false,
    }
}

/// Whether the address that failed in this way may do better when it is asked again for this request. `before`: how it failed the
/// last time.
pub(super) fn is_worth_another_try(failure: &Failure, before: Option<&Failure>) -> bool {
    match failure {
        Failure::Dead(_) | Failure::Broken(_) => true,
        Failure::Expired(_) => !matches!(before, Some(Failure::Expired(_))),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reqwest::{Method, StatusCode};

    use super::{AccountVerdict, Failure, Verdict, conclude, judge, judge_account};

    #[test]
    fn statuses() {
        use Verdict::{Absent, Expired, Forbidden, Rejected, Success, Transient, Unauthorized, Unproven, Useless};
        // status, GET, HEAD, GET at a redirect's target
        for (status, get, head, foreign) in [
            (200, Success, Success, Success),
            (206, Success, Success, Success),
            (300, Useless, Useless, Useless),
            (304, Useless, Useless, Useless),
            (400, Rejected, Unproven, Rejected),
            (401, Unauthorized, Unproven, Expired),
            (402, Rejected, Unproven, Rejected),
            (403, Forbidden, Unproven, Expired),
            (404, Absent, Unproven, Absent),
            (405, Rejected, Unproven, Rejected),
            (406, Rejected, Unproven, Rejected),
            (407, Useless, Unproven, Useless),
            (408, Transient, Transient, Transient),
            (409, Rejected, Unproven, Rejected),
            (410, Absent, Unproven, Absent),
            (416, Rejected, Unproven, Rejected),
            (418, Rejected, Unproven, Rejected),
            (425, Transient, Transient, Transient),
            (451, Rejected, Unproven, Rejected),
            (500, Transient, Transient, Transient),
            (501, Useless, Useless, Useless),
            (502, Transient, Transient, Transient),
            (503, Transient, Transient, Transient),
            (504, Transient, Transient, Transient),
            (505, Useless, Useless, Useless),
            (599, Useless, Useless, Useless),
        ] {
            let code = StatusCode::from_u16(status).unwrap();
            assert_eq!(judge(&Method::GET, code, false), get, "GET {status}");
            assert_eq!(judge(&Method::HEAD, code, false), head, "HEAD {status}");
            assert_eq!(judge(&Method::GET, code, true), foreign, "GET {status} after a redirect");
        }
    }

    #[test]
    fn accounts() {
        use AccountVerdict::{Failed, Refused, Silent, Taken};
        for (verdict, statuses) in [
            (Taken, &[200, 206, 301, 304, 307, 404, 405, 406, 410, 416][..]),
            (Refused, &[401, 403]),
            (Failed, &[408, 421, 425, 500, 501, 502, 503, 504, 507, 599]),
            (Silent, &[101, 400, 402, 407, 409, 411, 412, 418, 429, 431, 451]),
        ] {
            for status in statuses {
                assert_eq!(judge_account(StatusCode::from_u16(*status).unwrap()), verdict, "{status}");
            }
        }
    }

    #[test]
    fn several_addresses() {
        let (no, refused, broken) = (Failure::NotFound, Failure::Forbidden, Failure::broken("status 503"));
        let limited = Failure::rate_limited(Duration::from_secs(1));
        let some = |failure: &Failure| Some(failure.clone());
        for (failures, expected) in [
            (vec![some(&no)], some(&no)),
            (vec![some(&no), some(&no)], some(&no)),
            (vec![some(&refused), some(&no)], some(&no)),
            (vec![some(&Failure::Unauthorized), some(&no)], some(&no)),
            (vec![some(&no), some(&refused)], some(&refused)),
            (vec![some(&no), some(&broken)], some(&broken)),
            (vec![some(&no), some(&limited)], some(&limited)),
            (vec![some(&broken), some(&refused)], some(&refused)),
            // The mirror that failed might have had it.
            (vec![some(&broken), some(&no)], Some(Failure::Unconfirmed(404))),
            (vec![some(&limited), some(&no)], Some(Failure::Unconfirmed(404))),
            (vec![None, some(&no)], Some(Failure::Unconfirmed(404))),
            // The registry itself was not asked.
            (vec![some(&no), None], None),
            (vec![], None),
        ] {
            let text = format!("{failures:?}");
            assert_eq!(conclude(failures), expected, "{text}");
        }
    }
}

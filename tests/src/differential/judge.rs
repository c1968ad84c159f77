//! Whether an answer through the edge is worse than the direct one. Pure.

use super::behaviour::Operation;
use super::content::Right;
use super::outcome::Outcome;

/// How the two compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// At least as good.
    Fine,
    /// Worse, and why.
    Worse(&'static str),
}

/// One operation, done in both ways.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Directly.
    pub direct: Done,
    /// Through the edge.
    pub through: Done,
    /// The direct client took a page with status 200 for the blob. The edge asks on.
    pub deceived: bool,
}

/// What an operation came to, and what it cost.
#[derive(Clone, Debug)]
pub struct Done {
    /// The result.
    pub outcome: Outcome,
    /// How many requests its upstream has got for it, those for tokens and redirects included.
    pub requests: usize,
    /// Whether its upstream's last answer was 401 or 403.
    pub refused: bool,
    /// What its upstream answered to GETs, those for tokens left out.
    pub gets: Vec<u16>,
}

/// Judges one operation. `right`: what it gives where nothing is wrong.
pub fn judge(operation: Operation, right: Option<&Right>, pair: &Pair) -> Verdict {
    use Outcome::{Absent, Failed, Got, Limited, Refused, Rejected};
    let (direct, through) = (&pair.direct.outcome, &pair.through.outcome);
    // A client reads any failure of the referrers API as "there is none", and has another way to the referrers.
    let optional = operation == Operation::Referrers;
    // The direct client's HEAD failed, which proves nothing. The edge may have heard more by a GET.
    let by_get = |statuses: &[u16]| {
        let head = matches!(operation, Operation::Resolve(_) | Operation::Exists(_));
        head && statuses.iter().any(|status| pair.through.gets.contains(status))
    };
    let worse = |why| Verdict::Worse(why);
    match (direct, through) {
        (_, Got { what, partial }) => match (direct, right) {
            (Got { partial: true, .. }, _) if !partial => worse("the whole, and directly a part"),
            (Got { what: its, .. }, _) if its == what => Verdict::Fine,
            (_, Some(right)) if right == what => Verdict::Fine,
            _ => worse("other content"),
        },
        // A page with status 200 in place of the blob, whose length the direct client does not look at.
        (Got { what, .. }, Failed(_)) if matches!(operation, Operation::Exists(_)) && right != Some(what) => {
            Verdict::Fine
        }
        (Got { .. }, _) => worse("no success, and directly one"),
        (Absent, Absent) => Verdict::Fine,
        (Absent, _) => worse("no answer, and directly that it is absent"),
        // That an account is refused may be told in each of these ways: the account is the edge's.
        (Refused, Limited) => worse("a limit, and directly a refusal"),
        (Refused, _) => Verdict::Fine,
        (_, Absent) if optional => Verdict::Fine,
        // It does not exist, and a GET has proven that; the direct client's HEAD met a fault.
        (_, Absent) if right.is_none() => Verdict::Fine,
        // The edge's account is refused, by a GET that the direct client never came to: the labels of its HEAD's answer stopped it.
        (Failed(_), Absent) if pair.through.refused => Verdict::Fine,
        (_, Absent) if by_get(&[401, 403, 404, 410]) => Verdict::Fine,
        (_, Absent) => worse("said to be absent, and directly not"),
        (Rejected(its), Rejected(status)) if its == status => Verdict::Fine,
        (Rejected(_) | Limited | Failed(_), Rejected(status)) if by_get(&[*status]) => Verdict::Fine,
        (Rejected(_), Rejected(_)) => worse("another rejection than directly"),
        (Rejected(_), Failed(_)) => Verdict::Fine,
        // An earlier 429's `Retry-After` is obeyed by the edge, and not by the direct client.
        (Rejected(_), Limited) if pair.through.requests == 0 => Verdict::Fine,
        (Rejected(_), _) => worse("refused or limited, and directly rejected"),
        (Limited | Failed(_), Limited | Failed(_)) => Verdict::Fine,
        (Limited | Failed(_), Refused) => worse("refused, and directly not"),
        (Limited | Failed(_), Rejected(_)) => worse("rejected, and directly not"),
    }
}

/// Judges the number of requests that a script has cost so far: no more than directly, and one to find out how the
/// registry wants to be asked. `more`: how many more it may cost by design. Operations that fail directly cost as many tries as
/// either side has patience for.
pub fn judge_requests(pairs: &[Pair], more: usize) -> Verdict {
    let (mut direct, mut through) = (0, 0);
    for pair in pairs {
        if pair.direct.outcome.is_success() && !pair.deceived {
            direct += pair.direct.requests;
            through += pair.through.requests;
        } else if pair.through.requests > 5 * pair.direct.requests + 5 {
            return Verdict::Worse("many more requests for a failure than directly");
        }
        if through > direct + 1 + more {
            return Verdict::Worse("more requests than directly");
        }
    }
    Verdict::Fine
}

#[cfg(test)]
mod tests {
    use super::{Done, Pair, Verdict, judge, judge_requests};
    use crate::differential::behaviour::{Name, Operation, Piece};
    use crate::differential::content::Right;
    use crate::differential::outcome::Outcome;

    fn right(digest: &str, media_type: Option<&str>) -> Right {
        Right { digest: digest.to_owned(), size: 1, media_type: media_type.map(str::to_owned) }
    }

    fn pair(direct: Outcome, through: Outcome) -> Pair {
        let done = |outcome| Done { outcome, requests: 1, refused: false, gets: Vec::new() };
        Pair { direct: done(direct), through: done(through), deceived: false }
    }

    fn got(digest: &str) -> Outcome {
        Outcome::Got { what: right(digest, None), partial: false }
    }

    #[test]
    fn through_is_never_worse() {
        let part = Outcome::Got { what: right("a", None), partial: true };
        let typed = |media_type| Outcome::Got { what: right("a", Some(media_type)), partial: false };
        let failed = || Outcome::Failed("why".to_owned());
        let (manifest, referrers) = (Operation::Manifest(Name::Tag), Operation::Referrers);
        use Outcome::{Absent, Limited, Refused, Rejected};
        for (operation, direct, through, fine) in [
            (manifest, got("a"), got("a"), true),
            (manifest, got("b"), typed("a/b"), true),
            (manifest, got("b"), got("b"), true),
            (manifest, got("a"), got("b"), false),
            (manifest, Absent, got("b"), false),
            (manifest, failed(), typed("a/b"), true),
            (manifest, got("a"), typed("a/b"), true),
            (manifest, typed("x/y"), typed("x/y"), true),
            (manifest, typed("x/y"), typed("a/b"), true),
            (manifest, got("a"), typed("x/y"), false),
            (manifest, typed("a/b"), typed("x/y"), false),
            (manifest, typed("a/b"), got("a"), false),
            (manifest, part.clone(), got("a"), false),
            (manifest, got("a"), part, true),
            (manifest, got("a"), Absent, false),
            (manifest, got("a"), Refused, false),
            (manifest, got("a"), Limited, false),
            (manifest, got("a"), failed(), false),
            (referrers, got("a"), Absent, false),
            (manifest, Absent, Absent, true),
            (manifest, Absent, Refused, false),
            (manifest, Absent, failed(), false),
            (manifest, Refused, Absent, true),
            (manifest, Refused, Refused, true),
            (manifest, Refused, failed(), true),
            (manifest, Refused, Limited, false),
            (manifest, Rejected(400), Rejected(400), true),
            (manifest, Rejected(400), Rejected(405), false),
            (manifest, Rejected(400), failed(), true),
            (manifest, Rejected(400), Absent, false),
            (manifest, Rejected(400), Limited, false),
            (referrers, Rejected(400), Absent, true),
            (manifest, Limited, Limited, true),
            (manifest, Limited, failed(), true),
            (manifest, Limited, Absent, false),
            (referrers, Limited, Absent, true),
            (manifest, failed(), failed(), true),
            (manifest, failed(), Limited, true),
            (manifest, failed(), Absent, false),
            (manifest, failed(), Refused, false),
            (manifest, failed(), Rejected(400), false),
            (referrers, failed(), Absent, true),
        ] {
            let expected = right("a", Some("a/b"));
            let pair = pair(direct.clone(), through.clone());
            let verdict = judge(operation, Some(&expected), &pair);
            assert_eq!(verdict == Verdict::Fine, fine, "{operation:?} {direct:?} {through:?}: {verdict:?}");
        }
        // Nothing is there, and something came.
        assert_ne!(judge(manifest, None, &pair(Outcome::Absent, got("a"))), Verdict::Fine);
        // Nothing is there, and only through the edge that is found out.
        for direct in [Limited, failed(), Rejected(416), Refused] {
            assert_eq!(judge(manifest, None, &pair(direct.clone(), Absent)), Verdict::Fine, "{direct:?}");
        }
        let known = |direct, through, change: fn(&mut Done)| {
            let mut pair = pair(direct, through);
            change(&mut pair.through);
            judge(manifest, Some(&right("a", None)), &pair) == Verdict::Fine
        };
        // A GET decides what a HEAD that fails leaves open.
        let head = |operation, direct, through, status| {
            let mut pair = pair(direct, through);
            pair.through.gets = vec![status];
            judge(operation, Some(&right("a", None)), &pair) == Verdict::Fine
        };
        let resolve = Operation::Resolve(Name::Tag);
        for (operation, direct, through, status, fine) in [
            (resolve, failed(), Absent, 404, true),
            (resolve, failed(), Absent, 401, true),
            (resolve, failed(), Absent, 500, false),
            (resolve, Rejected(408), Absent, 404, true),
            (resolve, Rejected(405), Rejected(406), 406, true),
            (resolve, Rejected(405), Rejected(406), 405, false),
            (resolve, failed(), Rejected(416), 416, true),
            (resolve, got("a"), Absent, 404, false),
            (manifest, failed(), Absent, 404, false),
            (manifest, failed(), Rejected(416), 416, false),
            (Operation::Exists(Piece::Small), got("page"), failed(), 200, true),
            (Operation::Exists(Piece::Small), got("a"), failed(), 200, false),
            (Operation::Exists(Piece::Small), got("page"), Absent, 200, false),
            (resolve, got("page"), failed(), 200, false),
        ] {
            let found = head(operation, direct.clone(), through.clone(), status);
            assert_eq!(found, fine, "{operation:?} {direct:?} {through:?} {status}");
        }
        // A refusal is told as absence; a pause is obeyed.
        assert!(known(failed(), Absent, |done| done.refused = true));
        assert!(!known(got("a"), Absent, |done| done.refused = true));
        assert!(known(Rejected(405), Limited, |done| done.requests = 0));
        assert!(!known(got("a"), Limited, |done| done.requests = 0));
    }

    #[test]
    fn a_success_costs_no_more_than_directly() {
        let pair = |outcome: Outcome, direct, through| {
            let mut pair = pair(outcome.clone(), outcome);
            (pair.direct.requests, pair.through.requests) = (direct, through);
            pair
        };
        for (pairs, fine) in [
            (vec![pair(got("a"), 3, 3), pair(got("b"), 1, 2)], true),
            (vec![pair(got("a"), 3, 4), pair(got("b"), 1, 2)], false),
            // What was saved earlier may be spent later, and not the other way round.
            (vec![pair(got("a"), 3, 1), pair(got("b"), 1, 4)], true),
            (vec![pair(got("a"), 1, 3), pair(got("b"), 3, 1)], false),
            (vec![pair(Outcome::Absent, 1, 10)], true),
            (vec![pair(Outcome::Absent, 1, 11)], false),
        ] {
            assert_eq!(judge_requests(&pairs, 0) == Verdict::Fine, fine, "{pairs:?}");
        }
        let deceived = |requests| Pair { deceived: true, ..pair(got("page"), 1, requests) };
        for (requests, fine) in [(10, true), (11, false)] {
            assert_eq!(judge_requests(&[deceived(requests)], 0) == Verdict::Fine, fine, "{requests} after a page");
        }
        for (requests, more, fine) in [(3, 1, true), (4, 1, false), (4, 2, true)] {
            let pairs = [pair(got("a"), 1, requests)];
            assert_eq!(judge_requests(&pairs, more) == Verdict::Fine, fine, "{requests} with {more} more");
        }
    }
}

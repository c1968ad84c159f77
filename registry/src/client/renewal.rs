//! What follows the 401 to a token. Pure: the rule, and its table.
//!
//! A token may have ended, be good for a few requests only (RFC 6750, section 3.1, `invalid_token`), or not be good enough. Or the caller is
//! refused, which is an answer that is not asked for twice. Tokens are shared, so one that is good for few requests may be used up by
//! others, as often as there are others: in the end a request gets a token of its own.

/// How often a request gets a renewed token.
const RENEWALS: usize = 2;

/// Who may use a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// All requests with the same account and scope.
    Shared,
    /// One request.
    Own,
}

/// What the 401 asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// It has no challenge. Some registries send one only to requests without credentials.
    Nothing,
    /// For what the token was issued for.
    Same,
    /// For less than that.
    Less,
    /// For something else.
    Other,
}

/// The 401 to a request that showed a token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    pub(super) asks: Asks,
    /// Its challenge says `invalid_token`.
    pub(super) invalid: bool,
    /// The token was issued after the request began.
    pub(super) fresh: bool,
    /// The registry has accepted the token before.
    pub(super) accepted: bool,
    /// Another request showed the token too.
    pub(super) shared: bool,
    /// The request is a HEAD.
    pub(super) head: bool,
    /// How often this request got a renewed token.
    pub(super) renewals: usize,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The caller is refused.
    Refused,
    /// The token is forgotten, and another is asked for as before.
    Renew(Whose),
    /// A token is asked for as the challenge wants it.
    Follow,
}

/// Decides what follows.
pub(super) fn decide(refused: Refused) -> Next {
    let Refused { asks, invalid, fresh, accepted, shared, head, renewals } = refused;
    let as_before = matches!(asks, Asks::Nothing | Asks::Same);
    // One that was issued for this very request and never accepted cannot have ended. Others may be using it up at this moment.
    let unused = fresh && !accepted;
    let used_up = invalid && shared && renewals < RENEWALS;
    if unused && as_before && !used_up {
        return Next::Refused;
    }
    // A HEAD's 401 that asks for nothing does not say that the token has ended. The GET's would.
    if head && asks == Asks::Nothing && accepted {
        return Next::Refused;
    }
    let whose = if unused || renewals + 1 >= RENEWALS { Whose::Own } else { Whose::Shared };
    match asks {
        Asks::Nothing | Asks::Same => Next::Renew(whose),
        Asks::Less if renewals < RENEWALS => Next::Renew(whose),
        Asks::Less | Asks::Other => Next::Follow,
    }
}

#[cfg(test)]
mod tests {
    use super::{Asks, Next, Refused, Whose, decide};

    #[test]
    fn what_follows_the_401_to_a_token() {
        let old = Refused {
            asks: Asks::Same,
            invalid: true,
            fresh: false,
            accepted: true,
            shared: true,
            head: false,
            renewals: 0,
        };
        let fresh = Refused { fresh: true, accepted: false, ..old };
        let (shared, own) = (Next::Renew(Whose::Shared), Next::Renew(Whose::Own));
        for (refused, expected) in [
            // It may have ended, and after that have been used up by others.
            (old, shared),
            (Refused { invalid: false, ..old }, shared),
            (Refused { asks: Asks::Nothing, ..old }, shared),
            (Refused { asks: Asks::Less, ..old }, shared),
            (Refused { accepted: false, ..old }, shared),
            (Refused { renewals: 1, ..old }, own),
            (Refused { asks: Asks::Less, renewals: 1, ..old }, own),
            (Refused { asks: Asks::Less, renewals: 2, ..old }, Next::Follow),
            (Refused { asks: Asks::Other, ..old }, Next::Follow),
            // It was issued for this request.
            (Refused { invalid: false, ..fresh }, Next::Refused),
            (Refused { shared: false, ..fresh }, Next::Refused),
            (Refused { asks: Asks::Nothing, invalid: false, ..fresh }, Next::Refused),
            (fresh, own),
            (Refused { renewals: 2, ..fresh }, Next::Refused),
            (Refused { asks: Asks::Other, ..fresh }, Next::Follow),
            (Refused { accepted: true, ..fresh }, shared),
            // A HEAD.
            (Refused { head: true, ..old }, shared),
            (Refused { head: true, asks: Asks::Nothing, ..old }, Next::Refused),
            (Refused { head: true, asks: Asks::Nothing, accepted: false, ..old }, shared),
        ] {
            assert_eq!(decide(refused), expected, "{refused:?}");
        }
    }
}

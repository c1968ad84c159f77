//! Which server is next. Pure: candidates, the rule and chance come in, the index of a server goes out.
//!
//! Invariant: a server that may not be asked, or that is full, is never chosen.
//!
//! First the best class that has anybody in it, then the rule of the pool within that class: see [`class`]. A class whose
//! servers are all full is waited for, not passed over: a backup is for servers that are away, not for busy ones.

use twox_hash::XxHash3_64;

/// A server, as the choice sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Whether it may be asked.
    pub(super) open: Open,
    /// Whether it has as much as it may have.
    pub(super) full: bool,
    /// Whether it failed this request before.
    pub(super) tried: bool,
    /// Only for when no other is up.
    pub(super) backup: bool,
    /// Relative to the others.
    pub(super) weight: u32,
    /// How much of the weight counts just now, in thousandths.
    pub(super) share: u32,
    /// What it is busy with.
    pub(super) active: usize,
    /// Its own number, always the same, for hashing.
    pub(super) seed: u64,
}

/// Whether a server may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Open {
    /// It may.
    Yes,
    /// Only if there is nobody else: requests failed, and nothing has checked it since.
    Last,
    /// It is down, or the operator wants nothing on it.
    No,
}

/// The rule, with what it needs.
#[derive(Debug)]
pub(super) enum Rule<'a> {
    /// In turn: the credit of each candidate, kept from choice to choice.
    InTurn(&'a mut [i64]),
    /// Who has the fewest; equals in turn, by a number that grows.
    Fewest(usize),
    /// The better of two, drawn by two random numbers.
    OfTwo(u64, u64),
    /// By a key.
    Hash(&'a [u8]),
}

/// Who is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// This one.
    Server(usize),
    /// Nobody before somebody else is done.
    Busy,
    /// Nobody.
    Nobody,
}

/// Makes the choice.
pub(super) fn select(candidates: impl Iterator<Item = Candidate> + Clone, rule: Rule<'_>) -> Choice {
    let again = candidates.clone().any(|candidate| candidate.tried);
    let class = move |candidate| class(candidate, again);
    let Some(best) = candidates.clone().filter_map(class).min() else { return Choice::Nobody };
    let all = candidates.enumerate();
    let eligible = all.filter(move |(_, candidate)| !candidate.full && class(*candidate) == Some(best));
    let chosen = match rule {
        Rule::InTurn(credits) => in_turn(eligible, credits),
        Rule::Fewest(offset) => fewest(eligible, offset),
        Rule::OfTwo(first, second) => of_two(eligible, first, second),
        Rule::Hash(key) => hashed(eligible, key),
    };
    chosen.map_or(Choice::Busy, Choice::Server)
}

/// The smaller, the better. A server that failed this request is as good as down for it, so an untried backup goes
/// before it, and, `again`, one that failed others lately: it may have come back. One of weight 0 is for when all others are away.
fn class(candidate: Candidate, again: bool) -> Option<u8> {
    let Candidate { open, weight, tried, backup, .. } = candidate;
    match open {
        Open::No => None,
        Open::Last if again && !tried => Some(2),
        Open::Last => Some(7 + u8::from(tried)),
        Open::Yes if weight == 0 => Some(5 + u8::from(tried)),
        Open::Yes => Some(3 * u8::from(tried) + u8::from(backup)),
    }
}

/// The weight that counts. Where all weigh nothing, all weigh the same.
fn weight(candidate: &Candidate) -> u64 {
    u64::from(candidate.weight.max(1)) * u64::from(candidate.share.max(1))
}

/// Smooth: each gets credit by its weight, who has most is next and pays for all. So 5:1:1 is `aabacaa`, not `aaaaabc`.
fn in_turn(eligible: impl Iterator<Item = (usize, Candidate)>, credits: &mut [i64]) -> Option<usize> {
    let mut total = 0;
    let mut best: Option<(usize, i64)> = None;
    for (index, candidate) in eligible {
        let Some(credit) = credits.get_mut(index) else { continue };
        let weight = i64::try_from(weight(&candidate)).unwrap_or(i64::MAX / 2);
        total += weight;
        *credit = credit.saturating_add(weight);
        if best.is_none_or(|(_, most)| *credit > most) {
            best = Some((index, *credit));
        }
    }
    let (index, _) = best?;
    if let Some(credit) = credits.get_mut(index) {
        *credit -= total;
    }
    Some(index)
}

/// Whether `a` would be less busy than `b` with one more each.
fn less_busy(a: &Candidate, b: &Candidate) -> bool {
    let load = |candidate: &Candidate, other: &Candidate| (candidate.active as u128 + 1) * u128::from(weight(other));
    load(a, b) < load(b, a)
}

fn fewest(eligible: impl Iterator<Item = (usize, Candidate)> + Clone, offset: usize) -> Option<usize> {
    let count = eligible.clone().count();
    let turned = eligible.cycle().skip(offset.checked_rem(count)?).take(count);
    let mut best: Option<(usize, Candidate)> = None;
    for (index, candidate) in turned {
        if best.as_ref().is_none_or(|(_, least)| less_busy(&candidate, least)) {
            best = Some((index, candidate));
        }
    }
    best.map(|(index, _)| index)
}

fn of_two(
    eligible: impl Iterator<Item = (usize, Candidate)> + Clone,
    first_draw: u64,
    second_draw: u64,
) -> Option<usize> {
    let first = drawn(eligible.clone(), first_draw)?;
    let others = eligible.filter(|(index, _)| *index != first.0);
    let Some(second) = drawn(others, second_draw) else { return Some(first.0) };
    // Drawn by weight already, so only what they are busy with is compared.
    Some(if second.1.active < first.1.active { second.0 } else { first.0 })
}

fn drawn(eligible: impl Iterator<Item = (usize, Candidate)> + Clone, draw: u64) -> Option<(usize, Candidate)> {
    let total: u128 = eligible.clone().map(|(_, candidate)| u128::from(weight(&candidate))).sum();
    let mut left = (u128::from(draw) * total) >> 64;
    let mut last = None;
    for (index, candidate) in eligible {
        let weight = u128::from(weight(&candidate));
        last = Some((index, candidate));
        if left < weight {
            break;
        }
        left -= weight;
    }
    last
}

/// Rendezvous: everybody's score for the key, by weight; who has the highest is next. When a server goes, only its keys
/// move, and when it comes back, only they move back.
fn hashed(eligible: impl Iterator<Item = (usize, Candidate)>, key: &[u8]) -> Option<usize> {
    let score = |candidate: &Candidate| {
        let hash = XxHash3_64::oneshot_with_seed(candidate.seed, key);
        // Between 0 and 1, neither of them.
        let uniform = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -(weight(candidate) as f64) / uniform.ln()
    };
    eligible.map(|(index, candidate)| (index, score(&candidate))).max_by(|a, b| a.1.total_cmp(&b.1)).map(|best| best.0)
}

#[cfg(test)]
mod tests;

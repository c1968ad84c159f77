//! Who holds how much of a room, who waits, and what follows. Pure.
//!
//! A party may take more while it holds less than its factor times what is free ("dynamic thresholds", Choudhury and Hahne, 1998). The rule
//! needs no list of who competes: with one greedy account half of the room stays free, with two a third, and a party that holds nothing
//! may always take what is left.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::time::Instant;

use super::pace::Pace;
use super::party::Party;
use super::rounds::Rounds;
use super::tally::Tally;

/// A network may hold so many times what is free; an account once.
const NETWORK: u64 = 4;
/// Holdings taken back in one look.
const CUT: usize = 64;

/// The books of one room. Numbers are given in the order of coming.
pub(super) struct Ledger {
    room: u64,
    /// Whether a greedy party leaves some room free. Not for work that is short: there turns are enough.
    reserve: bool,
    used: u64,
    shares: Tally,
    holdings: BTreeMap<u64, Holding>,
    waiting: BTreeMap<u64, Waiting>,
    rounds: Rounds,
    last: u64,
}

struct Holding {
    party: Party,
    amount: u64,
    pace: Arc<Pace>,
    /// Whether the holder can give it back and take it again later without a loss.
    gives_way: bool,
}

/// Why a holding is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Its client is below the lowest rate.
    Slow,
    /// Its party holds more than one that waits, and it gives way.
    GivesWay,
}

/// A caller waits for `amount` more: for a new holding, or for this one.
struct Waiting {
    party: Party,
    amount: u64,
    holding: Option<u64>,
}

/// Why a party may not take more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// All is taken.
    Room,
    /// The account, or the clients of its network without one, hold their share.
    Own,
    /// The network holds its share.
    Network,
}

impl Ledger {
    pub(super) fn new(room: u64, reserve: bool) -> Ledger {
        Ledger {
            room,
            reserve,
            used: 0,
            shares: Tally::default(),
            holdings: BTreeMap::new(),
            waiting: BTreeMap::new(),
            rounds: Rounds::default(),
            last: 0,
        }
    }

    /// Units in use.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Units that there are.
    pub(super) fn room(&self) -> u64 {
        self.room
    }

    /// A new size. What is held beyond it is not taken back.
    pub(super) fn resize(&mut self, room: u64) {
        self.room = room;
    }

    /// How much a party holds, by account or else by network.
    pub(super) fn held_by(&self, party: &Party) -> u64 {
        if party.own().is_some() { self.shares.own(party) } else { self.shares.network(party) }
    }

    /// Why a party may not take so much now. `None`: it may. `holding`: for this one, which it has.
    pub(super) fn bound(&self, party: &Party, amount: u64, holding: Option<u64>) -> Option<Bound> {
        let free = self.room.saturating_sub(self.used);
        // What is larger than all there is may have all of it.
        if free < amount.min(self.room) || free == 0 {
            return Some(Bound::Room);
        }
        // The oldest holding of a party goes on while there is any room: else several that grow would wait for each other.
        if !self.reserve || holding.is_some_and(|id| self.is_oldest(id, party)) {
            return None;
        }
        if party.own().is_some() && self.shares.own(party) >= free {
            return Some(Bound::Own);
        }
        let network = party.network().is_some() && self.shares.network(party) >= free.saturating_mul(NETWORK);
        network.then_some(Bound::Network)
    }

    fn is_oldest(&self, id: u64, party: &Party) -> bool {
        self.holdings.iter().find(|(_, holding)| holding.party == *party).is_some_and(|(oldest, _)| *oldest == id)
    }

    /// A new holding.
    pub(super) fn take(&mut self, party: Party, amount: u64, pace: Arc<Pace>) -> u64 {
        self.last += 1;
        let id = self.last;
        if !self.waiting.is_empty() {
            self.rounds.turn(&party);
        }
        self.holdings.insert(id, Holding { party, amount: 0, pace, gives_way: false });
        self.grow(id, amount);
        id
    }

    /// More for a holding.
    pub(super) fn grow(&mut self, id: u64, amount: u64) {
        let Some(holding) = self.holdings.get_mut(&id) else { return };
        holding.amount += amount;
        self.used += amount;
        self.shares.add(&holding.party, amount);
    }

    /// The end of a holding.
    pub(super) fn release(&mut self, id: u64) {
        let Some(holding) = self.holdings.remove(&id) else { return };
        self.used -= holding.amount;
        self.shares.subtract(&holding.party, holding.amount);
    }

    /// Whether a holding gives way to parties that hold less.
    pub(super) fn set_gives_way(&mut self, id: u64, gives_way: bool) {
        if let Some(holding) = self.holdings.get_mut(&id) {
            holding.gives_way = gives_way;
        }
    }

    /// A party that waits.
    pub(super) fn wait(&mut self, party: Party, amount: u64, holding: Option<u64>) -> u64 {
        self.last += 1;
        self.waiting.insert(self.last, Waiting { party, amount, holding });
        self.last
    }

    /// It waits no longer.
    pub(super) fn leave(&mut self, id: u64) {
        self.waiting.remove(&id);
        if self.waiting.is_empty() {
            self.rounds.clear();
        }
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The next that may go on: of those that may take what they want, the one that holds least; of equals the one whose turn is
    /// longest ago, and then the first that came.
    pub(super) fn next(&self) -> Option<u64> {
        if self.used >= self.room {
            return None;
        }
        let may = self.waiting.iter().filter(|(_, one)| self.bound(&one.party, one.amount, one.holding).is_none());
        may.min_by_key(|(id, one)| (self.shares.both(&one.party), self.rounds.last(&one.party), **id))
            .map(|(id, _)| *id)
    }

    /// The holdings to take back for those that wait: one for each, the slowest of the party that is in the way; else one that gives way.
    pub(super) fn to_cut(&self, now: Instant) -> Vec<(u64, Cut)> {
        let mut cut = Vec::new();
        let is_cut = |holding: &Holding| holding.pace.is_cut();
        let already = self.holdings.values().filter(|holding| is_cut(holding)).count();
        let wanted = self.waiting.len().saturating_sub(already).min(CUT);
        if wanted == 0 {
            return Vec::new();
        }
        let mut slow: Vec<(Reverse<u64>, u64, u64, &Holding)> = (self.holdings.iter())
            .filter(|(_, holding)| !is_cut(holding))
            .filter_map(|(id, holding)| {
                let rate = holding.pace.slow(now)?;
                Some((Reverse(self.held_by(&holding.party)), rate, *id, holding))
            })
            .collect();
        slow.sort_by_key(|(held, rate, id, _)| (*held, *rate, *id));
        for one in self.waiting.values().take(wanted) {
            let Some(bound) = self.bound(&one.party, one.amount, one.holding) else { continue };
            let in_the_way = |holding: &Holding| match bound {
                Bound::Room => true,
                Bound::Own => holding.party.own() == one.party.own(),
                Bound::Network => holding.party.network() == one.party.network(),
            };
            if let Some(at) =
                slow.iter().position(|(_, _, id, holding)| one.holding != Some(*id) && in_the_way(holding))
            {
                cut.push(slow.remove(at).2);
            }
        }
        let gone = |id: u64, holding: &Holding| is_cut(holding) || cut.contains(&id);
        let giving = if cut.len() < wanted { self.giving_way(gone) } else { Vec::new() };
        let slow = cut.iter().map(|id| (*id, Cut::Slow));
        slow.chain(giving.into_iter().map(|id| (id, Cut::GivesWay))).collect()
    }

    /// The holdings that give way so that parties hold alike. `gone` are on their way back already, to the parties that come next.
    ///
    /// A unit moves only from a party that holds more to one that holds less also afterwards. So it never moves back, and no unit moves
    /// while all hold alike.
    fn giving_way(&self, gone: impl Fn(u64, &Holding) -> bool) -> Vec<u64> {
        let ids = self.holdings.iter().filter(|(id, holding)| holding.gives_way && !gone(**id, holding));
        let mut giving: Vec<(u64, &Holding)> = ids.map(|(id, holding)| (*id, holding)).collect();
        let mut given = Vec::new();
        if giving.is_empty() || self.used < self.room {
            return given;
        }
        let mut shares = self.shares.clone();
        let mut waiting = self.waiting_parties();
        for (id, holding) in &self.holdings {
            if gone(*id, holding) {
                shares.subtract(&holding.party, 1);
                if let Some(next) = least(&shares, &waiting) {
                    shares.add(one_of(&mut waiting, next), 1);
                }
            }
        }
        while let Some(next) = least(&shares, &waiting) {
            let party = one_of(&mut waiting, next);
            let uneven = giving.iter().enumerate().filter(|(_, (_, holding))| shares.evens(&holding.party, party));
            // Of equals the last, which is the youngest and so has the least to go on with.
            let most = uneven.max_by_key(|(_, (_, holding))| shares.both(&holding.party)).map(|(at, _)| at);
            let Some(most) = most else { break };
            let (id, holding) = giving.remove(most);
            shares.subtract(&holding.party, 1);
            shares.add(party, 1);
            given.push(id);
        }
        given
    }

    /// The parties that wait, in the order of coming, with how many times each does: thousands of one party cost no more than one.
    fn waiting_parties(&self) -> Vec<(&Party, usize)> {
        let mut places: HashMap<&Party, usize> = HashMap::new();
        let mut parties: Vec<(&Party, usize)> = Vec::new();
        for one in self.waiting.values() {
            let place = *places.entry(&one.party).or_insert(parties.len());
            match parties.get_mut(place) {
                Some((_, times)) => *times += 1,
                None => parties.push((&one.party, 1)),
            }
        }
        parties
    }

    /// The pace and the party of a holding.
    pub(super) fn holding(&self, id: u64) -> Option<(&Arc<Pace>, &Party)> {
        self.holdings.get(&id).map(|holding| (&holding.pace, &holding.party))
    }

    /// Looks at the pace of all, so that those that are slow are known when room is short.
    pub(super) fn look(&self, now: Instant) {
        for holding in self.holdings.values() {
            holding.pace.slow(now);
        }
    }
}

/// The party that comes next: the one that holds least, and of those the first.
fn least(shares: &Tally, waiting: &[(&Party, usize)]) -> Option<usize> {
    (0..waiting.len()).min_by_key(|at| shares.both(waiting[*at].0))
}

/// One of those that wait for a party.
fn one_of<'a>(waiting: &mut Vec<(&'a Party, usize)>, at: usize) -> &'a Party {
    let (party, left) = &mut waiting[at];
    let party = *party;
    *left -= 1;
    if *left == 0 {
        waiting.remove(at);
    }
    party
}

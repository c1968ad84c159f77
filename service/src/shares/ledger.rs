//! Who holds how much of a room, who waits, and what follows. Pure.
//!
//! A party may take more while it holds less than its factor times what is free ("dynamic thresholds", Choudhury and Hahne, 1998). The rule
//! needs no list of who competes: with one greedy account half of the room stays free, with two a third, and a party that holds nothing
//! may always take what is left.

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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::pace::{Floor, Flow};
    use super::*;

    const FLOOR: Floor = Floor { rate: 100, grace: Duration::from_secs(10) };

    fn party(network: u8, account: &str) -> Party {
        Party::new([192, 0, 2, network].into(), Some(account))
    }

    fn pace(begun: Instant) -> Arc<Pace> {
        Arc::new(Pace::new(FLOOR, Flow::default(), begun))
    }

    /// Takes until it may not.
    fn greedy(ledger: &mut Ledger, party: &Party) -> u64 {
        let mut taken = 0;
        while ledger.bound(party, 1, None).is_none() {
            ledger.take(party.clone(), 1, pace(Instant::now()));
            taken += 1;
        }
        taken
    }

    #[test]
    fn a_greedy_party_leaves_room_for_others() {
        for (greedy_ones, newcomer, taken, left) in [
            // One account.
            (vec![party(1, "ann")], party(2, "bob"), 50, 25),
            // Another account of its network, and one without.
            (vec![party(1, "ann")], party(1, "bob"), 50, 25),
            (vec![party(1, "ann")], party(1, ""), 50, 25),
            // One network without accounts.
            (vec![party(1, "")], party(1, "bob"), 50, 25),
            (vec![party(1, "")], party(2, ""), 50, 25),
            // One account from many networks.
            (vec![party(1, "ann"), party(2, "ann"), party(3, "ann+ci")], party(1, "bob"), 50, 25),
            // Many accounts of one network.
            ((0..100).map(|n| party(1, &format!("a{n}"))).collect(), party(2, "bob"), 80, 10),
            // No other party.
            (vec![], party(1, "bob"), 0, 50),
        ] {
            let mut ledger = Ledger::new(100, true);
            for one in &greedy_ones {
                greedy(&mut ledger, one);
            }
            assert_eq!((ledger.used(), greedy(&mut ledger, &newcomer)), (taken, left), "{greedy_ones:?}");
        }
    }

    #[test]
    fn a_party_that_holds_nothing_may_take_the_last() {
        let mut ledger = Ledger::new(1, true);
        assert_eq!(greedy(&mut ledger, &party(1, "ann")), 1);
        assert_eq!(ledger.bound(&party(2, "bob"), 1, None), Some(Bound::Room));
        // Where work is short nothing is kept free.
        let mut ledger = Ledger::new(2, false);
        assert_eq!(greedy(&mut ledger, &party(1, "ann")), 2);
        // What is charged to nothing has no share.
        let mut ledger = Ledger::new(10, true);
        assert_eq!(greedy(&mut ledger, &Party::default()), 10);
    }

    #[test]
    fn what_is_released_is_nobodys() {
        let mut ledger = Ledger::new(10, true);
        let id = ledger.take(party(1, "ann"), 3, pace(Instant::now()));
        ledger.grow(id, 2);
        assert_eq!((ledger.used(), ledger.held_by(&party(7, "ann"))), (5, 5));
        ledger.release(id);
        ledger.release(id);
        assert!(ledger.used() == 0 && ledger.shares.is_empty());
    }

    #[test]
    fn the_oldest_of_a_party_may_grow_while_there_is_any_room() {
        let mut ledger = Ledger::new(10, true);
        let oldest = ledger.take(party(1, "ann"), 4, pace(Instant::now()));
        let other = ledger.take(party(1, "ann"), 2, pace(Instant::now()));
        for (holding, amount, bound) in [
            (None, 1, Some(Bound::Own)),
            (Some(other), 1, Some(Bound::Own)),
            (Some(oldest), 4, None),
            (Some(oldest), 5, Some(Bound::Room)),
        ] {
            assert_eq!(ledger.bound(&party(1, "ann"), amount, holding), bound, "{holding:?} {amount}");
        }
    }

    #[test]
    fn the_one_that_holds_least_is_next() {
        let mut ledger = Ledger::new(4, false);
        let first = ledger.take(party(1, "ann"), 3, pace(Instant::now()));
        ledger.take(party(2, "bob"), 1, pace(Instant::now()));
        let waiting = ["ann", "ann", "bob", "cid", "dan"].map(|name| ledger.wait(party(1, name), 1, None));
        assert_eq!(ledger.next(), None, "all is taken");
        ledger.release(first);
        let mut order = Vec::new();
        while let Some(next) = ledger.next() {
            let one = ledger.waiting.remove(&next).unwrap();
            order.push(waiting.iter().position(|id| *id == next).unwrap());
            ledger.take(one.party, 1, pace(Instant::now()));
        }
        assert_eq!(order, [0, 3, 4], "{order:?}");
    }

    #[test]
    fn parties_that_hold_nothing_take_turns() {
        let mut ledger = Ledger::new(1, false);
        let mut held = ledger.take(party(1, "ann"), 1, pace(Instant::now()));
        let waiting = ["ann", "ann", "ann", "bob", "bob", "cid"].map(|name| ledger.wait(party(1, name), 1, None));
        let mut order = Vec::new();
        for _ in 0..waiting.len() {
            ledger.release(held);
            let next = ledger.next().unwrap();
            let one = ledger.waiting.remove(&next).unwrap();
            order.push(waiting.iter().position(|id| *id == next).unwrap());
            held = ledger.take(one.party, 1, pace(Instant::now()));
        }
        assert_eq!(order, [0, 3, 5, 1, 4, 2]);
    }

    #[test]
    fn the_slowest_of_the_party_in_the_way_is_cut() {
        let begun = Instant::now();
        let later = begun + Duration::from_secs(10);
        // Who holds, and how many bytes each has moved; who waits; which are cut.
        for (holdings, waiting, expected) in [
            // No one waits.
            (vec![("ann", 0), ("ann", 0)], vec![], vec![]),
            // The slowest first, of those below the lowest rate.
            (vec![("ann", 900), ("ann", 10), ("ann", 500), ("ann", 90_000)], vec!["bob"], vec![1]),
            (vec![("ann", 900), ("ann", 10), ("ann", 500), ("ann", 90_000)], vec!["bob", "bob"], vec![1, 2]),
            (vec![("ann", 90_000), ("ann", 90_000), ("ann", 90_000), ("ann", 90_000)], vec!["bob"], vec![]),
            // Of the party that holds most.
            (vec![("cid", 0), ("ann", 90), ("ann", 90), ("ann", 90)], vec!["bob"], vec![1]),
            // There is room, and its own share is used up: only its own are in the way.
            (vec![("cid", 0), ("ann", 90), ("ann", 10)], vec!["ann"], vec![2]),
        ] {
            let mut ledger = Ledger::new(4, true);
            let mut ids = Vec::new();
            for (name, moved) in &holdings {
                let pace = pace(begun);
                // Moved at the end of the time that it is measured over.
                ids.push(ledger.take(party(1, name), 1, Arc::clone(&pace)));
                pace.credit(*moved);
            }
            for name in &waiting {
                ledger.wait(party(1, name), 1, None);
            }
            let cut: Vec<usize> =
                ledger.to_cut(later).iter().map(|(id, _)| ids.iter().position(|one| one == id).unwrap()).collect();
            assert_eq!(cut, expected, "{holdings:?} {waiting:?}");
            for (id, _) in ledger.to_cut(later) {
                ledger.holding(id).unwrap().0.cut();
            }
            assert_eq!(ledger.to_cut(later), [], "one for each that waits");
        }
    }

    #[test]
    fn what_gives_way_moves_to_parties_that_hold_less_and_never_back() {
        let now = Instant::now();
        let (ann, bob, cid) = ((1, "ann"), (2, "bob"), (3, "cid"));
        let of_one_network =
            |count: u8| (0..count).map(|n| (1, ["a", "b", "c", "d", "e", "f", "g", "h"][usize::from(n)]));
        // Who holds, who waits, and who holds how much once nothing moves any more.
        for (holdings, waiting, expected) in [
            (vec![ann; 8], vec![], vec![(ann, 8)]),
            (vec![ann; 8], vec![ann; 9], vec![(ann, 8)]),
            (vec![ann; 8], vec![bob], vec![(ann, 7), (bob, 1)]),
            (vec![ann; 8], vec![bob; 20], vec![(ann, 4), (bob, 4)]),
            (vec![ann; 8], [vec![bob; 20], vec![cid; 20]].concat(), vec![(ann, 3), (bob, 3), (cid, 2)]),
            (vec![ann, bob], vec![cid; 3], vec![(ann, 1), (bob, 1), (cid, 0)]),
            // Many accounts of one network against one of another.
            (of_one_network(8).collect(), vec![bob; 5], vec![(bob, 1)]),
            (of_one_network(8).collect(), of_one_network(8).collect(), vec![(bob, 0)]),
        ] {
            let party = |(network, account): (u8, &str)| party(network, account);
            let mut ledger = Ledger::new(holdings.len() as u64, false);
            for one in &holdings {
                let id = ledger.take(party(*one), 1, pace(now));
                ledger.set_gives_way(id, true);
            }
            for one in &waiting {
                ledger.wait(party(*one), 1, None);
            }
            let mut moved = 0;
            loop {
                let cut = ledger.to_cut(now);
                for (id, why) in &cut {
                    assert_eq!(*why, Cut::GivesWay);
                    // Its holder wants it again.
                    let again = ledger.holdings[id].party.clone();
                    ledger.release(*id);
                    ledger.wait(again, 1, None);
                }
                while let Some(next) = ledger.next() {
                    let one = ledger.waiting.remove(&next).unwrap();
                    let id = ledger.take(one.party, 1, pace(now));
                    ledger.set_gives_way(id, true);
                }
                moved += cut.len();
                assert!(moved <= 8, "{holdings:?} {waiting:?}");
                if cut.is_empty() {
                    break;
                }
            }
            for (one, held) in expected {
                assert_eq!(ledger.held_by(&party(one)), held, "{one:?} of {holdings:?} {waiting:?}");
            }
        }
    }

    #[test]
    fn what_does_not_give_way_stays_and_what_is_cut_is_counted_once() {
        let now = Instant::now();
        let mut ledger = Ledger::new(4, false);
        let ids: Vec<u64> = (0..4).map(|_| ledger.take(party(1, "ann"), 1, pace(now))).collect();
        ledger.wait(party(2, "bob"), 1, None);
        assert_eq!(ledger.to_cut(now), []);
        ledger.set_gives_way(ids[1], true);
        ledger.set_gives_way(ids[2], true);
        assert_eq!(ledger.to_cut(now), [(ids[2], Cut::GivesWay)]);
        ledger.holding(ids[2]).unwrap().0.cut();
        assert_eq!(ledger.to_cut(now), [], "one is on its way back");
        ledger.wait(party(2, "bob"), 1, None);
        assert_eq!(ledger.to_cut(now), [(ids[1], Cut::GivesWay)]);
    }
}

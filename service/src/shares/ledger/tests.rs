//! Tables of the ledger: who may take more, who is next, and what is taken back.

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
    let of_one_network = |count: u8| (0..count).map(|n| (1, ["a", "b", "c", "d", "e", "f", "g", "h"][usize::from(n)]));
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

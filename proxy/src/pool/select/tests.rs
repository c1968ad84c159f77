//! Tables for the choice of a server.

use super::super::state::WHOLE;
use super::*;

fn server(weight: u32) -> Candidate {
    let seed = u64::from(weight);
    let open = Open::Yes;
    Candidate { open, full: false, tried: false, backup: false, weight, share: WHOLE, active: 0, seed }
}

fn servers(count: usize) -> Vec<Candidate> {
    let hosts = (0..count).map(|index| XxHash3_64::oneshot(format!("quay{index:02}:443").as_bytes()));
    hosts.map(|seed| Candidate { seed, ..server(1) }).collect()
}

fn choose(candidates: &[Candidate], rule: Rule<'_>) -> Choice {
    select(candidates.iter().copied(), rule)
}

/// The first choice of each rule.
fn by_every_rule(candidates: &[Candidate]) -> Vec<Choice> {
    let mut credits = vec![0; candidates.len()];
    let rules = [Rule::InTurn(&mut credits), Rule::Fewest(0), Rule::OfTwo(0, 0), Rule::Hash(b"sha256:e3b0")];
    rules.into_iter().map(|rule| choose(candidates, rule)).collect()
}

fn turns(candidates: &[Candidate], count: usize) -> String {
    let mut credits = vec![0; candidates.len()];
    let mut next = || match choose(candidates, Rule::InTurn(&mut credits)) {
        Choice::Server(index) => char::from(b'a' + u8::try_from(index).unwrap()),
        Choice::Busy => '-',
        Choice::Nobody => '!',
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn classes_come_in_their_order() {
    let up = server(1);
    let backup = Candidate { backup: true, ..up };
    let tried = Candidate { tried: true, ..up };
    let tried_backup = Candidate { tried: true, ..backup };
    let none = server(0);
    let held = Candidate { open: Open::Last, ..up };
    let down = Candidate { open: Open::No, ..up };
    let tried_down = Candidate { tried: true, ..down };
    let tried_held = Candidate { tried: true, ..held };
    let first_try = (down, vec![up, backup, none, held]);
    // What failed others may have come back, and what failed this request has just failed.
    let later_try = (tried_down, vec![up, backup, held, tried, tried_backup, none, tried_held]);
    for (away, order) in [first_try, later_try] {
        for better in 0..order.len() {
            for worse in better + 1..order.len() {
                for chosen in by_every_rule(&[away, order[worse], order[better], order[worse]]) {
                    assert_eq!(chosen, Choice::Server(2), "{better} before {worse} of {order:?}");
                }
            }
            assert!(by_every_rule(&[away, order[better]]).iter().all(|chosen| *chosen == Choice::Server(1)));
        }
    }
    assert!(by_every_rule(&[down, down]).iter().all(|chosen| *chosen == Choice::Nobody));
    assert!(by_every_rule(&[]).iter().all(|chosen| *chosen == Choice::Nobody));
}

#[test]
fn what_is_full_is_waited_for_and_not_passed_over() {
    let full = Candidate { full: true, ..server(1) };
    let backup = Candidate { backup: true, ..server(1) };
    let full_backup = Candidate { full: true, ..backup };
    for (candidates, expected) in [
        (vec![full], Choice::Busy),
        (vec![full, server(1)], Choice::Server(1)),
        (vec![full, backup], Choice::Busy),
        (vec![full_backup], Choice::Busy),
        (vec![Candidate { tried: true, ..server(1) }, full], Choice::Busy),
        (vec![Candidate { open: Open::No, ..full }, backup], Choice::Server(1)),
    ] {
        assert!(by_every_rule(&candidates).iter().all(|chosen| *chosen == expected), "{candidates:?}");
    }
}

#[test]
fn turns_are_smooth_and_by_weight() {
    for (weights, expected) in [
        (&[1, 1, 1][..], "abcabc"),
        (&[5, 1, 1][..], "aabacaaaabacaa"),
        (&[1, 2][..], "babbab"),
        (&[0, 1][..], "bbbb"),
        (&[0, 0][..], "abab"),
    ] {
        let candidates: Vec<Candidate> = weights.iter().map(|weight| server(*weight)).collect();
        assert_eq!(turns(&candidates, expected.len()), expected, "{weights:?}");
    }
}

#[test]
fn a_server_that_starts_slowly_gets_its_share() {
    let slow = Candidate { share: 100, ..server(1) };
    let seen = turns(&[server(1), slow], 110);
    assert_eq!(seen.matches('b').count(), 10);
}

#[test]
fn a_server_that_was_away_is_not_given_all_at_once() {
    let mut candidates = [server(1), server(1)];
    let mut credits = vec![0; 2];
    candidates[1].open = Open::No;
    for _ in 0..100 {
        choose(&candidates, Rule::InTurn(&mut credits));
    }
    candidates[1].open = Open::Yes;
    let seen: Vec<Choice> = (0..4).map(|_| choose(&candidates, Rule::InTurn(&mut credits))).collect();
    assert_eq!(seen.iter().filter(|chosen| **chosen == Choice::Server(1)).count(), 2);
}

#[test]
fn who_has_the_fewest_is_next_by_weight() {
    let busy = |weight, active| Candidate { active, ..server(weight) };
    for (candidates, expected) in [
        (vec![busy(1, 1), busy(1, 0)], 1),
        (vec![busy(1, 3), busy(4, 9)], 1),
        (vec![busy(1, 1), busy(4, 9)], 0),
        // One more: 1/1 against 3/2.
        (vec![busy(1, 0), busy(2, 2)], 0),
    ] {
        assert_eq!(choose(&candidates, Rule::Fewest(0)), Choice::Server(expected), "{candidates:?}");
    }
    let equals = servers(3);
    let seen: Vec<Choice> = (0..4).map(|offset| choose(&equals, Rule::Fewest(offset))).collect();
    assert_eq!(seen, [0, 1, 2, 0].map(Choice::Server));
}

#[test]
fn the_better_of_two_is_next() {
    let mut candidates = servers(2);
    candidates[0].active = 5;
    for draw in [0, u64::MAX / 3, u64::MAX] {
        assert_eq!(choose(&candidates, Rule::OfTwo(draw, draw)), Choice::Server(1));
    }
    // By weight: nine of ten draws are for the heavy one.
    let candidates = [server(9), server(1)];
    let draws = (0..1000_u64).map(|step| step * (u64::MAX / 1000));
    let first = draws.filter(|draw| choose(&candidates, Rule::OfTwo(*draw, 0)) == Choice::Server(0)).count();
    assert!((890..=910).contains(&first), "{first}");
}

fn owners(candidates: &[Candidate]) -> Vec<usize> {
    let owner = |key: usize| match choose(candidates, Rule::Hash(format!("sha256:{key:064x}").as_bytes())) {
        Choice::Server(index) => index,
        other => panic!("{other:?}"),
    };
    (0..4000).map(owner).collect()
}

#[test]
fn keys_move_only_with_their_server() {
    let mut candidates = servers(4);
    let before = owners(&candidates);
    for index in 0..4 {
        let keys = before.iter().filter(|owner| **owner == index).count();
        assert!((800..1200).contains(&keys), "{keys}");
    }
    candidates[2].open = Open::No;
    let during = owners(&candidates);
    for (before, during) in before.iter().zip(&during) {
        assert!(before == during || *before == 2);
        assert_ne!(*during, 2);
    }
    candidates[2].open = Open::Yes;
    assert_eq!(owners(&candidates), before);
    // A new server takes keys, and nothing moves between the old ones.
    let more = owners(&servers(5));
    assert!(before.iter().zip(&more).all(|(before, after)| before == after || *after == 4));
}

#[test]
fn keys_follow_weights() {
    let mut candidates = servers(2);
    candidates[0].weight = 3;
    let first = owners(&candidates).iter().filter(|owner| **owner == 0).count();
    assert!((2850..3150).contains(&first), "{first}");
}

//! What each account and each network holds. Pure.

use std::collections::HashMap;

use super::party::{Key, Party};

/// Units, by account and by network.
#[derive(Clone, Debug, Default)]
pub struct Tally(HashMap<Key, u64>);

impl Tally {
    /// More for a party.
    pub fn add(&mut self, party: &Party, amount: u64) {
        for key in party.keys() {
            *self.0.entry(key.clone()).or_default() += amount;
        }
    }

    /// Less for a party. One that holds nothing takes no memory.
    pub fn subtract(&mut self, party: &Party, amount: u64) {
        for key in party.keys() {
            if let Some(held) = self.0.get_mut(key) {
                *held = held.saturating_sub(amount);
                if *held == 0 {
                    self.0.remove(key);
                }
            }
        }
    }

    /// What a party's account holds, or the clients of its network without one.
    pub fn own(&self, party: &Party) -> u64 {
        self.held(party.own())
    }

    /// What a party's network holds.
    pub fn network(&self, party: &Party) -> u64 {
        self.held(party.network())
    }

    /// Both, to compare parties by.
    pub fn both(&self, party: &Party) -> (u64, u64) {
        (self.own(party), self.network(party))
    }

    /// Whether one unit that moves from a party to another makes accounts or networks more even, and neither less.
    pub(super) fn evens(&self, from: &Party, to: &Party) -> bool {
        let ((own, network), (other_own, other_network)) = (self.both(from), self.both(to));
        let own_may = own > other_own || from.own() == to.own();
        let network_may = network > other_network || from.network() == to.network();
        (own > other_own + 1 && network_may) || (network > other_network + 1 && own_may)
    }

    fn held(&self, key: Option<&Key>) -> u64 {
        key.and_then(|key| self.0.get(key)).copied().unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

//! Which parties had a turn lately: of those that hold alike, the one whose turn is longest ago comes next. Pure.

use std::collections::HashMap;

use super::party::{Key, Party};

/// Parties that are remembered. With more, all are forgotten, and the order of coming decides until they had a turn again.
const PARTIES: usize = 4096;

/// Turns that parties had.
#[derive(Debug, Default)]
pub struct Rounds {
    turns: HashMap<Key, u64>,
    last: u64,
}

impl Rounds {
    /// A party has its turn.
    pub fn turn(&mut self, party: &Party) {
        let Some(key) = party.keys().next() else { return };
        if self.turns.len() >= PARTIES {
            self.turns.clear();
        }
        self.last += 1;
        self.turns.insert(key.clone(), self.last);
    }

    /// When a party had its last turn, to compare parties by. 0: never.
    pub fn last(&self, party: &Party) -> u64 {
        party.keys().next().and_then(|key| self.turns.get(key)).copied().unwrap_or_default()
    }

    /// No party waits any more.
    pub fn clear(&mut self) {
        self.turns.clear();
    }
}

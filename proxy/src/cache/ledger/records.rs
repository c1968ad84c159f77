//! The records of repositories, as the ledger counts them: by repository, for there is no end of small files.
//!
//! Invariant: a group is here as long as its directories may be. Room for a file is reserved before it is written; what a
//! writer did not need, and what was deleted, is given back, in any order.

use std::time::SystemTime;

use super::{Ledger, NoRoom, State, milliseconds};
use crate::cache::records::{RecordGroup, Written};

/// What is counted of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::cache) struct RecordEntry {
    /// What its files and directories take, or are about to.
    pub(in crate::cache) size: u64,
    /// Last use, in milliseconds since 1970.
    pub(in crate::cache) used: u64,
    /// What is left of it is pinned, or cannot be deleted.
    pub(in crate::cache) kept: bool,
}

/// Room for one record, until it is written. What is not used of it is given back.
pub(in crate::cache) struct RecordRoom<'l> {
    ledger: &'l Ledger,
    group: RecordGroup,
    bytes: u64,
}

impl RecordRoom<'_> {
    /// The record is written.
    pub(in crate::cache) fn settle(mut self, written: Written) {
        self.bytes = self.bytes.saturating_add(written.before).saturating_sub(written.after);
    }
}

impl Drop for RecordRoom<'_> {
    fn drop(&mut self) {
        let mut state = self.ledger.state();
        state.shrink(&self.group, self.bytes);
        // An eviction that came between could not know of this record.
        if let Some(entry) = state.records.get_mut(&self.group) {
            entry.kept = false;
        }
        self.ledger.show(&state);
    }
}

impl State {
    /// Counts a group's bytes no more.
    fn shrink(&mut self, group: &RecordGroup, bytes: u64) {
        let Some(entry) = self.records.get_mut(group) else { return };
        let bytes = bytes.min(entry.size);
        entry.size -= bytes;
        self.record_bytes = self.record_bytes.saturating_sub(bytes);
        self.subtract(Some(&group.repository.registry), bytes);
        self.touched_records.insert(group.clone());
    }
}

impl Ledger {
    /// Reserves room for a record of `bytes`, and for its directories when there are none. Counts as a use.
    pub(in crate::cache) fn try_reserve_records(
        &self,
        group: &RecordGroup,
        bytes: u64,
        now: SystemTime,
    ) -> Result<RecordRoom<'_>, NoRoom> {
        let mut state = self.state();
        let directories = if state.records.contains_key(group) { 0 } else { group.directories() };
        let more = bytes.saturating_add(directories);
        let (total, limit) = (state.bytes.saturating_add(more), self.limit());
        if total > limit {
            return Err(NoRoom(total - limit));
        }
        let entry = state.records.entry(group.clone()).or_default();
        entry.size = entry.size.saturating_add(more);
        entry.used = milliseconds(now);
        entry.kept = false;
        state.add(Some(&group.repository.registry), more);
        state.record_bytes = state.record_bytes.saturating_add(more);
        state.touched_records.insert(group.clone());
        self.show(&state);
        Ok(RecordRoom { ledger: self, group: group.clone(), bytes })
    }

    /// Gives back what files took that are gone.
    pub(in crate::cache) fn free_records(&self, group: &RecordGroup, bytes: u64) {
        if bytes > 0 {
            let mut state = self.state();
            state.shrink(group, bytes);
            self.show(&state);
        }
    }

    /// Records were used.
    pub(in crate::cache) fn use_records(&self, group: &RecordGroup, now: SystemTime) {
        let (now, mut state) = (milliseconds(now), self.state());
        if let Some(entry) = state.records.get_mut(group).filter(|entry| entry.used < now) {
            entry.used = now;
            state.touched_records.insert(group.clone());
        }
    }

    /// Records that changed, or were used, since the last call.
    pub(in crate::cache) fn take_touched_records(&self) -> Vec<RecordGroup> {
        std::mem::take(&mut self.state().touched_records).into_iter().collect()
    }

    /// What is counted of a group.
    pub(in crate::cache) fn records(&self, group: &RecordGroup) -> Option<RecordEntry> {
        self.state().records.get(group).copied()
    }

    /// All that was counted, to compare.
    #[cfg(test)]
    pub(in crate::cache) fn all_records(&self) -> std::collections::HashMap<RecordGroup, RecordEntry> {
        self.state().records.clone()
    }

    /// A group was evicted: its directories are gone, or what is left of it has to stay.
    pub(in crate::cache) fn evicted_records(&self, group: &RecordGroup, freed: u64) {
        let mut state = self.state();
        state.shrink(group, freed);
        let directories = group.directories();
        let left = state.records.get(group).map_or(0, |entry| entry.size);
        let closed = left <= directories;
        if closed {
            state.shrink(group, left);
            state.records.remove(group);
        } else if let Some(entry) = state.records.get_mut(group) {
            entry.kept = true;
        }
        self.show(&state);
        self.metrics.evictions.inc();
        self.metrics.evicted_bytes.inc_by(freed.saturating_add(if closed { left } else { 0 }));
    }
}

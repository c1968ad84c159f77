//! What lies on disk, and how much of it: the one place that counts bytes.
//!
//! Space is reserved before it is written and given back after it is freed, so the count is never below what the tree
//! holds. Sizes are rounded up to blocks, since that is what a file takes. The ledger lives in memory (some 100 bytes an
//! entry); the index remembers it across restarts. Records of repositories are counted and evicted as content is.

mod records;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, MutexGuard};
use pierhead_registry::oci::Digest;

use super::evict::{self, Candidate, Victim};
use super::records::{BLOCK, RecordGroup};
use super::room::Held;
use crate::admin::metrics::Metrics;

pub(super) use self::records::{RecordEntry, RecordRoom};

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Committed content; for a manifest with what it refers to.
    Committed {
        /// Empty for a blob.
        children: Box<[Digest]>,
    },
    /// Some of a blob.
    Partial {
        /// Somebody writes to it.
        busy: bool,
    },
}

/// An entry of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The registry that it came from first, whose share of the store it takes; `None`: unknown.
    pub(super) owner: Option<Arc<str>>,
    /// Length of committed content, bytes reserved for a partial.
    pub(super) size: u64,
    /// Last use, in milliseconds since 1970.
    pub(super) used: u64,
    /// Never evicted, nor what it refers to.
    pub(super) pinned: bool,
    /// Nobody vouches for it: it was found in the tree and not in the index, and is hashed before it is first served.
    pub(super) suspect: bool,
    /// What it is.
    pub(super) kind: Kind,
}

/// The store is smaller than what must stay and what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for {0} more bytes")]
pub(super) struct NoRoom(pub(super) u64);

/// The ledger.
pub(super) struct Ledger {
    /// As configured.
    limit: AtomicU64,
    /// What the disk can hold.
    ceiling: AtomicU64,
    state: Mutex<State>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct State {
    entries: HashMap<Digest, Entry>,
    bytes: u64,
    /// What the entries of each registry take.
    by_owner: HashMap<Arc<str>, u64>,
    /// Digests whose recency changed since the index last heard.
    touched: Vec<Digest>,
    /// The records of repositories.
    records: HashMap<RecordGroup, RecordEntry>,
    record_bytes: u64,
    /// Records that changed, or were used, since the index last heard.
    touched_records: HashSet<RecordGroup>,
    /// Evictions that are being carried out.
    evictions: usize,
    /// What manifests that were used meanwhile need: the plans of those evictions did not know.
    needed: HashSet<Digest>,
}

impl State {
    /// Counts an entry.
    fn add(&mut self, owner: Option<&Arc<str>>, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        if let Some(owner) = owner.filter(|_| bytes > 0) {
            *self.by_owner.entry(Arc::clone(owner)).or_default() += bytes;
        }
    }

    /// Counts an entry no more.
    fn subtract(&mut self, owner: Option<&Arc<str>>, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        if let Some(owner) = owner
            && let Some(taken) = self.by_owner.get_mut(owner)
        {
            *taken = taken.saturating_sub(bytes);
            if *taken == 0 {
                self.by_owner.remove(owner);
            }
        }
    }

    /// A manifest is used, or new: an eviction that is under way must spare what it needs.
    fn spare(&mut self, digest: &Digest) {
        let mut work = if self.evictions == 0 { Vec::new() } else { vec![*digest] };
        while let Some(digest) = work.pop() {
            if self.needed.insert(digest)
                && let Some(Entry { kind: Kind::Committed { children }, .. }) = self.entries.get(&digest)
            {
                work.extend(children);
            }
        }
    }
}

/// What to evict, in order. While this lives, what is used is spared.
pub(super) struct Victims<'a> {
    ledger: &'a Ledger,
    pub(super) victims: Vec<Victim>,
}

impl Drop for Victims<'_> {
    fn drop(&mut self) {
        let mut state = self.ledger.state();
        state.evictions -= 1;
        if state.evictions == 0 {
            state.needed = HashSet::new();
        }
    }
}

/// Milliseconds since 1970, as the ledger keeps them.
pub(super) fn milliseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX - 1))
}

fn blocks(size: u64) -> u64 {
    size.div_ceil(BLOCK).saturating_mul(BLOCK)
}

impl Ledger {
    pub(super) fn new(
        limit: u64,
        entries: HashMap<Digest, Entry>,
        records: HashMap<RecordGroup, RecordEntry>,
        metrics: Arc<Metrics>,
    ) -> Ledger {
        let mut state = State::default();
        for (group, entry) in &records {
            state.add(Some(&group.repository.registry), entry.size);
            state.record_bytes += entry.size;
        }
        state.records = records;
        for entry in entries.values() {
            state.add(entry.owner.as_ref(), blocks(entry.size));
        }
        state.entries = entries;
        let (limit, ceiling) = (AtomicU64::new(limit), AtomicU64::new(u64::MAX));
        let ledger = Ledger { limit, ceiling, state: Mutex::new(state), metrics };
        ledger.show(&ledger.state());
        ledger
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn show(&self, state: &State) {
        let gauge = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.metrics.cache_bytes.set(gauge(state.bytes.saturating_sub(state.record_bytes)));
        self.metrics.cache_record_bytes.set(gauge(state.record_bytes));
        self.metrics.cache_entries.set(gauge(state.entries.len() as u64));
        self.metrics.cache_limit.set(gauge(self.limit()));
    }

    /// Most bytes: as configured, or what the disk can hold.
    pub(super) fn limit(&self) -> u64 {
        self.configured().min(self.ceiling.load(Ordering::Relaxed))
    }

    /// Most bytes, as configured.
    pub(super) fn configured(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// What the disk can hold, as it is now.
    pub(super) fn set_ceiling(&self, ceiling: u64) {
        self.ceiling.store(ceiling, Ordering::Relaxed);
    }

    /// The configured size, and what the disk can hold, where that is less.
    pub(super) fn shortage(&self) -> Option<(u64, u64)> {
        let (configured, held) = (self.configured(), self.limit());
        (held < configured).then_some((configured, held))
    }

    /// Another limit; by how much what is here exceeds it.
    pub(super) fn resize(&self, limit: u64) -> u64 {
        self.limit.store(limit, Ordering::Relaxed);
        let state = self.state();
        self.show(&state);
        state.bytes.saturating_sub(self.limit())
    }

    /// The entry of a digest.
    pub(super) fn get(&self, digest: &Digest) -> Option<Entry> {
        self.state().entries.get(digest).cloned()
    }

    /// Length of committed content; counts as a use.
    pub(super) fn committed(&self, digest: &Digest, now: SystemTime) -> Option<u64> {
        let mut state = self.state();
        let entry = state.entries.get_mut(digest)?;
        if !matches!(entry.kind, Kind::Committed { .. }) {
            return None;
        }
        let size = entry.size;
        let now = milliseconds(now);
        if entry.used < now {
            entry.used = now;
            state.touched.push(*digest);
        }
        state.spare(digest);
        Some(size)
    }

    /// Makes the reservation for a digest at least `size`, and busy if it is a partial, when there is room for it.
    pub(super) fn try_reserve(
        &self,
        owner: &Arc<str>,
        digest: &Digest,
        size: u64,
        now: SystemTime,
    ) -> Result<(), NoRoom> {
        let mut state = self.state();
        let before = state.entries.get(digest).map_or(0, |entry| blocks(entry.size));
        let after = blocks(size).max(before);
        let total = (state.bytes - before).saturating_add(after);
        let limit = self.limit();
        if total > limit {
            return Err(NoRoom(total - limit));
        }
        let entry = state.entries.entry(*digest).or_insert(Entry {
            owner: Some(Arc::clone(owner)),
            size: 0,
            used: milliseconds(now),
            pinned: false,
            suspect: false,
            kind: Kind::Partial { busy: true },
        });
        entry.size = entry.size.max(size);
        entry.used = milliseconds(now);
        if let Kind::Partial { busy } = &mut entry.kind {
            *busy = true;
        }
        let owner = entry.owner.clone();
        state.add(owner.as_ref(), after - before);
        self.show(&state);
        Ok(())
    }

    /// Sets an entry, whatever it was before.
    pub(super) fn set(&self, digest: &Digest, entry: Entry) {
        let mut state = self.state();
        let (owner, after) = (entry.owner.clone(), blocks(entry.size));
        if let Some(before) = state.entries.insert(*digest, entry) {
            state.subtract(before.owner.as_ref(), blocks(before.size));
        }
        state.add(owner.as_ref(), after);
        state.spare(digest);
        self.show(&state);
    }

    /// Forgets an entry whose file is gone.
    pub(super) fn remove(&self, digest: &Digest) -> Option<Entry> {
        let mut state = self.state();
        let entry = state.entries.remove(digest)?;
        state.subtract(entry.owner.as_ref(), blocks(entry.size));
        self.show(&state);
        Some(entry)
    }

    /// Bytes of what was last used before a time, in milliseconds, and may be evicted.
    pub(super) fn bytes_used_before(&self, used: u64) -> u64 {
        let state = self.state();
        let older = state.entries.values().filter(|entry| entry.used < used && !entry.pinned);
        older.map(|entry| blocks(entry.size)).sum()
    }

    /// What is being written to.
    pub(super) fn busy(&self) -> Vec<Digest> {
        let state = self.state();
        let busy = state.entries.iter().filter(|(_, entry)| entry.kind == Kind::Partial { busy: true });
        busy.map(|(digest, _)| *digest).collect()
    }

    /// An entry was hashed and is what it should be. Returns it when that is news.
    pub(super) fn vouch(&self, digest: &Digest) -> Option<Entry> {
        let mut state = self.state();
        let entry = state.entries.get_mut(digest).filter(|entry| entry.suspect)?;
        entry.suspect = false;
        Some(entry.clone())
    }

    /// Pins an entry.
    pub(super) fn pin(&self, digest: &Digest) {
        if let Some(entry) = self.state().entries.get_mut(digest) {
            entry.pinned = true;
        }
    }

    /// Pins these entries and no others.
    pub(super) fn set_pins(&self, pinned: &HashSet<Digest>) {
        let mut state = self.state();
        for (digest, entry) in &mut state.entries {
            entry.pinned = pinned.contains(digest);
        }
        // What is pinned among records is found out when they are evicted.
        state.records.values_mut().for_each(|entry| entry.kept = false);
    }

    /// What a registry takes.
    pub(super) fn taken_by(&self, owner: &str) -> u64 {
        self.state().by_owner.get(owner).copied().unwrap_or(0)
    }

    /// The registries that take more than what `share` says of each.
    pub(super) fn beyond(&self, share: impl Fn(&str) -> u64) -> Vec<Arc<str>> {
        let state = self.state();
        let beyond = state.by_owner.iter().filter(|(owner, taken)| **taken > share(owner));
        beyond.map(|(owner, _)| Arc::clone(owner)).collect()
    }

    /// Chooses what to evict so that `need` more bytes fit, with some to spare so that not every reservation has to
    /// choose; only of what came from `of`, where that is given. The entries stay: whoever deletes a file calls
    /// [`Ledger::evicted`].
    pub(super) fn choose(&self, need: u64, of: Option<&[Arc<str>]>) -> Option<Victims<'_>> {
        let mut state = self.state();
        state.evictions += 1;
        let mut victims = Victims { ledger: self, victims: Vec::new() };
        // Planning looks at every entry, so it works on a copy: hits must not wait for it.
        let spared = |owner: Option<&Arc<str>>| of.is_some_and(|of| !owner.is_some_and(|owner| of.contains(owner)));
        let contents = state.entries.iter().map(|(digest, entry)| Candidate {
            victim: Victim::Content(*digest),
            size: blocks(entry.size),
            used: entry.used,
            pinned: entry.pinned,
            busy: entry.kind == Kind::Partial { busy: true },
            spared: spared(entry.owner.as_ref()),
            children: match &entry.kind {
                Kind::Committed { children } => children.clone(),
                Kind::Partial { .. } => Box::default(),
            },
        });
        let records = state.records.iter().map(|(group, entry)| Candidate {
            victim: Victim::Records(group.clone()),
            size: entry.size,
            used: entry.used,
            pinned: entry.kept,
            busy: false,
            spared: spared(Some(&group.repository.registry)),
            children: Box::default(),
        });
        let candidates: Vec<Candidate> = contents.chain(records).collect();
        drop(state);
        let spare = self.limit() / 100;
        let plan = evict::plan(&candidates, need.saturating_add(spare)).or_else(|| evict::plan(&candidates, need));
        victims.victims = plan.filter(|plan| !plan.is_empty())?;
        Some(victims)
    }

    /// Whether a victim is still one: nobody writes to it, and nothing that was used since it was chosen needs it.
    pub(super) fn is_victim(&self, digest: &Digest) -> bool {
        let state = self.state();
        let busy = state.entries.get(digest).is_none_or(|entry| entry.kind == Kind::Partial { busy: true });
        !busy && !state.needed.contains(digest)
    }

    /// An evicted entry: forgotten and counted.
    pub(super) fn evicted(&self, digest: &Digest) {
        if let Some(entry) = self.remove(digest) {
            self.metrics.evictions.inc();
            self.metrics.evicted_bytes.inc_by(entry.size);
        }
    }

    /// Bytes on disk or reserved.
    pub(super) fn bytes(&self) -> u64 {
        self.state().bytes
    }

    /// What lies on disk or is reserved.
    pub(super) fn held(&self) -> Held {
        let state = self.state();
        // Most records take one block.
        let records = state.record_bytes / BLOCK;
        Held { bytes: state.bytes, files: (state.entries.len() as u64).saturating_add(records) }
    }

    /// All digests of committed content.
    pub(super) fn all_committed(&self) -> Vec<Digest> {
        let state = self.state();
        let committed = state.entries.iter().filter(|(_, entry)| matches!(entry.kind, Kind::Committed { .. }));
        committed.map(|(digest, _)| *digest).collect()
    }

    /// Entries whose recency changed since the last call.
    pub(super) fn take_touched(&self) -> Vec<Digest> {
        let mut state = self.state();
        let mut touched = std::mem::take(&mut state.touched);
        touched.sort_unstable();
        touched.dedup();
        touched
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Kind, Ledger, Victim};
    use crate::admin::metrics::Metrics;
    use pierhead_registry::oci::{Algorithm, Digest};
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::time::{Duration, UNIX_EPOCH};

    fn digest(n: u8) -> Digest {
        Digest::of(Algorithm::Sha256, &[n])
    }

    fn ledger(limit: u64) -> Ledger {
        Ledger::new(limit, HashMap::new(), HashMap::new(), Arc::new(Metrics::new().unwrap()))
    }

    #[test]
    fn counts_reservations_once_and_in_blocks() {
        let ledger = ledger(3 * 4096);
        ledger.try_reserve(&"r".into(), &digest(1), 5000, UNIX_EPOCH).unwrap();
        ledger.try_reserve(&"r".into(), &digest(1), 100, UNIX_EPOCH).unwrap();
        assert_eq!(ledger.bytes(), 2 * 4096);
        assert_eq!(ledger.try_reserve(&"r".into(), &digest(2), 4097, UNIX_EPOCH).unwrap_err().0, 4096);
        assert_eq!(ledger.bytes(), 2 * 4096);
        let kind = Kind::Committed { children: Box::default() };
        ledger.set(&digest(1), Entry { owner: None, size: 1, used: 0, pinned: false, suspect: false, kind });
        assert_eq!(ledger.bytes(), 4096);
        assert_eq!(ledger.committed(&digest(1), UNIX_EPOCH + Duration::from_secs(9)), Some(1));
        assert_eq!(ledger.take_touched().len(), 1);
        assert!(ledger.take_touched().is_empty());
        ledger.remove(&digest(1));
        assert_eq!(ledger.bytes(), 0);
    }

    #[test]
    fn a_running_fill_is_not_chosen() {
        let ledger = ledger(2 * 4096);
        ledger.try_reserve(&"r".into(), &digest(1), 4096, UNIX_EPOCH).unwrap();
        assert!(ledger.choose(4096, None).is_none());
        let kind = Kind::Partial { busy: false };
        ledger.set(&digest(1), Entry { owner: None, size: 10, used: 0, pinned: false, suspect: false, kind });
        assert_eq!(ledger.choose(4096, None).unwrap().victims, [Victim::Content(digest(1))]);
    }

    #[test]
    fn what_is_used_while_an_eviction_is_under_way_is_spared() {
        let ledger = ledger(3 * 4096);
        let committed = |children: &[Digest]| Entry {
            owner: None,
            size: 10,
            used: 0,
            pinned: false,
            suspect: false,
            kind: Kind::Committed { children: children.into() },
        };
        ledger.set(&digest(1), committed(&[digest(2)]));
        ledger.set(&digest(2), committed(&[digest(3)]));
        ledger.set(&digest(3), committed(&[]));
        let victims = ledger.choose(3 * 4096, None).unwrap();
        assert_eq!(victims.victims, [1, 2, 3].map(|n| Victim::Content(digest(n))));
        ledger.evicted(&digest(1));
        assert!(ledger.is_victim(&digest(3)));
        ledger.set(&digest(1), committed(&[digest(2)]));
        assert!(!ledger.is_victim(&digest(3)));
        drop(victims);
        assert!(ledger.is_victim(&digest(3)));
    }
}

//! The committed store: tree, ledger and index acting as one.
//!
//! Here space is reserved and made by eviction, content is committed and removed, and a failing disk is noticed: from
//! then on nothing is stored for a while, requests go past the store, and the next attempt after that finds out whether
//! it works again.
//!
//! A registry that takes no more than its share of the store may evict whatever was used least recently. One that takes
//! more may evict only what came from it, so that no upstream can push out what came from all others. What it took beyond its share while
//! room was free goes first when another registry wants room.

mod contents;
mod eviction;
mod fault;
mod records;

use std::collections::HashMap;
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pierhead_registry::oci::{Digest, schema1};

use self::fault::{Fault, fault};
use super::hot::Hot;
use super::index::Index;
use super::ledger::{self, Entry, Kind, Ledger, RecordRoom};
use super::pins::Pins;
use super::records::RecordGroup;
use super::room::Disk;
use super::tree::{self, Tree};
use crate::admin::metrics::{Metrics, VerificationPlace};

/// How long nothing is stored after the disk failed.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// How often the index is pruned.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);
/// A disk that can hold less than this is full of something else.
const USELESS: u64 = 1 << 20;
/// What a registry may take that nothing is said of: content of a registry that is configured no more, for one.
const SHARE: u8 = 80;

/// Why something is not stored. The request is served all the same.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum NotStored {
    /// It is larger than the store.
    #[error("{size} bytes do not fit into the cache: max_size is {limit} bytes")]
    TooLarge {
        /// What is wanted.
        size: u64,
        /// Most bytes of content.
        limit: u64,
    },
    /// It is larger than what the disk can hold.
    #[error(
        "{size} bytes do not fit on the cache's disk: it can hold {capacity} bytes of content, {free} bytes are free, \
         and {min_free} must stay free"
    )]
    DiskTooSmall {
        /// What is wanted.
        size: u64,
        /// Most bytes of content.
        capacity: u64,
        /// What is free now.
        free: u64,
        /// What must stay free.
        min_free: u64,
    },
    /// It does not fit beside what must stay.
    #[error("the cache is full: what could be evicted is pinned, in use, or not enough ({need} bytes are needed)")]
    Full {
        /// What would have to be evicted.
        need: u64,
    },
    /// The store belongs to another process.
    #[error("the cache was handed over to another process")]
    Released,
    /// The disk failed a moment ago.
    #[error("the disk failed: {0}")]
    Failing(String),
}

/// What keeps the store from taking all of the disk, and a registry from taking all of the store.
pub(super) struct Limits {
    min_free: Option<u64>,
    shares: HashMap<Arc<str>, u8>,
}

impl Limits {
    pub(super) fn new(min_free: Option<u64>, shares: HashMap<Arc<str>, u8>) -> Limits {
        Limits { min_free, shares }
    }

    /// What a registry may take, in percent.
    fn share(&self, registry: &str) -> u8 {
        self.shares.get(registry).copied().unwrap_or(SHARE)
    }
}

/// The committed store.
pub(super) struct Store {
    pub(super) tree: Tree,
    pub(super) ledger: Ledger,
    pub(super) index: Index,
    pub(super) hot: Hot,
    pub(super) pins: ArcSwap<Pins>,
    limits: ArcSwap<Limits>,
    pub(super) metrics: Arc<Metrics>,
    /// Held by those who look up or say when a repository was made.
    making: Mutex<()>,
    /// Until when nothing is stored, and why.
    failing: Mutex<Option<(Instant, String)>>,
    /// What the log last said about the disk.
    works: AtomicBool,
    /// When the index was last pruned.
    pruned: Mutex<Option<SystemTime>>,
    /// Evictions that the log has told: how many, and of how many bytes.
    told: Mutex<(u64, u64)>,
}

/// Runs blocking work on a blocking thread.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

impl Store {
    pub(super) fn new(
        tree: Tree,
        ledger: Ledger,
        index: Index,
        hot: Hot,
        pins: Pins,
        limits: Limits,
        metrics: Arc<Metrics>,
    ) -> Store {
        metrics.writable.set(1);
        let store = Store {
            tree,
            ledger,
            index,
            hot,
            pins: ArcSwap::from_pointee(pins),
            limits: ArcSwap::from_pointee(limits),
            metrics,
            making: Mutex::new(()),
            failing: Mutex::new(None),
            works: AtomicBool::new(true),
            pruned: Mutex::new(None),
            told: Mutex::default(),
        };
        store.refresh_pins();
        store
    }

    // --- the disk's health

    /// Whether content can be stored at the moment.
    pub(super) fn writable(&self) -> bool {
        self.works.load(Ordering::Relaxed)
    }

    /// Something failed. Where that is the disk's fault, it is left alone for a while.
    pub(super) fn failed(&self, what: &str, error: &io::Error) {
        self.metrics.storage_errors.inc();
        if fault(error) == Fault::Blob {
            tracing::warn!(%error, "{what}");
            return;
        }
        *self.failing.lock() = Some((Instant::now() + RETRY_AFTER, error.to_string()));
        self.says(false, &format!("{what}: {error}"));
    }

    /// The disk did what it should.
    pub(super) fn worked(&self) {
        if !self.works.load(Ordering::Relaxed) {
            *self.failing.lock() = None;
            self.says(true, "");
        }
    }

    /// Finds out whether the disk that failed works again: else only content that is stored would tell. Blocks.
    fn look_whether_it_works(&self) {
        let waits = || self.failing.lock().as_ref().is_some_and(|(until, _)| Instant::now() < *until);
        if self.writable() || self.tree.is_released() || waits() || self.measure().is_none() {
            return;
        }
        if self.ledger.limit() >= USELESS && self.tree.probe().is_ok() {
            self.worked();
        }
    }

    /// The time is over in which a disk that failed is left alone.
    #[cfg(test)]
    pub(super) fn forgive(&self) {
        *self.failing.lock() = None;
    }

    /// Says it when the disk is smaller than the store is meant to be. Blocks.
    pub(super) fn look_at_the_disk(&self) {
        let Some((disk, min_free)) = self.measure() else { return };
        let (max_size, capacity) = (self.ledger.configured(), self.ledger.limit());
        if capacity < max_size {
            tracing::warn!(
                max_size,
                capacity,
                disk = disk.size,
                free = disk.free,
                min_free,
                "the cache's disk is smaller than max_size: content is evicted when the disk is full"
            );
        }
    }

    /// How full the disk is, which limits the store as `max_size` does; with what must stay free of it.
    fn measure(&self) -> Option<(Disk, u64)> {
        let disk = Disk::of(self.tree.layout.root()).ok()?;
        let min_free = self.limits.load().min_free;
        self.ledger.set_ceiling(disk.capacity(self.ledger.held(), min_free));
        Some((disk, disk.min_free(min_free)))
    }

    /// Logs and shows a change, once.
    fn says(&self, works: bool, why: &str) {
        if self.works.swap(works, Ordering::Relaxed) != works {
            self.metrics.writable.set(i64::from(works));
            if works {
                tracing::info!("the cache stores again");
            } else {
                tracing::error!(reason = why, "the cache cannot store: requests are served through, uncached");
            }
        }
    }

    // --- changes

    /// Gives the tree and the index away, for good: from here on nothing changes in either. What is committed can still be
    /// read; fills that run go on in files that have no name any more. Blocks.
    pub(super) fn release(&self) -> io::Result<()> {
        self.tree.release(&self.ledger.busy())?;
        // From here on what is counted is what the next process finds.
        self.save_recency();
        self.index.release();
        self.tree.unlock()
    }

    /// Takes up other limits and pins. Blocks.
    pub(super) fn change(&self, max_size: u64, pins: Pins, limits: Limits) {
        self.limits.store(Arc::new(limits));
        let pins = pins.with_operators(self.pins.load().of_operators().iter().cloned());
        if **self.pins.load() != pins {
            self.pins.store(Arc::new(pins));
            self.refresh_pins();
        }
        let excess = self.ledger.resize(max_size);
        self.look_at_the_disk();
        self.shrink(excess);
    }

    // --- space

    /// Whether a digest might take up to `size` bytes. Evicts nothing. Blocks.
    pub(super) fn admit(&self, registry: &Arc<str>, digest: &Digest, size: u64) -> Result<(), NotStored> {
        self.limit(digest, size)?;
        let held = self.ledger.get(digest).map_or(0, |entry| entry.size);
        let need = self.ledger.bytes().saturating_add(size.saturating_sub(held)).saturating_sub(self.ledger.limit());
        if need > 0 && self.victims(registry, need).is_none() {
            return Err(NotStored::Full { need });
        }
        Ok(())
    }

    /// Whether the store can hold `size` bytes of something at all, as disk and configuration are now.
    fn limit(&self, what: &dyn Display, size: u64) -> Result<(), NotStored> {
        if self.tree.is_released() {
            return Err(NotStored::Released);
        }
        let limit = self.ledger.configured();
        if size > limit {
            return Err(NotStored::TooLarge { size, limit });
        }
        let failing = self.failing.lock().clone();
        if let Some((until, why)) = failing {
            if Instant::now() < until {
                return Err(NotStored::Failing(why));
            }
            *self.failing.lock() = None;
        }
        let Some((Disk { free, .. }, min_free)) = self.measure() else { return Ok(()) };
        let capacity = self.ledger.limit();
        if size > capacity {
            let why = NotStored::DiskTooSmall { size, capacity, free, min_free };
            if capacity < USELESS {
                self.metrics.storage_errors.inc();
                self.says(false, &format!("the disk is full of something else: {why}"));
            }
            tracing::debug!(%what, %why, "not stored");
            return Err(why);
        }
        Ok(())
    }

    /// Makes sure that a digest may take up to `size` bytes of its registry's share, evicting what must go. Blocks.
    pub(super) fn reserve(&self, registry: &Arc<str>, digest: &Digest, size: u64) -> Result<(), NotStored> {
        self.limit(digest, size)?;
        loop {
            match self.ledger.try_reserve(registry, digest, size, SystemTime::now()) {
                Ok(()) => return Ok(()),
                Err(ledger::NoRoom(need)) => self.evict(need, self.victims(registry, need))?,
            }
        }
    }

    /// Room for a record of `size` bytes in its registry's share, made by evicting what must go. Not while the order of
    /// commits is held. Blocks.
    pub(super) fn reserve_record(&self, group: &RecordGroup, size: u64) -> Result<RecordRoom<'_>, NotStored> {
        self.limit(&group.repository, size)?;
        loop {
            match self.ledger.try_reserve_records(group, size, SystemTime::now()) {
                Ok(room) => return Ok(room),
                Err(ledger::NoRoom(need)) => self.evict(need, self.victims(&group.repository.registry, need))?,
            }
        }
    }

    // --- content

    /// Opens committed content. What is missing or of the wrong length is forgotten, to be fetched again. Blocks.
    pub(super) fn open(&self, digest: &Digest, verify: bool) -> Option<(File, u64)> {
        let expected = self.ledger.committed(digest, SystemTime::now())?;
        let (file, problem) = match self.tree.open_blob(digest) {
            Ok((file, length)) if length == expected => {
                let suspect = self.ledger.get(digest).is_some_and(|entry| entry.suspect);
                if !verify && !suspect {
                    return Some((file, length));
                }
                if matches!(Tree::hashes_to(&file, digest), Ok(true)) {
                    if let Some(entry) = self.ledger.vouch(digest) {
                        self.index.put_entry(digest, &entry);
                    }
                    return Some((file, length));
                }
                (Some(file), "does not hash to its digest")
            }
            Ok((file, _)) => (Some(file), "has the wrong length"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (None, "is missing"),
            Err(error) if tree::is_link(&error) => (None, "is a symbolic link"),
            Err(error) => {
                self.failed("reading a blob", &error);
                return None;
            }
        };
        self.damaged(digest, file.as_ref(), problem);
        None
    }

    /// Reads a committed manifest, and checks it. What cannot be read at the moment (for want of descriptors, say) is not
    /// damaged. Blocks.
    pub(super) fn read(&self, digest: &Digest) -> Option<Vec<u8>> {
        let (file, problem) = match self.tree.open_blob(digest) {
            Ok((file, _)) => match tree::read_limited(&file) {
                Ok(bytes) if schema1::is_named_by(&bytes, digest) => return Some(bytes),
                Ok(_) => (Some(file), "does not hash to its digest"),
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                    (Some(file), "cannot be read")
                }
                Err(error) => {
                    self.failed("reading a manifest", &error);
                    return None;
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => (None, "is missing"),
            Err(error) if tree::is_link(&error) => (None, "is a symbolic link"),
            Err(error) => {
                self.failed("opening a manifest", &error);
                return None;
            }
        };
        self.damaged(digest, file.as_ref(), problem);
        None
    }

    /// Committed content turned out to be wrong, as `file` has it, or missing: it goes, and is fetched again when it is next
    /// wanted. Its links stay, for the repositories still hold it. Finding out takes a while, in which it may have been
    /// evicted, or found out by somebody else and fetched again: then all is well.
    pub(super) fn damaged(&self, digest: &Digest, file: Option<&File>, problem: &str) {
        let _order = self.tree.order();
        let Some(_held) = self.tree.hold() else {
            // Another process evicts here now.
            self.ledger.remove(digest);
            return;
        };
        let committed = self.ledger.get(digest).is_some_and(|entry| matches!(entry.kind, Kind::Committed { .. }));
        if !committed || !self.tree.is_blob(digest, file) {
            return;
        }
        tracing::error!(%digest, problem, "damaged content in the cache: it will be fetched again");
        self.metrics.verification_failure(VerificationPlace::Disk);
        if let Err(error) = self.tree.remove_content(digest) {
            self.failed("removing a damaged blob", &error);
        }
        self.ledger.remove(digest);
        self.index.remove_entry(digest);
    }

    /// Commits a complete, verified partial. Blocks.
    pub(super) fn commit(&self, registry: &Arc<str>, digest: &Digest, size: u64, file: &File) -> io::Result<()> {
        self.tree.sync(file)?;
        let _order = self.tree.order();
        let Some(_held) = self.tree.hold() else {
            // Nobody but those who read it already will ever find it.
            self.ledger.remove(digest);
            return Ok(());
        };
        self.tree.commit_partial(digest)?;
        self.committed(registry, digest, size, Box::default());
        Ok(())
    }

    fn committed(&self, registry: &Arc<str>, digest: &Digest, size: u64, children: Box<[Digest]>) {
        let before = self.ledger.get(digest);
        let pinned = before.as_ref().is_some_and(|entry| entry.pinned);
        // It counts for the registry that it came from first.
        let owner = before.and_then(|entry| entry.owner).or_else(|| Some(Arc::clone(registry)));
        let used = ledger::milliseconds(SystemTime::now());
        let entry = Entry { owner, size, used, pinned, suspect: false, kind: Kind::Committed { children } };
        self.index.put_entry(digest, &entry);
        self.ledger.set(digest, entry);
        self.worked();
    }

    /// What is done now and then: the index hears of what was used, and forgets what upstream said long ago. Blocks.
    pub(super) fn tidy(&self, now: SystemTime) {
        self.look_whether_it_works();
        self.shrink(self.ledger.bytes().saturating_sub(self.ledger.configured()));
        self.save_recency();
        self.restrict_index();
        self.tell_evictions();
        let mut pruned = self.pruned.lock();
        if pruned.is_none_or(|pruned| now.duration_since(pruned).is_ok_and(|since| since > PRUNE_INTERVAL)) {
            self.index.prune(now);
            *pruned = Some(now);
        }
    }

    /// Sums up in the log what was evicted since the last time.
    fn tell_evictions(&self) {
        let now = (self.metrics.evictions.get(), self.metrics.evicted_bytes.get());
        let before = std::mem::replace(&mut *self.told.lock(), now);
        let (entries, bytes) = (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1));
        if entries > 0 {
            tracing::info!(entries, bytes, "evicted to make room");
        }
    }

    /// Keeps others from reading the index, while it is this process's. Blocks.
    pub(super) fn restrict_index(&self) {
        let Some(_held) = self.tree.hold() else { return };
        if let Err(error) = self.tree.restrict_index() {
            tracing::warn!(%error, "the permissions of the cache's index");
        }
    }

    /// Tells the index what was used since it last heard. Blocks.
    pub(super) fn save_recency(&self) {
        for digest in self.ledger.take_touched() {
            // In order with evictions, or what one has just removed would come back.
            let _order = self.tree.order();
            if let Some(entry) = self.ledger.get(&digest).filter(|entry| matches!(entry.kind, Kind::Committed { .. })) {
                self.index.put_entry(&digest, &entry);
            }
        }
        for group in self.ledger.take_touched_records() {
            let _order = self.tree.order();
            self.index.put_records(&group, self.ledger.records(&group));
        }
    }
}

//! The committed store: tree, ledger and index acting as one.
//!
//! Here space is reserved and made by eviction, content is committed and removed, and a failing disk is noticed: from
//! then on nothing is stored for a while, requests go past the store, and the next attempt after that finds out whether
//! it works again.

mod records;

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pierhead_registry::oci::Digest;

use super::hot::Hot;
use super::index::Index;
use super::ledger::{self, Entry, Kind, Ledger};
use super::pins::Pins;
use super::tree::{self, Tree};
use crate::admin::metrics::{Metrics, VerificationPlace};

/// How long nothing is stored after the disk failed.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// How often the index is pruned.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);
/// What is left free on the disk for records, maps and the index.
const DISK_MARGIN: u64 = 1 << 20;

/// Why something is not stored. The request is served all the same.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum NotStored {
    /// It does not fit beside what must stay.
    #[error("the cache is full: everything in it is pinned, in use, or smaller than what is wanted")]
    Full,
    /// The disk has no room.
    #[error("the disk is full: {free} bytes are free")]
    DiskFull {
        /// What is left.
        free: u64,
    },
    /// The store belongs to another process.
    #[error("the cache was handed over to another process")]
    Released,
    /// The disk failed a moment ago.
    #[error("the disk failed: {0}")]
    Failing(String),
}

/// The committed store.
pub(super) struct Store {
    pub(super) tree: Tree,
    pub(super) ledger: Ledger,
    pub(super) index: Index,
    pub(super) hot: Hot,
    pub(super) pins: ArcSwap<Pins>,
    pub(super) metrics: Arc<Metrics>,
    /// Held by those who look up or say when a repository was made.
    making: Mutex<()>,
    /// Until when nothing is stored, and why.
    failing: Mutex<Option<(Instant, String)>>,
    /// What the log last said about the disk.
    works: AtomicBool,
    /// When the index was last pruned.
    pruned: Mutex<Option<SystemTime>>,
}

/// Runs blocking work on a blocking thread.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

impl Store {
    pub(super) fn new(tree: Tree, ledger: Ledger, index: Index, hot: Hot, pins: Pins, metrics: Arc<Metrics>) -> Store {
        metrics.writable.set(1);
        let store = Store {
            tree,
            ledger,
            index,
            hot,
            pins: ArcSwap::from_pointee(pins),
            metrics,
            making: Mutex::new(()),
            failing: Mutex::new(None),
            works: AtomicBool::new(true),
            pruned: Mutex::new(None),
        };
        store.refresh_pins();
        store
    }

    // --- the disk's health

    /// Whether content can be stored at the moment.
    pub(super) fn writable(&self) -> bool {
        self.works.load(Ordering::Relaxed)
    }

    /// The disk failed: stay away from it for a while.
    pub(super) fn failed(&self, what: &str, error: &io::Error) {
        self.metrics.storage_errors.inc();
        *self.failing.lock() = Some((Instant::now() + RETRY_AFTER, error.to_string()));
        self.says(false, &format!("{what}: {error}"));
    }

    /// The disk did what it should.
    fn worked(&self) {
        self.says(true, "");
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
        self.save_recency();
        self.tree.release(&self.ledger.busy())?;
        self.index.release();
        self.tree.unlock()
    }

    /// Takes up other limits and pins. Blocks.
    pub(super) fn change(&self, max_size: u64, pins: Pins) {
        if **self.pins.load() != pins {
            self.pins.store(Arc::new(pins));
            self.refresh_pins();
        }
        let excess = self.ledger.resize(max_size);
        if excess > 0
            && let Err(why) = self.evict(excess)
        {
            tracing::warn!(excess, %why, "the cache is larger than its new max_size");
        }
    }

    // --- space

    /// Whether a digest might take up to `size` bytes. Evicts nothing. Blocks.
    pub(super) fn admit(&self, digest: &Digest, size: u64) -> Result<(), NotStored> {
        if self.tree.is_released() {
            return Err(NotStored::Released);
        }
        if size > self.ledger.limit() {
            return Err(NotStored::Full);
        }
        let failing = self.failing.lock().clone();
        if let Some((until, why)) = failing {
            if Instant::now() < until {
                return Err(NotStored::Failing(why));
            }
            *self.failing.lock() = None;
        }
        let held = self.ledger.get(digest).map_or(0, |entry| entry.size);
        let free = rustix::fs::statvfs(self.tree.layout.root()).map_or(u64::MAX, |fs| fs.f_bavail * fs.f_frsize);
        if size.saturating_sub(held).saturating_add(DISK_MARGIN) > free {
            self.metrics.storage_errors.inc();
            self.says(false, &format!("the disk is full: {free} bytes are free"));
            return Err(NotStored::DiskFull { free });
        }
        Ok(())
    }

    /// Makes sure that a digest may take up to `size` bytes, evicting what must go. Blocks.
    pub(super) fn reserve(&self, digest: &Digest, size: u64) -> Result<(), NotStored> {
        self.admit(digest, size)?;
        loop {
            match self.ledger.try_reserve(digest, size, SystemTime::now()) {
                Ok(()) => return Ok(()),
                Err(ledger::NoRoom(need)) => self.evict(need)?,
            }
        }
    }

    /// Evicts at least `need` bytes.
    fn evict(&self, need: u64) -> Result<(), NotStored> {
        let victims = self.ledger.choose(need).ok_or(NotStored::Full)?;
        tracing::debug!(entries = victims.digests.len(), need, "evicting");
        for victim in &victims.digests {
            let _order = self.tree.order();
            if !self.ledger.is_victim(victim) {
                continue;
            }
            let Some(_held) = self.tree.hold() else { return Err(NotStored::Released) };
            if let Err(error) = self.tree.remove_content(victim) {
                self.failed("evicting", &error);
                return Err(NotStored::Failing(error.to_string()));
            }
            self.ledger.evicted(victim);
            self.forget(victim);
        }
        Ok(())
    }

    /// Removes every record of content that is gone.
    fn forget(&self, digest: &Digest) {
        for repository in self.index.remove_content(digest) {
            self.hot.forget(&repository, digest);
            for tag in self.index.tags_of(&repository, digest) {
                self.remove_tag(&repository, &tag);
            }
            if let Err(error) = self.tree.remove_link(&repository, digest) {
                tracing::warn!(%error, %repository, "removing a link");
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
                Ok(bytes) if Digest::of(digest.algorithm(), &bytes) == *digest => return Some(bytes),
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
    pub(super) fn commit(&self, digest: &Digest, size: u64, file: &File) -> io::Result<()> {
        self.tree.sync(file)?;
        let _order = self.tree.order();
        let Some(_held) = self.tree.hold() else {
            // Nobody but those who read it already will ever find it.
            self.ledger.remove(digest);
            return Ok(());
        };
        self.tree.commit_partial(digest)?;
        self.committed(digest, size, Box::default());
        Ok(())
    }

    fn committed(&self, digest: &Digest, size: u64, children: Box<[Digest]>) {
        let pinned = self.ledger.get(digest).is_some_and(|entry| entry.pinned);
        let used = ledger::milliseconds(SystemTime::now());
        let entry = Entry { size, used, pinned, suspect: false, kind: Kind::Committed { children } };
        self.index.put_entry(digest, &entry);
        self.ledger.set(digest, entry);
        self.worked();
    }

    /// What is done now and then: the index hears of what was used, and forgets what upstream said long ago. Blocks.
    pub(super) fn tidy(&self, now: SystemTime) {
        self.save_recency();
        let mut pruned = self.pruned.lock();
        if pruned.is_none_or(|pruned| now.duration_since(pruned).is_ok_and(|since| since > PRUNE_INTERVAL)) {
            self.index.prune(now);
            *pruned = Some(now);
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
    }
}

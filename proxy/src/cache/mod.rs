//! The edge's local store: blobs, manifests, tags and lists, the fills that bring them here, and the eviction that
//! makes room. Nothing in here knows HTTP or a client.
//!
//! Invariants: a committed file hashes to its name; the index is disposable; what is counted is what lies on disk;
//! a reader that has begun is never cut short by an eviction, another reader, or the end of another client.

mod blob;
mod contents;
mod edge_id;
mod error;
mod evict;
mod fill;
mod gather;
mod hot;
mod index;
mod known;
mod layout;
mod ledger;
mod passing;
mod pins;
mod records;
mod room;
mod scrub;
mod segments;
mod store;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use pierhead_registry::client::{EdgeId, Repository};
use pierhead_registry::oci::Digest;
use pierhead_service::shares::Party;

use crate::admin::metrics::Metrics;

use self::fill::registry::{Fills, Joined, Origin};
use self::hot::Hot;
use self::index::{Index, Known};
use self::layout::Layout;
use self::ledger::{Entry, Kind, Ledger};
use self::store::{Limits, Store, blocking};
use self::tree::Tree;

pub(crate) use self::blob::{Blob, BlobReader, BlobState, Stretch, Want};
pub(crate) use self::contents::{Facts, Holding, Image, PinnedBy, Purged, Selection};
pub(crate) use self::error::{BlobError, OpenError};
pub(crate) use self::fill::ENDLESS;
pub(crate) use self::fill::connections::{Connections as BlobConnections, Source as BlobSource};
pub(crate) use self::gather::{are_few, stretches};
pub(crate) use self::pins::Pins;
pub(crate) use self::records::{CachedManifest, Extent, ListRecord, RepositoryId, TagRecord};
pub(crate) use self::room::Disk;

/// How often a blob is looked for that was committed between two looks, or that upstream refused to other parties meanwhile.
const LOOKS: usize = 5;
/// How often the index hears of what was used.
const SAVE_INTERVAL: Duration = Duration::from_secs(10);

/// How the store is set up.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The tree's root; made when missing.
    pub(crate) path: PathBuf,
    /// Whether a commit must survive a power failure.
    pub(crate) fsync: bool,
    /// Hash every blob on every read.
    pub(crate) verify_on_read: bool,
    /// How often all committed content is hashed.
    pub(crate) scrub_interval: Option<Duration>,
    /// Memory for hot manifests, tags, lists and authorisations.
    pub(crate) memory: u64,
    /// The rest.
    pub(crate) changing: Changing,
}

/// What may change while the store is open.
#[derive(Clone, Debug)]
pub(crate) struct Changing {
    /// Most bytes of content.
    pub(crate) max_size: u64,
    /// What stays free on the disk; `None`: a hundredth of it.
    pub(crate) min_free: Option<u64>,
    /// What each registry may take of the store by evicting what came from others, in percent.
    pub(crate) shares: HashMap<Arc<str>, u8>,
    /// What is never evicted.
    pub(crate) pins: Pins,
    /// How large blobs of each registry are fetched.
    pub(crate) parallel: HashMap<Arc<str>, Parallel>,
}

/// When and how a blob is fetched over several connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parallel {
    /// Blobs larger than this,
    pub(crate) above: u64,
    /// over no more connections than these.
    pub(crate) connections: usize,
}

/// The store, and the fills that run into it.
pub(crate) struct Cache {
    store: Arc<Store>,
    fills: Arc<Fills>,
    verify_on_read: bool,
    caller_key: [u8; 32],
    edge_id: EdgeId,
    parallel: ArcSwap<HashMap<Arc<str>, Parallel>>,
}

impl Cache {
    /// Opens the store below `settings.path`, rebuilding the index when it is missing or corrupt.
    pub(crate) async fn open(settings: Settings, metrics: Arc<Metrics>) -> Result<Arc<Cache>, OpenError> {
        let path = settings.path.clone();
        let (interval, verify_on_read) = (settings.scrub_interval, settings.verify_on_read);
        let parallel = ArcSwap::from_pointee(settings.changing.parallel.clone());
        let opened = blocking(move || open(settings, metrics)).await;
        let (store, caller_key) = opened.map_err(|source| OpenError::Io { path: path.clone(), source })??;
        let edge_id = edge_id::derive(&caller_key, &path);
        let store = Arc::new(store);
        let weak = Arc::downgrade(&store);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SAVE_INTERVAL).await;
                let Some(store) = weak.upgrade() else { return };
                if let Err(error) = blocking(move || store.tidy(SystemTime::now())).await {
                    tracing::warn!(%error, "tidying the cache");
                }
            }
        });
        if let Some(interval) = interval {
            tokio::spawn(scrub::run(Arc::downgrade(&store), interval));
        }
        Ok(Arc::new(Cache { store, fills: Fills::new(), verify_on_read, caller_key, edge_id, parallel }))
    }

    /// Writes down what is only in memory: how far fills have come, what was used, that the index is whole. What is not
    /// written, because the process is killed instead, is found out at the next start.
    pub(crate) async fn close(&self) {
        let (store, fills) = (Arc::clone(&self.store), Arc::clone(&self.fills));
        let closed = blocking(move || {
            fills.save_all(&store);
            store.save_recency();
            store.index.close();
            store.restrict_index();
        });
        if let Err(error) = closed.await {
            tracing::warn!(%error, "closing the cache");
        }
    }

    /// Gives the store away to another process, for good: this one still reads what is committed, and serves all else past
    /// the store.
    pub(crate) async fn release(&self) -> std::io::Result<()> {
        let store = Arc::clone(&self.store);
        blocking(move || store.release()).await?
    }

    /// Takes up what may change while the store is open. What is now too much is evicted.
    pub(crate) async fn change(&self, to: Changing) {
        self.parallel.store(Arc::new(to.parallel));
        let store = Arc::clone(&self.store);
        self.done(blocking(move || store.change(to.max_size, to.pins, Limits::new(to.min_free, to.shares))).await);
    }

    /// The size of a blob that is committed or being filled. What nobody vouches for yet is hashed first.
    pub(crate) async fn blob_size(&self, digest: &Digest) -> Option<u64> {
        if let Some(size) = self.fills.size(digest) {
            return Some(size);
        }
        let entry = self.store.ledger.get(digest)?;
        match entry.kind {
            Kind::Partial { .. } => None,
            Kind::Committed { .. } if !entry.suspect => Some(entry.size),
            Kind::Committed { .. } => {
                let (store, digest) = (Arc::clone(&self.store), *digest);
                let opened = blocking(move || store.open(&digest, true)).await.ok().flatten();
                opened.map(|(_, size)| size)
            }
        }
    }

    /// The size of a blob as a manifest that was seen tells it: a hint.
    pub(crate) fn announced_size(&self, digest: &Digest) -> Option<u64> {
        self.store.hot.size(digest)
    }

    /// Says that a client wants a blob, for as long as this is kept: what others began for it goes on in the client's turn, too.
    pub(crate) fn want_blob(&self, digest: &Digest, party: &Party) -> impl Send + use<> {
        self.fills.want(digest, party)
    }

    /// Opens a blob for reading: the committed file, the running fill, or a new fill from `source` (`None` when no
    /// upstream may be asked). Returns, for a new fill, at upstream's first byte, which mostly tells the size.
    ///
    /// Unless the repository is known to hold the blob, upstream is asked for it with `source` before anything is returned.
    /// So success says that it does, which is for the caller to keep. An error of upstream's is its answer to `source` or a failure of the
    /// registry, and never an answer to another party. A fill that is started here goes on when the caller goes away.
    pub(crate) async fn open_blob(
        self: &Arc<Self>,
        repository: &RepositoryId,
        digest: &Digest,
        want: Want,
        source: Option<BlobSource>,
    ) -> Result<Blob, BlobError> {
        let held = self.holds(repository, digest).await;
        let parallel = self.parallel.load().get(&repository.registry).copied();
        let origin = source.map(|source| Origin {
            source,
            hint: self.store.hot.size(digest),
            parallel_above: parallel.map_or(u64::MAX, |parallel| parallel.above),
            connections: parallel.map_or(1, |parallel| parallel.connections),
        });
        let source = origin.as_ref().map(Origin::party);
        let mut refused = false;
        for _ in 0..LOOKS {
            let (store, name, verify) = (Arc::clone(&self.store), *digest, self.verify_on_read);
            if let Some((file, size)) = blocking(move || store.open(&name, verify)).await.ok().flatten() {
                if !held {
                    ask(digest, source, Some(size)).await?;
                }
                return Ok(Blob::committed(&self.store, &self.fills, *digest, file, size));
            }
            match self.fills.join(&self.store, &repository.registry, digest, want, origin.clone()).await? {
                Joined::Fill { lease, answered } => {
                    if !held && !answered {
                        ask(digest, source, lease.total()).await?;
                    }
                    if want == Want::Whole {
                        match self.fills.answered(&self.store, &lease, origin.as_ref()).await {
                            Ok(true) => {}
                            Ok(false) => {
                                refused = true;
                                break;
                            }
                            // Wrong content, of which the client has nothing yet: another address is asked.
                            Err(BlobError::Mismatch { .. })
                                if source.is_some_and(|party| self.fills.is_elsewhere(digest, party)) =>
                            {
                                continue;
                            }
                            Err(error) => return Err(error),
                        }
                    }
                    return Ok(Blob::filling(&self.store, &self.fills, lease, origin));
                }
                Joined::Uncached { size, answered } => {
                    if !held && !answered {
                        ask(digest, source, size).await?;
                    }
                    let origin = origin.ok_or(BlobError::Offline { digest: *digest })?;
                    return Ok(Blob::uncached(&self.store, &self.fills, *digest, size, origin));
                }
                Joined::Again => {}
                Joined::Refused => refused = true,
            }
        }
        // Other parties were refused each time. This one gets its own answer without them, past the store.
        if refused && let Some(origin) = origin {
            ask(digest, Some(origin.party()), None).await?;
            return Ok(Blob::uncached(&self.store, &self.fills, *digest, None, origin));
        }
        Err(BlobError::Storage {
            digest: *digest,
            reason: "gave up after 5 attempts: the blob was evicted or its download failed each time".into(),
        })
    }

    /// What operators should know, in words: the disk can hold less than `cache.max_size`.
    pub(crate) fn shortage(&self) -> Option<String> {
        let (configured, held) = self.store.ledger.shortage()?;
        Some(format!(
            "the disk holds at most {held} bytes of content, less than cache.max_size, {configured}: \
             content is evicted when the disk is full"
        ))
    }

    /// Whether content can be stored at the moment.
    pub(crate) fn writable(&self) -> bool {
        self.store.writable()
    }

    /// A blocking thread that ended early: only a panic or the end of the process does that.
    fn done(&self, result: std::io::Result<()>) {
        if let Err(error) = result {
            self.store.failed("cache", &error);
        }
    }
}

/// Asks upstream whether the repository holds the blob, of which some is here: `size` is its length, where that is known.
async fn ask(digest: &Digest, source: Option<&Repository>, size: Option<u64>) -> Result<(), BlobError> {
    let source = source.ok_or(BlobError::Offline { digest: *digest })?;
    source.find_blob(digest, size).await?;
    Ok(())
}

/// Opens tree, index and ledger. Blocks.
fn open(settings: Settings, metrics: Arc<Metrics>) -> Result<(Store, [u8; 32]), OpenError> {
    let root = settings.path.clone();
    let io = |source| OpenError::Io { path: root.clone(), source };
    let tree = Tree::open(Layout::new(settings.path), settings.fsync)?;
    let caller_key = tree.caller_key().map_err(io)?;
    let (index, Known { mut entries, records }) =
        Index::open(&tree).map_err(|error| OpenError::Index(error.to_string()))?;
    tree.restrict_index().map_err(io)?;
    for (digest, size) in tree.partials().map_err(io)? {
        // What is committed needs no partial.
        if entries.contains_key(&digest) {
            tree.remove_partial(&digest).map_err(io)?;
            continue;
        }
        let used = ledger::milliseconds(SystemTime::now());
        entries.insert(
            digest,
            Entry { owner: None, size, used, pinned: false, suspect: false, kind: Kind::Partial { busy: false } },
        );
    }
    tracing::info!(entries = entries.len(), path = %root.display(), "cache open");
    let Changing { max_size, min_free, shares, pins, .. } = settings.changing;
    let pins = pins.with_operators(tree.read_pins());
    let ledger = Ledger::new(max_size, entries, records, Arc::clone(&metrics));
    let hot = Hot::new(settings.memory);
    let store = Store::new(tree, ledger, index, hot, pins, Limits::new(min_free, shares), metrics);
    store.look_at_the_disk();
    Ok((store, caller_key))
}

//! The edge's local store: blobs, manifests, tags and lists, the fills that bring them here, and the eviction that
//! makes room. Nothing in here knows HTTP or a client.
//!
//! Invariants: a committed file hashes to its name; the index is disposable; what is counted is what lies on disk;
//! a reader that has begun is never cut short by an eviction, another reader, or the end of another client.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use pierhead_registry::client::{ClientError, Repository};
use pierhead_registry::oci::{Digest, RepositoryName, Tag};

use crate::admin::metrics::Metrics;

/// How the store is set up.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The tree's root; made when missing.
    pub(crate) path: PathBuf,
    /// Most bytes of content.
    pub(crate) max_size: u64,
    /// Whether a commit must survive a power failure.
    pub(crate) fsync: bool,
    /// Hash every blob on every read.
    pub(crate) verify_on_read: bool,
    /// How often all committed content is hashed.
    pub(crate) scrub_interval: Option<Duration>,
    /// Memory for hot manifests, tags, lists and authorisations.
    pub(crate) memory: u64,
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The tree cannot be made, read or locked.
    #[error("cache: {path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process has it.
    #[error("cache: {0}: in use by another process")]
    InUse(PathBuf),
}

/// A repository of a registry: the scope in which content is known and authorised.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RepositoryId {
    /// The registry's configured name.
    pub(crate) registry: Arc<str>,
    /// The repository in it.
    pub(crate) name: RepositoryName,
}

impl fmt::Display for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.name)
    }
}

/// A manifest as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CachedManifest {
    /// Of the bytes.
    pub(crate) digest: Digest,
    /// As upstream named it.
    pub(crate) media_type: Arc<str>,
    /// Byte for byte.
    pub(crate) bytes: Bytes,
}

/// What a tag meant when upstream was last asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TagRecord {
    /// The manifest.
    pub(crate) digest: Digest,
    /// When upstream last said so.
    pub(crate) checked: SystemTime,
}

/// A list that upstream made: tags, or referrers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListRecord {
    /// `Content-Type`.
    pub(crate) media_type: String,
    /// `Link`.
    pub(crate) link: Option<String>,
    /// `OCI-Filters-Applied`.
    pub(crate) filters_applied: Option<String>,
    /// The body.
    pub(crate) bytes: Bytes,
    /// When upstream sent it.
    pub(crate) checked: SystemTime,
}

/// Why a blob cannot be had or read on.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum BlobError {
    /// Upstream.
    #[error(transparent)]
    Upstream(#[from] ClientError),
    /// Every upstream address sent bytes that do not hash to the digest.
    #[error("{digest}: upstream sent wrong content")]
    Mismatch {
        /// Of what.
        digest: Digest,
    },
    /// The disk, after serving past it was tried as well.
    #[error("{digest}: storage: {reason}")]
    Storage {
        /// Of what.
        digest: Digest,
        /// What happened.
        reason: String,
    },
    /// Not here, and no upstream may be asked.
    #[error("{digest}: not in the cache, and offline")]
    Offline {
        /// Of what.
        digest: Digest,
    },
}

/// Whether a caller wants a whole blob or a part of it: only the former starts a fill of all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// All of it, or most.
    Whole,
    /// A range; fetched as such when it is out of reach.
    Part,
}

/// Where the bytes of an opened blob come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlobState {
    /// All here: a hit.
    Committed,
    /// Partly here, or on the way: a miss.
    Filling,
    /// Past the store, because it is full, failing or too small: a bypass.
    Uncached,
}

/// The store.
pub(crate) struct Cache {}

#[expect(clippy::unused_async, clippy::unimplemented, reason = "contract")]
impl Cache {
    /// Opens the store below `settings.path`, rebuilding the index when it is missing or corrupt.
    pub(crate) async fn open(settings: Settings, metrics: Arc<Metrics>) -> Result<Arc<Cache>, OpenError> {
        let _ = (settings, metrics);
        unimplemented!()
    }

    /// A manifest by digest, if this repository is known to hold it and its bytes are here. Counts as a use.
    pub(crate) async fn manifest(&self, repository: &RepositoryId, digest: &Digest) -> Option<Arc<CachedManifest>> {
        let _ = (repository, digest);
        unimplemented!()
    }

    /// Keeps a manifest, and that this repository holds it and what it refers to. A full disk is not the caller's
    /// problem: it is logged and counted, and the manifest stays in memory.
    pub(crate) async fn put_manifest(&self, repository: &RepositoryId, manifest: Arc<CachedManifest>, pinned: bool) {
        let _ = (repository, manifest, pinned);
        unimplemented!()
    }

    /// What a tag was last known to mean.
    pub(crate) async fn tag(&self, repository: &RepositoryId, tag: &Tag) -> Option<TagRecord> {
        let _ = (repository, tag);
        unimplemented!()
    }

    /// Keeps what a tag means.
    pub(crate) async fn put_tag(&self, repository: &RepositoryId, tag: &Tag, record: TagRecord) {
        let _ = (repository, tag, record);
        unimplemented!()
    }

    /// Forgets a tag that upstream says is gone.
    pub(crate) async fn remove_tag(&self, repository: &RepositoryId, tag: &Tag) {
        let _ = (repository, tag);
        unimplemented!()
    }

    /// A list. `key` names it within the repository, query included.
    pub(crate) async fn list(&self, repository: &RepositoryId, key: &str) -> Option<Arc<ListRecord>> {
        let _ = (repository, key);
        unimplemented!()
    }

    /// Keeps a list.
    pub(crate) async fn put_list(&self, repository: &RepositoryId, key: &str, record: Arc<ListRecord>) {
        let _ = (repository, key, record);
        unimplemented!()
    }

    /// When upstream last said yes to this caller (an opaque hash of its credential) for this repository.
    pub(crate) async fn authorised(&self, repository: &RepositoryId, caller: &[u8; 32]) -> Option<SystemTime> {
        let _ = (repository, caller);
        unimplemented!()
    }

    /// Keeps upstream's yes (`Some(when)`), or forgets it (`None`).
    pub(crate) async fn put_authorised(&self, repository: &RepositoryId, caller: &[u8; 32], when: Option<SystemTime>) {
        let _ = (repository, caller, when);
        unimplemented!()
    }

    /// A secret of this store, for hashing callers. Random, kept in the tree, readable by the owner only.
    pub(crate) fn caller_key(&self) -> &[u8; 32] {
        unimplemented!()
    }

    /// Whether this repository is known to hold this blob.
    pub(crate) async fn holds(&self, repository: &RepositoryId, digest: &Digest) -> bool {
        let _ = (repository, digest);
        unimplemented!()
    }

    /// Keeps that this repository holds this blob, because upstream said so.
    pub(crate) async fn link(&self, repository: &RepositoryId, digest: &Digest) {
        let _ = (repository, digest);
        unimplemented!()
    }

    /// Forgets that this repository holds this content, because upstream said so.
    pub(crate) async fn unlink(&self, repository: &RepositoryId, digest: &Digest) {
        let _ = (repository, digest);
        unimplemented!()
    }

    /// The size of a blob, when the index knows it: committed, filling, or named by a manifest that is here.
    pub(crate) fn blob_size(&self, digest: &Digest) -> Option<u64> {
        let _ = digest;
        unimplemented!()
    }

    /// Opens a blob for reading: the committed file, the running fill, or a new fill from `source` (`None` when no
    /// upstream may be asked). Returns when its size is known, that is, for a new fill, at upstream's first byte.
    /// The caller has authorised: either [`Cache::holds`], or upstream's yes for this repository, or `source` being
    /// what gives that yes by answering.
    ///
    /// A fill that is started here goes on when the caller goes away. On success the repository is linked to the blob.
    pub(crate) async fn open_blob(
        self: &Arc<Self>,
        repository: &RepositoryId,
        digest: &Digest,
        want: Want,
        source: Option<Repository>,
    ) -> Result<Blob, BlobError> {
        let _ = (repository, digest, want, source);
        unimplemented!()
    }

    /// Whether content can be stored at the moment.
    pub(crate) fn writable(&self) -> bool {
        unimplemented!()
    }
}

/// An opened blob. Cheap to make readers from.
pub(crate) struct Blob {}

#[expect(clippy::unimplemented, reason = "contract")]
impl Blob {
    /// Length.
    pub(crate) fn size(&self) -> u64 {
        unimplemented!()
    }

    /// Where its bytes come from.
    pub(crate) fn state(&self) -> BlobState {
        unimplemented!()
    }

    /// Reads a range, which must lie within the size.
    pub(crate) fn reader(&self, range: Range<u64>) -> BlobReader {
        let _ = range;
        unimplemented!()
    }
}

/// Reads a range of a blob, waiting for what is not here yet.
pub(crate) struct BlobReader {}

#[expect(clippy::unused_async, clippy::unimplemented, reason = "contract")]
impl BlobReader {
    /// Fills the start of `buffer` with the next bytes and returns how many; `0` only at the end of the range. It never
    /// blocks the thread: what is in the page cache is copied at once, the rest is read on a blocking thread. The last
    /// bytes of a blob come only after its hash was checked. A slice and not a buffer that grows, so that the caller can
    /// reuse one allocation for a whole body.
    pub(crate) async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, BlobError> {
        let _ = buffer;
        unimplemented!()
    }
}

//! What is in the cache, as operators ask: repositories with their sizes, images, and why something is here or is not; and
//! what they may change: purge, pin, unpin.
//!
//! Sizes are those of content. Content that several repositories hold is counted in each, and lies on disk once.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use pierhead_registry::oci::{Digest, Reference, Tag};

use super::store::blocking;
use super::{Cache, RepositoryId, TagRecord};

/// A repository that holds something here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) repository: RepositoryId,
    /// How many tags are known.
    pub(crate) tags: usize,
    /// How many manifests and blobs are here.
    pub(crate) contents: usize,
    /// Bytes of them.
    pub(crate) bytes: u64,
    /// When any of them was last used.
    pub(crate) used: Option<SystemTime>,
}

/// A tag of a repository, and what is here of its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) tag: Tag,
    /// What the tag means, and since when that is known.
    pub(crate) record: TagRecord,
    pub(crate) presence: Presence,
    pub(crate) pinned: Option<PinnedBy>,
}

/// What is here of a manifest and all that it refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Presence {
    /// Manifests and blobs that are here.
    pub(crate) contents: usize,
    /// Bytes of them.
    pub(crate) bytes: u64,
    /// When the manifest was last used; `None`: it is not here.
    pub(crate) used: Option<SystemTime>,
    /// What it refers to and is not here. A mirror holds the platforms that were pulled, so an index often misses some.
    pub(crate) missing: Vec<Digest>,
}

/// Who wants an image never to be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PinnedBy {
    /// `pin` of the registry.
    Configuration,
    /// `ctl cache pin`.
    Operator,
}

/// A part of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// All of a registry.
    Registry(Arc<str>),
    /// All of a repository.
    Repository(RepositoryId),
    /// An image, or a piece of content, of a repository.
    Content(RepositoryId, Reference),
}

/// What a purge gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Purged {
    /// Manifests and blobs.
    pub(crate) contents: u64,
    /// Bytes of them.
    pub(crate) bytes: u64,
    /// Tags that were forgotten.
    pub(crate) tags: u64,
    /// Repositories that something was forgotten of.
    pub(crate) repositories: u64,
}

/// What is known of an image or a piece of content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// What a tag was last known to mean, and when upstream said so.
    pub(crate) tag: Option<TagRecord>,
    /// The manifest or blob that is meant, where that is known.
    pub(crate) digest: Option<Digest>,
    /// Whether this repository is known to hold it.
    pub(crate) held: bool,
    pub(crate) presence: Presence,
    pub(crate) pinned: Option<PinnedBy>,
    /// Bytes of the cache that were used before it, and so are evicted before it.
    pub(crate) evicted_before: u64,
}

impl Cache {
    /// The repositories of a registry, or of all, that hold something here.
    pub(crate) async fn holdings(&self, registry: Option<Arc<str>>) -> io::Result<Vec<Holding>> {
        let store = Arc::clone(&self.store);
        blocking(move || store.holdings(registry.as_ref())).await?
    }

    /// The tags of a repository.
    pub(crate) async fn images(&self, repository: RepositoryId) -> io::Result<Vec<Image>> {
        let store = Arc::clone(&self.store);
        blocking(move || store.images(&repository)).await?
    }

    /// Forgets a part of the cache, pinned or not, and deletes what no other part holds. Readers that have begun go on.
    pub(crate) async fn purge(&self, selection: Selection) -> io::Result<Purged> {
        let store = Arc::clone(&self.store);
        blocking(move || store.purge(&selection)).await?
    }

    /// Keeps an image, or all of a repository, from eviction, or no longer; whether that is news. Survives restarts.
    pub(crate) async fn pin(&self, repository: RepositoryId, tag: Option<Tag>, pinned: bool) -> io::Result<bool> {
        let store = Arc::clone(&self.store);
        blocking(move || store.pin_by_operator(&repository, tag.as_ref(), pinned)).await?
    }

    /// What is known of an image or a piece of content.
    pub(crate) async fn facts(&self, repository: RepositoryId, reference: Reference) -> io::Result<Facts> {
        let store = Arc::clone(&self.store);
        blocking(move || store.facts(&repository, &reference)).await
    }
}

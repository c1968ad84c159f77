//! What the store knows of content: whose it is, what a tag or a list was, and when upstream said so.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use pierhead_registry::oci::{Digest, RepositoryName};

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

/// Records of a repository that are counted, and evicted, together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RecordGroup {
    pub(super) repository: RepositoryId,
    pub(super) kind: RecordKind,
}

/// Which records of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum RecordKind {
    /// What it holds, its tags, who may read it, and when it was made.
    Names,
    /// Lists of tags and of referrers: large, and needed by few.
    Lists,
}

impl RecordKind {
    /// All of them.
    pub(super) const ALL: [RecordKind; 2] = [RecordKind::Names, RecordKind::Lists];
}

impl RecordGroup {
    /// A repository's records but for its lists.
    pub(super) fn names(repository: &RepositoryId) -> RecordGroup {
        RecordGroup { repository: repository.clone(), kind: RecordKind::Names }
    }

    /// A repository's lists.
    pub(super) fn lists(repository: &RepositoryId) -> RecordGroup {
        RecordGroup { repository: repository.clone(), kind: RecordKind::Lists }
    }

    /// What the directories take that its files lie in: one a part of the name, and those of the records. Directories that
    /// several repositories share are counted for each.
    pub(super) fn directories(&self) -> u64 {
        (self.repository.name.as_str().split('/').count() as u64 + 2) * BLOCK
    }
}

/// The unit in which file systems give space.
pub(super) const BLOCK: u64 = 4096;

/// What the file of a record takes: an empty one, too, for it has a name.
pub(super) fn record_size(length: u64) -> u64 {
    length.div_ceil(BLOCK).max(1).saturating_mul(BLOCK)
}

/// What the file of a record took before it was written, and takes now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) before: u64,
    pub(super) after: u64,
}

/// A part of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of it.
    Registry,
    /// All repositories whose names begin with this part.
    Namespace(Box<str>),
    /// One repository.
    Repository(RepositoryName),
}

impl Extent {
    /// Whether a repository belongs to it.
    pub(crate) fn covers(&self, name: &RepositoryName) -> bool {
        match self {
            Extent::Registry => true,
            Extent::Namespace(namespace) => name.namespace() == &**namespace,
            Extent::Repository(repository) => name == repository,
        }
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

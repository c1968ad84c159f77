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

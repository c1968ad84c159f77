//! Why the store cannot be opened, and why a blob cannot be had.

use std::path::PathBuf;
use std::sync::Arc;

use pierhead_config::denied;
use pierhead_registry::client::ClientError;
use pierhead_registry::oci::Digest;
use pierhead_service::shares::Full;

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The tree cannot be made, read or locked.
    #[error("cache: {path}: {source}{}", denied(path, source))]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process has it.
    #[error("cache: {0}: in use by another process")]
    InUse(PathBuf),
    /// The index cannot be opened, nor made anew.
    #[error("cache: {0}")]
    Index(String),
}

/// Why a blob cannot be had or read on.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum BlobError {
    /// Upstream.
    #[error(transparent)]
    Upstream(#[from] ClientError),
    /// No connection to the registry was free for this client.
    #[error("the registry's connections: {0}")]
    Busy(#[from] Full),
    /// Every upstream address sent bytes that do not hash to the digest.
    #[error("{registry}: sent content that does not hash to {digest}")]
    Mismatch {
        /// Which registry.
        registry: Arc<str>,
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

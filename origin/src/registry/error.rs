//! Why the registry did not do what was asked, without HTTP.

use pierhead_registry::oci::Digest;
use pierhead_registry::store::StoreError;

use super::manifest::Flaw;
use crate::meta::MetaError;

/// Why not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    /// No such repository.
    #[error("no such repository")]
    NameUnknown,
    /// No such manifest in this repository.
    #[error("no such manifest")]
    ManifestUnknown,
    /// No such blob in this repository.
    #[error("no such blob")]
    BlobUnknown,
    /// No such upload in this repository.
    #[error("no such upload: it was finished, cancelled, or given up")]
    UploadUnknown,
    /// Another request writes this upload.
    #[error("another request is writing this upload")]
    UploadBusy,
    /// The account has as many uploads open in the repository as it may.
    #[error("this account has {0} uploads open in this repository: finish or cancel some, or wait an hour")]
    TooManyUploads(i64),
    /// The account has as many uploads open as it may.
    #[error("this account has {0} uploads open: finish or cancel some, or wait an hour")]
    TooManyUploadsAnywhere(i64),
    /// The store has lost what was uploaded.
    #[error("what was uploaded is lost; begin again")]
    UploadLost,
    /// The piece does not go on where the upload stands.
    #[error("the upload stands at {0}")]
    OutOfOrder(u64),
    /// The body is not as long as was said.
    #[error("the client broke off")]
    Incomplete,
    /// The body could not be read.
    #[error("the body cannot be read: {0}")]
    Body(String),
    /// The content has another digest: this one, than the one claimed.
    #[error("the content has the digest {}, not {}", .0.0, .0.1)]
    DigestMismatch(Box<(Digest, Digest)>),
    /// The content does not have the digest.
    #[error("the content does not have the digest {0}")]
    NotItsDigest(Digest),
    /// Larger than is accepted.
    #[error("larger than {0} bytes, which is the limit here")]
    TooLarge(u64),
    /// A manifest that breaks its own rules.
    #[error(transparent)]
    Manifest(#[from] Flaw),
    /// A manifest that names what the repository does not hold.
    #[error("the repository does not hold what the manifest names")]
    Missing(Vec<Digest>),
    /// A blob that a manifest needs.
    #[error("{0} needs it: delete that first")]
    Needed(String),
    /// The repository takes no changes.
    #[error("the repository is read-only")]
    ReadOnly,
    /// The database.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The store.
    #[error(transparent)]
    Store(StoreError),
    /// This program.
    #[error("interrupted")]
    Interrupted,
}

impl RegistryError {
    /// Whether a disk, or what the store may take, is full.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, RegistryError::Store(StoreError::Full(_)) | RegistryError::Meta(MetaError::Full(_)))
    }
}

impl From<StoreError> for RegistryError {
    fn from(error: StoreError) -> RegistryError {
        match error {
            StoreError::Lost => RegistryError::UploadLost,
            error => RegistryError::Store(error),
        }
    }
}

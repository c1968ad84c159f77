//! Which store the configuration means.

use std::sync::Arc;

use pierhead_config::Storage;
use pierhead_registry::store::{BlobStore, FileSystem, StoreError};

/// Opens it.
pub(super) async fn open(storage: &Storage) -> Result<Arc<dyn BlobStore>, StoreError> {
    match storage {
        Storage::FileSystem { path } => Ok(Arc::new(FileSystem::open(path.clone()).await?)),
        Storage::S3(_) => Err(StoreError::Refused("this version has no driver for s3".to_owned())),
    }
}

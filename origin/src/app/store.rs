//! Which store the configuration means.

use std::path::Path;
use std::sync::Arc;

use pierhead_config::{S3 as Configured, Storage};
use pierhead_registry::store::{BlobStore, FileSystem, S3, S3Settings, StoreError};

/// Opens it.
pub(super) async fn open(storage: &Storage) -> Result<Arc<dyn BlobStore>, StoreError> {
    match storage {
        Storage::FileSystem { path } => Ok(Arc::new(FileSystem::open(path.clone()).await?)),
        Storage::S3(bucket) => Ok(Arc::new(S3::open(settings(bucket).await?).await?)),
    }
}

async fn settings(bucket: &Configured) -> Result<S3Settings, StoreError> {
    let ca = match &bucket.ca {
        Some(path) => Some(authorities(path).await?),
        None => None,
    };
    let credentials = bucket.credentials.as_ref();
    Ok(S3Settings {
        endpoint: bucket.endpoint.clone(),
        region: bucket.region.clone(),
        bucket: bucket.bucket.clone(),
        prefix: bucket.prefix.clone(),
        credentials: credentials
            .map(|known| (known.access_key_id.clone(), known.secret_access_key.reveal().to_owned())),
        path_style: bucket.path_style,
        ca,
        part_size: bucket.part_size,
        connect_timeout: bucket.connect_timeout,
        timeout: bucket.timeout,
        ..S3Settings::default()
    })
}

async fn authorities(path: &Path) -> Result<Vec<u8>, StoreError> {
    let read = tokio::fs::read(path).await;
    read.map_err(|error| StoreError::Refused(format!("certificate authorities in {}: {error}", path.display())))
}

//! Which store the configuration means.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pierhead_config::{S3 as Configured, Storage};
use pierhead_registry::store::{BlobStore, FileSystem, S3, S3Settings, StoreError};
use tokio::time::timeout;

use crate::owner;

/// How long a store may take to say whether it can be used.
const VERIFY: Duration = Duration::from_secs(20);

/// Opens it.
pub(super) async fn open(storage: &Storage) -> Result<Arc<dyn BlobStore>, StoreError> {
    match storage {
        Storage::FileSystem { path } => Ok(Arc::new(files(path).await?)),
        Storage::S3(bucket) => Ok(Arc::new(S3::open(settings(bucket).await?).await?)),
    }
}

/// The tree, made where it is not there yet, and its owner's.
async fn files(path: &Path) -> Result<FileSystem, StoreError> {
    let uploads = path.join("uploads/pierhead");
    // The store reports what it cannot create.
    drop(owner::make_directory(&uploads));
    let own = [path, &path.join("uploads"), &uploads];
    own.iter().for_each(|path| owner::adopt(path));
    match own.iter().find_map(|path| owner::objection(path)) {
        Some(objection) => Err(StoreError::Refused(objection)),
        None => FileSystem::open(path.to_owned()).await,
    }
}

/// Whether it can be used, as the health check sees it.
pub(super) async fn verify(store: &dyn BlobStore) -> Result<(), StoreError> {
    match timeout(VERIFY, store.verify()).await {
        Ok(verified) => verified,
        Err(_) => Err(StoreError::Unavailable(format!("it does not answer within {} s", VERIFY.as_secs()))),
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

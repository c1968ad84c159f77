//! Pulling: a manifest by tag or digest, a blob whole or in part.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use pierhead_registry::oci::{Digest, Reference};
use pierhead_registry::store::{Content, StoreError};
use url::Url;

use super::{Registry, RegistryError};

/// A manifest on its way out.
#[derive(Clone, Debug)]
pub(crate) struct PulledManifest {
    /// Of the content.
    pub(crate) digest: Digest,
    /// As it was pushed.
    pub(crate) media_type: String,
    /// In bytes.
    pub(crate) size: u64,
    /// Bytes of the blobs that it names.
    pub(crate) layers_size: u64,
    row: i64,
}

impl Registry {
    /// A manifest, without its content.
    pub(crate) async fn manifest(
        &self,
        repository: &str,
        reference: &Reference,
    ) -> Result<PulledManifest, RegistryError> {
        match self.meta.manifest(repository, reference).await? {
            Some(found) => Ok(PulledManifest {
                digest: found.digest()?,
                size: found.size(),
                layers_size: found.layers_size(),
                row: found.id,
                media_type: found.media_type,
            }),
            None => {
                self.repository(repository).await?;
                Err(RegistryError::ManifestUnknown)
            }
        }
    }

    /// Its content.
    pub(crate) async fn manifest_content(&self, manifest: &PulledManifest) -> Result<Bytes, RegistryError> {
        if let Some(content) = self.remembered.get(&manifest.digest) {
            return Ok(content);
        }
        let content = self.meta.manifest_content(manifest.row).await?.ok_or(RegistryError::ManifestUnknown)?;
        let content = Bytes::from(content);
        self.remembered.insert(manifest.digest, content.clone());
        Ok(content)
    }

    /// The size of a blob that the repository holds.
    pub(crate) async fn blob(&self, repository: &str, digest: &Digest) -> Result<u64, RegistryError> {
        match self.meta.blob(repository, digest).await? {
            Some(blob) => Ok(blob.size()),
            None => {
                self.repository(repository).await?;
                Err(RegistryError::BlobUnknown)
            }
        }
    }

    /// The bytes of a blob within a range of it.
    pub(crate) async fn open_blob(&self, digest: &Digest, range: Range<u64>) -> Result<Content, RegistryError> {
        let content = self.store.open(digest, range).await?;
        content.ok_or_else(|| {
            tracing::error!(%digest, "the store lacks a blob that the database knows");
            RegistryError::Store(StoreError::Broken("the blob is not there".to_owned()))
        })
    }

    /// Where a blob can be fetched without us.
    pub(crate) async fn blob_url(&self, digest: &Digest, lifetime: Duration) -> Result<Option<Url>, RegistryError> {
        Ok(self.store.presign(digest, lifetime).await?)
    }
}

//! Pulling: a manifest by tag or digest, a blob whole or in part.
//!
//! Who pulls is who notices that the store has lost a blob. From then on the database does not say that it is there.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use pierhead_registry::oci::{Digest, Reference};
use pierhead_registry::store::{Content, StoreError};
use url::Url;

use super::{Registry, RegistryError};
use crate::meta::HeldBlob;

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

    /// A blob that the repository holds.
    pub(crate) async fn blob(&self, repository: &str, digest: &Digest) -> Result<HeldBlob, RegistryError> {
        if let Some(blob) = self.meta.blob(repository, digest).await? {
            return Ok(blob);
        }
        match self.meta.missing_blob(repository, digest).await? {
            Some(blob) if self.is_back(&blob, digest).await? => Ok(blob),
            _ => {
                self.repository(repository).await?;
                Err(RegistryError::BlobUnknown)
            }
        }
    }

    /// The bytes of a blob within a range of it.
    pub(crate) async fn open_blob(
        &self,
        blob: &HeldBlob,
        digest: &Digest,
        range: Range<u64>,
    ) -> Result<Content, RegistryError> {
        let error = match self.store.open(digest, range).await {
            Ok(Some(content)) => return Ok(content),
            Ok(None) => StoreError::Broken("the blob is not there".to_owned()),
            // It may have become shorter.
            Err(error @ StoreError::Broken(_)) => error,
            Err(error) => return Err(error.into()),
        };
        self.look_for(blob, digest).await?;
        Err(RegistryError::Store(error))
    }

    /// Sees that the store still has a blob. If it does not, the database says so from here on (`../meta/blobs.rs`), and clients that
    /// push the blob write it again.
    pub(crate) async fn look_for(&self, blob: &HeldBlob, digest: &Digest) -> Result<(), RegistryError> {
        if self.is_whole(blob, digest).await? {
            return Ok(());
        }
        // A store that is away as a whole has lost nothing: this one takes what is written to it.
        self.store.verify().await?;
        let change = self.meta.change().await?;
        let news = change.blob_lost(blob.id).await?;
        change.commit().await?;
        if self.is_back(blob, digest).await? {
            return Ok(());
        }
        if news {
            tracing::error!(%digest, "the store has lost a blob, or a part of it; whoever pushes it next mends it");
            self.metrics.blobs_lost.inc();
        }
        Err(RegistryError::BlobUnknown)
    }

    /// Whether the store has a blob that nobody counted on. Then everybody can.
    async fn is_back(&self, blob: &HeldBlob, digest: &Digest) -> Result<bool, RegistryError> {
        if !self.is_whole(blob, digest).await? {
            return Ok(false);
        }
        let change = self.meta.change().await?;
        let back = change.blob_arrived(blob.id, blob.size()).await?;
        change.commit().await?;
        Ok(back)
    }

    async fn is_whole(&self, blob: &HeldBlob, digest: &Digest) -> Result<bool, RegistryError> {
        Ok(self.store.stat(digest).await? == Some(blob.size()))
    }

    /// Where a blob can be fetched without us.
    pub(crate) async fn blob_url(&self, digest: &Digest, lifetime: Duration) -> Result<Option<Url>, RegistryError> {
        Ok(self.store.presign(digest, lifetime).await?)
    }
}

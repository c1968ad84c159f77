//! Uploads that are given up, with all that they stored: those that meet a full disk are among them.
//!
//! The bytes of an upload that met a full disk are what fills it. While they lie there no push goes on, and a database on the same disk
//! takes no changes. So they are given back at once, and the client begins again.

use std::sync::Arc;

use pierhead_registry::store::UploadId;

use super::upload::checkpoint;
use super::writer::{Purpose, Writer};
use super::{Registry, RegistryError};
use crate::meta::{MetaError, UploadRow, now};

impl Registry {
    /// Claims an upload to go on with it. The upload is gone if the database has no room for the claim.
    pub(super) async fn claim_to_push(
        self: &Arc<Self>,
        repository: &str,
        id: &UploadId,
    ) -> Result<Writer, RegistryError> {
        let claimed = Writer::claim(self, repository, id, Purpose::Push).await;
        if claimed.as_ref().is_err_and(RegistryError::is_full)
            && let Ok(Some(row)) = self.meta.upload(repository, id).await
            // Another request that writes it meets the full disk itself.
            && (row.writer.is_none() || row.writer_until <= now())
        {
            self.give_back(id, &row).await;
        }
        claimed
    }

    /// Takes away an upload that met a full disk. A database on that disk may take no changes before the bytes are gone. If it takes none
    /// after that either, the next request to the upload hears that it is lost.
    pub(super) async fn give_back(&self, id: &UploadId, row: &UploadRow) {
        match self.strike_out(id, row).await {
            Ok(true) => self.discard_stored(id, row).await,
            Ok(false) => {}
            Err(_) => {
                self.discard_stored(id, row).await;
                self.forget_upload(id, row).await;
            }
        }
    }

    /// Takes away what an upload stored and what is known of it. What fails here is taken away by garbage collection.
    pub(super) async fn forget_upload(&self, id: &UploadId, row: &UploadRow) {
        match self.strike_out(id, row).await {
            Ok(true) => self.discard_stored(id, row).await,
            // Another writes it by now, or has ended it.
            Ok(false) => {}
            Err(error) => tracing::warn!(upload = id.as_str(), %error, "an upload is left for garbage collection"),
        }
    }

    /// Deletes the row of an upload. `false`: it is another's by now, or there is none.
    async fn strike_out(&self, id: &UploadId, row: &UploadRow) -> Result<bool, MetaError> {
        let change = self.meta.change().await?;
        let ours = change.delete_upload(id, row.writer.as_deref().unwrap_or_default()).await?;
        change.commit().await?;
        Ok(ours)
    }

    pub(super) async fn discard_stored(&self, id: &UploadId, row: &UploadRow) {
        if let Err(error) = self.store.discard(id, checkpoint(row).as_ref()).await {
            tracing::warn!(upload = id.as_str(), %error, "what an upload stored is left for garbage collection");
        }
    }
}

//! Deleting: manifests, tags and blobs. What was tagged can be restored until the time machine's window is over.

use pierhead_registry::oci::{Digest, Reference};

use super::{Registry, RegistryError};
use crate::meta::{Action, Performer, now};

impl Registry {
    /// Deletes a tag, or a manifest with all its tags.
    pub(crate) async fn delete_manifest(
        &self,
        repository: &str,
        reference: &Reference,
        performer: &Performer,
    ) -> Result<(), RegistryError> {
        let repository = self.repository(repository).await?;
        let change = self.meta.change().await?;
        let repository = self.writable(&change, repository.id).await?;
        let at = now();
        let (kind, tags, digest) = match reference {
            Reference::Tag(tag) => {
                if !change.end_tag(repository.id, tag.as_str(), at).await? {
                    return Err(RegistryError::ManifestUnknown);
                }
                ("delete_tag", vec![tag.to_string()], None)
            }
            Reference::Digest(digest) => {
                let tags = change.delete_manifest(repository.id, digest, at).await?;
                ("delete_manifest", tags.ok_or(RegistryError::ManifestUnknown)?, Some(digest.to_string()))
            }
        };
        let mut metadata = serde_json::Map::new();
        if let Some(digest) = digest {
            metadata.insert("manifest_digest".to_owned(), digest.into());
        }
        match tags.as_slice() {
            [tag] => drop(metadata.insert("tag".to_owned(), tag.as_str().into())),
            tags => drop(metadata.insert("tags".to_owned(), tags.into())),
        }
        let action = Action::in_repository(kind, &repository.name, metadata.into());
        change.log(performer, action, at).await?;
        Ok(change.commit().await?)
    }

    /// Takes a blob from a repository, if no manifest there needs it.
    pub(crate) async fn delete_blob(
        &self,
        repository: &str,
        digest: &Digest,
        performer: &Performer,
    ) -> Result<(), RegistryError> {
        let name = repository;
        let repository = self.repository(name).await?;
        let held = self.meta.blob(name, digest).await?.ok_or(RegistryError::BlobUnknown)?;
        let change = self.meta.change().await?;
        let repository = self.writable(&change, repository.id).await?;
        change.lock_hold(repository.id, held.id).await?;
        if let Some(manifest) = change.manifest_that_needs(repository.id, held.id).await? {
            return Err(RegistryError::Needed(manifest));
        }
        change.release_blob(repository.id, held.id).await?;
        let metadata = serde_json::json!({ "blob_digest": digest.to_string() });
        let action = Action::in_repository("delete_blob", &repository.name, metadata);
        change.log(performer, action, now()).await?;
        Ok(change.commit().await?)
    }
}

//! Publishing: a manifest comes in, and its tags are moved to it, in one change.

use std::time::Duration;

use pierhead_registry::oci::{Algorithm, Digest, Reference, Tag};

use super::expiration::lifetime;
use super::manifest::{Flaw, Needs, needs};
use super::{Registry, RegistryError};
use crate::meta::{Action, MetaError, NewManifest, Performer, Put, TagMove, now};

/// How often two who move the same tag at once get out of each other's way.
const TRIES: u32 = 5;

/// A manifest that somebody pushes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pushed<'a> {
    /// The repository, which exists.
    pub(crate) repository: i64,
    /// Its name.
    pub(crate) name: &'a str,
    /// By tag, or by digest.
    pub(crate) reference: &'a Reference,
    /// What it is called besides, each once.
    pub(crate) tags: &'a [Tag],
    /// The request's.
    pub(crate) content_type: &'a str,
    /// The bytes.
    pub(crate) content: &'a [u8],
    /// By whom.
    pub(crate) performer: &'a Performer,
}

impl Pushed<'_> {
    /// All tags that are moved to it.
    fn names(&self) -> impl Iterator<Item = &Tag> {
        let by_name = match self.reference {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => None,
        };
        by_name.into_iter().chain(self.tags)
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// Of the content.
    pub(crate) digest: Digest,
    /// What it is about: clients want to hear that it was understood.
    pub(crate) subject: Option<Digest>,
    /// Bytes that it names.
    pub(crate) layers_size: u64,
}

impl Registry {
    /// Takes a manifest, and moves its tag.
    pub(crate) async fn publish(&self, pushed: Pushed<'_>) -> Result<Published, RegistryError> {
        let limit = self.max_manifest_size();
        if pushed.content.len() as u64 > limit {
            return Err(RegistryError::TooLarge(limit));
        }
        let digest = match pushed.reference {
            Reference::Tag(_) => Digest::of(Algorithm::Sha256, pushed.content),
            Reference::Digest(claimed) => {
                let actual = Digest::of(claimed.algorithm(), pushed.content);
                if actual != *claimed {
                    return Err(RegistryError::DigestMismatch(Box::new((actual, *claimed))));
                }
                actual
            }
        };
        let needs = needs(pushed.content_type, pushed.content)?;
        let lifetime = self.lifetime(&pushed, &needs).await?;
        let mut tries = 0;
        loop {
            match self.publish_once(&pushed, digest, &needs, lifetime).await {
                // Another moved the same tag at this moment, and the next look sees where; or garbage collection was in the way.
                Err(RegistryError::Meta(MetaError::Exists | MetaError::Conflict)) if tries < TRIES => tries += 1,
                outcome => return outcome,
            }
        }
    }

    /// How long what is pushed says that its tag is to be there.
    async fn lifetime(&self, pushed: &Pushed<'_>, needs: &Needs) -> Result<Option<Duration>, RegistryError> {
        let label = match &needs.configuration {
            Some(configuration) if pushed.names().next().is_some() => self.label(pushed.name, configuration).await?,
            _ => None,
        };
        Ok(label.as_ref().or(needs.expires_after.as_ref()).and_then(|text| lifetime(text)))
    }

    async fn publish_once(
        &self,
        pushed: &Pushed<'_>,
        digest: Digest,
        needs: &Needs,
        lifetime: Option<Duration>,
    ) -> Result<Published, RegistryError> {
        let change = self.meta.change().await?;
        let repository = self.writable(&change, pushed.repository).await?;
        let at = now();
        let new = NewManifest {
            repository_id: repository.id,
            digest,
            media_type: &needs.media_type,
            content: pushed.content,
            artifact_type: needs.artifact_type.as_deref(),
            subject: needs.subject,
            blobs: needs.blobs.clone(),
            foreign: needs.foreign.clone(),
            children: needs.children.clone(),
            entries: needs.entries.clone(),
            sizes: needs.sizes.clone(),
            at,
        };
        let (id, layers_size) = match change.put_manifest(&new).await? {
            Put::Done { id, layers_size } => (id, layers_size),
            Put::Missing(missing) => return Err(RegistryError::Missing(missing)),
            Put::OtherSize { digest, said, has } => return Err(Flaw::Size { digest, said, has }.into()),
        };
        let metadata = serde_json::json!({ "manifest_digest": digest.to_string() });
        let expires = lifetime.map(|time| at.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX)));
        // One line for each tag that moves; one for a manifest without any.
        let mut lines = if pushed.names().next().is_none() { vec![metadata.clone()] } else { Vec::new() };
        for tag in pushed.names() {
            let moved = change.set_tag(repository.id, tag.as_str(), id, at, false).await?;
            // Pushed again, its time begins anew.
            if moved == TagMove::Unchanged || lifetime.is_some() {
                change.set_expiration(repository.id, tag.as_str(), expires, at).await?;
            }
            if moved != TagMove::Unchanged {
                let mut line = metadata.clone();
                line["tag"] = tag.as_str().into();
                lines.push(line);
            }
        }
        for line in lines {
            change.log(pushed.performer, Action::in_repository("push_repo", &repository.name, line), at).await?;
        }
        change.commit().await?;
        Ok(Published { digest, subject: needs.subject, layers_size })
    }
}

//! The one request that writes an upload at a time.
//!
//! It claims the upload, says every few seconds that it is still there, whatever it waits for, the client or the store, and writes
//! down how far it got each time that the store has made a stride safe. A node that is killed is waited for as long as its claim lasts; then the next request goes on from what was
//! written down. Bytes past that are sent again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use pierhead_registry::oci::{Algorithm, Digest, RunningDigest};
use pierhead_registry::store::{Upload, UploadId};
use tokio::time::{Instant, sleep};

use super::upload::{Piece, Standing, checkpoint};
use super::{Registry, RegistryError};
use crate::meta::{Claim, MetaError, Millis, Progress, UploadRow, now};

/// How long a writer is believed to be there without a sign of life.
const CLAIM: Duration = Duration::from_secs(10);
/// How often it gives one.
pub(super) const SIGN: Duration = Duration::from_secs(3);
/// How long to wait for another writer: longer than one that was killed is believed.
const PATIENCE: Duration = Duration::from_secs(13);
/// How often to look whether it is gone.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// What an upload is claimed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To go on with it, which a repository that takes no changes refuses as it refuses a new one.
    Push,
    /// To forget it, which any allows.
    Cancel,
}

/// The writer of an upload.
pub(super) struct Writer {
    registry: Arc<Registry>,
    id: UploadId,
    row: UploadRow,
    name: String,
    digest: RunningDigest,
    upload: Option<Box<dyn Upload>>,
    /// Up to where it is written down.
    saved: u64,
}

impl Writer {
    /// Claims an upload, from wherever it stands.
    pub(super) async fn claim(
        registry: &Arc<Registry>,
        repository: &str,
        id: &UploadId,
        purpose: Purpose,
    ) -> Result<Writer, RegistryError> {
        let name = UploadId::random().as_str().to_owned();
        let begun = Instant::now();
        let mut row = loop {
            match registry.claim(repository, id, &name, purpose).await? {
                Claim::Ours(row) => break *row,
                Claim::Unknown => return Err(RegistryError::UploadUnknown),
                Claim::Busy if begun.elapsed() > PATIENCE => return Err(RegistryError::UploadBusy),
                Claim::Busy => sleep(LOOK).await,
            }
        };
        row.writer = Some(name.clone());
        let algorithm: Algorithm = row.algorithm.parse().map_err(|_| MetaError::Corrupt("algorithm"))?;
        let digest = RunningDigest::restore(algorithm, &row.hash).ok_or(MetaError::Corrupt("state of a digest"))?;
        let saved = u64::try_from(row.length).unwrap_or_default();
        let registry = Arc::clone(registry);
        Ok(Writer { registry, id: id.clone(), row, name, digest, upload: None, saved })
    }

    /// The digest will be of this kind: as long as nothing was written, that can still be computed on the way.
    pub(super) fn expect(&mut self, algorithm: Algorithm) {
        if self.row.length == 0 {
            self.digest = RunningDigest::new(algorithm);
        }
    }

    /// Takes a piece, as much of it as comes.
    pub(super) async fn take(mut self, mut piece: Piece) -> (Writer, Result<(), RegistryError>) {
        let lost = self.lost();
        let outcome = tokio::select! {
            outcome = self.write(&mut piece) => outcome,
            lost = lost => Err(lost),
        };
        (self, outcome)
    }

    async fn write(&mut self, piece: &mut Piece) -> Result<(), RegistryError> {
        if piece.start.is_some_and(|start| start != self.saved) {
            return Err(RegistryError::OutOfOrder(self.saved));
        }
        let store = &self.registry.store;
        let mut upload = match checkpoint(&self.row) {
            Some(checkpoint) => store.resume(&self.id, &checkpoint).await?,
            None => store.begin(&self.id).await?,
        };
        let (limit, stride) = (self.registry.bounds().max_layer_size, store.stride());
        let mut received = 0;
        let outcome = loop {
            let bytes = match piece.body.next().await {
                Some(Ok(bytes)) => bytes,
                Some(Err(error)) => break Err(RegistryError::Body(error)),
                None if piece.length.is_some_and(|length| length != received) => break Err(RegistryError::Incomplete),
                None => break Ok(()),
            };
            received += bytes.len() as u64;
            if upload.length() + bytes.len() as u64 > limit {
                break Err(RegistryError::TooLarge(limit));
            }
            self.digest.update(&bytes);
            if let Err(error) = upload.write(bytes).await {
                // What the digest has seen and the store has not is forgotten with this writer.
                return Err(error.into());
            }
            if upload.length() - self.saved >= stride {
                self.save(upload.as_mut()).await?;
            }
        };
        self.upload = Some(upload);
        outcome
    }

    /// The digest of all that was written.
    pub(super) fn digest(&self) -> Digest {
        self.digest.digest()
    }

    /// What is known of the upload, and what writes it, if anything was written.
    pub(super) fn into_parts(self) -> (UploadRow, Option<Box<dyn Upload>>) {
        (self.row, self.upload)
    }

    /// Writes down how far it got, and lets others write.
    pub(super) async fn leave(mut self) -> Result<Standing, RegistryError> {
        if let Err(error) = self.save_all().await {
            return Err(self.give_up(error).await);
        }
        self.registry.release(&self.row).await;
        Ok(Standing { length: self.saved })
    }

    /// After an error: keeps what can be gone on with, and nothing else.
    pub(super) async fn give_up(mut self, error: RegistryError) -> RegistryError {
        match &error {
            RegistryError::UploadBusy => {}
            RegistryError::TooLarge(_) | RegistryError::UploadLost => self.discard().await,
            error if error.is_full() => self.give_back().await,
            RegistryError::Body(_) | RegistryError::Incomplete => match self.save_all().await {
                Err(error) if error.is_full() => self.give_back().await,
                saved => {
                    if let Err(error) = saved {
                        tracing::debug!(upload = self.id.as_str(), %error, "an upload goes on from further back");
                    }
                    self.registry.release(&self.row).await;
                }
            },
            _ => self.registry.release(&self.row).await,
        }
        error
    }

    /// Forgets the upload.
    pub(super) async fn discard(mut self) {
        drop(self.upload.take());
        self.registry.forget_upload(&self.id, &self.row).await;
    }

    /// Gives back the room of an upload that met a full disk.
    async fn give_back(mut self) {
        drop(self.upload.take());
        self.registry.give_back(&self.id, &self.row).await;
    }

    /// Makes safe all that was written.
    async fn save_all(&mut self) -> Result<(), RegistryError> {
        let Some(mut upload) = self.upload.take() else { return Ok(()) };
        let lost = self.lost();
        tokio::select! {
            saved = self.save(upload.as_mut()) => saved,
            lost = lost => Err(lost),
        }
    }

    /// Makes safe what was written, and writes it down.
    async fn save(&mut self, upload: &mut dyn Upload) -> Result<(), RegistryError> {
        if upload.length() == self.saved && self.row.checkpoint.is_some() {
            return Ok(());
        }
        let checkpoint = upload.checkpoint().await?;
        let hash = self.digest.save();
        let progress = Progress { length: checkpoint.length, checkpoint: &checkpoint.state, hash: &hash };
        let change = self.registry.meta.change().await?;
        let ours = change.save_upload(&self.id, &self.name, &progress, claimed_until()).await?;
        change.commit().await?;
        if !ours {
            return Err(RegistryError::UploadBusy);
        }
        self.row.length = i64::try_from(checkpoint.length).unwrap_or(i64::MAX);
        self.row.checkpoint = Some(checkpoint.state);
        self.saved = checkpoint.length;
        Ok(())
    }

    /// Says every so often that it is still there. Ends when it is not the one any more, and never otherwise: the database may be
    /// back before anybody else wants to write.
    fn lost(&self) -> impl Future<Output = RegistryError> + Send + use<> {
        let (registry, id, name) = (Arc::clone(&self.registry), self.id.clone(), self.name.clone());
        async move {
            loop {
                sleep(SIGN).await;
                if !registry.sign(&id, &name).await {
                    return RegistryError::UploadBusy;
                }
            }
        }
    }
}

pub(super) fn claimed_until() -> Millis {
    now().saturating_add(i64::try_from(CLAIM.as_millis()).unwrap_or(i64::MAX))
}

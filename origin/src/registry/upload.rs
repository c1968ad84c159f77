//! Uploads: begun, written piece by piece by whichever node the client reaches, finished or cancelled; and mounts, which need none.
//!
//! The work runs in a task of its own: a client that goes away in the middle of a piece leaves an upload that knows how far it got,
//! and that the next request can take up at once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use pierhead_registry::oci::{Algorithm, Digest, RunningDigest};
use pierhead_registry::store::{Checkpoint, Proof, StoreError, Upload, UploadId};
use tokio::time::{Instant, sleep};

use super::writer::{LOOK, Purpose, SIGN, Writer, claimed_until};
use super::{Registry, RegistryError};
use crate::meta::{Arrival, Claim, MetaError, Millis, UploadRow, now};

/// How long to wait for the database when all that is left is to say that a blob is there.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait for a blob to leave before it can be stored anew: a little longer than whoever takes it away may take, and was killed.
const LEAVING: Duration = Duration::from_secs(35);

/// An upload that did not move for so long no longer counts as open: its client is gone, or has forgotten it.
const FORGOTTEN: Millis = 3_600_000;
/// An account may have so many times as many uploads open in all repositories as in one.
const EVERYWHERE: i64 = 10;

/// A piece of an upload, as it comes in.
pub(crate) struct Piece {
    /// Where the client says that it begins.
    pub(crate) start: Option<u64>,
    /// How long the client says that it is.
    pub(crate) length: Option<u64>,
    /// The bytes.
    pub(crate) body: BoxStream<'static, Result<Bytes, String>>,
}

/// What the end of an upload came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finished {
    /// It is a blob of so many bytes.
    Now(u64),
    /// An earlier request ended it, and the client did not hear of it: the repository holds the blob.
    Before,
}

/// How far an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Bytes that need not be sent again.
    pub(crate) length: u64,
}

impl Registry {
    /// A new upload to a repository, by an account. A robot's counts as its owner's.
    pub(crate) async fn begin_upload(
        &self,
        repository: i64,
        algorithm: Algorithm,
        account: Option<&str>,
    ) -> Result<UploadId, RegistryError> {
        let id = UploadId::random();
        let account = account.and_then(|name| name.split('+').next());
        let change = self.meta.change().await?;
        self.writable(&change, repository).await?;
        if let Some(account) = account {
            let open = change.open_uploads(account, repository, now().saturating_sub(FORGOTTEN)).await?;
            let limit = i64::from(self.bounds().open_uploads);
            if open.here >= limit {
                return Err(RegistryError::TooManyUploads(limit));
            }
            if open.everywhere >= limit.saturating_mul(EVERYWHERE) {
                return Err(RegistryError::TooManyUploadsAnywhere(limit.saturating_mul(EVERYWHERE)));
            }
        }
        let hash = RunningDigest::new(algorithm).save();
        change.insert_upload(&id, repository, algorithm.as_str(), hash, account).await?;
        change.commit().await?;
        Ok(id)
    }

    /// How far an upload is.
    pub(crate) async fn upload(&self, repository: &str, id: &UploadId) -> Result<Standing, RegistryError> {
        let row = self.meta.upload(repository, id).await?.ok_or(RegistryError::UploadUnknown)?;
        Ok(Standing { length: u64::try_from(row.length).unwrap_or_default() })
    }

    /// Takes a piece.
    pub(crate) async fn append(
        self: &Arc<Self>,
        repository: &str,
        id: &UploadId,
        piece: Piece,
    ) -> Result<Standing, RegistryError> {
        let writer = self.claim_to_push(repository, id).await?;
        detached(async move {
            let (writer, outcome) = writer.take(piece).await;
            match outcome {
                Ok(()) => writer.leave().await,
                Err(error) => Err(writer.give_up(error).await),
            }
        })
        .await
    }

    /// Takes the last piece, and makes the upload the blob of that digest. A client whose answer was lost asks again: it gets the same
    /// answer for as long as the repository holds the blob.
    pub(crate) async fn finish(
        self: &Arc<Self>,
        repository: &str,
        id: &UploadId,
        piece: Piece,
        digest: Digest,
    ) -> Result<Finished, RegistryError> {
        let mut writer = match self.claim_to_push(repository, id).await {
            Err(RegistryError::UploadUnknown) => return self.finished_before(repository, piece, digest).await,
            writer => writer?,
        };
        writer.expect(digest.algorithm());
        let registry = Arc::clone(self);
        detached(async move {
            let (writer, outcome) = writer.take(piece).await;
            match outcome {
                Ok(()) => registry.commit(writer, digest).await.map(Finished::Now),
                Err(error) => Err(writer.give_up(error).await),
            }
        })
        .await
    }

    /// Takes a blob that comes in one request. Its sender never learns the upload's name, so of one that fails nothing is kept: it would count
    /// among the uploads that the account has open.
    pub(crate) async fn push_whole(
        self: &Arc<Self>,
        repository: &str,
        id: UploadId,
        piece: Piece,
        digest: Digest,
    ) -> Result<Finished, RegistryError> {
        let (registry, repository) = (Arc::clone(self), repository.to_owned());
        detached(async move {
            let finished = registry.finish(&repository, &id, piece, digest).await;
            if finished.is_err() {
                // What is gone already need not be forgotten.
                drop(registry.cancel_upload(&repository, &id).await);
            }
            finished
        })
        .await
    }

    /// An upload that is not there: it was ended before, if the repository holds what it was to become.
    async fn finished_before(
        &self,
        repository: &str,
        mut piece: Piece,
        digest: Digest,
    ) -> Result<Finished, RegistryError> {
        if self.meta.blob(repository, &digest).await?.is_none() {
            return Err(RegistryError::UploadUnknown);
        }
        // A client hears the answer only once it has sent all of its request.
        let mut received = 0;
        while let Some(bytes) = piece.body.next().await {
            received += bytes.map_err(RegistryError::Body)?.len() as u64;
            let limit = self.bounds().max_layer_size;
            if received > limit {
                return Err(RegistryError::TooLarge(limit));
            }
        }
        Ok(Finished::Before)
    }

    /// Makes what was written a blob.
    async fn commit(&self, writer: Writer, digest: Digest) -> Result<u64, RegistryError> {
        let actual = writer.digest();
        let proof = if actual.algorithm() == digest.algorithm() { Proof::Hashed } else { Proof::ReadBack };
        if proof == Proof::Hashed && actual != digest {
            writer.discard().await;
            return Err(RegistryError::DigestMismatch(Box::new((actual, digest))));
        }
        let (row, Some(upload)) = writer.into_parts() else { return Err(RegistryError::Interrupted) };
        let (id, length) = (writer_id(&row)?, upload.length());
        // An object store may take minutes to put a large upload together. It must not be left in the middle of that.
        let signs = async {
            loop {
                sleep(SIGN).await;
                self.sign(&id, row.writer.as_deref().unwrap_or_default()).await;
            }
        };
        let made = tokio::select! {
            made = self.make_blob(&row, &id, upload, digest, proof) => made,
            () = signs => Err(RegistryError::Interrupted),
        };
        match &made {
            Ok(()) => {}
            Err(RegistryError::NotItsDigest(_)) => self.forget_upload(&id, &row).await,
            Err(error) if error.is_full() => self.give_back(&id, &row).await,
            Err(_) => self.release(&row).await,
        }
        made.map(|()| length)
    }

    async fn make_blob(
        &self,
        row: &UploadRow,
        id: &UploadId,
        upload: Box<dyn Upload>,
        digest: Digest,
        proof: Proof,
    ) -> Result<(), RegistryError> {
        let length = upload.length();
        let mut upload = Some(upload);
        // Nobody has hashed these bytes. Until the store has, the repository must not hold what they are said to be: it may be somebody
        // else's.
        if proof == Proof::ReadBack
            && let Some(upload) = upload.take()
        {
            upload.commit(&digest, proof).await.map_err(|error| match error {
                StoreError::Mismatch => RegistryError::NotItsDigest(digest),
                error => error.into(),
            })?;
        }
        let (blob, known) = self.arrives(row, &digest, length).await?;
        // Where it costs nothing more, what is known is written once more: how long a push takes must not tell whether another tenant has
        // the same. Somebody may also have taken it from the store behind our back. Then this push mends it.
        let to_write = upload.as_ref().is_some_and(|upload| !known || upload.commits_at_once());
        let there = !to_write && self.store.stat(&digest).await? == Some(length);
        match upload {
            Some(upload) if !there => upload.commit(&digest, proof).await?,
            Some(upload) => {
                drop(upload);
                self.discard_stored(id, row).await;
            }
            // It was put there before it was held, and was taken away in between.
            None if !there => return Err(RegistryError::UploadLost),
            None => {}
        }
        let begun = Instant::now();
        loop {
            match self.arrived(row, id, blob, &digest, length).await {
                // What was stored would have to be sent again. The database may be back soon.
                Err(RegistryError::Meta(MetaError::Unavailable(_) | MetaError::Full(_) | MetaError::Conflict))
                    if begun.elapsed() < PATIENCE =>
                {
                    sleep(LOOK).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Step 1 of a push (`../meta/blobs.rs`): the row of the blob, and whether the store has its bytes.
    async fn arrives(&self, row: &UploadRow, digest: &Digest, length: u64) -> Result<(i64, bool), RegistryError> {
        let begun = Instant::now();
        loop {
            let change = self.meta.change().await?;
            self.writable(&change, row.repository_id).await?;
            let found = match change.blob_arrives(row.repository_id, digest, length, self.held_until()).await? {
                Arrival::Known(id) => (id, true),
                Arrival::New(id) => (id, false),
                Arrival::Leaving if begun.elapsed() > LEAVING => return Err(MetaError::Gone.into()),
                Arrival::Leaving => {
                    drop(change);
                    sleep(LOOK).await;
                    continue;
                }
            };
            change.commit().await?;
            return Ok(found);
        }
    }

    /// Step 3 of a push.
    async fn arrived(
        &self,
        row: &UploadRow,
        id: &UploadId,
        blob: i64,
        digest: &Digest,
        length: u64,
    ) -> Result<(), RegistryError> {
        let change = self.meta.change().await?;
        let arrived = change.blob_arrived(blob, length).await?;
        change.delete_upload(id, row.writer.as_deref().unwrap_or_default()).await?;
        change.commit().await?;
        if arrived { Ok(()) } else { self.mend(row, digest, length).await }
    }

    /// Says that a writer is still there. `false`: it is not the one any more.
    pub(super) async fn sign(&self, id: &UploadId, writer: &str) -> bool {
        let sign = async {
            let change = self.meta.change().await?;
            let ours = change.keep_upload(id, writer, claimed_until()).await?;
            change.commit().await?;
            Ok::<bool, MetaError>(ours)
        };
        sign.await.unwrap_or_else(|error| {
            tracing::debug!(upload = id.as_str(), %error, "no sign of life");
            true
        })
    }

    /// A blob whose row left while its bytes were written, which may have been taken away or not.
    async fn mend(&self, row: &UploadRow, digest: &Digest, length: u64) -> Result<(), RegistryError> {
        let (blob, _) = self.arrives(row, digest, length).await?;
        if self.store.stat(digest).await? != Some(length) {
            return Err(MetaError::Gone.into());
        }
        let change = self.meta.change().await?;
        let arrived = change.blob_arrived(blob, length).await?;
        change.commit().await?;
        if arrived { Ok(()) } else { Err(MetaError::Gone.into()) }
    }

    /// Forgets an upload.
    pub(crate) async fn cancel_upload(self: &Arc<Self>, repository: &str, id: &UploadId) -> Result<(), RegistryError> {
        let writer = Writer::claim(self, repository, id, Purpose::Cancel).await?;
        writer.discard().await;
        Ok(())
    }

    /// Lets a repository hold a blob of another. Whether that holds it.
    pub(crate) async fn mount(&self, from: &str, repository: i64, digest: &Digest) -> Result<bool, RegistryError> {
        let change = self.meta.change().await?;
        self.writable(&change, repository).await?;
        let held = change.mount(from, repository, digest, self.held_until()).await?;
        change.commit().await?;
        Ok(held.is_some())
    }

    /// Lets the next request write an upload.
    pub(super) async fn release(&self, row: &UploadRow) {
        let (Ok(id), Some(writer)) = (writer_id(row), &row.writer) else { return };
        let release = async {
            let change = self.meta.change().await?;
            change.let_go_of_upload(&id, writer).await?;
            change.commit().await
        };
        if let Err(error) = release.await {
            // It lets go by itself, a little later.
            tracing::debug!(upload = id.as_str(), %error, "an upload stays taken");
        }
    }

    /// Makes a claim, once.
    pub(super) async fn claim(
        &self,
        repository: &str,
        id: &UploadId,
        writer: &str,
        purpose: Purpose,
    ) -> Result<Claim, RegistryError> {
        let change = self.meta.change().await?;
        let claim = change.claim_upload(repository, id, writer, claimed_until()).await?;
        if let (Claim::Ours(row), Purpose::Push) = (&claim, purpose) {
            self.writable(&change, row.repository_id).await?;
        }
        change.commit().await?;
        Ok(claim)
    }
}

/// What the store knows of an upload.
pub(crate) fn checkpoint(row: &UploadRow) -> Option<Checkpoint> {
    let state = row.checkpoint.clone()?;
    Some(Checkpoint { length: u64::try_from(row.length).unwrap_or_default(), state })
}

fn writer_id(row: &UploadRow) -> Result<UploadId, RegistryError> {
    UploadId::parse(&row.id).ok_or(RegistryError::UploadUnknown)
}

/// Runs to its end, whether anybody waits for it or not.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, RegistryError>> + Send + 'static,
) -> Result<T, RegistryError> {
    tokio::spawn(work).await.unwrap_or(Err(RegistryError::Interrupted))
}

//! An upload to S3: parts are sent while the next one comes in.
//!
//! Invariants: a part that is full and one that fills are all that an upload has in memory. A blob's key is written by one request
//! of the store's, from bytes that are whole: the upload's own when they fit into a part, else a copy of the object that was
//! assembled of its parts. So a crash leaves nothing half under it. Before the assembly an upload can go on at its checkpoint;
//! after it, the same commit can be made again from the checkpoint, and anything else finds it lost.
//!
//! What a checkpoint covers beyond full parts lies in an object of its own, the tail, and that of the checkpoint before stays
//! beside it: nobody knows yet which of both will have been kept.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream;
use bytes::{Bytes, BytesMut};
use tokio::task::JoinSet;

use super::bucket::Bucket;
use super::fault::Failure;
use super::state::State;
use crate::oci::{Digest, Hasher};
use crate::store::{Checkpoint, Proof, StoreError, Upload, UploadId};

/// An upload that is being written.
pub(super) struct S3Upload {
    bucket: Arc<Bucket>,
    /// The object that its parts become.
    key: String,
    length: u64,
    /// What is in the store.
    state: State,
    /// Its length at its last checkpoint.
    checkpointed: Option<u64>,
    /// The part that comes in.
    buffer: BytesMut,
    /// How much of that lies in the tail, and was not fetched yet: nothing or all of it.
    unfetched: u64,
    /// The part that is being sent: dropping this ends it.
    sending: JoinSet<Result<String, Failure>>,
    /// Whether something went wrong, or was left in its middle.
    failed: bool,
}

impl S3Upload {
    pub(super) fn begin(bucket: &Arc<Bucket>, id: &UploadId) -> S3Upload {
        let state = State { part: bucket.settings.part(), ..State::default() };
        S3Upload {
            bucket: Arc::clone(bucket),
            key: bucket.upload_key(id),
            length: 0,
            state,
            checkpointed: None,
            buffer: BytesMut::new(),
            unfetched: 0,
            sending: JoinSet::new(),
            failed: false,
        }
    }

    pub(super) fn resume(bucket: &Arc<Bucket>, id: &UploadId, checkpoint: &Checkpoint) -> Result<S3Upload, StoreError> {
        let state = State::of(checkpoint)?;
        let (length, unfetched) = (checkpoint.length, checkpoint.length - state.parts());
        Ok(S3Upload { length, state, checkpointed: Some(length), unfetched, ..S3Upload::begin(bucket, id) })
    }

    /// Does something that must not be left in its middle: the upload is no good until it has ended well.
    fn enter(&mut self) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Unavailable("a write to this upload has failed".to_owned()));
        }
        self.failed = true;
        Ok(())
    }

    fn leave<T>(&mut self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        self.failed = done.is_err();
        done
    }

    async fn take(&mut self, mut bytes: Bytes) -> Result<(), StoreError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.fetch_tail().await?;
        while !bytes.is_empty() {
            // A full part waits for more bytes: it may be all there is.
            if self.buffer.len() as u64 == self.part_coming_in() {
                self.send().await?;
            }
            let room = usize::try_from(self.part_coming_in()).unwrap_or(usize::MAX) - self.buffer.len();
            let piece = bytes.split_to(room.min(bytes.len()));
            self.buffer.extend_from_slice(&piece);
            self.length += piece.len() as u64;
        }
        Ok(())
    }

    /// How large the part is to be that comes in.
    fn part_coming_in(&self) -> u64 {
        super::state::part_size(self.state.part, self.state.tags.len() + self.sending.len() + 1)
    }

    /// Has the tail in memory, so that bytes can be added to it.
    async fn fetch_tail(&mut self) -> Result<(), StoreError> {
        let length = self.unfetched;
        if let (Some(tail), 1..) = (&self.state.tail, length) {
            let mut body = self.bucket.get(tail, 0..length).await.map_err(Failure::lost)?;
            let mut buffer = BytesMut::with_capacity(usize::try_from(length).unwrap_or_default());
            while let Some(piece) = next(&mut body).await? {
                buffer.extend_from_slice(&piece);
            }
            if buffer.len() as u64 != length {
                return Err(StoreError::Broken("an object ended early".to_owned()));
            }
            (self.buffer, self.unfetched) = (buffer, 0);
        }
        Ok(())
    }

    /// Starts to send what came in as the next part, once the part before it is sent.
    async fn send(&mut self) -> Result<(), StoreError> {
        self.sent().await?;
        let upload = match &self.state.upload {
            Some(upload) => upload.clone(),
            None => self.state.upload.insert(self.bucket.begin(&self.key).await?).clone(),
        };
        let capacity = self.buffer.len();
        let bytes = std::mem::take(&mut self.buffer).freeze();
        let (bucket, key, number) = (Arc::clone(&self.bucket), self.key.clone(), self.state.tags.len() + 1);
        self.sending.spawn(async move { bucket.send(&key, &upload, number, bytes).await });
        self.buffer.reserve(capacity);
        Ok(())
    }

    /// Waits until no part is being sent.
    async fn sent(&mut self) -> Result<(), StoreError> {
        while let Some(done) = self.sending.join_next().await {
            let died = |error| StoreError::Broken(format!("work of the store has died: {error}"));
            self.state.tags.push(done.map_err(died)?.map_err(Failure::lost)?);
        }
        Ok(())
    }

    /// Has all of it in the store.
    async fn save(&mut self) -> Result<Checkpoint, StoreError> {
        if self.checkpointed == Some(self.length) {
            return self.state.checkpoint(self.length);
        }
        // A full part needs no tail.
        if self.buffer.len() as u64 == self.part_coming_in() {
            self.send().await?;
        }
        self.sent().await?;
        let kept = self.state.tail.take();
        if let Some(older) = std::mem::replace(&mut self.state.before, kept) {
            self.bucket.forget(&older).await;
        }
        if !self.buffer.is_empty() {
            let tail = format!("{}.{}", self.key, UploadId::random().as_str());
            let bytes = std::mem::take(&mut self.buffer).freeze();
            self.bucket.put(&tail, bytes.clone()).await?;
            self.buffer = bytes.try_into_mut().unwrap_or_else(|bytes| BytesMut::from(&bytes[..]));
            self.state.tail = Some(tail);
        }
        self.checkpointed = Some(self.length);
        self.state.checkpoint(self.length)
    }

    /// Makes it a blob.
    async fn finish(&mut self, digest: &Digest, proof: Proof) -> Result<(), StoreError> {
        let blob = self.bucket.blob_key(digest);
        let whole = if self.state.upload.is_some() {
            self.assemble().await?;
            Some(self.key.clone())
        } else if self.unfetched > 0 {
            self.state.tail.clone()
        } else {
            None
        };
        match &whole {
            Some(object) => {
                if proof == Proof::ReadBack {
                    self.read_back(object, digest).await?;
                }
                self.bucket.copy_whole(object, &blob, self.length).await?;
            }
            None => {
                let bytes = std::mem::take(&mut self.buffer).freeze();
                if proof == Proof::ReadBack && Digest::of(digest.algorithm(), &bytes) != *digest {
                    return Err(StoreError::Mismatch);
                }
                self.bucket.put(&blob, bytes).await?;
            }
        }
        let assembled = whole.filter(|object| *object == self.key);
        let left = [assembled, self.state.tail.take(), self.state.before.take()].into_iter().flatten();
        let bucket = &*self.bucket;
        futures_util::future::join_all(left.map(|object| async move { bucket.forget(&object).await })).await;
        Ok(())
    }

    /// Makes one object of its parts and what comes after them.
    async fn assemble(&mut self) -> Result<(), StoreError> {
        self.sent().await?;
        let Some(upload) = self.state.upload.clone() else { return Err(StoreError::Lost) };
        let number = self.state.tags.len() + 1;
        let mut tags = self.state.tags.clone();
        let rest = match (&self.state.tail, self.unfetched) {
            (Some(tail), length @ 1..) => Some(self.bucket.take(&self.key, &upload, number, tail, None, length).await),
            _ if self.buffer.is_empty() => None,
            _ => {
                let bytes = std::mem::take(&mut self.buffer).freeze();
                Some(self.bucket.send(&self.key, &upload, number, bytes).await)
            }
        };
        match rest {
            None => {}
            Some(Ok(tag)) => tags.push(tag),
            // An earlier commit from the same checkpoint may have come this far: then the object has these very bytes.
            Some(Err(Failure::NoUpload | Failure::NoKey)) if self.checkpointed == Some(self.length) => {
                let there = self.bucket.size(&self.key).await?;
                return if there == Some(self.length) { Ok(()) } else { Err(StoreError::Lost) };
            }
            Some(Err(failure)) => return Err(failure.lost()),
        }
        self.bucket.assemble(&self.key, &upload, &tags, self.length).await.map_err(Failure::lost)
    }

    async fn read_back(&self, object: &str, digest: &Digest) -> Result<(), StoreError> {
        let mut body = self.bucket.get(object, 0..self.length).await.map_err(Failure::lost)?;
        let mut hasher = Hasher::new(digest.algorithm());
        while let Some(piece) = next(&mut body).await? {
            hasher.update(&piece);
        }
        if hasher.finish() == *digest { Ok(()) } else { Err(StoreError::Mismatch) }
    }
}

#[async_trait]
impl Upload for S3Upload {
    fn length(&self) -> u64 {
        self.length
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.enter()?;
        let done = self.take(bytes).await;
        self.leave(done)
    }

    async fn checkpoint(&mut self) -> Result<Checkpoint, StoreError> {
        self.enter()?;
        let done = self.save().await;
        self.leave(done)
    }

    fn commits_at_once(&self) -> bool {
        self.state.upload.is_none()
    }

    async fn commit(mut self: Box<Self>, digest: &Digest, proof: Proof) -> Result<(), StoreError> {
        self.enter()?;
        self.finish(digest, proof).await
    }
}

async fn next(body: &mut ByteStream) -> Result<Option<Bytes>, StoreError> {
    let piece = body.try_next().await;
    piece.map_err(|error| StoreError::Unavailable(format!("an object broke off: {error}")))
}

//! A store that does not answer a deletion or a write before it is allowed to.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use pierhead_registry::oci::Digest;
use pierhead_registry::store::{BlobStore, Checkpoint, Content, Proof, StoreError, Upload, UploadId};
use tokio::sync::Semaphore;
use url::Url;

/// The store, in front of another.
pub(crate) struct SlowStore {
    store: Arc<dyn BlobStore>,
    /// How many deletions were asked for.
    pub(crate) asked: AtomicUsize,
    /// How many deletions are allowed.
    pub(crate) deletions: Semaphore,
    /// How many writes.
    pub(crate) writes: Arc<Semaphore>,
}

struct SlowUpload {
    upload: Box<dyn Upload>,
    writes: Arc<Semaphore>,
}

impl SlowStore {
    /// One that allows nothing.
    pub(crate) fn new(store: Arc<dyn BlobStore>) -> SlowStore {
        SlowStore {
            store,
            asked: AtomicUsize::new(0),
            deletions: Semaphore::new(0),
            writes: Arc::new(Semaphore::new(0)),
        }
    }

    fn slow(&self, upload: Box<dyn Upload>) -> Box<dyn Upload> {
        Box::new(SlowUpload { upload, writes: Arc::clone(&self.writes) })
    }
}

#[async_trait]
impl BlobStore for SlowStore {
    async fn delete(&self, digest: &Digest) -> Result<(), StoreError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.deletions.acquire().await.unwrap().forget();
        self.store.delete(digest).await
    }

    async fn begin(&self, id: &UploadId) -> Result<Box<dyn Upload>, StoreError> {
        Ok(self.slow(self.store.begin(id).await?))
    }

    async fn resume(&self, id: &UploadId, checkpoint: &Checkpoint) -> Result<Box<dyn Upload>, StoreError> {
        Ok(self.slow(self.store.resume(id, checkpoint).await?))
    }

    async fn stat(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        self.store.stat(digest).await
    }

    async fn open(&self, digest: &Digest, range: Range<u64>) -> Result<Option<Content>, StoreError> {
        self.store.open(digest, range).await
    }

    async fn presign(&self, digest: &Digest, lifetime: Duration) -> Result<Option<Url>, StoreError> {
        self.store.presign(digest, lifetime).await
    }

    async fn discard(&self, id: &UploadId, checkpoint: Option<&Checkpoint>) -> Result<(), StoreError> {
        self.store.discard(id, checkpoint).await
    }

    async fn sweep(&self, untouched_since: SystemTime) -> Result<u64, StoreError> {
        self.store.sweep(untouched_since).await
    }

    async fn verify(&self) -> Result<(), StoreError> {
        self.store.verify().await
    }

    fn stride(&self) -> u64 {
        self.store.stride()
    }
}

#[async_trait]
impl Upload for SlowUpload {
    fn length(&self) -> u64 {
        self.upload.length()
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.writes.acquire().await.unwrap().forget();
        self.upload.write(bytes).await
    }

    async fn checkpoint(&mut self) -> Result<Checkpoint, StoreError> {
        self.upload.checkpoint().await
    }

    fn commits_at_once(&self) -> bool {
        self.upload.commits_at_once()
    }

    async fn commit(self: Box<Self>, digest: &Digest, proof: Proof) -> Result<(), StoreError> {
        self.upload.commit(digest, proof).await
    }
}

//! Blobs as objects of a bucket, of AWS's or of any store that speaks its language.
//!
//! ```text
//! <prefix>/sha256/ab/<hex>                   a blob
//! <prefix>/uploads/pierhead/<id>             an upload of more than one part: while it is under way, and between its assembly and its copy
//! <prefix>/uploads/pierhead/<id>.<tail>      what an upload has beyond its full parts, at a checkpoint
//! <prefix>/uploads/pierhead/<id>.<any>.copy  which copy of it to a blob's key is under way in parts
//! <prefix>/_verify                           what health checks write
//! ```
//!
//! Invariant: a blob's key is written by one request that succeeds or has no effect, and only with bytes that are whole. What a
//! crash leaves lies below `uploads/pierhead/`, or is a copy that was never completed and is named there; `sweep` finds both, and
//! nothing of Quay's, which has uploads of its own in the same bucket.
//!
//! Writing needs `s3:PutObject`, `GetObject`, `DeleteObject`, `AbortMultipartUpload`, `ListMultipartUploadParts`, and of the
//! bucket `ListBucket` and `ListBucketMultipartUploads`: without the former a store does not say that an object is missing, but
//! that it may not be looked at.

mod bucket;
mod fault;
mod multipart;
mod settings;
mod state;
mod sweep;
mod upload;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use url::Url;

use super::{BlobStore, Checkpoint, Content, StoreError, Upload, UploadId};
use crate::oci::Digest;
use bucket::Bucket;
use fault::Failure;
use state::State;
use upload::S3Upload;

pub use settings::S3Settings;

/// What Quay's health check writes, too.
const VERIFY: &[u8] = b"testing 123";
/// How many parts should lie between two checkpoints.
const STRIDE: u64 = 4;

/// Blobs in a bucket.
pub struct S3 {
    bucket: Arc<Bucket>,
}

impl S3 {
    /// A bucket, which is not asked for anything yet.
    pub async fn open(settings: S3Settings) -> Result<S3, StoreError> {
        Ok(S3 { bucket: Arc::new(Bucket::open(settings).await?) })
    }
}

#[async_trait]
impl BlobStore for S3 {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        self.bucket.size(&self.bucket.blob_key(digest)).await
    }

    async fn open(&self, digest: &Digest, range: Range<u64>) -> Result<Option<Content>, StoreError> {
        let key = self.bucket.blob_key(digest);
        // There is no range without a byte.
        if range.is_empty() {
            let there = self.bucket.size(&key).await?;
            return Ok(there.map(|_| Content::Stream(stream::empty().boxed())));
        }
        match self.bucket.get(&key, range).await {
            Ok(body) => Ok(Some(Content::Stream(bucket::stream(body)))),
            Err(Failure::NoKey | Failure::NoUpload) => Ok(None),
            Err(Failure::Fault(error)) => Err(error),
        }
    }

    async fn presign(&self, digest: &Digest, lifetime: Duration) -> Result<Option<Url>, StoreError> {
        self.bucket.presign(&self.bucket.blob_key(digest), lifetime).await.map(Some)
    }

    async fn delete(&self, digest: &Digest) -> Result<(), StoreError> {
        self.bucket.delete(&self.bucket.blob_key(digest)).await
    }

    async fn begin(&self, id: &UploadId) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(S3Upload::begin(&self.bucket, id)))
    }

    async fn resume(&self, id: &UploadId, checkpoint: &Checkpoint) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(S3Upload::resume(&self.bucket, id, checkpoint)?))
    }

    async fn discard(&self, id: &UploadId, checkpoint: Option<&Checkpoint>) -> Result<(), StoreError> {
        let key = self.bucket.upload_key(id);
        if let Some(upload) =
            checkpoint.and_then(|checkpoint| State::of(checkpoint).ok()).and_then(|state| state.upload)
        {
            self.bucket.abort(&key, &upload).await?;
        }
        self.bucket.forget_all(&key).await
    }

    async fn sweep(&self, untouched_since: SystemTime) -> Result<u64, StoreError> {
        self.bucket.sweep(untouched_since).await
    }

    async fn verify(&self) -> Result<(), StoreError> {
        let key = self.bucket.key("_verify");
        self.bucket.put(&key, Bytes::from_static(VERIFY)).await?;
        match self.bucket.size(&key).await? {
            Some(_) => Ok(()),
            None => Err(StoreError::Broken(format!("{key} was written and is not there"))),
        }
    }

    fn stride(&self) -> u64 {
        self.bucket.settings.part() * STRIDE
    }
}

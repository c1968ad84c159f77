//! Where the origin keeps blobs: one object a digest, laid out as Quay lays it out, so that both can read one bucket.
//!
//! ```text
//! <prefix>/sha256/ab/<hex>         a blob; `ab` are the first two characters of its hexadecimal hash
//! <prefix>/uploads/pierhead/<id>…  what is being pushed; Quay's own uploads lie beside the folder, and are left alone
//! <prefix>/_verify                 what health checks write
//! ```
//!
//! A store knows nothing of repositories and rights. What it commits is whole: a blob that can be opened has all its bytes,
//! also after a crash in the middle of anything. Who asks for a commit has hashed the bytes, or says so and has the store do it.
//!
//! An upload outlives its process: a [`Checkpoint`] holds all that is needed to go on elsewhere. Its writer owns it alone; that
//! no two write one upload at a time is for those who hand it out to see to.

mod error;
mod file_system;
mod s3;

use std::ops::Range;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use url::Url;

use crate::oci::Digest;

pub use error::StoreError;
pub use file_system::FileSystem;
pub use s3::{S3, S3Settings};

/// The bytes of a blob, or a part of them.
pub enum Content {
    /// In a file, from and to these offsets: what is sent from it need not pass through this program.
    File(std::fs::File, Range<u64>),
    /// As they come.
    Stream(BoxStream<'static, Result<Bytes, StoreError>>),
}

/// The name of an upload within its store: a UUID, as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UploadId(String);

/// Up to where an upload is safe, and what its driver must know to go on from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// How many bytes.
    pub length: u64,
    /// The driver's own, as JSON.
    pub state: String,
}

/// Whether the bytes of an upload are known to have the digest that they are committed under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Whoever wrote them hashed them.
    Hashed,
    /// Nobody did: the store reads them back before they become a blob.
    ReadBack,
}

/// A place for blobs.
#[async_trait]
pub trait BlobStore: Send + Sync + 'static {
    /// The size of a blob; `None` when it is not there.
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>, StoreError>;

    /// The bytes of a blob within a range that lies inside it; `None` when it is not there.
    async fn open(&self, digest: &Digest, range: Range<u64>) -> Result<Option<Content>, StoreError>;

    /// A URL by which whoever knows it may GET the blob for so long; `None` when the store has no such thing.
    async fn presign(&self, digest: &Digest, lifetime: Duration) -> Result<Option<Url>, StoreError>;

    /// Takes a blob away. That it is not there is no error.
    async fn delete(&self, digest: &Digest) -> Result<(), StoreError>;

    /// A new upload.
    async fn begin(&self, id: &UploadId) -> Result<Box<dyn Upload>, StoreError>;

    /// An upload, from its last checkpoint on. What was written past it is gone. That it is [`StoreError::Lost`] is said here, or
    /// where it is noticed: by the first thing that is done with it.
    async fn resume(&self, id: &UploadId, checkpoint: &Checkpoint) -> Result<Box<dyn Upload>, StoreError>;

    /// Forgets an upload and all that it stored. That there is nothing is no error.
    async fn discard(&self, id: &UploadId, checkpoint: Option<&Checkpoint>) -> Result<(), StoreError>;

    /// Takes away what uploads left that nobody has touched since: what `discard` was never called for. How many there were.
    async fn sweep(&self, untouched_since: SystemTime) -> Result<u64, StoreError>;

    /// Writes a small object and sees that it is there, as Quay's health check does.
    async fn verify(&self) -> Result<(), StoreError>;

    /// How many bytes should lie between two checkpoints of an upload: fewer cost more than they save. Where an upload's length
    /// is a multiple of it, a checkpoint is cheapest.
    fn stride(&self) -> u64;
}

/// An upload that is being written. Dropping it leaves the upload as it was at its last checkpoint.
#[async_trait]
pub trait Upload: Send {
    /// How many bytes it has.
    fn length(&self) -> u64;

    /// Takes the next bytes. After an error, all that is left to do with it is to drop it.
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError>;

    /// Makes all that was written safe from the end of this process.
    async fn checkpoint(&mut self) -> Result<Checkpoint, StoreError>;

    /// Whether a commit is one short step, so that nothing is gained by leaving it out where the blob is there already.
    fn commits_at_once(&self) -> bool;

    /// Makes it the blob of that digest, durably, and forgets the upload. A blob that is there already is replaced by the same bytes.
    /// After an error the upload is as it was at its last checkpoint, or it is lost; the same commit may be tried again after
    /// `resume`, and a blob that came about none the less is whole. Whoever asks for it must not go away in its middle: what was
    /// asked of the store may still happen.
    async fn commit(self: Box<Self>, digest: &Digest, proof: Proof) -> Result<(), StoreError>;
}

impl UploadId {
    /// A new one: random, so that nobody guesses another's.
    pub fn random() -> UploadId {
        let mut bytes: [u8; 16] = rand::random();
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        UploadId(parts.join("-"))
    }

    /// One that somebody names: `None` unless it is a UUID in lower case.
    pub fn parse(text: &str) -> Option<UploadId> {
        let well = text.len() == 36
            && text.bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
            });
        well.then(|| UploadId(text.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upload_ids_are_uuids_and_nothing_else() {
        let id = UploadId::random();
        assert_eq!(UploadId::parse(id.as_str()), Some(id.clone()));
        assert_ne!(UploadId::random(), id);
        let upper = id.as_str().to_uppercase().replace(|c: char| c.is_ascii_digit(), "A");
        for bad in ["", "..", "../../../../../../../../../etc/passwd", &upper, &id.as_str()[1..]] {
            assert_eq!(UploadId::parse(bad), None, "{bad}");
        }
    }
}

//! What uploads leave in a bucket, and which of it nobody has touched for long.
//!
//! Invariants: an upload goes as a whole or not at all: its multipart upload, its tails, its assembled object and the copy of that to
//! a blob's key are touched by whichever of them is the youngest. Only what lies below `uploads/pierhead/` is looked at, and copies
//! that a note there names: others may keep uploads of their own in the bucket, Quay beside ours and at the keys of blobs.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::bucket::{Bucket, Listed, UPLOADS};
use super::fault::Failure;
use super::multipart::Begun;
use crate::store::{StoreError, UploadId};

/// How the keys of notes end.
const COPY: &str = ".copy";
/// More than any note has.
const LONGEST_NOTE: u64 = 64 << 10;

/// A multipart upload to a blob's key, written down before it has its first part. A crash before that leaves one that has nothing.
#[derive(Serialize, Deserialize)]
struct Note {
    key: String,
    upload: String,
}

/// What an upload has in the bucket.
#[derive(Default)]
struct Remains {
    objects: Vec<Listed>,
    parts: Vec<Begun>,
}

impl Bucket {
    /// Takes away what is older; how many uploads that was.
    pub(super) async fn sweep(&self, untouched_since: SystemTime) -> Result<u64, StoreError> {
        let mut swept = 0;
        for remains in self.remains(&self.key(UPLOADS)).await?.into_values() {
            if self.untouched(&remains, untouched_since).await? {
                self.clear(&remains).await?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// Forgets an upload, known by how its keys begin.
    pub(super) async fn forget_all(&self, start: &str) -> Result<(), StoreError> {
        for remains in self.remains(start).await?.into_values() {
            self.clear(&remains).await?;
        }
        Ok(())
    }

    /// Notes that a copy is under way; where.
    pub(super) async fn note_copy(&self, from: &str, to: &str, upload: &str) -> Result<String, StoreError> {
        let note = format!("{from}.{}{COPY}", UploadId::random().as_str());
        let (key, upload) = (to.to_owned(), upload.to_owned());
        let text = serde_json::to_vec(&Note { key, upload }).map_err(|error| StoreError::Broken(error.to_string()))?;
        self.put(&note, Bytes::from(text)).await?;
        Ok(note)
    }

    /// What uploads have whose keys begin so, by upload.
    async fn remains(&self, start: &str) -> Result<BTreeMap<String, Remains>, StoreError> {
        let mut uploads: BTreeMap<String, Remains> = BTreeMap::new();
        for object in self.list(start).await? {
            let Some(name) = self.whose(&object.key) else { continue };
            let remains = uploads.entry(name).or_default();
            if object.key.ends_with(COPY)
                && let Some(note) = self.note(&object.key).await?
            {
                remains.parts.push(Begun { key: note.key, upload: note.upload, begun: object.modified });
            }
            remains.objects.push(object);
        }
        for begun in self.begun(start).await? {
            if let Some(name) = self.whose(&begun.key) {
                uploads.entry(name).or_default().parts.push(begun);
            }
        }
        Ok(uploads)
    }

    /// A note, if it is there and one of ours.
    async fn note(&self, key: &str) -> Result<Option<Note>, StoreError> {
        let Some(length @ 1..LONGEST_NOTE) = self.size(key).await? else { return Ok(None) };
        match self.get(key, 0..length).await {
            Ok(body) => match body.collect().await {
                Ok(text) => Ok(serde_json::from_slice(&text.into_bytes()).ok()),
                Err(error) => Err(StoreError::Unavailable(format!("an object broke off: {error}"))),
            },
            Err(Failure::NoKey | Failure::NoUpload) => Ok(None),
            Err(Failure::Fault(error)) => Err(error),
        }
    }

    /// The upload that a key belongs to; `None` when it is not one of ours.
    fn whose(&self, key: &str) -> Option<String> {
        let name = self.rest(key)?.strip_prefix(UPLOADS)?.get(..36)?;
        UploadId::parse(name).map(|id| id.as_str().to_owned())
    }

    /// Looks at the parts, which takes a request each, only where nothing else is young.
    async fn untouched(&self, remains: &Remains, since: SystemTime) -> Result<bool, StoreError> {
        if youngest(remains).is_some_and(|youngest| youngest >= since) {
            return Ok(false);
        }
        for upload in &remains.parts {
            if self.last_part(upload).await?.is_some_and(|last| last >= since) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What is under way goes first: a note goes when there is nothing left that it names.
    async fn clear(&self, remains: &Remains) -> Result<(), StoreError> {
        for upload in &remains.parts {
            self.abort(&upload.key, &upload.upload).await?;
        }
        for object in &remains.objects {
            self.delete(&object.key).await?;
        }
        Ok(())
    }
}

/// When anything but a part was added last.
fn youngest(remains: &Remains) -> Option<SystemTime> {
    let objects = remains.objects.iter().map(|object| object.modified);
    objects.chain(remains.parts.iter().map(|upload| upload.begun)).max()
}

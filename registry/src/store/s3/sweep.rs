//! What uploads leave in a bucket, and which of it nobody has touched for long.
//!
//! Invariant: an upload goes as a whole or not at all. Its multipart upload, its tails and its assembled object are touched by
//! whichever of them is the youngest. Copies of large blobs that a crash left in their middle are found beside the blobs, which
//! are never looked at.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::bucket::{Bucket, Listed};
use super::multipart::Begun;
use crate::store::{StoreError, UploadId};

/// Where multipart uploads may be under way.
const PLACES: [&str; 3] = ["uploads/", "sha256/", "sha512/"];

/// What an upload has in the bucket.
#[derive(Default)]
struct Remains {
    objects: Vec<Listed>,
    parts: Vec<Begun>,
}

impl Bucket {
    /// Takes away what is older; how many uploads and copies that was.
    pub(super) async fn sweep(&self, untouched_since: SystemTime) -> Result<u64, StoreError> {
        let mut uploads: BTreeMap<String, Remains> = BTreeMap::new();
        for object in self.list(&self.key("uploads/")).await? {
            if let Some(name) = self.whose(&object.key) {
                uploads.entry(name).or_default().objects.push(object);
            }
        }
        for place in PLACES {
            for begun in self.begun(&self.key(place)).await? {
                let name = if place == "uploads/" { self.whose(&begun.key) } else { Some(begun.upload.clone()) };
                if let Some(name) = name {
                    uploads.entry(name).or_default().parts.push(begun);
                }
            }
        }
        let mut swept = 0;
        for remains in uploads.into_values() {
            if self.untouched(&remains, untouched_since).await? {
                self.clear(&remains).await?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// Forgets an upload, known by how its keys begin.
    pub(super) async fn forget_all(&self, start: &str) -> Result<(), StoreError> {
        let remains = Remains { objects: self.list(start).await?, parts: self.begun(start).await? };
        self.clear(&remains).await
    }

    /// The upload that a key belongs to; `None` when it is not one of ours.
    fn whose(&self, key: &str) -> Option<String> {
        let name = self.rest(key)?.strip_prefix("uploads/")?.get(..36)?;
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

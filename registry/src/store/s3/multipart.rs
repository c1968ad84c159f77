//! Multipart uploads: objects that are sent, or copied, in parts, and appear when they are complete.
//!
//! Invariant: what `assemble` and `copy_in_parts` report as done is an object of the length that it must have. An upload that
//! fails is aborted where that is possible, and found by a sweep where not.

use std::time::SystemTime;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::bucket::{Bucket, PAGES, time, without_body};
use super::fault::{Failure, failure};
use crate::store::StoreError;

/// How much of an object is copied at a time where it cannot be in one go, and how many such at once.
const COPY: u64 = 512 << 20;
const COPIES: usize = 8;
/// Most parts of an upload.
pub(super) const MOST_PARTS: u64 = 10_000;

/// A multipart upload as a listing shows it.
pub(super) struct Begun {
    /// The key that it will have.
    pub(super) key: String,
    /// Its identifier.
    pub(super) upload: String,
    /// When it began.
    pub(super) begun: SystemTime,
}

impl Bucket {
    /// Begins an upload to this key.
    pub(super) async fn begin(&self, key: &str) -> Result<String, StoreError> {
        let request = self.client.create_multipart_upload().bucket(self.name()).key(key);
        let request = request.content_type("application/octet-stream").customize().mutate_request(without_body);
        let begun = request.send().await;
        let begun = begun.map_err(|error| failure("begin of an upload", error).odd())?;
        let broken = || StoreError::Broken("begin of an upload: it has no identifier".to_owned());
        begun.upload_id().map(str::to_owned).ok_or_else(broken)
    }

    /// Sends a part; its tag.
    pub(super) async fn send(&self, key: &str, upload: &str, number: usize, bytes: Bytes) -> Result<String, Failure> {
        let time = self.time_to_send(bytes.len() as u64);
        let request = self.client.upload_part().bucket(self.name()).key(key).upload_id(upload);
        let request = request.part_number(part_number(number)?).body(ByteStream::from(bytes)).customize();
        let request = if self.settings.sign_bodies() { request } else { request.disable_payload_signing() };
        let sent = request.config_override(time).send().await.map_err(|error| failure("PUT of a part", error))?;
        tag(sent.e_tag())
    }

    /// Takes a part from another object, all of it or a range; its tag.
    pub(super) async fn take(
        &self,
        key: &str,
        upload: &str,
        number: usize,
        from: &str,
        range: Option<(u64, u64)>,
        length: u64,
    ) -> Result<String, Failure> {
        let request = self.client.upload_part_copy().bucket(self.name()).key(key).upload_id(upload);
        let request = request.part_number(part_number(number)?).copy_source(self.source(from));
        let range = range.map(|(first, last)| format!("bytes={first}-{last}"));
        let request = request.set_copy_source_range(range).customize().config_override(self.time_to_copy(length));
        let taken = request.mutate_request(without_body).send().await;
        let taken = taken.map_err(|error| failure("copy of a part", error))?;
        tag(taken.copy_part_result().and_then(|result| result.e_tag()))
    }

    /// Makes the object of these parts, the tags of which these are.
    pub(super) async fn assemble(&self, key: &str, upload: &str, tags: &[String], length: u64) -> Result<(), Failure> {
        let mut parts = Vec::with_capacity(tags.len());
        for (index, tag) in tags.iter().enumerate() {
            parts.push(CompletedPart::builder().part_number(part_number(index + 1)?).e_tag(tag).build());
        }
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self.client.complete_multipart_upload().bucket(self.name()).key(key).upload_id(upload);
        let request = request.multipart_upload(parts).customize().config_override(self.time_to_copy(length));
        match request.send().await.map_err(|error| failure("end of an upload", error)) {
            Ok(_) => {}
            // An answer that did not come, or not in time, may have been a yes.
            Err(Failure::NoUpload | Failure::NoKey) => {}
            Err(fault) => return Err(fault),
        }
        match self.size(key).await.map_err(Failure::Fault)? {
            Some(size) if size == length => Ok(()),
            Some(_) | None => Err(Failure::NoUpload),
        }
    }

    /// Forgets an upload, which need not be there.
    pub(super) async fn abort(&self, key: &str, upload: &str) -> Result<(), StoreError> {
        let request = self.client.abort_multipart_upload().bucket(self.name()).key(key).upload_id(upload);
        match request.send().await.map_err(|error| failure("abort of an upload", error)) {
            Ok(_) | Err(Failure::NoKey | Failure::NoUpload) => Ok(()),
            Err(Failure::Fault(error)) => Err(error),
        }
    }

    /// Copies an object of any size.
    pub(super) async fn copy_whole(&self, from: &str, to: &str, length: u64) -> Result<(), StoreError> {
        if length <= self.settings.largest_copy {
            self.copy(from, to, length).await.map_err(Failure::lost)?;
        } else {
            let upload = self.begin(to).await?;
            let note = match self.note_copy(from, to, &upload).await {
                Ok(note) => note,
                Err(error) => {
                    // Nobody would find it again.
                    if let Err(left) = self.abort(to, &upload).await {
                        tracing::warn!(error = %left, object = to, "a copy that was begun is left, and nobody knows of it");
                    }
                    return Err(error);
                }
            };
            if let Err(error) = self.copy_in_parts(from, to, &upload, length).await {
                match self.abort(to, &upload).await {
                    Ok(()) => self.forget(&note).await,
                    Err(left) => tracing::debug!(error = %left, "a copy that failed is left to be swept"),
                }
                return Err(error.lost());
            }
            self.forget(&note).await;
        }
        match self.size(to).await? {
            Some(size) if size == length => Ok(()),
            other => Err(StoreError::Broken(format!("copied {length} bytes, and there are {other:?}"))),
        }
    }

    async fn copy_in_parts(&self, from: &str, to: &str, upload: &str, length: u64) -> Result<(), Failure> {
        let step = COPY.min(self.settings.largest_copy).max(length.div_ceil(MOST_PARTS));
        let parts = (0..length.div_ceil(step)).map(|index| (index * step, length.min((index + 1) * step)));
        let copies = parts
            .enumerate()
            .map(|(index, (start, end))| self.take(to, upload, index + 1, from, Some((start, end - 1)), end - start));
        let tags: Vec<String> = stream::iter(copies).buffered(COPIES).try_collect().await?;
        self.assemble(to, upload, &tags, length).await
    }

    /// Uploads under way whose keys begin so: all of them, or as many as fit into a hundred pages.
    pub(super) async fn begun(&self, start: &str) -> Result<Vec<Begun>, StoreError> {
        let mut found = Vec::new();
        let (mut after_key, mut after_upload) = (None, None);
        for _ in 0..PAGES {
            let request = self.client.list_multipart_uploads().bucket(self.name()).prefix(start);
            let request = request.set_key_marker(after_key).set_upload_id_marker(after_upload);
            let page = request.send().await.map_err(|error| failure("list of uploads", error).odd())?;
            for upload in page.uploads() {
                if let (Some(key), Some(id), Some(begun)) = (upload.key(), upload.upload_id(), upload.initiated()) {
                    found.push(Begun { key: key.to_owned(), upload: id.to_owned(), begun: time(begun) });
                }
            }
            after_key = page.next_key_marker().map(str::to_owned);
            after_upload = page.next_upload_id_marker().map(str::to_owned);
            if page.is_truncated() != Some(true) || after_key.is_none() {
                break;
            }
        }
        Ok(found)
    }

    /// When an upload got its last part; `None` when it has none, or is no longer there.
    pub(super) async fn last_part(&self, upload: &Begun) -> Result<Option<SystemTime>, StoreError> {
        let mut last = None;
        let mut after = None;
        for _ in 0..PAGES {
            let request = self.client.list_parts().bucket(self.name()).key(&upload.key).upload_id(&upload.upload);
            let page = match request.set_part_number_marker(after).send().await {
                Ok(page) => page,
                Err(error) => match failure("list of parts", error) {
                    Failure::NoKey | Failure::NoUpload => return Ok(None),
                    Failure::Fault(error) => return Err(error),
                },
            };
            last = page.parts().iter().filter_map(|part| part.last_modified()).map(time).chain(last).max();
            after = page.next_part_number_marker().map(str::to_owned);
            if page.is_truncated() != Some(true) || after.is_none() {
                break;
            }
        }
        Ok(last)
    }
}

fn part_number(number: usize) -> Result<i32, Failure> {
    let within = i32::try_from(number).ok().filter(|_| number as u64 <= MOST_PARTS);
    within.ok_or_else(|| Failure::Fault(StoreError::Refused(format!("an upload has {MOST_PARTS} parts at most"))))
}

fn tag(tag: Option<&str>) -> Result<String, Failure> {
    let tag = tag.ok_or_else(|| Failure::Fault(StoreError::Broken("a part without a tag".to_owned())))?;
    Ok(tag.trim_matches('"').to_owned())
}

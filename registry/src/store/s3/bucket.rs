//! The objects of a bucket: looked at, read, written, copied, deleted, listed.
//!
//! Invariant: every request has a time by which it must be answered, longer where the store has bytes to move, and is made so
//! often at most. An object that is not there is an answer only while the bucket is: a HEAD cannot tell one from the other.

use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpRequest;
use aws_sdk_s3::config::{Builder, Config};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt, try_unfold};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use super::fault::{Failure, failure};
use super::settings::S3Settings;
use crate::oci::Digest;
use crate::store::{StoreError, UploadId};

/// What no copy source needs to have encoded.
const COPY_SOURCE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.');
/// How slowly a client of the store may send to be waited for, in bytes a second.
const SLOWEST_BODY: u64 = 1 << 20;
/// How slowly the store may copy or assemble.
const SLOWEST_COPY: u64 = 10 << 20;
/// How long it is believed that the bucket is there.
const CONFIRMED: Duration = Duration::from_secs(10);
/// Most pages of a listing that are read in one go.
pub(super) const PAGES: usize = 100;
/// Where uploads lie.
pub(super) const UPLOADS: &str = "uploads/pierhead/";
/// The longest that a signature lives.
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A bucket, below a prefix.
pub(super) struct Bucket {
    pub(super) client: Client,
    pub(super) settings: S3Settings,
    /// When it was last seen.
    seen: Mutex<Option<Instant>>,
}

/// An object as a listing shows it.
pub(super) struct Listed {
    /// Its key.
    pub(super) key: String,
    /// When it was written.
    pub(super) modified: SystemTime,
}

impl Bucket {
    pub(super) async fn open(settings: S3Settings) -> Result<Bucket, StoreError> {
        Ok(Bucket { client: settings.client().await?, settings, seen: Mutex::default() })
    }

    pub(super) fn name(&self) -> &str {
        &self.settings.bucket
    }

    /// A key below the prefix.
    pub(super) fn key(&self, rest: &str) -> String {
        match self.settings.prefix.trim_matches('/') {
            "" => rest.to_owned(),
            prefix => format!("{prefix}/{rest}"),
        }
    }

    /// Where a blob lies.
    pub(super) fn blob_key(&self, digest: &Digest) -> String {
        let hex = digest.hex();
        self.key(&format!("{}/{}/{hex}", digest.algorithm().as_str(), &hex[..2]))
    }

    /// Where an upload lies, and how the keys of its tails begin.
    pub(super) fn upload_key(&self, id: &UploadId) -> String {
        self.key(&format!("{UPLOADS}{}", id.as_str()))
    }

    /// A key without the prefix.
    pub(super) fn rest<'a>(&self, key: &'a str) -> Option<&'a str> {
        let start = self.key("");
        key.strip_prefix(&start)
    }

    /// An object as the source of a copy.
    pub(super) fn source(&self, key: &str) -> String {
        utf8_percent_encode(&format!("{}/{key}", self.name()), COPY_SOURCE).to_string()
    }

    /// Time for a request with so large a body.
    pub(super) fn time_to_send(&self, bytes: u64) -> Builder {
        self.time(bytes / SLOWEST_BODY)
    }

    /// Time for a request that has the store move so many bytes.
    pub(super) fn time_to_copy(&self, bytes: u64) -> Builder {
        self.time(bytes / SLOWEST_COPY)
    }

    fn time(&self, more: u64) -> Builder {
        let attempt = self.settings.timeout + Duration::from_secs(more);
        Config::builder().timeout_config(self.settings.timeouts(attempt))
    }

    /// The size of an object; `None` when it is not there.
    pub(super) async fn size(&self, key: &str) -> Result<Option<u64>, StoreError> {
        match self.client.head_object().bucket(self.name()).key(key).send().await {
            Ok(found) => {
                self.saw();
                let size = found.content_length().and_then(|length| u64::try_from(length).ok());
                size.map(Some).ok_or_else(|| StoreError::Broken("HEAD: an object without a length".to_owned()))
            }
            Err(error) => match failure("HEAD of an object", error) {
                Failure::NoKey | Failure::NoUpload => self.confirm().await.map(|()| None),
                Failure::Fault(error) => Err(error),
            },
        }
    }

    /// Makes sure that the bucket is there, unless it was just now.
    async fn confirm(&self) -> Result<(), StoreError> {
        let seen = self.seen.lock().ok().and_then(|seen| *seen);
        if seen.is_some_and(|seen| seen.elapsed() < CONFIRMED) {
            return Ok(());
        }
        match self.client.head_bucket().bucket(self.name()).send().await {
            Ok(_) => {
                self.saw();
                Ok(())
            }
            Err(error) => match failure("HEAD of the bucket", error) {
                Failure::NoKey | Failure::NoUpload => {
                    Err(StoreError::Refused(format!("there is no bucket {}", self.name())))
                }
                Failure::Fault(error) => Err(error),
            },
        }
    }

    fn saw(&self) {
        if let Ok(mut seen) = self.seen.lock() {
            *seen = Some(Instant::now());
        }
    }

    /// Bytes of an object that has them.
    pub(super) async fn get(&self, key: &str, range: Range<u64>) -> Result<ByteStream, Failure> {
        let last = range.end.saturating_sub(1);
        let request =
            self.client.get_object().bucket(self.name()).key(key).range(format!("bytes={}-{last}", range.start));
        let answer = request.send().await.map_err(|error| failure("GET of an object", error))?;
        let length = answer.content_length().and_then(|length| u64::try_from(length).ok());
        if length == Some(range.end - range.start) {
            Ok(answer.body)
        } else {
            let text = format!("GET of an object: asked for {range:?}, got {length:?} bytes");
            Err(Failure::Fault(StoreError::Broken(text)))
        }
    }

    /// Writes an object.
    pub(super) async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        let time = self.time_to_send(bytes.len() as u64);
        let request = self.client.put_object().bucket(self.name()).key(key);
        let request = request.content_type("application/octet-stream").body(ByteStream::from(bytes)).customize();
        let request = if self.settings.sign_bodies() { request } else { request.disable_payload_signing() };
        let done = request.config_override(time).send().await;
        done.map(drop).map_err(|error| failure("PUT of an object", error).odd())
    }

    /// Copies an object in one go.
    pub(super) async fn copy(&self, from: &str, to: &str, length: u64) -> Result<(), Failure> {
        let request = self.client.copy_object().bucket(self.name()).key(to).copy_source(self.source(from));
        let request = request.customize().config_override(self.time_to_copy(length)).mutate_request(without_body);
        request.send().await.map(drop).map_err(|error| failure("copy of an object", error))
    }

    /// Deletes an object, which need not be there.
    pub(super) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        match self.client.delete_object().bucket(self.name()).key(key).send().await {
            Ok(_) => Ok(()),
            Err(error) => match failure("DELETE of an object", error) {
                Failure::NoKey | Failure::NoUpload => Ok(()),
                Failure::Fault(error) => Err(error),
            },
        }
    }

    /// Deletes an object that nobody needs; what stays is swept.
    pub(super) async fn forget(&self, key: &str) {
        if let Err(error) = self.delete(key).await {
            tracing::debug!(%error, key, "an object of an upload is left to be swept");
        }
    }

    /// Objects whose keys begin so: all of them, or as many as fit into a hundred pages.
    pub(super) async fn list(&self, start: &str) -> Result<Vec<Listed>, StoreError> {
        let mut found = Vec::new();
        let mut next = None;
        for _ in 0..PAGES {
            let request = self.client.list_objects_v2().bucket(self.name()).prefix(start);
            let page = request.set_continuation_token(next).send().await;
            let page = page.map_err(|error| failure("list of objects", error).odd())?;
            next = page.next_continuation_token().map(str::to_owned);
            for object in page.contents() {
                if let (Some(key), Some(modified)) = (object.key(), object.last_modified()) {
                    found.push(Listed { key: key.to_owned(), modified: time(modified) });
                }
            }
            if next.is_none() {
                break;
            }
        }
        Ok(found)
    }

    /// A URL by which an object can be read for so long.
    pub(super) async fn presign(&self, key: &str, lifetime: Duration) -> Result<Url, StoreError> {
        let broken = |reason: String| StoreError::Broken(format!("signing a URL: {reason}"));
        let config = PresigningConfig::expires_in(lifetime.min(WEEK)).map_err(|error| broken(error.to_string()))?;
        let request = self.client.get_object().bucket(self.name()).key(key).presigned(config).await;
        let request = request.map_err(|error| failure("signing a URL", error).odd())?;
        Url::parse(request.uri()).map_err(|error| broken(error.to_string()))
    }
}

/// Says so: some stores, Ceph's among them, refuse a PUT that does not tell its length, though it has no body.
pub(super) fn without_body(request: &mut HttpRequest) {
    request.headers_mut().insert("content-length", "0");
}

/// A body as it comes.
pub(super) fn stream(body: ByteStream) -> BoxStream<'static, Result<Bytes, StoreError>> {
    let pieces = try_unfold(body, |mut body| async move {
        match body.try_next().await {
            Ok(piece) => Ok(piece.map(|piece| (piece, body))),
            Err(error) => Err(StoreError::Unavailable(format!("an object broke off: {error}"))),
        }
    });
    pieces.boxed()
}

/// A time of the store's.
pub(super) fn time(time: &DateTime) -> SystemTime {
    SystemTime::try_from(*time).unwrap_or(SystemTime::UNIX_EPOCH)
}

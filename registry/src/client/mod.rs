//! The registry client: challenge, token, fetch, redirect, resume, rate limits.
//!
//! One [`Client`] speaks to one registry, at one or several addresses. [`Client::repository`] narrows it to
//! a repository and a credential; everything is fetched through that.
//!
//! Invariants: a credential goes to its registry's endpoints and pinned realms and nowhere else; a body is
//! delivered as sent, never decoded; nothing here is cached but tokens.

mod error;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::oci::{Digest, Reference, RepositoryName};

pub use error::{BuildError, ClientError};
pub use settings::{Credential, EndpointSettings, Settings};

/// What the client tells whoever watches it. All methods are called from async tasks and must not block.
pub trait Observer: Send + Sync + 'static {
    /// A request was answered, or failed (`status` is `None`), after `elapsed`. Token requests are included.
    fn request(&self, status: Option<u16>, elapsed: Duration);
    /// Body bytes arrived.
    fn received(&self, bytes: u64);
    /// Upstream told how many requests are left in its window (`ratelimit-remaining`).
    fn rate_limit_remaining(&self, left: u64);
}

/// A client of one registry. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<()>,
}

impl Client {
    /// Makes a client. Contacts nobody.
    pub fn new(settings: Settings, observer: Arc<dyn Observer>) -> Result<Client, BuildError> {
        let _ = (settings, observer);
        unimplemented!()
    }

    /// How many endpoints the registry has.
    pub fn endpoints(&self) -> usize {
        let _ = &self.inner;
        unimplemented!()
    }

    /// A repository, as seen with a caller's credential, or with the client's own when `None`.
    pub fn repository(&self, name: &RepositoryName, credential: Option<&Credential>) -> Repository {
        let _ = (name, credential);
        unimplemented!()
    }
}

/// One repository, seen with one credential. Cheap to clone.
#[derive(Clone)]
pub struct Repository {
    inner: Arc<()>,
}

/// What HEAD tells of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestInfo {
    /// Its digest; `None` when upstream did not send a valid `Docker-Content-Digest`.
    pub digest: Option<Digest>,
    /// Its media type, from `Content-Type`.
    pub media_type: String,
    /// Its length, where given.
    pub size: Option<u64>,
}

/// A manifest, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedManifest {
    /// Computed from the bytes; equal to what was asked for, and to upstream's header where that uses the same algorithm.
    pub digest: Digest,
    /// From `Content-Type`, or from the body's `mediaType` when upstream sent none.
    pub media_type: String,
    /// The body.
    pub bytes: Bytes,
}

/// A list that upstream makes: tags or referrers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedList {
    /// `Content-Type`.
    pub media_type: String,
    /// `Link`, for paging, as sent.
    pub link: Option<String>,
    /// `OCI-Filters-Applied`, as sent.
    pub filters_applied: Option<String>,
    /// The body.
    pub bytes: Bytes,
}

/// Which list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListKind {
    /// `tags/list`
    Tags,
    /// `referrers/<digest>`
    Referrers(Digest),
}

impl Repository {
    /// HEAD of a manifest. `accept` are media types as the client sent them, empty for all.
    pub async fn head_manifest(&self, reference: &Reference, accept: &[String]) -> Result<ManifestInfo, ClientError> {
        let _ = (reference, accept, &self.inner);
        unimplemented!()
    }

    /// GET of a manifest; checked against the digest when asked by one.
    pub async fn get_manifest(&self, reference: &Reference, accept: &[String]) -> Result<FetchedManifest, ClientError> {
        let _ = (reference, accept);
        unimplemented!()
    }

    /// HEAD of a blob: its size. Also the question "may this credential read it here?".
    pub async fn head_blob(&self, digest: &Digest) -> Result<u64, ClientError> {
        let _ = digest;
        unimplemented!()
    }

    /// GET of a blob, from `start` to the end, or to `end` (exclusive). `avoid` are endpoints (by index) that sent wrong
    /// bytes for this digest: they are asked last. Waits for one of the registry's connections to be free.
    pub async fn get_blob(
        &self,
        digest: &Digest,
        start: u64,
        end: Option<u64>,
        avoid: &[usize],
    ) -> Result<BlobBody, ClientError> {
        let _ = (digest, start, end, avoid);
        unimplemented!()
    }

    /// GET of a list, with the query as the client sent it (`n=…&last=…`, `artifactType=…`).
    pub async fn get_list(&self, kind: &ListKind, query: Option<&str>) -> Result<FetchedList, ClientError> {
        let _ = (kind, query);
        unimplemented!()
    }
}

/// The body of a blob, or of a part of it. When the connection breaks, [`BlobBody::chunk`] takes it up again where it
/// stopped, at the same endpoint or the next, for as long as `resume_for` allows; the caller sees one body.
/// Dropping it closes the connection and frees the slot.
pub struct BlobBody {
    _private: (),
}

impl BlobBody {
    /// Length of the whole blob.
    pub fn total(&self) -> u64 {
        unimplemented!()
    }

    /// Offset of the first byte. It is 0 when upstream ignored the range that was asked for (a plain 200).
    pub fn start(&self) -> u64 {
        unimplemented!()
    }

    /// Whether upstream serves ranges of this blob (a 206, or `Accept-Ranges: bytes`).
    pub fn ranges(&self) -> bool {
        unimplemented!()
    }

    /// Index of the endpoint that sends it at the moment.
    pub fn endpoint(&self) -> usize {
        unimplemented!()
    }

    /// The next piece; `None` at the end, which is always exactly the end that was asked for.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        unimplemented!()
    }
}

//! The registry client: challenge, token, fetch, redirect, resume, rate limits.
//!
//! One [`Client`] speaks to one registry, at one or several addresses. [`Client::repository`] narrows it to
//! a repository and a credential; everything is fetched through that.
//!
//! Invariants: a credential goes to the address that it belongs to, and that address's pinned realms, and nowhere else;
//! pauses, breakers, challenges and tokens belong to the host, repository and kind of request that they came from; a body
//! is delivered as sent, never decoded; nothing of content is cached here. What an answer proves is in `verdict`, where
//! the client connects in `reach`.

mod base;
mod body;
mod breaker;
mod challenge;
mod class;
mod document;
mod endpoint;
mod error;
mod exact;
mod exchange;
mod failing;
mod failure;
mod heads;
mod issue;
mod login;
mod lookout;
mod loops;
mod manifest;
mod pages;
mod pauses;
mod range;
mod reach;
mod realm;
mod renewal;
mod repository;
mod retry;
mod schemes;
mod send;
mod settings;
mod size;
mod source;
mod target;
mod token;
mod transport;
mod upstream;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::oci::{Digest, RepositoryName};

pub use body::BlobBody;
pub use document::Document;
pub use error::{BuildError, ClientError};
pub use login::AccountRefusal;
pub use loops::{EdgeId, Trail};
pub use reach::RedirectTarget;
pub use repository::Repository;
pub use settings::{Account, AccountSettings, Credential, EndpointSettings, Settings};
pub use source::{BlobHead, BlobProbe};
pub use transport::{SharedTransport, Transport, TransportBody, TransportError};
use upstream::Upstream;

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
    upstream: Arc<Upstream>,
}

impl Client {
    /// Makes a client. Contacts nobody.
    pub fn new(settings: Settings, observer: Arc<dyn Observer>) -> Result<Client, BuildError> {
        Ok(Client { upstream: Arc::new(Upstream::new(settings, observer)?) })
    }

    /// Whether there is an endpoint that would be asked: one that answered when it was last asked.
    pub fn available(&self) -> bool {
        self.upstream.endpoints.iter().any(|endpoint| endpoint.is_available())
    }

    /// The refusal of a configured account, if there is one just now.
    pub fn account_refused(&self) -> Option<AccountRefusal> {
        self.upstream.endpoints.iter().rev().find_map(|endpoint| endpoint.login.refusal())
    }

    /// Forgets all tokens: what they grant may be granted no more.
    pub fn forget_tokens(&self) {
        self.upstream.tokens.clear();
    }

    /// Forgets the tokens for a repository that were issued without an account: the next one tells whether it is still public.
    pub async fn forget_anonymous_tokens(&self, repository: &RepositoryName) {
        self.upstream.tokens.forget_anonymous(repository).await;
    }

    /// A repository, as seen with a caller's credential, or with each address's own account when `None`.
    pub fn repository(&self, name: &RepositoryName, credential: Option<&Credential>) -> Repository {
        Repository::new(Arc::clone(&self.upstream), name.clone(), credential.cloned())
    }
}

/// What HEAD tells of a manifest. A HEAD that names the digest that is known already need not tell more: then the
/// media type may be empty, and the size 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestInfo {
    /// The digest that was asked for, or by tag that of `Docker-Content-Digest`.
    pub digest: Digest,
    /// Its media type, from `Content-Type`.
    pub media_type: String,
    /// Its length, from `Content-Length`.
    pub size: u64,
    /// Whether a mirror said so, an address before the last: that is no word of the registry on anybody's rights.
    pub mirrored: bool,
}

/// What asking for a manifest's header brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadAnswer {
    /// The header, as HEAD told it.
    Head(ManifestInfo),
    /// The manifest: HEAD failed or did not say enough, so a GET decided.
    Manifest(FetchedManifest),
}

impl HeadAnswer {
    /// The manifest's digest.
    pub fn digest(&self) -> Digest {
        match self {
            HeadAnswer::Head(info) => info.digest,
            HeadAnswer::Manifest(manifest) => manifest.digest,
        }
    }

    /// Whether it says that the caller may have what is in the repository.
    pub fn gives_rights(&self) -> bool {
        match self {
            HeadAnswer::Head(info) => !info.mirrored,
            HeadAnswer::Manifest(manifest) => manifest.gives_rights(),
        }
    }

    /// The manifest's media type.
    pub fn media_type(&self) -> &str {
        match self {
            HeadAnswer::Head(info) => &info.media_type,
            HeadAnswer::Manifest(manifest) => &manifest.media_type,
        }
    }

    /// The manifest's length.
    pub fn size(&self) -> u64 {
        match self {
            HeadAnswer::Head(info) => info.size,
            HeadAnswer::Manifest(manifest) => manifest.bytes.len() as u64,
        }
    }
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
    /// Whether a mirror sent it, an address before the last.
    pub mirrored: bool,
    /// Whether it is a manifest for sure: by the digest that was asked for or that its header names, or by its `schemaVersion`.
    pub recognised: bool,
}

impl FetchedManifest {
    /// Whether it says that the caller may have what is in the repository.
    pub fn gives_rights(&self) -> bool {
        !self.mirrored && self.recognised
    }
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

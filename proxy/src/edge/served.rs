//! What a request gets: content of one kind and where it came from, or a refusal.

use std::sync::Arc;

use pierhead_registry::oci::Digest;

use super::flights::FlightError;
use super::outcome::Outcome;
use super::refusal::Refusal;
use crate::cache::{Blob, CachedManifest, ListRecord};
use pierhead_service::health::Report;

/// Content, before it is HTTP.
pub(crate) enum Content {
    /// `/v2/`
    Ping,
    /// `/health/…`
    Health(Report),
    /// A manifest.
    Manifest(Arc<CachedManifest>),
    /// What HEAD needs of a manifest that is not here.
    ManifestHead(ManifestHead),
    /// A blob, opened.
    Blob(Digest, Arc<Blob>),
    /// What HEAD needs of a blob, and a conditional GET of one that the client has.
    BlobHead(Digest, Option<u64>),
    /// A list, and how the client is to ask for its next page.
    List(Arc<ListRecord>, Option<String>),
}

/// What HEAD tells of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ManifestHead {
    /// Of its bytes.
    pub(crate) digest: Digest,
    /// As upstream names it.
    pub(crate) media_type: Arc<str>,
    /// Length.
    pub(crate) size: u64,
}

/// An answer with content.
pub(crate) struct Served {
    /// What.
    pub(crate) content: Content,
    /// From where.
    pub(crate) outcome: Outcome,
}

/// An answer without.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    /// Why.
    pub(crate) refusal: Refusal,
    /// Who said so: a hit when it was remembered, a miss when upstream said so now.
    pub(crate) outcome: Outcome,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        Refused { refusal, outcome: Outcome::None }
    }
}

impl From<FlightError> for Refused {
    fn from(error: FlightError) -> Refused {
        match error {
            FlightError::Full => Refusal::Busy.into(),
            FlightError::Lost => Refusal::Unavailable(None).into(),
        }
    }
}

impl Served {
    /// An answer.
    pub(crate) fn new(content: Content, outcome: Outcome) -> Served {
        Served { content, outcome }
    }
}

impl Refused {
    /// A refusal that upstream uttered.
    pub(crate) fn new(refusal: Refusal, outcome: Outcome) -> Refused {
        Refused { refusal, outcome }
    }
}

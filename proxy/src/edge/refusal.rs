//! Why a request gets no content. Inner parts speak in these words; `respond` alone knows what they are in HTTP.

use std::sync::Arc;
use std::time::Duration;

use pierhead_registry::client::ClientError;
use pierhead_registry::oci::{EndpointError, NameError};

use crate::cache::BlobError;

/// What was looked for, for the error code of its absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thing {
    /// A manifest.
    Manifest,
    /// A blob.
    Blob,
    /// A list of tags.
    Tags,
    /// A list of referrers.
    Referrers,
}

/// Why a request gets no content. The texts are read by clients: they name no upstream address and no credential.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Anything but GET and HEAD.
    #[error("this is a cache: it can be pulled from, and pushed to nowhere")]
    Method,
    /// A push, or what else only the origin can do, where its own name was not used.
    #[error("this can be pulled from here, and not pushed to: {}", push_to(.0.as_deref()))]
    Elsewhere(Option<Arc<str>>),
    /// A request that is none, or none that can be passed on.
    #[error("a request that cannot be passed on")]
    Malformed,
    /// One client, or all for a registry, ask for more than they may.
    #[error("too many requests")]
    TooMany {
        /// How long to wait.
        retry_after: Duration,
    },
    /// It broke off within its body.
    #[error("the body did not come")]
    Slow,
    /// A server took too long.
    #[error("the registry did not answer in time")]
    Silent,
    /// `/v2/_catalog`
    #[error("a cache has no catalogue")]
    Catalog,
    /// A path that is none of ours.
    #[error(transparent)]
    Path(#[from] EndpointError),
    /// A query that is too long or no UTF-8.
    #[error("the query is too long or not UTF-8")]
    Query,
    /// Not a repository name.
    #[error("invalid repository name: {0}")]
    Name(NameError),
    /// A registry that is not configured, or a repository that is not allowed: one text for both.
    #[error("not served here")]
    NotServed,
    /// Log in to this edge first, or again.
    #[error("authentication required")]
    Login,
    /// Too many failed logins.
    #[error("too many failed logins")]
    LoginLimited {
        /// How long to wait.
        retry_after: Duration,
    },
    /// Upstream refuses this caller (`auth: passthrough`).
    #[error("the registry wants a login that may read this repository")]
    CallerRefused,
    /// Upstream refuses this edge.
    #[error("the registry does not let this cache read this repository")]
    EdgeRefused(Thing),
    /// Upstream knows no such thing.
    #[error("unknown to the registry")]
    Unknown(Thing),
    /// Known, and in no form that the client accepts.
    #[error("{0}")]
    NotAcceptable(&'static str),
    /// Not here, and upstream may not be asked.
    #[error("not in the cache, and the registry cannot be asked")]
    Offline(Thing),
    /// Upstream asks to be left alone.
    #[error("the registry limits the rate of requests")]
    RateLimited {
        /// How long to wait.
        retry_after: Duration,
    },
    /// Upstream does not answer.
    #[error("the registry does not answer")]
    Unavailable,
    /// Upstream answers nonsense, or bytes that do not hash to their digest.
    #[error("the registry sent an invalid answer")]
    Invalid,
    /// The disk failed, and so did serving past it.
    #[error("storage failed")]
    Storage,
    /// More is being asked of upstreams at once than is allowed.
    #[error("too many requests are waiting for registries")]
    Busy,
}

fn push_to(host: Option<&str>) -> String {
    host.map_or_else(|| "push to the registry itself".to_owned(), |host| format!("push to {host}"))
}

impl Refusal {
    /// What upstream's failure to give `thing` is to the client. `passthrough`: the caller's credential was used.
    pub(crate) fn upstream(error: &ClientError, thing: Thing, passthrough: bool) -> Refusal {
        match error {
            ClientError::NotFound { .. } | ClientError::Unconfirmed { .. } => Refusal::Unknown(thing),
            ClientError::Unauthorized { .. } | ClientError::Forbidden { .. } if passthrough => Refusal::CallerRefused,
            ClientError::Unauthorized { .. } | ClientError::Forbidden { .. } => Refusal::EdgeRefused(thing),
            ClientError::RateLimited { retry_after, .. } => Refusal::RateLimited { retry_after: *retry_after },
            ClientError::Unavailable { .. } | ClientError::AccountRefused { .. } => Refusal::Unavailable,
            ClientError::Invalid { .. } | ClientError::Rejected { .. } => Refusal::Invalid,
        }
    }

    /// The same for a blob.
    pub(crate) fn blob(error: &BlobError, passthrough: bool) -> Refusal {
        match error {
            BlobError::Upstream(error) => Refusal::upstream(error, Thing::Blob, passthrough),
            BlobError::Mismatch { .. } => Refusal::Invalid,
            BlobError::Storage { .. } => Refusal::Storage,
            BlobError::Offline { .. } => Refusal::Offline(Thing::Blob),
        }
    }
}

impl Refusal {
    /// Whether the origin would have more to say to the caller: why it is refused, and how it may be let in; or what this
    /// edge could not read or store.
    pub(crate) fn is_better_from_the_origin(&self) -> bool {
        matches!(
            self,
            Refusal::CallerRefused
                | Refusal::EdgeRefused(_)
                | Refusal::NotAcceptable(_)
                | Refusal::Unknown(Thing::Manifest | Thing::Tags | Thing::Referrers)
                | Refusal::Invalid
                | Refusal::Storage
        )
    }

    /// Whether nobody said no: upstream failed to answer.
    pub(crate) fn is_failure(&self) -> bool {
        matches!(
            self,
            Refusal::RateLimited { .. } | Refusal::Unavailable | Refusal::Invalid | Refusal::Storage | Refusal::Busy
        )
    }
}

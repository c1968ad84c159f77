//! Why a request gets no content. Inner parts speak in these words; `respond` alone knows what they are in HTTP.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pierhead_registry::client::ClientError;
use pierhead_registry::oci::{EndpointError, NameError};

use crate::cache::BlobError;

/// What was looked for, for the error code of its absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

impl Thing {
    /// The word, for the log.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Thing::Manifest => "manifest",
            Thing::Blob => "blob",
            Thing::Tags => "tags",
            Thing::Referrers => "referrers",
        }
    }
}

/// What a registry failed at, for the client: the registry's name and the reason. Neither holds a credential or the query of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    /// By its configured name.
    pub(crate) registry: String,
    /// What happened, and at which host.
    pub(crate) reason: String,
}

impl Failed {
    /// For a request that is forwarded to a pool.
    pub(crate) fn of_pool(pool: &str, reason: &str) -> Box<Failed> {
        Box::new(Failed { registry: format!("the pool {pool}"), reason: reason.to_owned() })
    }

    /// From what the client of a registry says.
    fn of(error: &ClientError) -> Box<Failed> {
        let at = |host: &str, reason: &str| match host.is_empty() {
            true => reason.to_owned(),
            false => format!("{host}: {reason}"),
        };
        let reason = match error {
            ClientError::Unavailable { host, reason, .. } | ClientError::Invalid { host, reason, .. } => {
                at(host, reason)
            }
            ClientError::AccountRefused { host, status, .. } => {
                at(host, &format!("refuses the account of this cache with status {status}"))
            }
            ClientError::Rejected { status, .. } => format!("status {status}"),
            error => error.to_string(),
        };
        Box::new(Failed { registry: error.registry().to_owned(), reason })
    }
}

/// What a failed registry is called, with the reason where there is one.
fn failed(what: &str, failed: Option<&Failed>) -> String {
    match failed {
        Some(Failed { registry, reason }) => format!("{registry} {what}: {reason}"),
        None => format!("the registry {what}"),
    }
}

/// Why a request gets no content. The texts are read by clients: they hold no credential.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Anything but GET and HEAD.
    #[error("this is a cache: it can be pulled from, and not pushed to")]
    Method,
    /// A push, or what else only the origin can do, where its own name was not used.
    #[error("this can be pulled from here, and not pushed to: {}", push_to(.0.as_deref()))]
    Elsewhere(Option<Arc<str>>),
    /// A deletion, where the registry's own name was not used. The host where it can be, if the edge knows one.
    #[error("nothing can be deleted here: {}", delete_at(.0.as_deref()))]
    DeleteElsewhere(Option<Arc<str>>),
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
    /// A caller shows another account's password than the one that its registry let in, and the registry cannot be asked.
    #[error("the password is not the one that the registry accepted last, and the registry cannot be asked now")]
    WrongPassword,
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
    /// Upstream says that the request itself is wrong. Its answer is the client's, unchanged.
    #[error("{registry} rejects the request with status {status}")]
    Rejected {
        /// By its configured name.
        registry: String,
        /// As upstream sent it.
        status: u16,
        /// As upstream sent it.
        content_type: Option<String>,
        /// As upstream sent it.
        body: Bytes,
    },
    /// Upstream has no referrers API, as far as its answers show.
    #[error("{}", failed("has no list of referrers", Some(.0)))]
    NoReferrers(Box<Failed>),
    /// Upstream asks to be left alone.
    #[error("{registry} limits the rate of requests")]
    RateLimited {
        /// By its configured name.
        registry: String,
        /// How long to wait.
        retry_after: Duration,
    },
    /// Upstream does not answer.
    #[error("{}", failed("cannot be reached or fails", .0.as_deref()))]
    Unavailable(Option<Box<Failed>>),
    /// Upstream redirects to a server that refuses what the redirect is good for, also after a new one. No other try makes it better,
    /// and it says nothing of what the caller may have.
    #[error("{}", failed("redirects to a server that refuses it", Some(.0)))]
    TargetRefused(Box<Failed>),
    /// Upstream answers nonsense, or bytes that do not hash to their digest.
    #[error("{}", failed("sent an invalid answer", .0.as_deref()))]
    Invalid(Option<Box<Failed>>),
    /// A server of a pool broke off before its answer was here.
    #[error("{}: {}", .0.registry, .0.reason)]
    Broken(Box<Failed>),
    /// The request came from this edge, or upstream says that it came back to an edge that asks for it.
    #[error("{}", failed("leads back to an edge that asks it", .0.as_deref()))]
    Loop(Option<Box<Failed>>),
    /// The disk failed, and so did serving past it.
    #[error("storage failed")]
    Storage,
    /// More is being asked of upstreams at once than is allowed.
    #[error("too many requests are waiting for registries")]
    Busy,
}

fn delete_at(host: Option<&str>) -> String {
    host.map_or_else(|| "delete at the registry itself".to_owned(), |host| format!("delete at {host}"))
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
            ClientError::Rejected { registry, status, content_type, body } => Refusal::Rejected {
                registry: registry.clone(),
                status: *status,
                content_type: content_type.clone(),
                body: body.clone(),
            },
            ClientError::RateLimited { registry, retry_after, .. } => {
                Refusal::RateLimited { registry: registry.clone(), retry_after: *retry_after }
            }
            ClientError::Unavailable { status: Some(401 | 403), .. } => Refusal::TargetRefused(Failed::of(error)),
            ClientError::Unavailable { .. } | ClientError::AccountRefused { .. } => {
                Refusal::Unavailable(Some(Failed::of(error)))
            }
            ClientError::Invalid { status: Some(508), .. } => Refusal::Loop(Some(Failed::of(error))),
            ClientError::Invalid { .. } => Refusal::Invalid(Some(Failed::of(error))),
        }
    }

    /// What a failure to give referrers is where it means that there is no such API.
    pub(crate) fn no_referrers(error: &ClientError) -> Refusal {
        Refusal::NoReferrers(Failed::of(error))
    }

    /// What a failure to give a blob is to the client.
    pub(crate) fn blob(error: &BlobError, passthrough: bool) -> Refusal {
        match error {
            BlobError::Upstream(error) => Refusal::upstream(error, Thing::Blob, passthrough),
            BlobError::Mismatch { registry, digest } => Refusal::Invalid(Some(Box::new(Failed {
                registry: registry.to_string(),
                reason: format!("its content does not hash to {digest}"),
            }))),
            BlobError::Busy(_) => Refusal::Busy,
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
                | Refusal::NoReferrers(_)
                | Refusal::Invalid(_)
                | Refusal::Broken(_)
                | Refusal::Storage
        )
    }

    /// Whether there is no such thing for this caller, or none is known: another reading of the request may find it.
    pub(crate) fn is_no(&self) -> bool {
        matches!(
            self,
            Refusal::Unknown(_)
                | Refusal::EdgeRefused(_)
                | Refusal::CallerRefused
                | Refusal::NoReferrers(_)
                | Refusal::Offline(_)
        )
    }

    /// Whether upstream was not asked, or failed to answer.
    pub(crate) fn is_unanswered(&self) -> bool {
        self.is_failure() || matches!(self, Refusal::Offline(_))
    }

    /// Whether upstream failed to answer.
    pub(crate) fn is_failure(&self) -> bool {
        matches!(
            self,
            Refusal::RateLimited { .. }
                | Refusal::Unavailable(_)
                | Refusal::TargetRefused(_)
                | Refusal::Invalid(_)
                | Refusal::Broken(_)
                | Refusal::Loop(_)
                | Refusal::Storage
                | Refusal::Busy
        )
    }
}

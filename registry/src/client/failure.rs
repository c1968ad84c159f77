//! How one request to one endpoint failed, sorted by what to do about it: wait, ask again, ask elsewhere, or give up.
//!
//! No text in here holds a URL: those of token services and object stores carry secrets in their query.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use url::Url;

use super::ClientError;
use super::reach::Unreachable;
use crate::tls;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// 404 to a GET: an answer.
    #[error("not found")]
    NotFound,
    /// A no to a HEAD, which proves nothing.
    #[error("status {0} to a HEAD")]
    Unconfirmed(u16),
    /// 401 after all that could be done: an answer.
    #[error("authentication required")]
    Unauthorized,
    /// 403: an answer.
    #[error("access denied")]
    Forbidden,
    /// The request itself is wrong, says upstream: an answer.
    #[error("rejected with status {}", .0.status)]
    Rejected(Rejection),
    /// The account of the configuration is refused.
    #[error("the configured account is refused: {0}")]
    AccountRefused(Why),
    /// 429.
    #[error("rate limited for {} s", .0.as_secs())]
    RateLimited(Duration, Why),
    /// No connection.
    #[error("{0}")]
    Dead(Why),
    /// A connection, and no header in time. Asking again here would only cost the same time again.
    #[error("{0}")]
    Silent(Why),
    /// The endpoint redirected to a host that does not answer. Asking the endpoint again now would cost the same time
    /// again, and yet there is nothing wrong with it.
    #[error("the redirect's target: {0}")]
    Astray(Why),
    /// The endpoint answers, and could not: 5xx, a broken header, a broken body. May be better the next time.
    #[error("{0}")]
    Broken(Why),
    /// The target of a redirect refused what the redirect is good for, which has perhaps run out: a new one is worth one try.
    #[error("{0}")]
    Expired(Why),
    /// An answer that cannot be. It will be no better the next time, but perhaps elsewhere.
    #[error("{0}")]
    Invalid(Why),
}

/// What happened, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Why {
    /// Which host, with its port where that is not the usual one; empty where it is not known yet.
    pub(super) host: String,
    /// What it answered, if it did.
    pub(super) status: Option<u16>,
    /// For the log and for the client.
    pub(super) reason: String,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// What upstream said about a request that it did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rejection {
    /// Its status.
    pub(super) status: u16,
    /// Media type of the body.
    pub(super) content_type: Option<String>,
    /// The beginning of the body.
    pub(super) body: Bytes,
}

fn why(reason: impl fmt::Display) -> Why {
    Why { host: String::new(), status: None, reason: reason.to_string() }
}

impl Failure {
    /// An answer that cannot be.
    pub(super) fn invalid(reason: impl fmt::Display) -> Failure {
        Failure::Invalid(why(reason))
    }

    /// The endpoint could not.
    pub(super) fn broken(reason: impl fmt::Display) -> Failure {
        Failure::Broken(why(reason))
    }

    /// The redirect has perhaps run out.
    pub(super) fn expired(reason: impl fmt::Display) -> Failure {
        Failure::Expired(why(reason))
    }

    /// No answer.
    pub(super) fn dead(reason: impl fmt::Display) -> Failure {
        Failure::Dead(why(reason))
    }

    /// 429, or a pause that an earlier one began.
    pub(super) fn rate_limited(left: Duration) -> Failure {
        Failure::RateLimited(left, why("status 429"))
    }

    /// From an HTTP client that got no answer's header.
    pub(super) fn unanswered(error: reqwest::Error) -> Failure {
        let error = error.without_url();
        if error.is_builder() {
            return Failure::invalid(causes(&error));
        }
        Failure::unsent(&error, error.is_connect() || error.is_timeout())
    }

    /// From an error, without a URL, in place of an answer's header. `dead`: there was no connection.
    pub(super) fn unsent(error: &(dyn Error + 'static), dead: bool) -> Failure {
        match unreachable(error) {
            Some(refused) => Failure::invalid(refused),
            None if dead => Failure::dead(causes(error)),
            None => Failure::broken(causes(error)),
        }
    }

    /// No header in time.
    pub(super) fn silent() -> Failure {
        Failure::Silent(why("no answer in time"))
    }

    /// The configured account was refused with this status.
    pub(super) fn account_refused(host: &str, status: u16) -> Failure {
        Failure::AccountRefused(Why { host: host.to_owned(), status: Some(status), reason: format!("status {status}") })
    }

    /// This failure, met at another host than the registry's own, after a redirect.
    pub(super) fn abroad(self) -> Failure {
        match self {
            Failure::Dead(why) | Failure::Silent(why) => Failure::Astray(why),
            other => other,
        }
    }

    /// This failure, with the host and the status that it is about, unless it names them already.
    pub(super) fn at(mut self, host: &str, status: Option<u16>) -> Failure {
        match &mut self {
            Failure::AccountRefused(why)
            | Failure::RateLimited(_, why)
            | Failure::Dead(why)
            | Failure::Silent(why)
            | Failure::Astray(why)
            | Failure::Broken(why)
            | Failure::Expired(why)
            | Failure::Invalid(why) => {
                if why.host.is_empty() {
                    host.clone_into(&mut why.host);
                    why.status = why.status.or(status);
                }
            }
            Failure::NotFound
            | Failure::Unconfirmed(_)
            | Failure::Unauthorized
            | Failure::Forbidden
            | Failure::Rejected(_) => {}
        }
        self
    }

    /// The status that says so, if one does.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Failure::NotFound => Some(404),
            Failure::Unauthorized => Some(401),
            Failure::Forbidden => Some(403),
            Failure::Unconfirmed(status) => Some(*status),
            Failure::Rejected(rejection) => Some(rejection.status),
            Failure::AccountRefused(why)
            | Failure::RateLimited(_, why)
            | Failure::Dead(why)
            | Failure::Silent(why)
            | Failure::Astray(why)
            | Failure::Broken(why)
            | Failure::Expired(why)
            | Failure::Invalid(why) => why.status,
        }
    }

    /// As the caller sees it.
    pub(super) fn into_error(self, registry: &str) -> ClientError {
        let registry = registry.to_owned();
        match self {
            Failure::NotFound => ClientError::NotFound { registry },
            Failure::Unconfirmed(status) => ClientError::Unconfirmed { registry, status },
            Failure::Unauthorized => ClientError::Unauthorized { registry },
            Failure::Forbidden => ClientError::Forbidden { registry },
            Failure::Rejected(Rejection { status, content_type, body }) => {
                ClientError::Rejected { registry, status, content_type, body }
            }
            Failure::AccountRefused(Why { host, status, .. }) => {
                ClientError::AccountRefused { registry, host, status: status.unwrap_or(401) }
            }
            Failure::RateLimited(retry_after, Why { host, .. }) => {
                ClientError::RateLimited { registry, host, retry_after }
            }
            Failure::Astray(Why { host, status, reason }) => {
                ClientError::Unavailable { registry, host, status, reason: format!("the redirect's target: {reason}") }
            }
            Failure::Dead(Why { host, status, reason })
            | Failure::Silent(Why { host, status, reason })
            | Failure::Broken(Why { host, status, reason })
            | Failure::Expired(Why { host, status, reason }) => {
                ClientError::Unavailable { registry, host, status, reason }
            }
            Failure::Invalid(Why { host, status, reason }) => ClientError::Invalid { registry, host, status, reason },
        }
    }
}

/// A host as messages name it: with its port where that is not the usual one.
pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The error and its causes, without the URL.
pub(super) fn reason(error: reqwest::Error) -> String {
    causes(&error.without_url())
}

/// The error and its causes; of a failed handshake, what is wrong with it.
fn causes(error: &(dyn Error + 'static)) -> String {
    if let Some(fault) = tls::fault(error) {
        return format!("TLS: {fault}");
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The rule that kept a connection from being made, if one did.
fn unreachable<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Unreachable> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(refused) = cause.downcast_ref::<Unreachable>() {
            return Some(refused);
        }
        source = cause.source();
    }
    None
}

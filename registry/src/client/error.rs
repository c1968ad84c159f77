//! What can go wrong between here and an upstream, sorted by what the caller does about it.
//!
//! Invariant: no variant carries a credential, a token, or the query of a URL.

use std::time::Duration;

use bytes::Bytes;

/// Why an upstream gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// A GET found that upstream has no such thing: 404 or 410 of the address that is responsible for it. An answer,
    /// and the only one that may make a caller forget what it knows.
    #[error("{registry}: not found")]
    NotFound {
        /// Which registry.
        registry: String,
    },
    /// A no that proves nothing: that of a HEAD alone, or of one address while another failed. Neither an answer nor a
    /// failure of upstream.
    #[error("{registry}: status {status}, which proves nothing")]
    Unconfirmed {
        /// Which registry.
        registry: String,
        /// What upstream answered.
        status: u16,
    },
    /// The repository is refused (401) to an account that works, to a caller's own account, or to everyone who has
    /// none. An answer.
    #[error("{registry}: authentication required")]
    Unauthorized {
        /// Which registry.
        registry: String,
    },
    /// As [`ClientError::Unauthorized`], by status 403. An answer.
    #[error("{registry}: access denied")]
    Forbidden {
        /// Which registry.
        registry: String,
    },
    /// Upstream says that the request itself is wrong: 400, 405, 406, 416, 451 and their like. An answer to this
    /// request, which says nothing about anything else.
    #[error("{registry}: request rejected with status {status}")]
    Rejected {
        /// Which registry.
        registry: String,
        /// What upstream answered.
        status: u16,
        /// Media type of the body.
        content_type: Option<String>,
        /// What upstream said, at most 64 KiB of it.
        body: Bytes,
    },
    /// Upstream refuses the account that the configuration gives this client. A failure, like an outage: it says
    /// nothing about what was asked for.
    #[error("{registry}: {host} refuses the configured account with status {status}")]
    AccountRefused {
        /// Which registry.
        registry: String,
        /// Which host refused it: the registry's or its token service's.
        host: String,
        /// What it answered.
        status: u16,
    },
    /// 429, or still within the time that an earlier 429 asked to wait.
    #[error("{registry}: {host} limits the rate of requests, retry after {} s", retry_after.as_secs())]
    RateLimited {
        /// Which registry.
        registry: String,
        /// Which host wants a pause.
        host: String,
        /// How long to wait.
        retry_after: Duration,
    },
    /// No endpoint could be reached, or none answered usefully in time.
    #[error("{registry}: unavailable: {}", told(host, reason))]
    Unavailable {
        /// Which registry.
        registry: String,
        /// Which host failed; empty when none was asked.
        host: String,
        /// What it answered, if it did.
        status: Option<u16>,
        /// What happened.
        reason: String,
    },
    /// Upstream answered something that cannot be: a wrong length, digest, range, redirect, realm.
    #[error("{registry}: invalid answer: {}", told(host, reason))]
    Invalid {
        /// Which registry.
        registry: String,
        /// Which host answered; empty when that is not known.
        host: String,
        /// What it answered.
        status: Option<u16>,
        /// What was wrong.
        reason: String,
    },
}

/// The reason, with the host it is about where that is known.
fn told(host: &str, reason: &str) -> String {
    if host.is_empty() { reason.to_owned() } else { format!("{host}: {reason}") }
}

impl ClientError {
    /// Which registry it was.
    pub fn registry(&self) -> &str {
        match self {
            ClientError::NotFound { registry }
            | ClientError::Unconfirmed { registry, .. }
            | ClientError::Unauthorized { registry }
            | ClientError::Forbidden { registry }
            | ClientError::Rejected { registry, .. }
            | ClientError::AccountRefused { registry, .. }
            | ClientError::RateLimited { registry, .. }
            | ClientError::Unavailable { registry, .. }
            | ClientError::Invalid { registry, .. } => registry,
        }
    }

    /// Whether this failure of a GET counts more than what a HEAD said before: the thing is absent, or it or the account is refused.
    pub(super) fn outweighs_a_head(&self) -> bool {
        match self {
            ClientError::NotFound { .. }
            | ClientError::Unauthorized { .. }
            | ClientError::Forbidden { .. }
            | ClientError::AccountRefused { .. } => true,
            ClientError::Unconfirmed { .. }
            | ClientError::Rejected { .. }
            | ClientError::RateLimited { .. }
            | ClientError::Unavailable { .. }
            | ClientError::Invalid { .. } => false,
        }
    }

    /// Whether upstream said something about the thing asked for, as opposed to failing to.
    pub fn is_answer(&self) -> bool {
        match self {
            ClientError::NotFound { .. }
            | ClientError::Unauthorized { .. }
            | ClientError::Forbidden { .. }
            | ClientError::Rejected { .. } => true,
            ClientError::Unconfirmed { .. }
            | ClientError::AccountRefused { .. }
            | ClientError::RateLimited { .. }
            | ClientError::Unavailable { .. }
            | ClientError::Invalid { .. } => false,
        }
    }
}

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A certificate or key file cannot be used.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
    /// The HTTP client refused its settings.
    #[error("http client: {0}")]
    Http(#[from] reqwest::Error),
}

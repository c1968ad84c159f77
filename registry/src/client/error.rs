//! What can go wrong between here and an upstream, sorted by what the caller does about it.

use std::time::Duration;

/// Why an upstream gave nothing. No variant carries a credential, a token or a presigned URL.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// 404: upstream knows no such thing. An answer, not a failure.
    #[error("{registry}: not found")]
    NotFound {
        /// Which registry.
        registry: String,
    },
    /// 401 after all that could be done with the credential. An answer.
    #[error("{registry}: authentication required")]
    Unauthorized {
        /// Which registry.
        registry: String,
    },
    /// 403. An answer.
    #[error("{registry}: access denied")]
    Forbidden {
        /// Which registry.
        registry: String,
    },
    /// 429, or still within the time that an earlier 429 asked to wait.
    #[error("{registry}: rate limited, retry after {} s", retry_after.as_secs())]
    RateLimited {
        /// Which registry.
        registry: String,
        /// How long to wait.
        retry_after: Duration,
    },
    /// No endpoint could be reached, or none answered usefully in time.
    #[error("{registry}: unavailable: {reason}")]
    Unavailable {
        /// Which registry.
        registry: String,
        /// What happened, for the log.
        reason: String,
    },
    /// Upstream answered something that cannot be: a wrong length, digest, range, redirect, realm.
    #[error("{registry}: invalid answer: {reason}")]
    Invalid {
        /// Which registry.
        registry: String,
        /// What was wrong, for the log.
        reason: String,
    },
}

impl ClientError {
    /// Which registry it was.
    pub fn registry(&self) -> &str {
        match self {
            ClientError::NotFound { registry }
            | ClientError::Unauthorized { registry }
            | ClientError::Forbidden { registry }
            | ClientError::RateLimited { registry, .. }
            | ClientError::Unavailable { registry, .. }
            | ClientError::Invalid { registry, .. } => registry,
        }
    }

    /// Whether upstream said something about the thing asked for, as opposed to failing to.
    pub fn is_answer(&self) -> bool {
        matches!(self, ClientError::NotFound { .. } | ClientError::Unauthorized { .. } | ClientError::Forbidden { .. })
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

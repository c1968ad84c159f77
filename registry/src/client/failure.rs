//! How one request to one endpoint failed, sorted by what to do about it: wait, ask again, ask elsewhere, or give up.
//!
//! No text in here holds a URL: those of token services and object stores carry secrets in their query.

use std::error::Error;
use std::time::Duration;

use reqwest::StatusCode;

use super::ClientError;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// 404: an answer.
    #[error("not found")]
    NotFound,
    /// 401 after all that could be done: an answer.
    #[error("authentication required")]
    Unauthorized,
    /// 403: an answer.
    #[error("access denied")]
    Forbidden,
    /// 429.
    #[error("rate limited")]
    RateLimited(Duration),
    /// Nobody there: no connection, or no header in time. Asking again here would only cost the same time again.
    #[error("{0}")]
    Dead(String),
    /// The endpoint redirected to somebody who is not there. Asking it again now would cost the same time again, and
    /// yet there is nothing wrong with the endpoint.
    #[error("the redirect's target: {0}")]
    Astray(String),
    /// Somebody is there, and could not: 5xx, a broken header, a broken body. May be better the next time.
    #[error("{0}")]
    Broken(String),
    /// An answer that cannot be. It will be no better the next time, but perhaps elsewhere.
    #[error("{0}")]
    Invalid(String),
}

impl Failure {
    /// From something that cannot be.
    pub(super) fn invalid(error: impl Error) -> Failure {
        Failure::Invalid(error.to_string())
    }

    /// From an HTTP client that got no answer's header.
    pub(super) fn unanswered(error: reqwest::Error) -> Failure {
        if error.is_connect() || error.is_timeout() {
            Failure::Dead(reason(error))
        } else if error.is_builder() {
            Failure::Invalid(reason(error))
        } else {
            Failure::Broken(reason(error))
        }
    }

    /// From a status that is no success. `store`: sent by an object store that the registry redirected to.
    pub(super) fn status(status: StatusCode, store: bool) -> Failure {
        match status {
            // An object store that refuses a presigned URL has nothing to say about the caller: the URL is too old.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if store => {
                Failure::Broken(format!("the redirect's target answered {}", status.as_u16()))
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => Failure::NotFound,
            StatusCode::UNAUTHORIZED => Failure::Unauthorized,
            StatusCode::FORBIDDEN => Failure::Forbidden,
            StatusCode::REQUEST_TIMEOUT => Failure::Broken("status 408".to_owned()),
            status if status.is_server_error() => Failure::Broken(format!("status {}", status.as_u16())),
            status => Failure::Invalid(format!("unexpected status {}", status.as_u16())),
        }
    }

    /// The same, met at another host than the registry's own, after a redirect.
    pub(super) fn abroad(self) -> Failure {
        match self {
            Failure::Dead(reason) => Failure::Astray(reason),
            other => other,
        }
    }

    /// As the caller sees it.
    pub(super) fn into_error(self, registry: &str) -> ClientError {
        let registry = registry.to_owned();
        match self {
            Failure::NotFound => ClientError::NotFound { registry },
            Failure::Unauthorized => ClientError::Unauthorized { registry },
            Failure::Forbidden => ClientError::Forbidden { registry },
            Failure::RateLimited(retry_after) => ClientError::RateLimited { registry, retry_after },
            Failure::Astray(_) => ClientError::Unavailable { registry, reason: self.to_string() },
            Failure::Dead(reason) | Failure::Broken(reason) => ClientError::Unavailable { registry, reason },
            Failure::Invalid(reason) => ClientError::Invalid { registry, reason },
        }
    }
}

/// The error and its causes, without the URL.
pub(super) fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::Failure;

    #[test]
    fn sorts_statuses() {
        let broken = |text: &str| Failure::Broken(text.to_owned());
        for (status, store, expected) in [
            (404, false, Failure::NotFound),
            (404, true, Failure::NotFound),
            (401, false, Failure::Unauthorized),
            (403, false, Failure::Forbidden),
            (403, true, broken("the redirect's target answered 403")),
            (408, false, broken("status 408")),
            (503, false, broken("status 503")),
            (418, false, Failure::Invalid("unexpected status 418".to_owned())),
        ] {
            assert_eq!(Failure::status(StatusCode::from_u16(status).unwrap(), store), expected);
        }
    }
}

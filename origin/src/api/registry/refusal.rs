//! Errors as answers: the one place that maps them to statuses and to the specification's codes.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_RANGE, CONTENT_TYPE, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, StatusCode};
use pierhead_registry::oci::{DigestError, ErrorBody, ErrorCode, NameError, RepositoryName};
use pierhead_registry::store::StoreError;

use crate::auth::Auth;
use crate::meta::MetaError;
use crate::registry::RegistryError;

/// When to come back if the database or the store is away: they may be back any moment.
const SOON: Duration = Duration::from_secs(5);

/// When to come back with an upload too many.
const LATER: Duration = Duration::from_secs(60);

/// Why not, as the client hears it.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    body: ErrorBody,
    more: More,
}

/// What a header says of it.
#[derive(Debug)]
enum More {
    Nothing,
    Challenge { scope: Option<String>, error: Option<&'static str> },
    Allow(String),
    RetryAfter(Duration),
    Stands(u64),
    Size(u64),
}

impl Refusal {
    /// With one code.
    pub(super) fn new(status: StatusCode, code: ErrorCode, message: String) -> Refusal {
        Refusal { status, body: code.body(message), more: More::Nothing }
    }

    /// There are so many bytes, and none of those that were asked for.
    pub(super) fn range(size: u64) -> Refusal {
        let more = More::Size(size);
        let message = format!("the blob has {size} bytes");
        Refusal { more, ..Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::RangeInvalid, message) }
    }

    /// Its status.
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// No token, or one that grants too little.
    pub(super) fn challenge(scope: Option<String>, error: Option<&'static str>, message: String) -> Refusal {
        let more = More::Challenge { scope, error };
        Refusal { more, ..Refusal::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message) }
    }

    /// No such method here.
    pub(super) fn method(methods: &[Method]) -> Refusal {
        let allowed = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let message = format!("only {allowed}");
        let more = More::Allow(allowed);
        Refusal { more, ..Refusal::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, message) }
    }

    /// There is no room for it now.
    pub(super) fn busy(message: &str, wait: Duration) -> Refusal {
        let more = More::RetryAfter(wait);
        Refusal { more, ..Refusal::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, message.to_owned()) }
    }

    /// No digest.
    pub(super) fn digest(error: DigestError) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid, error.to_string())
    }

    /// No repository name.
    pub(super) fn name(error: NameError) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::NameInvalid, error.to_string())
    }

    /// A name without an owner.
    pub(super) fn no_namespace(name: &RepositoryName) -> Refusal {
        let message = format!("a repository here belongs to a user or organisation: name it <owner>/{name}");
        Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::NameInvalid, message)
    }

    /// The answer. `base` is how the client reached us.
    pub(super) fn answer(self, auth: &Auth, base: &str, request_id: &str) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(request_id, status = self.status.as_u16(), body = %String::from_utf8_lossy(&self.body.to_json()), "refused");
        }
        let mut response = (self.status, self.body.to_json()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let more = match self.more {
            More::Nothing => None,
            More::Challenge { scope, error } => Some((WWW_AUTHENTICATE, auth.challenge(base, scope.as_deref(), error))),
            More::Allow(methods) => Some((ALLOW, methods)),
            More::RetryAfter(wait) => Some((RETRY_AFTER, wait.as_secs().max(1).to_string())),
            More::Size(size) => Some((CONTENT_RANGE, format!("bytes */{size}"))),
            More::Stands(length) => Some((RANGE, super::uploads::range(length))),
        };
        if let Some((name, value)) = more
            && let Ok(value) = HeaderValue::try_from(value)
        {
            headers.insert(name, value);
        }
        response
    }
}

impl From<RegistryError> for Refusal {
    fn from(error: RegistryError) -> Refusal {
        let message = error.to_string();
        let (status, code) = match error {
            RegistryError::NameUnknown => (StatusCode::NOT_FOUND, ErrorCode::NameUnknown),
            RegistryError::ManifestUnknown => (StatusCode::NOT_FOUND, ErrorCode::ManifestUnknown),
            RegistryError::BlobUnknown => (StatusCode::NOT_FOUND, ErrorCode::BlobUnknown),
            RegistryError::UploadUnknown | RegistryError::UploadLost => {
                (StatusCode::NOT_FOUND, ErrorCode::BlobUploadUnknown)
            }
            RegistryError::UploadBusy => {
                let more = More::RetryAfter(SOON);
                return Refusal {
                    more,
                    ..Refusal::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::BlobUploadInvalid, message)
                };
            }
            RegistryError::TooManyUploads(_) | RegistryError::TooManyUploadsAnywhere(_) => {
                let more = More::RetryAfter(LATER);
                return Refusal {
                    more,
                    ..Refusal::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, message)
                };
            }
            RegistryError::OutOfOrder(length) => {
                let more = More::Stands(length);
                return Refusal {
                    more,
                    ..Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::BlobUploadInvalid, message)
                };
            }
            RegistryError::Incomplete | RegistryError::Body(_) => {
                (StatusCode::BAD_REQUEST, ErrorCode::BlobUploadInvalid)
            }
            RegistryError::DigestMismatch(_) | RegistryError::NotItsDigest(_) => {
                (StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid)
            }
            RegistryError::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::SizeInvalid),
            RegistryError::Manifest(_) => (StatusCode::BAD_REQUEST, ErrorCode::ManifestInvalid),
            RegistryError::Missing(digests) => {
                let body = ErrorCode::ManifestBlobUnknown
                    .bodies(digests.iter().take(MISSING).map(|digest| format!("{digest} is not in this repository")));
                return Refusal { status: StatusCode::BAD_REQUEST, body, more: More::Nothing };
            }
            RegistryError::Needed(_) => (StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported),
            RegistryError::ReadOnly => (StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Denied),
            RegistryError::Meta(error) => return error.into(),
            RegistryError::Store(StoreError::Unavailable(_)) => {
                return unavailable("the storage does not answer; try again", &message);
            }
            RegistryError::Store(StoreError::Full(_)) => return full("the storage is full", &message),
            RegistryError::Store(_) | RegistryError::Interrupted => return broken(&message),
        };
        Refusal::new(status, code, message)
    }
}

/// Missing blobs that are told.
const MISSING: usize = 100;

impl From<MetaError> for Refusal {
    fn from(error: MetaError) -> Refusal {
        match &error {
            MetaError::Unavailable(_) => unavailable("the database does not answer; try again", &error.to_string()),
            MetaError::Full(_) => full("the disk of the database is full", &error.to_string()),
            // Two at the same moment, more often than we tried: the client's turn to try again.
            MetaError::Conflict | MetaError::Exists | MetaError::Gone => {
                unavailable("it is being changed by others; try again", &error.to_string())
            }
            MetaError::Corrupt(_) | MetaError::Broken(_) => broken(&error.to_string()),
        }
    }
}

/// What may be better soon. What exactly happened is for the log.
fn unavailable(message: &str, cause: &str) -> Refusal {
    tracing::warn!(cause, "not available");
    let more = More::RetryAfter(SOON);
    Refusal { more, ..Refusal::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, message.to_owned()) }
}

/// What takes no more before an operator makes room. An upload that meets it is gone.
fn full(message: &str, cause: &str) -> Refusal {
    tracing::error!(cause, "{message}");
    Refusal::new(StatusCode::INSUFFICIENT_STORAGE, ErrorCode::Unavailable, message.to_owned())
}

/// What is a fault of ours.
fn broken(cause: &str) -> Refusal {
    tracing::error!(cause, "failed");
    let message = "this registry has a problem; its log says which".to_owned();
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unavailable, message)
}

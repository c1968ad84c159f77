//! What the API says when it does not do what it was asked for, in Quay's shape.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_LENGTH, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

use crate::api::token::retry_after;
use crate::auth::{KeyringError, LoginError, NameError, PasswordError, ScopeError};
use crate::meta::MetaError;
use crate::text::TextError;

/// Why a request was not carried out.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    /// For people.
    detail: String,
    /// The same.
    error_message: String,
    /// In Quay's words, where Quay has words for it: scripts compare them.
    message: String,
    /// For programs.
    error_type: &'static str,
    /// The same.
    title: &'static str,
    /// Where this kind of error is described.
    #[serde(rename = "type")]
    kind: String,
    /// The status of the answer.
    status: u16,
}

/// What any request may be answered with.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes answers, nothing is made of it")]
pub(super) enum Failures {
    /// What was sent cannot be meant, or cannot be done.
    #[response(status = 400)]
    Invalid(ErrorBody),
    /// Log in first, or otherwise.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// Known, and not allowed.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// There is no such thing.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// Not with this method.
    #[response(status = 405)]
    Method(ErrorBody),
    /// Larger than is accepted.
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// Not JSON.
    #[response(status = 415)]
    MediaType(ErrorBody),
    /// Too many failed logins.
    #[response(status = 429)]
    TooMany(ErrorBody),
    /// Not now.
    #[response(status = 503)]
    Unavailable(ErrorBody),
}

/// Why not.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// What was sent cannot be meant, or cannot be done.
    #[error("{0}")]
    Invalid(String),
    /// The same, with a status of its own: 405, 413, 415.
    #[error("{1}")]
    Refused(StatusCode, String),
    /// Who asks is not known.
    #[error("{0}")]
    Unauthorized(String),
    /// Who asks may not.
    #[error("Unauthorized")]
    Forbidden,
    /// Who asks may, and not by a token of an application.
    #[error("an application token may not do this: log in with your password")]
    InPerson,
    /// Who asks may, and the scopes of the application token do not.
    #[error("this application token {}, and this needs {needed}: make a token with that scope", match held {
        Some(held) => format!("has the scopes {held}"),
        None => "has no scopes".to_owned(),
    })]
    Scope {
        /// What would be enough.
        needed: String,
        /// What the token has.
        held: Option<String>,
    },
    /// A part of a repository that Quay has and this registry has not.
    #[error(
        "this registry has no {0:?} of a repository, and nothing was changed; a repository whose name ends so is asked for with %2F between the parts of its name"
    )]
    NotServed(String),
    /// There is no such thing, or the caller need not know.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// Come back later, in so many seconds.
    #[error("{2}")]
    Later(StatusCode, u64, String),
    /// A fault of this program.
    #[error("internal error")]
    Internal,
}

impl ApiError {
    /// Something that the caller got wrong.
    pub(super) fn invalid(message: impl Into<String>) -> ApiError {
        ApiError::Invalid(message.into())
    }

    fn status(&self) -> StatusCode {
        match self {
            ApiError::Invalid(_) => StatusCode::BAD_REQUEST,
            ApiError::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            ApiError::Forbidden | ApiError::InPerson | ApiError::Scope { .. } => StatusCode::FORBIDDEN,
            ApiError::NotFound(_) | ApiError::NotServed(_) => StatusCode::NOT_FOUND,
            ApiError::Refused(status, _) | ApiError::Later(status, ..) => *status,
            ApiError::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Quay's words.
    fn kind(&self) -> &'static str {
        match self {
            ApiError::Invalid(_) | ApiError::Refused(..) => "invalid_request",
            ApiError::Unauthorized(_) => "invalid_token",
            ApiError::Forbidden | ApiError::InPerson | ApiError::Scope { .. } => "insufficient_scope",
            ApiError::NotFound(_) | ApiError::NotServed(_) => "not_found",
            ApiError::Later(StatusCode::TOO_MANY_REQUESTS, ..) => "rate_limit_exceeded",
            ApiError::Later(..) => "downstream_issue",
            ApiError::Internal => "internal_error",
        }
    }

    /// Quay says no more than this where it finds nothing.
    fn message(&self) -> String {
        match self {
            ApiError::NotFound(_) => "Not Found".to_owned(),
            other => other.to_string(),
        }
    }
}

/// Gives an error's body the whole URL of its kind. `base`: such as `https://registry.example.com`.
pub(super) fn locate(mut response: Response, base: &str) -> Response {
    let Some(mut body) = response.extensions_mut().remove::<ErrorBody>() else { return response };
    body.kind.insert_str(0, base);
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, serde_json::to_vec(&body).unwrap_or_default().into())
}

/// What a kind of error means.
pub(super) fn describe(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "invalid_request" => "The request is not valid: a value or its form is wrong.",
        "invalid_token" => "The credentials are missing or wrong.",
        "insufficient_scope" => "The caller, or the scopes of its token, do not allow this.",
        "not_found" => "There is no such thing, or it is not served here.",
        "rate_limit_exceeded" => "There were too many failed logins. Retry-After says when to come again.",
        "downstream_issue" => "A service behind this one does not answer. Trying again later may help.",
        "internal_error" => "A fault of this program. Its log says more.",
        _ => return None,
    })
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, kind, detail) = (self.status(), self.kind(), self.to_string());
        let body = ErrorBody {
            message: self.message(),
            error_message: detail.clone(),
            detail,
            error_type: kind,
            title: kind,
            kind: format!("/api/v1/error/{kind}"),
            status: status.as_u16(),
        };
        let mut response = (status, Json(body.clone())).into_response();
        response.extensions_mut().insert(body);
        match self {
            ApiError::Unauthorized(_) => {
                let challenge = HeaderValue::from_static("Basic realm=\"pierhead\"");
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
            ApiError::Later(_, seconds, _) => {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
            }
            _ => {}
        }
        response
    }
}

impl From<MetaError> for ApiError {
    fn from(error: MetaError) -> ApiError {
        match error {
            MetaError::Exists => ApiError::invalid("it exists already"),
            MetaError::Gone => ApiError::invalid("what it belongs to is gone, or something still belongs to it"),
            MetaError::Conflict => {
                ApiError::Later(StatusCode::SERVICE_UNAVAILABLE, 1, "it is being changed by others".to_owned())
            }
            MetaError::Unavailable(cause) => {
                tracing::warn!(error = %cause, "the database is not available");
                ApiError::Later(StatusCode::SERVICE_UNAVAILABLE, 2, "the database is not available".to_owned())
            }
            MetaError::Full(cause) => {
                tracing::error!(error = %cause, "the disk of the database is full");
                let message = "the disk of the database is full: nothing was changed".to_owned();
                ApiError::Later(StatusCode::INSUFFICIENT_STORAGE, 60, message)
            }
            error @ (MetaError::Corrupt(_) | MetaError::Broken(_)) => {
                tracing::error!(%error, "a request to the API failed");
                ApiError::Internal
            }
        }
    }
}

impl From<LoginError> for ApiError {
    fn from(error: LoginError) -> ApiError {
        let seconds = retry_after(&error);
        match error {
            LoginError::Wrong | LoginError::Disabled => ApiError::Unauthorized(error.to_string()),
            LoginError::Limited(_) => ApiError::Later(StatusCode::TOO_MANY_REQUESTS, seconds, error.to_string()),
            LoginError::Busy => ApiError::Later(StatusCode::SERVICE_UNAVAILABLE, seconds, error.to_string()),
            LoginError::TooMuch => ApiError::Invalid(error.to_string()),
            LoginError::Meta(cause) => {
                tracing::warn!(error = %cause, "a login could not be checked");
                ApiError::Later(StatusCode::SERVICE_UNAVAILABLE, seconds, "the database is not available".to_owned())
            }
            LoginError::Broken(cause) => {
                tracing::error!(error = cause, "a login could not be checked");
                ApiError::Internal
            }
        }
    }
}

impl From<TextError> for ApiError {
    fn from(error: TextError) -> ApiError {
        ApiError::invalid(error.to_string())
    }
}

impl From<ScopeError> for ApiError {
    fn from(error: ScopeError) -> ApiError {
        ApiError::invalid(error.to_string())
    }
}

impl From<NameError> for ApiError {
    fn from(error: NameError) -> ApiError {
        ApiError::invalid(error.to_string())
    }
}

impl From<PasswordError> for ApiError {
    fn from(error: PasswordError) -> ApiError {
        match error {
            PasswordError::Length => ApiError::invalid(error.to_string()),
            PasswordError::Busy => ApiError::Later(StatusCode::SERVICE_UNAVAILABLE, 2, error.to_string()),
            PasswordError::Broken(cause) => {
                tracing::error!(error = cause, "a password could not be hashed");
                ApiError::Internal
            }
        }
    }
}

impl From<KeyringError> for ApiError {
    fn from(error: KeyringError) -> ApiError {
        tracing::error!(%error, "a request to the API failed");
        ApiError::Internal
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn what_may_be_tried_again_says_why_and_when() {
        for (error, status, message) in [
            (LoginError::Limited(std::time::Duration::from_secs(60)), 429, "too many failed logins; wait for 60 s"),
            (LoginError::Busy, 503, "too many logins are being checked"),
        ] {
            let response = ApiError::from(error).into_response();
            assert_eq!(response.status().as_u16(), status);
            assert!(response.headers().contains_key(RETRY_AFTER));
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            for key in ["detail", "error_message", "message"] {
                assert_eq!(body[key], message, "{key}");
            }
            assert!(body["type"].as_str().unwrap().starts_with("/api/v1/error/"), "{body}");
        }
    }
}

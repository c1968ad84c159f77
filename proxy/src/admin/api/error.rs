//! What the API says when it cannot do what it was asked for: one shape, one status each.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::shape::{ErrorBody, Failure};

/// The code of [`ApiError::UnknownRegistry`]; `ctl` advises on the name.
pub(crate) const UNKNOWN_REGISTRY: &str = "unknown_registry";

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::admin) enum ApiError {
    /// Who asks is not known.
    #[error("a bearer token is required, and this is not it")]
    Unauthorized,
    /// A web page of somebody else asks, through an operator's browser.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The request names no host, several, or one that is none.
    #[error("{0}")]
    Host(&'static str),
    /// There is no such thing.
    #[error("there is no {what}{}", if name.is_empty() { String::new() } else { format!(" {name:?}") })]
    NotFound {
        /// What kind of thing.
        what: &'static str,
        /// Which.
        name: String,
    },
    /// The name of a registry, perhaps of a repository whose registry was left out.
    #[error("no registry {0:?} is configured, and nothing of it is in the cache")]
    UnknownRegistry(String),
    /// There is nothing at this path.
    #[error("there is nothing here; see /api/v1/openapi.json")]
    NoRoute,
    /// Something is here, but not for this method.
    #[error("this method means nothing here; see /api/v1/openapi.json")]
    NoMethod,
    /// What was sent says nothing that can be done.
    #[error("{message}")]
    Invalid {
        /// 400, 413, 415 or 422.
        status: StatusCode,
        /// What is wrong with it.
        message: String,
    },
    /// The disk failed.
    #[error("the cache's disk: {0}")]
    Storage(String),
    /// The configuration cannot be used.
    #[error("the configuration was not reloaded: the one before stays in use")]
    NotReloaded(Vec<String>),
    /// No other program took over.
    #[error("not upgraded: this process serves on")]
    NotUpgraded(Vec<String>),
    /// It took too long. What was begun may go on.
    #[error("not within {0} seconds")]
    Timeout(u64),
}

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            ApiError::Unauthorized => StatusCode::UNAUTHORIZED,
            ApiError::Forbidden(_) => StatusCode::FORBIDDEN,
            ApiError::Host(_) => StatusCode::BAD_REQUEST,
            ApiError::NotFound { .. } | ApiError::UnknownRegistry(_) | ApiError::NoRoute => StatusCode::NOT_FOUND,
            ApiError::NoMethod => StatusCode::METHOD_NOT_ALLOWED,
            ApiError::Invalid { status, .. } => *status,
            ApiError::NotReloaded(_) | ApiError::NotUpgraded(_) => StatusCode::UNPROCESSABLE_ENTITY,
            ApiError::Storage(_) => StatusCode::INTERNAL_SERVER_ERROR,
            ApiError::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            ApiError::Unauthorized => "unauthorized",
            ApiError::Forbidden(_) => "forbidden",
            ApiError::NotFound { .. } | ApiError::NoRoute => "not_found",
            ApiError::UnknownRegistry(_) => UNKNOWN_REGISTRY,
            ApiError::NoMethod => "method_not_allowed",
            ApiError::Host(_) | ApiError::Invalid { .. } => "invalid",
            ApiError::NotReloaded(_) => "not_reloaded",
            ApiError::NotUpgraded(_) => "not_upgraded",
            ApiError::Storage(_) => "storage",
            ApiError::Timeout(_) => "timeout",
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code, message) = (self.status(), self.code().to_owned(), self.to_string());
        let challenge = self == ApiError::Unauthorized;
        let problems = match self {
            ApiError::NotReloaded(problems) | ApiError::NotUpgraded(problems) => problems,
            _ => Vec::new(),
        };
        let mut response = (status, Json(ErrorBody { error: Failure { code, message, problems } })).into_response();
        if challenge {
            let value = HeaderValue::from_static("Bearer realm=\"pierhead\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
        }
        response
    }
}

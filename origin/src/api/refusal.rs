//! What is answered before anybody looked at a request, in the specification's shape.

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use pierhead_registry::oci::ErrorCode;

/// An error with a code of the specification's.
pub(super) fn refusal(status: StatusCode, code: ErrorCode, message: &str) -> Response {
    let json = HeaderValue::from_static("application/json");
    (status, [(CONTENT_TYPE, json)], code.body(message).to_json()).into_response()
}

/// No router knows the path.
pub(super) async fn nothing_here(request: Request) -> Response {
    if request.uri().path().starts_with("/v2/") {
        return refusal(StatusCode::NOT_FOUND, ErrorCode::Unsupported, "no such operation");
    }
    StatusCode::NOT_FOUND.into_response()
}

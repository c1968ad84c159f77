//! What every answer tells a browser: that it is nothing to run.
//!
//! Content here was pushed by strangers. Invariant: whatever answers, a browser does not guess a type from the bytes, and a page that
//! it shows all the same runs no script with the rights of this registry's host. An answer that has a policy of its own keeps it.

use axum::response::Response;
use http::HeaderValue;
use http::header::{CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS};

/// Layer: adds the headers that say so.
pub(super) async fn mark(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.entry(X_CONTENT_TYPE_OPTIONS).or_insert(HeaderValue::from_static("nosniff"));
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static("sandbox"));
    response
}

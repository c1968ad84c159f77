//! Blobs on their way out: whole, in part, not at all, or from elsewhere.

use std::ops::Range;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LOCATION, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use pierhead_config::Pulls;
use pierhead_registry::oci::{Digest, RepositoryName};
use pierhead_service::conditional::{self, Verdict};
use pierhead_service::range::{self, Selection};

use super::refusal::Refusal;
use super::sending::body;
use super::{CONTENT_DIGEST, Wanted};

/// What stands under a digest never changes.
const FOR_EVER: HeaderValue = HeaderValue::from_static("max-age=31536000, immutable");
/// Where it is now is true for a short time only, and for one client.
const NOT_KEPT: HeaderValue = HeaderValue::from_static("no-store");

/// `GET` and `HEAD` of `/v2/<name>/blobs/<digest>`
pub(super) async fn blob(
    wanted: &Wanted,
    name: &RepositoryName,
    digest: &Digest,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let registry = &wanted.origin.registry;
    let held = registry.blob(name.as_str(), digest).await?;
    let size = held.size();
    let etag = format!("\"{digest}\"");
    match conditional::evaluate(headers, &etag) {
        Verdict::Proceed => {}
        Verdict::NotModified => {
            let mut response = dressed(StatusCode::NOT_MODIFIED, digest, &etag, Body::empty());
            // The length that a 200 would have, or none (RFC 9110, section 8.6): left alone, it would be 0.
            if wanted.method == Method::HEAD {
                response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(size));
            }
            return Ok(response);
        }
        Verdict::Failed => return Ok(dressed(StatusCode::PRECONDITION_FAILED, digest, &etag, Body::empty())),
    }
    if wanted.method == Method::HEAD {
        // Where pulls go past us, nobody but who pushes can notice that the store has lost it.
        if matches!(wanted.origin.live().pulls, Pulls::Redirect(_)) {
            registry.look_for(&held, digest).await?;
        }
        let mut response = dressed(StatusCode::OK, digest, &etag, Body::empty());
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(size));
        return Ok(response);
    }
    if let Pulls::Redirect(lifetime) = wanted.origin.live().pulls
        && let Some(url) = registry.blob_url(digest, lifetime).await?
        && let Ok(location) = HeaderValue::try_from(url.as_str())
    {
        let mut response = StatusCode::TEMPORARY_REDIRECT.into_response();
        let headers = response.headers_mut();
        headers.insert(LOCATION, location);
        headers.insert(CACHE_CONTROL, NOT_KEPT);
        insert(headers, CONTENT_DIGEST, digest.to_string());
        return Ok(response);
    }
    let (status, part) = match selected(headers, &etag, size) {
        Selection::Unsatisfiable => return Err(Refusal::range(size)),
        Selection::Single(part) => (StatusCode::PARTIAL_CONTENT, part),
        // Several parts at once are a wish that need not be granted (RFC 9110, section 14.2).
        Selection::Full | Selection::Multiple(_) => (StatusCode::OK, 0..size),
    };
    let content = registry.open_blob(&held, digest, part.clone()).await?;
    let mut response = dressed(status, digest, &etag, body(content, wanted.lane.clone()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(part.end - part.start));
    if status == StatusCode::PARTIAL_CONTENT {
        insert(headers, CONTENT_RANGE, content_range(&part, size));
    }
    Ok(response)
}

fn selected(headers: &HeaderMap, etag: &str, size: u64) -> Selection {
    let header = headers.get(RANGE).filter(|_| conditional::range_applies(headers, etag));
    let specs = header.and_then(|header| range::parse(header.as_bytes()));
    specs.map_or(Selection::Full, |specs| range::select(&specs, size))
}

fn content_range(part: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", part.start, part.end.saturating_sub(1))
}

/// An answer about a blob.
fn dressed(status: StatusCode, digest: &Digest, etag: &str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CACHE_CONTROL, FOR_EVER);
    insert(headers, CONTENT_DIGEST, digest.to_string());
    insert(headers, ETAG, etag.to_owned());
    response
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

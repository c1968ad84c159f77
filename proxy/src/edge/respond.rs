//! The one file that knows what answers and refusals are in HTTP.
//!
//! Statuses are chosen by what clients do with them. Where this edge cannot serve something, 404 moves every client on
//! to its next mirror; so a registry or repository that is not served, one that upstream refuses to this edge, and a
//! miss while offline are 404. Where trying again can help, the status says so: 429 and 503 with `Retry-After`, 502.
//! A caller whose own credential counts gets a 401 and may log in.
//!
//! Content is bytes that strangers pushed, under a media type that strangers chose: no browser may guess at it or run it, and
//! what a browser would run goes out as `application/octet-stream`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    LINK, RANGE, RETRY_AFTER, WARNING, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use pierhead_registry::oci::{Digest, EndpointError, ErrorCode, NameError, media_type};
use pingora_http::ResponseHeader;

use super::body::Body;
use super::refusal::{Refusal, Thing};
use super::served::{Content, Refused, Served};
use crate::cache::Blob;
use pierhead_service::conditional::{self, Verdict};
use pierhead_service::range::{self, Multipart, Selection};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const BINARY: HeaderValue = HeaderValue::from_static("application/octet-stream");
const BYTES: HeaderValue = HeaderValue::from_static("bytes");
const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"pierhead\"");
/// No browser guesses what content is …
pub(super) const NO_GUESSING: HeaderValue = HeaderValue::from_static("nosniff");
/// … and none runs it.
pub(super) const SANDBOX: HeaderValue = HeaderValue::from_static("sandbox");
const STALE: HeaderValue = HeaderValue::from_static("110 - \"Response is Stale\"");
/// What a digest names never changes.
const FOREVER: HeaderValue = HeaderValue::from_static("max-age=31536000");
const NEVER: HeaderValue = HeaderValue::from_static("no-cache, no-store, must-revalidate");

/// An answer in HTTP.
pub(crate) struct Answer {
    /// Status and header.
    pub(crate) header: Box<ResponseHeader>,
    /// Body; empty for HEAD.
    pub(crate) body: Body,
}

/// What of a request decides how its answer looks.
pub(crate) struct Asked<'a> {
    /// Only the header is wanted.
    pub(crate) head: bool,
    /// For conditions and ranges.
    pub(crate) headers: &'a HeaderMap,
}

/// Builds a header line by line. Values that cannot stand in a header (which upstream would have to have made) are left out.
struct Lines(ResponseHeader);

impl Lines {
    fn new(status: StatusCode, id: &str) -> Lines {
        let mut header = ResponseHeader::from(parts());
        // Setting a valid status cannot fail; were it to, 200 would be wrong, so it is checked by a test.
        let _ = header.set_status(status);
        let mut lines = Lines(header);
        lines.put(API_VERSION, HeaderValue::from_static("registry/2.0"));
        lines.text(REQUEST_ID, id);
        lines.put(X_CONTENT_TYPE_OPTIONS, NO_GUESSING);
        lines.put(CONTENT_SECURITY_POLICY, SANDBOX);
        lines
    }

    fn put(&mut self, name: HeaderName, value: HeaderValue) {
        let _ = self.0.insert_header(name, value);
    }

    fn text(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.put(name, value);
        }
    }

    fn number(&mut self, name: HeaderName, value: u64) {
        self.put(name, HeaderValue::from(value));
    }

    fn with(self, body: Body) -> Answer {
        Answer { header: Box::new(self.0), body }
    }
}

fn parts() -> http::response::Parts {
    let mut response = http::Response::new(());
    response.headers_mut().reserve(14);
    response.into_parts().0
}

/// The answer to a request.
pub(crate) fn answer(asked: &Asked<'_>, result: Result<Served, Refused>, id: &str) -> Answer {
    match result {
        Ok(served) => {
            let stale = served.outcome.is_stale();
            let mut answer = content(asked, served.content, id);
            if stale {
                let _ = answer.header.insert_header(WARNING, STALE);
            }
            answer
        }
        Err(refused) => refuse(asked.head, &refused.refusal, id),
    }
}

fn content(asked: &Asked<'_>, content: Content, id: &str) -> Answer {
    match content {
        Content::Ping => simple(asked, Lines::new(StatusCode::OK, id), JSON, Bytes::from_static(b"{}")),
        Content::Health(report) => {
            let status = StatusCode::from_u16(report.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut lines = Lines::new(status, id);
            lines.put(CACHE_CONTROL, NEVER);
            simple(asked, lines, JSON, report.body.into())
        }
        Content::Manifest(manifest) => entity(asked, &manifest.digest, id, false, |mut lines, _| {
            lines.text(CONTENT_TYPE, media_type::served(&manifest.media_type));
            lines.number(CONTENT_LENGTH, manifest.bytes.len() as u64);
            lines.with(if asked.head { Body::Empty } else { Body::Bytes(manifest.bytes.clone()) })
        }),
        Content::ManifestHead(head) => entity(asked, &head.digest, id, false, |mut lines, _| {
            lines.text(CONTENT_TYPE, media_type::served(&head.media_type));
            lines.number(CONTENT_LENGTH, head.size);
            lines.with(Body::Empty)
        }),
        Content::BlobHead(digest, size) => entity(asked, &digest, id, true, |mut lines, _| {
            lines.put(CONTENT_TYPE, BINARY);
            if let Some(size) = size {
                lines.number(CONTENT_LENGTH, size);
            }
            lines.with(Body::Empty)
        }),
        Content::Blob(digest, blob) => {
            entity(asked, &digest, id, true, |lines, etag| blob_body(asked, etag, blob, lines))
        }
        Content::List(list, link) => {
            let mut lines = Lines::new(StatusCode::OK, id);
            if let Some(link) = link {
                lines.text(LINK, &link);
            }
            if let Some(filters) = &list.filters_applied {
                lines.text(FILTERS_APPLIED, filters);
            }
            let media_type = HeaderValue::from_str(media_type::served(&list.media_type)).unwrap_or(JSON);
            simple(asked, lines, media_type, list.bytes.clone())
        }
    }
}

/// Something that a digest names: its conditions are evaluated, and its name stands in the header.
fn entity(
    asked: &Asked<'_>,
    digest: &Digest,
    id: &str,
    blob: bool,
    full: impl FnOnce(Lines, &str) -> Answer,
) -> Answer {
    let etag = format!("\"{digest}\"");
    let verdict = conditional::evaluate(asked.headers, &etag);
    let status = match verdict {
        Verdict::Proceed => StatusCode::OK,
        Verdict::NotModified => StatusCode::NOT_MODIFIED,
        Verdict::Failed => StatusCode::PRECONDITION_FAILED,
    };
    let mut lines = Lines::new(status, id);
    lines.text(CONTENT_DIGEST, etag.trim_matches('"'));
    lines.text(ETAG, &etag);
    if blob {
        lines.put(ACCEPT_RANGES, BYTES);
        lines.put(CACHE_CONTROL, FOREVER);
    }
    match verdict {
        Verdict::Proceed => full(lines, &etag),
        Verdict::NotModified => lines.with(Body::Empty),
        Verdict::Failed => {
            lines.number(CONTENT_LENGTH, 0);
            lines.with(Body::Empty)
        }
    }
}

fn blob_body(asked: &Asked<'_>, etag: &str, blob: Arc<Blob>, mut lines: Lines) -> Answer {
    let Some(size) = blob.size() else {
        // The connection's writer frames it.
        lines.put(CONTENT_TYPE, BINARY);
        let all = blob.all();
        return lines.with(Body::Blob(blob, all));
    };
    let specs = asked
        .headers
        .get(RANGE)
        .filter(|_| conditional::range_applies(asked.headers, etag))
        .and_then(|header| range::parse(header.as_bytes()));
    match specs.map_or(Selection::Full, |specs| range::select(&specs, size)) {
        Selection::Full => {
            lines.put(CONTENT_TYPE, BINARY);
            lines.number(CONTENT_LENGTH, size);
            lines.with(if size == 0 { Body::Empty } else { Body::Blob(blob, 0..size) })
        }
        Selection::Single(range) => {
            lines.status(StatusCode::PARTIAL_CONTENT);
            lines.put(CONTENT_TYPE, BINARY);
            lines.number(CONTENT_LENGTH, range.end - range.start);
            lines.text(CONTENT_RANGE, &format!("bytes {}-{}/{size}", range.start, range.end - 1));
            lines.with(Body::Blob(blob, range))
        }
        Selection::Multiple(ranges) => {
            let multipart = Multipart::new(ranges, size, &format!("{:032x}", rand::random::<u128>()));
            lines.status(StatusCode::PARTIAL_CONTENT);
            lines.text(CONTENT_TYPE, &multipart.content_type);
            lines.number(CONTENT_LENGTH, multipart.length);
            lines.with(Body::Multipart(blob, multipart))
        }
        Selection::Unsatisfiable => {
            lines.status(StatusCode::RANGE_NOT_SATISFIABLE);
            lines.text(CONTENT_RANGE, &format!("bytes */{size}"));
            let body = ErrorCode::RangeInvalid.body("the range lies past the end of the blob").to_json();
            lines.put(CONTENT_TYPE, JSON);
            lines.number(CONTENT_LENGTH, body.len() as u64);
            lines.with(Body::Bytes(body.into()))
        }
    }
}

impl Lines {
    fn status(&mut self, status: StatusCode) {
        let _ = self.0.set_status(status);
    }
}

fn simple(asked: &Asked<'_>, mut lines: Lines, media_type: HeaderValue, body: Bytes) -> Answer {
    lines.put(CONTENT_TYPE, media_type);
    lines.number(CONTENT_LENGTH, body.len() as u64);
    lines.with(if asked.head { Body::Empty } else { Body::Bytes(body) })
}

fn refuse(head: bool, refusal: &Refusal, id: &str) -> Answer {
    if let Refusal::Rejected { status, content_type, body, .. } = refusal
        && let Ok(status) = StatusCode::from_u16(*status)
        && !body.is_empty()
    {
        let mut lines = Lines::new(status, id);
        let media_type = content_type.as_deref().map(media_type::served).and_then(|named| named.parse().ok());
        lines.put(CONTENT_TYPE, media_type.unwrap_or(BINARY));
        lines.number(CONTENT_LENGTH, body.len() as u64);
        return lines.with(if head { Body::Empty } else { Body::Bytes(body.clone()) });
    }
    let (status, code) = status_and_code(refusal);
    let mut lines = Lines::new(status, id);
    match refusal {
        Refusal::Method | Refusal::Elsewhere(_) | Refusal::DeleteElsewhere(_) => {
            lines.put(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        Refusal::Login | Refusal::WrongPassword | Refusal::CallerRefused => lines.put(WWW_AUTHENTICATE, CHALLENGE),
        Refusal::LoginLimited { retry_after }
        | Refusal::RateLimited { retry_after, .. }
        | Refusal::TooMany { retry_after } => {
            lines.number(RETRY_AFTER, seconds(*retry_after));
        }
        Refusal::Unavailable(_) | Refusal::Storage | Refusal::Busy => lines.number(RETRY_AFTER, 5),
        _ => {}
    }
    let body = code.body(refusal.to_string()).to_json();
    lines.put(CONTENT_TYPE, JSON);
    lines.number(CONTENT_LENGTH, body.len() as u64);
    lines.with(if head { Body::Empty } else { Body::Bytes(body.into()) })
}

/// Rounded up: who comes back too early is refused again.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0)).max(1)
}

fn status_and_code(refusal: &Refusal) -> (StatusCode, ErrorCode) {
    match refusal {
        Refusal::Method | Refusal::Elsewhere(_) | Refusal::DeleteElsewhere(_) => {
            (StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported)
        }
        Refusal::Catalog => (StatusCode::NOT_FOUND, ErrorCode::Unsupported),
        Refusal::Path(EndpointError::Digest(_) | EndpointError::Reference(NameError::Digest(_))) => {
            (StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid)
        }
        Refusal::Path(EndpointError::Reference(_)) => (StatusCode::BAD_REQUEST, ErrorCode::TagInvalid),
        Refusal::Path(EndpointError::TooLong) => (StatusCode::URI_TOO_LONG, ErrorCode::NameInvalid),
        Refusal::Path(EndpointError::Foreign | EndpointError::Unknown) => {
            (StatusCode::NOT_FOUND, ErrorCode::Unsupported)
        }
        Refusal::Malformed => (StatusCode::BAD_REQUEST, ErrorCode::Unsupported),
        Refusal::Slow => (StatusCode::REQUEST_TIMEOUT, ErrorCode::Unsupported),
        Refusal::Silent => (StatusCode::GATEWAY_TIMEOUT, ErrorCode::Unavailable),
        Refusal::Query => (StatusCode::BAD_REQUEST, ErrorCode::Unsupported),
        Refusal::Name(_) => (StatusCode::BAD_REQUEST, ErrorCode::NameInvalid),
        Refusal::NotServed => (StatusCode::NOT_FOUND, ErrorCode::NameUnknown),
        Refusal::Login | Refusal::WrongPassword | Refusal::CallerRefused => {
            (StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized)
        }
        Refusal::LoginLimited { .. } | Refusal::RateLimited { .. } | Refusal::TooMany { .. } => {
            (StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests)
        }
        Refusal::EdgeRefused(thing) | Refusal::Unknown(thing) | Refusal::Offline(thing) => {
            (StatusCode::NOT_FOUND, unknown(*thing))
        }
        Refusal::Rejected { status, .. } => {
            (StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_REQUEST), ErrorCode::Unsupported)
        }
        Refusal::NoReferrers(_) => (StatusCode::NOT_FOUND, unknown(Thing::Referrers)),
        Refusal::NotAcceptable(_) => (StatusCode::NOT_FOUND, ErrorCode::ManifestUnknown),
        Refusal::Unavailable(_) | Refusal::Busy => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable),
        Refusal::TargetRefused(_) => (StatusCode::FORBIDDEN, ErrorCode::Denied),
        Refusal::Invalid(_) | Refusal::Broken(_) => (StatusCode::BAD_GATEWAY, ErrorCode::Unavailable),
        Refusal::Loop(_) => (StatusCode::LOOP_DETECTED, ErrorCode::Unavailable),
        Refusal::Storage => (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unavailable),
    }
}

fn unknown(thing: Thing) -> ErrorCode {
    match thing {
        // Not NAME_UNKNOWN for referrers: oras and notation then believe that the repository does not exist, and do
        // not look for the tag `sha256-<hex>`, which is where registries without a referrers API have signatures.
        Thing::Manifest | Thing::Referrers => ErrorCode::ManifestUnknown,
        Thing::Blob => ErrorCode::BlobUnknown,
        Thing::Tags => ErrorCode::NameUnknown,
    }
}

/// Whether a method reads.
pub(crate) fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

//! What became of each request: one line in the access log, one observation in the metrics, one name in the answer.
//!
//! Invariant: every request leaves exactly one line, when its answer's last byte was taken over or nobody wants it any more; and
//! never a credential or a query in it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use hyper::body::{Body as _, Frame, SizeHint};
use pierhead_registry::oci::ErrorCode;
use pierhead_service::logging::{Time, milliseconds};
use pierhead_service::told::REQUEST_ID;
use serde::Serialize;

use super::admission::Place;
use super::asked::{Asked, Names, has_one_host};
use super::departures::Departure;
use super::refusal::refusal;
use super::{Connection, Origin};

/// What of a path and of a name of a program is written.
const TEXT_LIMIT: usize = 1024;
/// Nobody waited for the answer.
const CLIENT_LEFT: u16 = 499;

/// Layer: makes the [`Asked`] of a request, and writes down how it ends.
pub(super) async fn record(State(origin): State<Arc<Origin>>, mut request: Request, next: Next) -> Response {
    // Only tests call the router without a connection.
    let Some(connection) = request.extensions().get::<Connection>().cloned() else { return next.run(request).await };
    let (uri, headers) = (request.uri(), request.headers());
    let live = origin.live();
    let asked = Asked::new(&connection, uri, headers, &live.listener.trusted_proxies, Names::of(&live));
    let asked = Arc::new(asked);
    let mut record = Record {
        begun: Instant::now(),
        time: SystemTime::now(),
        version: request.version(),
        method: request.method().clone(),
        route: route(uri.path(), request.extensions().get::<MatchedPath>()),
        path: shortened(uri.path()),
        user_agent: user_agent(headers),
        asked: Arc::clone(&asked),
        origin,
        answer: None,
    };
    request.extensions_mut().insert(Arc::clone(&asked));
    // The kernel sees to what clients of HTTP/1 do not take.
    let departure = connection.departures.depart(record.version == Version::HTTP_2);
    let mut response = if has_one_host(request.version(), request.headers()) {
        next.run(request).await
    } else {
        refusal(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, "a request of HTTP/1.1 has one Host")
    };
    if let Ok(id) = HeaderValue::from_str(&asked.request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    record.answer = Some(Answer {
        status: response.status().as_u16(),
        first_byte: record.begun.elapsed(),
        bytes: 0,
        whole: record.method == Method::HEAD || response.body().is_end_stream(),
    });
    let place = response.extensions_mut().remove::<Place>();
    let announced = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    response.map(|body| Body::new(Leaving { body, announced, record, place, departure, given: 0 }))
}

/// How an answer goes out.
struct Answer {
    status: u16,
    first_byte: Duration,
    bytes: u64,
    whole: bool,
}

/// A request on its way; dropped at its end.
struct Record {
    origin: Arc<Origin>,
    asked: Arc<Asked>,
    time: SystemTime,
    begun: Instant,
    version: Version,
    method: Method,
    path: String,
    route: String,
    user_agent: Option<String>,
    answer: Option<Answer>,
}

/// A line of the log. What says nothing is left out.
#[derive(Serialize)]
struct Line<'a> {
    time: Time,
    id: &'a str,
    client: std::net::IpAddr,
    protocol: &'a str,
    method: &'a str,
    path: &'a str,
    route: &'a str,
    status: u16,
    bytes: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    aborted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttfb_ms: Option<f64>,
    total_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
}

impl Drop for Record {
    fn drop(&mut self) {
        let total = self.begun.elapsed();
        let answer = self.answer.as_ref();
        let status = answer.map_or(CLIENT_LEFT, |answer| answer.status);
        self.origin.metrics.request(&self.method, &self.route, status, total);
        // Health checks come every second and would fill the log; metrics count them.
        let check = status == 200 && (self.route.starts_with("/health") || self.route == "/status");
        let told = !check || tracing::enabled!(tracing::Level::DEBUG);
        if !told || !self.origin.log.is_on() || !self.origin.live().access_log {
            return;
        }
        self.origin.log.write(&Line {
            time: Time(self.time),
            id: &self.asked.request_id,
            client: self.asked.peer,
            protocol: protocol(self.version),
            method: self.method.as_str(),
            path: &self.path,
            route: &self.route,
            status,
            bytes: answer.map_or(0, |answer| answer.bytes),
            aborted: !answer.is_some_and(|answer| answer.whole),
            ttfb_ms: answer.map(|answer| milliseconds(answer.first_byte)),
            total_ms: milliseconds(total),
            user: self.asked.caller(),
            user_agent: self.user_agent.as_deref(),
        });
    }
}

/// The body of an answer, counted.
struct Leaving {
    body: Body,
    announced: Option<u64>,
    record: Record,
    place: Option<Place>,
    departure: Departure,
    /// Bytes that the client has not taken yet.
    given: u64,
}

impl hyper::body::Body for Leaving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.departure.is_wanted();
        if let Some(Place(place)) = &self.place {
            place.pace().moved(self.given);
        }
        self.given = 0;
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.departure.is_given();
        self.given =
            frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref().map(Bytes::len)).unwrap_or(0) as u64;
        if let Some(Place(place)) = &self.place {
            place.pace().waits();
        }
        let ended = self.body.is_end_stream();
        let announced = self.announced;
        if let Some(answer) = &mut self.record.answer {
            match &frame {
                None => answer.whole = true,
                Some(Ok(frame)) => {
                    answer.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                    // HTTP/1 asks for no more than was announced.
                    answer.whole = ended || announced == Some(answer.bytes);
                }
                Some(Err(_)) => answer.whole = false,
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(TEXT_LIMIT).collect()
}

fn user_agent(headers: &HeaderMap) -> Option<String> {
    headers.get(USER_AGENT)?.to_str().ok().map(shortened)
}

/// What a path is about, without the names in it: their number is not ours to limit.
fn route(path: &str, matched: Option<&MatchedPath>) -> String {
    match path.strip_prefix("/v2") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => of_registry(rest).to_owned(),
        _ => matched.map_or("other", MatchedPath::as_str).to_owned(),
    }
}

/// From the right: a repository may well be called `team/manifests/list`.
fn of_registry(rest: &str) -> &'static str {
    let parts: Vec<&str> = rest.rsplit('/').take(3).collect();
    match parts.as_slice() {
        [] | [""] | ["", ""] => "/v2/",
        ["auth", ""] => "/v2/auth",
        ["_catalog", ""] => "/v2/_catalog",
        ["list", "tags", ..] => "/v2/{name}/tags/list",
        ["uploads", "blobs", ..] | [_, "uploads", "blobs"] => "/v2/{name}/blobs/uploads/",
        [_, "manifests", ..] => "/v2/{name}/manifests/{reference}",
        [_, "blobs", ..] => "/v2/{name}/blobs/{digest}",
        [_, "referrers", ..] => "/v2/{name}/referrers/{digest}",
        _ => "/v2/…",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_have_no_names_in_them() {
        for (path, expected) in [
            ("/v2", "/v2/"),
            ("/v2/", "/v2/"),
            ("/v2/auth", "/v2/auth"),
            ("/v2/_catalog", "/v2/_catalog"),
            ("/v2/a/b/tags/list", "/v2/{name}/tags/list"),
            ("/v2/a/manifests/tags/list", "/v2/{name}/tags/list"),
            ("/v2/a/manifests/latest", "/v2/{name}/manifests/{reference}"),
            ("/v2/a/blobs/sha256:0", "/v2/{name}/blobs/{digest}"),
            ("/v2/a/blobs/uploads/", "/v2/{name}/blobs/uploads/"),
            ("/v2/a/blobs/uploads", "/v2/{name}/blobs/uploads/"),
            ("/v2/a/blobs/uploads/0-1", "/v2/{name}/blobs/uploads/"),
            ("/v2/a/referrers/sha256:0", "/v2/{name}/referrers/{digest}"),
            ("/v2/a", "/v2/…"),
            ("/v2x", "other"),
            ("/favicon.ico", "other"),
        ] {
            assert_eq!(route(path, None), expected, "{path}");
        }
    }
}

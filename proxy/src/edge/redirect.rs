//! Clients that come by http are sent to https: the same host, path and query.
//!
//! Invariant: a method and its body are kept (308), except where any client of any age understands 301: for what only
//! reads.

use std::time::Instant;

use http::header::{CONTENT_LENGTH, LOCATION};
use http::uri::Authority;
use http::{HeaderValue, StatusCode};
use pingora_core::protocols::http::ServerSession;
use pingora_http::{RequestHeader, ResponseHeader};

use super::body::{self, Body};
use super::client::{self, REQUEST_ID};
use super::gate::Visit;
use super::outcome::Outcome;
use super::record::{Told, Trace};
use super::refusal::Refusal;
use super::respond::is_read;
use crate::front::Reuse;

/// Answers with the redirect.
pub(super) async fn answer(session: &mut ServerSession, visit: &Visit<'_>, port: u16) -> Reuse {
    let trace = Trace::default();
    let request = session.req_header();
    let header = target(request, port).and_then(|target| header(request, &target, visit.begun.id.as_str()));
    let Some(header) = header else {
        return visit.answer(session, &trace, Err(Refusal::Malformed.into())).await;
    };
    let status = header.status;
    let sent = body::send(session, Box::new(header), Body::Empty, visit.begun.id.as_str()).await;
    let told = Told {
        outcome: Outcome::None,
        reason: Some("to https"),
        status: Some(status),
        bytes: 0,
        first_byte: sent.first_byte.max(Instant::now()),
        complete: sent.complete,
    };
    visit.end(session, &trace, &told)
}

fn header(request: &RequestHeader, target: &str, id: &str) -> Option<ResponseHeader> {
    let status = if is_read(&request.method) { StatusCode::MOVED_PERMANENTLY } else { StatusCode::PERMANENT_REDIRECT };
    let mut header = ResponseHeader::build_no_case(status, Some(4)).ok()?;
    header.insert_header(LOCATION, HeaderValue::from_str(target).ok()?).ok()?;
    header.insert_header(CONTENT_LENGTH, 0).ok()?;
    header.insert_header(REQUEST_ID, id).ok()?;
    Some(header)
}

/// Where to; `None` for a request that names no host or no path. Pure.
fn target(request: &RequestHeader, port: u16) -> Option<String> {
    let authority: Authority = client::host(&request.uri, &request.headers)?.parse().ok()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let path = request.uri.path_and_query()?.as_str();
    if !path.starts_with('/') {
        return None;
    }
    let host = authority.host();
    Some(if port == 443 { format!("https://{host}{path}") } else { format!("https://{host}:{port}{path}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_path_and_query_are_kept() {
        for (host, path, port, expected) in [
            (Some("a.example"), "/v2/?n=1", 443, Some("https://a.example/v2/?n=1")),
            (Some("a.example:8080"), "/", 443, Some("https://a.example/")),
            (Some("a.example:8080"), "/x", 8443, Some("https://a.example:8443/x")),
            (Some("[2001:db8::1]:80"), "/x", 443, Some("https://[2001:db8::1]/x")),
            (Some("user@a.example"), "/x", 443, None),
            (Some("a.example/evil"), "/x", 443, None),
            (Some(""), "/x", 443, None),
            (None, "/x", 443, None),
            (Some("a.example"), "*", 443, None),
        ] {
            let method = if path == "*" { "OPTIONS" } else { "GET" };
            let mut request = RequestHeader::build(method, path.as_bytes(), None).unwrap();
            if let Some(host) = host {
                request.insert_header("host", host).unwrap();
            }
            assert_eq!(target(&request, port).as_deref(), expected, "{host:?} {path}");
        }
    }

    #[test]
    fn methods_are_kept() {
        for (method, status) in [("GET", 301), ("HEAD", 301), ("POST", 308), ("PUT", 308)] {
            let request = RequestHeader::build(method, b"/", None).unwrap();
            assert_eq!(header(&request, "https://a/", "id").unwrap().status.as_u16(), status);
        }
    }
}

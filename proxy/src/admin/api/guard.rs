//! Who may use the API: whoever brings the token, and, where none is configured, whoever is on this machine and is not a
//! web page.
//!
//! A browser sends what any page wants to any address that it can reach, loopback included. So a request that a page
//! could have made is refused: one that comes from a page of another site, one that names a host that only a name server
//! could have led here (DNS rebinding), and one that changes something without a content type that needs asking first.

use std::net::IpAddr;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use axum::http::{HeaderMap, Method, header};
use pierhead_config::Secret;

use super::error::ApiError;

/// How long somebody who brings the wrong token waits for the answer. Connections have a number, so this is what limits
/// guessing.
pub(super) const SLOWED: Duration = Duration::from_secs(1);

const JSON: &str = "application/json";

/// The rule.
pub(super) struct Guard {
    token: Option<Digest>,
}

impl Guard {
    /// With the token that is configured.
    pub(super) fn new(token: Option<&Secret>) -> Guard {
        Guard { token: token.map(|token| digest(&SHA256, token.reveal().as_bytes())) }
    }

    /// Whether a request may go on.
    pub(super) fn admit(&self, method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
        let text = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
        let host = text(header::HOST).unwrap_or_default();
        if text(header::ORIGIN).is_some_and(|origin| !is_same(origin, host)) {
            return Err(ApiError::Forbidden("a page of another site may not use this API"));
        }
        let site = headers.get("sec-fetch-site").map(header::HeaderValue::as_bytes);
        if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
            return Err(ApiError::Forbidden("a page of another site may not use this API"));
        }
        match &self.token {
            Some(token) => {
                let given = text(header::AUTHORIZATION).and_then(bearer).ok_or(ApiError::Unauthorized)?;
                // Of equal length whatever was given, so that the time says nothing of the token's length either.
                let given = digest(&SHA256, given.as_bytes());
                verify_slices_are_equal(token.as_ref(), given.as_ref()).map_err(|_| ApiError::Unauthorized)?;
            }
            None if !is_local(host) => {
                return Err(ApiError::Forbidden(
                    "without a token, the API is only for requests to localhost or to an address",
                ));
            }
            None => {}
        }
        let content_type = text(header::CONTENT_TYPE).and_then(|value| value.split(';').next()).map(str::trim);
        if !method.is_safe() && !content_type.is_some_and(|kind| kind.eq_ignore_ascii_case(JSON)) {
            return Err(ApiError::Forbidden("what changes something must be sent as application/json"));
        }
        Ok(())
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether a page's origin is this listener.
fn is_same(origin: &str, host: &str) -> bool {
    origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
}

/// Whether nobody else's name server can have led here.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(token: Option<&str>, method: Method, given: &[(&'static str, &'static str)]) -> Result<(), &'static str> {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.insert(*name, value.parse().unwrap());
        }
        let token = token.map(Secret::new);
        match Guard::new(token.as_ref()).admit(&method, &headers) {
            Ok(()) => Ok(()),
            Err(ApiError::Unauthorized) => Err("unauthorized"),
            Err(_) => Err("forbidden"),
        }
    }

    #[test]
    fn without_a_token_it_is_for_this_machine_and_not_for_pages() {
        let json = ("content-type", "application/json; charset=utf-8");
        for (method, given, expected) in [
            (Method::GET, &[("host", "127.0.0.1:9090")][..], Ok(())),
            (Method::GET, &[("host", "[::1]:9090")], Ok(())),
            (Method::GET, &[("host", "localhost:9090")], Ok(())),
            (Method::GET, &[("host", "LOCALHOST")], Ok(())),
            (Method::GET, &[("host", "evil.example:9090")], Err("forbidden")),
            (Method::GET, &[("host", "127.0.0.1.evil.example")], Err("forbidden")),
            (Method::GET, &[("host", "localhost.evil.example:9090")], Err("forbidden")),
            (Method::GET, &[], Err("forbidden")),
            (Method::GET, &[("host", "localhost:1"), ("origin", "https://evil.example")], Err("forbidden")),
            (Method::GET, &[("host", "localhost:1"), ("origin", "null")], Err("forbidden")),
            (Method::GET, &[("host", "localhost:1"), ("origin", "http://localhost:2")], Err("forbidden")),
            (Method::GET, &[("host", "localhost:1"), ("origin", "http://localhost:1")], Ok(())),
            (Method::GET, &[("host", "localhost:1"), ("sec-fetch-site", "cross-site")], Err("forbidden")),
            (Method::GET, &[("host", "localhost:1"), ("sec-fetch-site", "same-site")], Err("forbidden")),
            (Method::GET, &[("host", "localhost:1"), ("sec-fetch-site", "none")], Ok(())),
            (Method::POST, &[("host", "localhost:1"), json], Ok(())),
            (Method::POST, &[("host", "localhost:1")], Err("forbidden")),
            (Method::POST, &[("host", "localhost:1"), ("content-type", "text/plain")], Err("forbidden")),
            (Method::DELETE, &[("host", "localhost:1"), ("content-type", "text/plain")], Err("forbidden")),
        ] {
            assert_eq!(admit(None, method.clone(), given), expected, "{method} {given:?}");
        }
    }

    #[test]
    fn with_a_token_it_is_for_whoever_brings_it() {
        for (given, expected) in [
            (&[("authorization", "Bearer secret")][..], Ok(())),
            (&[("authorization", "bearer secret"), ("host", "edge.example.com")], Ok(())),
            (&[("authorization", "Bearer secre")], Err("unauthorized")),
            (&[("authorization", "Bearer secret2")], Err("unauthorized")),
            (&[("authorization", "Bearer ")], Err("unauthorized")),
            (&[("authorization", "Basic secret")], Err("unauthorized")),
            (&[("authorization", "secret")], Err("unauthorized")),
            (&[("host", "localhost:9090")], Err("unauthorized")),
            (&[("authorization", "Bearer secret"), ("origin", "https://evil.example")], Err("forbidden")),
        ] {
            assert_eq!(admit(Some("secret"), Method::GET, given), expected, "{given:?}");
        }
        assert_eq!(admit(Some("secret"), Method::POST, &[("authorization", "Bearer secret")]), Err("forbidden"));
    }
}

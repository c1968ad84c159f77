//! Who a client is, and what it asked for, when others passed its request on. Pure.
//!
//! Invariant: what a request says of its own way is believed only when it comes from a trusted proxy, and then only as
//! far back as the first hop that is none. Whoever is named by a PROXY header counts as the one the request comes from:
//! a load balancer that works on connections does not look at headers, so its clients could write into them what they
//! like.

use std::net::IpAddr;

use http::header::FORWARDED;
use http::uri::Authority;
use http::{HeaderMap, HeaderName};
use pierhead_registry::oci::Endpoint;
pub(crate) use pierhead_service::told::{
    FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PORT, FORWARDED_PROTO, REQUEST_ID, behind, canonical_host, given_id, host,
    is_authority,
};

/// All headers that tell of a request's way here.
pub(crate) const TOLD: [HeaderName; 6] =
    [FORWARDED, FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST, FORWARDED_PORT, REQUEST_ID];

/// Whether a header tells where a request comes from, or which client was let in, in the way of some proxy: from a client it is a claim that
/// its server may take for the edge's word.
pub(crate) fn is_claim(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-forwarded-") || matches!(name.as_str(), "x-real-ip" | "x-client-ip" | "true-client-ip")
}

/// Room for what one hop tells: hardly any tells more.
const HOP_LENGTH: usize = 96;

/// The repository that a path is about, as the client names it.
pub(crate) fn repository(path: &str) -> Option<String> {
    match Endpoint::parse(path).ok()? {
        Endpoint::Repository { name, .. } => Some(name),
        Endpoint::Ping | Endpoint::Catalog => None,
    }
}

/// What the last hop tells of the way: the one that our own connection shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hop<'a> {
    /// Who connected.
    pub(crate) from: IpAddr,
    /// Where.
    pub(crate) port: u16,
    /// Whether over TLS.
    pub(crate) secure: bool,
    /// The host that was asked for.
    pub(crate) host: Option<&'a str>,
}

/// The way of a request, as its server is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way<'a> {
    /// `X-Forwarded-For`
    pub(crate) hops: String,
    /// `Forwarded`
    pub(crate) forwarded: String,
    /// `X-Forwarded-Proto`
    pub(crate) scheme: &'static str,
    /// `X-Forwarded-Host`
    pub(crate) host: Option<&'a str>,
    /// `X-Forwarded-Port`
    pub(crate) port: u16,
    /// Whether a proxy told it that is believed.
    pub(crate) trusted: bool,
}

impl<'a> Way<'a> {
    /// Of a request with these headers. `trusted`: whether it came from a proxy that is.
    pub(crate) fn new(hop: &Hop<'a>, headers: &'a HeaderMap, trusted: bool) -> Way<'a> {
        let from = hop.from.to_canonical();
        let told = |name: &HeaderName| match trusted {
            true => headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim),
            false => None,
        };
        let scheme = match told(&FORWARDED_PROTO) {
            Some(scheme) if scheme.eq_ignore_ascii_case("https") => "https",
            Some(scheme) if scheme.eq_ignore_ascii_case("http") => "http",
            _ if hop.secure => "https",
            _ => "http",
        };
        let host = told(&FORWARDED_HOST).filter(|host| is_authority(host)).or(hop.host);
        let port = told(&FORWARDED_PORT)
            .and_then(|port| port.parse().ok())
            .unwrap_or_else(|| port_used(hop.port, host, scheme));
        let node = from.to_string();
        let mut hops = earlier(headers, &FORWARDED_FOR, trusted);
        hops.push_str(&node);
        let mut forwarded = earlier(headers, &FORWARDED, trusted);
        let mut tell = |parts: &[&str]| parts.iter().for_each(|part| forwarded.push_str(part));
        match from {
            IpAddr::V4(_) => tell(&["for=", &node]),
            IpAddr::V6(_) => tell(&["for=\"[", &node, "]\""]),
        }
        if let Some(host) = hop.host.filter(|host| is_authority(host)) {
            match host.contains([':', '[']) {
                true => tell(&[";host=\"", host, "\""]),
                false => tell(&[";host=", host]),
            }
        }
        tell(&[";proto=", if hop.secure { "https" } else { "http" }]);
        Way { hops, forwarded, scheme, host, port, trusted }
    }
}

/// The port that the client used. Where ports are mapped, it is not the one that it reached here: its `Host` says it, unless it is the
/// scheme's own.
fn port_used(reached: u16, host: Option<&str>, scheme: &str) -> u16 {
    let Some(authority) = host.and_then(|host| host.parse::<Authority>().ok()) else { return reached };
    authority.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 })
}

/// The hops before, as they are told, with a comma behind; nothing when they are not to be believed.
fn earlier(headers: &HeaderMap, name: &HeaderName, trusted: bool) -> String {
    let mut told = String::with_capacity(HOP_LENGTH);
    if trusted {
        for line in headers.get_all(name).iter().filter_map(|line| line.to_str().ok()) {
            told.push_str(line.trim());
            told.push_str(", ");
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn the_way_is_told_and_not_taken_from_strangers() {
        let hop = Hop { from: "192.0.2.1".parse().unwrap(), port: 443, secure: true, host: Some("a.example:8443") };
        let lies = headers(&[
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-port", "1"),
            ("forwarded", "for=127.0.0.1"),
        ]);
        let told = Way::new(&hop, &lies, false);
        assert_eq!(told.hops, "192.0.2.1");
        assert_eq!(told.forwarded, "for=192.0.2.1;host=\"a.example:8443\";proto=https");
        assert_eq!((told.scheme, told.host, told.port), ("https", Some("a.example:8443"), 8443));
        // 443 may be mapped to another port of this machine.
        for (port, host, secure, expected) in [
            (8443, Some("a.example"), true, 443),
            (8080, Some("a.example"), false, 80),
            (8080, Some("[2001:db8::1]:99"), false, 99),
            (8080, Some("[2001:db8::1]"), false, 80),
            (8080, None, false, 8080),
        ] {
            let told = Way::new(&Hop { port, host, secure, ..hop }, &lies, false);
            assert_eq!(told.port, expected, "{host:?} at {port}");
        }
        let told = Way::new(&Hop { secure: false, ..hop }, &lies, true);
        assert_eq!(told.hops, "127.0.0.1, 192.0.2.1");
        assert_eq!(told.forwarded, "for=127.0.0.1, for=192.0.2.1;host=\"a.example:8443\";proto=http");
        assert_eq!((told.scheme, told.host, told.port), ("http", Some("evil.example"), 1));
        let six = Hop { from: "2001:db8::1".parse().unwrap(), host: Some("a\"b"), ..hop };
        let odd = headers(&[("x-forwarded-proto", "ftp"), ("x-forwarded-host", "a;b")]);
        let told = Way::new(&six, &odd, true);
        assert_eq!(told.forwarded, "for=\"[2001:db8::1]\";proto=https");
        assert_eq!((told.scheme, told.host), ("https", Some("a\"b")));
    }
}

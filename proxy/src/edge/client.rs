//! Who a client is, and what it asked for, when others passed its request on. Pure.
//!
//! Invariant: what a request says of its own way is believed only when it comes from a trusted proxy, and then only as
//! far back as the first hop that is none. Whoever is named by a PROXY header counts as the one the request comes from:
//! a load balancer that works on connections does not look at headers, so its clients could write into them what they
//! like.

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use ipnet::IpNet;
use pierhead_registry::oci::Endpoint;

use crate::front::contains;

/// Lists of hops.
pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The scheme that the client used.
pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The host that it asked for.
pub(crate) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The port that it connected to.
pub(crate) const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
/// The name of the request.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// All headers that tell of a request's way here.
pub(crate) const TOLD: [HeaderName; 6] =
    [FORWARDED, FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST, FORWARDED_PORT, REQUEST_ID];

/// Hops that are looked at.
const HOPS: usize = 32;
/// Room for what one hop tells: hardly any tells more.
const HOP_LENGTH: usize = 96;
/// Longest name of a request that is taken over.
const ID_LIMIT: usize = 64;

/// The client behind the proxies that are trusted: the last hop that is not one of them. `None`: nobody says.
pub(crate) fn behind(headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let mut farthest = None;
    let lines: Vec<&HeaderValue> = headers.get_all(FORWARDED_FOR).iter().collect();
    let hops = lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|c| *c == b','));
    for hop in hops.take(HOPS) {
        // What is no address was not written by a proxy that we know.
        let Some(address) = address(hop) else { break };
        farthest = Some(address);
        if !contains(trusted, address) {
            break;
        }
    }
    farthest
}

/// An address, perhaps with a port.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let plain = text.parse().ok();
    let with_port = || text.parse().ok().map(|address: SocketAddr| address.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    plain.or_else(with_port).or_else(bracketed).map(|address: IpAddr| address.to_canonical())
}

/// A name for the request that a trusted proxy gave it.
pub(crate) fn given_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    (!id.is_empty() && id.len() <= ID_LIMIT && id.bytes().all(plain)).then_some(id)
}

/// The host that a request is for, with its port where it has one.
pub(crate) fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => headers.get(HOST)?.to_str().ok(),
    }
}

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
        let port = told(&FORWARDED_PORT).and_then(|port| port.parse().ok()).unwrap_or(hop.port);
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
        Way { hops, forwarded, scheme, host, port }
    }
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

/// Whether a text can be a host with or without a port, and needs no escaping anywhere.
fn is_authority(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b':' | b'[' | b']'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn the_client_is_the_last_hop_that_is_not_trusted() {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        for (lines, expected) in [
            (&[][..], None),
            (&["192.0.2.1"], Some("192.0.2.1")),
            (&["198.51.100.7, 192.0.2.1"], Some("192.0.2.1")),
            (&["198.51.100.7, 192.0.2.1, 10.0.0.1,10.0.0.2"], Some("192.0.2.1")),
            (&["198.51.100.7", "192.0.2.1, 10.0.0.1", "10.0.0.2"], Some("192.0.2.1")),
            (&["10.0.0.3, 10.0.0.2"], Some("10.0.0.3")),
            (&["192.0.2.1:1234, [2001:db8::1]:99"], Some("192.0.2.1")),
            (&["192.0.2.9, [2001:db9::1], ::ffff:10.0.0.1"], Some("2001:db9::1")),
            (&["192.0.2.1, unknown, 10.0.0.2"], Some("10.0.0.2")),
            (&["unknown"], None),
            (&[""], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
            }
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(behind(&headers, &trusted), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_name_is_taken_over_when_it_is_one() {
        for (id, taken) in [("7b1e-A_.9", true), ("", false), ("a b", false), ("a\"b", false), (&"x".repeat(65), false)]
        {
            assert_eq!(given_id(&headers(&[("x-request-id", id)])), taken.then_some(id));
        }
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
        assert_eq!((told.scheme, told.host, told.port), ("https", Some("a.example:8443"), 443));
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

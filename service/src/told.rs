//! Who a client is, and what it asked for, as those tell who passed its request on. Pure.
//!
//! Invariant: what a request says of its own way is believed only as far back as the first hop that is no trusted proxy. Whether
//! the one that it comes from is trusted is for callers to ask first.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use ipnet::IpNet;

/// Lists of hops.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The scheme that the client used.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The host that it asked for.
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The port that it connected to.
pub const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
/// The name of the request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Hops that are looked at.
const HOPS: usize = 32;
/// Longest name of a request that is taken over.
const ID_LIMIT: usize = 64;

/// Whether an address is in any of the networks.
pub fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// The client behind the proxies that are trusted: the last hop that is not one of them. `None`: nobody says.
pub fn behind(headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
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
pub fn address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let plain = text.parse().ok();
    let with_port = || text.parse().ok().map(|address: SocketAddr| address.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    plain.or_else(with_port).or_else(bracketed).map(|address: IpAddr| address.to_canonical())
}

/// A name for the request that a trusted proxy gave it.
pub fn given_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    (!id.is_empty() && id.len() <= ID_LIMIT && id.bytes().all(plain)).then_some(id)
}

/// The host that a request is for, with its port where it has one.
pub fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => headers.get(HOST)?.to_str().ok(),
    }
}

/// A host as hosts are compared: in lower case, without the dot that ends a fully qualified name (RFC 3986, section 3.2.2), and with
/// its port in one spelling (`:0443` is `:443`, `:` is none).
pub fn canonical_host(host: &str) -> Cow<'_, str> {
    let is_port = |name: &str, port: &str| {
        port.bytes().all(|c| c.is_ascii_digit()) && (name.ends_with(']') || !name.contains(':'))
    };
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if is_port(name, port) => (name, Some(port)),
        _ => (host, None),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let port = port.filter(|port| !port.is_empty());
    let plain = !name.bytes().any(|c| c.is_ascii_uppercase()) && port.is_none_or(|port| !port.starts_with('0'));
    match port {
        None if plain && name.len() == host.len() => Cow::Borrowed(host),
        None => Cow::Owned(name.to_ascii_lowercase()),
        Some(port) if plain && name.len() + 1 + port.len() == host.len() => Cow::Borrowed(host),
        Some(port) => {
            let digits = port.trim_start_matches('0');
            let port = if digits.is_empty() { "0" } else { digits };
            Cow::Owned(format!("{}:{port}", name.to_ascii_lowercase()))
        }
    }
}

/// Whether a text can be a host with or without a port, and needs no escaping anywhere.
pub fn is_authority(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b':' | b'[' | b']'))
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn hosts_are_compared_in_one_spelling() {
        for (host, expected) in [
            ("b.example.com", "b.example.com"),
            ("b.example.com.", "b.example.com"),
            ("B.Example.COM", "b.example.com"),
            ("b.example.com:8443", "b.example.com:8443"),
            ("b.example.com.:8443", "b.example.com:8443"),
            ("B.example.com.:08443", "b.example.com:8443"),
            ("b.example.com:", "b.example.com"),
            ("b.example.com.:", "b.example.com"),
            ("b.example.com:0", "b.example.com:0"),
            ("b.example.com:000", "b.example.com:0"),
            ("b.example.com..", "b.example.com."),
            ("[2001:DB8::1]", "[2001:db8::1]"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("2001:db8::1", "2001:db8::1"),
            ("b.example.com:x", "b.example.com:x"),
            (".", ""),
            ("", ""),
        ] {
            assert_eq!(canonical_host(host), expected, "{host:?}");
        }
    }

    #[test]
    fn a_name_is_taken_over_when_it_is_one() {
        for (id, taken) in [("7b1e-A_.9", true), ("", false), ("a b", false), ("a\"b", false), (&"x".repeat(65), false)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(id).unwrap());
            assert_eq!(given_id(&headers), taken.then_some(id));
        }
    }
}

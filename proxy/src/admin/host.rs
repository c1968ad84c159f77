//! The host that a request to the operators' listener names.
//!
//! Invariant: a request names one host, in one spelling, or gets 400. What guards the API decides by that name whether a web
//! page may have sent the request (DNS rebinding), so nothing may read another name from the request than the guard does:
//! no second Host line, no user before an `@`, no list, and no absolute target that differs (RFC 9112, section 3.2).

use std::net::Ipv6Addr;

use axum::http::{HeaderMap, Uri, Version, header};

/// What is wrong with the host of a request; `None`: it names one host, or none in HTTP/1.0.
pub(super) fn problem(version: Version, uri: &Uri, headers: &HeaderMap) -> Option<&'static str> {
    let mut lines = headers.get_all(header::HOST).iter();
    let Some(line) = lines.next() else {
        return (version >= Version::HTTP_11).then_some("a request of HTTP/1.1 needs a Host header");
    };
    if lines.next().is_some() {
        return Some("a request has one Host header");
    }
    let Some(host) = line.to_str().ok().filter(|host| is_host(host)) else {
        return Some("the Host header is no host with an optional port");
    };
    match uri.authority() {
        Some(authority) if !authority.as_str().eq_ignore_ascii_case(host) => {
            Some("the Host header and the request's target name different hosts")
        }
        _ => None,
    }
}

/// `name`, `192.0.2.1` or `[2001:db8::1]`, then perhaps `:port`.
fn is_host(text: &str) -> bool {
    let (is_name, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((address, rest))) => (address.parse::<Ipv6Addr>().is_ok(), rest),
        Some(None) => return false,
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let is_name = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
            (!name.is_empty() && name.bytes().all(is_name), port)
        }
    };
    let is_port = |port: &str| port.bytes().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok();
    is_name && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_one_host_in_one_spelling() {
        for (version, target, hosts, good) in [
            (Version::HTTP_11, "/", &["localhost:9090"][..], true),
            (Version::HTTP_11, "/", &["127.0.0.1"], true),
            (Version::HTTP_11, "/", &["[::1]:9090"], true),
            (Version::HTTP_11, "/", &["edge_1.example.com."], true),
            (Version::HTTP_11, "http://localhost:9090/", &["LOCALHOST:9090"], true),
            (Version::HTTP_10, "/", &[], true),
            (Version::HTTP_11, "/", &[], false),
            (Version::HTTP_11, "/", &[""], false),
            (Version::HTTP_11, "/", &["localhost:1@evil"], false),
            (Version::HTTP_11, "/", &["evil@localhost:1"], false),
            (Version::HTTP_11, "/", &["localhost:"], false),
            (Version::HTTP_11, "/", &["localhost:+1"], false),
            (Version::HTTP_11, "/", &["localhost:99999"], false),
            (Version::HTTP_11, "/", &["localhost, evil.example"], false),
            (Version::HTTP_11, "/", &["localhost evil.example"], false),
            (Version::HTTP_11, "/", &["localhost/evil"], false),
            (Version::HTTP_11, "/", &["[::1"], false),
            (Version::HTTP_11, "/", &["[::1]evil"], false),
            (Version::HTTP_11, "/", &["::1"], false),
            (Version::HTTP_11, "/", &[":9090"], false),
            (Version::HTTP_11, "/", &["localhost", "localhost"], false),
            (Version::HTTP_11, "/", &["localhost", "evil.example"], false),
            (Version::HTTP_10, "/", &["localhost", "evil.example"], false),
            (Version::HTTP_11, "http://evil.example/", &["localhost"], false),
            (Version::HTTP_11, "http://localhost@evil.example/", &["localhost"], false),
            (Version::HTTP_11, "http://localhost:1/", &["localhost:2"], false),
        ] {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, host.parse().unwrap());
            }
            let problem = problem(version, &target.parse().unwrap(), &headers);
            assert_eq!(problem.is_none(), good, "{version:?} {target} {hosts:?}: {problem:?}");
        }
    }
}

//! Who asks, by which name of ours, and what the request is called. Pure.
//!
//! Invariant: what a request tells of its way is believed only when a trusted proxy sent it, and its `Host` only when that is a name of
//! this registry: `hostname`, one of `aliases`, or the address that the client connected to. All URLs in answers are made by
//! [`Asked::url`] and [`Asked::location`], so that a request cannot make them lead to a foreign host.

use std::net::IpAddr;
use std::sync::OnceLock;

use http::header::{FORWARDED, HOST};
use http::uri::Authority;
use http::{HeaderMap, Uri, Version};
use ipnet::IpNet;
use pierhead_config::OriginConfig;
use pierhead_service::told::{
    FORWARDED_HOST, FORWARDED_PORT, FORWARDED_PROTO, address, behind, contains, given_id, host, is_authority,
};

use super::Connection;

/// Longest host (RFC 1035), with a port.
const HOST_LIMIT: usize = 260;
/// Hops of `Forwarded` that are looked at.
const HOPS: usize = 32;

/// Who asks, and how. There is one for every request, as an extension `Arc<Asked>`.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The client, as far as trusted proxies tell.
    pub(crate) peer: IpAddr,
    /// What the client used: `https` or `http`.
    pub(crate) scheme: &'static str,
    /// The host that it asked for, with its port where it has one, if it is a name of this registry; else the configured one.
    pub(crate) host: String,
    /// Whether the client asked for that host.
    is_ours: bool,
    /// The name of the request, in logs and in the answer.
    pub(crate) request_id: String,
    caller: OnceLock<String>,
}

/// The names of this registry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a> {
    /// What clients call it, with its port.
    pub(super) hostname: &'a str,
    /// What some call it besides.
    pub(super) aliases: &'a [String],
}

impl<'a> Names<'a> {
    /// As configured.
    pub(super) fn of(config: &'a OriginConfig) -> Names<'a> {
        Names { hostname: &config.hostname, aliases: &config.aliases }
    }

    /// Whether a host is this registry, at any port: ports may be mapped on the way. `reached`: where the client connected.
    fn have(&self, host: &str, reached: IpAddr) -> bool {
        let reached = reached.to_canonical();
        let name = without_port(host).trim_end_matches('.');
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let known = [self.hostname].into_iter().chain(self.aliases.iter().map(String::as_str));
        known.map(without_port).any(|known| known.eq_ignore_ascii_case(name))
            || address.is_ok_and(|address| address.to_canonical() == reached)
            || (reached.is_loopback() && name.eq_ignore_ascii_case("localhost"))
    }
}

/// A host without its port. An IPv6 address keeps its brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    }
}

impl Asked {
    /// Of a request.
    pub(super) fn new(
        connection: &Connection,
        uri: &Uri,
        headers: &HeaderMap,
        trusted: &[IpNet],
        names: Names<'_>,
    ) -> Asked {
        let told = match contains(trusted, connection.peer.ip()) {
            true => told(headers, trusted),
            false => Told::default(),
        };
        let own = if connection.secure { "https" } else { "http" };
        let scheme = told.scheme.unwrap_or(own);
        let wanted = host(uri, headers).filter(|host| is_host(host) && names.have(host, connection.reached.ip()));
        // A trusted proxy knows which hosts are this registry.
        let host = told.host.filter(|host| is_host(host)).or(wanted);
        Asked {
            peer: told.peer.unwrap_or(connection.peer.ip().to_canonical()),
            scheme,
            host: host.map_or_else(|| names.hostname.to_owned(), |host| with_port(host, told.port)),
            is_ours: host.is_some(),
            request_id: told.id.map_or_else(new_id, str::to_owned),
            caller: OnceLock::new(),
        }
    }

    /// An absolute URL of ours; `path` begins with a slash.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.host)
    }

    /// Where something of this registry is, for a `Location`. A client that came by a name that is not known here goes on by that name.
    pub(crate) fn location(&self, path: &str) -> String {
        if self.is_ours { self.url(path) } else { path.to_owned() }
    }

    /// Whoever finds out which account asks says so, for the log.
    pub(crate) fn is_by(&self, account: &str) {
        // Whoever said it first was asked first.
        drop(self.caller.set(account.to_owned()));
    }

    /// The account that asks, when somebody knows.
    pub(crate) fn caller(&self) -> Option<&str> {
        self.caller.get().map(String::as_str)
    }
}

/// Whether a request names the host that it is for as RFC 9112, section 3.2, has it: HTTP/1.1 once, others at most once.
pub(super) fn has_one_host(version: Version, headers: &HeaderMap) -> bool {
    let hosts = headers.get_all(HOST).iter().count();
    hosts == 1 || (hosts == 0 && version != Version::HTTP_11)
}

/// What trusted proxies tell.
#[derive(Debug, Default)]
struct Told<'a> {
    peer: Option<IpAddr>,
    scheme: Option<&'static str>,
    host: Option<&'a str>,
    /// That the client connected to.
    port: Option<u16>,
    id: Option<&'a str>,
}

/// Whether a text can stand as a host in a URL.
fn is_host(text: &str) -> bool {
    text.len() <= HOST_LIMIT && is_authority(text) && text.parse::<Authority>().is_ok() && !text.ends_with(':')
}

/// A host with the port that a proxy tells, for it may have written the `Host` anew without it. The default ports are not told apart
/// from those of a proxy that speaks another scheme than the client, and need not be written.
fn with_port(host: &str, port: Option<u16>) -> String {
    match port {
        Some(port) if without_port(host) == host && ![80, 443].contains(&port) => format!("{host}:{port}"),
        _ => host.to_owned(),
    }
}

fn told<'a>(headers: &'a HeaderMap, trusted: &[IpNet]) -> Told<'a> {
    let last = |name| headers.get_all(name).iter().next_back()?.to_str().ok()?.rsplit(',').next().map(str::trim);
    let mut told = Told {
        peer: behind(headers, trusted),
        scheme: last(&FORWARDED_PROTO).and_then(scheme),
        host: last(&FORWARDED_HOST),
        port: last(&FORWARDED_PORT).and_then(|port| port.parse().ok()).filter(|port| *port != 0),
        id: given_id(headers),
    };
    // Most proxies know only the older headers, and pass on what a client wrote into this one.
    if told.peer.is_none() && told.scheme.is_none() && told.host.is_none() && told.port.is_none() {
        forwarded(headers, trusted, &mut told);
    }
    told
}

fn scheme(text: &str) -> Option<&'static str> {
    ["https", "http"].into_iter().find(|scheme| scheme.eq_ignore_ascii_case(text))
}

/// `Forwarded` (RFC 7239), from the last hop back to the first that is no trusted proxy.
fn forwarded<'a>(headers: &'a HeaderMap, trusted: &[IpNet], told: &mut Told<'a>) {
    let lines: Vec<&str> = headers.get_all(FORWARDED).iter().filter_map(|line| line.to_str().ok()).collect();
    let hops = lines.iter().rev().flat_map(|line| line.rsplit(','));
    for hop in hops.take(HOPS) {
        let mut from = None;
        for pair in hop.split(';') {
            let Some((name, value)) = pair.split_once('=') else { continue };
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "for" => from = address(value.as_bytes()),
                "proto" => told.scheme = scheme(value).or(told.scheme),
                "host" => told.host = Some(value),
                _ => {}
            }
        }
        // What is no address was not written by a proxy that we know.
        let Some(from) = from else { break };
        told.peer = Some(from);
        if !contains(trusted, from) {
            break;
        }
    }
}

fn new_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const ALIASES: &str = "registry.internal:5000";

    fn asked(peer: &str, secure: bool, lines: &[(&'static str, &'static str)]) -> Asked {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let connection = Connection {
            peer: format!("{peer}:99").parse().unwrap(),
            reached: "10.0.0.9:5000".parse().unwrap(),
            secure,
            lane: None,
            departures: Default::default(),
        };
        let (trusted, aliases) = (["10.0.0.0/8".parse().unwrap()], [ALIASES.to_owned()]);
        let names = Names { hostname: "r.example", aliases: &aliases };
        Asked::new(&connection, &Uri::from_static("/v2/"), &headers, &trusted, names)
    }

    #[test]
    fn trusted_proxies_are_believed_and_no_other_peers() {
        let told: &[(&str, &str)] = &[
            ("host", "r.example:5000"),
            ("x-forwarded-for", "198.51.100.7, 192.0.2.1, 10.0.0.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "other.example:8443"),
            ("x-forwarded-port", "9443"),
            ("forwarded", "for=203.0.113.9;host=evil.example;proto=http"),
            ("x-request-id", "one"),
        ];
        let believed = asked("10.0.0.1", false, told);
        assert_eq!(believed.peer.to_string(), "192.0.2.1");
        assert_eq!(believed.url("/v2/"), "https://other.example:8443/v2/");
        assert_eq!(believed.request_id, "one");
        let stranger = asked("192.0.2.99", false, told);
        assert_eq!(stranger.peer.to_string(), "192.0.2.99");
        assert_eq!(stranger.url("/v2/"), "http://r.example:5000/v2/");
        assert_eq!(stranger.request_id.len(), 32);
    }

    #[test]
    fn forwarded_counts_where_nothing_else_is_told() {
        for (line, peer, url) in [
            ("for=192.0.2.1;host=r.example;proto=https", "192.0.2.1", "https://r.example/"),
            ("For=\"192.0.2.1:99\"; Host=\"r.example:1\"; Proto=HTTPS", "192.0.2.1", "https://r.example:1/"),
            ("for=192.0.2.1;host=\"[2001:db8::9]:1\"", "192.0.2.1", "http://[2001:db8::9]:1/"),
            ("for=evil;proto=https, for=192.0.2.1;proto=http;host=a, for=10.0.0.3;host=b", "192.0.2.1", "http://a/"),
            ("for=192.0.2.9;host=evil, for=unknown;host=a;proto=https", "10.0.0.1", "https://a/"),
            ("for=\"[2001:db8::1]\"", "2001:db8::1", "http://registry.internal/"),
            ("nonsense", "10.0.0.1", "http://registry.internal/"),
        ] {
            let told = asked("10.0.0.1", false, &[("host", "registry.internal"), ("forwarded", line)]);
            assert_eq!((told.peer.to_string().as_str(), told.url("/").as_str()), (peer, url), "{line}");
        }
    }

    #[test]
    fn a_trusted_proxy_tells_the_port() {
        for (host, port, proto, url) in [
            ("r.example", "8443", "https", "https://r.example:8443/"),
            ("r.example", "443", "https", "https://r.example/"),
            ("r.example", "80", "http", "http://r.example/"),
            // TLS ended at an earlier proxy than the one that wrote the port.
            ("r.example", "80", "https", "https://r.example/"),
            ("r.example:5000", "8443", "https", "https://r.example:5000/"),
            ("[2001:db8::1]", "8443", "https", "https://[2001:db8::1]:8443/"),
            ("[2001:db8::1]:99", "8443", "https", "https://[2001:db8::1]:99/"),
            ("r.example", "1, 8443", "https", "https://r.example:8443/"),
            ("r.example", "0", "https", "https://r.example/"),
            ("r.example", "65536", "https", "https://r.example/"),
            ("r.example", "x", "https", "https://r.example/"),
            ("r.example", "", "https", "https://r.example/"),
            ("evil.example/", "8443", "https", "https://r.example/"),
            ("2001:db8::1", "8443", "https", "https://r.example/"),
            ("r.example:", "8443", "https", "https://r.example/"),
        ] {
            let lines = [("x-forwarded-host", host), ("x-forwarded-port", port), ("x-forwarded-proto", proto)];
            assert_eq!(asked("10.0.0.1", false, &lines).url("/"), url, "{host} {port}");
        }
        // Also where the proxy passes the Host on, and never from others.
        let lines = [("host", "r.example"), ("x-forwarded-port", "8443"), ("forwarded", "host=evil.example")];
        assert_eq!(asked("10.0.0.1", true, &lines).url("/"), "https://r.example:8443/");
        assert_eq!(asked("192.0.2.1", true, &lines).url("/"), "https://r.example/");
    }

    #[test]
    fn a_host_that_is_not_ours_leads_nowhere() {
        for (lines, url, location) in [
            (&[][..], "https://r.example/", "/"),
            (&[("host", "r.example")], "https://r.example/", "https://r.example/"),
            (&[("host", "R.Example.:5000")], "https://R.Example.:5000/", "https://R.Example.:5000/"),
            (&[("host", "registry.internal:81")], "https://registry.internal:81/", "https://registry.internal:81/"),
            (&[("host", "10.0.0.9:6000")], "https://10.0.0.9:6000/", "https://10.0.0.9:6000/"),
            (
                &[("host", "[::ffff:10.0.0.9]:6000")],
                "https://[::ffff:10.0.0.9]:6000/",
                "https://[::ffff:10.0.0.9]:6000/",
            ),
            (&[("host", "evil.example")], "https://r.example/", "/"),
            (&[("host", "evil.example:5000")], "https://r.example/", "/"),
            (&[("host", "r.example.evil.example")], "https://r.example/", "/"),
            (&[("host", "evil-r.example")], "https://r.example/", "/"),
            (&[("host", "r.example@evil.example")], "https://r.example/", "/"),
            (&[("host", "r.example:443:evil")], "https://r.example/", "/"),
            (&[("host", "10.0.0.8")], "https://r.example/", "/"),
            (&[("host", "localhost")], "https://r.example/", "/"),
            (&[("host", "a/b")], "https://r.example/", "/"),
            (&[("host", "evil.example"), ("x-forwarded-host", "evil.example")], "https://r.example/", "/"),
        ] {
            let asked = asked("192.0.2.1", true, lines);
            assert_eq!((asked.url("/").as_str(), asked.location("/").as_str()), (url, location), "{lines:?}");
        }
    }
}

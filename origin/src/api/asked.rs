//! Who asks, by which name of ours, and what the request is called. Pure.
//!
//! Invariant: what a request tells of its way is believed only when a trusted proxy sent it. Absolute URLs in answers are made of
//! [`Asked::url`], so that nobody else can make them lead elsewhere than where the request came.

use std::net::IpAddr;
use std::sync::OnceLock;

use http::header::{FORWARDED, HOST};
use http::{HeaderMap, Uri, Version};
use ipnet::IpNet;
use pierhead_service::told::{
    FORWARDED_HOST, FORWARDED_PROTO, address, behind, contains, given_id, host, is_authority,
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
    /// The host that it asked for, with its port where it has one.
    pub(crate) host: String,
    /// The name of the request, in logs and in the answer.
    pub(crate) request_id: String,
    caller: OnceLock<String>,
}

impl Asked {
    /// Of a request. `hostname`: what this registry is called when the request does not say.
    pub(super) fn new(
        connection: &Connection,
        uri: &Uri,
        headers: &HeaderMap,
        trusted: &[IpNet],
        hostname: &str,
    ) -> Asked {
        let told = match contains(trusted, connection.peer.ip()) {
            true => told(headers, trusted),
            false => Told::default(),
        };
        let own = if connection.secure { "https" } else { "http" };
        let host = told.host.or(host(uri, headers)).filter(|host| host.len() <= HOST_LIMIT && is_authority(host));
        Asked {
            peer: told.peer.unwrap_or(connection.peer.ip().to_canonical()),
            scheme: told.scheme.unwrap_or(own),
            host: host.unwrap_or(hostname).to_owned(),
            request_id: told.id.map_or_else(new_id, str::to_owned),
            caller: OnceLock::new(),
        }
    }

    /// An absolute URL of ours; `path` begins with a slash.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.host)
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
    id: Option<&'a str>,
}

fn told<'a>(headers: &'a HeaderMap, trusted: &[IpNet]) -> Told<'a> {
    let last = |name| headers.get_all(name).iter().next_back()?.to_str().ok()?.rsplit(',').next().map(str::trim);
    let mut told = Told {
        peer: behind(headers, trusted),
        scheme: last(&FORWARDED_PROTO).and_then(scheme),
        host: last(&FORWARDED_HOST),
        id: given_id(headers),
    };
    // Most proxies know only the older headers, and pass on what a client wrote into this one.
    if told.peer.is_none() && told.scheme.is_none() && told.host.is_none() {
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

    fn asked(peer: &str, secure: bool, lines: &[(&'static str, &'static str)]) -> Asked {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let connection = Connection {
            peer: format!("{peer}:99").parse().unwrap(),
            secure,
            lane: None,
            departures: Default::default(),
        };
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        Asked::new(&connection, &Uri::from_static("/v2/"), &headers, &trusted, "r.example")
    }

    #[test]
    fn trusted_proxies_are_believed_and_nobody_else() {
        let told: &[(&str, &str)] = &[
            ("host", "inside:5000"),
            ("x-forwarded-for", "198.51.100.7, 192.0.2.1, 10.0.0.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "r.example:8443"),
            ("forwarded", "for=203.0.113.9;host=evil.example;proto=http"),
            ("x-request-id", "one"),
        ];
        let believed = asked("10.0.0.1", false, told);
        assert_eq!(believed.peer.to_string(), "192.0.2.1");
        assert_eq!(believed.url("/v2/"), "https://r.example:8443/v2/");
        assert_eq!(believed.request_id, "one");
        let stranger = asked("192.0.2.99", false, told);
        assert_eq!(stranger.peer.to_string(), "192.0.2.99");
        assert_eq!(stranger.url("/v2/"), "http://inside:5000/v2/");
        assert_eq!(stranger.request_id.len(), 32);
    }

    #[test]
    fn forwarded_counts_where_nothing_else_is_told() {
        for (line, peer, url) in [
            ("for=192.0.2.1;host=r.example;proto=https", "192.0.2.1", "https://r.example/"),
            ("For=\"192.0.2.1:99\"; Host=\"r.example:1\"; Proto=HTTPS", "192.0.2.1", "https://r.example:1/"),
            ("for=evil;proto=https, for=192.0.2.1;proto=http;host=a, for=10.0.0.3;host=b", "192.0.2.1", "http://a/"),
            ("for=192.0.2.9;host=evil, for=unknown;host=a;proto=https", "10.0.0.1", "https://a/"),
            ("for=\"[2001:db8::1]\"", "2001:db8::1", "http://inside/"),
            ("nonsense", "10.0.0.1", "http://inside/"),
        ] {
            let told = asked("10.0.0.1", false, &[("host", "inside"), ("forwarded", line)]);
            assert_eq!((told.peer.to_string().as_str(), told.url("/").as_str()), (peer, url), "{line}");
        }
    }

    #[test]
    fn without_a_usable_host_it_is_the_configured_one() {
        for (secure, lines, url) in [
            (true, &[][..], "https://r.example/"),
            (false, &[("host", "a/b")][..], "http://r.example/"),
            (false, &[("host", "a"), ("x-forwarded-host", "b\"c")][..], "http://r.example/"),
            (false, &[("x-forwarded-proto", "ftp"), ("host", "a")][..], "http://a/"),
        ] {
            assert_eq!(asked("10.0.0.1", secure, lines).url("/"), url, "{lines:?}");
        }
    }
}

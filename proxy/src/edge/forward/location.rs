//! The `Location` of an answer, put right where its server did not know how it was reached. Pure.
//!
//! A server behind a proxy that ends TLS sends clients to `http://`, and one that does not know its public name to itself.
//! Clients follow neither: the first is a downgrade that they refuse, the second leads nowhere.
//!
//! Invariant: where a server sends clients elsewhere on purpose, to an object store or another host, it is left alone.

use std::net::SocketAddr;

use http::Uri;
use http::uri::Scheme;

/// How the client reached us.
#[derive(Clone, Copy, Debug)]
pub(super) struct Public<'a> {
    /// `https` or `http`.
    pub(super) scheme: &'a str,
    /// Host, with its port where the client wrote one.
    pub(super) host: &'a str,
}

/// The server that answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own<'a> {
    /// Where it is.
    pub(super) address: SocketAddr,
    /// As it is called in the configuration: its address as written, or a name of its own.
    pub(super) name: &'a str,
    /// Whether it is reached over TLS.
    pub(super) secure: bool,
}

/// Where the client is to go instead; `None`: where the server says.
pub(super) fn repaired(location: &str, public: &Public<'_>, own: &Own<'_>) -> Option<String> {
    let target: Uri = location.parse().ok()?;
    let authority = target.authority()?;
    let secure = match target.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP => false,
        Some(scheme) if *scheme == Scheme::HTTPS => true,
        _ => return None,
    };
    if authority.as_str().contains('@') {
        return None;
    }
    let default = |secure: bool| if secure { 443 } else { 80 };
    let port = authority.port_u16().unwrap_or_else(|| default(secure));
    let host = authority.host();
    let public_host = public.host.parse::<http::uri::Authority>().ok()?;
    let itself = {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let address = bare.parse().is_ok_and(|ip: std::net::IpAddr| ip == own.address.ip());
        let named = own.name.rsplit_once(':').map_or(own.name, |(name, _)| name);
        (address || host.eq_ignore_ascii_case(named)) && port == own.address.port() && secure == own.secure
    };
    let asked_for = host.eq_ignore_ascii_case(public_host.host());
    let downgrade = asked_for
        && public.scheme == "https"
        && !secure
        // Its own port says nothing of ours; another one is another service.
        && (authority.port_u16() == public_host.port_u16() || port == 80 || port == own.address.port());
    let inside = itself && (!asked_for || Some(port) != public_host.port_u16());
    if !downgrade && !inside {
        return None;
    }
    let rest = location.split_once("://")?.1;
    let path = rest.find(['/', '?', '#']).map_or("", |at| &rest[at..]);
    Some(format!("{}://{}{path}", public.scheme, public.host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_right_what_cannot_be_meant() {
        let https = Public { scheme: "https", host: "reg.example" };
        let other_port = Public { scheme: "https", host: "reg.example:8443" };
        let http = Public { scheme: "http", host: "reg.example" };
        let own = Own { address: "10.0.0.7:5000".parse().unwrap(), name: "quay01.lan:5000", secure: false };
        for (location, public, expected) in [
            ("/v2/a/blobs/uploads/1?s=2", https, None),
            (
                "http://reg.example/v2/a/blobs/uploads/1?s=2",
                https,
                Some("https://reg.example/v2/a/blobs/uploads/1?s=2"),
            ),
            ("http://reg.example:80/x", https, Some("https://reg.example/x")),
            ("http://REG.example:5000/x", https, Some("https://reg.example/x")),
            ("http://reg.example/x", other_port, Some("https://reg.example:8443/x")),
            ("http://reg.example:8443/x", other_port, Some("https://reg.example:8443/x")),
            ("https://reg.example/x", https, None),
            ("http://reg.example/x", http, None),
            ("https://reg.example/x", http, None),
            ("http://reg.example:9000/x", https, None),
            ("http://10.0.0.7:5000/x#y", https, Some("https://reg.example/x#y")),
            ("http://10.0.0.7:5000/x", http, Some("http://reg.example/x")),
            ("http://quay01.lan:5000", http, Some("http://reg.example")),
            ("http://10.0.0.7:7480/bucket", https, None),
            ("https://s3.example/bucket/blob?sig=1", https, None),
            ("http://s3.example/bucket", https, None),
            ("http://user@reg.example/x", https, None),
            ("ftp://reg.example/x", https, None),
            ("x y", https, None),
        ] {
            assert_eq!(repaired(location, &public, &own).as_deref(), expected, "{location} {public:?}");
        }
    }
}

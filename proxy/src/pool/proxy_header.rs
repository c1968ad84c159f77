//! The PROXY header that tells a server who the client is. Pure.
//!
//! Invariant: a header is whole and of one address family; where there is no client to tell of (a health check), it says
//! so, and a server then takes the connection for our own.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use pierhead_config::ProxyVersion;
use ppp::{v1, v2};

use super::Told;

/// The header, as it is sent.
pub(super) fn encode(version: ProxyVersion, told: Option<&Told>) -> Vec<u8> {
    let addresses = told.map(|told| same_family(told.source, told.destination));
    match version {
        ProxyVersion::V1 => {
            let addresses = addresses.map_or(v1::Addresses::Unknown, v1::Addresses::from);
            addresses.to_string().into_bytes()
        }
        ProxyVersion::V2 => {
            let builder = match addresses {
                Some(addresses) => v2::Builder::with_addresses(
                    v2::Version::Two | v2::Command::Proxy,
                    v2::Protocol::Stream,
                    v2::Addresses::from(addresses),
                ),
                None => v2::Builder::with_addresses(
                    v2::Version::Two | v2::Command::Local,
                    v2::Protocol::Unspecified,
                    v2::Addresses::Unspecified,
                ),
            };
            // It only fails for what is longer than 64 KiB.
            builder.build().unwrap_or_default()
        }
    }
}

/// A header has no way to say that the two are of different families: then both are written as IPv6.
fn same_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (source, destination) = (canonical(source), canonical(destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    (mapped(source), mapped(destination))
}

/// An IPv4 client of a socket that takes both families is an IPv4 client.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::V6(SocketAddrV6::new(ip.to_ipv6_mapped(), address.port(), 0, 0)),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(source: &str, destination: &str) -> Told {
        Told { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    #[test]
    fn version_1_is_a_line() {
        for (source, destination, expected) in [
            ("192.0.2.1:1234", "198.51.100.1:443", "PROXY TCP4 192.0.2.1 198.51.100.1 1234 443\r\n"),
            ("[2001:db8::1]:1234", "[2001:db8::2]:443", "PROXY TCP6 2001:db8::1 2001:db8::2 1234 443\r\n"),
            ("[::ffff:192.0.2.1]:1234", "198.51.100.1:443", "PROXY TCP4 192.0.2.1 198.51.100.1 1234 443\r\n"),
            ("192.0.2.1:1234", "[2001:db8::2]:443", "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1234 443\r\n"),
        ] {
            let header = encode(ProxyVersion::V1, Some(&told(source, destination)));
            assert_eq!(String::from_utf8(header).unwrap(), expected);
        }
        assert_eq!(encode(ProxyVersion::V1, None), b"PROXY UNKNOWN\r\n");
    }

    #[test]
    fn version_2_says_the_same_in_bytes() {
        for (source, destination) in
            [("192.0.2.1:1234", "198.51.100.1:443"), ("[2001:db8::1]:1234", "[2001:db8::2]:443")]
        {
            let told = told(source, destination);
            let bytes = encode(ProxyVersion::V2, Some(&told));
            let header = v2::Header::try_from(bytes.as_slice()).unwrap();
            assert_eq!(header.command, v2::Command::Proxy);
            assert_eq!(header.addresses, v2::Addresses::from((told.source, told.destination)));
            assert_eq!(header.len(), bytes.len());
        }
        let bytes = encode(ProxyVersion::V2, None);
        assert_eq!(v2::Header::try_from(bytes.as_slice()).unwrap().command, v2::Command::Local);
    }
}

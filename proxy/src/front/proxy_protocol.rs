//! The PROXY header that a load balancer puts before a connection, to say who its client is.
//!
//! Invariants: nothing is believed unless the whole header is there and in order; a header has a size; no byte beyond
//! it is lost. Where a header ends is found here and not by the library, which takes half
//! an address of version 1 for a wrong one.

use std::net::SocketAddr;

use bytes::Buf;
use ppp::{v1, v2};

use super::accepted::Accepted;

/// The longest header of version 1, its line end included.
const TEXT_LIMIT: usize = 107;

/// The longest header of version 2. Addresses take 36 bytes; the rest are additions that nobody here reads.
const BINARY_LIMIT: usize = 4 * 1024;

/// What precedes the additions of version 2: signature, command, family, length.
const BINARY_START: usize = 16;

/// Whom a header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Who connected to the load balancer.
    pub(crate) client: SocketAddr,
    /// Where.
    pub(crate) destination: SocketAddr,
}

/// Why a connection is closed instead of read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    /// It ended, or broke, within the header.
    #[error("connection: {0}")]
    Connection(#[from] std::io::Error),
    /// Not a PROXY header.
    #[error("not a PROXY header")]
    Missing,
    /// Begins like one, and is none.
    #[error("malformed PROXY header: {0}")]
    Malformed(String),
    /// Longer than any that makes sense.
    #[error("PROXY header too long")]
    TooLong,
}

/// Takes the header from the start of a connection. `None`: the load balancer speaks for itself.
pub(crate) async fn receive(accepted: &mut Accepted) -> Result<Option<Addresses>, HeaderError> {
    loop {
        if let Some(length) = length(&accepted.received)? {
            let addresses = addresses(&accepted.received[..length])?;
            accepted.received.advance(length);
            return Ok(addresses);
        }
        if accepted.read_more().await? == 0 {
            return Err(HeaderError::Connection(std::io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// The length of the header that `received` starts with, or `None` when it has not all come. Pure.
fn length(received: &[u8]) -> Result<Option<usize>, HeaderError> {
    if starts(received, v2::PROTOCOL_PREFIX) {
        let Some(start) = received.get(..BINARY_START) else { return Ok(None) };
        let length = BINARY_START + usize::from(u16::from_be_bytes([start[14], start[15]]));
        return match length {
            0..=BINARY_LIMIT => Ok((received.len() >= length).then_some(length)),
            _ => Err(HeaderError::TooLong),
        };
    }
    if starts(received, v1::PROTOCOL_PREFIX.as_bytes()) {
        let line = &received[..received.len().min(TEXT_LIMIT)];
        return match line.windows(2).position(|end| end == b"\r\n") {
            Some(end) => Ok(Some(end + 2)),
            None if line.len() == TEXT_LIMIT => Err(HeaderError::TooLong),
            None => Ok(None),
        };
    }
    Err(HeaderError::Missing)
}

/// Whether one is the beginning of the other.
fn starts(received: &[u8], prefix: &[u8]) -> bool {
    received.iter().zip(prefix).all(|(one, other)| one == other)
}

/// Whom a whole header names: nobody where it says that it is about no client (health checks), or about one that is
/// not on a network. Pure.
fn addresses(header: &[u8]) -> Result<Option<Addresses>, HeaderError> {
    if header.starts_with(v2::PROTOCOL_PREFIX) {
        let header = v2::Header::try_from(header).map_err(|error| HeaderError::Malformed(error.to_string()))?;
        return Ok(match (header.command, header.addresses) {
            (v2::Command::Local, _) | (_, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => None,
            (v2::Command::Proxy, v2::Addresses::IPv4(between)) => Some(ipv4(between)),
            (v2::Command::Proxy, v2::Addresses::IPv6(between)) => Some(ipv6(between)),
        });
    }
    let header = v1::Header::try_from(header).map_err(|error| HeaderError::Malformed(error.to_string()))?;
    Ok(match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(between) => Some(ipv4(between)),
        v1::Addresses::Tcp6(between) => Some(ipv6(between)),
    })
}

fn ipv4(between: v1::IPv4) -> Addresses {
    Addresses {
        client: (between.source_address, between.source_port).into(),
        destination: (between.destination_address, between.destination_port).into(),
    }
}

/// IPv4 addresses that came as IPv6 are what they were: limits and logs know one name for each client.
fn ipv6(between: v1::IPv6) -> Addresses {
    Addresses {
        client: (between.source_address.to_canonical(), between.source_port).into(),
        destination: (between.destination_address.to_canonical(), between.destination_port).into(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    fn binary(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[0x20 | command, family], &length, payload].concat()
    }

    fn inet() -> Vec<u8> {
        [&[192, 0, 2, 1, 198, 51, 100, 7][..], &4000_u16.to_be_bytes(), &443_u16.to_be_bytes()].concat()
    }

    fn inet6(client: &str) -> Vec<u8> {
        let client: std::net::Ipv6Addr = client.parse().unwrap();
        let destination: std::net::Ipv6Addr = "2001:db8::7".parse().unwrap();
        [&client.octets()[..], &destination.octets(), &4000_u16.to_be_bytes(), &443_u16.to_be_bytes()].concat()
    }

    /// What a header comes to: the client, `-` for nobody, or what is wrong.
    fn read(bytes: &[u8]) -> String {
        let length = match length(bytes) {
            Ok(Some(length)) => length,
            Ok(None) => return "incomplete".to_owned(),
            Err(error) => return error.to_string(),
        };
        match addresses(&bytes[..length]) {
            Ok(Some(named)) => format!("{} {} {length}", named.client, named.destination),
            Ok(None) => format!("- {length}"),
            Err(HeaderError::Malformed(_)) => "malformed".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn headers_name_clients() {
        let inet_more = [&inet()[..], &[0x20, 0, 5, 1, 0, 0, 0, 0]].concat();
        let long = [&inet()[..], &[0; 4096]].concat();
        for (bytes, expected) in [
            (b"PROXY TCP4 192.0.2.1 198.51.100.7 4000 443\r\nrest".to_vec(), "192.0.2.1:4000 198.51.100.7:443 44"),
            (b"PROXY TCP6 2001:db8::1 2001:db8::7 4000 443\r\n".to_vec(), "[2001:db8::1]:4000 [2001:db8::7]:443 45"),
            (b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::7 4000 443\r\n".to_vec(), "192.0.2.1:4000 [2001:db8::7]:443 50"),
            (b"PROXY UNKNOWN\r\n".to_vec(), "- 15"),
            (b"PROXY UNKNOWN ffff:: ffff:: 1 2\r\nrest".to_vec(), "- 33"),
            (b"PROXY TCP4 192.0.2.1 198.51".to_vec(), "incomplete"),
            (b"PROXY TCP4 192.0.2.1 198.51.100.7 4000 443\r".to_vec(), "incomplete"),
            (b"PRO".to_vec(), "incomplete"),
            (Vec::new(), "incomplete"),
            (b"PROXY TCP4 192.0.2.1 198.51.100.7 4000\r\n".to_vec(), "malformed"),
            (b"PROXY TCP4 192.0.2.256 198.51.100.7 4000 443\r\n".to_vec(), "malformed"),
            (b"PROXY TCP4 192.0.2.1 198.51.100.7 4000 70000\r\n".to_vec(), "malformed"),
            (b"PROXY TCP4 192.0.2.1 198.51.100.7 4000 443\n\r\n".to_vec(), "malformed"),
            (b"PROXY SCTP\r\n".to_vec(), "malformed"),
            (b"PROXYTCP4\r\n".to_vec(), "malformed"),
            ([b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat(), "PROXY header too long"),
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "not a PROXY header"),
            (b"\r\n\r\nGET".to_vec(), "not a PROXY header"),
            (binary(1, 0x11, &inet()), "192.0.2.1:4000 198.51.100.7:443 28"),
            (binary(1, 0x11, &inet_more), "192.0.2.1:4000 198.51.100.7:443 36"),
            (binary(1, 0x21, &inet6("2001:db8::1")), "[2001:db8::1]:4000 [2001:db8::7]:443 52"),
            (binary(1, 0x21, &inet6("::ffff:192.0.2.1")), "192.0.2.1:4000 [2001:db8::7]:443 52"),
            (binary(0, 0x00, &[]), "- 16"),
            (binary(0, 0x11, &inet()), "- 28"),
            (binary(1, 0x00, &[1, 2, 3]), "- 19"),
            (binary(1, 0x31, &[b'/'; 216]), "- 232"),
            (binary(1, 0x11, &[1, 2, 3]), "malformed"),
            (binary(2, 0x11, &inet()), "malformed"),
            (binary(1, 0x11, &long), "PROXY header too long"),
            (binary(1, 0x11, &inet())[..20].to_vec(), "incomplete"),
            (v2::PROTOCOL_PREFIX.to_vec(), "incomplete"),
        ] {
            assert_eq!(read(&bytes), expected, "{:?}", String::from_utf8_lossy(&bytes));
        }
    }

    #[tokio::test]
    async fn a_header_in_pieces_leaves_what_follows() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for header in [b"PROXY TCP4 192.0.2.1 198.51.100.7 4000 443\r\n".to_vec(), binary(1, 0x11, &inet())] {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            client.set_nodelay(true).unwrap();
            let mut accepted = Accepted::new(listener.accept().await.unwrap().0);
            let send = async {
                for piece in header.chunks(3) {
                    client.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                client.write_all(b"GET").await.unwrap();
            };
            let (found, ()) = tokio::join!(receive(&mut accepted), send);
            assert_eq!(found.unwrap().unwrap().client.to_string(), "192.0.2.1:4000");
            while accepted.received.len() < 3 {
                accepted.read_more().await.unwrap();
            }
            assert_eq!(&accepted.received[..], b"GET");
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_early_names_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut accepted = Accepted::new(listener.accept().await.unwrap().0);
        client.write_all(b"PROXY ").await.unwrap();
        drop(client);
        assert!(matches!(receive(&mut accepted).await, Err(HeaderError::Connection(_))));
    }
}

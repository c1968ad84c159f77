//! What a client says before TLS begins: the name that it wants, and the route that follows from it.
//!
//! Invariants: the bytes that were read are kept, for whoever the connection goes to; they are never more than [`LIMIT`],
//! however many records the client spreads its ClientHello over. Nothing is answered here.

use std::io;

use pierhead_config::SniRoute;
use pierhead_service::told::canonical_host;
use rustls::server::Acceptor;

use super::accepted::Accepted;

/// Most bytes of a ClientHello, its records' headers included.
const LIMIT: usize = 16 * 1024;

/// The alert `unrecognized_name`, fatal, in a record, as RFC 6066 wants it.
pub(super) const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What a client said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hello {
    /// TLS, and the name where there is one, as hosts are compared.
    Tls(Option<String>),
    /// Something else, or TLS that is older than its names.
    Other,
}

/// Reads until it is clear what the client says, or the client ends. What was read is added to `received`.
pub(super) async fn read(accepted: &mut Accepted) -> io::Result<Hello> {
    let mut reader = Reader::default();
    loop {
        if let Some(hello) = reader.look(&accepted.received) {
            return Ok(hello);
        }
        if accepted.read_more().await? == 0 {
            return Ok(Hello::Other);
        }
    }
}

/// Makes sense of bytes that grow. Sees every byte once.
#[derive(Default)]
struct Reader {
    acceptor: Acceptor,
    seen: usize,
}

impl Reader {
    /// What is said, once that is clear. `bytes` is what it was the last time, and more.
    fn look(&mut self, bytes: &[u8]) -> Option<Hello> {
        let mut fresh = bytes.get(self.seen..).unwrap_or_default();
        self.seen = bytes.len();
        while !fresh.is_empty() {
            if self.acceptor.read_tls(&mut fresh).is_err() {
                return Some(Hello::Other);
            }
            match self.acceptor.accept() {
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(|name| canonical_host(name).into_owned());
                    return Some(Hello::Tls(name));
                }
                Ok(None) => {}
                Err(_) => return Some(Hello::Other),
            }
        }
        (bytes.len() >= LIMIT).then_some(Hello::Other)
    }
}

/// The pool that a client is passed on to, by what it said. The first match wins.
pub(super) fn route<'a>(routes: &'a [SniRoute], hello: &Hello) -> Option<&'a str> {
    let Hello::Tls(Some(name)) = hello else { return None };
    let parent = name.split_once('.').map(|(_, parent)| parent);
    let covers = |pattern: &String| match pattern.strip_prefix("*.") {
        Some(below) => parent == Some(below),
        None => pattern == name,
    };
    routes.iter().find(|route| route.names.iter().any(covers)).map(|route| route.pool.as_str())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// What a client of this version says first when it wants this host.
    fn hello(host: &str, version: &'static rustls::SupportedProtocolVersion) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), host.to_owned().try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same handshake message in records of a few bytes each.
    fn in_small_records(hello: &[u8]) -> Vec<u8> {
        let record = |piece: &[u8]| [&[22, 3, 1, 0, piece.len() as u8], piece].concat();
        hello[5..].chunks(7).flat_map(record).collect()
    }

    fn named(name: &str) -> Hello {
        Hello::Tls(Some(name.to_owned()))
    }

    #[test]
    fn names_are_found_however_they_come() {
        for version in [&TLS12, &TLS13] {
            let whole = hello("Registry.Example.com", version);
            for bytes in [whole.clone(), in_small_records(&whole), [&whole[..], b"early data"].concat()] {
                for step in [1, 3, bytes.len()] {
                    let mut reader = Reader::default();
                    let found = (step..bytes.len() + step)
                        .step_by(step)
                        .find_map(|end| reader.look(&bytes[..end.min(bytes.len())]));
                    assert_eq!(found, Some(named("registry.example.com")));
                }
            }
        }
        assert_eq!(Reader::default().look(&hello("192.0.2.1", &TLS13)), Some(Hello::Tls(None)));
    }

    #[test]
    fn what_is_not_tls_is_seen_at_once_and_nothing_is_waited_for_for_ever() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"*1\r\n$4\r\nPING\r\n", &[0; 16], b"SSH-2.0-OpenSSH_9.2\r\n"] {
            assert_eq!(Reader::default().look(bytes), Some(Hello::Other), "{bytes:?}");
        }
        let begun = &hello("a.example", &TLS13)[..50];
        assert_eq!(Reader::default().look(begun), None);
        assert_eq!(Reader::default().look(b""), None);
        // A ClientHello of 60 000 bytes, as it says itself.
        let endless = in_small_records(&[&[0; 5], &[1, 0, 0xea, 0x60, 3, 3][..], &[0; 60_000]].concat());
        let mut reader = Reader::default();
        let end = (1000..).step_by(1000).find(|end| reader.look(&endless[..*end]).is_some()).unwrap();
        assert!(end <= LIMIT + 1000, "{end}");
    }

    #[test]
    fn the_first_route_that_covers_the_name_wins() {
        let route_to = |pool: &str, names: &[&str]| SniRoute {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            pool: pool.to_owned(),
        };
        let routes = [
            route_to("exact", &["a.example.com", "b.example.com"]),
            route_to("wildcard", &["*.example.com"]),
            route_to("late", &["c.example.com", "c.example.org"]),
        ];
        for (name, expected) in [
            ("a.example.com", Some("exact")),
            ("b.example.com", Some("exact")),
            ("c.example.com", Some("wildcard")),
            ("c.example.org", Some("late")),
            ("example.com", None),
            ("a.b.example.com", None),
            ("localhost", None),
        ] {
            assert_eq!(route(&routes, &named(name)), expected, "{name}");
        }
        assert_eq!(route(&routes, &Hello::Tls(None)), None);
        assert_eq!(route(&routes, &Hello::Other), None);
    }

    #[tokio::test]
    async fn what_was_read_is_kept() {
        let bytes = hello("a.example", &TLS13);
        for (end, expected) in [(bytes.len(), named("a.example")), (20, Hello::Other)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            client.write_all(&bytes[10..end]).await.unwrap();
            client.shutdown().await.unwrap();
            let mut accepted = Accepted::new(listener.accept().await.unwrap().0);
            accepted.received.extend_from_slice(&bytes[..10]);
            assert_eq!(read(&mut accepted).await.unwrap(), expected);
            assert_eq!(accepted.received, bytes[..end]);
        }
    }
}

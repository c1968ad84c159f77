//! A client that costs as little as TLS allows: large reads, no copies that can be done without, bodies counted and
//! forgotten. curl and h2load use as much CPU as a server; where they share its machine, they limit what it can show.
//!
//! Invariant: it returns only after every answer was a whole success, under the agreed cipher and protocol.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::UnbufferedClientConnection;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};

use crate::certificate::Certificate;
use crate::throughput::Protocol;
use crate::{lean_http1, lean_http2};

/// Bytes received at a time: what stays in a core's own cache.
const BUFFER: usize = 256 << 10;
/// Less room than this, and what is left in the buffer moves to its front.
const LEAST_ROOM: usize = 64 << 10;
/// What encryption adds to a short message, and more.
const OVERHEAD: usize = 512;

/// The client's side of a protocol: bytes in, bytes out.
pub(crate) trait Conversation {
    /// The next bytes from the server; what is to be answered is added to `answer`.
    fn receive(&mut self, bytes: &[u8], answer: &mut Vec<u8>);
    /// Whether everything that was asked for has come.
    fn is_over(&self) -> bool;
}

/// Downloads a path `times` times on one connection. Blocks.
pub(crate) fn download(
    server: SocketAddr,
    path: &str,
    times: usize,
    size: u64,
    certificate: &Certificate,
    protocol: Protocol,
) {
    let mut first = Vec::new();
    match protocol {
        Protocol::Http1 => {
            let mut conversation = lean_http1::Downloads::begin(server, path, times, size, &mut first);
            converse(server, certificate, b"http/1.1", first, &mut conversation);
        }
        Protocol::Http2 => {
            let mut conversation = lean_http2::Downloads::begin(server, path, times, size, &mut first);
            converse(server, certificate, b"h2", first, &mut conversation);
        }
    }
}

fn connection(server: SocketAddr, certificate: &Certificate, protocol: &[u8]) -> UnbufferedClientConnection {
    let provider = CryptoProvider { cipher_suites: vec![TLS13_AES_256_GCM_SHA384], ..default_provider() };
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(certificate.pem.as_bytes()).expect("certificate");
    roots.add(root).expect("certificate");
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    UnbufferedClientConnection::new(Arc::new(config), ServerName::from(server.ip())).expect("TLS client")
}

fn converse(
    server: SocketAddr,
    certificate: &Certificate,
    protocol: &[u8],
    mut plain: Vec<u8>,
    conversation: &mut dyn Conversation,
) {
    let mut tls = connection(server, certificate, protocol);
    let mut tcp = TcpStream::connect(server).expect("connection");
    tcp.set_nodelay(true).expect("socket option");
    tcp.set_read_timeout(Some(Duration::from_secs(60))).expect("socket option");
    let mut received = vec![0; BUFFER];
    let (mut start, mut end) = (0, 0);
    let mut encoded = Vec::new();
    loop {
        let UnbufferedStatus { discard, state } = tls.process_tls_records(&mut received[start..end]);
        let mut starved = false;
        match state.expect("TLS") {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    conversation.receive(record.expect("TLS record").payload, &mut plain);
                }
            }
            ConnectionState::EncodeTlsData(mut message) => {
                let begin = encoded.len();
                encoded.resize(begin + (16 << 10), 0);
                let length = message.encode(&mut encoded[begin..]).expect("handshake message");
                encoded.truncate(begin + length);
            }
            ConnectionState::TransmitTlsData(transmit) => {
                tcp.write_all(&encoded).expect("handshake");
                encoded.clear();
                transmit.done();
            }
            ConnectionState::WriteTraffic(mut traffic) => {
                if !plain.is_empty() {
                    let mut message = vec![0; plain.len() + OVERHEAD];
                    let length = traffic.encrypt(&plain, &mut message).expect("request");
                    tcp.write_all(&message[..length]).expect("request");
                    plain.clear();
                }
                if conversation.is_over() {
                    return;
                }
                starved = true;
            }
            ConnectionState::BlockedHandshake => starved = true,
            other => panic!("the server ended the connection: {other:?}"),
        }
        start += discard;
        if starved {
            if start == end {
                (start, end) = (0, 0);
            } else if received.len() - end < LEAST_ROOM {
                received.copy_within(start..end, 0);
                (start, end) = (0, end - start);
            }
            let count = tcp.read(&mut received[end..]).expect("answer");
            assert_ne!(count, 0, "the server closed the connection");
            end += count;
        }
    }
}

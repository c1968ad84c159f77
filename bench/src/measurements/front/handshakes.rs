//! TLS handshakes, new and resumed: what a client costs that does not keep its connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pierhead_tests::image::Blob;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, Stream};
use tempfile::TempDir;

use crate::certificate::Certificate;
use crate::edge::Plan;
use crate::options::Scale;
use crate::peers::Peer;
use crate::procfs::Server;
use crate::report::{Figure, Findings, Series, Target};

/// What is measured.
pub(crate) const ABOUT: &str = "TLS 1.3 handshakes, new and resumed, each with one request for 1 KiB, 8 clients: handshakes/s and server CPU against haproxy";

/// Clients at a time.
const CLIENTS: usize = 8;

/// What one turn of one side gave.
struct Turn {
    /// Handshakes a second.
    rate: f64,
    /// Microseconds of the server's CPU for each.
    cpu: f64,
}

/// Measures it.
pub(crate) async fn measure(scale: Scale) -> Findings {
    let dir = TempDir::with_prefix("pierhead-bench-").expect("scratch directory");
    let certificate = Arc::new(Certificate::make(dir.path()));
    let nginx = Peer::nginx(dir.path(), ([127, 0, 0, 1], 9).into()).await;
    std::fs::write(dir.path().join("www/small"), Blob::random(7, 1024).bytes).expect("scratch file");
    let servers = [nginx.address("FILE_PORT")];
    let haproxy = Peer::haproxy_front(dir.path(), &servers).await;
    let edge = Plan::front(&servers).tls(&certificate).start().await;

    let sides = [(edge.registry, edge.server()), (haproxy.address("PROXY_TLS_PORT"), haproxy.server())];
    let time = scale.pick(Duration::from_secs(4), Duration::from_secs(1));
    let mut figures = Vec::new();
    for (kind, name) in [(HandshakeKind::Full, "new"), (HandshakeKind::Resumed, "resumed")] {
        let mut turns = [const { Vec::new() }; 2];
        for _ in 0..scale.runs {
            for (side, (address, server)) in sides.iter().enumerate() {
                turns[side].push(turn(*address, *server, &certificate, kind, time).await);
            }
        }
        let figure = |what: &str, unit: &'static str, of: fn(&Turn) -> f64, target| {
            let series = |label: &str, turns: &[Turn]| Series::new(label, unit, turns.iter().map(of).collect());
            let (ours, theirs) = (series("pierhead", &turns[0]), series("haproxy", &turns[1]));
            Figure::ratio(format!("{name}: {what}"), ours, theirs, target)
        };
        figures.push(figure("handshakes a second", "/s", |turn| turn.rate, Some(Target::AtLeast(1.0))));
        figures.push(figure("server CPU each, for comparison", "µs", |turn| turn.cpu, None));
    }
    Findings {
        figures,
        notes: vec![format!(
            "{CLIENTS} clients, {time:?} a turn, certificate ECDSA P-256; each connection asks once and is closed"
        )],
        settings: vec![("pierhead".into(), edge.settings()), ("haproxy".into(), haproxy.settings.clone())],
    }
}

async fn turn(
    address: SocketAddr,
    server: Server,
    certificate: &Arc<Certificate>,
    kind: HandshakeKind,
    time: Duration,
) -> Turn {
    let (before, begun) = (server.cpu(), Instant::now());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let certificate = Arc::clone(certificate);
            thread::spawn(move || connect_again_and_again(address, &certificate, kind, time))
        })
        .collect();
    let join = move || clients.into_iter().map(|client| client.join().expect("every handshake")).sum::<usize>();
    let done = tokio::task::spawn_blocking(join).await.expect("clients") as f64;
    Turn { rate: done / begun.elapsed().as_secs_f64(), cpu: (server.cpu() - before) / done * 1e6 }
}

/// How many connections one client made. Each is of the kind that is asked for, but for the first, which brings the
/// ticket that the others resume with.
fn connect_again_and_again(
    server: SocketAddr,
    certificate: &Certificate,
    kind: HandshakeKind,
    time: Duration,
) -> usize {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.pem.as_bytes()).expect("certificate")).expect("certificate");
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    if kind == HandshakeKind::Full {
        config.resumption = Resumption::disabled();
    }
    let config = Arc::new(config);
    let begun = Instant::now();
    let mut done = 0;
    while begun.elapsed() < time {
        let found = ask(server, Arc::clone(&config));
        assert!(done == 0 || found == kind, "a handshake is {found:?} instead of {kind:?}");
        done += 1;
    }
    done
}

/// One connection with one request.
fn ask(server: SocketAddr, config: Arc<ClientConfig>) -> HandshakeKind {
    let mut tls = ClientConnection::new(config, ServerName::from(server.ip())).expect("TLS client");
    let mut tcp = TcpStream::connect(server).expect("connection");
    tcp.set_nodelay(true).expect("socket option");
    tcp.set_read_timeout(Some(Duration::from_secs(30))).expect("socket option");
    let mut stream = Stream::new(&mut tls, &mut tcp);
    let request = format!("GET /small HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("answer, ended in good order");
    assert!(answer.starts_with(b"HTTP/1.1 200 ") && answer.len() > 1024, "{}", String::from_utf8_lossy(&answer));
    tls.handshake_kind().expect("a handshake")
}

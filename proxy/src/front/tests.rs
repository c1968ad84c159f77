//! Listeners as clients meet them, with an application that does as little as possible.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pierhead_config::{CertificateFiles, Ciphers, HttpListener, HttpTarget, Limits, Mode, Tls, TlsVersion};
use pingora_core::protocols::http::ServerSession;
use pingora_http::ResponseHeader;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Admission, Application, Common, Connection, Drain, Listener, Listening, Phase, Prepared, Reuse};
use crate::admin::metrics::Metrics;
use crate::logging::AccessLog;
use crate::pool::Pool;

/// Longer than anything here takes.
pub(super) const LONG: Duration = Duration::from_secs(20);

/// Says which path was asked for, or for `/client` by whom, for `/body` what was sent. `/slow` waits in the middle of its body, `/broken` breaks
/// off there.
#[derive(Default)]
struct Echo {
    reached: Notify,
    go_on: Notify,
}

impl Echo {
    async fn answer(&self, session: &mut ServerSession, connection: &Connection) -> pingora_core::Result<Reuse> {
        let mut path = session.req_header().uri.path().to_owned();
        if path == "/client" {
            path = format!("{} {} {}", connection.client, connection.peer.ip(), connection.destination);
        }
        if path == "/body" {
            let mut body = Vec::new();
            while let Some(part) = session.read_request_body().await? {
                body.extend_from_slice(&part);
            }
            path = String::from_utf8(body).unwrap();
        }
        let mut header = ResponseHeader::build(200, None)?;
        header.insert_header("Content-Length", path.len())?;
        session.write_response_header(Box::new(header)).await?;
        let (first, second) = path.split_at(1);
        session.write_response_body(Bytes::copy_from_slice(first.as_bytes()), false).await?;
        match path.as_str() {
            "/broken" => return Ok(Reuse::Close),
            "/panic" => panic!("asked for"),
            "/slow" => {
                self.reached.notify_one();
                self.go_on.notified().await;
            }
            _ => {}
        }
        session.write_response_body(Bytes::copy_from_slice(second.as_bytes()), true).await?;
        Ok(Reuse::Keep)
    }
}

impl Application for Echo {
    fn pool(&self, _name: &str) -> Option<Arc<Pool>> {
        None
    }

    fn access_log(&self) -> AccessLog {
        AccessLog::off()
    }

    async fn handle(self: &Arc<Self>, session: &mut ServerSession, connection: &Connection) -> Reuse {
        self.answer(session, connection).await.unwrap_or(Reuse::Close)
    }
}

pub(super) struct Running {
    pub(super) address: SocketAddr,
    drain: Drain,
    echo: Arc<Echo>,
    metrics: Arc<Metrics>,
}

fn http() -> HttpListener {
    HttpListener {
        tls: None,
        target: HttpTarget::Registries,
        hsts: None,
        header_timeout: LONG,
        max_header_size: 4096,
        body_timeout: LONG,
        idle_timeout: LONG,
        tunnel_timeout: LONG,
        write_timeout: LONG,
    }
}

fn settings() -> pierhead_config::Listener {
    pierhead_config::Listener {
        name: "registry".to_owned(),
        bind: "127.0.0.1:0".parse().unwrap(),
        accept_proxy: false,
        sni: Vec::new(),
        max_connections: 100,
        mode: Mode::Http(http()),
    }
}

pub(super) fn speaking(http: HttpListener) -> pierhead_config::Listener {
    pierhead_config::Listener { mode: Mode::Http(http), ..settings() }
}

pub(super) async fn start(settings: pierhead_config::Listener) -> Running {
    start_with(settings, &Limits::default()).await
}

async fn start_with(settings: pierhead_config::Listener, limits: &Limits) -> Running {
    start_trusting(settings, limits, "127.0.0.0/8").await
}

async fn start_trusting(settings: pierhead_config::Listener, limits: &Limits, trusted: &str) -> Running {
    let (drain, echo) = (Drain::new(), Arc::new(Echo::default()));
    let metrics = Arc::new(Metrics::new().unwrap());
    let common = Common {
        application: Arc::clone(&echo),
        drain: drain.clone(),
        metrics: Arc::clone(&metrics),
        sessions: Arc::default(),
    };
    let admission = Arc::new(Admission::new(&[trusted.parse().unwrap()], limits, None));
    let prepared = Prepared::new(&settings, &common, &admission, None).unwrap();
    let address = Listener::start(Listening::open(settings.bind, []).unwrap(), prepared).socket().address();
    drain.advance(Phase::Serving);
    Running { address, drain, echo, metrics }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Whether so many were turned away for this reason.
    fn refused(&self, reason: &str, count: usize) -> bool {
        let metrics = String::from_utf8(self.metrics.render().unwrap()).unwrap();
        metrics.contains(&format!("pierhead_refusals_total{{listener=\"registry\",reason=\"{reason}\"}} {count}\n"))
    }

    /// Sends bytes and reads to the end of the connection.
    async fn exchange(&self, request: &[u8]) -> String {
        let mut client = self.connect().await;
        client.write_all(request).await.unwrap();
        rest(&mut client).await
    }
}

/// Everything up to the end of the connection, which must come.
async fn rest(client: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    timeout(LONG, client.read_to_end(&mut answer)).await.expect("the connection stays open").unwrap();
    String::from_utf8(answer).unwrap()
}

/// Reads until what came ends with `end`.
async fn until(client: &mut TcpStream, end: &str) -> String {
    let mut answer = String::new();
    let read = async {
        while !answer.ends_with(end) {
            answer.push(char::from(client.read_u8().await.unwrap()));
        }
    };
    timeout(LONG, read).await.expect("the answer does not come");
    answer
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let running = start(settings()).await;
    let mut client = running.connect().await;
    for path in ["/one", "/two", "/three"] {
        client.write_all(&get(path)).await.unwrap();
        let answer = until(&mut client, path).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    client.write_all(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(rest(&mut client).await.ends_with("/last"));
}

#[tokio::test]
async fn requests_may_arrive_together_or_in_pieces_with_small_bodies() {
    let running = start(settings()).await;
    let mut client = running.connect().await;
    let body = b"\r\nPOST /two HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    client.write_all(&[&get("/one")[..], body, &get("/three")[..30 - 12]].concat()).await.unwrap();
    assert!(until(&mut client, "/two").await.contains("/one"));
    client.write_all(&get("/three")[30 - 12..]).await.unwrap();
    until(&mut client, "/three").await;
}

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_refused_and_closed() {
    let running = start(settings()).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        ("\r\n\r\n\r\n\r\n", 400),
    ] {
        let answer = running.exchange(request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer:?}");
        assert!(answer.contains("Connection: close"), "{request:?}");
    }
    let metrics = String::from_utf8(running.metrics.render().unwrap()).unwrap();
    assert!(metrics.contains("pierhead_refusals_total{listener=\"registry\",reason=\"malformed\"} 9"), "{metrics}");
}

#[tokio::test]
async fn a_header_has_a_size() {
    let running = start(settings()).await;
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Large: {}", "x".repeat(5000));
    for end in ["", "\r\n\r\n"] {
        let answer = running.exchange(format!("{large}{end}").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    }
}

#[tokio::test]
async fn a_header_has_a_time_however_it_drips() {
    let running = start(speaking(HttpListener { header_timeout: Duration::from_millis(300), ..http() })).await;
    let mut client = running.connect().await;
    let (mut reader, mut writer) = client.split();
    let drip = async {
        loop {
            if writer.write_all(b"GET").await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut answer = [0; 12];
    tokio::select! {
        () = drip => unreachable!(),
        read = timeout(LONG, reader.read_exact(&mut answer)) => { read.unwrap().unwrap(); }
    }
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn a_silent_connection_is_closed_without_a_word() {
    let running = start(speaking(HttpListener { idle_timeout: Duration::from_millis(100), ..http() })).await;
    assert_eq!(running.exchange(b"").await, "");
    let answer = running.exchange(&get("/one")).await;
    assert!(answer.ends_with("/one"), "{answer}");
}

#[tokio::test]
async fn a_large_body_is_not_read_but_the_answer_arrives() {
    let running = start(settings()).await;
    let mut client = running.connect().await;
    client.write_all(b"PUT /blob HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").await.unwrap();
    client.write_all(&[0; 100_000]).await.unwrap();
    let answer = rest(&mut client).await;
    assert!(answer.contains("Connection: close") && answer.ends_with("/blob"), "{answer}");
}

#[tokio::test]
async fn a_body_belongs_to_the_application_and_has_a_time() {
    let running = start(speaking(HttpListener { body_timeout: Duration::from_millis(100), ..http() })).await;
    let put = |framing: &str| format!("PUT /body HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
    let mut client = running.connect().await;
    for _ in 0..2 {
        client.write_all(put("Content-Length: 5").as_bytes()).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        until(&mut client, "\r\n\r\nhello").await;
        client.write_all(put("Transfer-Encoding: chunked").as_bytes()).await.unwrap();
        client.write_all(b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n").await.unwrap();
        until(&mut client, "\r\n\r\nhello").await;
    }
    for (framing, part) in [("Content-Length: 5", "hel"), ("Transfer-Encoding: chunked", "5\r\nhel")] {
        let begun = std::time::Instant::now();
        assert_eq!(running.exchange(format!("{}{part}", put(framing)).as_bytes()).await, "");
        assert!(begun.elapsed() < LONG / 2, "{framing}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_ends_its_connection() {
    let running = start(settings()).await;
    for path in ["/broken", "/panic"] {
        let answer = running.exchange(&get(path)).await;
        assert!(answer.ends_with("\r\n\r\n/"), "{path}: {answer}");
    }
    assert!(running.exchange(b"GET /well HTTP/1.0\r\n\r\n").await.ends_with("/well"));
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let running = start(pierhead_config::Listener { max_connections: 1, ..settings() }).await;
    let mut first = running.connect().await;
    first.write_all(&get("/slow")).await.unwrap();
    running.echo.reached.notified().await;
    let mut second = running.connect().await;
    second.write_all(&get("/second")).await.unwrap();
    assert!(timeout(Duration::from_millis(100), second.read_u8()).await.is_err(), "served beyond the limit");
    running.echo.go_on.notify_one();
    until(&mut first, "/slow").await;
    drop(first);
    until(&mut second, "/second").await;
}

#[tokio::test]
async fn a_drain_lets_requests_finish_and_closes_the_rest() {
    let running = start(settings()).await;
    let (mut idle, mut busy) = (running.connect().await, running.connect().await);
    idle.write_all(&get("/idle")).await.unwrap();
    until(&mut idle, "/idle").await;
    busy.write_all(&get("/slow")).await.unwrap();
    running.echo.reached.notified().await;
    running.drain.advance(Phase::Draining);
    assert_eq!(rest(&mut idle).await, "");
    assert!(TcpStream::connect(running.address).await.is_err() || running.drain.wait(Duration::ZERO).await > 0);
    running.echo.go_on.notify_one();
    assert!(rest(&mut busy).await.ends_with("/slow"));
    assert_eq!(running.drain.wait(LONG).await, 0);
    assert!(TcpStream::connect(running.address).await.is_err());
}

pub(super) fn https(folder: &Path) -> (HttpListener, reqwest::ClientBuilder) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (folder.join("tls.crt"), folder.join("tls.key"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = Tls {
        certificates: vec![CertificateFiles { cert, key }],
        directory: None,
        strict_sni: false,
        min_version: TlsVersion::Tls12,
        ciphers: Ciphers::Intermediate,
        client_ca: None,
        watch: LONG,
    };
    let root = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([root]).no_proxy().https_only(true);
    (HttpListener { tls: Some(tls), ..http() }, client)
}

/// A connection of a client that believes everything and speaks this.
pub(super) async fn tls_client(running: &Running, protocol: &[u8]) -> TlsStream<TcpStream> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, running.connect().await).await.unwrap()
}

/// Believes every certificate.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn https_speaks_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, _) = https(folder.path());
    drop(settings);
    for (version, http1) in [(http::Version::HTTP_2, false), (http::Version::HTTP_11, true)] {
        let (settings, client) = https(folder.path());
        let running = start(speaking(settings)).await;
        let client = if http1 { client.http1_only() } else { client }.build().unwrap();
        for path in ["/one", "/two"] {
            let url = format!("https://localhost:{}{path}", running.address.port());
            let answer = client.get(url).send().await.unwrap();
            assert_eq!(answer.version(), version);
            assert_eq!(answer.text().await.unwrap(), path);
        }
    }
}

#[tokio::test]
async fn http2_drains_and_shows_what_broke_off() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, client) = https(folder.path());
    let running = start(speaking(settings)).await;
    let client = client.build().unwrap();
    let url = |path: &str| format!("https://localhost:{}{path}", running.address.port());
    for path in ["/broken", "/panic"] {
        let broken = client.get(url(path)).send().await;
        let body = match broken {
            Ok(answer) => answer.bytes().await,
            Err(error) => Err(error),
        };
        assert!(body.is_err(), "{path} looks complete");
    }
    let slow = tokio::spawn(client.get(url("/slow")).send());
    running.echo.reached.notified().await;
    running.drain.advance(Phase::Draining);
    running.echo.go_on.notify_one();
    let answer = slow.await.unwrap().unwrap();
    assert_eq!(answer.text().await.unwrap(), "/slow");
    assert_eq!(running.drain.wait(LONG).await, 0);
}

#[tokio::test]
async fn http2_requests_that_are_given_up_have_a_number() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, client) = https(folder.path());
    let running = start(speaking(settings)).await;
    let client = client.build().unwrap();
    let url = format!("https://localhost:{}/slow", running.address.port());
    let refused = || String::from_utf8(running.metrics.render().unwrap()).unwrap().contains("reason=\"abandoned\"");
    for number in 0..2000 {
        // Dropping an answer that has begun resets its stream.
        drop(timeout(LONG, client.get(&url).send()).await.unwrap());
        if number % 100 == 0 && refused() {
            return;
        }
    }
    panic!("2000 requests that nobody waits for are being answered on one connection");
}

#[tokio::test]
async fn http2_connections_without_requests_end() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, client) = https(folder.path());
    let running = start(speaking(HttpListener { idle_timeout: Duration::from_millis(100), ..settings })).await;
    let client = client.pool_max_idle_per_host(1).build().unwrap();
    let url = format!("https://localhost:{}/one", running.address.port());
    client.get(&url).send().await.unwrap().text().await.unwrap();
    running.drain.advance(Phase::Leaving);
    // Only the accept loop is left once the connection has ended.
    let ended = async {
        while running.drain.running() > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, ended).await.expect("the idle connection stays open");
    drop(client);
}

#[tokio::test]
async fn tls_handshakes_have_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, _) = https(folder.path());
    let running = start(speaking(HttpListener { header_timeout: Duration::from_millis(100), ..settings })).await;
    assert_eq!(running.exchange(b"\x16\x03\x01").await, "");
}

#[tokio::test]
async fn a_load_balancer_says_who_its_client_is() {
    let running = start(pierhead_config::Listener { accept_proxy: true, ..settings() }).await;
    let request = b"GET /client HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = running.exchange(&[b"PROXY TCP4 192.0.2.1 198.51.100.7 4000 443\r\n", &request[..]].concat()).await;
    assert!(answer.ends_with("192.0.2.1:4000 127.0.0.1 198.51.100.7:443"), "{answer}");
    let answer = running.exchange(&[b"PROXY UNKNOWN\r\n", &request[..]].concat()).await;
    assert!(answer.contains("\r\n\r\n127.0.0.1:") && answer.contains(&running.address.to_string()), "{answer}");
    assert_eq!(running.exchange(request).await, "");
    assert!(running.refused("proxy_header", 1));
}

#[tokio::test]
async fn nobody_else_may_say_so() {
    let settings = pierhead_config::Listener { accept_proxy: true, ..settings() };
    let running = start_trusting(settings, &Limits::default(), "192.0.2.0/24").await;
    let mut client = running.connect().await;
    // May be reset before it is written.
    drop(client.write_all(b"PROXY UNKNOWN\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").await);
    let mut answer = Vec::new();
    drop(timeout(LONG, client.read_to_end(&mut answer)).await.expect("the connection stays open"));
    assert!(answer.is_empty());
    assert!(running.refused("untrusted", 1));
}

#[tokio::test]
async fn a_proxy_header_has_a_time() {
    let http = HttpListener { header_timeout: Duration::from_millis(100), ..http() };
    let running = start(pierhead_config::Listener { accept_proxy: true, ..speaking(http) }).await;
    assert_eq!(running.exchange(b"PROXY TCP4 192.").await, "");
    assert!(running.refused("proxy_header", 1));
}

#[tokio::test]
async fn a_client_has_a_number_of_connections() {
    let limits = Limits { max_connections_per_client: Some(1), ..Limits::default() };
    let running = start_with(pierhead_config::Listener { accept_proxy: true, ..settings() }, &limits).await;
    let request = |client: &str, path: &str| {
        format!("PROXY TCP4 {client} 198.51.100.7 4000 443\r\nGET {path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
    };
    let mut first = running.connect().await;
    first.write_all(&request("192.0.2.1", "/first")).await.unwrap();
    until(&mut first, "/first").await;
    assert_eq!(running.exchange(&request("192.0.2.1", "/second")).await, "");
    let mut other = running.connect().await;
    other.write_all(&request("192.0.2.2", "/other")).await.unwrap();
    until(&mut other, "/other").await;
    assert!(running.refused("connections", 1));
    drop(first);
    let freed = async {
        loop {
            let mut again = running.connect().await;
            again.write_all(&request("192.0.2.1", "/again")).await.unwrap();
            if again.read_u8().await.is_ok() {
                return;
            }
        }
    };
    timeout(LONG, freed).await.expect("its place is not freed");
}

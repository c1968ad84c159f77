//! Listeners as clients meet them, with an application that does as little as possible.

mod admitted;
mod http1;
mod http2;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pierhead_config::{CertificateFiles, Ciphers, HttpListener, HttpTarget, Limits, Mode, ServerTls, Tls, TlsVersion};
use pingora_core::protocols::http::ServerSession;
use pingora_http::ResponseHeader;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Admission, Application, Common, Connection, Drain, Listener, Listening, Phase, Prepared, Reuse};
use crate::admin::metrics::Metrics;
use crate::pool::{Pool, client_config};
use pierhead_service::logging::AccessLog;

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
    let believing = ServerTls { verify: false, ..ServerTls::default() };
    let mut config = Arc::unwrap_or_clone(client_config(&believing).unwrap());
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, running.connect().await).await.unwrap()
}

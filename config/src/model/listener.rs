//! Listeners: where clients connect, and what becomes of their connections before anybody reads a request.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where clients connect.
#[derive(Clone, Debug)]
pub struct Listener {
    /// For logs, metrics, and sockets that are handed over by name.
    pub name: String,
    /// Address and port.
    pub bind: SocketAddr,
    /// Whether every connection begins with a PROXY header. Only `trusted_proxies` may then connect.
    pub accept_proxy: bool,
    /// TLS connections that are passed through unopened, by the name that their client wants. First match wins.
    pub sni: Vec<SniRoute>,
    /// How many connections may be open at once.
    pub max_connections: usize,
    /// What is spoken.
    pub mode: Mode,
}

impl Listener {
    /// Its rules for requests, where it takes any.
    pub fn http(&self) -> Option<&HttpListener> {
        match &self.mode {
            Mode::Http(http) => Some(http),
            Mode::Tcp(_) => None,
        }
    }
}

/// Passes TLS through to a pool, by SNI.
#[derive(Clone, Debug)]
pub struct SniRoute {
    /// Host names in lower case; `*.example.com` stands for one label. At least one.
    pub names: Vec<String>,
    /// A pool, by its name, which exists.
    pub pool: String,
}

/// What a listener speaks.
#[derive(Clone, Debug)]
pub enum Mode {
    /// HTTP/1.1 and, with TLS, HTTP/2.
    Http(HttpListener),
    /// Anything: bytes are passed on as they are.
    Tcp(TcpListener),
}

/// A listener of requests.
#[derive(Clone, Debug)]
pub struct HttpListener {
    /// HTTPS when present.
    pub tls: Option<Tls>,
    /// Who answers requests.
    pub target: HttpTarget,
    /// `Strict-Transport-Security` for this long. Only with `tls`.
    pub hsts: Option<Duration>,
    /// From the first byte of a request to the end of its header; also the deadline of the TLS handshake, of a PROXY
    /// header, and of the ClientHello that names a host.
    pub header_timeout: Duration,
    /// Largest request header, all lines together.
    pub max_header_size: u64,
    /// Longest silence of a client within the body that it sends.
    pub body_timeout: Duration,
    /// How long a connection may stay open between requests.
    pub idle_timeout: Duration,
    /// Longest silence of both sides of what is only passed on: after an upgrade, and of TLS that `sni` routes.
    pub tunnel_timeout: Duration,
    /// How long one write of a response may make no progress.
    pub write_timeout: Duration,
}

/// Who answers the requests of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpTarget {
    /// The registries.
    Registries,
    /// The servers of a pool, by its name, which exists: everything is forwarded, nothing is cached.
    Pool(String),
    /// Everything but `/health/…` is redirected to https, on this port.
    RedirectToHttps(u16),
}

/// A listener of bytes.
#[derive(Clone, Debug)]
pub struct TcpListener {
    /// A pool, by its name, which exists. `None` only where `sni` has routes: then all else is closed.
    pub pool: Option<String>,
    /// For a PROXY header, and for the ClientHello where `sni` has routes.
    pub header_timeout: Duration,
    /// Longest silence of both sides.
    pub idle_timeout: Duration,
    /// Longest silence once one side has ended.
    pub half_close_timeout: Duration,
}

/// TLS of a listener.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The first is the default, the others are picked by SNI. Empty only with `directory`.
    pub certificates: Vec<CertificateFiles>,
    /// Further certificates: every `NAME.crt` or `NAME.pem` in it, with `NAME.key` beside or the key in the same file.
    pub directory: Option<PathBuf>,
    /// Refuse clients that name a host no certificate is for, or none.
    pub strict_sni: bool,
    /// Oldest protocol version.
    pub min_version: TlsVersion,
    /// Which cipher suites.
    pub ciphers: Ciphers,
    /// Mutual TLS when present.
    pub client_ca: Option<ClientAuthority>,
    /// How often the files are looked at for changes.
    pub watch: Duration,
}

/// Whose certificates clients must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuthority {
    /// PEM file of certificate authorities.
    pub file: PathBuf,
    /// Whether clients without a certificate are turned away.
    pub required: bool,
}

/// Cipher policies, after Mozilla's recommendations of these names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ciphers {
    /// TLS 1.3 suites only.
    Modern,
    /// And the forward-secret AEAD suites of TLS 1.2.
    Intermediate,
}

/// A certificate chain and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// TLS protocol versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2
    Tls12,
    /// TLS 1.3
    Tls13,
}

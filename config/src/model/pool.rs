//! Pools: servers, how they are found, checked, chosen and reached.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::{CertificateFiles, Credentials, TlsVersion};

/// Servers that do the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// For logs, metrics, the API, and those who refer to it.
    pub name: String,
    /// Servers that are written down. Names are unique in the pool.
    pub servers: Vec<Server>,
    /// Servers that DNS names. A pool has servers or a discovery, or both.
    pub discovery: Option<Discovery>,
    /// How DNS is asked, for the discovery and for servers that have a host name.
    pub dns: DnsTiming,
    /// TLS to the servers when present.
    pub tls: Option<ServerTls>,
    /// Who is next.
    pub balance: Balance,
    /// How servers are checked. `None`: they are believed to work until they fail requests.
    pub health: Option<Health>,
    /// What failures of requests mean.
    pub passive: Option<Passive>,
    /// How long a server that came up again takes to get its full share.
    pub slow_start: Duration,
    /// How many requests may wait for a server that is at its `max_connections`.
    pub queue_size: usize,
    /// How long.
    pub queue_timeout: Duration,
    /// TCP and TLS set-up.
    pub connect_timeout: Duration,
    /// From the end of a request to the header of its answer. `None`: for ever, as the last PUT of a large layer needs.
    pub first_byte_timeout: Option<Duration>,
    /// Longest silence of a server within a body.
    pub idle_timeout: Duration,
    /// How long a connection to a server is kept for the next request. At most 4 s; 0: not at all.
    pub keep_alive: Duration,
    /// How often a request is tried again, on another server where there is one.
    pub retries: u32,
    /// Tells servers the client's address.
    pub send_proxy: Option<ProxyVersion>,
    /// What becomes of layer-4 sessions when their server goes down.
    pub on_down: OnDown,
}

/// A server that is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// In the pool; the address as written unless given.
    pub name: String,
    /// Where.
    pub address: Address,
    /// Its share, relative to the others. 0: none, unless it is the only one left.
    pub weight: u32,
    /// Only used when no other is up.
    pub backup: bool,
    /// Requests (layer 7) or sessions (layer 4) at once. `None`: any number.
    pub max_connections: Option<usize>,
    /// No traffic before its first successful check.
    pub checked_first: bool,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// Known.
    Socket(SocketAddr),
    /// To be asked for: the first address that DNS gives.
    Name {
        /// Host name.
        host: String,
        /// Port.
        port: u16,
    },
}

/// Servers that DNS names: each address, or each target of an SRV record, is one, named by its address and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// The name that is asked for.
    pub name: String,
    /// What is asked for.
    pub record: DnsRecord,
    /// The properties of all of them (its `name` and `address` mean nothing). SRV brings weights of its own, and makes
    /// backups of all but those of the best priority.
    pub max_connections: Option<usize>,
    /// As of a server.
    pub checked_first: bool,
}

/// Records that name servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsRecord {
    /// A and AAAA, on this port.
    Address {
        /// Port of each.
        port: u16,
    },
    /// SRV, with ports, weights and priorities of its own.
    Srv,
}

/// How DNS is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsTiming {
    /// Name servers; empty: those of the system.
    pub servers: Vec<SocketAddr>,
    /// An answer is believed at least this long.
    pub min_ttl: Duration,
    /// And at most this long.
    pub max_ttl: Duration,
}

/// TLS to servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// Certificate authorities beside the system's, PEM.
    pub ca: Option<PathBuf>,
    /// The name that servers' certificates must have, and that they are asked for. `None`: each server's own host.
    pub sni: Option<String>,
    /// Whether certificates are verified.
    pub verify: bool,
    /// Shown to servers.
    pub client_certificate: Option<CertificateFiles>,
    /// Oldest protocol version.
    pub min_version: TlsVersion,
}

impl Default for ServerTls {
    fn default() -> ServerTls {
        ServerTls { ca: None, sni: None, verify: true, client_certificate: None, min_version: TlsVersion::Tls12 }
    }
}

/// Who is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// In turn, by weight.
    RoundRobin,
    /// Who has the fewest, by weight.
    LeastConnections,
    /// The better of two drawn at random.
    Random,
    /// Always the same for the same key, as far as it is up.
    Hash(HashBy),
}

/// What decides under [`Balance::Hash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashBy {
    /// The client's address.
    Client,
    /// The digest in the path, or where there is none the path.
    Digest,
}

/// Active checks.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// What is asked.
    pub check: HealthCheck,
    /// TLS of the checks: their own, or the pool's. Checks of a pool whose clients' TLS is passed through have only
    /// their own. Always there under [`HealthCheck::Tls`], never under [`HealthCheck::Tcp`].
    pub tls: Option<ServerTls>,
    /// Where, when it is not the server's own port.
    pub port: Option<u16>,
    /// How often.
    pub interval: Duration,
    /// How often while rise or fall are being counted.
    pub fast_interval: Duration,
    /// For everything, from connecting to the last byte.
    pub timeout: Duration,
    /// Successes until a server is up.
    pub rise: u32,
    /// Failures until it is down.
    pub fall: u32,
    /// By how many percent an interval varies, so that checks do not come all at once.
    pub jitter: u32,
}

/// What is asked of a server.
#[derive(Clone, Debug, PartialEq)]
pub enum HealthCheck {
    /// To accept a connection.
    Tcp,
    /// And to complete a TLS handshake.
    Tls,
    /// A GET.
    Http(HttpCheck),
    /// PING, and a role.
    Redis(RedisCheck),
}

/// A GET, and what is expected of its answer. Sent over TLS where there is [`Health::tls`].
#[derive(Clone, Debug, PartialEq)]
pub struct HttpCheck {
    /// Path and query.
    pub path: String,
    /// `Host`; the server's own when absent.
    pub host: Option<String>,
    /// Statuses that mean success, as ranges that include both ends. At least one.
    pub statuses: Vec<(u16, u16)>,
    /// A text that the body must contain.
    pub body: Option<String>,
    /// A field that the body, JSON, must have.
    pub json: Option<BodyField>,
}

/// A field in a JSON body.
#[derive(Clone, Debug, PartialEq)]
pub struct BodyField {
    /// JSON pointer (RFC 6901): `/data/services/storage`.
    pub pointer: String,
    /// Its value.
    pub equals: Value,
}

/// A check of a Redis server. Sent over TLS where there is [`Health::tls`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisCheck {
    /// AUTH; the user name may be empty, for servers that know passwords only.
    pub credentials: Option<Credentials>,
    /// Whether only the primary counts as up.
    pub primary: bool,
}

/// What failures of requests mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passive {
    /// Consecutive failures (to connect, or with a status of 5xx) that mark a server down. It comes up by a successful
    /// check or, in a pool without checks, after `hold`.
    pub failures: u32,
    /// Whether answers of 5xx count.
    pub server_errors: bool,
    /// How long a server is left alone in a pool without checks.
    pub hold: Duration,
}

/// Versions of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// What becomes of layer-4 sessions when their server goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDown {
    /// They go on as long as they can.
    Keep,
    /// They are closed.
    Close,
}

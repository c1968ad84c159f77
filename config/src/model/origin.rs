//! The origin's configuration: what `pierhead-origin` needs to know.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use super::CertificateFiles;
use crate::model::LowestRate;
use crate::secret::Secret;

/// A checked configuration of an origin.
#[derive(Clone, Debug)]
pub struct OriginConfig {
    /// What clients call this registry, with its port: the service and audience of its tokens (`SERVER_HOSTNAME` of Quay's).
    pub hostname: String,
    /// Other names by which clients reach this registry: answers to a request for one of these name that one.
    pub aliases: Vec<String>,
    /// Where it listens.
    pub listener: OriginListener,
    /// Where operators see health and metrics. Nobody changes anything there.
    pub admin: SocketAddr,
    /// Where blobs are.
    pub storage: Storage,
    /// How blobs reach those who pull.
    pub pulls: Pulls,
    /// Where all else is.
    pub database: Database,
    /// Who gets in.
    pub auth: OriginAuth,
    /// What is accepted and how much at a time.
    pub limits: OriginLimits,
    /// Whether anything may be written.
    pub registry_state: RegistryState,
    /// How long a tag that was moved or deleted can be restored: the time machine.
    pub tag_expiration: Duration,
    /// What is taken away, and when.
    pub garbage_collection: GarbageCollection,
    /// How long it is known who did what.
    pub action_log_retention: Duration,
    /// Access log on standard error.
    pub access_log: bool,
    /// How long running requests may take to finish after SIGTERM.
    pub drain_timeout: Duration,
    /// How long to keep accepting after readiness has failed on SIGTERM, for load balancers to notice.
    pub drain_wait: Duration,
}

impl OriginConfig {
    /// Whether nothing may be written.
    pub fn is_read_only(&self) -> bool {
        self.registry_state == RegistryState::ReadOnly
    }
}

/// Where clients, or the edge before them, connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginListener {
    /// Address and port.
    pub bind: SocketAddr,
    /// HTTPS; `None`: plain HTTP.
    pub tls: Option<CertificateFiles>,
    /// Whose `X-Forwarded-*` and request identifiers are believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// Where blobs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Below a directory, shared by all nodes where there are several.
    FileSystem {
        /// The root of the tree.
        path: PathBuf,
    },
    /// In a bucket.
    S3(Box<S3>),
}

/// A bucket of an S3-compatible store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3 {
    /// `None`: AWS's own for the region.
    pub endpoint: Option<Url>,
    /// For the signature; many stores take any.
    pub region: String,
    /// The bucket, which exists.
    pub bucket: String,
    /// Before every key, without slashes at its ends; may be empty.
    pub prefix: String,
    /// `None`: from the environment or the machine's role, as AWS's own tools find them.
    pub credentials: Option<S3Credentials>,
    /// `https://host/bucket/key` instead of `https://bucket.host/key`.
    pub path_style: bool,
    /// PEM file of further certificate authorities.
    pub ca: Option<PathBuf>,
    /// Size of the parts of an upload.
    pub part_size: u64,
    /// For a connection.
    pub connect_timeout: Duration,
    /// For the answer to one request, bodies apart.
    pub timeout: Duration,
}

/// An account at an object store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Credentials {
    /// `access_key_id`
    pub access_key_id: String,
    /// `secret_access_key`
    pub secret_access_key: Secret,
}

/// How blobs reach those who pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulls {
    /// Through this registry.
    Stream,
    /// From the object store itself, by a URL that is good for so long.
    Redirect(Duration),
}

/// Where repositories, tags, accounts and the rest are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// Which.
    pub kind: DatabaseKind,
    /// Most connections at a time.
    pub max_connections: u32,
    /// Connections that are kept.
    pub min_connections: u32,
    /// For a new connection, and for a free one.
    pub connect_timeout: Duration,
    /// For one statement.
    pub statement_timeout: Duration,
}

/// Which database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseKind {
    /// A file of this node alone.
    Sqlite(PathBuf),
    /// Shared by all nodes.
    Postgres {
        /// `postgres://user@host:port/database`, without a password.
        url: Url,
        /// The password.
        password: Option<Secret>,
        /// TLS.
        tls: DatabaseTls,
        /// PEM file of the certificate authority of `verify_ca` and `verify_full`; `None`: the system's.
        ca: Option<PathBuf>,
    },
}

/// PostgreSQL's `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseTls {
    /// Never.
    Disable,
    /// Where the server has it.
    Prefer,
    /// Always, with whatever certificate.
    Require,
    /// Always, with a certificate of a known authority.
    VerifyCa,
    /// The same, and for this host.
    VerifyFull,
}

/// Who gets in, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginAuth {
    /// How long a token lives.
    pub token_lifetime: Duration,
    /// How new tokens are signed.
    pub key_algorithm: KeyAlgorithm,
    /// How long a key signs before another takes over. It is published for a token's life longer.
    pub key_rotation: Duration,
    /// Whether public repositories may be pulled without an account.
    pub anonymous_pulls: bool,
    /// Wrong passwords in a row after which a name must wait at an address, ever longer.
    pub failed_logins: u32,
    /// Whether the tokens of robots are kept, sealed, and shown again to those who administer them.
    pub show_robot_tokens: bool,
}

/// How tokens are signed (RFC 7518, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAlgorithm {
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// RSA with SHA-256, for clients that know nothing else.
    Rs256,
}

/// What is accepted, and how much at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginLimits {
    /// Largest blob.
    pub max_layer_size: u64,
    /// Largest manifest.
    pub max_manifest_size: u64,
    /// Connections at a time.
    pub max_connections: u64,
    /// `/v2/auth`
    pub logins: Admission,
    /// GET and HEAD of the registry API without blobs, and `/api/v1`.
    pub reads: Admission,
    /// GET of blobs.
    pub downloads: Admission,
    /// Manifests that are pushed or deleted.
    pub manifests: Admission,
    /// All else that writes.
    pub writes: Admission,
    /// What a client must keep up while others wait.
    pub lowest_rate: LowestRate,
    /// Uploads that an account may have open in one repository.
    pub open_uploads: u32,
    /// For a request's header.
    pub header_timeout: Duration,
    /// How long a client may send or take nothing in the middle of a body.
    pub idle_timeout: Duration,
}

/// How many requests of a kind are admitted. Beyond it: 503 with Retry-After.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// At work.
    pub running: u32,
    /// Waiting for one of those.
    pub queued: u32,
    /// How long.
    pub wait: Duration,
}

/// Whether anything may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistryState {
    /// Yes.
    Normal,
    /// No: writes get 405 `DENIED`.
    ReadOnly,
}

/// What is taken away, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GarbageCollection {
    /// How often; `None`: never by itself.
    pub interval: Option<Duration>,
    /// How long a blob is kept that nothing references: longer than any push takes.
    pub blob_grace: Duration,
    /// How long an upload may lie untouched.
    pub upload_expiration: Duration,
}

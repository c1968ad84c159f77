//! The checked configuration. Whatever stands here is valid: addresses parse, files were readable, names are
//! unique, every default is filled in. The engine imports these types; they know nothing of the engine.

mod limits;
mod listener;
mod origin;
mod pool;
mod registry;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use globset::GlobSet;
use ipnet::IpNet;

pub use self::limits::{Limits, LowestRate, Rate};
pub use self::listener::{
    CertificateFiles, Ciphers, ClientAuthority, HttpListener, HttpTarget, Listener, Mode, SniRoute, TcpListener, Tls,
    TlsVersion,
};
pub use self::origin::{
    Admission, Database, DatabaseKind, DatabaseTls, GarbageCollection, KeyAlgorithm, OriginAuth, OriginConfig,
    OriginLimits, OriginListener, Pulls, RegistryState, S3, S3Credentials, Storage,
};
pub use self::pool::{
    Address, Balance, BodyField, Discovery, DnsRecord, DnsTiming, HashBy, Health, HealthCheck, HttpCheck, OnDown,
    Passive, Pool, ProxyVersion, RedisCheck, Server, ServerTls,
};
pub use self::registry::{
    AuthMode, Credentials, KeySource, OfflinePolicy, RedirectTarget, Registry, Source, TokenKeys, UpstreamEndpoint,
    UpstreamSettings,
};
use crate::secret::Secret;

/// A whole edge.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect. At least one.
    pub listeners: Vec<Listener>,
    /// Servers to forward to. Names are unique.
    pub pools: Vec<Pool>,
    /// What clients pull from. Names and hosts are unique; at most one is the default. None only where every listener
    /// has a pool of its own.
    pub registries: Vec<Registry>,
    /// The local store. There is one wherever there are registries.
    pub cache: Option<Cache>,
    /// Health, metrics and API, for operators.
    pub admin: Admin,
    /// Who may pull. `None`: everybody.
    pub access: Option<Access>,
    /// Load balancers and proxies in front whose word on a client's address and scheme is taken.
    pub trusted_proxies: Vec<IpNet>,
    /// What one client, and all together, may take.
    pub limits: Limits,
    /// Access log on standard error.
    pub access_log: bool,
    /// How long running pulls may take to finish after SIGTERM.
    pub drain_timeout: Duration,
    /// How long to keep accepting after readiness has failed on SIGTERM, for load balancers to notice.
    pub drain_wait: Duration,
}

/// The local store.
#[derive(Clone, Debug)]
pub struct Cache {
    /// The tree's root.
    pub path: PathBuf,
    /// Most bytes of content.
    pub max_size: u64,
    /// What stays free on the disk. `None`: a hundredth of it, within bounds.
    pub min_free: Option<u64>,
    /// Never ask any upstream.
    pub offline: bool,
    /// Whether a committed blob must survive a power failure.
    pub fsync: bool,
    /// Hash every blob on every read.
    pub verify_on_read: bool,
    /// How often all committed content is hashed. `None`: never.
    pub scrub_interval: Option<Duration>,
    /// Memory for hot manifests, tags and authorisations.
    pub memory: u64,
}

/// The operators' listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Address and port.
    pub bind: SocketAddr,
    /// What `Authorization: Bearer` must bring for the API. Always there unless `bind` is on loopback.
    pub token: Option<Secret>,
}

/// Who may pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// User and bcrypt hash, as in an htpasswd file.
    pub users: Vec<(String, Secret)>,
}

/// A set of glob patterns, kept with their text. `*` matches any characters, `/` included.
#[derive(Clone, Debug, Default)]
pub struct Globs {
    patterns: Vec<String>,
    set: GlobSet,
}

impl Globs {
    /// Compiles the patterns; the error names the one that is wrong.
    pub fn new(patterns: Vec<String>) -> Result<Globs, globset::Error> {
        let mut builder = GlobSet::builder();
        for pattern in &patterns {
            builder.add(globset::Glob::new(pattern)?);
        }
        Ok(Globs { set: builder.build()?, patterns })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether any matches.
    pub fn matches(&self, text: &str) -> bool {
        self.set.is_match(text)
    }

    /// As written.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }
}

impl PartialEq for Globs {
    fn eq(&self, other: &Globs) -> bool {
        self.patterns == other.patterns
    }
}

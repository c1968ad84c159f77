//! The checked configuration. Whatever stands here is valid: addresses parse, files were readable, names are
//! unique, every default is filled in. The engine imports these types; they know nothing of the engine.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use globset::GlobSet;
use pierhead_registry::oci::RepositoryName;
use url::Url;

use crate::secret::Secret;

/// A whole edge.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect. At least one.
    pub listeners: Vec<Listener>,
    /// What they pull from. At least one; names and hosts are unique; at most one is the default.
    pub registries: Vec<Registry>,
    /// The local store.
    pub cache: Cache,
    /// Health, metrics and API, for operators.
    pub admin: Admin,
    /// Who may pull. `None`: everybody.
    pub access: Option<Access>,
    /// Access log on standard error.
    pub access_log: bool,
    /// How long running pulls may take to finish after SIGTERM.
    pub drain_timeout: Duration,
    /// How long to keep accepting after readiness has failed on SIGTERM, for load balancers to notice.
    pub drain_wait: Duration,
}

/// An HTTP listener.
#[derive(Clone, Debug)]
pub struct Listener {
    /// For logs.
    pub name: String,
    /// Address and port.
    pub bind: SocketAddr,
    /// HTTPS when present.
    pub tls: Option<Tls>,
    /// From the first byte of a request to the end of its header; also the deadline of the TLS handshake.
    pub header_timeout: Duration,
    /// Largest request header, all lines together.
    pub max_header_size: u64,
    /// How long a connection may stay open between requests.
    pub idle_timeout: Duration,
    /// How long one write of a response may make no progress.
    pub write_timeout: Duration,
    /// How many connections may be open at once.
    pub max_connections: usize,
}

/// TLS of a listener.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The first is the default, the others are picked by SNI. At least one.
    pub certificates: Vec<CertificateFiles>,
    /// Oldest protocol version.
    pub min_version: TlsVersion,
}

/// A certificate chain and its key, both PEM.
#[derive(Clone, Debug)]
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

/// A registry that clients pull from through the edge.
#[derive(Clone, Debug)]
pub struct Registry {
    /// As a path prefix and as `?ns=`, for example `docker.io` or `registry.local:5000`.
    pub name: String,
    /// Virtual hosts that mean this registry.
    pub hosts: Vec<String>,
    /// What a request that names no registry means.
    pub default: bool,
    /// One-part names mean `library/<name>` (docker.io).
    pub library: bool,
    /// Where it is fetched from.
    pub upstream: UpstreamSettings,
    /// Whose credentials fetch.
    pub auth: AuthMode,
    /// How long upstream's yes to a caller lasts (`auth: passthrough`).
    pub authorization_ttl: Duration,
    /// What a caller gets of a passthrough registry while upstream cannot be asked.
    pub offline_policy: OfflinePolicy,
    /// How long a tag is believed without asking upstream.
    pub tag_ttl: Duration,
    /// How long a 404 is believed.
    pub negative_ttl: Duration,
    /// How long a client waits for the check of an expired tag before it gets the known answer.
    pub revalidate_budget: Duration,
    /// Tags that never move.
    pub immutable_tags: Globs,
    /// Serve the known answer when upstream fails.
    pub stale_if_error: bool,
    /// Serve what upstream says is deleted or forbidden.
    pub keep_deleted: bool,
    /// Repositories that may be pulled; empty means all.
    pub allow: Globs,
    /// Repositories that may not, whatever `allow` says.
    pub deny: Globs,
    /// `<repository>` or `<repository>:<tag>` whose images are never evicted.
    pub pin: Globs,
}

impl Registry {
    /// Whether `allow` and `deny` let this repository through.
    pub fn allows(&self, repository: &RepositoryName) -> bool {
        let name = repository.as_str();
        (self.allow.is_empty() || self.allow.matches(name)) && !self.deny.matches(name)
    }
}

/// How the edge reaches a registry.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// The addresses, tried in order. At least one.
    pub endpoints: Vec<UpstreamEndpoint>,
    /// The edge's own account there.
    pub credentials: Option<Credentials>,
    /// Hosts that may issue tokens for it, beside those on its own registrable domain.
    pub realms: Vec<String>,
    /// TCP and TLS set-up.
    pub connect_timeout: Duration,
    /// From the request to the answer's header.
    pub first_byte_timeout: Duration,
    /// Longest silence within a body.
    pub idle_timeout: Duration,
    /// How often a request is tried again.
    pub retries: u32,
    /// How long a broken body is tried to be resumed since it last made progress.
    pub resume_for: Duration,
    /// How seldom, at the most, an address that failed is looked at again.
    pub cool_down: Duration,
    /// Most connections for bodies at a time.
    pub connections: usize,
    /// Blobs larger than this are fetched over several connections.
    pub parallel_above: u64,
    /// Largest manifest, tag list or referrers list that is accepted.
    pub max_manifest_size: u64,
}

/// One address of an upstream.
#[derive(Clone, Debug)]
pub struct UpstreamEndpoint {
    /// Base URL. `http` only when `insecure` was given.
    pub url: Url,
    /// PEM file of further certificate authorities.
    pub ca: Option<PathBuf>,
    /// Shown to the upstream.
    pub client_certificate: Option<CertificateFiles>,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: Secret,
}

/// Whose credentials fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    /// The edge's own, for everybody.
    Shared,
    /// The caller's: what is cached is served to those whom upstream would serve.
    Passthrough,
}

/// What a caller gets of a passthrough registry while upstream cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfflinePolicy {
    /// Nothing.
    Deny,
    /// What upstream allowed to the same credential before, however long ago.
    AllowKnown,
}

/// The local store.
#[derive(Clone, Debug)]
pub struct Cache {
    /// The tree's root.
    pub path: PathBuf,
    /// Most bytes of content.
    pub max_size: u64,
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
#[derive(Clone, Debug)]
pub struct Admin {
    /// Address and port.
    pub bind: SocketAddr,
}

/// Who may pull.
#[derive(Clone, Debug)]
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

//! Registries, and how they are reached.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use pierhead_registry::oci::RepositoryName;
use url::Url;

use super::{CertificateFiles, Globs, Rate};
use crate::secret::Secret;

/// A registry that clients pull from through the edge.
#[derive(Clone, Debug, PartialEq)]
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
    /// The keys that its tokens are verified by here; `None`: upstream is asked what a token is good for.
    pub token_keys: Option<TokenKeys>,
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
    /// What it may take of the cache by evicting what came from other registries, in percent.
    pub max_share: u8,
    /// How many requests it is asked, all clients together.
    pub rate: Option<Rate>,
}

impl Registry {
    /// Whether `allow` or `deny` may keep a repository out.
    pub fn is_ruled(&self) -> bool {
        !(self.allow.is_empty() && self.deny.is_empty())
    }

    /// Whether `allow` and `deny` let this repository through.
    pub fn allows(&self, repository: &RepositoryName) -> bool {
        let name = repository.as_str();
        (self.allow.is_empty() || self.allow.matches(name)) && !self.deny.matches(name)
    }
}

/// How the edge reaches a registry.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamSettings {
    /// Whom to ask.
    pub source: Source,
    /// The edge's own account there: at the pool, or at the last of the addresses.
    pub credentials: Option<Credentials>,
    /// Hosts that may issue tokens for it, beside those on its own registrable domain.
    pub realms: Vec<String>,
    /// Where it may redirect to, besides what its own address allows.
    pub redirects_to: Vec<RedirectTarget>,
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

/// Whom to ask for what a registry holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Addresses, tried in order. At least one.
    Upstream(Vec<UpstreamEndpoint>),
    /// The servers of a pool, by its name, which exists. What cannot be served from the cache is forwarded to it.
    Pool(String),
}

impl Source {
    /// The addresses; none for a pool.
    pub fn endpoints(&self) -> &[UpstreamEndpoint] {
        match self {
            Source::Upstream(endpoints) => endpoints,
            Source::Pool(_) => &[],
        }
    }
}

/// One address of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamEndpoint {
    /// Base URL. `http` only when `insecure` was given.
    pub url: Url,
    /// PEM file of further certificate authorities.
    pub ca: Option<PathBuf>,
    /// Shown to the upstream.
    pub client_certificate: Option<CertificateFiles>,
    /// Stands before the names of repositories there.
    pub repository_prefix: Option<String>,
    /// The edge's own account at this address.
    pub credentials: Option<Credentials>,
}

/// Where an upstream may redirect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectTarget {
    /// A host, on one port or on any.
    Host {
        /// In lower case.
        host: String,
        /// `None`: any port.
        port: Option<u16>,
    },
    /// All addresses of a network.
    Network(IpNet),
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: Secret,
    /// The file that it came from.
    pub password_file: Option<PathBuf>,
}

/// Whose credentials fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    /// The edge's own, for everybody.
    Shared,
    /// The caller's: what is cached is served to those whom upstream would serve.
    Passthrough,
}

/// By which keys, and as what, the tokens of a registry's token service are verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenKeys {
    /// Where they are published.
    pub source: KeySource,
    /// Who issues the tokens: `iss` in them.
    pub issuer: String,
    /// What they are for: `aud` in them.
    pub audience: String,
}

/// Where keys are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// At the registry itself, below its base URL.
    Path(String),
    /// At a URL. `http` only when `insecure` was given.
    Url(Url),
}

/// What a caller gets of a passthrough registry while upstream cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfflinePolicy {
    /// Nothing.
    Deny,
    /// What upstream allowed to the same credential before, however long ago.
    AllowKnown,
}

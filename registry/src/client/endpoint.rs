//! One address of a registry, with all that belongs to it alone: its HTTP clients, its circuit breaker, its account, the
//! challenges that it sent, and where it may lead.
//!
//! Unless it has a transport of its own there are several HTTP clients, because some things must not be shared: a blob has a connection of its own
//! (HTTP/1.1), so that one slow body never stalls another; a redirect's target never sees the client certificate, and is
//! judged before it is connected to.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::dns::Resolve;
use reqwest::{Certificate, ClientBuilder, Identity, redirect};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::{Error as PemError, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use rustls_platform_verifier::Verifier;
use tokio::time::Instant;
use url::{Host, Url};

use super::breaker::Breaker;
use super::exact::{Exact, Means};
use super::failure::host_of;
use super::login::Login;
use super::loops::EdgeId;
use super::reach::{OtherResolver, OwnResolver, Reach, is_localhost};
use super::schemes::Schemes;
use super::transport::Transport;
use super::{BuildError, EndpointSettings, Settings};
use crate::oci::{Reference, RepositoryName};

/// Sent with every request.
pub(super) const USER_AGENT: &str = concat!("pierhead/", env!("CARGO_PKG_VERSION"));
/// A peer that is gone without a word is looked for this often.
const PING_EVERY: Duration = Duration::from_secs(10);
/// Idle connections are dropped before common servers drop them, which would cost a retry.
const POOL_IDLE: Duration = Duration::from_secs(30);

/// How long a server that refused a range or a HEAD is not asked in that way without need.
const REFUSED_FOR: Duration = Duration::from_secs(600);

/// See the module.
pub(super) struct Endpoint {
    /// Base URL.
    pub(super) url: Url,
    /// For everything but blobs.
    pub(super) api: reqwest::Client,
    /// For blobs.
    pub(super) body: reqwest::Client,
    /// For URLs of the endpoint's that must be written exactly as a redirect wrote them.
    pub(super) exact: Exact,
    /// For hosts that are not the endpoint's.
    pub(super) foreign: Exact,
    /// How it is reached, when it is not by these clients.
    pub(super) transport: Option<Arc<dyn Transport>>,
    /// Whether to ask it at all; of no meaning with a transport.
    pub(super) breaker: Breaker,
    /// What it wants to see of callers.
    pub(super) schemes: Schemes,
    /// Its account.
    pub(super) login: Login,
    /// Where it may lead.
    pub(super) reach: Arc<Reach>,
    /// Whether it is the registry itself: the last of the addresses.
    pub(super) last: bool,
    /// Stands in the header of each request.
    pub(super) edge: Option<EdgeId>,
    prefix: Option<String>,
    host: String,
    /// Whether it answers requests for a range as it answers those without.
    pub(super) ranges: Way,
    /// Whether it answers HEADs of blobs as it answers GETs.
    pub(super) heads: Way,
    /// Whether its HEADs of blobs tell the length, and not 0 for all of them.
    pub(super) lengths: Way,
    /// Whether its HEADs of manifests are answered with their digest: by tag, and by digest.
    tag_heads: Way,
    digest_heads: Way,
    /// Whether they tell the media type and the size, too.
    pub(super) head_types: Way,
}

/// A way to ask that an endpoint may refuse although it gives what is asked for in another way.
#[derive(Default)]
pub(super) struct Way(Mutex<Option<Instant>>);

impl Way {
    /// Whether it is worth asking in this way where another would do: none was refused lately.
    pub(super) fn is_worth_trying(&self, now: Instant) -> bool {
        let refused = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.is_none_or(|refused| now.saturating_duration_since(refused) > REFUSED_FOR)
    }

    /// The endpoint refused a request of this way, and answered another.
    pub(super) fn refused(&self, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }
}

impl Endpoint {
    /// Reads the files that the settings name. Contacts nobody.
    pub(super) fn new(endpoint: EndpointSettings, settings: &Settings, last: bool) -> Result<Endpoint, BuildError> {
        let inside = endpoint.transport.is_some();
        let (allowed, listeners) = (settings.redirects_to.clone(), settings.listeners.clone());
        let reach = Arc::new(Reach::new(&endpoint.url, allowed, listeners, inside, is_proxied()));
        let roots = endpoint.ca.as_deref().map(certificates).transpose()?.unwrap_or_default();
        let identity = endpoint.client_certificate.as_ref().map(|(cert, key)| identity(cert, key)).transpose()?;
        let client = |adapt: fn(ClientBuilder) -> ClientBuilder, identity: Option<&Identity>| {
            let prepare = || {
                let mut builder = adapt(base(&endpoint.url, settings)).dns_resolver(OwnResolver(Arc::clone(&reach)));
                if let Some(identity) = identity {
                    builder = builder.identity(identity.clone());
                }
                builder
            };
            match prepare().tls_certs_merge(roots.iter().cloned()).build() {
                // A machine without any CA can still speak plain http; a redirect to https will fail there, as it must.
                Err(_) if endpoint.url.scheme() == "http" => prepare().tls_certs_only(roots.iter().cloned()).build(),
                result => result,
            }
        };
        let pem = endpoint.ca.as_deref().map(read).transpose()?.unwrap_or_default();
        let pair = |(cert, key): &(PathBuf, PathBuf)| Ok::<_, BuildError>((read(cert)?, read(key)?));
        let pair = endpoint.client_certificate.as_ref().map(pair).transpose()?;
        let exact = |resolver: Arc<dyn Resolve>, rule: Option<Arc<Reach>>, pair: Option<(Vec<u8>, Vec<u8>)>| {
            let (pem, plain) = (pem.clone(), endpoint.url.scheme() == "http");
            let means = Means {
                resolver,
                rule,
                proxies: !is_loopback(&endpoint.url),
                connect_timeout: settings.connect_timeout,
                keepalive: PING_EVERY,
                idle: POOL_IDLE,
            };
            Exact::new(means, move || tls(&pem, pair.as_ref(), plain))
        };
        let multiplexed =
            |builder: ClientBuilder| builder.http2_keep_alive_interval(PING_EVERY).http2_keep_alive_timeout(PING_EVERY);
        Ok(Endpoint {
            api: client(multiplexed, identity.as_ref())?,
            body: client(ClientBuilder::http1_only, identity.as_ref())?,
            exact: exact(Arc::new(OwnResolver(Arc::clone(&reach))), None, pair),
            foreign: exact(Arc::new(OtherResolver), Some(Arc::clone(&reach)), None),
            transport: endpoint.transport.map(|shared| shared.0),
            breaker: Breaker::default(),
            schemes: Schemes::new(),
            login: Login::new(&settings.name, endpoint.account, settings.cool_down),
            reach,
            last,
            edge: settings.edge.clone(),
            prefix: endpoint.repository_prefix,
            ranges: Way::default(),
            heads: Way::default(),
            lengths: Way::default(),
            tag_heads: Way::default(),
            digest_heads: Way::default(),
            head_types: Way::default(),
            host: host_of(&endpoint.url),
            url: endpoint.url,
        })
    }

    /// Whether it would be asked.
    pub(super) fn is_available(&self) -> bool {
        self.transport.as_ref().map_or_else(|| !self.breaker.is_open(), |transport| transport.available())
    }

    /// The transport, if requests to this URL go by it.
    pub(super) fn carrier(&self, url: &Url) -> Option<&Arc<dyn Transport>> {
        self.transport.as_ref().filter(|transport| transport.carries(url))
    }

    /// Whether its HEADs of what is named in this way are answered with its digest.
    pub(super) fn heads_of(&self, reference: &Reference) -> &Way {
        match reference {
            Reference::Tag(_) => &self.tag_heads,
            Reference::Digest(_) => &self.digest_heads,
        }
    }

    /// Whether what is at this URL is no longer the endpoint itself.
    pub(super) fn is_foreign(&self, url: &Url) -> bool {
        url.origin() != self.url.origin() && self.carrier(url).is_none()
    }

    /// What the endpoint calls a repository.
    pub(super) fn repository(&self, name: &RepositoryName) -> String {
        self.prefix.as_ref().map_or_else(|| name.to_string(), |prefix| format!("{prefix}/{name}"))
    }

    /// The URL of the API, which says whether it wants a login.
    pub(super) fn base(&self) -> Url {
        self.beside("/v2/")
    }

    /// The URL of `path` within a repository (with nothing in it that needs escaping).
    pub(super) fn within(&self, name: &RepositoryName, path: &str, query: Option<&str>) -> Url {
        let mut url = self.beside(&format!("/v2/{}/{path}", self.repository(name)));
        url.set_query(query);
        url
    }

    /// The URL of something beside the API, at a path that begins with `/`.
    pub(super) fn beside(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}{path}", self.url.path().trim_end_matches('/')));
        url
    }

    /// For logs and errors.
    pub(super) fn host(&self) -> &str {
        &self.host
    }
}

/// Whether the environment names a proxy, which then resolves the names.
fn is_proxied() -> bool {
    ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

fn base(url: &Url, settings: &Settings) -> ClientBuilder {
    let builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(settings.connect_timeout)
        .tcp_keepalive(PING_EVERY)
        .pool_idle_timeout(POOL_IDLE);
    // The environment names proxies for the world outside; this machine is not part of it (Go's clients agree).
    if is_loopback(url) { builder.no_proxy() } else { builder }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(_)) => is_localhost(url),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn read(path: &Path) -> Result<Vec<u8>, BuildError> {
    std::fs::read(path).map_err(|error| unusable(path, error.to_string()))
}

fn unusable(path: &Path, reason: String) -> BuildError {
    BuildError::File { path: path.display().to_string(), reason }
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, BuildError> {
    let found =
        Certificate::from_pem_bundle(&read(path)?).map_err(|error| unusable(path, super::failure::reason(error)))?;
    if found.is_empty() { Err(unusable(path, "holds no certificate".to_owned())) } else { Ok(found) }
}

fn identity(cert: &Path, key: &Path) -> Result<Identity, BuildError> {
    let mut pem = read(cert)?;
    pem.push(b'\n');
    pem.extend(read(key)?);
    Identity::from_pem(&pem).map_err(|error| unusable(cert, super::failure::reason(error)))
}

/// TLS as the endpoint's HTTP clients have it: the machine's roots and these; `pair`: the client certificate with its key;
/// `plain`: a machine without any root will do.
fn tls(roots: &[u8], pair: Option<&(Vec<u8>, Vec<u8>)>, plain: bool) -> Result<ClientConfig, rustls::Error> {
    let unreadable = |error: PemError| rustls::Error::General(error.to_string());
    let roots = CertificateDer::pem_slice_iter(roots).collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    let provider = CryptoProvider::get_default().map_or_else(|| Arc::new(aws_lc_rs::default_provider()), Arc::clone);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match Verifier::new_with_extra_roots(roots.iter().cloned(), provider) {
        Ok(verifier) => builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)),
        Err(_) if plain => {
            let mut store = RootCertStore::empty();
            store.add_parsable_certificates(roots);
            builder.with_root_certificates(store)
        }
        Err(error) => return Err(error),
    };
    let mut config = match pair {
        Some((cert, key)) => {
            let chain = CertificateDer::pem_slice_iter(cert).collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key).map_err(unreadable)?)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

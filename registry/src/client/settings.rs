//! How one upstream registry is reached. Whoever builds a client fills this in; the client checks nothing twice.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::HeaderValue;
use url::Url;

use super::loops::EdgeId;
use super::reach::RedirectTarget;
use super::transport::SharedTransport;

/// Everything the client of one registry needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The registry's name, for logs, errors and metrics.
    pub name: String,
    /// The addresses, tried in order. At least one. The last is the registry itself: its word counts when all others
    /// have said no, and it alone is shown what callers bring.
    pub endpoints: Vec<EndpointSettings>,
    /// Hosts that may issue tokens, beside those on the endpoint's own registrable domain.
    pub realms: Vec<String>,
    /// Where redirects may lead besides what the rule on addresses allows.
    pub redirects_to: Vec<RedirectTarget>,
    /// Where this program itself listens: no redirect may lead there.
    pub listeners: Vec<SocketAddr>,
    /// What this edge is called in the `CDN-Loop` of each request; `None`: the header is not sent.
    pub edge: Option<EdgeId>,
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
    /// How often, at the least, an endpoint that failed is looked at again.
    pub cool_down: Duration,
    /// Largest manifest or list that is accepted.
    pub max_manifest_size: u64,
}

/// One address of a registry.
#[derive(Clone, Debug)]
pub struct EndpointSettings {
    /// Base URL, without `/v2/`.
    pub url: Url,
    /// Stands before the names of repositories there: `mirror-project` for `mirror-project/library/app`.
    pub repository_prefix: Option<String>,
    /// Used when a request brings no credential of its own. It is shown to this address alone.
    pub account: Option<AccountSettings>,
    /// PEM file of further certificate authorities.
    pub ca: Option<PathBuf>,
    /// PEM files of certificate chain and key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// How requests get there, when it is not by connecting to the URL's host.
    pub transport: Option<SharedTransport>,
}

/// The account of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountSettings {
    /// User name and password.
    pub account: Account,
    /// The file that the password came from: when it changes, the new password is used.
    pub password_file: Option<PathBuf>,
}

/// What a registry is shown of whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// An account, shown in the way that the registry asks for.
    Account(Account),
    /// An `Authorization` header that somebody else made, or none, passed on as it is: what the registry says to it is
    /// its answer. Values must be marked as sensitive.
    Verbatim(Option<HeaderValue>),
}

/// An account at a registry. Its `Debug` hides the password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Account {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("username", &self.username).finish_non_exhaustive()
    }
}

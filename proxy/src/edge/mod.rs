//! One request: parse, authorise, plan, carry out the plan, log the outcome.
//!
//! Invariants: nothing is served to a caller whom its registry would refuse, except by an explicit offline policy;
//! an answer that broke off never looks complete; a credential reaches no log, metric or error.
//!
//! The pure parts ([`route`], [`plan`], [`range`], [`conditional`], [`negotiate`]) decide; [`manifests`], [`blobs`] and
//! [`lists`] do; [`respond`] alone knows HTTP statuses.

mod authorise;
mod blobs;
mod body;
mod conditional;
mod credential;
mod flights;
mod gate;
mod lists;
mod manifests;
mod negotiate;
mod outcome;
mod plan;
mod range;
mod refusal;
mod respond;
mod route;
mod scope;
mod served;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use aws_lc_rs::hmac;
use http::header::{AUTHORIZATION, HOST, USER_AGENT};
use pierhead_config::{Access, Registry};
use pierhead_registry::client::{Client, ListKind};
use pierhead_registry::oci::{Action, Endpoint};
use pingora_core::protocols::http::ServerSession;
use pingora_http::RequestHeader;

use self::authorise::Users;
use self::credential::Caller;
use self::flights::Flights;
pub(crate) use self::gate::{Gate, Generation};
use self::manifests::{Arrival, Wish};
use self::outcome::{AccessLine, Kind, Outcome};
use self::refusal::Refusal;
use self::respond::{Asked, is_read};
use self::route::{Query, Routes};
use self::scope::{Key, Negatives, Questions, Scope, Upstream};
use self::served::{Content, Refused, Served};
use crate::admin::health::{Check, Health};
use crate::admin::metrics::Metrics;
use crate::cache::{Blob, BlobError, Cache, ListRecord, RepositoryId};
use crate::front::{Connection, Reuse};
use crate::logging::{AccessLog, Time, milliseconds};

/// Most questions of one kind that may wait for upstreams at once.
const FLIGHTS: usize = 4096;
/// What a client wrote is cut to this in the log.
const TEXT_LIMIT: usize = 200;

/// What an edge is made of.
pub(crate) struct EdgeParts {
    /// What clients pull from.
    pub(crate) registries: Vec<RegistryParts>,
    /// The store.
    pub(crate) cache: Arc<Cache>,
    /// Counts every request.
    pub(crate) metrics: Arc<Metrics>,
    /// For `/health/…`.
    pub(crate) health: Arc<Health>,
    /// Who may pull; `None`: everybody.
    pub(crate) access: Option<Access>,
    /// One line a request.
    pub(crate) access_log: AccessLog,
    /// Never ask any upstream.
    pub(crate) offline: bool,
}

/// A registry, and the client that speaks to it.
pub(crate) struct RegistryParts {
    /// As configured.
    pub(crate) config: Registry,
    /// Its client.
    pub(crate) client: Client,
}

/// Answers requests.
pub(crate) struct Edge {
    registries: Vec<Arc<Upstream>>,
    routes: Routes,
    /// Whether a ping that names no registry may be about one that wants callers' credentials.
    passthrough_by_path: bool,
    cache: Arc<Cache>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    users: Option<Arc<Users>>,
    caller_key: hmac::Key,
    access_log: AccessLog,
    offline: bool,
    negatives: Negatives,
    manifests: Questions<Arrival>,
    blobs: Questions<u64>,
    openings: Flights<Key, Result<Arc<Blob>, BlobError>>,
    lists: Questions<Arc<ListRecord>>,
    ids: RequestIds,
}

/// What the log and the metrics tell of a request, gathered while it is answered.
#[derive(Default)]
struct Trace {
    /// One that is configured: metrics are labelled with it.
    registry: Option<Arc<str>>,
    /// What the client called it, for the log when there is no such registry.
    namespace: Option<String>,
    repository: Option<RepositoryId>,
    /// Kept as it was parsed: a log that is off formats nothing.
    action: Option<Action>,
    kind: Kind,
    user: Option<Arc<str>>,
}

impl Edge {
    /// Puts the parts together.
    pub(crate) fn new(parts: EdgeParts) -> Edge {
        let routes = Routes::new(parts.registries.iter().map(|registry| &registry.config));
        let registries: Vec<_> =
            parts.registries.into_iter().map(|parts| Arc::new(Upstream::new(parts.config, parts.client))).collect();
        Edge {
            passthrough_by_path: registries.iter().any(|registry| registry.is_passthrough()),
            registries,
            routes,
            caller_key: hmac::Key::new(hmac::HMAC_SHA256, parts.cache.caller_key()),
            users: parts.access.map(|access| Arc::new(Users::new(access, Arc::clone(&parts.metrics)))),
            cache: parts.cache,
            metrics: parts.metrics,
            health: parts.health,
            access_log: parts.access_log,
            offline: parts.offline,
            negatives: Negatives::new(),
            manifests: Flights::new(FLIGHTS),
            blobs: Flights::new(FLIGHTS),
            openings: Flights::new(FLIGHTS),
            lists: Flights::new(FLIGHTS),
            ids: RequestIds::new(),
        }
    }

    /// Finds the content that a request asks for.
    async fn resolve(
        self: &Arc<Self>,
        request: &RequestHeader,
        connection: &Connection,
        trace: &mut Trace,
        now: SystemTime,
    ) -> Result<Served, Refused> {
        let path = request.uri.path();
        // Without a login: a load balancer has none.
        if let Some(check) = Check::at(path) {
            return match is_read(&request.method) {
                true => Ok(Served::new(Content::Health(self.health.report(check)), Outcome::None)),
                false => Err(Refusal::Method.into()),
            };
        }
        let endpoint = Endpoint::parse(path).map_err(Refusal::from)?;
        let authorization = request.headers.get(AUTHORIZATION);
        if let Some(users) = &self.users {
            trace.user = Some(users.login(authorization, connection.client.ip()).await?);
        }
        if !is_read(&request.method) {
            return Err(Refusal::Method.into());
        }
        let query = Query::parse(request.uri.query())?;
        trace.namespace.clone_from(&query.ns);
        let host = match request.uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => request.headers.get(HOST).and_then(|host| host.to_str().ok()),
        };
        let (name, action) = match endpoint {
            Endpoint::Ping => return self.ping(&query, host, credential::basic(authorization).is_some()),
            Endpoint::Catalog => return Err(Refusal::Catalog.into()),
            Endpoint::Repository { name, action } => (name, action),
        };
        let library = |registry: usize| self.registries.get(registry).is_some_and(|registry| registry.config.library);
        let route = self.routes.route(&library, query.ns.as_deref(), host, &name)?;
        let upstream = self.registries.get(route.registry).ok_or(Refusal::NotServed)?;
        let repository = RepositoryId { registry: Arc::clone(&upstream.name), name: route.repository };
        trace.registry = Some(Arc::clone(&upstream.name));
        trace.repository = Some(repository.clone());
        if !upstream.config.allows(&repository.name) {
            return Err(Refusal::NotServed.into());
        }
        let caller = upstream.is_passthrough().then(|| Arc::new(Caller::read(&self.caller_key, authorization)));
        let scope = Scope { upstream: Arc::clone(upstream), repository, caller, offline: self.offline };
        let head = request.method == http::Method::HEAD;
        trace.kind = kind(&action);
        trace.action = Some(action.clone());
        match action {
            Action::Manifest(reference) => {
                self.manifest(&scope, &reference, Wish { head, headers: &request.headers }, now).await
            }
            Action::Blob(digest) => self.blob(&scope, &digest, head, &request.headers, now).await,
            Action::Tags => self.list(&scope, ListKind::Tags, query.list.as_deref(), route.addressed, now).await,
            Action::Referrers(digest) => {
                self.list(&scope, ListKind::Referrers(digest), query.list.as_deref(), route.addressed, now).await
            }
            Action::Upload => Err(Refusal::Method.into()),
        }
    }

    /// `/v2/`. podman and older Docker learn only here that they are to send credentials, so where any registry that
    /// the ping may be about wants the caller's own, it is challenged. A client that has none sends none (or empty
    /// ones) and is then served as an anonymous caller; registries with `auth: shared` look at none of it.
    fn ping(&self, query: &Query, host: Option<&str>, credential: bool) -> Result<Served, Refused> {
        let challenge = match self.routes.ping(query.ns.as_deref(), host) {
            Some(registry) => self.registries.get(registry).is_some_and(|registry| registry.is_passthrough()),
            None => self.passthrough_by_path,
        };
        if challenge && !credential {
            return Err(Refusal::Login.into());
        }
        Ok(Served::new(Content::Ping, Outcome::None))
    }
}

impl Edge {
    /// Answers one request.
    pub(crate) async fn handle(self: &Arc<Self>, session: &mut ServerSession, connection: &Connection) -> Reuse {
        let (started, now) = (Instant::now(), SystemTime::now());
        let id = self.ids.next();
        let mut trace = Trace::default();
        let request = session.req_header();
        let result = self.resolve(request, connection, &mut trace, now).await;
        let mut outcome = match &result {
            Ok(served) => served.outcome,
            Err(refused) => refused.outcome,
        };
        let mut reason = result.as_ref().err().map(|refused| refused.refusal.to_string());
        let asked = Asked { head: request.method == http::Method::HEAD, headers: &request.headers };
        let mut answer = respond::answer(&asked, result, id.as_str());
        if let Err(error) = answer.body.begin().await {
            let refused = Refused::new(Refusal::blob(&error, false), Outcome::Miss);
            (outcome, reason) = (refused.outcome, Some(refused.refusal.to_string()));
            answer = respond::answer(&asked, Err(refused), id.as_str());
        }
        let status = answer.header.status;
        let sent = body::send(session, answer.header, answer.body, id.as_str()).await;
        let first_byte = sent.first_byte.duration_since(started);
        let registry = trace.registry.as_deref().unwrap_or_default();
        self.metrics.request(registry, trace.kind.as_str(), outcome.as_str(), status.as_str(), sent.bytes, first_byte);
        if self.access_log.is_on() {
            let request = session.req_header();
            self.access_log.write(&AccessLine {
                time: Time(now),
                id: id.as_str(),
                client: connection.client.ip(),
                listener: &connection.listener,
                protocol: if session.is_http2() { "HTTP/2" } else { "HTTP/1.1" },
                method: request.method.as_str(),
                registry: trace.registry.as_deref().or(trace.namespace.as_deref().map(cut)),
                repository: trace.repository.as_ref().map(|repository| repository.name.as_str()),
                reference: trace.action.as_ref().and_then(reference).as_deref(),
                path: trace.repository.is_none().then(|| cut(request.uri.path())),
                kind: trace.kind.as_str(),
                outcome: outcome.as_str(),
                reason: outcome.reason().or(reason.as_deref()),
                status: status.as_u16(),
                bytes: sent.bytes,
                aborted: !sent.complete,
                ttfb_ms: milliseconds(first_byte),
                total_ms: milliseconds(started.elapsed()),
                user: trace.user.as_deref(),
                user_agent: request.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).map(cut),
            });
        }
        if sent.complete { Reuse::Keep } else { Reuse::Close }
    }
}

fn kind(action: &Action) -> Kind {
    match action {
        Action::Manifest(_) => Kind::Manifest,
        Action::Blob(_) => Kind::Blob,
        Action::Tags | Action::Referrers(_) => Kind::List,
        Action::Upload => Kind::Other,
    }
}

/// What the log calls that which was asked for.
fn reference(action: &Action) -> Option<String> {
    match action {
        Action::Manifest(reference) => Some(reference.to_string()),
        Action::Blob(digest) => Some(digest.to_string()),
        Action::Tags => Some("tags".to_owned()),
        Action::Referrers(digest) => Some(format!("referrers/{digest}")),
        Action::Upload => None,
    }
}

/// What a client wrote, cut for the log.
fn cut(text: &str) -> &str {
    let end = (0..=TEXT_LIMIT.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}

/// Names for requests: a counter that starts somewhere at random, scrambled, so that ids of two edges do not meet.
struct RequestIds {
    next: AtomicU64,
}

impl RequestIds {
    fn new() -> RequestIds {
        RequestIds { next: AtomicU64::new(rand::random()) }
    }

    fn next(&self) -> RequestId {
        // The odd multiplier makes this a permutation: no id comes twice in 2^64.
        RequestId::new(self.next.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// A request's name: 16 hexadecimal characters.
struct RequestId([u8; 16]);

impl RequestId {
    fn new(number: u64) -> RequestId {
        let mut text = [0; 16];
        for (place, character) in text.iter_mut().enumerate() {
            let nibble = (number >> (60 - 4 * place)) & 15;
            *character = b"0123456789abcdef"[nibble as usize];
        }
        RequestId(text)
    }

    fn as_str(&self) -> &str {
        // Hexadecimal is ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

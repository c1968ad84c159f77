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
mod passage;
mod plan;
mod range;
mod refusal;
mod resolve;
mod respond;
mod route;
mod scope;
mod served;
#[cfg(test)]
mod tests;
mod writes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use aws_lc_rs::hmac;
use http::header::USER_AGENT;
use pierhead_config::{Access, Registry};
use pierhead_registry::client::Client;
use pierhead_registry::oci::Action;
use pingora_core::protocols::http::ServerSession;

use self::authorise::Users;
use self::flights::Flights;
pub(crate) use self::gate::{Gate, Generation};
use self::manifests::Arrival;
use self::outcome::{AccessLine, Kind, Outcome};
use self::refusal::Refusal;
use self::resolve::Found;
use self::respond::Asked;
use self::route::Routes;
use self::scope::{Key, Negatives, Questions, Upstream};
use self::served::Refused;
use crate::admin::health::Health;
use crate::admin::metrics::Metrics;
use crate::cache::{Blob, BlobError, Cache, ListRecord, RepositoryId};
use crate::front::{Connection, Reuse};
use crate::logging::{AccessLog, Time, milliseconds};
use crate::pool::Pool;

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
    /// The servers of its origin, where it has a pool.
    pub(crate) pool: Option<Arc<Pool>>,
    /// All is as it was in the edge before: so is what is known of the registry.
    pub(crate) kept: bool,
}

/// Answers requests.
pub(crate) struct Edge {
    registries: Vec<Arc<Upstream>>,
    routes: Routes,
    /// Whether a ping that names no registry may be about one that wants callers' credentials.
    passthrough_by_path: bool,
    /// Whether any registry has a pool, so that more than pulls has somewhere to go.
    has_origin: bool,
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
    /// Puts the parts together. What was learnt under the configuration before, and still holds, is kept: who has logged
    /// in, and which upstreams fail.
    pub(crate) fn new(parts: EdgeParts, before: Option<&Edge>) -> Edge {
        let routes = Routes::new(parts.registries.iter().map(|registry| &registry.config));
        let known = |name: &str| before?.registries.iter().find(|upstream| upstream.config.name == name);
        let registries: Vec<_> = (parts.registries.into_iter())
            .map(|parts| match known(&parts.config.name).filter(|_| parts.kept) {
                Some(known) => Arc::clone(known),
                None => Arc::new(Upstream::new(parts)),
            })
            .collect();
        let users = |access: Access| match before.and_then(|before| before.users.as_ref()) {
            Some(users) if users.are(&access) => Arc::clone(users),
            _ => Arc::new(Users::new(access, Arc::clone(&parts.metrics))),
        };
        Edge {
            passthrough_by_path: registries.iter().any(|registry| registry.is_passthrough()),
            has_origin: registries.iter().any(|registry| registry.pool.is_some()),
            registries,
            routes,
            caller_key: hmac::Key::new(hmac::HMAC_SHA256, parts.cache.caller_key()),
            users: parts.access.map(users),
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
}

impl Edge {
    /// Answers one request.
    pub(crate) async fn handle(self: &Arc<Self>, session: &mut ServerSession, connection: &Connection) -> Reuse {
        let (started, now) = (Instant::now(), SystemTime::now());
        let id = self.ids.next();
        let mut trace = Trace::default();
        let request = session.req_header();
        let result = match self.resolve(request, connection, &mut trace, now).await {
            Ok(Found::Served(served)) => Ok(served),
            Ok(Found::Passage(passage)) => {
                passage.otherwise.map_or_else(|| Err(Refusal::Unavailable.into()), |otherwise| *otherwise)
            }
            Err(refused) => Err(refused),
        };
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

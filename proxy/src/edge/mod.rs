//! One request: parse, authorise, plan, carry out the plan, log the outcome.
//!
//! Invariants: nothing is served to a caller whom its registry would refuse, except by an explicit offline policy;
//! an answer that broke off never looks complete; a credential reaches no log, metric or error.
//!
//! The pure parts ([`route`], [`plan`], [`negotiate`]) decide; [`verifier`] tells what tokens say; [`manifests`],
//! [`blobs`] and [`lists`] do; [`respond`] alone knows HTTP statuses.

mod authorise;
mod blobs;
mod body;
mod client;
mod condition;
mod credential;
mod flights;
mod form;
mod forward;
mod gate;
mod grant;
mod identity;
mod keys;
mod link;
mod lists;
mod manifests;
mod negatives;
mod negotiate;
mod outcome;
mod passage;
mod ping;
mod plan;
mod record;
mod redirect;
mod refusal;
mod resolve;
mod respond;
mod route;
mod scope;
mod served;
#[cfg(test)]
mod tests;
mod verifier;
mod writes;
mod written;

use std::sync::Arc;

use aws_lc_rs::hmac;
use pierhead_config::{Access, Registry};
use pierhead_registry::client::{BlobHead, Client};
use pierhead_registry::oci::Action;
use pingora_core::protocols::http::ServerSession;

use self::authorise::Users;
use self::flights::{Flights, QUESTION};
use self::gate::Visit;
pub(crate) use self::gate::{Gate, Generation, Target};
use self::manifests::Arrival;
use self::negatives::Negatives;
use self::outcome::{BypassReason, Kind, Outcome};
use self::passage::Otherwise;
use self::ping::ByPath;
pub(crate) use self::record::Recorder;
use self::record::Trace;
use self::resolve::Found;
use self::route::Routes;
use self::scope::{Key, Questions, Upstream};
use self::served::Refused;
use self::verifier::Verifier;
use crate::admin::metrics::Metrics;
use crate::cache::{Blob, BlobError, Cache, ListRecord};
use crate::front::Reuse;
use crate::pool::Pool;
use pierhead_service::health::Health;
use pierhead_service::shares::Floor;

/// Most questions of one kind that may wait for upstreams at once.
const FLIGHTS: usize = 4096;

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
    /// How slow a client may be while others wait.
    pub(crate) floor: Floor,
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
    /// What a ping that names no registry may be about.
    by_path: ByPath,
    /// Whether any registry has a pool, so that more than pulls has somewhere to go.
    has_origin: bool,
    cache: Arc<Cache>,
    health: Arc<Health>,
    users: Option<Arc<Users>>,
    caller_key: hmac::Key,
    offline: bool,
    negatives: Negatives,
    manifests: Questions<Arrival>,
    blobs: Questions<BlobHead>,
    openings: Flights<Key, Result<Arc<Blob>, BlobError>>,
    lists: Questions<Arc<ListRecord>>,
}

impl Edge {
    /// Puts the parts together. What was learnt under the configuration before, and still holds, is kept: who has logged
    /// in, and which upstreams fail.
    pub(crate) fn new(parts: EdgeParts, before: Option<&Edge>) -> Edge {
        let routes = Routes::new(parts.registries.iter().map(|registry| &registry.config));
        let (cache, metrics, floor) = (Arc::clone(&parts.cache), Arc::clone(&parts.metrics), parts.floor);
        let offline = parts.offline;
        let known = |name: &str| before?.registries.iter().find(|upstream| upstream.config.name == name);
        let registries: Vec<_> = (parts.registries.into_iter())
            .map(|parts| match known(&parts.config.name).filter(|_| parts.kept) {
                Some(known) => {
                    known.connections.set_floor(floor);
                    Arc::clone(known)
                }
                None => {
                    let verifier = Verifier::new(&parts, &cache, &metrics, offline);
                    Arc::new(Upstream::new(parts, verifier, floor, &metrics))
                }
            })
            .collect();
        let users = |access: Access| match before.and_then(|before| before.users.as_ref()) {
            Some(users) if users.are(&access) => Arc::clone(users),
            _ => Arc::new(Users::new(access, Arc::clone(&parts.metrics))),
        };
        Edge {
            by_path: ByPath::of(registries.iter().map(|registry| &registry.config)),
            has_origin: registries.iter().any(|registry| registry.pool.is_some()),
            registries,
            routes,
            caller_key: hmac::Key::new(hmac::HMAC_SHA256, parts.cache.caller_key()),
            users: parts.access.map(users),
            cache: parts.cache,
            health: parts.health,
            offline: parts.offline,
            negatives: Negatives::new(),
            manifests: Flights::new(FLIGHTS, metrics.share(QUESTION)),
            blobs: Flights::new(FLIGHTS, metrics.share(QUESTION)),
            openings: Flights::new(FLIGHTS, metrics.share(QUESTION)),
            lists: Flights::new(FLIGHTS, metrics.share(QUESTION)),
        }
    }
}

impl Edge {
    /// The store.
    pub(crate) fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// Whether a registry of this name is configured.
    pub(crate) fn is_registry(&self, name: &str) -> bool {
        self.registries.iter().any(|upstream| &*upstream.name == name)
    }

    /// Says what operators should know of a registry: that it refuses the edge's account, or why it cannot be asked.
    pub(crate) fn trouble(&self, registry: &str) -> Option<String> {
        self.registries.iter().find(|upstream| &*upstream.name == registry)?.trouble()
    }

    /// Answers one request.
    pub(crate) async fn handle(self: &Arc<Self>, session: &mut ServerSession, visit: &Visit<'_>) -> Reuse {
        let mut trace = Trace::default();
        let (request, limits) = (session.req_header(), visit.limits);
        let found = self.resolve(request, visit.connection, limits, &mut trace, visit.begun.date()).await;
        let result = match found {
            Ok(Found::Served(served)) => Ok(served),
            Ok(Found::Passage(passage)) => match visit.forward(session, &mut trace, &passage).await {
                Ok(reuse) => return reuse,
                Err(refusal) => match passage.otherwise {
                    Some(Otherwise::Found(found)) => *found,
                    Some(Otherwise::Ping(ping)) => self.answer_alone(*ping).await,
                    None => Err(Refused::new(refusal, Outcome::Bypass(BypassReason::Forwarded))),
                },
            },
            Err(refused) => {
                if matches!(refused.refusal, refusal::Refusal::TooMany { .. }) {
                    visit.recorder.limited(&visit.connection.listener, "registry_rate");
                }
                Err(refused)
            }
        };
        visit.answer(session, &trace, result).await
    }
}

fn kind(action: &Action) -> Kind {
    match action {
        Action::Manifest(_) => Kind::Manifest,
        Action::Blob(_) => Kind::Blob,
        Action::Tags | Action::Referrers(_) => Kind::List,
        Action::Upload(_) => Kind::Other,
    }
}

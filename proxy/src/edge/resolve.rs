//! What a request comes to: content, a refusal, or a passage to the origin behind this edge.
//!
//! Everything that reads a manifest, a blob or a list is a pull, and goes by the cache. Of a registry that is somebody
//! else's nothing else is to be had here. A registry with a pool has this edge as its front door: there all else is
//! passed on, and so is a pull that the origin refuses, that the client may see why and what it could do about it.
//!
//! Invariant: a repository that `allow` and `deny` keep out is not reached by any other way of writing its name.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::AUTHORIZATION;
use http::{HeaderValue, Method};
use percent_encoding::percent_decode_str;
use pierhead_config::OfflinePolicy;
use pierhead_registry::client::{ListKind, Trail};
use pierhead_registry::oci::{Action, Endpoint, Reference, RepositoryName};
use pingora_http::RequestHeader;
use url::form_urlencoded;

use super::client;
use super::credential::{self, Caller};
use super::grant::Grant;
use super::manifests::Wish;
use super::outcome::Outcome;
use super::passage::{Otherwise, Passage, Write};
use super::refusal::Refusal;
use super::respond::is_read;
use super::route::{Addressed, Query, Route, without, without_first};
use super::scope::{Scope, Upstream};
use super::served::{Content, Refused, Served};
use super::verifier::Verdict;
use super::written::{self, Change};
use super::{Edge, Trace, kind};
use crate::cache::RepositoryId;
use crate::front::{Connection, RequestLimits};
use pierhead_service::health::Check;
use pierhead_service::shares::Party;

/// What a request comes to, if it is not refused.
pub(super) enum Found {
    /// Content.
    Served(Served),
    /// A passage to the origin.
    Passage(Passage),
}

/// What of a request is looked at more than once.
pub(super) struct Visit<'a> {
    pub(super) request: &'a RequestHeader,
    pub(super) host: Option<&'a str>,
    pub(super) authorization: Option<&'a HeaderValue>,
    pub(super) query: Query,
    /// The registry whose front door this is, by the Host header or by default: what names none is for it.
    pub(super) door: Option<usize>,
    client: IpAddr,
    limits: &'a RequestLimits,
    /// The edges that it came through.
    trail: Trail,
}

impl Visit<'_> {
    /// One more request for a registry, if it may be asked so many.
    fn within_limit(&self, upstream: &Upstream, repository: Option<&RepositoryId>) -> Result<(), Refusal> {
        let repository = repository.map(|repository| repository.name.as_str());
        let counted = self.limits.registry(&upstream.name, self.client, repository);
        counted.map_err(|retry_after| Refusal::TooMany { retry_after })
    }
}

impl Edge {
    /// Finds what a request asks for.
    pub(super) async fn resolve(
        self: &Arc<Self>,
        request: &RequestHeader,
        connection: &Connection,
        limits: &RequestLimits,
        trace: &mut Trace,
        now: SystemTime,
    ) -> Result<Found, Refused> {
        let (path, read) = (request.uri.path(), is_read(&request.method));
        // Without a login: a load balancer has none.
        if let Some(check) = Check::at(path) {
            return match read {
                true => Ok(Found::Served(Served::new(Content::Health(self.health.report(check)), Outcome::None))),
                false => Err(Refusal::Method.into()),
            };
        }
        let host = client::host(&request.uri, &request.headers);
        let door = self.routes.door(host).filter(|registry| self.origin(*registry).is_some());
        let endpoint = match (Endpoint::parse(path), door) {
            (Ok(endpoint), _) => Some(endpoint),
            // A page of the registry's own, or something that only it understands.
            (Err(_), Some(_)) => None,
            (Err(error), None) => return Err(Refusal::from(error).into()),
        };
        // Before anything is looked up or asked.
        let trail = Trail::of(&request.headers);
        if trail.is_loop(self.cache.edge_id()) {
            return Err(self.came_back(request, host, endpoint.as_ref(), trace));
        }
        let authorization = request.headers.get(AUTHORIZATION);
        if let Some(users) = &self.users {
            trace.user = Some(users.login(authorization, connection.client.ip()).await?);
        }
        let is_deletion = request.method == Method::DELETE;
        if !read && !self.has_origin {
            return Err(if is_deletion { Refusal::DeleteElsewhere(None) } else { Refusal::Method }.into());
        }
        let query = match Query::parse(request.uri.query()) {
            Ok(query) => query,
            // It is not for us to read.
            Err(_) if door.is_some() && (endpoint.is_none() || !read) => Query::default(),
            Err(refusal) => return Err(refusal.into()),
        };
        trace.namespace.clone_from(&query.ns);
        let visit = Visit { request, host, authorization, query, door, client: connection.client.ip(), limits, trail };
        match endpoint {
            None => self.page(&visit, trace),
            Some(Endpoint::Ping) => self.ping(&visit, trace).await,
            Some(Endpoint::Catalog) => match visit.query.ns {
                None if door.is_some() => self.page(&visit, trace),
                _ => Err(Refusal::Catalog.into()),
            },
            Some(Endpoint::Repository { name, action }) => self.repository(&visit, &name, action, trace, now).await,
        }
    }

    /// Refuses a request that this edge sent itself, by whatever way it came back.
    fn came_back(
        &self,
        request: &RequestHeader,
        host: Option<&str>,
        endpoint: Option<&Endpoint>,
        trace: &mut Trace,
    ) -> Refused {
        let ns = Query::parse(request.uri.query()).unwrap_or_default().ns;
        let registry = match endpoint {
            Some(Endpoint::Repository { name, .. }) => {
                self.routes.route(ns.as_deref(), host, name).ok().map(|route| route.registry)
            }
            _ => self.routes.ping(ns.as_deref(), host).or(self.routes.default_registry()),
        };
        let registry = registry.and_then(|registry| self.registries.get(registry)).map(|found| Arc::clone(&found.name));
        tracing::warn!(
            registry = registry.as_deref(),
            path = request.uri.path(),
            "a request of this edge came back to it: an upstream leads here"
        );
        trace.registry = registry;
        Refusal::Loop(None).into()
    }

    /// The registry at a place in the configuration, if it has a pool.
    pub(super) fn origin(&self, registry: usize) -> Option<&Arc<Upstream>> {
        self.registries.get(registry).filter(|registry| registry.pool.is_some())
    }

    /// The refusal of a push to a registry that this edge only mirrors: it names the hosts that take pushes here.
    fn not_pushed_to(&self) -> Refusal {
        let origins = self.registries.iter().filter(|registry| registry.pool.is_some());
        let hosts: Vec<&str> = origins.filter_map(|origin| origin.config.hosts.first()).map(String::as_str).collect();
        match hosts.is_empty() {
            true => Refusal::Method,
            false => Refusal::Elsewhere(Some(hosts.join(" or ").into())),
        }
    }

    /// Something that names no repository: for the origin whose front door this is.
    fn page(self: &Arc<Self>, visit: &Visit<'_>, trace: &mut Trace) -> Result<Found, Refused> {
        let upstream = visit.door.and_then(|door| self.origin(door)).ok_or(Refusal::NotServed)?;
        trace.registry = Some(Arc::clone(&upstream.name));
        if upstream.config.is_ruled() && may_be_a_repository(visit.request.uri.path()) {
            return Err(Refusal::NotServed.into());
        }
        visit.within_limit(upstream, None)?;
        let mut passage = self.passage(upstream, visit)?;
        passage.grant = Grant::of(self, upstream, visit.request);
        let changes = written::by_api(&visit.request.method, visit.request.uri.path());
        passage.write = Write::new(&self.cache, upstream, changes);
        Ok(Found::Passage(passage))
    }

    async fn repository(
        self: &Arc<Self>,
        visit: &Visit<'_>,
        name: &str,
        action: Action,
        trace: &mut Trace,
        now: SystemTime,
    ) -> Result<Found, Refused> {
        let (request, query) = (visit.request, &visit.query);
        let route = self.routes.route(query.ns.as_deref(), visit.host, name)?;
        let upstream = self.registries.get(route.registry).ok_or(Refusal::NotServed)?;
        let repository = RepositoryId { registry: Arc::clone(&upstream.name), name: route.repository.clone() };
        trace.registry = Some(Arc::clone(&upstream.name));
        trace.repository = Some(repository.clone());
        if !upstream.config.allows(&repository.name) {
            return Err(Refusal::NotServed.into());
        }
        visit.within_limit(upstream, Some(&repository))?;
        trace.kind = kind(&action);
        trace.action = Some(action.clone());
        let way = way(visit.door, &route, upstream.pool.is_some());
        let pull = is_read(&request.method) && !matches!(action, Action::Upload(_));
        match (pull, way) {
            (true, _) => {}
            (false, Way::Home) => return self.write(upstream, visit, &action, &repository.name),
            // What is mirrored here is at its own registry, and not at an origin of this edge.
            (false, Way::Upstream) if request.method == Method::DELETE => {
                return Err(Refusal::DeleteElsewhere(None).into());
            }
            (false, Way::Upstream) => return Err(self.not_pushed_to().into()),
            (false, Way::Named | Way::Path) => {
                let host = upstream.config.hosts.first().map(|host| host.as_str().into());
                let deletion = request.method == Method::DELETE;
                return Err(if deletion { Refusal::DeleteElsewhere(host) } else { Refusal::Elsewhere(host) }.into());
            }
        }
        // Whoever pushes asks so whether there is still something to push: the cache does not know what the origin lost.
        let exists = request.method == Method::HEAD && matches!(action, Action::Blob(_));
        if exists && way == Way::Home && !self.offline && upstream.is_reachable() {
            return self.passage(upstream, visit).map(Found::Passage);
        }
        let scope = self.scope(upstream, visit, way, repository, trace, now).await;
        let result = self.pull(&scope, visit, &action, route.addressed, now).await;
        if let (Err(refused), Some(name)) = (&result, &route.otherwise)
            && refused.refusal.is_no()
            && upstream.config.allows(name)
        {
            let repository = RepositoryId { registry: Arc::clone(&upstream.name), name: name.clone() };
            let scope = self.scope(upstream, visit, way, repository.clone(), trace, now).await;
            if let Ok(served) = self.pull(&scope, visit, &action, route.addressed, now).await {
                trace.repository = Some(repository);
                return Ok(Found::Served(served));
            }
        }
        if let Err(Refused { refusal: Refusal::CallerRefused, .. }) = &result {
            scope.no_longer_public(&self.cache, &self.caller_key).await;
            self.review(&scope);
        }
        match result {
            Err(refused) if self.is_for_the_origin(&refused, request, way) => {
                let mut passage = self.passage(upstream, visit)?;
                // The registry's name is no part of the repository's at its own address.
                if let Some((first, rest)) = name.split_once('/')
                    && scope.repository.name.as_str() == rest
                    && let Some(path) = without_first(request.uri.path(), first)
                {
                    passage.target = Some(without(&["ns"], &path, request.uri.query().unwrap_or_default()));
                }
                Ok(Found::Passage(Passage { otherwise: Some(Otherwise::Found(Box::new(Err(refused)))), ..passage }))
            }
            Err(refused) if refused.refusal.is_unanswered() && scope.shows_another_password(&self.cache).await => {
                Err(Refused::new(Refusal::WrongPassword, refused.outcome))
            }
            Err(refused) if self.may_be_let_in(&refused, &scope, &action, way).await => {
                Err(Refused::new(Refusal::Login, refused.outcome))
            }
            result => result.map(Found::Served),
        }
    }

    /// What the caller sees of a repository.
    async fn scope(
        &self,
        upstream: &Arc<Upstream>,
        visit: &Visit<'_>,
        way: Way,
        repository: RepositoryId,
        trace: &mut Trace,
        now: SystemTime,
    ) -> Scope {
        let party = Party::new(visit.client, self.users.as_ref().and(trace.user.as_deref()));
        let caller = match upstream.is_passthrough() {
            true => Some(self.caller(upstream, visit, way, &repository, trace, now).await),
            false => None,
        };
        Scope {
            party,
            trail: visit.trail.clone(),
            ..Scope::new(upstream, repository, caller.map(Arc::new), self.offline)
        }
    }

    /// The caller of a passthrough registry, and what its token says, where the edge can verify that.
    async fn caller(
        &self,
        upstream: &Upstream,
        visit: &Visit<'_>,
        way: Way,
        repository: &RepositoryId,
        trace: &mut Trace,
        now: SystemTime,
    ) -> Caller {
        let (key, header) = (&self.caller_key, visit.authorization);
        let mut caller = match way {
            Way::Upstream => Caller::of_upstream(key, header),
            Way::Home | Way::Named => {
                let caller = Caller::of_origin(key, header, true);
                match caller.shows_nothing() && self.counts_as_public(upstream, repository, &caller).await {
                    true => return Caller::public(key),
                    false => caller,
                }
            }
            Way::Path => Caller::of_origin(key, header, false),
        };
        let (Some(verifier), Some(token)) = (&upstream.verifier, credential::bearer(header)) else { return caller };
        let bearer = Caller::of_origin(key, header, false);
        let judged = verifier.judge(&bearer.id, token, repository, &upstream.writes, now).await;
        trace.token = Some(judged.verdict);
        if let Some(user) = judged.user {
            trace.user = Some(user);
        }
        // A token that is this upstream's own may be shown to it: it was not made out to this edge.
        if way != Way::Upstream || judged.verdict != Verdict::Unverified {
            caller = Caller { verdict: Some(judged.verdict), ..bearer };
        }
        caller
    }

    /// Whether a caller who showed nothing might get what is known, by showing an account that the origin let in before.
    /// An expired token always gets 401.
    async fn may_be_let_in(&self, refused: &Refused, scope: &Scope, action: &Action, way: Way) -> bool {
        if scope.has_expired() && refused.refusal.is_unanswered() {
            return true;
        }
        let anonymous = scope.caller.as_ref().is_some_and(|caller| caller.shows_nothing());
        let policy = scope.upstream.config.offline_policy == OfflinePolicy::AllowKnown;
        let (cache, repository) = (&self.cache, &scope.repository);
        refused.refusal.is_failure()
            && way != Way::Upstream
            && anonymous
            && policy
            && match action {
                Action::Manifest(Reference::Tag(tag)) => cache.tag(repository, tag).await.is_some(),
                Action::Manifest(Reference::Digest(digest)) | Action::Blob(digest) => {
                    cache.holds(repository, digest).await
                }
                Action::Tags | Action::Referrers(_) | Action::Upload(_) => false,
            }
    }

    /// Answers from the cache, and upstream where it must.
    async fn pull(
        self: &Arc<Self>,
        scope: &Scope,
        visit: &Visit<'_>,
        action: &Action,
        addressed: Addressed,
        now: SystemTime,
    ) -> Result<Served, Refused> {
        let head = visit.request.method == Method::HEAD;
        let (headers, list) = (&visit.request.headers, visit.query.list.as_deref());
        match action {
            Action::Manifest(reference) => self.manifest(scope, reference, Wish { head, headers }, now).await,
            Action::Blob(digest) => self.blob(scope, digest, head, headers, now).await,
            Action::Tags => self.list(scope, ListKind::Tags, list, addressed, now).await,
            Action::Referrers(digest) => self.list(scope, ListKind::Referrers(*digest), list, addressed, now).await,
            Action::Upload(_) => Err(Refusal::Method.into()),
        }
    }

    /// Whether the origin is to answer instead of us. A 404 that is remembered was its answer already.
    fn is_for_the_origin(&self, refused: &Refused, request: &RequestHeader, way: Way) -> bool {
        let refusal = &refused.refusal;
        let unknown = matches!(refusal, Refusal::Unknown(_));
        let told = unknown && (request.method == Method::HEAD || refused.outcome == Outcome::Hit);
        matches!(way, Way::Home | Way::Named) && !self.offline && refusal.is_better_from_the_origin() && !told
    }

    /// A push, a deletion, or what belongs to them.
    fn write(
        &self,
        upstream: &Arc<Upstream>,
        visit: &Visit<'_>,
        action: &Action,
        repository: &RepositoryName,
    ) -> Result<Found, Refused> {
        let uri = &visit.request.uri;
        let query = uri.query().unwrap_or_default();
        let mount = Mount::of(query, |from| upstream.config.allows(from), upstream.config.is_ruled());
        if mount == Mount::KeptOut {
            return Err(Refusal::NotServed.into());
        }
        let written = written::by_registry(&visit.request.method, action, query);
        let changes = written.into_iter().map(|written| Change::Within(repository.clone(), written));
        let write = Write::new(&self.cache, upstream, changes.collect());
        let mut passage = self.passage(upstream, visit)?;
        if mount == Mount::Unreadable {
            passage.target = Some(without(&["ns", "mount", "from"], uri.path(), query));
        }
        Ok(Found::Passage(Passage { write, ..passage }))
    }

    /// Hands the request on as it is.
    pub(super) fn passage(&self, upstream: &Arc<Upstream>, visit: &Visit<'_>) -> Result<Passage, Refused> {
        let pool = upstream.pool.clone().filter(|_| !self.offline).ok_or(Refusal::Unavailable(None))?;
        let uri = &visit.request.uri;
        let target = visit.query.ns.as_ref().map(|_| without(&["ns"], uri.path(), uri.query().unwrap_or_default()));
        let own_login = self.users.is_some();
        Ok(Passage { pool, target, own_login, otherwise: None, write: None, grant: None })
    }
}

/// From where a push wants to mount a blob, as far as `allow` and `deny` have a say in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mount {
    /// From nowhere, or from where it may.
    Allowed,
    /// From a repository that is kept out.
    KeptOut,
    /// From what is no repository's name, where some are kept out. A registry that cannot mount begins an ordinary upload (OCI
    /// distribution specification, "Mounting a blob"); the origin is asked for that, for it might read the name in another way.
    Unreadable,
}

impl Mount {
    fn of(query: &str, allows: impl Fn(&RepositoryName) -> bool, ruled: bool) -> Mount {
        let mut mount = Mount::Allowed;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match value.parse::<RepositoryName>() {
                _ if name != "from" => {}
                Ok(from) if !allows(&from) => return Mount::KeptOut,
                Ok(_) => {}
                Err(_) if ruled => mount = Mount::Unreadable,
                Err(_) => {}
            }
        }
        mount
    }
}

/// How a request reached a registry, which decides what it may ask of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Somebody else's registry.
    Upstream,
    /// The front door of the registry: what is forwarded comes to what was meant, and so do links in its answers.
    Home,
    /// By `?ns=` elsewhere: single questions can be forwarded.
    Named,
    /// By a path that the origin does not know.
    Path,
}

fn way(door: Option<usize>, route: &Route, has_pool: bool) -> Way {
    match route.addressed {
        _ if !has_pool => Way::Upstream,
        Addressed::Path => Way::Path,
        _ if door == Some(route.registry) => Way::Home,
        _ => Way::Named,
    }
}

/// Whether an origin may read a path as that of a repository although we do not: below `/v2/` in whatever spelling.
fn may_be_a_repository(path: &str) -> bool {
    let Ok(path) = percent_decode_str(path).decode_utf8() else { return true };
    let twisted = ["//", "/./", "/../", "\\", "%"].iter().any(|twist| path.contains(twist));
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    twisted || first.eq_ignore_ascii_case("v2") && !path.eq_ignore_ascii_case("/v2/_catalog")
}

#[cfg(test)]
mod tests {
    use pierhead_registry::oci::RepositoryName;

    use super::Mount;

    #[test]
    fn a_mount_that_cannot_be_is_an_upload() {
        let allows = |name: &RepositoryName| name.namespace() == "team";
        for (query, ruled, expected) in [
            ("", true, Mount::Allowed),
            ("mount=sha256:ab", true, Mount::Allowed),
            ("mount=sha256:ab&from=team/app", true, Mount::Allowed),
            ("mount=sha256:ab&from=other/app", true, Mount::KeptOut),
            ("from=Bad//Name&mount=sha256:ab", true, Mount::Unreadable),
            ("from=other//app", true, Mount::Unreadable),
            ("from=", true, Mount::Unreadable),
            ("from=team/app&from=Bad", true, Mount::Unreadable),
            ("from=Bad&%66rom=other%2Fapp", true, Mount::KeptOut),
            ("from=Bad//Name&mount=sha256:ab", false, Mount::Allowed),
            ("digest=from", true, Mount::Allowed),
        ] {
            let allows = |name: &RepositoryName| !ruled || allows(name);
            assert_eq!(Mount::of(query, allows, ruled), expected, "{query} {ruled}");
        }
    }
}

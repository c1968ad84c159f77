//! Lists: tags and referrers. Upstream makes them; here they are kept for a while, and longer when upstream fails, so
//! that signatures can be verified offline.
//!
//! A list is known by its kind and its query, escaped and sorted, so equal wishes meet. The `Link` to the next page is
//! kept as upstream wrote it and rewritten for each client in the way that client named the registry ([`link`]).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pierhead_registry::client::{ClientError, ListKind};

use super::Edge;
use super::flights::FlightError;
use super::link;
use super::outcome::Outcome;
use super::plan::{Authorisation, Known, Plan, Unconfirmed, decide, has_no_referrers};
use super::refusal::{Refusal, Thing};
use super::route::Addressed;
use super::scope::{Scope, Wanted};
use super::served::{Content, Refused, Served};
use crate::cache::ListRecord;

/// How long a client waits for an upstream that limits requests, before another way is better.
const SHORT_PAUSE: Duration = Duration::from_secs(10);

impl Edge {
    /// Answers a request for a list.
    pub(crate) async fn list(
        self: &Arc<Self>,
        scope: &Scope,
        kind: ListKind,
        query: Option<&str>,
        addressed: Addressed,
        now: SystemTime,
    ) -> Result<Served, Refused> {
        let config = &scope.upstream.config;
        let name = list_key(&kind, query);
        let authorisation = scope.authorisation(&self.cache, now).await;
        let known = self.cache.list(&scope.repository, &name).await;
        let since = known.as_ref().map(|list| Known { checked: list.checked });
        let plan = match decide(since, now, config.tag_ttl, false, scope.offline) {
            _ if authorisation == Authorisation::Refuse => Plan::Refuse,
            Plan::Serve if authorisation != Authorisation::Fresh => Plan::Check,
            plan => plan,
        };
        let key = scope.key(Wanted::List(name.clone()));
        if let (None, Some(error)) = (&known, self.negatives.get(&key)) {
            return Err(Refused { outcome: Outcome::Hit, ..refused(scope, &kind, query, &error) });
        }
        let flight = self.lists.join(&scope.party, key.clone(), || {
            let (edge, scope, kind) = (Arc::clone(self), scope.clone(), kind.clone());
            let query = query.map(str::to_owned);
            async move {
                let result = edge.list_upstream(&scope, &kind, query.as_deref(), &name).await;
                let ttl = scope.upstream.config.negative_ttl;
                match &result {
                    Err(error) if lacks_referrers(&scope, &kind, query.as_deref(), error) => {
                        edge.negatives.keep_failure(key, error, ttl);
                    }
                    result => edge.negatives.keep(key, result, ttl),
                }
                result
            }
        });
        let (list, outcome) = match (plan, known) {
            (Plan::Serve, Some(list)) => (list, Outcome::Hit),
            (Plan::Refuse, _) => return Err(Refusal::Offline(thing(&kind)).into()),
            (Plan::Check, Some(list)) => refresh(scope, &kind, query, flight, list, authorisation).await?,
            _ => (flight.await?.map_err(|error| refused(scope, &kind, query, &error))?, Outcome::Miss),
        };
        // A list that was kept with a bad link is as good as none.
        let next = list.link.as_deref().map_or(Ok(None), |link| link::next_query(link, &kind));
        let next = next.map_err(|_| Refused::new(Refusal::Invalid(None), outcome))?;
        let next = next.map(|query| link::to_page(&query, &kind, scope, addressed));
        Ok(Served::new(Content::List(list, next), outcome))
    }

    pub(super) async fn list_upstream(
        &self,
        scope: &Scope,
        kind: &ListKind,
        query: Option<&str>,
        name: &str,
    ) -> Result<Arc<ListRecord>, ClientError> {
        let source = scope.source();
        let question = async {
            let fetched = source.get_list(kind, query).await?;
            match fetched.link.as_deref().map_or(Ok(None), |link| link::next_query(link, kind)) {
                Ok(_) => Ok(fetched),
                // A list that goes on, and does not say where, would look whole.
                Err(reason) => Err(ClientError::Invalid {
                    registry: scope.upstream.config.name.clone(),
                    host: String::new(),
                    status: Some(200),
                    reason,
                }),
            }
        };
        let fetched = scope.ask(&self.cache, thing(kind), question, |_| false).await?;
        let list = Arc::new(ListRecord {
            media_type: fetched.media_type,
            link: fetched.link,
            filters_applied: fetched.filters_applied,
            bytes: fetched.bytes,
            checked: SystemTime::now(),
        });
        scope.keep(self.cache.put_list(&scope.repository, name, Arc::clone(&list))).await;
        Ok(list)
    }
}

/// Waits for a newer list as long as the budget allows, and falls back on the known one.
async fn refresh(
    scope: &Scope,
    kind: &ListKind,
    query: Option<&str>,
    flight: impl Future<Output = Result<Result<Arc<ListRecord>, ClientError>, FlightError>>,
    known: Arc<ListRecord>,
    authorisation: Authorisation,
) -> Result<(Arc<ListRecord>, Outcome), Refused> {
    let result = match scope.budget(thing(kind), authorisation) {
        None => flight.await,
        Some(budget) => match tokio::time::timeout(budget, flight).await {
            Ok(result) => result,
            Err(_) => return Ok((known, Outcome::Stale(scope.out_of_patience(thing(kind))))),
        },
    };
    match result? {
        Ok(list) => Ok((list, Outcome::Miss)),
        Err(error) => match scope.unconfirmed(thing(kind), &error, authorisation) {
            Unconfirmed::ServeStale(reason) => Ok((known, Outcome::Stale(reason))),
            Unconfirmed::Forget | Unconfirmed::PassOn | Unconfirmed::Fail => Err(refused(scope, kind, query, &error)),
        },
    }
}

/// Whether a mirror's upstream has no referrers API, as its error shows. The origin behind a front answers for itself.
fn lacks_referrers(scope: &Scope, kind: &ListKind, query: Option<&str>, error: &ClientError) -> bool {
    let is_filter = |pair: &str| pair.starts_with("artifactType=");
    let own_query = query.is_some_and(|query| !query.split('&').all(is_filter));
    matches!(kind, ListKind::Referrers(_)) && scope.upstream.pool.is_none() && has_no_referrers(error, own_query)
}

/// Upstream's error about a list, as a refusal. Referrers have a second way, the tag `sha256-<hex>`, which clients go only after
/// a 404; it may well be in the cache, and if it is not, they learn there that upstream fails.
fn refused(scope: &Scope, kind: &ListKind, query: Option<&str>, error: &ClientError) -> Refused {
    // A short pause is for the client to wait out.
    let paused = matches!(error, ClientError::RateLimited { retry_after, .. } if *retry_after <= SHORT_PAUSE);
    let elsewhere =
        matches!(kind, ListKind::Referrers(_)) && !error.is_answer() && !paused && scope.upstream.config.stale_if_error;
    let refusal = match elsewhere || lacks_referrers(scope, kind, query, error) {
        true => Refusal::no_referrers(error),
        false => Refusal::upstream(error, thing(kind), scope.caller.is_some()),
    };
    Refused::new(refusal, Outcome::Miss)
}

fn thing(kind: &ListKind) -> Thing {
    match kind {
        ListKind::Tags => Thing::Tags,
        ListKind::Referrers(_) => Thing::Referrers,
    }
}

/// What a list is kept under, within its repository.
fn list_key(kind: &ListKind, query: Option<&str>) -> String {
    let mut key = link::path(kind);
    if let Some(query) = query {
        key.push('?');
        key.push_str(query);
    }
    key
}

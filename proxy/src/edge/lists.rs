//! Lists: tags and referrers. Upstream makes them; here they are kept for a while, and longer when upstream fails, so
//! that signatures can be verified offline.
//!
//! A list is known by its kind and its query, escaped and sorted, so equal wishes meet. The `Link` to the next page is
//! kept as upstream wrote it and rewritten for each client in the way that client named the registry.

use std::sync::Arc;
use std::time::SystemTime;

use pierhead_registry::client::{ClientError, ListKind};

use super::Edge;
use super::flights::FlightError;
use super::outcome::Outcome;
use super::plan::{Authorisation, Known, Plan, Unconfirmed, decide};
use super::refusal::{Refusal, Thing};
use super::route::{Addressed, Query};
use super::scope::{Scope, Wanted};
use super::served::{Content, Refused, Served};
use crate::cache::ListRecord;

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
            return Err(Refused { outcome: Outcome::Hit, ..refused(scope, &kind, &error) });
        }
        let flight = self.lists.join(key.clone(), || {
            let (edge, scope, kind) = (Arc::clone(self), scope.clone(), kind.clone());
            let query = query.map(str::to_owned);
            async move {
                let result = edge.list_upstream(&scope, &kind, query.as_deref(), &name).await;
                edge.negatives.keep(key, &result, scope.upstream.config.negative_ttl);
                result
            }
        });
        let (list, outcome) = match (plan, known) {
            (Plan::Serve, Some(list)) => (list, Outcome::Hit),
            (Plan::Refuse, _) => return Err(Refusal::Offline(thing(&kind)).into()),
            (Plan::Check, Some(list)) => refresh(scope, &kind, flight, list, authorisation).await?,
            _ => (flight.await?.map_err(|error| unknown(scope, &kind, &error))?, Outcome::Miss),
        };
        let link = list.link.as_deref().and_then(|link| rewrite_link(link, &kind, scope, addressed));
        Ok(Served::new(Content::List(list, link), outcome))
    }

    pub(super) async fn list_upstream(
        &self,
        scope: &Scope,
        kind: &ListKind,
        query: Option<&str>,
        name: &str,
    ) -> Result<Arc<ListRecord>, ClientError> {
        let source = scope.source();
        let fetched = scope.ask(&self.cache, source.get_list(kind, query)).await?;
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
    flight: impl Future<Output = Result<Result<Arc<ListRecord>, ClientError>, FlightError>>,
    known: Arc<ListRecord>,
    authorisation: Authorisation,
) -> Result<(Arc<ListRecord>, Outcome), Refused> {
    let result = match scope.budget(authorisation) {
        None => flight.await,
        Some(budget) => match tokio::time::timeout(budget, flight).await {
            Ok(result) => result,
            Err(_) => return Ok((known, Outcome::Stale(scope.out_of_patience()))),
        },
    };
    match result? {
        Ok(list) => Ok((list, Outcome::Miss)),
        Err(error) => match scope.unconfirmed(&error, authorisation) {
            Unconfirmed::ServeStale(reason) => Ok((known, Outcome::Stale(reason))),
            Unconfirmed::Forget | Unconfirmed::Refuse => Err(refused(scope, kind, &error)),
        },
    }
}

/// Why a list that was never seen cannot be had. Referrers have a second way, the tag `sha256-<hex>`, which clients go
/// only after a 404; it may well be in the cache, and if it is not, they learn there that upstream fails.
fn unknown(scope: &Scope, kind: &ListKind, error: &ClientError) -> Refused {
    match kind {
        ListKind::Referrers(_) if !error.is_answer() && scope.upstream.config.stale_if_error => {
            Refused::new(Refusal::Offline(thing(kind)), Outcome::Miss)
        }
        _ => refused(scope, kind, error),
    }
}

/// Upstream's error about a list, as a refusal.
fn refused(scope: &Scope, kind: &ListKind, error: &ClientError) -> Refused {
    Refused::new(Refusal::upstream(error, thing(kind), scope.caller.is_some()), Outcome::Miss)
}

fn thing(kind: &ListKind) -> Thing {
    match kind {
        ListKind::Tags => Thing::Tags,
        ListKind::Referrers(_) => Thing::Referrers,
    }
}

/// What a list is kept under, within its repository.
fn list_key(kind: &ListKind, query: Option<&str>) -> String {
    let mut key = path(kind);
    if let Some(query) = query {
        key.push('?');
        key.push_str(query);
    }
    key
}

fn path(kind: &ListKind) -> String {
    match kind {
        ListKind::Tags => "tags/list".to_owned(),
        ListKind::Referrers(digest) => format!("referrers/{digest}"),
    }
}

/// The link to the next page as this client must ask for it here: upstream's query, below the name that the client used.
fn rewrite_link(link: &str, kind: &ListKind, scope: &Scope, addressed: Addressed) -> Option<String> {
    let next = link.split(',').find(|part| part.contains("rel=\"next\"") || part.contains("rel=next"))?;
    let (_, target) = next.split_once('<')?;
    let (target, _) = target.split_once('>')?;
    let query = Query::parse(target.split_once('?').map(|(_, query)| query)).ok()?.list?;
    let (registry, repository) = (&scope.upstream.name, &scope.repository.name);
    let path = path(kind);
    Some(match addressed {
        Addressed::Path => format!("</v2/{registry}/{repository}/{path}?{query}>; rel=\"next\""),
        Addressed::Namespace => format!("</v2/{repository}/{path}?{query}&ns={registry}>; rel=\"next\""),
        Addressed::Host | Addressed::Default => format!("</v2/{repository}/{path}?{query}>; rel=\"next\""),
    })
}

//! Manifests, by tag and by digest: carries out what `plan` decides.
//!
//! Whatever arrives from upstream is kept before anybody is told, and what upstream says about a tag is written down
//! by the flight that heard it, so a check that outlives its caller's patience still counts for the next one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use pierhead_registry::client::{ClientError, FetchedManifest, HeadAnswer, ManifestInfo};
use pierhead_registry::oci::{Digest, Reference, Tag};

use super::Edge;
use super::negotiate::{self, Choice};
use super::outcome::{Outcome, StaleReason};
use super::plan::{Authorisation, Known, Plan, Unconfirmed, decide};
use super::refusal::{Refusal, Thing};
use super::scope::{Scope, Wanted};
use super::served::{Content, ManifestHead, Refused, Served};
use crate::cache::{CachedManifest, TagRecord};

/// What a question about a manifest brought.
#[derive(Clone, Debug)]
pub(crate) enum Arrival {
    /// The tag still means what it meant.
    Unchanged,
    /// The manifest, which is kept by now.
    Manifest(Arc<CachedManifest>),
    /// Its header.
    Head(ManifestHead),
}

/// How a manifest is wanted.
#[derive(Clone, Copy)]
pub(crate) struct Wish<'a> {
    /// Only its header.
    pub(crate) head: bool,
    /// For `Accept`.
    pub(crate) headers: &'a HeaderMap,
}

impl Edge {
    /// Answers a request for a manifest.
    pub(crate) async fn manifest(
        self: &Arc<Self>,
        scope: &Scope,
        reference: &Reference,
        wish: Wish<'_>,
        now: SystemTime,
    ) -> Result<Served, Refused> {
        match reference {
            Reference::Digest(digest) => self
                .manifest_by_digest(scope, digest, wish.head, now)
                .await
                .map(|(found, outcome)| found.serve(outcome)),
            Reference::Tag(tag) => {
                let (found, outcome) = self.manifest_by_tag(scope, tag, wish, now).await?;
                self.negotiate(scope, tag, found, outcome, wish, now).await
            }
        }
    }

    /// Finds a form of a tag's manifest that the client can read.
    async fn negotiate(
        self: &Arc<Self>,
        scope: &Scope,
        tag: &Tag,
        found: Found,
        outcome: Outcome,
        wish: Wish<'_>,
        now: SystemTime,
    ) -> Result<Served, Refused> {
        match negotiate::choose(wish.headers, found.media_type()) {
            Choice::Serve => Ok(found.serve(outcome)),
            Choice::Refuse(why) => Err(Refused::new(Refusal::NotAcceptable(why), outcome)),
            Choice::DefaultChild => {
                let list = match found {
                    Found::Manifest(list) => list,
                    // Only its header is here, and the child's name stands in its body.
                    Found::Head(_) => self.fetch(scope, Reference::Tag(tag.clone())).await?,
                };
                let child = negotiate::default_child(&list.bytes).ok_or_else(|| {
                    Refused::new(
                        Refusal::NotAcceptable(
                            "a list without a linux/amd64 image was found, but the Accept header does not allow lists",
                        ),
                        outcome,
                    )
                })?;
                let (found, child_outcome) = self.manifest_by_digest(scope, &child, wish.head, now).await?;
                Ok(found.serve(if child_outcome == Outcome::Hit { outcome } else { child_outcome }))
            }
        }
    }

    async fn manifest_by_tag(
        self: &Arc<Self>,
        scope: &Scope,
        tag: &Tag,
        wish: Wish<'_>,
        now: SystemTime,
    ) -> Result<(Found, Outcome), Refused> {
        let config = &scope.upstream.config;
        let authorisation = scope.authorisation(&self.cache, now).await;
        let known = self.known(scope, tag).await;
        let since = known.as_ref().map(|(_, record)| Known { checked: record.checked });
        let immutable = config.immutable_tags.matches(tag.as_str());
        let plan = match decide(since, now, config.tag_ttl, immutable, scope.offline) {
            _ if authorisation == Authorisation::Refuse => Plan::Refuse,
            Plan::Serve if authorisation != Authorisation::Fresh => Plan::Check,
            plan => plan,
        };
        match (plan, known) {
            (Plan::Serve, Some((manifest, _))) => Ok((Found::Manifest(manifest), Outcome::Hit)),
            (Plan::Check, Some((manifest, _))) => self.check(scope, tag, manifest, authorisation).await,
            (Plan::Refuse, _) => Err(Refusal::Offline(Thing::Manifest).into()),
            _ => {
                let reference = Reference::Tag(tag.clone());
                // What is pinned must be kept, so its body is fetched even for a HEAD.
                if wish.head && !self.cache.is_pinned(&scope.repository, Some(tag)) {
                    self.fetch_head(scope, reference, None, true).await.map(|found| (found, Outcome::Miss))
                } else {
                    self.fetch(scope, reference).await.map(|manifest| (Found::Manifest(manifest), Outcome::Miss))
                }
            }
        }
    }

    /// A tag with its manifest, when both are here.
    async fn known(&self, scope: &Scope, tag: &Tag) -> Option<(Arc<CachedManifest>, TagRecord)> {
        let record = self.cache.tag(&scope.repository, tag).await?;
        Some((self.cache.manifest(&scope.repository, &record.digest).await?, record))
    }

    /// Asks upstream whether a tag still means `known`, and waits no longer than the budget allows. A no to this question that is
    /// remembered answers it.
    async fn check(
        self: &Arc<Self>,
        scope: &Scope,
        tag: &Tag,
        known: Arc<CachedManifest>,
        authorisation: Authorisation,
    ) -> Result<(Found, Outcome), Refused> {
        let negative = scope.key(Wanted::Manifest(Reference::Tag(tag.clone())));
        if let Some(error) = self.negatives.get(&negative)
            && scope.unconfirmed(Thing::Manifest, &error, authorisation) == Unconfirmed::PassOn
        {
            return Err(Refused { outcome: Outcome::Hit, ..scope.refused(&error) });
        }
        let question = {
            let (edge, scope, tag, digest) = (Arc::clone(self), scope.clone(), tag.clone(), known.digest);
            move || async move { edge.check_upstream(&scope, &tag, digest, authorisation).await }
        };
        let key = scope.key(Wanted::Check(tag.clone(), authorisation));
        let flight = self.manifests.join(&scope.party, key, question);
        let result = match scope.budget(Thing::Manifest, authorisation) {
            None => flight.await?,
            Some(budget) => match tokio::time::timeout(budget, flight).await {
                Ok(result) => result?,
                Err(_) => {
                    let reason = scope.out_of_patience(Thing::Manifest);
                    return Ok((Found::Manifest(known), Outcome::Stale(reason)));
                }
            },
        };
        match result {
            Ok(Arrival::Unchanged) => Ok((Found::Manifest(known), Outcome::Revalidated)),
            Ok(Arrival::Manifest(manifest)) => Ok((Found::Manifest(manifest), Outcome::Miss)),
            Ok(Arrival::Head(_)) => Err(Refusal::Invalid(None).into()),
            Err(error) => match scope.unconfirmed(Thing::Manifest, &error, authorisation) {
                Unconfirmed::ServeStale(reason) => Ok((Found::Manifest(known), Outcome::Stale(reason))),
                Unconfirmed::Forget | Unconfirmed::PassOn | Unconfirmed::Fail => Err(scope.refused(&error)),
            },
        }
    }

    async fn check_upstream(
        &self,
        scope: &Scope,
        tag: &Tag,
        known: Digest,
        authorisation: Authorisation,
    ) -> Result<Arrival, ClientError> {
        let (source, reference) = (scope.source(), Reference::Tag(tag.clone()));
        let result = match scope
            .ask(
                &self.cache,
                Thing::Manifest,
                source.head_manifest(&reference, &[], Some(&known)),
                HeadAnswer::gives_rights,
            )
            .await
        {
            Ok(head) if head.digest() == known => {
                let record = TagRecord { digest: known, checked: SystemTime::now() };
                scope.keep(self.cache.put_tag(&scope.repository, tag, record)).await;
                return Ok(Arrival::Unchanged);
            }
            Ok(HeadAnswer::Manifest(fetched)) => Ok(self.keep_manifest(scope, &reference, fetched).await),
            Ok(HeadAnswer::Head(said)) => {
                let result = self.fetch_upstream(scope, &reference).await;
                // The HEAD said that the tag has moved, and it has not.
                if matches!(&result, Ok(Arrival::Manifest(manifest)) if manifest.digest == known) {
                    source.doubt_heads(&reference, said.mirrored);
                }
                result
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &result {
            let decision = scope.unconfirmed(Thing::Manifest, error, authorisation);
            if decision == Unconfirmed::Forget {
                self.cache.remove_tag(&scope.repository, tag).await;
            }
            if matches!(decision, Unconfirmed::Forget | Unconfirmed::PassOn) {
                let key = scope.key(Wanted::Manifest(reference));
                self.negatives.keep(key, &result, scope.upstream.config.negative_ttl);
            }
        }
        result
    }

    async fn manifest_by_digest(
        self: &Arc<Self>,
        scope: &Scope,
        digest: &Digest,
        head: bool,
        now: SystemTime,
    ) -> Result<(Found, Outcome), Refused> {
        let authorisation = scope.authorisation(&self.cache, now).await;
        if authorisation == Authorisation::Refuse {
            return Err(Refusal::Offline(Thing::Manifest).into());
        }
        // A client that pushes an index sends a HEAD for each of its manifests, and skips those that are there. The origin may have lost
        // what the cache has, so the origin is asked.
        let doubted = head && scope.upstream.is_reachable() && !scope.offline;
        let reference = Reference::Digest(*digest);
        match self.cache.manifest(&scope.repository, digest).await {
            Some(known) if authorisation == Authorisation::Fresh && doubted => {
                let asked = self.fetch_head(scope, reference, Some(*digest), head);
                let budget = scope.budget(Thing::Manifest, authorisation).unwrap_or(Duration::MAX);
                let outcome = match tokio::time::timeout(budget, asked).await {
                    Ok(Ok(_)) => Outcome::Revalidated,
                    Ok(Err(refused)) if !refused.refusal.is_failure() => return Err(refused),
                    Ok(Err(_)) => Outcome::Stale(StaleReason::UpstreamFailed),
                    Err(_) => Outcome::Stale(scope.out_of_patience(Thing::Manifest)),
                };
                Ok((Found::Manifest(known), outcome))
            }
            Some(known) if authorisation == Authorisation::Fresh => Ok((Found::Manifest(known), Outcome::Hit)),
            Some(known) => match self.fetch_head(scope, reference, Some(*digest), head).await {
                Ok(_) => Ok((Found::Manifest(known), Outcome::Revalidated)),
                Err(refused) if authorisation == Authorisation::AskElseKnown && refused.refusal.is_failure() => {
                    Ok((Found::Manifest(known), Outcome::Stale(StaleReason::UpstreamFailed)))
                }
                Err(refused) => Err(refused),
            },
            None if scope.offline => Err(Refusal::Offline(Thing::Manifest).into()),
            None if head => self.fetch_head(scope, reference, None, true).await.map(|found| (found, Outcome::Miss)),
            None => self.fetch(scope, reference).await.map(|manifest| (Found::Manifest(manifest), Outcome::Miss)),
        }
    }

    /// Gets a manifest from upstream.
    async fn fetch(self: &Arc<Self>, scope: &Scope, reference: Reference) -> Result<Arc<CachedManifest>, Refused> {
        let key = scope.key(Wanted::Manifest(reference.clone()));
        if let Some(error) = self.negatives.get(&key) {
            return Err(Refused { outcome: Outcome::Hit, ..scope.refused(&error) });
        }
        let question = {
            let (edge, scope, key) = (Arc::clone(self), scope.clone(), key.clone());
            move || async move {
                // An earlier question may have ended between this caller's look into the cache and this question.
                if let Some(manifest) = edge.kept_meanwhile(&scope, &reference).await {
                    return Ok(Arrival::Manifest(manifest));
                }
                let result = edge.fetch_upstream(&scope, &reference).await;
                edge.negatives.keep(key, &result, scope.upstream.config.negative_ttl);
                result
            }
        };
        match self.manifests.join(&scope.party, key, question).await? {
            Ok(Arrival::Manifest(manifest)) => Ok(manifest),
            Ok(_) => Err(Refusal::Invalid(None).into()),
            Err(error) => Err(scope.refused(&error)),
        }
    }

    /// What may be served without a question, for callers that all see what the edge's own account sees.
    async fn kept_meanwhile(&self, scope: &Scope, reference: &Reference) -> Option<Arc<CachedManifest>> {
        if scope.caller.is_some() {
            return None;
        }
        match reference {
            Reference::Digest(digest) => self.cache.manifest(&scope.repository, digest).await,
            Reference::Tag(tag) => {
                let (manifest, record) = self.known(scope, tag).await?;
                let known = Some(Known { checked: record.checked });
                let plan = decide(known, SystemTime::now(), scope.upstream.config.tag_ttl, false, false);
                (plan == Plan::Serve).then_some(manifest)
            }
        }
    }

    async fn fetch_upstream(&self, scope: &Scope, reference: &Reference) -> Result<Arrival, ClientError> {
        let source = scope.source();
        let fetched = scope
            .ask(&self.cache, Thing::Manifest, source.get_manifest(reference, &[]), FetchedManifest::gives_rights)
            .await?;
        Ok(self.keep_manifest(scope, reference, fetched).await)
    }

    /// Keeps a manifest that upstream sent.
    async fn keep_manifest(&self, scope: &Scope, reference: &Reference, fetched: FetchedManifest) -> Arrival {
        let keeps = fetched.recognised || scope.caller.is_none();
        let manifest = Arc::new(CachedManifest {
            digest: fetched.digest,
            media_type: fetched.media_type.into(),
            bytes: fetched.bytes,
        });
        let tag = match reference {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => None,
        };
        // It may be an error page for this caller. Other callers must not get it from the cache.
        if !keeps {
            return Arrival::Manifest(manifest);
        }
        let pinned = self.cache.is_pinned(&scope.repository, tag);
        scope
            .keep(async {
                self.cache.put_manifest(&scope.repository, Arc::clone(&manifest), pinned).await;
                if let Some(tag) = tag {
                    let record = TagRecord { digest: manifest.digest, checked: SystemTime::now() };
                    self.cache.put_tag(&scope.repository, tag, record).await;
                }
            })
            .await;
        Arrival::Manifest(manifest)
    }

    /// Gets a manifest's header from upstream, and its body only when the header does not tell enough: a HEAD is not
    /// counted by upstreams that limit pulls. `known`: the digest of what is here, which need only be confirmed; `head`: the client
    /// asks by HEAD.
    async fn fetch_head(
        self: &Arc<Self>,
        scope: &Scope,
        reference: Reference,
        known: Option<Digest>,
        head: bool,
    ) -> Result<Found, Refused> {
        // A HEAD that says no is followed by a GET, so what is remembered of either is a GET's no.
        let negative = scope.key(Wanted::Manifest(reference.clone()));
        let remembered = if head { self.negatives.get_for_head(&negative) } else { self.negatives.get(&negative) };
        if let Some(error) = remembered {
            return Err(Refused { outcome: Outcome::Hit, ..scope.refused(&error) });
        }
        let key = scope.key(Wanted::ManifestHead(reference.clone()));
        let question = {
            let (edge, scope) = (Arc::clone(self), scope.clone());
            move || async move {
                let result = edge.head_upstream(&scope, &reference, known.as_ref()).await;
                edge.negatives.keep(negative, &result, scope.upstream.config.negative_ttl);
                result
            }
        };
        match self.manifests.join(&scope.party, key, question).await? {
            Ok(Arrival::Head(head)) => Ok(Found::Head(head)),
            Ok(Arrival::Manifest(manifest)) => Ok(Found::Manifest(manifest)),
            Ok(Arrival::Unchanged) => Err(Refusal::Invalid(None).into()),
            Err(error) => Err(scope.refused(&error)),
        }
    }

    async fn head_upstream(
        &self,
        scope: &Scope,
        reference: &Reference,
        known: Option<&Digest>,
    ) -> Result<Arrival, ClientError> {
        let source = scope.source();
        let ManifestInfo { digest, media_type, size, .. } = match scope
            .ask(&self.cache, Thing::Manifest, source.head_manifest(reference, &[], known), HeadAnswer::gives_rights)
            .await?
        {
            HeadAnswer::Head(info) => info,
            HeadAnswer::Manifest(fetched) => return Ok(self.keep_manifest(scope, reference, fetched).await),
        };
        if let Reference::Tag(tag) = reference {
            // The client follows with a GET by digest. Were the tag not kept now, it would be unknown when offline.
            let record = TagRecord { digest, checked: SystemTime::now() };
            scope.keep(self.cache.put_tag(&scope.repository, tag, record)).await;
        }
        Ok(Arrival::Head(ManifestHead { digest, media_type: media_type.into(), size }))
    }
}

/// A manifest, or the header of one.
enum Found {
    Manifest(Arc<CachedManifest>),
    Head(ManifestHead),
}

impl Found {
    fn media_type(&self) -> &str {
        match self {
            Found::Manifest(manifest) => &manifest.media_type,
            Found::Head(head) => &head.media_type,
        }
    }

    fn serve(self, outcome: Outcome) -> Served {
        match self {
            Found::Manifest(manifest) => Served::new(Content::Manifest(manifest), outcome),
            Found::Head(head) => Served::new(Content::ManifestHead(head), outcome),
        }
    }
}

impl Scope {
    /// Upstream's error about a manifest, as a refusal.
    fn refused(&self, error: &ClientError) -> Refused {
        Refused::new(Refusal::upstream(error, Thing::Manifest, self.caller.is_some()), Outcome::Miss)
    }
}

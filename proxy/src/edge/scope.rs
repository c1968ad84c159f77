//! Whose view of which repository a request is about: what every question to the cache and to upstream needs.
//!
//! With `auth: shared` all callers see what the edge's own account sees. With `auth: passthrough` each caller sees what
//! its own credential sees: flights and negative answers are kept apart by caller, and a hit needs upstream's yes.
//!
//! Invariant: what upstream refused last goes out to no caller until upstream says yes again, also when upstream fails after
//! its refusal. With `auth: shared` that holds for a whole repository, and it is kept over a restart ([`REFUSED`]).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use pierhead_config::{AuthMode, Registry};
use pierhead_registry::client::{AccountRefusal, Client, ClientError, Repository, Trail};
use pierhead_registry::oci::{Digest, Reference, RepositoryName, Tag};
use pierhead_service::shares::{Floor, Party};
use prometheus::IntGauge;
use tokio::sync::Semaphore;

use super::RegistryParts;
use super::condition::Condition;
use super::credential::Caller;
use super::flights::Flights;
use super::grant::{PUBLIC_WATCHES, WATCHES};
use super::outcome::StaleReason;
use super::plan::{Authorisation, Policy, Unconfirmed, authorise, by_token, unconfirmed};
use super::refusal::Thing;
use super::verifier::{Verdict, Verifier};
use super::writes::Writes;
use crate::admin::metrics::Metrics;
use crate::cache::{BlobConnections, BlobSource, Cache, RepositoryId};
use crate::pool::Pool;

/// Stands among the callers of a repository while it is refused to the edge's own account. No keyed hash is that.
const REFUSED: [u8; 32] = [0; 32];

/// A registry at work.
pub(crate) struct Upstream {
    /// As configured.
    pub(crate) config: Registry,
    /// The name, shared by all records.
    pub(crate) name: Arc<str>,
    /// The servers of its origin, where it has a pool: what cannot come from the cache is forwarded to them.
    pub(crate) pool: Option<Arc<Pool>>,
    /// What was written through this edge.
    pub(crate) writes: Writes,
    /// What callers' tokens say, where their keys are known.
    pub(crate) verifier: Option<Verifier>,
    /// How it answers.
    pub(crate) condition: Condition,
    /// The connections that blobs come over.
    pub(crate) connections: Arc<BlobConnections>,
    client: Client,
    /// For those that watch whether the origin's yes to a caller stays known.
    pub(super) watches: Semaphore,
    /// For those that watch whether a repository stays known to be public.
    pub(super) public_watches: Semaphore,
    /// 1 while it refuses an account of the edge's.
    account_refused: IntGauge,
}

impl Upstream {
    /// A registry and the client that speaks to it.
    pub(crate) fn new(parts: RegistryParts, verifier: Option<Verifier>, floor: Floor, metrics: &Metrics) -> Upstream {
        let RegistryParts { config, client, pool, kept: _ } = parts;
        let name: Arc<str> = config.name.as_str().into();
        let condition = Condition::new(Arc::clone(&name));
        let account_refused = metrics.account_refused(&name);
        account_refused.set(0);
        let connections = BlobConnections::new(config.upstream.connections, floor, |kind| metrics.share(kind));
        Upstream {
            name,
            config,
            pool,
            writes: Writes::new(),
            verifier,
            condition,
            connections: Arc::new(connections),
            client,
            watches: Semaphore::new(WATCHES),
            public_watches: Semaphore::new(PUBLIC_WATCHES),
            account_refused,
        }
    }

    /// Whether a caller's own credential decides.
    pub(crate) fn is_passthrough(&self) -> bool {
        self.config.auth == AuthMode::Passthrough
    }

    /// Whether its origin has a server that would be asked.
    pub(crate) fn is_reachable(&self) -> bool {
        self.pool.as_ref().is_some_and(|pool| pool.available())
    }

    /// What operators should know, in words: that the account of the edge is refused, or why upstream cannot be asked. That another
    /// address answers, or anonymous pulls succeed, says nothing about the account.
    pub(crate) fn trouble(&self) -> Option<String> {
        if let Some(AccountRefusal { host, status, since }) = self.client.account_refused() {
            let since = humantime::format_rfc3339_seconds(since);
            return Some(format!("{host} refuses the account in `credentials` with status {status} since {since}"));
        }
        if self.client.available() {
            return None;
        }
        Some(match &self.pool {
            Some(pool) => format!("no server of pool {} is up: see `ctl servers`", pool.settings().name),
            None => self.condition.last_failure().unwrap_or_else(|| "no address answers".to_owned()),
        })
    }

    /// Forgets what callers were granted, as far as tokens of this edge's own say so.
    pub(crate) fn forget_tokens(&self) {
        self.client.forget_tokens();
    }

    /// Forgets the tokens for a repository that anybody may have.
    pub(super) async fn forget_anonymous_tokens(&self, repository: &RepositoryName) {
        self.client.forget_anonymous_tokens(repository).await;
    }
}

/// One repository, as one caller sees it. Cheap to clone into a task.
#[derive(Clone)]
pub(crate) struct Scope {
    /// The registry.
    pub(crate) upstream: Arc<Upstream>,
    /// The repository.
    pub(crate) repository: RepositoryId,
    /// Who asks, when that matters.
    pub(crate) caller: Option<Arc<Caller>>,
    /// Whether upstream may not be asked.
    pub(crate) offline: bool,
    /// Of the repository, when this began.
    pub(crate) epoch: u64,
    /// The party that questions to upstream are charged to.
    pub(crate) party: Party,
    /// The edges that the request came through.
    pub(crate) trail: Trail,
}

impl Scope {
    /// What a caller sees of a repository, from now on.
    pub(crate) fn new(
        upstream: &Arc<Upstream>,
        repository: RepositoryId,
        caller: Option<Arc<Caller>>,
        offline: bool,
    ) -> Scope {
        let epoch = upstream.writes.epoch(&repository.name);
        let (party, trail) = (Party::default(), Trail::default());
        Scope { upstream: Arc::clone(upstream), repository, caller, offline, epoch, party, trail }
    }

    /// Keeps what upstream said, unless something was written to the repository since this began: then it may be older.
    pub(crate) async fn keep(&self, keeping: impl Future<Output = ()>) {
        self.upstream.writes.keep(&self.repository.name, self.epoch, keeping).await;
    }

    /// The repository upstream, with the credential that decides.
    pub(crate) fn source(&self) -> Repository {
        let credential = self.caller.as_ref().and_then(|caller| caller.credential.as_ref());
        let repository = self.upstream.client.repository(&self.repository.name, credential);
        let repository = repository.on_behalf_of(self.party.address()).after(self.trail.clone());
        repository.giving_rights(self.caller.is_some())
    }

    /// The repository upstream as blobs come from it: over connections that are shared with other clients.
    pub(crate) fn blob_source(&self) -> BlobSource {
        let (repository, connections) = (self.source(), Arc::clone(&self.upstream.connections));
        BlobSource { repository, connections, party: self.party.clone() }
    }

    /// Asks upstream, and learns from the answer. `gives_rights`: whether the answer says that the caller may have what is here.
    pub(crate) async fn ask<T>(
        &self,
        cache: &Cache,
        thing: Thing,
        question: impl Future<Output = Result<T, ClientError>>,
        gives_rights: impl Fn(&T) -> bool,
    ) -> Result<T, ClientError> {
        let result = question.await;
        self.learn(cache, thing, &result, gives_rights).await;
        result
    }

    /// Learns from what upstream said whether it fails, and whether it lets the caller in.
    ///
    /// The right to manifests and blobs is one, and that to lists another: some registries show lists to accounts that may not pull, or refuse
    /// them to accounts that may. And only the registry itself gives it: a mirror's yes is good for what it came with.
    pub(crate) async fn learn<T>(
        &self,
        cache: &Cache,
        thing: Thing,
        result: &Result<T, ClientError>,
        gives_rights: impl Fn(&T) -> bool,
    ) {
        self.upstream.condition.note(thing, result);
        self.upstream.account_refused.set(self.upstream.client.account_refused().is_some().into());
        let allowed = match (thing, result) {
            (Thing::Tags | Thing::Referrers, _) => return,
            (_, Ok(answer)) if gives_rights(answer) => true,
            (_, Err(ClientError::Unauthorized { .. } | ClientError::Forbidden { .. })) => false,
            _ => return,
        };
        match allowed {
            true => self.allowed(cache).await,
            false => self.refused_by_upstream(cache).await,
        }
    }

    /// The registry says that the caller may pull from the repository.
    pub(super) async fn allowed(&self, cache: &Cache) {
        let Some(caller) = &self.caller else {
            self.set_refused(cache, false).await;
            return;
        };
        let now = Some(SystemTime::now());
        self.keep(cache.put_authorised(&self.repository, &caller.id, now, caller.lasting)).await;
        if let Some(user) = &caller.user {
            self.keep(cache.put_authorised(&self.repository, user, now, true)).await;
        }
    }

    /// The registry says that the caller may not.
    async fn refused_by_upstream(&self, cache: &Cache) {
        let Some(caller) = &self.caller else {
            self.set_refused(cache, !self.upstream.config.keep_deleted).await;
            return;
        };
        cache.put_authorised(&self.repository, &caller.id, None, caller.lasting).await;
        if let Some(verifier) = &self.upstream.verifier
            && caller.verdict == Some(Verdict::Granted)
        {
            verifier.refused(&caller.id, &self.repository.name);
        }
    }

    /// The registry refuses the repository: to the question whether it is public, or to a token of which it is not known whose it is.
    pub(super) async fn no_longer_public(&self, cache: &Cache, key: &hmac::Key) {
        let Some(caller) = &self.caller else { return };
        let says_it = match caller.verdict {
            // Such a token is refused for public repositories as well.
            Some(Verdict::Expired | Verdict::Unverified) => false,
            _ => caller.is_public() || !caller.lasting,
        };
        let public = Caller::public(key).id;
        if says_it && cache.authorised(&self.repository, &public).await.is_some() {
            cache.put_authorised(&self.repository, &public, None, true).await;
        }
    }

    /// Whether the caller may have what the cache holds of this repository.
    pub(crate) async fn authorisation(&self, cache: &Cache, now: SystemTime) -> Authorisation {
        let Some(caller) = &self.caller else {
            return match self.is_refused(cache).await {
                false => Authorisation::Fresh,
                true if self.offline => Authorisation::Refuse,
                true => Authorisation::Ask,
            };
        };
        if let Some(authorisation) = caller.verdict.and_then(|verdict| by_token(verdict, self.offline)) {
            return authorisation;
        }
        let yes = cache.authorised(&self.repository, &caller.id).await;
        let config = &self.upstream.config;
        let doubted = self.upstream.writes.doubted();
        authorise(yes, doubted, now, config.authorization_ttl, config.offline_policy, self.offline)
    }

    /// Whether upstream refused this repository to the edge's own account when it last said anything about that.
    async fn is_refused(&self, cache: &Cache) -> bool {
        let condition = &self.upstream.condition;
        if let Some(refused) = condition.refuses(&self.repository.name) {
            return refused;
        }
        let refused = cache.authorised(&self.repository, &REFUSED).await.is_some();
        condition.remember(&self.repository.name, refused);
        refused
    }

    /// Written down only where anything is known that could go out: strangers can ask for any number of names.
    async fn set_refused(&self, cache: &Cache, refused: bool) {
        if self.is_refused(cache).await != refused && (!refused || cache.has_records(&self.repository).await) {
            let when = refused.then(SystemTime::now);
            cache.put_authorised(&self.repository, &REFUSED, when, true).await;
            self.upstream.condition.remember(&self.repository.name, refused);
        }
    }

    /// Whether the registry let the caller's user in before, with another password than the caller shows.
    pub(crate) async fn shows_another_password(&self, cache: &Cache) -> bool {
        let Some(caller) = &self.caller else { return false };
        let Some(user) = &caller.user else { return false };
        cache.authorised(&self.repository, user).await.is_some()
            && cache.authorised(&self.repository, &caller.id).await.is_none()
    }

    /// Whether the caller brought a token that has run out.
    pub(crate) fn has_expired(&self) -> bool {
        self.caller.as_ref().is_some_and(|caller| caller.verdict == Some(Verdict::Expired))
    }

    /// How long a caller with a known answer waits for upstream to confirm it; `None`: until upstream answers or fails.
    pub(crate) fn budget(&self, thing: Thing, authorisation: Authorisation) -> Option<Duration> {
        let (config, condition) = (&self.upstream.config, &self.upstream.condition);
        let behind = condition.is_failing(thing) && config.stale_if_error;
        match authorisation {
            Authorisation::Fresh if behind || condition.is_slow(thing) => Some(Duration::ZERO),
            Authorisation::Fresh => Some(config.revalidate_budget),
            Authorisation::AskElseKnown => behind.then_some(Duration::ZERO),
            Authorisation::Ask | Authorisation::Refuse => None,
        }
    }

    /// Notes that a known answer goes out before upstream has confirmed it, and says what it is called.
    pub(crate) fn out_of_patience(&self, thing: Thing) -> StaleReason {
        let condition = &self.upstream.condition;
        if !condition.is_failing(thing) {
            condition.outlasted(thing);
            return StaleReason::Revalidating;
        }
        condition.serves_stale(thing);
        match self.caller.is_none() && self.upstream.client.account_refused().is_some() {
            true => StaleReason::AccountRefused,
            false => StaleReason::UpstreamFailed,
        }
    }

    /// What to do about a known answer that upstream did not confirm to this caller.
    pub(crate) fn unconfirmed(&self, thing: Thing, error: &ClientError, authorisation: Authorisation) -> Unconfirmed {
        let decision = unconfirmed(error, authorisation, Policy::from(&self.upstream.config));
        if matches!(decision, Unconfirmed::ServeStale(_)) && self.upstream.condition.is_failing(thing) {
            self.upstream.condition.serves_stale(thing);
        }
        decision
    }

    /// A key for what this caller asks of this repository.
    pub(crate) fn key(&self, wanted: Wanted) -> Key {
        let caller = self.caller.as_ref().map(|caller| caller.id);
        Key { repository: self.repository.clone(), caller, epoch: self.epoch, wanted }
    }
}

/// What may be asked of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Wanted {
    /// Whether a tag still means what it meant, to a caller who is authorised so.
    Check(Tag, Authorisation),
    /// The header of a manifest.
    ManifestHead(Reference),
    /// A manifest.
    Manifest(Reference),
    /// A blob, or whether there is one.
    Blob(Digest),
    /// The header of a blob. A no to that proves nothing about the blob.
    BlobHead(Digest),
    /// A list, by its key.
    List(String),
}

/// A question, by a caller where that matters.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    repository: RepositoryId,
    caller: Option<[u8; 32]>,
    epoch: u64,
    wanted: Wanted,
}

/// Flights of one kind of answer.
pub(crate) type Questions<T> = Flights<Key, Result<T, ClientError>>;

//! Whose view of which repository a request is about: what every question to the cache and to upstream needs.
//!
//! With `auth: shared` everybody sees what the edge's own account sees. With `auth: passthrough` each caller sees what
//! its own credential sees: flights and negative answers are kept apart by caller, and a hit needs upstream's yes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use moka::sync::Cache as Memory;
use pierhead_config::{AuthMode, Registry};
use pierhead_registry::client::Client;
use pierhead_registry::client::{ClientError, Repository};
use pierhead_registry::oci::{Digest, Reference, Tag};

use super::RegistryParts;
use super::credential::Caller;
use super::flights::Flights;
use super::outcome::StaleReason;
use super::plan::{Authorisation, Unconfirmed, authorise, by_token, unconfirmed};
use super::verifier::{Verdict, Verifier};
use super::writes::Writes;
use crate::cache::{Cache, RepositoryId};
use crate::pool::Pool;

/// Negative answers that are remembered.
const NEGATIVES: u64 = 20_000;

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
    client: Client,
    /// Whether the last word from upstream was a failure. Known answers then do not wait for the next attempt.
    failing: AtomicBool,
    /// Whether a question outlasted its budget and nothing was answered since. Then known answers do not wait either:
    /// an uplink that swallows everything costs one budget, not one a pull, until it is seen to fail.
    slow: AtomicBool,
}

impl Upstream {
    /// A registry and the client that speaks to it.
    pub(crate) fn new(parts: RegistryParts, verifier: Option<Verifier>) -> Upstream {
        let RegistryParts { config, client, pool, kept: _ } = parts;
        let (failing, slow) = (AtomicBool::new(false), AtomicBool::new(false));
        let name = config.name.as_str().into();
        Upstream { name, config, pool, writes: Writes::new(), verifier, client, failing, slow }
    }

    /// Whether a caller's own credential decides.
    pub(crate) fn is_passthrough(&self) -> bool {
        self.config.auth == AuthMode::Passthrough
    }

    /// Whether its origin has a server that would be asked.
    pub(crate) fn is_reachable(&self) -> bool {
        self.pool.as_ref().is_some_and(|pool| pool.available())
    }

    /// Whether upstream failed when it was last asked.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Forgets what callers were granted, as far as tokens of this edge's own say so.
    pub(crate) fn forget_tokens(&self) {
        self.client.forget_tokens();
    }

    /// Learns from an answer, and logs when a registry starts or stops failing: not each of the failures in between.
    fn note<T>(&self, result: &Result<T, ClientError>) {
        if self.slow.load(Ordering::Relaxed) {
            self.slow.store(false, Ordering::Relaxed);
        }
        match result {
            Err(error @ ClientError::Unavailable { .. }) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "upstream fails; what is known is served stale");
                }
            }
            Err(error @ ClientError::Invalid { .. }) => tracing::warn!(%error, "upstream sent what cannot be used"),
            Err(ClientError::RateLimited { .. } | ClientError::Unconfirmed { .. }) => {}
            Err(ClientError::AccountRefused { .. }) => {
                self.failing.store(true, Ordering::Relaxed);
            }
            _ => {
                if self.failing.load(Ordering::Relaxed) && self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!(registry = %self.name, "upstream answers again");
                }
            }
        }
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
        Scope { upstream: Arc::clone(upstream), repository, caller, offline, epoch }
    }

    /// Keeps what upstream said, unless something was written to the repository since this began: then it may be older.
    pub(crate) async fn keep(&self, keeping: impl Future<Output = ()>) {
        self.upstream.writes.keep(&self.repository.name, self.epoch, keeping).await;
    }

    /// The repository upstream, with the credential that decides.
    pub(crate) fn source(&self) -> Repository {
        let credential = self.caller.as_ref().and_then(|caller| caller.credential.as_ref());
        self.upstream.client.repository(&self.repository.name, credential)
    }

    /// Asks upstream, learns from the answer whether it is failing, and whether it lets the caller in.
    pub(crate) async fn ask<T>(
        &self,
        cache: &Cache,
        question: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let result = question.await;
        self.upstream.note(&result);
        if let Some(caller) = &self.caller {
            match &result {
                Ok(_) => {
                    let now = Some(SystemTime::now());
                    self.keep(cache.put_authorised(&self.repository, &caller.id, now, caller.lasting)).await;
                }
                Err(ClientError::Unauthorized { .. } | ClientError::Forbidden { .. }) => {
                    cache.put_authorised(&self.repository, &caller.id, None, caller.lasting).await;
                    if let Some(verifier) = &self.upstream.verifier
                        && caller.verdict == Some(Verdict::Granted)
                    {
                        verifier.refused(&caller.id, &self.repository.name);
                    }
                }
                Err(_) => {}
            }
        }
        result
    }

    /// Whether the caller may have what the cache holds of this repository.
    pub(crate) async fn authorisation(&self, cache: &Cache, now: SystemTime) -> Authorisation {
        let Some(caller) = &self.caller else { return Authorisation::Fresh };
        if let Some(authorisation) = caller.verdict.and_then(|verdict| by_token(verdict, self.offline)) {
            return authorisation;
        }
        let yes = cache.authorised(&self.repository, &caller.id).await;
        let config = &self.upstream.config;
        let doubted = self.upstream.writes.doubted();
        authorise(yes, doubted, now, config.authorization_ttl, config.offline_policy, self.offline)
    }

    /// Whether the caller brought a token that has run out.
    pub(crate) fn has_expired(&self) -> bool {
        self.caller.as_ref().is_some_and(|caller| caller.verdict == Some(Verdict::Expired))
    }

    /// How long a caller with a known answer waits for upstream to confirm it; `None`: until upstream answers or fails.
    pub(crate) fn budget(&self, authorisation: Authorisation) -> Option<Duration> {
        let config = &self.upstream.config;
        let behind = self.upstream.is_failing() && config.stale_if_error;
        match authorisation {
            Authorisation::Fresh if behind || self.upstream.slow.load(Ordering::Relaxed) => Some(Duration::ZERO),
            Authorisation::Fresh => Some(config.revalidate_budget),
            Authorisation::AskElseKnown => behind.then_some(Duration::ZERO),
            Authorisation::Ask | Authorisation::Refuse => None,
        }
    }

    /// Notes that a known answer goes out before upstream has confirmed it, and says what it is called.
    pub(crate) fn out_of_patience(&self) -> StaleReason {
        if self.upstream.is_failing() {
            return StaleReason::UpstreamFailed;
        }
        self.upstream.slow.store(true, Ordering::Relaxed);
        StaleReason::Revalidating
    }

    /// What to do about a known answer that upstream did not confirm to this caller. Without upstream's recent yes,
    /// only a failure to answer may be overlooked, never a no.
    pub(crate) fn unconfirmed(&self, error: &ClientError, authorisation: Authorisation) -> Unconfirmed {
        match (unconfirmed(error, &self.upstream.config), authorisation) {
            (decision, Authorisation::Fresh) => decision,
            (stale @ Unconfirmed::ServeStale(_), Authorisation::AskElseKnown) if !error.is_answer() => stale,
            _ => Unconfirmed::Refuse,
        }
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
    /// Whether a tag still means what it meant.
    Check(Tag),
    /// The header of a manifest.
    ManifestHead(Reference),
    /// A manifest.
    Manifest(Reference),
    /// Whether there is a blob, and of what size.
    Blob(Digest),
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

/// Remembers for a short time that upstream said no. In memory only: after a restart upstream is asked again.
pub(crate) struct Negatives {
    known: Memory<Key, (ClientError, Instant)>,
}

impl Negatives {
    /// Nothing is remembered yet.
    pub(crate) fn new() -> Negatives {
        Negatives { known: Memory::builder().max_capacity(NEGATIVES).time_to_live(Duration::from_secs(3600)).build() }
    }

    /// Upstream's no, if it is recent.
    pub(crate) fn get(&self, key: &Key) -> Option<ClientError> {
        self.known.get(key).filter(|(_, until)| Instant::now() < *until).map(|(error, _)| error)
    }

    /// Remembers an error if it is a no, and not a failure to answer.
    pub(crate) fn keep<T>(&self, key: Key, result: &Result<T, ClientError>, ttl: Duration) {
        match result {
            Err(error) if error.is_answer() && !ttl.is_zero() => {
                self.known.insert(key, (error.clone(), Instant::now() + ttl));
            }
            _ => {}
        }
    }
}

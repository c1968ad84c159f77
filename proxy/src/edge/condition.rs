//! How an upstream is, as its last answers show: which kinds of question it fails, whether it refuses the edge's account, and which
//! repositories it refuses to that account.
//!
//! Invariants: one kind of question says nothing about another: a registry without referrers serves manifests all the same. A
//! change of state is logged once, not each of the failures in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use moka::sync::Cache as Memory;
use parking_lot::Mutex;
use pierhead_registry::client::ClientError;
use pierhead_registry::oci::RepositoryName;
use prometheus::IntGauge;

use super::refusal::Thing;

/// Repositories of which it is remembered whether they are refused; the others are looked up again.
const REPOSITORIES: u64 = 20_000;

/// The condition of one upstream.
pub(crate) struct Condition {
    registry: Arc<str>,
    manifests: Answering,
    blobs: Answering,
    tags: Answering,
    referrers: Answering,
    account: Mutex<Option<AccountTrouble>>,
    /// 1 while the account is refused.
    gauge: IntGauge,
    /// Whether a repository is refused to the edge's account.
    refused: Memory<RepositoryName, bool>,
}

/// How one kind of question fares.
#[derive(Default)]
struct Answering {
    /// Whether the last question failed. Known answers then do not wait for the next attempt.
    failing: AtomicBool,
    /// Whether a question outlasted its budget and nothing was answered since. Known answers do not wait then either: an
    /// uplink that swallows everything costs one budget, not one a pull, until it is seen to fail.
    slow: AtomicBool,
    /// Whether anything went out stale since it began to fail.
    stale: AtomicBool,
}

/// An account that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AccountTrouble {
    host: String,
    status: u16,
    since: SystemTime,
}

impl Condition {
    /// Nothing is known against it.
    pub(crate) fn new(registry: Arc<str>, gauge: IntGauge) -> Condition {
        gauge.set(0);
        Condition {
            registry,
            manifests: Answering::default(),
            blobs: Answering::default(),
            tags: Answering::default(),
            referrers: Answering::default(),
            account: Mutex::default(),
            gauge,
            refused: Memory::builder().max_capacity(REPOSITORIES).build(),
        }
    }

    fn of(&self, thing: Thing) -> &Answering {
        match thing {
            Thing::Manifest => &self.manifests,
            Thing::Blob => &self.blobs,
            Thing::Tags => &self.tags,
            Thing::Referrers => &self.referrers,
        }
    }

    /// Whether the last question of this kind failed.
    pub(crate) fn is_failing(&self, thing: Thing) -> bool {
        self.of(thing).failing.load(Ordering::Relaxed)
    }

    /// Whether a question of this kind outlasted its budget, and none was answered since.
    pub(crate) fn is_slow(&self, thing: Thing) -> bool {
        self.of(thing).slow.load(Ordering::Relaxed)
    }

    /// A question of this kind outlasted its budget.
    pub(crate) fn outlasted(&self, thing: Thing) {
        self.of(thing).slow.store(true, Ordering::Relaxed);
    }

    /// A known answer goes out though this kind of question fails.
    pub(crate) fn serves_stale(&self, thing: Thing) {
        if !self.of(thing).stale.swap(true, Ordering::Relaxed) {
            tracing::info!(registry = %self.registry, kind = thing.as_str(), "serving what is known, stale");
        }
    }

    /// Learns from what a question brought. `own`: it was asked with the edge's own account.
    pub(crate) fn note<T>(&self, thing: Thing, own: bool, result: &Result<T, ClientError>) {
        let (answering, kind) = (self.of(thing), thing.as_str());
        answering.slow.store(false, Ordering::Relaxed);
        let fails = || !answering.failing.swap(true, Ordering::Relaxed);
        match result {
            Err(ClientError::AccountRefused { host, status, .. }) => {
                fails();
                if own {
                    self.account_is_refused(host, *status);
                }
            }
            Err(ClientError::Unavailable { registry, host, status, reason }) => {
                if fails() {
                    tracing::warn!(%registry, kind, %host, status, %reason, "upstream fails");
                }
            }
            Err(ClientError::Invalid { registry, host, status, reason }) => {
                tracing::warn!(%registry, kind, %host, status, %reason, "upstream sent what cannot be used");
            }
            Err(ClientError::RateLimited { .. } | ClientError::Unconfirmed { .. }) => {}
            Ok(_)
            | Err(
                ClientError::NotFound { .. }
                | ClientError::Unauthorized { .. }
                | ClientError::Forbidden { .. }
                | ClientError::Rejected { .. },
            ) => {
                if answering.failing.swap(false, Ordering::Relaxed) {
                    answering.stale.store(false, Ordering::Relaxed);
                    tracing::info!(registry = %self.registry, kind, "upstream answers again");
                }
                if own && self.account.lock().take().is_some() {
                    self.gauge.set(0);
                    tracing::info!(registry = %self.registry, "upstream takes the account again");
                }
            }
        }
    }

    fn account_is_refused(&self, host: &str, status: u16) {
        let mut account = self.account.lock();
        if account.is_none() {
            tracing::warn!(
                registry = %self.registry,
                %host,
                status,
                "upstream refuses the account in `credentials`: nothing new can be fetched with it"
            );
            self.gauge.set(1);
            *account = Some(AccountTrouble { host: host.to_owned(), status, since: SystemTime::now() });
        }
    }

    /// What operators should know, in words: an account that is refused.
    pub(crate) fn trouble(&self) -> Option<String> {
        let AccountTrouble { host, status, since } = self.account.lock().clone()?;
        let since = humantime::format_rfc3339_seconds(since);
        Some(format!("{host} refuses the account in `credentials` with status {status} since {since}"))
    }

    /// Whether a repository is refused to the edge's account; `None`: look it up and [`Condition::remember`] it.
    pub(crate) fn refuses(&self, repository: &RepositoryName) -> Option<bool> {
        self.refused.get(repository)
    }

    /// Remembers whether a repository is refused to the edge's account.
    pub(crate) fn remember(&self, repository: &RepositoryName, refused: bool) {
        self.refused.insert(repository.clone(), refused);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition() -> Condition {
        Condition::new("r.test".into(), IntGauge::new("g", "g").unwrap())
    }

    fn unavailable() -> Result<(), ClientError> {
        let (registry, host) = ("r.test".to_owned(), "r.test".to_owned());
        Err(ClientError::Unavailable { registry, host, status: Some(500), reason: "status 500".to_owned() })
    }

    #[test]
    fn one_kind_of_question_says_nothing_about_another() {
        let things = [Thing::Manifest, Thing::Blob, Thing::Tags, Thing::Referrers];
        for failing in things {
            let condition = condition();
            condition.note(failing, true, &unavailable());
            condition.outlasted(failing);
            for thing in things {
                assert_eq!(condition.is_failing(thing), thing == failing, "{failing:?} {thing:?}");
                assert_eq!(condition.is_slow(thing), thing == failing, "{failing:?} {thing:?}");
                condition.note(thing, true, &Ok(()));
                assert!(!condition.is_failing(thing) && !condition.is_slow(thing));
            }
        }
    }

    #[test]
    fn an_account_is_in_trouble_until_it_is_taken() {
        let condition = condition();
        let (registry, host) = ("r.test".to_owned(), "auth.test".to_owned());
        let refused = Err::<(), _>(ClientError::AccountRefused { registry, host, status: 401 });
        condition.note(Thing::Manifest, false, &refused);
        assert_eq!((condition.trouble(), condition.gauge.get()), (None, 0), "a caller's account");
        condition.note(Thing::Manifest, true, &refused);
        let trouble = condition.trouble().unwrap();
        assert!(trouble.starts_with("auth.test refuses") && trouble.contains("401"), "{trouble}");
        assert_eq!(condition.gauge.get(), 1);
        for other in [unavailable(), Err(ClientError::Unconfirmed { registry: String::new(), status: 404 })] {
            condition.note(Thing::Manifest, true, &other);
            assert_eq!(condition.trouble(), Some(trouble.clone()), "says nothing about the account");
        }
        condition.note(Thing::Manifest, false, &Ok(()));
        assert!(condition.trouble().is_some(), "a caller's account");
        condition.note(Thing::Blob, true, &Ok(()));
        assert_eq!((condition.trouble(), condition.gauge.get()), (None, 0));
    }
}

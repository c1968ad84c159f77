//! How an upstream is, as its last answers show: which kinds of question it fails, and which repositories it refuses to the edge's
//! account. Whether it refuses the account itself is known by the client, which logs in.
//!
//! Invariants: one kind of question says nothing about another: a registry without referrers serves manifests all the same. A
//! change of state is logged once, not each of the failures in between.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use moka::sync::Cache as Memory;
use pierhead_registry::client::ClientError;
use pierhead_registry::oci::RepositoryName;

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
    /// How it failed the last time.
    failure: Mutex<Option<String>>,
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

impl Condition {
    /// Nothing is known against it.
    pub(crate) fn new(registry: Arc<str>) -> Condition {
        Condition {
            registry,
            manifests: Answering::default(),
            blobs: Answering::default(),
            tags: Answering::default(),
            referrers: Answering::default(),
            failure: Mutex::default(),
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

    /// How upstream failed the last time, with the host: for operators.
    pub(crate) fn last_failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Learns from what a question brought.
    pub(crate) fn note<T>(&self, thing: Thing, result: &Result<T, ClientError>) {
        let (answering, kind) = (self.of(thing), thing.as_str());
        answering.slow.store(false, Ordering::Relaxed);
        let fails = || !answering.failing.swap(true, Ordering::Relaxed);
        match result {
            // The client has logged it.
            Err(ClientError::AccountRefused { .. }) => {
                fails();
            }
            Err(ClientError::Unavailable { registry, host, status, reason }) => {
                let failure = Some(format!("{host}: {reason}"));
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
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
            }
        }
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
        Condition::new("r.test".into())
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
            condition.note(failing, &unavailable());
            condition.outlasted(failing);
            for thing in things {
                assert_eq!(condition.is_failing(thing), thing == failing, "{failing:?} {thing:?}");
                assert_eq!(condition.is_slow(thing), thing == failing, "{failing:?} {thing:?}");
                condition.note(thing, &Ok(()));
                assert!(!condition.is_failing(thing) && !condition.is_slow(thing));
            }
        }
    }
}

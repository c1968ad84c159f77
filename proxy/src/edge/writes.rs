//! What was written to a registry through this edge: pushes and deletions, by repository.
//!
//! A write makes what is known about a repository's tags and lists out of date at once. It is forgotten before the
//! writer hears that it succeeded. A question to the origin that began before may still come back with the old answer:
//! so every write begins a new epoch of its repository, questions of different epochs are not joined, and the answer to
//! a question of an earlier epoch is not kept.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache as Memory;
use pierhead_registry::oci::RepositoryName;
use tokio::sync::RwLock;

/// Repositories whose epochs are remembered: more than are ever written to at a time.
const REMEMBERED: u64 = 20_000;
/// How long: no question takes as long.
const LIFE: Duration = Duration::from_secs(3600);

/// The epochs of one registry's repositories.
pub(crate) struct Writes {
    last: AtomicU64,
    epochs: Memory<RepositoryName, u64>,
    /// Held by those who keep answers, so that no epoch begins between the look at it and the keeping.
    keeping: RwLock<()>,
}

impl Writes {
    /// Nothing was written yet.
    pub(crate) fn new() -> Writes {
        let epochs = Memory::builder().max_capacity(REMEMBERED).time_to_live(LIFE).build();
        Writes { last: AtomicU64::new(0), epochs, keeping: RwLock::new(()) }
    }

    /// The epoch of a repository.
    pub(crate) fn epoch(&self, repository: &RepositoryName) -> u64 {
        self.epochs.get(repository).unwrap_or_default()
    }

    /// Keeps what a question of an epoch brought, unless that is over.
    pub(crate) async fn keep(&self, repository: &RepositoryName, epoch: u64, keeping: impl Future<Output = ()>) {
        let _held = self.keeping.read().await;
        if self.epoch(repository) == epoch {
            keeping.await;
        }
    }

    /// Something was written. What is kept from here on belongs to the new epoch; what was kept before is to be forgotten.
    pub(crate) async fn begin(&self, repository: &RepositoryName) {
        let _nobody_keeps = self.keeping.write().await;
        // Drawn from one counter: an epoch never comes twice, even when it was forgotten meanwhile.
        self.epochs.insert(repository.clone(), self.last.fetch_add(1, Ordering::Relaxed) + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::Writes;

    #[tokio::test]
    async fn each_write_begins_an_epoch_of_its_repository_alone() {
        let (writes, a, b) = (Writes::new(), "team/a".parse().unwrap(), "team/b".parse().unwrap());
        let first = writes.epoch(&a);
        writes.begin(&a).await;
        let second = writes.epoch(&a);
        writes.begin(&a).await;
        assert!(first != second && second != writes.epoch(&a) && first != writes.epoch(&a));
        assert_eq!(writes.epoch(&b), first);
    }
}

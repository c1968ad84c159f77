//! What was written to a registry through this edge, by the part of it that was written to: pushes, deletions, and what
//! its own API changed.
//!
//! A write makes what is known about a part of a registry out of date at once. It is forgotten before the writer hears
//! that it succeeded. A question to the origin that began before may still come back with the old answer: so every write
//! begins a new epoch of its part, questions of different epochs are not joined, and the answer to a question of an
//! earlier epoch is not kept.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pierhead_registry::oci::RepositoryName;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, RwLock};

use crate::cache::Extent;

/// Places for epochs. Names that share one share their epochs: a write to one of them costs the other an answer that is
/// not kept.
const PLACES: usize = 1 << 14;

/// The epochs of one registry.
pub(crate) struct Writes {
    /// The newest epoch. Drawn from one counter, so that none comes twice, and that of a repository is the newest of those
    /// that hold for it.
    last: AtomicU64,
    registry: AtomicU64,
    /// Of namespaces and of repositories, by their names' hashes.
    parts: Box<[AtomicU64]>,
    hasher: RandomState,
    /// Held by those who keep answers, so that no epoch begins between the look at it and the keeping.
    keeping: RwLock<()>,
    /// Wakes those that wait for [`Writes::renew`].
    forgotten: Notify,
    /// When callers' credentials last changed, in milliseconds. Not kept over a restart: `authorization_ttl` is a bound too.
    credentials: AtomicU64,
}

impl Writes {
    /// Nothing was written yet.
    pub(crate) fn new() -> Writes {
        Writes {
            last: AtomicU64::new(0),
            registry: AtomicU64::new(0),
            parts: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            keeping: RwLock::new(()),
            forgotten: Notify::new(),
            credentials: AtomicU64::new(0),
        }
    }

    /// The epoch of a repository.
    pub(crate) fn epoch(&self, repository: &RepositoryName) -> u64 {
        let parts = [repository.namespace(), repository.as_str()].map(|name| self.part(name));
        let [namespace, repository] = parts.map(|part| part.load(Ordering::Acquire));
        self.registry.load(Ordering::Acquire).max(namespace).max(repository)
    }

    fn part(&self, name: &str) -> &AtomicU64 {
        // What is left of the division is less than the number of places.
        &self.parts[(self.hasher.hash_one(name) % PLACES as u64) as usize]
    }

    /// Keeps what a question of an epoch brought, unless that is over.
    pub(crate) async fn keep(&self, repository: &RepositoryName, epoch: u64, keeping: impl Future<Output = ()>) {
        let _held = self.keeping.read().await;
        if self.epoch(repository) == epoch {
            keeping.await;
        }
    }

    /// Something was written. What is kept from here on belongs to the new epoch; what was kept before is to be forgotten.
    pub(crate) async fn begin(&self, extent: &Extent) {
        let _nobody_keeps = self.keeping.write().await;
        self.next(extent);
    }

    /// Forgets what is known of a part, while nobody keeps anything. What was looked up until then belongs to an earlier epoch, so that
    /// nothing that follows from it is kept either.
    pub(crate) async fn renew<T>(&self, extent: &Extent, forgetting: impl Future<Output = T>) -> T {
        let _nobody_keeps = self.keeping.write().await;
        // Also before: whoever waits for this may go away.
        self.next(extent);
        let forgotten = forgetting.await;
        self.next(extent);
        self.forgotten.notify_waiters();
        forgotten
    }

    /// The next time that all is forgotten of any part of the registry.
    pub(crate) fn forgotten(&self) -> Notified<'_> {
        self.forgotten.notified()
    }

    fn next(&self, extent: &Extent) {
        let part = match extent {
            Extent::Registry => &self.registry,
            Extent::Namespace(namespace) => self.part(namespace),
            Extent::Repository(name) => self.part(name.as_str()),
        };
        part.store(self.last.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// Whoever was let in before may not be any more, and nobody can say who: all are asked about again.
    pub(crate) fn doubt(&self, now: SystemTime) {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        // The next one, for a yes of this one may be older.
        self.credentials.fetch_max(u64::try_from(now).unwrap_or_default() + 1, Ordering::Relaxed);
    }

    /// Since when a yes to a caller counts.
    pub(crate) fn doubted(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.credentials.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::Writes;
    use crate::cache::Extent;

    #[tokio::test]
    async fn what_was_looked_up_before_all_was_forgotten_is_not_kept() {
        let writes = Writes::new();
        let (name, other) = ("team/a".parse().unwrap(), "other/b".parse().unwrap());
        let mut epochs = vec![(writes.epoch(&name), false)];
        let extent = Extent::Repository("team/a".parse().unwrap());
        let during = writes.renew(&extent, async { writes.epoch(&name) }).await;
        epochs.extend([(during, false), (writes.epoch(&name), true)]);
        for (epoch, expected) in epochs {
            let mut kept = false;
            writes.keep(&name, epoch, async { kept = true }).await;
            assert_eq!(kept, expected, "{epoch}");
        }
        // Nothing is kept while it is forgotten.
        let elsewhere = writes.epoch(&other);
        let mut keeping = Box::pin(writes.keep(&other, elsewhere, async {}));
        let waits = writes.renew(&extent, async { keeping.as_mut().now_or_never().is_none() }).await;
        assert!(waits);
        keeping.await;
    }

    #[tokio::test]
    async fn each_write_begins_an_epoch_of_its_part_alone() {
        let apart = |writes: &Writes| {
            let parts =
                ["team", "team/a", "team/b/c", "other", "other/a"].map(|name| std::ptr::from_ref(writes.part(name)));
            (1..parts.len()).all(|end| !parts[..end].contains(&parts[end]))
        };
        let writes = std::iter::repeat_with(Writes::new).find(apart).unwrap();
        let [a, b, other] = ["team/a", "team/b/c", "other/a"].map(|name| name.parse().unwrap());
        let namespace = Extent::Namespace("team".into());
        let mut before = [&a, &b, &other].map(|name| writes.epoch(name));
        for (extent, new) in [
            (Extent::Repository(a.clone()), [true, false, false]),
            (Extent::Repository(a.clone()), [true, false, false]),
            (namespace.clone(), [true, true, false]),
            (Extent::Repository(a.clone()), [true, false, false]),
            (Extent::Registry, [true, true, true]),
            (namespace, [true, true, false]),
        ] {
            writes.begin(&extent).await;
            let after = [&a, &b, &other].map(|name| writes.epoch(name));
            let begun: Vec<bool> = before.iter().zip(&after).map(|(before, after)| before < after).collect();
            assert_eq!(begun, new, "{extent:?}");
            before = after;
        }
    }
}

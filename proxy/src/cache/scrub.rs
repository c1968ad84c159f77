//! The scrub: hashing everything that is committed, now and then, so that a rotten blob is found before a client needs it
//! and while upstream still has a good one.
//!
//! One file at a time, resting as long as it worked, so that it takes at most half of one core and of the disk.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use super::store::{Store, blocking};
use super::tree::Tree;

/// Runs a pass whenever `interval` has gone by since the last, also across restarts, until the store is gone.
pub(super) async fn run(store: Weak<Store>, interval: Duration) {
    loop {
        let Some(strong) = store.upgrade() else { return };
        let wait = due(strong.index.scrubbed(), interval, SystemTime::now());
        drop(strong);
        tokio::time::sleep(wait).await;
        let started = Instant::now();
        let Some(strong) = store.upgrade() else { return };
        let digests = strong.ledger.all_committed();
        drop(strong);
        let mut damaged = 0;
        for digest in digests {
            let Some(store) = store.upgrade().filter(|store| !store.tree.is_released()) else { return };
            let began = Instant::now();
            if !blocking(move || sound(&store, &digest)).await.unwrap_or(true) {
                damaged += 1;
            }
            tokio::time::sleep(began.elapsed()).await;
        }
        let Some(strong) = store.upgrade() else { return };
        strong.metrics.scrub_duration.observe(started.elapsed().as_secs_f64());
        strong.index.set_scrubbed(SystemTime::now());
        tracing::info!(damaged, seconds = started.elapsed().as_secs(), "scrub finished");
    }
}

/// How long until the next pass.
fn due(last: Option<SystemTime>, interval: Duration, now: SystemTime) -> Duration {
    let since = last.and_then(|last| now.duration_since(last).ok()).unwrap_or_default();
    interval.saturating_sub(since)
}

/// Whether committed content is what its name says; what is not is forgotten. Does not count as a use.
fn sound(store: &Arc<Store>, digest: &pierhead_registry::oci::Digest) -> bool {
    let Some(entry) = store.ledger.get(digest) else { return true };
    match store.tree.open_blob(digest) {
        Ok((file, length)) => match Tree::hashes_to(&file, digest) {
            Ok(true) if length == entry.size => true,
            Ok(_) => {
                store.damaged(digest, Some(&file), "does not hash to its digest");
                false
            }
            Err(error) => {
                store.failed("scrubbing", &error);
                false
            }
        },
        // It may have been evicted since the pass began.
        Err(_) if store.ledger.get(digest).is_none() => true,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            store.damaged(digest, None, "is missing");
            false
        }
        Err(error) => {
            store.failed("scrubbing", &error);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::due;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn a_pass_is_due_an_interval_after_the_last() {
        let hour = Duration::from_secs(3600);
        let now = UNIX_EPOCH + 10 * hour;
        assert_eq!(due(None, hour, now), hour);
        assert_eq!(due(Some(now - hour / 2), hour, now), hour / 2);
        assert_eq!(due(Some(now - 2 * hour), hour, now), Duration::ZERO);
        assert_eq!(due(Some(now + hour), hour, now), hour);
    }
}

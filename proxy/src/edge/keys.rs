//! The public keys of a registry's tokens: fetched from it, asked for again when a token names a key that is not among
//! them, and kept on disk.
//!
//! Invariants: keys that cannot be fetched do not take away those that are known; keys that are no longer published are
//! forgotten, and with them the tokens that they signed. Nobody waits for a question to the registry here, and tokens of
//! nobody's cannot make it more often than every few seconds.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pierhead_config::KeySource;
use pierhead_registry::client::{Client, Document};
use pierhead_registry::token::KeySet;
use tokio::sync::{Notify, OnceCell};
use tokio::time::sleep;

use crate::admin::metrics::TokenMetrics;
use crate::cache::Cache;

/// Largest set that is read.
const SIZE: u64 = 128 * 1024;
/// How often keys that are known are fetched again.
const REFRESH: Duration = Duration::from_secs(600);
/// How often at the most, because of unknown keys.
const GAP: Duration = Duration::from_secs(2);
/// The first pause after a failure; it doubles,
const FIRST: Duration = Duration::from_millis(250);
/// up to this.
const LONGEST: Duration = Duration::from_secs(60);

/// The keys of one registry.
pub(super) struct Keys {
    edition: ArcSwap<Edition>,
    /// Whether what is kept on disk was looked for.
    read: OnceCell<()>,
    wanted: Notify,
    metrics: Arc<TokenMetrics>,
}

/// A set of keys, and how many there were before it.
pub(super) struct Edition {
    pub(super) number: u64,
    pub(super) set: KeySet,
}

impl Keys {
    /// None yet.
    pub(super) fn new(metrics: Arc<TokenMetrics>) -> Keys {
        let edition = ArcSwap::from_pointee(Edition { number: 0, set: KeySet::default() });
        Keys { edition, read: OnceCell::new(), wanted: Notify::new(), metrics }
    }

    /// What is known now.
    pub(super) fn edition(&self) -> Arc<Edition> {
        self.edition.load_full()
    }

    /// A token names a key that is not known.
    pub(super) fn want(&self) {
        self.wanted.notify_one();
    }

    /// Takes up what was kept on disk, the first time that anybody asks.
    pub(super) async fn read(&self, cache: &Cache, registry: &Arc<str>) {
        let reading = async {
            let kept = cache.keys(registry).await.and_then(|kept| KeySet::from_json(&kept).ok());
            if let Some(set) = kept {
                self.replace(set);
            }
        };
        self.read.get_or_init(|| reading).await;
    }

    /// Takes up a set; whether anything is new about it.
    fn replace(&self, set: KeySet) -> bool {
        let before = self.edition();
        if before.set.to_json() == set.to_json() {
            return false;
        }
        self.metrics.keys.set(i64::try_from(set.len()).unwrap_or(i64::MAX));
        self.edition.store(Arc::new(Edition { number: before.number + 1, set }));
        true
    }
}

/// Fetches keys, for ever. Only one task does this for the same keys.
pub(super) async fn keep(keys: Arc<Keys>, client: Client, source: KeySource, cache: Arc<Cache>, registry: Arc<str>) {
    let document = match source {
        KeySource::Path(path) => Document::Path(path),
        KeySource::Url(url) => Document::Url(url),
    };
    keys.read(&cache, &registry).await;
    let mut failures = 0;
    loop {
        let fetched = match client.get_document(&document, SIZE).await {
            Ok(json) => KeySet::from_json(&json).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match fetched {
            Ok(set) => {
                failures = 0;
                let (known, json) = (set.len(), set.to_json());
                if keys.replace(set) {
                    tracing::info!(%registry, keys = known, "tokens are verified by these keys from now on");
                    cache.put_keys(&registry, json).await;
                }
            }
            Err(error) => {
                if failures == 0 {
                    let known = keys.edition().set.len();
                    tracing::warn!(%registry, error, known, "the keys of tokens cannot be fetched; those that are known are kept");
                }
                failures += 1;
            }
        }
        let wanted = async {
            sleep(GAP).await;
            keys.wanted.notified().await;
        };
        tokio::select! {
            () = sleep(pause(failures)) => {}
            () = wanted => {}
        }
    }
}

/// How long to wait after so many failures in a row.
fn pause(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => REFRESH,
        Some(earlier) => FIRST.saturating_mul(2_u32.saturating_pow(earlier)).min(LONGEST),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::pause;

    #[test]
    fn pauses_double_until_the_registry_is_back() {
        for (failures, milliseconds) in [(0, 600_000), (1, 250), (2, 500), (8, 32_000), (9, 60_000), (u32::MAX, 60_000)]
        {
            assert_eq!(pause(failures), Duration::from_millis(milliseconds), "{failures}");
        }
    }
}

//! `pierhead-origin gc`: garbage collection once, now, or what it would come to.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use pierhead_config::{OriginConfig, RegistryState};
use pierhead_service::signals::Signals;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{AppError, store};
use crate::meta::{Meta, now};
use crate::metrics::Metrics;
use crate::outcome::Outcome;
use crate::workers::{Collected, Collector, Windows};

/// Collects garbage, or tells `tell` line by line what would be collected. The sum, in words.
pub(crate) fn collect(path: &Path, rehearse: bool, tell: fn(&str)) -> Result<Outcome, AppError> {
    let config = OriginConfig::load_unserved(path)?;
    if config.registry_state == RegistryState::ReadOnly && !rehearse {
        return Err(AppError::ReadOnly);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(AppError::Runtime)?;
    runtime.block_on(async {
        let mut signals = Signals::listen().map_err(AppError::Runtime)?;
        let store = store::open(&config.storage).await?;
        let meta = Meta::open(&config.database).await?;
        let collector = Collector::new(meta.clone(), store, Windows::of(&config), Arc::new(Metrics::new()?));
        if rehearse {
            let found = collector.rehearse(tell).await?;
            let waiting = meta.waiting(now()).await?;
            let mut text = format!("there are {found}");
            if let (Some(first), Some(last)) = (waiting.first, waiting.last) {
                text.push_str(&format!(
                    "\n{} more blobs of {} bytes are not needed, and wait for `garbage_collection.blob_grace`: the first until {}, the last until {}",
                    waiting.blobs, waiting.bytes, date(first), date(last)
                ));
            }
            let json = json!({
                "rehearsed": true, "collected": numbers(&found),
                "waiting": { "blobs": waiting.blobs, "bytes": waiting.bytes, "first": waiting.first.map(date), "last": waiting.last.map(date) },
            });
            return Ok(Outcome::new(text, json));
        }
        let stop = CancellationToken::new();
        let told = stop.clone();
        tokio::spawn(async move {
            signals.stop().await;
            told.cancel();
        });
        match collector.run(&stop).await? {
            Some(collected) => {
                let json = json!({ "rehearsed": false, "collected": numbers(&collected) });
                Ok(Outcome::new(format!("collected {collected}"), json))
            }
            None => Err(AppError::AnotherCollects),
        }
    })
}

fn date(at: i64) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(at).unwrap_or_default());
    humantime::format_rfc3339_seconds(at).to_string()
}

fn numbers(collected: &Collected) -> Value {
    json!({
        "repositories": collected.repositories, "expired_tags": collected.expired, "ended_tags": collected.tags,
        "manifests": collected.manifests, "blobs": collected.blobs, "bytes": collected.bytes, "uploads": collected.uploads,
        "actions": collected.actions, "keys": collected.keys, "app_tokens": collected.app_tokens,
    })
}

//! `pierhead-origin gc`: garbage collection once, now, or what it would come to.

use std::path::Path;
use std::sync::Arc;

use pierhead_config::{OriginConfig, RegistryState};
use pierhead_service::signals::Signals;
use tokio_util::sync::CancellationToken;

use super::{AppError, store};
use crate::meta::Meta;
use crate::metrics::Metrics;
use crate::workers::{Collector, Windows};

/// Collects garbage, or tells `tell` line by line what would be collected. The sum, in words.
pub(crate) fn collect(path: &Path, rehearse: bool, tell: fn(&str)) -> Result<String, AppError> {
    let config = OriginConfig::load_unserved(path)?;
    if config.registry_state == RegistryState::ReadOnly && !rehearse {
        return Err(AppError::ReadOnly);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(AppError::Runtime)?;
    runtime.block_on(async {
        let mut signals = Signals::listen().map_err(AppError::Runtime)?;
        let store = store::open(&config.storage).await?;
        let meta = Meta::open(&config.database).await?;
        let collector = Collector::new(meta, store, Windows::of(&config), Arc::new(Metrics::new()?));
        if rehearse {
            return Ok(format!("there are {}", collector.rehearse(tell).await?));
        }
        let stop = CancellationToken::new();
        let told = stop.clone();
        tokio::spawn(async move {
            signals.stop().await;
            told.cancel();
        });
        match collector.run(&stop).await? {
            Some(collected) => Ok(format!("collected {collected}")),
            None => Err(AppError::AnotherCollects),
        }
    })
}

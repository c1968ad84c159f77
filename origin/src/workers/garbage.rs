//! Garbage collection every so often, by one node at a time.

use std::sync::Arc;

use rand::Rng;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Collector, Windows};
use crate::api::Origin;

/// Collects until told to stop, under the configuration as it is when each collection begins.
pub(super) async fn run(origin: Arc<Origin>, stop: CancellationToken) {
    let mut live = origin.watch_live();
    let mut last = Instant::now();
    loop {
        let interval = live.borrow_and_update().garbage_collection.interval;
        // Nodes that were started together do not come together.
        let due = interval.map(|interval| last + interval.mul_f64(rand::rng().random_range(0.8..1.2)));
        tokio::select! {
            () = stop.cancelled() => return,
            // Its sender lives as long as the origin.
            _ = live.changed() => continue,
            () = sleep_until(due.unwrap_or(last)), if due.is_some() => {}
        }
        last = Instant::now();
        let config = origin.live();
        if config.is_read_only() {
            continue;
        }
        let (store, metrics) = (Arc::clone(&origin.store), Arc::clone(&origin.metrics));
        let collector = Collector::new(origin.meta.clone(), store, Windows::of(&config), metrics);
        match collector.run(&stop).await {
            Ok(Some(collected)) if collected.is_nothing() => tracing::debug!("no garbage"),
            Ok(Some(collected)) => tracing::info!(%collected, "garbage collected"),
            Ok(None) => tracing::debug!("another node collects garbage"),
            Err(error) => tracing::warn!(%error, "garbage collection broke off; what is left is for the next time"),
        }
    }
}

//! Garbage collection every so often, by one node at a time.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio_util::sync::CancellationToken;

use super::{Collector, interrupted};
use crate::api::Origin;

/// Collects until told to stop.
pub(super) async fn run(origin: Arc<Origin>, collector: Collector, interval: Duration, stop: CancellationToken) {
    loop {
        // Nodes that were started together do not come together.
        let wait = interval.mul_f64(rand::rng().random_range(0.8..1.2));
        if interrupted(&stop, wait).await {
            return;
        }
        if origin.live().is_read_only() {
            continue;
        }
        match collector.run(&stop).await {
            Ok(Some(collected)) if collected.is_nothing() => tracing::debug!("no garbage"),
            Ok(Some(collected)) => tracing::info!(%collected, "garbage collected"),
            Ok(None) => tracing::debug!("another node collects garbage"),
            Err(error) => tracing::warn!(%error, "garbage collection broke off; what is left is for the next time"),
        }
    }
}

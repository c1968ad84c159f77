//! How many repositories and accounts there are, for the metrics, counted now and then.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::interrupted;
use crate::api::Origin;

/// How often: growth is slow, and counting a large table is not free.
const INTERVAL: Duration = Duration::from_secs(60);

/// Counts until told to stop.
pub(super) async fn run(origin: Arc<Origin>, stop: CancellationToken) {
    loop {
        match origin.meta.census().await {
            Ok(census) => origin.metrics.counted(&census),
            Err(error) => tracing::debug!(%error, "nothing was counted"),
        }
        if interrupted(&stop, INTERVAL).await {
            return;
        }
    }
}

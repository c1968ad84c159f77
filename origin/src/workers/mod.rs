//! What is done without being asked: garbage collection, keys that follow each other, and counting for the metrics.
//!
//! Invariant: waiting may be interrupted at any time, work only between two steps of it. So an origin stops within one step,
//! and a step that began is finished.

mod census;
mod clock;
mod collector;
mod garbage;
mod rehearsal;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::Origin;

pub(crate) use collector::{CollectError, Collected, Collector, Windows};

/// How often the keys that sign tokens are looked at: whether another's turn has come, and which other nodes have made.
const KEYS: Duration = Duration::from_secs(60);

/// The workers of an origin.
pub(crate) struct Workers {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Workers {
    /// Starts them.
    pub(crate) fn start(origin: &Arc<Origin>) -> Workers {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(keys(Arc::clone(origin), stop.clone()));
        tasks.spawn(census::run(Arc::clone(origin), stop.clone()));
        tasks.spawn(garbage::run(Arc::clone(origin), stop.clone()));
        tasks.close();
        Workers { stop, tasks }
    }

    /// Lets each finish the step that it is at.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

/// Waits; whether it was for nothing because it is time to stop.
async fn interrupted(stop: &CancellationToken, wait: Duration) -> bool {
    tokio::select! {
        () = sleep(wait) => false,
        () = stop.cancelled() => true,
    }
}

async fn keys(origin: Arc<Origin>, stop: CancellationToken) {
    clock::look(&origin).await;
    while !interrupted(&stop, KEYS).await {
        if let Err(error) = origin.auth.refresh_keys().await {
            tracing::warn!(%error, "the keys of tokens were not looked at");
        }
        clock::look(&origin).await;
    }
}

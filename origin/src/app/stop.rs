//! The end, in its order: not ready, then not accepting, then not running.

use std::time::Duration;

use tokio::time::timeout;

use super::listener::Running;
use crate::api::Standing;

/// Fails readiness, waits for whoever looks at it to notice, stops accepting, and waits for what is running.
pub(super) async fn leave(standing: &Standing, running: &Running, wait: Duration, limit: Duration) {
    standing.leave();
    tracing::info!(seconds = wait.as_secs_f64(), "stopping: no longer ready");
    tokio::time::sleep(wait).await;
    running.finish.cancel();
    running.tasks.close();
    let busy = running.tasks.len();
    tracing::info!(busy, seconds = limit.as_secs_f64(), "stopping: no longer accepting, waiting for requests");
    match timeout(limit, running.tasks.wait()).await {
        Ok(()) => tracing::info!("stopped"),
        Err(_) => tracing::warn!(unfinished = running.tasks.len(), "stopped before all connections were finished"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_comes_in_its_order_and_with_the_last_request() {
        let (standing, running, begin) = (Standing::default(), Running::default(), Instant::now());
        let watched = running.clone();
        running.tasks.spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(!watched.finish.is_cancelled(), "not accepting while load balancers have not looked yet");
            tokio::time::sleep(Duration::from_secs(4)).await;
            assert!(watched.finish.is_cancelled());
        });
        leave(&standing, &running, Duration::from_secs(2), Duration::from_secs(60)).await;
        assert!(standing.is_leaving());
        assert_eq!(begin.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_end_is_not_waited_for_longer_than_allowed() {
        let (running, begin) = (Running::default(), Instant::now());
        running.tasks.spawn(std::future::pending::<()>());
        leave(&Standing::default(), &running, Duration::ZERO, Duration::from_secs(60)).await;
        assert_eq!(begin.elapsed().as_secs(), 60);
    }
}

//! The end, in its order: not ready, then not accepting, then not running.

use std::time::Duration;

use crate::front::{Drain, Phase};

/// Fails readiness, waits for whoever looks at it to notice, stops accepting, and waits for what is running.
pub(super) async fn leave(drain: &Drain, wait: Duration, limit: Duration) {
    drain.advance(Phase::Leaving);
    tracing::info!(seconds = wait.as_secs_f64(), "stopping: no longer ready");
    tokio::time::sleep(wait).await;
    finish(drain, limit).await;
}

/// Stops accepting, and waits for what is running.
pub(super) async fn finish(drain: &Drain, limit: Duration) {
    drain.advance(Phase::Draining);
    let running = drain.running();
    tracing::info!(running, seconds = limit.as_secs_f64(), "stopping: no longer accepting, waiting for requests");
    match drain.wait(limit).await {
        0 => tracing::info!("stopped"),
        unfinished => tracing::warn!(unfinished, "stopped before all connections were finished"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_comes_in_its_order_and_with_the_last_request() {
        let drain = Drain::new();
        drain.advance(Phase::Serving);
        let (watched, begin) = (drain.clone(), Instant::now());
        drain.spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(watched.phase(), Phase::Leaving, "still accepting while load balancers look elsewhere");
            tokio::time::sleep(Duration::from_secs(4)).await;
            assert_eq!(watched.phase(), Phase::Draining);
        });
        leave(&drain, Duration::from_secs(2), Duration::from_secs(60)).await;
        assert_eq!(begin.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_end_is_not_waited_for_longer_than_allowed() {
        let drain = Drain::new();
        drain.spawn(std::future::pending());
        let begin = Instant::now();
        leave(&drain, Duration::ZERO, Duration::from_secs(60)).await;
        assert_eq!(begin.elapsed().as_secs(), 60);
    }
}

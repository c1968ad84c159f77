//! The phases of a running edge, from its start to its end, as all listeners and health checks see them.
//!
//! Readiness is not a flag of its own that could disagree: an edge is ready exactly while it is [`Phase::Serving`].

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where in its life an edge is. Phases only ever advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Not all listeners are open yet.
    Starting,
    /// Ready.
    Serving,
    /// Still accepting, but no longer ready, so that load balancers look elsewhere.
    Leaving,
    /// Listeners are closed; what is running may finish.
    Draining,
}

/// The phase, and the count of what is running. What is cloned is the same; a [`Drain::branch`] may end by itself.
#[derive(Clone, Debug)]
pub(crate) struct Drain {
    phase: watch::Sender<Phase>,
    running: TaskTracker,
    paused: watch::Sender<bool>,
    ended: CancellationToken,
}

impl Drain {
    /// At [`Phase::Starting`].
    pub(crate) fn new() -> Drain {
        Drain {
            phase: watch::Sender::new(Phase::Starting),
            running: TaskTracker::new(),
            paused: watch::Sender::new(false),
            ended: CancellationToken::new(),
        }
    }

    /// The part of one listener, which ends with the edge, or before it by [`Drain::end`].
    pub(crate) fn branch(&self) -> Drain {
        Drain { ended: self.ended.child_token(), ..self.clone() }
    }

    /// Ends this branch: its listener closes, its connections are kept for no other request.
    pub(crate) fn end(&self) {
        self.ended.cancel();
    }

    /// Goes on to a later phase; going back is ignored.
    pub(crate) fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let later = to > *phase;
            if later {
                *phase = to;
            }
            later
        });
        if to == Phase::Draining {
            self.ended.cancel();
        }
    }

    /// The phase at the moment.
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Whether no connection is to be kept for another request.
    pub(crate) fn is_draining(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Waits until no connection is to be kept for another request: for [`Phase::Draining`], or the end of this branch.
    pub(crate) fn draining(&self) -> impl Future<Output = ()> + Send + use<> {
        self.ended.clone().cancelled_owned()
    }

    /// Connections are left in the kernel's queues: another process may be about to take them. Or no longer.
    pub(crate) fn pause(&self, paused: bool) {
        self.paused.send_replace(paused);
    }

    /// Whether connections are left in the kernel's queues.
    pub(crate) fn is_paused(&self) -> bool {
        *self.paused.borrow()
    }

    /// Waits until connections may, or may not, be accepted.
    pub(crate) fn paused(&self, paused: bool) -> impl Future<Output = ()> + Send + use<> {
        let mut seen = self.paused.subscribe();
        // The sender outlives every task that waits: it is the edge itself.
        async move { drop(seen.wait_for(|seen| *seen == paused).await) }
    }

    /// Runs a task that a stop waits for.
    pub(crate) fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.running.spawn(task);
    }

    /// How many tasks are running: one a connection.
    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    /// Waits until all tasks have ended, but no longer than `limit`; how many are left.
    pub(crate) async fn wait(&self, limit: Duration) -> usize {
        self.running.close();
        drop(tokio::time::timeout(limit, self.running.wait()).await);
        self.running.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_only_advance() {
        let drain = Drain::new();
        assert_eq!(drain.phase(), Phase::Starting);
        drain.advance(Phase::Leaving);
        drain.advance(Phase::Serving);
        assert_eq!(drain.phase(), Phase::Leaving);
    }

    #[tokio::test]
    async fn a_branch_ends_by_itself_or_with_all() {
        let drain = Drain::new();
        let (one, other) = (drain.branch(), drain.branch());
        one.end();
        one.draining().await;
        assert_eq!((one.is_draining(), other.is_draining(), drain.is_draining()), (true, false, false));
        drain.advance(Phase::Draining);
        other.draining().await;
        assert!(drain.is_draining());
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_last_task_and_no_longer() {
        let drain = Drain::new();
        drain.spawn(tokio::time::sleep(Duration::from_secs(5)));
        let begin = tokio::time::Instant::now();
        assert_eq!(drain.wait(Duration::from_secs(2)).await, 1);
        assert_eq!(drain.wait(Duration::from_secs(60)).await, 0);
        assert_eq!(begin.elapsed().as_secs(), 5);
    }

    #[tokio::test]
    async fn draining_is_seen_by_those_who_wait_and_those_who_come_late() {
        let drain = Drain::new();
        let early = drain.draining();
        drain.advance(Phase::Draining);
        early.await;
        drain.draining().await;
    }
}

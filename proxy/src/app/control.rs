//! What an edge is asked by its operators, beside the signals: a row of requests that its one loop carries out.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::admin::control::{Control, Status};
use crate::admin::metrics::Metrics;
use pierhead_service::signals::Told;

/// Requests that may wait. Each operator waits for the answer, so there are never many.
const QUEUE: usize = 16;

/// What came of a request; the error is what is wrong, a line each.
pub(super) type Outcome = Result<Status, Vec<String>>;

/// The operators' end.
#[derive(Clone)]
pub(super) struct Handle {
    requests: mpsc::Sender<(Told, oneshot::Sender<Outcome>)>,
    status: Arc<Mutex<Status>>,
}

/// The loop's end.
pub(super) struct Requests {
    requests: mpsc::Receiver<(Told, oneshot::Sender<Outcome>)>,
    status: Arc<Mutex<Status>>,
}

/// Both ends, at the first generation.
pub(super) fn control(now: SystemTime) -> (Handle, Requests) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let status = Status { generation: 1, since: now, looked: now, problems: Vec::new() };
    let status = Arc::new(Mutex::new(status));
    (Handle { requests: sender, status: Arc::clone(&status) }, Requests { requests: receiver, status })
}

#[async_trait]
impl Control for Handle {
    fn status(&self) -> Status {
        self.status.lock().clone()
    }

    async fn reload(&self) -> Outcome {
        self.ask(Told::Reload).await
    }

    async fn upgrade(&self) -> Outcome {
        self.ask(Told::Upgrade).await
    }
}

impl Handle {
    async fn ask(&self, told: Told) -> Outcome {
        let stopping = || vec!["the edge is stopping".to_owned()];
        let (reply, answer) = oneshot::channel();
        self.requests.send((told, reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}

impl Requests {
    /// The next request, and who waits for what comes of it.
    pub(super) async fn next(&mut self) -> (Told, oneshot::Sender<Outcome>) {
        match self.requests.recv().await {
            Some(request) => request,
            None => std::future::pending().await,
        }
    }

    /// How things stand.
    pub(super) fn status(&self) -> Status {
        self.status.lock().clone()
    }

    /// Notes what came of a reload.
    pub(super) fn note(&self, problems: Vec<String>, now: SystemTime, metrics: &Metrics) -> Outcome {
        let mut status = self.status.lock();
        status.looked = now;
        status.problems = problems;
        metrics.reloaded(status.problems.is_empty());
        if !status.problems.is_empty() {
            return Err(status.problems.clone());
        }
        status.generation += 1;
        status.since = now;
        metrics.generation(status.generation);
        Ok(status.clone())
    }
}

//! Reload: the configuration is read again, checked whole, built, and put in the place of the one that runs.
//!
//! Invariant: a file that cannot be used changes nothing, and every problem of it is in the log and in the status.

use std::path::Path;
use std::time::SystemTime;

use super::control::{Reloaded, Requests};
use super::generation::{Built, Foundation, Running};
use super::sockets::Sockets;
use super::{AppError, load};

/// Reloads, if the file can be used; what runs from here on, and what came of it.
pub(super) async fn reload(
    path: &Path,
    foundation: &Foundation,
    before: Running,
    requests: &Requests,
) -> (Running, Reloaded) {
    let (running, problems) = match build(path, foundation, &before).await {
        Ok(built) => (built.start(foundation, Some(before)).await, Vec::new()),
        Err(error) => (before, error.problems()),
    };
    for problem in &problems {
        tracing::error!(problem, "configuration not reloaded: the one before stays in use");
    }
    let reloaded = requests.note(problems, SystemTime::now(), &foundation.common.metrics);
    if let Ok(status) = &reloaded {
        tracing::info!(generation = status.generation, "configuration reloaded");
    }
    (running, reloaded)
}

async fn build(path: &Path, foundation: &Foundation, before: &Running) -> Result<Built, AppError> {
    let path = path.to_owned();
    let config =
        tokio::task::spawn_blocking(move || load(&path)).await.map_err(|error| AppError::Runtime(error.into()))??;
    Built::new(foundation, config, Some(before), Sockets::default()).await
}

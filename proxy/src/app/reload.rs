//! Reload: the configuration is read again, checked whole, built, and put in the place of the one that runs.
//!
//! Invariant: a file that cannot be used changes nothing, and every problem of it is in the log and in the status.

use std::path::Path;
use std::time::SystemTime;

use pierhead_service::supervisor;

use super::control::{Outcome, Requests};
use super::generation::{Built, Foundation, Running};
use super::sockets::Sockets;
use super::{AppError, load};

/// Reloads, if the file can be used; what runs from here on, and what came of it.
pub(super) async fn reload(
    path: &Path,
    foundation: &Foundation,
    before: Running,
    requests: &Requests,
) -> (Running, Outcome) {
    supervisor::reloading();
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
    supervisor::ready();
    (running, reloaded)
}

async fn build(path: &Path, foundation: &Foundation, before: &Running) -> Result<Built, AppError> {
    let path = path.to_owned();
    let (config, _) =
        tokio::task::spawn_blocking(move || load(&path)).await.map_err(|error| AppError::Runtime(error.into()))??;
    Built::new(foundation, config, Some(before), Sockets::beside(before.sockets()), None).await
}

/// Takes a store back that was released to another process, which has ended. When even that fails, what is in it is
/// still served, and all else past it.
pub(super) async fn take_back(foundation: &Foundation, before: Running) -> Running {
    let config = before.config.clone();
    let released = before.without_cache();
    match Built::new(foundation, config, Some(&released), Sockets::default(), None).await {
        Ok(built) => built.start(foundation, Some(released)).await,
        Err(error) => {
            tracing::error!(%error, "the store could not be taken back: nothing is stored until the next start");
            released
        }
    }
}

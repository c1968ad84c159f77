//! `/health/instance`, `/health/endtoend`, `/health/warning`, with the names of Quay's services that exist here.
//!
//! Invariant: whoever asks, and however often, costs the database and the store little: an answer is kept for a moment, and while
//! one is looked for, those who ask wait for that one. No check takes longer than a load balancer waits.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use pierhead_config::{DatabaseKind, OriginConfig, Storage};
use pierhead_service::health::{CACHE_CONTROL, Report};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::Origin;

/// How long the database may take.
const DATABASE: Duration = Duration::from_secs(3);
/// How long an answer of it is kept.
const DATABASE_KEPT: Duration = Duration::from_secs(1);
/// How long the store may take.
const STORE: Duration = Duration::from_secs(10);
/// How long an answer of it is kept: it writes an object each time.
const STORE_KEPT: Duration = Duration::from_secs(5);
/// How long a look at the disks may take: a network's may hang.
const DISK: Duration = Duration::from_secs(3);
/// How long it is kept.
const DISK_KEPT: Duration = Duration::from_secs(5);
/// What of a disk must be free, in thousandths,
const ENOUGH: u64 = 10;
/// and what should be.
const AMPLE: u64 = 100;

/// What is looked at, and what was seen last.
pub(super) struct Checks {
    database: Kept<bool>,
    store: Kept<bool>,
    free: Kept<u64>,
    /// Where this node itself keeps files.
    disks: Vec<PathBuf>,
}

impl Checks {
    /// Of an origin with this configuration.
    pub(super) fn new(config: &OriginConfig) -> Checks {
        let blobs = match &config.storage {
            Storage::FileSystem { path } => Some(path.clone()),
            Storage::S3(_) => None,
        };
        let meta = match &config.database.kind {
            DatabaseKind::Sqlite(path) => path.parent().map(Path::to_owned),
            DatabaseKind::Postgres { .. } => None,
        };
        Checks {
            database: Kept::new(DATABASE_KEPT),
            store: Kept::new(STORE_KEPT),
            free: Kept::new(DISK_KEPT),
            disks: blobs.into_iter().chain(meta).collect(),
        }
    }
}

impl Origin {
    async fn database_is_well(&self) -> bool {
        self.checks.database.or_look(well("database", DATABASE, self.meta.ping())).await
    }

    async fn store_is_well(&self) -> bool {
        self.checks.store.or_look(well("storage", STORE, self.store.verify())).await
    }

    /// Of the fullest disk, in thousandths; none is full where there is none.
    async fn free(&self) -> u64 {
        let disks = self.checks.disks.clone();
        let look = tokio::task::spawn_blocking(move || disks.iter().map(|disk| free(disk)).min().unwrap_or(1000));
        let look = async { timeout(DISK, look).await.ok().and_then(Result::ok).unwrap_or(0) };
        self.checks.free.or_look(look).await
    }

    async fn instance(&self) -> Report {
        let ready = !self.standing.is_leaving();
        let (database, free) = tokio::join!(self.database_is_well(), self.free());
        Report::of(vec![
            ("registry_gunicorn", ready),
            ("web_gunicorn", ready),
            ("service_key", self.auth.can_sign()),
            ("disk_space", free >= ENOUGH),
            ("database", database),
            ("auth", self.auth.can_sign()),
        ])
    }

    async fn end_to_end(&self) -> Report {
        let (database, storage) = tokio::join!(self.database_is_well(), self.store_is_well());
        Report::of(vec![("database", database), ("storage", storage), ("auth", self.auth.can_sign())])
    }

    async fn warning(&self) -> Report {
        Report::of(vec![("disk_space_warning", self.free().await >= AMPLE)])
    }
}

/// Whether a part answers in time and well. Why not is in the log.
async fn well<E: std::fmt::Display>(part: &str, limit: Duration, answer: impl Future<Output = Result<(), E>>) -> bool {
    match timeout(limit, answer).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => tracing::warn!(part, %error, "not well"),
        Err(_) => tracing::warn!(part, "does not answer"),
    }
    false
}

/// What is free of the disk that holds a path, or will hold it, in thousandths.
fn free(path: &Path) -> u64 {
    let held = path.ancestors().find(|path| path.exists());
    let Some(Ok(disk)) = held.map(rustix::fs::statvfs) else { return 0 };
    // As `df` counts: what is reserved for root is not there.
    let used = disk.f_blocks.saturating_sub(disk.f_bfree);
    disk.f_bavail.saturating_mul(1000) / (used + disk.f_bavail).max(1)
}

/// An answer that is kept for a moment.
struct Kept<T> {
    keep: Duration,
    last: Mutex<Option<(Instant, T)>>,
}

impl<T: Copy> Kept<T> {
    fn new(keep: Duration) -> Kept<T> {
        Kept { keep, last: Mutex::new(None) }
    }

    /// The last answer, or a new one. One at a time looks; the others wait for what it finds.
    async fn or_look(&self, look: impl Future<Output = T>) -> T {
        let mut last = self.last.lock().await;
        match *last {
            Some((at, answer)) if at.elapsed() < self.keep => answer,
            _ => {
                let answer = look.await;
                *last = Some((Instant::now(), answer));
                answer
            }
        }
    }
}

/// What is answered, on every listener and to everybody.
pub(super) fn routes() -> Router<Arc<Origin>> {
    let instance = async |State(origin): State<Arc<Origin>>| answer(origin.instance().await);
    let end_to_end = async |State(origin): State<Arc<Origin>>| answer(origin.end_to_end().await);
    Router::new()
        .route("/health", get(instance))
        .route("/health/instance", get(instance))
        .route("/status", get(end_to_end))
        .route("/health/endtoend", get(end_to_end))
        .route("/health/warning", get(async |State(origin): State<Arc<Origin>>| answer(origin.warning().await)))
}

fn answer(report: Report) -> Response {
    let status = StatusCode::from_u16(report.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, CACHE_CONTROL)];
    (status, headers, report.body).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_for_a_moment_and_looked_for_once() {
        let (kept, looks) = (Kept::new(Duration::from_secs(5)), AtomicU32::new(0));
        let look = || async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            looks.fetch_add(1, Ordering::Relaxed)
        };
        let together = tokio::join!(kept.or_look(look()), kept.or_look(look()), kept.or_look(look()));
        assert_eq!(together, (0, 0, 0));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(kept.or_look(look()).await, 1);
    }

    #[test]
    fn a_disk_is_looked_at_before_the_directory_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let (there, not_yet) = (free(folder.path()), free(&folder.path().join("a/b")));
        assert!((1..=1000).contains(&there), "{there}");
        assert!(there.abs_diff(not_yet) <= 1);
    }
}

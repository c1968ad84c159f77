//! One collection of garbage, from what names something to what is named: repositories, tags, manifests, what repositories hold,
//! blobs, uploads, and what is kept for a time only.
//!
//! What to take is found without a lock, and looked at again when it is locked. Invariants: whatever is interrupted, by a stop or by
//! anything else, is gone on with the next time; an object leaves the store before its row leaves the database, so that none is
//! forgotten; no lock is held while the store works.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{FutureExt, StreamExt, stream};
use pierhead_config::OriginConfig;
use pierhead_registry::oci::Digest;
use pierhead_registry::store::{BlobStore, StoreError, UploadId};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::auth::{FAILURES, PLACES};
use crate::meta::{Before, Meta, MetaError, Millis, Turn, UnheldBlob, View, now};
use crate::metrics::Metrics;
use crate::registry::checkpoint;

/// Rows of a batch.
const BATCH: usize = 100;
/// How often manifests are gone through: an index that goes frees what is in it, a subject what is about it.
const PASSES: usize = 8;
/// Time for the store to delete a batch of blobs; what takes longer is given up, and leaves another time.
const DELETING: Duration = Duration::from_secs(10);
/// For how long blobs are in the hands of who deletes them: long enough that nothing of it is under way afterwards.
pub(super) const LEAVING: Duration = Duration::from_secs(30);
/// Blobs that are deleted at once.
const DELETIONS: usize = 8;

/// How long things are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows {
    /// What was tagged or pushed: the time machine.
    pub(crate) tags: Duration,
    /// Blobs that no manifest needs any more.
    pub(crate) blobs: Duration,
    /// Uploads that nobody goes on with.
    pub(crate) uploads: Duration,
    /// Who did what.
    pub(crate) actions: Duration,
}

impl Windows {
    /// As configured.
    pub(crate) fn of(config: &OriginConfig) -> Windows {
        Windows {
            tags: config.tag_expiration,
            blobs: config.garbage_collection.blob_grace,
            uploads: config.garbage_collection.upload_expiration,
            actions: config.action_log_retention,
        }
    }

    /// What manifests are over at `begun`. One that is pushed and not named yet is kept for as long as a blob is, whatever the time
    /// machine's window.
    pub(super) fn before(&self, begun: Millis) -> Before {
        Before { ended: earlier(begun, self.tags), pushed: earlier(begun, self.tags.max(self.blobs)) }
    }
}

/// What was collected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Collected {
    /// Deleted repositories.
    pub(crate) repositories: u64,
    /// Tags that expired: from here on they can be restored for a while, as others that ended.
    pub(crate) expired: u64,
    /// History of tags.
    pub(crate) tags: u64,
    /// Manifests.
    pub(crate) manifests: u64,
    /// Blobs.
    pub(crate) blobs: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Uploads.
    pub(crate) uploads: u64,
    /// Lines of the action log.
    pub(crate) actions: u64,
    /// Keys of tokens.
    pub(crate) keys: u64,
    /// Application tokens.
    pub(crate) app_tokens: u64,
}

impl Collected {
    /// Whether that was nothing.
    pub(crate) fn is_nothing(&self) -> bool {
        *self == Collected::default()
    }

    pub(super) fn blob(&mut self, blob: &UnheldBlob) {
        self.blobs += 1;
        self.bytes += u64::try_from(blob.size).unwrap_or_default();
    }
}

impl fmt::Display for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Collected { repositories, expired, tags, manifests, blobs, bytes, uploads, actions, keys, app_tokens } =
            self;
        write!(
            f,
            "{repositories} repositories, {expired} expired tags, {tags} ended tags, {manifests} manifests, {blobs} blobs of {bytes} bytes, \
             {uploads} uploads, {actions} lines of the action log, {keys} keys, {app_tokens} application tokens"
        )
    }
}

/// Why a collection broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    /// By the database's fault.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// By the store's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A collection that is under way.
struct Course<'a> {
    turn: Turn,
    stop: &'a CancellationToken,
}

impl Course<'_> {
    /// Whether to go on.
    async fn goes_on(&self) -> Result<bool, MetaError> {
        if self.stop.is_cancelled() { Ok(false) } else { self.turn.holds().await.map(|()| true) }
    }
}

/// Collects garbage.
pub(crate) struct Collector {
    pub(super) meta: Meta,
    store: Arc<dyn BlobStore>,
    pub(super) windows: Windows,
    metrics: Arc<Metrics>,
}

impl Collector {
    /// From a database and a store.
    pub(crate) fn new(meta: Meta, store: Arc<dyn BlobStore>, windows: Windows, metrics: Arc<Metrics>) -> Collector {
        Collector { meta, store, windows, metrics }
    }

    /// Collects what there is, or as much as is done when told to stop. `None`: it is another node's turn.
    pub(crate) async fn run(&self, stop: &CancellationToken) -> Result<Option<Collected>, CollectError> {
        let Some(turn) = self.meta.turn().await? else { return Ok(None) };
        self.metrics.gc_iterations.inc();
        let (course, begun, mut collected) = (Course { turn, stop }, now(), Collected::default());
        self.uploads(&course, begun, &mut collected).await?;
        self.repositories(&course, &mut collected).await?;
        self.manifests(&course, begun, &mut collected).await?;
        self.holds(&course, begun).await?;
        self.blobs(&course, &mut collected).await?;
        self.kept_for_a_time(&course, begun, &mut collected).await?;
        Ok(Some(collected))
    }

    async fn uploads(&self, course: &Course<'_>, begun: Millis, collected: &mut Collected) -> Result<(), CollectError> {
        while course.goes_on().await? {
            let change = self.meta.change().await?;
            let Some(row) = change.take_upload(earlier(begun, self.windows.uploads)).await? else { break };
            change.commit().await?;
            // What is not taken away here is found by the sweep, some other day.
            if let Some(id) = UploadId::parse(&row.id)
                && let Err(error) = self.store.discard(&id, checkpoint(&row).as_ref()).await
            {
                tracing::warn!(upload = row.id, %error, "what an upload stored cannot be taken away");
            }
            gone("upload", &row.id);
            collected.uploads += 1;
        }
        // What was stored and never written down, because a node was killed in between.
        if course.goes_on().await?
            && let Some(untouched_since) = SystemTime::now().checked_sub(self.windows.uploads)
        {
            match self.store.sweep(untouched_since).await {
                Ok(swept) => collected.uploads += swept,
                Err(error) => tracing::warn!(%error, "what nobody uploads any more cannot be swept"),
            }
        }
        Ok(())
    }

    async fn repositories(&self, course: &Course<'_>, collected: &mut Collected) -> Result<(), CollectError> {
        let mut next = Some(0);
        while let Some(after) = next
            && course.goes_on().await?
        {
            let deleted = self.meta.deleted_repositories(after).await?;
            for id in &deleted.rows {
                self.repository(course, *id, collected).await?;
            }
            next = deleted.next;
        }
        Ok(())
    }

    async fn repository(&self, course: &Course<'_>, id: i64, collected: &mut Collected) -> Result<(), CollectError> {
        while course.goes_on().await? {
            let change = self.meta.change().await?;
            let more = change.empty_repository(id, BATCH).await?;
            let taken = !more && change.take_repository(id).await?;
            change.commit().await?;
            if taken {
                gone("deleted repository", &id.to_string());
                collected.repositories += 1;
                self.metrics.gc_repositories.inc();
            }
            if !more {
                break;
            }
        }
        Ok(())
    }

    /// What is over for the time machine too.
    async fn manifests(
        &self,
        course: &Course<'_>,
        begun: Millis,
        collected: &mut Collected,
    ) -> Result<(), CollectError> {
        let window = earlier(begun, self.windows.tags);
        let before = self.windows.before(begun);
        while course.goes_on().await? {
            let change = self.meta.change().await?;
            let ended = change.end_expired_tags(begun, BATCH).await?;
            change.commit().await?;
            ended.iter().for_each(|name| gone("expired tag", name));
            collected.expired += ended.len() as u64;
            if ended.len() < BATCH {
                break;
            }
        }
        // Who saw a blob here a moment ago still finds it: it is held for as long as a push may take.
        let held_until = begun.saturating_add(i64::try_from(self.windows.blobs.as_millis()).unwrap_or(i64::MAX));
        while course.goes_on().await? {
            let change = self.meta.change().await?;
            let taken = change.take_old_tags(window, BATCH).await?;
            change.commit().await?;
            collected.tags += taken;
            if taken < BATCH as u64 {
                break;
            }
        }
        for _ in 0..PASSES {
            let so_far = collected.manifests;
            let mut next = Some(0);
            while let Some(after) = next
                && course.goes_on().await?
            {
                let found = self.meta.unneeded_manifests(View::Now, before, after).await?;
                for some in found.rows.chunks(BATCH) {
                    let change = self.meta.change().await?;
                    let taken = change.take_manifests(some, before, held_until).await?;
                    change.commit().await?;
                    taken.iter().for_each(|manifest| gone("manifest", &manifest.digest));
                    collected.manifests += taken.len() as u64;
                }
                next = found.next;
            }
            if collected.manifests == so_far {
                break;
            }
        }
        Ok(())
    }

    /// That repositories hold what nothing there needs.
    async fn holds(&self, course: &Course<'_>, begun: Millis) -> Result<(), CollectError> {
        let mut next = Some((0, 0));
        while let Some(after) = next
            && course.goes_on().await?
        {
            let found = self.meta.unneeded_holds(begun, after).await?;
            for some in found.rows.chunks(BATCH) {
                let change = self.meta.change().await?;
                change.take_holds(some, begun).await?;
                change.commit().await?;
            }
            next = found.next;
        }
        Ok(())
    }

    /// Blobs that no repository holds.
    async fn blobs(&self, course: &Course<'_>, collected: &mut Collected) -> Result<(), CollectError> {
        let mut next = Some(0);
        while let Some(after) = next {
            let found = self.meta.unheld_blobs(View::Now, (Before::default(), 0), after).await?;
            for some in found.rows.chunks(BATCH) {
                if !course.goes_on().await? {
                    return Ok(());
                }
                self.leave(some, collected).await?;
            }
            next = found.next;
        }
        Ok(())
    }

    /// The three steps of a leave (`../meta/blobs.rs`).
    async fn leave(&self, found: &[UnheldBlob], collected: &mut Collected) -> Result<(), CollectError> {
        // Counted from before the rows say until when.
        let deadline = Instant::now() + DELETING;
        let change = self.meta.change().await?;
        let leave = change.blobs_leave(found, LEAVING).await?;
        change.commit().await?;
        let deletions: Vec<_> = leave.blobs.iter().map(|blob| self.is_deleted(blob, deadline).boxed()).collect();
        let done: Vec<bool> = stream::iter(deletions).buffered(DELETIONS).collect().await;
        let deleted: Vec<&UnheldBlob> =
            leave.blobs.iter().zip(done).filter(|(_, done)| *done).map(|(blob, _)| blob).collect();
        let ids: Vec<i64> = deleted.iter().map(|blob| blob.id).collect();
        let change = self.meta.change().await?;
        change.blobs_left(&leave, &ids).await?;
        change.commit().await?;
        for blob in deleted {
            gone("blob", &blob.digest);
            collected.blob(blob);
            self.metrics.gc_blobs.inc();
        }
        Ok(())
    }

    /// Deletes the object of a blob that leaves. Whether it is gone: if not, it leaves another time, and the others do not wait for it.
    pub(super) async fn is_deleted(&self, blob: &UnheldBlob, deadline: Instant) -> bool {
        let Ok(digest) = blob.digest.parse::<Digest>() else {
            tracing::error!(blob = blob.id, "the database holds what is no digest");
            return false;
        };
        let too_late = Err(StoreError::Unavailable("no answer in time".to_owned()));
        let deleted = if Instant::now() >= deadline {
            too_late
        } else {
            tokio::select! {
                // Before anything goes on.
                biased;
                () = sleep_until(deadline) => too_late,
                deleted = self.store.delete(&digest) => deleted,
            }
        };
        if let Err(error) = &deleted {
            tracing::warn!(%digest, %error, "a blob cannot be taken from the store");
        }
        deleted.is_ok()
    }

    async fn kept_for_a_time(
        &self,
        course: &Course<'_>,
        begun: Millis,
        collected: &mut Collected,
    ) -> Result<(), CollectError> {
        while course.goes_on().await? {
            let change = self.meta.change().await?;
            let taken = change.take_actions(earlier(begun, self.windows.actions), BATCH).await?;
            change.commit().await?;
            collected.actions += taken;
            if taken < BATCH as u64 {
                break;
            }
        }
        if course.goes_on().await? {
            let change = self.meta.change().await?;
            collected.keys += change.take_service_keys(begun).await?;
            collected.app_tokens += change.take_app_tokens(earlier(begun, self.windows.tags)).await?;
            change.commit().await?;
        }
        let mut last = Some(-1);
        while let Some(after) = last.take()
            && course.goes_on().await?
        {
            let change = self.meta.change().await?;
            let (failures, places) = (begun.saturating_sub(FAILURES), begun.saturating_sub(PLACES));
            last = change.take_login_cells(failures, places, after, BATCH).await?;
            change.commit().await?;
        }
        Ok(())
    }
}

fn gone(kind: &str, what: &str) {
    tracing::debug!(kind, what, "garbage");
}

pub(super) fn earlier(moment: Millis, by: Duration) -> Millis {
    moment.saturating_sub(Millis::try_from(by.as_millis()).unwrap_or(Millis::MAX))
}

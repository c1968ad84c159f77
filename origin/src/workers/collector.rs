//! One collection of garbage, from what names something to what is named: repositories, tags, manifests, what repositories hold,
//! blobs, uploads, and what is kept for a time only.
//!
//! Invariants: whatever is interrupted, by a stop or by anything else, is gone on with the next time; an object leaves the store
//! before its row leaves the database, so that none is forgotten.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pierhead_config::OriginConfig;
use pierhead_registry::oci::Digest;
use pierhead_registry::store::{BlobStore, StoreError, UploadId};
use tokio_util::sync::CancellationToken;

use super::work::Work;
use crate::auth::{FAILURES, PLACES};
use crate::meta::{LeavingBlob, Meta, MetaError, Millis, now};
use crate::metrics::Metrics;
use crate::registry::checkpoint;

/// Rows of a batch.
const BATCH: usize = 100;
/// How often manifests are gone through: an index that goes frees what is in it, a subject what is about it.
const PASSES: usize = 8;

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

    fn blob(&mut self, blob: &LeavingBlob) {
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

/// Collects garbage.
pub(crate) struct Collector {
    meta: Meta,
    store: Arc<dyn BlobStore>,
    windows: Windows,
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
        self.collect(&Work::Earnest { meta: &self.meta, turn, stop }).await.map(Some)
    }

    /// What there is to collect, told line by line. Nothing is taken away; what is garbage now cannot be pushed meanwhile.
    pub(crate) async fn rehearse(&self, tell: fn(&str)) -> Result<Collected, CollectError> {
        self.collect(&Work::Rehearsal { change: self.meta.change().await?, tell }).await
    }

    async fn collect(&self, work: &Work<'_>) -> Result<Collected, CollectError> {
        let mut collected = Collected::default();
        let begun = now();
        self.uploads(work, begun, &mut collected).await?;
        self.repositories(work, &mut collected).await?;
        self.manifests(work, begun, &mut collected).await?;
        self.holds(work, begun).await?;
        self.blobs(work, &mut collected).await?;
        self.kept_for_a_time(work, begun, &mut collected).await?;
        Ok(collected)
    }

    async fn uploads(&self, work: &Work<'_>, begun: Millis, collected: &mut Collected) -> Result<(), CollectError> {
        while work.goes_on().await? {
            let step = work.step().await?;
            let Some(row) = step.take_upload(earlier(begun, self.windows.uploads)).await? else { break };
            step.done().await?;
            // What is not taken away here is found by the sweep, some other day.
            if !work.is_rehearsal()
                && let Some(id) = UploadId::parse(&row.id)
                && let Err(error) = self.store.discard(&id, checkpoint(&row).as_ref()).await
            {
                tracing::warn!(upload = row.id, %error, "what an upload stored cannot be taken away");
            }
            work.tell("upload", &row.id);
            collected.uploads += 1;
        }
        // What was stored and never written down, because a node was killed in between.
        if !work.is_rehearsal()
            && work.goes_on().await?
            && let Some(untouched_since) = SystemTime::now().checked_sub(self.windows.uploads)
        {
            match self.store.sweep(untouched_since).await {
                Ok(swept) => collected.uploads += swept,
                Err(error) => tracing::warn!(%error, "what nobody uploads any more cannot be swept"),
            }
        }
        Ok(())
    }

    async fn repositories(&self, work: &Work<'_>, collected: &mut Collected) -> Result<(), CollectError> {
        let mut last = Some(0);
        while let Some(after) = last.take()
            && work.goes_on().await?
        {
            let step = work.step().await?;
            let deleted = step.deleted_repositories(after, BATCH).await?;
            step.done().await?;
            for id in &deleted {
                self.repository(work, *id, collected).await?;
            }
            last = deleted.last().copied();
        }
        Ok(())
    }

    async fn repository(&self, work: &Work<'_>, id: i64, collected: &mut Collected) -> Result<(), CollectError> {
        while work.goes_on().await? {
            let step = work.step().await?;
            let more = step.empty_repository(id, BATCH).await?;
            let taken = !more && step.take_repository(id).await?;
            step.done().await?;
            if taken {
                work.tell("deleted repository", &id.to_string());
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
    async fn manifests(&self, work: &Work<'_>, begun: Millis, collected: &mut Collected) -> Result<(), CollectError> {
        let window = earlier(begun, self.windows.tags);
        // Who saw a blob here a moment ago still finds it: it is held for as long as a push may take.
        while work.goes_on().await? {
            let step = work.step().await?;
            let ended = step.end_expired_tags(begun, BATCH).await?;
            step.done().await?;
            ended.iter().for_each(|name| work.tell("expired tag", name));
            collected.expired += ended.len() as u64;
            if ended.len() < BATCH {
                break;
            }
        }
        let held_until = begun.saturating_add(i64::try_from(self.windows.blobs.as_millis()).unwrap_or(i64::MAX));
        while work.goes_on().await? {
            let step = work.step().await?;
            let taken = step.take_old_tags(window, BATCH).await?;
            step.done().await?;
            collected.tags += taken;
            if taken < BATCH as u64 {
                break;
            }
        }
        for _ in 0..PASSES {
            let before = collected.manifests;
            let mut last = Some(0);
            while let Some(after) = last.take()
                && work.goes_on().await?
            {
                let step = work.step().await?;
                let batch = step.take_manifests(window, after, held_until, BATCH).await?;
                step.done().await?;
                batch.taken.iter().for_each(|manifest| work.tell("manifest", &manifest.digest));
                collected.manifests += batch.taken.len() as u64;
                last = batch.next;
            }
            if collected.manifests == before {
                break;
            }
        }
        Ok(())
    }

    /// That repositories hold what nothing there needs.
    async fn holds(&self, work: &Work<'_>, begun: Millis) -> Result<(), CollectError> {
        let mut last = Some((0, 0));
        while let Some(after) = last.take()
            && work.goes_on().await?
        {
            let step = work.step().await?;
            last = step.take_holds(begun, after, BATCH).await?;
            step.done().await?;
        }
        Ok(())
    }

    /// Blobs: first they are made to leave, then each leaves the store, then the database.
    async fn blobs(&self, work: &Work<'_>, collected: &mut Collected) -> Result<(), CollectError> {
        let mut last = Some(0);
        while let Some(after) = last.take()
            && work.goes_on().await?
        {
            let step = work.step().await?;
            last = step.blobs_leave(after, BATCH).await?;
            step.done().await?;
        }
        let mut last = Some(0);
        while let Some(after) = last.take()
            && work.goes_on().await?
        {
            let step = work.step().await?;
            let leaving = step.leaving_blobs(after, BATCH).await?;
            step.done().await?;
            for blob in &leaving {
                if !work.goes_on().await? {
                    return Ok(());
                }
                if work.is_rehearsal() || self.leaves(blob).await? {
                    work.tell("blob", &blob.digest);
                    collected.blob(blob);
                }
            }
            last = leaving.last().map(|blob| blob.id);
        }
        Ok(())
    }

    /// Step 2 of a leave. Whether it was not called back.
    async fn leaves(&self, blob: &LeavingBlob) -> Result<bool, CollectError> {
        let digest: Digest = blob.digest.parse().map_err(|_| MetaError::Corrupt("digest"))?;
        let change = self.meta.change().await?;
        if !change.is_leaving(blob.id).await? {
            return Ok(false);
        }
        if let Err(error) = self.store.delete(&digest).await {
            // It leaves another time; the others do not wait for it.
            tracing::warn!(%digest, %error, "a blob cannot be taken from the store");
            return Ok(false);
        }
        change.blob_left(blob.id).await?;
        change.commit().await?;
        self.metrics.gc_blobs.inc();
        Ok(true)
    }

    async fn kept_for_a_time(
        &self,
        work: &Work<'_>,
        begun: Millis,
        collected: &mut Collected,
    ) -> Result<(), CollectError> {
        while work.goes_on().await? {
            let step = work.step().await?;
            let taken = step.take_actions(earlier(begun, self.windows.actions), BATCH).await?;
            step.done().await?;
            collected.actions += taken;
            if taken < BATCH as u64 {
                break;
            }
        }
        if work.goes_on().await? {
            let step = work.step().await?;
            collected.keys += step.take_service_keys(begun).await?;
            collected.app_tokens += step.delete_expired_app_tokens(earlier(begun, self.windows.tags)).await?;
            step.done().await?;
        }
        let mut last = Some(-1);
        while let Some(after) = last.take()
            && work.goes_on().await?
        {
            let step = work.step().await?;
            let (failures, places) = (begun.saturating_sub(FAILURES), begun.saturating_sub(PLACES));
            last = step.take_login_cells(failures, places, after, BATCH).await?;
            step.done().await?;
        }
        Ok(())
    }
}

fn earlier(moment: Millis, by: Duration) -> Millis {
    moment.saturating_sub(Millis::try_from(by.as_millis()).unwrap_or(Millis::MAX))
}

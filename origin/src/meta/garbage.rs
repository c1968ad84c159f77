//! What nobody needs any more, found and taken away in small batches: each a change, short enough for pushes to wait for.
//!
//! Invariants: a row that somebody is using is left for the next time: batches lock what they take and wait for nobody. What a row
//! was found for is looked at once more when it is locked, by a statement of its own, which sees what was committed until then:
//! what was found may have been pushed, tagged or mounted since. [`super::blobs`] says how blobs leave.

use sea_orm::{FromQueryResult, Value};

use super::blobs::MOST_VALUES;
use super::{Change, MetaError, Millis, UploadRow, now, sql};

/// A manifest `m` that nothing needs: pushed and deleted before `$1`, with no tag, not even one that could be restored, in no
/// index, and not about a manifest that is there.
const UNNEEDED_MANIFEST: &str = "m.pushed <= $1 AND (m.deleted IS NULL OR m.deleted <= $1) \
     AND NOT EXISTS (SELECT 1 FROM tag t WHERE t.manifest_id = m.id) \
     AND NOT EXISTS (SELECT 1 FROM manifest_child c WHERE c.child_id = m.id) \
     AND (m.subject IS NULL OR NOT EXISTS (SELECT 1 FROM manifest s \
        WHERE s.repository_id = m.repository_id AND s.digest = m.subject AND s.id <> m.id))";

/// That a repository holds a blob, `rb`, for nothing: deleted, or expired at `$1`, and no manifest of it needs the blob.
const UNNEEDED_HOLD: &str = "(rb.deleted OR rb.expires <= $1) AND NOT EXISTS (SELECT 1 FROM manifest_blob mb \
     WHERE mb.repository_id = rb.repository_id AND mb.blob_id = rb.blob_id)";

/// A blob `b` that no repository holds.
const UNHELD_BLOB: &str = "NOT EXISTS (SELECT 1 FROM repository_blob rb WHERE rb.blob_id = b.id) \
     AND NOT EXISTS (SELECT 1 FROM manifest_blob mb WHERE mb.blob_id = b.id)";

/// A manifest that was taken away.
#[derive(Clone, Debug, FromQueryResult)]
pub(crate) struct GoneManifest {
    /// Its digest.
    pub(crate) digest: String,
}

/// A blob that leaves.
#[derive(Clone, Debug, FromQueryResult)]
pub(crate) struct LeavingBlob {
    /// The row.
    pub(crate) id: i64,
    /// Its digest.
    pub(crate) digest: String,
    /// In bytes.
    pub(crate) size: i64,
}

/// A batch of manifests.
#[derive(Debug)]
pub(crate) struct Batch {
    /// What was taken away.
    pub(crate) taken: Vec<GoneManifest>,
    /// What to go on after; `None`: there is no more.
    pub(crate) next: Option<i64>,
}

#[derive(FromQueryResult)]
struct Id {
    id: i64,
}

#[derive(FromQueryResult)]
struct Hold {
    repository_id: i64,
    blob_id: i64,
}

impl Change {
    /// Takes away history of tags that ended before a time: they cannot be restored any more. How many.
    pub(crate) async fn take_old_tags(&self, before: Millis, limit: usize) -> Result<u64, MetaError> {
        let delete = format!(
            "DELETE FROM tag WHERE id IN (SELECT id FROM tag WHERE ended <= $1 ORDER BY id LIMIT {limit}{})",
            self.skipping()
        );
        sql::execute(&self.transaction, &delete, [before.into()]).await
    }

    /// Takes away manifests that nobody has needed since a time, going on after `last`. What they needed is held until then all the same.
    pub(crate) async fn take_manifests(
        &self,
        before: Millis,
        last: i64,
        held_until: Millis,
        limit: usize,
    ) -> Result<Batch, MetaError> {
        let select = format!(
            "SELECT m.id AS id FROM manifest m WHERE {UNNEEDED_MANIFEST} AND m.id > $2 ORDER BY m.id LIMIT {limit}{}",
            self.skipping_of("m")
        );
        let found: Vec<Id> = sql::all(&self.transaction, &select, [before.into(), last.into()]).await?;
        // In the order in which pushes lock them.
        let lock = format!(
            "SELECT rb.blob_id AS id FROM repository_blob rb WHERE rb.expires < $1 AND EXISTS (SELECT 1 FROM manifest_blob mb \
             WHERE mb.repository_id = rb.repository_id AND mb.blob_id = rb.blob_id AND mb.manifest_id IN ({})) \
             ORDER BY rb.blob_id{}",
            sql::places(2, found.len()),
            self.locking_of("rb")
        );
        self.again::<Id>(&lock, held_until, &found).await?;
        let hold = format!(
            "UPDATE repository_blob SET expires = $1 WHERE expires < $1 AND NOT deleted AND EXISTS (SELECT 1 FROM manifest_blob mb \
             WHERE mb.repository_id = repository_blob.repository_id AND mb.blob_id = repository_blob.blob_id \
             AND mb.manifest_id IN ({})) RETURNING blob_id AS id",
            sql::places(2, found.len())
        );
        self.again::<Id>(&hold, held_until, &found).await?;
        let delete = format!(
            "DELETE FROM manifest AS m WHERE m.id IN ({}) AND {UNNEEDED_MANIFEST} RETURNING digest",
            sql::places(2, found.len())
        );
        let taken = self.again(&delete, before, &found).await?;
        Ok(Batch { taken, next: last_of(&found, limit) })
    }

    /// Takes away that repositories hold blobs which nothing there needs, going on after `last`. What to go on after.
    pub(crate) async fn take_holds(
        &self,
        now: Millis,
        last: (i64, i64),
        limit: usize,
    ) -> Result<Option<(i64, i64)>, MetaError> {
        let select = format!(
            "SELECT rb.repository_id AS repository_id, rb.blob_id AS blob_id FROM repository_blob rb WHERE {UNNEEDED_HOLD} \
             AND (rb.repository_id > $2 OR rb.repository_id = $2 AND rb.blob_id > $3) \
             ORDER BY rb.repository_id, rb.blob_id LIMIT {limit}{}",
            self.skipping_of("rb")
        );
        let values = [now.into(), last.0.into(), last.1.into()];
        let found: Vec<Hold> = sql::all(&self.transaction, &select, values).await?;
        let delete = format!(
            "DELETE FROM repository_blob AS rb WHERE rb.repository_id = $2 AND rb.blob_id = $3 AND {UNNEEDED_HOLD}"
        );
        for hold in &found {
            let values = [now.into(), hold.repository_id.into(), hold.blob_id.into()];
            sql::execute(&self.transaction, &delete, values).await?;
        }
        Ok(found.last().filter(|_| found.len() == limit).map(|hold| (hold.repository_id, hold.blob_id)))
    }

    /// Step 1 of a leave: no repository holds these blobs, going on after `last`. What to go on after.
    pub(crate) async fn blobs_leave(&self, last: i64, limit: usize) -> Result<Option<i64>, MetaError> {
        let select = format!(
            "SELECT b.id AS id FROM blob b WHERE b.state <> 2 AND {UNHELD_BLOB} AND b.id > $1 ORDER BY b.id LIMIT {limit}{}",
            self.skipping_of("b")
        );
        let found: Vec<Id> = sql::all(&self.transaction, &select, [last.into()]).await?;
        let update = format!(
            "UPDATE blob AS b SET state = 2, changed = $1 WHERE b.id IN ({}) AND {UNHELD_BLOB} RETURNING id",
            sql::places(2, found.len())
        );
        self.again::<Id>(&update, now(), &found).await?;
        Ok(last_of(&found, limit))
    }

    /// Blobs that leave, or did when whoever took them away was stopped, going on after `last`.
    pub(crate) async fn leaving_blobs(&self, last: i64, limit: usize) -> Result<Vec<LeavingBlob>, MetaError> {
        let select = format!("SELECT id, digest, size FROM blob WHERE state = 2 AND id > $1 ORDER BY id LIMIT {limit}");
        sql::all(&self.transaction, &select, [last.into()]).await
    }

    /// Step 2 of a leave begins: whether the blob still leaves. A push that wants it waits for the end of this change.
    pub(crate) async fn is_leaving(&self, id: i64) -> Result<bool, MetaError> {
        let select = format!("SELECT id FROM blob WHERE id = $1 AND state = 2{}", self.skipping());
        Ok(sql::one::<Id>(&self.transaction, &select, [id.into()]).await?.is_some())
    }

    /// Its end: the store has nothing any more.
    pub(crate) async fn blob_left(&self, id: i64) -> Result<(), MetaError> {
        sql::execute(&self.transaction, "DELETE FROM blob WHERE id = $1 AND state = 2", [id.into()]).await?;
        Ok(())
    }

    /// An upload that nobody has touched since a time, or whose repository is gone, and that nobody writes. It is taken away here,
    /// and cannot be claimed any more; what it stored is for the caller to take away.
    pub(crate) async fn take_upload(&self, before: Millis) -> Result<Option<UploadRow>, MetaError> {
        let select = format!(
            "SELECT u.* FROM upload u WHERE (u.touched <= $1 OR EXISTS (SELECT 1 FROM repository r WHERE r.id = u.repository_id \
             AND r.state = 2)) AND (u.writer IS NULL OR u.writer_until <= $2) ORDER BY u.touched LIMIT 1{}",
            self.skipping_of("u")
        );
        let row: Option<UploadRow> = sql::one(&self.transaction, &select, [before.into(), now().into()]).await?;
        if let Some(row) = &row {
            let delete = "DELETE FROM upload WHERE id = $1";
            sql::execute(&self.transaction, delete, [row.id.as_str().into()]).await?;
        }
        Ok(row)
    }

    /// Repositories that were deleted and still hold something, or did, going on after `last`.
    pub(crate) async fn deleted_repositories(&self, last: i64, limit: usize) -> Result<Vec<i64>, MetaError> {
        let select = format!("SELECT id FROM repository WHERE state = 2 AND id > $1 ORDER BY id LIMIT {limit}");
        let found: Vec<Id> = sql::all(&self.transaction, &select, [last.into()]).await?;
        Ok(found.into_iter().map(|row| row.id).collect())
    }

    /// Takes away a batch of what a deleted repository held; its blobs are then held by one less. Whether anything was left to take.
    pub(crate) async fn empty_repository(&self, id: i64, limit: usize) -> Result<bool, MetaError> {
        // In this order: each names only what comes later. An index goes before what is in it.
        let of = format!("repository_id = $1 LIMIT {limit}");
        for delete in [
            format!("DELETE FROM tag WHERE id IN (SELECT id FROM tag WHERE {of})"),
            format!(
                "DELETE FROM manifest WHERE id IN (SELECT m.id FROM manifest m WHERE NOT EXISTS \
                 (SELECT 1 FROM manifest_child c WHERE c.child_id = m.id) AND m.{of})"
            ),
            format!(
                "DELETE FROM repository_blob WHERE repository_id = $1 AND blob_id IN (SELECT blob_id FROM repository_blob WHERE {of})"
            ),
        ] {
            if sql::execute(&self.transaction, &delete, [id.into()]).await? > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes away a deleted repository that is empty. `false` when it is not: somebody writes an upload to it.
    pub(crate) async fn take_repository(&self, id: i64) -> Result<bool, MetaError> {
        let delete = "DELETE FROM repository WHERE id = $1 AND state = 2 \
                      AND NOT EXISTS (SELECT 1 FROM upload u WHERE u.repository_id = $1)";
        Ok(sql::execute(&self.transaction, delete, [id.into()]).await? == 1)
    }

    /// Takes away lines about what was done before a time. How many.
    pub(crate) async fn take_actions(&self, before: Millis, limit: usize) -> Result<u64, MetaError> {
        let delete = format!(
            "DELETE FROM action WHERE id IN (SELECT id FROM action WHERE at <= $1 ORDER BY id LIMIT {limit}{})",
            self.skipping()
        );
        sql::execute(&self.transaction, &delete, [before.into()]).await
    }

    /// Takes away keys that are not published any more. How many.
    pub(crate) async fn take_service_keys(&self, now: Millis) -> Result<u64, MetaError> {
        let delete = "DELETE FROM service_key WHERE published_until <= $1";
        sql::execute(&self.transaction, delete, [now.into()]).await
    }

    /// Does something to those of the rows that were found for which it is still right. `$1` is the time, the rows follow.
    async fn again<T: FromQueryResult>(&self, statement: &str, at: Millis, found: &[Id]) -> Result<Vec<T>, MetaError> {
        debug_assert!(found.len() < MOST_VALUES);
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let values = [Value::from(at)].into_iter().chain(found.iter().map(|row| row.id.into()));
        sql::all(&self.transaction, statement, values).await
    }

    /// At the end of a SELECT: nobody else changes these rows, or names them, before this change ends; those that somebody uses are
    /// left out.
    pub(super) fn skipping(&self) -> &'static str {
        if self.locks_rows() { " FOR UPDATE SKIP LOCKED" } else { "" }
    }

    /// The same, for the rows of one of the tables.
    fn skipping_of(&self, table: &str) -> String {
        if self.locks_rows() { format!(" FOR UPDATE OF {table} SKIP LOCKED") } else { String::new() }
    }
}

/// Where to go on after a batch that was as large as it could be.
fn last_of(found: &[Id], limit: usize) -> Option<i64> {
    found.last().filter(|_| found.len() == limit).map(|row| row.id)
}

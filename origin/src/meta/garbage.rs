//! What nobody needs any more, taken away in small batches: each a change, short enough for pushes to wait for.
//!
//! Invariants: a row that somebody is using is left for the next time: batches lock what they take and wait for nobody. What a row
//! was found for ([`super::unneeded`]) is looked at once more when it is locked, by a statement of its own, which sees what was
//! committed until then: what was found may have been pushed, tagged or mounted since. [`super::blobs`] says how blobs leave.

use std::time::Duration;

use sea_orm::{FromQueryResult, Value};

use super::blobs::MOST_VALUES;
use super::unneeded::{
    Before, Hold, Named, OLD_ACTION, OLD_APP_TOKEN, OLD_SERVICE_KEY, OLD_TAG, UnheldBlob, View, abandoned_upload,
};
use super::{Change, MetaError, Millis, UploadRow, now, sql};

/// Blobs that leave.
#[derive(Debug)]
pub(crate) struct Leave {
    /// Which.
    pub(crate) blobs: Vec<UnheldBlob>,
    /// Until when they are in the hands of whoever takes them away; it is in their rows.
    until: Millis,
}

#[derive(FromQueryResult)]
struct Id {
    id: i64,
}

impl Change {
    /// Takes away history of tags that ended before a time: they cannot be restored any more. How many.
    pub(crate) async fn take_old_tags(&self, before: Millis, limit: usize) -> Result<u64, MetaError> {
        let delete = format!(
            "DELETE FROM tag WHERE id IN (SELECT id FROM tag WHERE {OLD_TAG} ORDER BY id LIMIT {limit}{})",
            self.skipping()
        );
        sql::execute(&self.transaction, &delete, [before.into()]).await
    }

    /// Takes away those of these manifests that nobody has needed since a time. What they needed is held until then all the same.
    pub(crate) async fn take_manifests(
        &self,
        found: &[Named],
        before: Before,
        held_until: Millis,
    ) -> Result<Vec<Named>, MetaError> {
        let ids: Vec<i64> = found.iter().map(|manifest| manifest.id).collect();
        let locked = self.lock("manifest", &ids).await?;
        // In the order in which pushes lock them.
        let lock = format!(
            "SELECT rb.blob_id AS id FROM repository_blob rb WHERE rb.expires < $1 AND EXISTS (SELECT 1 FROM manifest_blob mb \
             WHERE mb.repository_id = rb.repository_id AND mb.blob_id = rb.blob_id AND mb.manifest_id IN ({})) \
             ORDER BY rb.blob_id{}",
            sql::places(2, locked.len()),
            self.locking_of("rb")
        );
        self.again::<Id>(&lock, &[held_until], &locked).await?;
        let hold = format!(
            "UPDATE repository_blob SET expires = $1 WHERE expires < $1 AND NOT deleted AND EXISTS (SELECT 1 FROM manifest_blob mb \
             WHERE mb.repository_id = repository_blob.repository_id AND mb.blob_id = repository_blob.blob_id \
             AND mb.manifest_id IN ({})) RETURNING blob_id AS id",
            sql::places(2, locked.len())
        );
        self.again::<Id>(&hold, &[held_until], &locked).await?;
        let delete = format!(
            "DELETE FROM manifest AS m WHERE m.id IN ({}) AND {} RETURNING id, digest",
            sql::places(3, locked.len()),
            View::Now.unneeded_manifest()
        );
        self.again(&delete, &[before.ended, before.pushed], &locked).await
    }

    /// Takes away that repositories hold these blobs, where nothing there needs them.
    pub(crate) async fn take_holds(&self, found: &[Hold], now: Millis) -> Result<(), MetaError> {
        let select = format!(
            "SELECT blob_id AS id FROM repository_blob WHERE repository_id = $1 AND blob_id = $2{}",
            self.skipping()
        );
        let delete = format!(
            "DELETE FROM repository_blob AS rb WHERE rb.repository_id = $2 AND rb.blob_id = $3 AND {}",
            View::Now.unneeded_hold(1)
        );
        for hold in found {
            let (repository, blob) = (hold.repository_id, hold.blob_id);
            if sql::one::<Id>(&self.transaction, &select, [repository.into(), blob.into()]).await?.is_some() {
                let values = [now.into(), repository.into(), blob.into()];
                sql::execute(&self.transaction, &delete, values).await?;
            }
        }
        Ok(())
    }

    /// Step 1 of a leave: those of these blobs that no repository holds, and that are in nobody's hands. For `time` they are in the
    /// caller's.
    pub(crate) async fn blobs_leave(&self, found: &[UnheldBlob], time: Duration) -> Result<Leave, MetaError> {
        let ids: Vec<i64> = found.iter().map(|blob| blob.id).collect();
        let locked = self.lock("blob", &ids).await?;
        let at = self.clock().await?;
        let until = at.saturating_add(Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX));
        let update = format!(
            "UPDATE blob AS b SET state = 2, leaving_until = $1 WHERE b.id IN ({}) \
             AND (b.state <> 2 OR b.leaving_until <= $2) AND {} RETURNING id, digest, size",
            sql::places(3, locked.len()),
            View::Now.unheld_blob()
        );
        Ok(Leave { blobs: self.again(&update, &[until, at], &locked).await?, until })
    }

    /// Step 3 of a leave: the store has nothing any more of these, which left together. How many were still the caller's.
    pub(crate) async fn blobs_left(&self, leave: &Leave, gone: &[i64]) -> Result<u64, MetaError> {
        let delete = format!(
            "DELETE FROM blob WHERE id IN ({}) AND state = 2 AND leaving_until = $1 RETURNING id",
            sql::places(2, gone.len())
        );
        Ok(self.again::<Id>(&delete, &[leave.until], gone).await?.len() as u64)
    }

    /// An upload that nobody has touched since a time, or whose repository is gone, and that nobody writes. It is taken away here,
    /// and cannot be claimed any more; what it stored is for the caller to take away.
    pub(crate) async fn take_upload(&self, before: Millis) -> Result<Option<UploadRow>, MetaError> {
        let select = format!(
            "SELECT u.* FROM upload u WHERE {} ORDER BY u.touched LIMIT 1{}",
            abandoned_upload(1, 2),
            self.skipping_of("u")
        );
        let row: Option<UploadRow> = sql::one(&self.transaction, &select, [before.into(), now().into()]).await?;
        if let Some(row) = &row {
            let delete = "DELETE FROM upload WHERE id = $1";
            sql::execute(&self.transaction, delete, [row.id.as_str().into()]).await?;
        }
        Ok(row)
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
            "DELETE FROM action WHERE id IN (SELECT id FROM action WHERE {OLD_ACTION} ORDER BY id LIMIT {limit}{})",
            self.skipping()
        );
        sql::execute(&self.transaction, &delete, [before.into()]).await
    }

    /// Takes away keys that are not published any more. How many.
    pub(crate) async fn take_service_keys(&self, now: Millis) -> Result<u64, MetaError> {
        let delete = format!("DELETE FROM service_key WHERE {OLD_SERVICE_KEY}");
        sql::execute(&self.transaction, &delete, [now.into()]).await
    }

    /// Takes away application tokens that nobody can use any more. How many.
    pub(crate) async fn take_app_tokens(&self, before: Millis) -> Result<u64, MetaError> {
        let delete = format!("DELETE FROM app_token WHERE {OLD_APP_TOKEN}");
        sql::execute(&self.transaction, &delete, [before.into()]).await
    }

    /// Locks those of these rows that nobody uses.
    async fn lock(&self, table: &str, ids: &[i64]) -> Result<Vec<i64>, MetaError> {
        let select = format!(
            "SELECT id FROM {table} WHERE id IN ({}) ORDER BY id{}",
            sql::places(1, ids.len()),
            self.skipping()
        );
        Ok(self.again::<Id>(&select, &[], ids).await?.into_iter().map(|row| row.id).collect())
    }

    /// Does something to those of the rows that were found for which it is still right. The rows follow the times in its values.
    async fn again<T: FromQueryResult>(
        &self,
        statement: &str,
        times: &[Millis],
        found: &[i64],
    ) -> Result<Vec<T>, MetaError> {
        debug_assert!(found.len() < MOST_VALUES);
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let values: Vec<Value> = times.iter().chain(found).copied().map(Value::from).collect();
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

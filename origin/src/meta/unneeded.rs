//! What nobody needs any more, found. Nothing here changes or locks anything: what is found is looked at once more, by the same
//! conditions, when it is taken away ([`super::garbage`]); a rehearsal of a collection only tells it.
//!
//! Invariant: a look goes through so many rows and no more, and says where the next goes on. So it is short, however many rows
//! there are, and whatever is among them.

use sea_orm::{FromQueryResult, Value};

use super::{Meta, MetaError, Millis, now, sql};

/// How many rows one look goes through.
const LOOK: usize = 1000;
/// How far a rehearsal follows what goes because something else goes: an index, what is in it, what is about that, and its signature.
const LEVELS: usize = 3;

/// The end of a tag that is over for the time machine too.
pub(super) const OLD_TAG: &str = "ended <= $1";
/// A tag that expired, and that nobody has ended yet.
pub(super) const EXPIRED_TAG: &str = "ended IS NULL AND expires <= $1";
/// A line about what was done long ago.
pub(super) const OLD_ACTION: &str = "at <= $1";
/// A key that is not published any more.
pub(super) const OLD_SERVICE_KEY: &str = "published_until <= $1";
/// An application token that nobody can use any more.
pub(super) const OLD_APP_TOKEN: &str = "expires < $1";

/// An upload `u` that nobody has touched since `$before`, or whose repository is gone, and that nobody writes at `$at`.
pub(super) fn abandoned_upload(before: usize, at: usize) -> String {
    format!("(u.touched <= ${before} OR {}) AND (u.writer IS NULL OR u.writer_until <= ${at})", deleted("u"))
}

/// How things are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// As they are.
    Now,
    /// As they will be when what a collection takes away before is gone.
    Ahead,
}

impl View {
    /// A manifest `m` that nothing needs: deleted before `$1`, or pushed before `$2`, with no tag, not even one that could be restored,
    /// in no index, and not about a manifest that is there.
    pub(super) fn unneeded_manifest(self) -> String {
        match self {
            View::Now => unneeded_manifest("m", "1 = 1", "1 = 1", "1 = 1"),
            View::Ahead => unneeded_ahead("m", LEVELS),
        }
    }

    /// That a repository holds a blob, `rb`, for nothing: deleted, or expired at `$at`, and no manifest of it needs the blob. What
    /// manifests needed that go now is held for a while longer, unless it was deleted.
    pub(super) fn unneeded_hold(self, at: usize) -> String {
        let unneeded = |stays: &str| {
            format!(
                "(rb.deleted OR rb.expires <= ${at}) AND NOT EXISTS (SELECT 1 FROM manifest_blob mb \
                 WHERE mb.repository_id = rb.repository_id AND mb.blob_id = rb.blob_id AND {stays})"
            )
        };
        match self {
            View::Now => unneeded("1 = 1"),
            View::Ahead => {
                let goes =
                    format!("SELECT m.id FROM manifest m WHERE m.id = mb.manifest_id AND {}", self.unneeded_manifest());
                let unneeded = unneeded(&format!("NOT (rb.deleted AND EXISTS ({goes}))"));
                format!("({} OR {unneeded})", deleted("rb"))
            }
        }
    }

    /// A blob `b` that no repository holds; seen ahead, at `$3`.
    pub(super) fn unheld_blob(self) -> String {
        match self {
            View::Now => "NOT EXISTS (SELECT 1 FROM repository_blob rb WHERE rb.blob_id = b.id) \
                          AND NOT EXISTS (SELECT 1 FROM manifest_blob mb WHERE mb.blob_id = b.id)"
                .to_owned(),
            View::Ahead => format!(
                "NOT EXISTS (SELECT 1 FROM repository_blob rb WHERE rb.blob_id = b.id AND NOT ({}))",
                self.unneeded_hold(3)
            ),
        }
    }
}

/// A manifest of that name that no tag, index or subject needs which counts: `t` in `p`, and `s`.
fn unneeded_manifest(m: &str, tag: &str, parent: &str, subject: &str) -> String {
    format!(
        "(CASE WHEN {m}.deleted IS NULL THEN {m}.pushed <= $2 ELSE {m}.deleted <= $1 END) \
         AND NOT EXISTS (SELECT 1 FROM tag t WHERE t.manifest_id = {m}.id AND {tag}) \
         AND NOT EXISTS (SELECT 1 FROM manifest_child c JOIN manifest {m}p ON {m}p.id = c.manifest_id \
            WHERE c.child_id = {m}.id AND {parent}) \
         AND ({m}.subject IS NULL OR NOT EXISTS (SELECT 1 FROM manifest {m}s \
            WHERE {m}s.repository_id = {m}.repository_id AND {m}s.digest = {m}.subject AND {m}s.id <> {m}.id AND {subject}))"
    )
}

/// The same, where what goes itself does not count, so many levels deep.
fn unneeded_ahead(m: &str, levels: usize) -> String {
    let stays = |of: &str| match levels {
        0 => "1 = 1".to_owned(),
        _ => format!("NOT ({})", unneeded_ahead(&format!("{m}{of}"), levels - 1)),
    };
    unneeded_manifest(
        m,
        "(COALESCE(t.ended, t.expires) IS NULL OR COALESCE(t.ended, t.expires) > $1)",
        &stays("p"),
        &stays("s"),
    )
}

/// That the repository of a row is gone.
fn deleted(of: &str) -> String {
    format!("EXISTS (SELECT 1 FROM repository r WHERE r.id = {of}.repository_id AND r.state = 2)")
}

/// Before when a manifest must be over, in which way, to be taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Before {
    /// It was deleted, or its last tag ended.
    pub(crate) ended: Millis,
    /// It was pushed. A client pushes a manifest by its digest before the index that names it, so it needs the time that a push takes,
    /// however soon what was tagged is over.
    pub(crate) pushed: Millis,
}

/// What one look found.
#[derive(Debug)]
pub(crate) struct Found<T, Place = i64> {
    /// The rows.
    pub(crate) rows: Vec<T>,
    /// What to go on after; `None`: there is no more to look at.
    pub(crate) next: Option<Place>,
}

/// A row and its public name.
#[derive(Clone, Debug, FromQueryResult)]
pub(crate) struct Named {
    /// The row.
    pub(crate) id: i64,
    /// A digest.
    pub(crate) digest: String,
}

/// A blob.
#[derive(Clone, Debug, FromQueryResult)]
pub(crate) struct UnheldBlob {
    /// The row.
    pub(crate) id: i64,
    /// Its digest.
    pub(crate) digest: String,
    /// In bytes.
    pub(crate) size: i64,
}

/// That a repository holds a blob.
#[derive(Clone, Copy, Debug, FromQueryResult)]
pub(crate) struct Hold {
    pub(super) repository_id: i64,
    pub(super) blob_id: i64,
}

/// What is kept for a time only, by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Old {
    /// Tags that expired.
    pub(crate) expired: u64,
    /// Ends of tags, theirs too.
    pub(crate) tags: u64,
    /// Lines of the action log.
    pub(crate) actions: u64,
    /// Keys of tokens.
    pub(crate) keys: u64,
    /// Application tokens.
    pub(crate) app_tokens: u64,
}

#[derive(FromQueryResult)]
struct Last {
    last: Option<i64>,
}

#[derive(FromQueryResult)]
struct Count {
    count: i64,
}

#[derive(FromQueryResult)]
struct Name {
    id: String,
}

#[derive(FromQueryResult)]
struct Id {
    id: i64,
}

impl Meta {
    /// Manifests that nothing has needed since a time.
    pub(crate) async fn unneeded_manifests(
        &self,
        view: View,
        before: Before,
        after: i64,
    ) -> Result<Found<Named>, MetaError> {
        let Some(until) = self.until("manifest", after).await? else { return Ok(Found::nothing()) };
        // What deleted repositories had goes with them.
        let select = format!(
            "SELECT m.id AS id, m.digest AS digest FROM manifest m WHERE m.id > $3 AND m.id <= $4 AND {} AND NOT {} ORDER BY m.id",
            view.unneeded_manifest(),
            deleted("m")
        );
        let values = [before.ended, before.pushed, after, until].map(Value::from);
        let rows = sql::all(&self.connections, &select, values).await?;
        Ok(Found { rows, next: Some(until) })
    }

    /// That repositories hold what nothing there needs.
    pub(crate) async fn unneeded_holds(
        &self,
        now: Millis,
        after: (i64, i64),
    ) -> Result<Found<Hold, (i64, i64)>, MetaError> {
        let last = format!(
            "SELECT repository_id, blob_id FROM (SELECT repository_id, blob_id FROM repository_blob \
             WHERE repository_id > $1 OR repository_id = $1 AND blob_id > $2 ORDER BY repository_id, blob_id LIMIT {LOOK}) AS seen \
             ORDER BY repository_id DESC, blob_id DESC LIMIT 1"
        );
        let until: Option<Hold> = sql::one(&self.connections, &last, [after.0.into(), after.1.into()]).await?;
        let Some(until) = until else { return Ok(Found::nothing()) };
        let until = (until.repository_id, until.blob_id);
        let select = format!(
            "SELECT rb.repository_id AS repository_id, rb.blob_id AS blob_id FROM repository_blob rb \
             WHERE (rb.repository_id > $2 OR rb.repository_id = $2 AND rb.blob_id > $3) \
             AND (rb.repository_id < $4 OR rb.repository_id = $4 AND rb.blob_id <= $5) AND {} \
             ORDER BY rb.repository_id, rb.blob_id",
            View::Now.unneeded_hold(1)
        );
        let values = [now, after.0, after.1, until.0, until.1].map(Value::from);
        Ok(Found { rows: sql::all(&self.connections, &select, values).await?, next: Some(until) })
    }

    /// Blobs that no repository holds; seen ahead, at `at`, when manifests went that nothing has needed since `before`.
    pub(crate) async fn unheld_blobs(
        &self,
        view: View,
        (before, at): (Before, Millis),
        after: i64,
    ) -> Result<Found<UnheldBlob>, MetaError> {
        let Some(until) = self.until("blob", after).await? else { return Ok(Found::nothing()) };
        let (from, to, values) = match view {
            View::Now => (1, 2, vec![after, until]),
            View::Ahead => (4, 5, vec![before.ended, before.pushed, at, after, until]),
        };
        let select = format!(
            "SELECT b.id AS id, b.digest AS digest, b.size AS size FROM blob b WHERE b.id > ${from} AND b.id <= ${to} AND {} \
             ORDER BY b.id",
            view.unheld_blob()
        );
        let rows = sql::all(&self.connections, &select, values.into_iter().map(Value::from)).await?;
        Ok(Found { rows, next: Some(until) })
    }

    /// Repositories that were deleted and still hold something, or did.
    pub(crate) async fn deleted_repositories(&self, after: i64) -> Result<Found<i64>, MetaError> {
        self.repositories_without("1 = 0", vec![after]).await
    }

    /// Those of them to which nobody uploads, not counting uploads that nobody has touched since `before`.
    pub(crate) async fn unused_repositories(&self, before: Millis, after: i64) -> Result<Found<i64>, MetaError> {
        let used = format!("NOT ({})", abandoned_upload(2, 3));
        self.repositories_without(&used, vec![after, before, now()]).await
    }

    async fn repositories_without(&self, upload: &str, values: Vec<i64>) -> Result<Found<i64>, MetaError> {
        let select = format!(
            "SELECT d.id AS id FROM repository d WHERE d.state = 2 AND d.id > $1 \
             AND NOT EXISTS (SELECT 1 FROM upload u WHERE u.repository_id = d.id AND {upload}) ORDER BY d.id LIMIT {LOOK}"
        );
        let rows: Vec<Id> = sql::all(&self.connections, &select, values.into_iter().map(Value::from)).await?;
        let rows: Vec<i64> = rows.into_iter().map(|row| row.id).collect();
        Ok(Found { next: rows.last().copied(), rows })
    }

    /// Names of uploads that nobody has touched since a time, or whose repository is gone, and that nobody writes.
    pub(crate) async fn abandoned_uploads(
        &self,
        before: Millis,
        after: &str,
    ) -> Result<Found<String, String>, MetaError> {
        let select = format!(
            "SELECT u.id AS id FROM upload u WHERE {} AND u.id > $3 ORDER BY u.id LIMIT {LOOK}",
            abandoned_upload(1, 2)
        );
        let rows: Vec<Name> = sql::all(&self.connections, &select, [before.into(), now().into(), after.into()]).await?;
        let rows: Vec<String> = rows.into_iter().map(|row| row.id).collect();
        Ok(Found { next: rows.last().cloned(), rows })
    }

    /// How much there is at `at` that is kept for a time only: tags that ended before `tags`, lines that were written before `actions`.
    pub(crate) async fn old(&self, at: Millis, tags: Millis, actions: Millis) -> Result<Old, MetaError> {
        let of_the_living = |which: &str| format!("{which} AND NOT {}", deleted("tag"));
        let (expired, ended) = (of_the_living(EXPIRED_TAG), of_the_living(OLD_TAG));
        Ok(Old {
            expired: self.count("tag", &expired, at).await?,
            tags: self.count("tag", &ended, tags).await? + self.count("tag", &expired, tags).await?,
            actions: self.count("action", OLD_ACTION, actions).await?,
            keys: self.count("service_key", OLD_SERVICE_KEY, at).await?,
            app_tokens: self.count("app_token", OLD_APP_TOKEN, tags).await?,
        })
    }

    async fn count(&self, table: &str, which: &str, before: Millis) -> Result<u64, MetaError> {
        let select = format!("SELECT COUNT(*) AS count FROM {table} WHERE {which}");
        let row: Option<Count> = sql::one(&self.connections, &select, [before.into()]).await?;
        Ok(row.and_then(|row| u64::try_from(row.count).ok()).unwrap_or_default())
    }

    /// The last row of a table that a look from after `after` on goes through.
    async fn until(&self, table: &str, after: i64) -> Result<Option<i64>, MetaError> {
        let select = format!(
            "SELECT MAX(id) AS last FROM (SELECT id FROM {table} WHERE id > $1 ORDER BY id LIMIT {LOOK}) AS seen"
        );
        let row: Option<Last> = sql::one(&self.connections, &select, [after.into()]).await?;
        Ok(row.and_then(|row| row.last))
    }
}

impl<T, Place> Found<T, Place> {
    fn nothing() -> Found<T, Place> {
        Found { rows: Vec::new(), next: None }
    }
}

//! What tags were: the time machine as people see it, and going back in it.
//!
//! A manifest that was deleted is still there until garbage collection takes it, with all that it needs. Bringing it back holds
//! its row, so that it cannot be taken at the same time; what was taken before cannot be brought back, and that is said.

use sea_orm::{FromQueryResult, Value};

use super::expiration::live;
use super::{Change, Meta, MetaError, Millis, now, sql};

/// A tag's time on one manifest.
#[derive(Clone, Debug, FromQueryResult)]
pub(crate) struct TagTime {
    /// The tag.
    pub(crate) name: String,
    /// Since when.
    pub(crate) started: Millis,
    /// Until when, which may be still to come; `None`: it is there, and does not expire.
    pub(crate) ended: Option<Millis>,
    /// Whether the time machine brought it back.
    pub(crate) reversion: bool,
    /// The manifest.
    pub(crate) digest: String,
    /// The manifest's.
    pub(crate) media_type: String,
    /// Bytes of the blobs that the manifest names.
    pub(crate) layers_size: i64,
}

/// Which names to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TagName {
    /// All.
    Any,
    /// This one.
    Is(String),
    /// Those with this in them.
    Has(String),
}

/// Which part of a history to show.
#[derive(Clone, Debug)]
pub(crate) struct HistoryFilter {
    /// Whose.
    pub(crate) repository: i64,
    /// Which names.
    pub(crate) name: TagName,
    /// Those that ended only if it was after this; `None`: only those that have not.
    pub(crate) ended_after: Option<Millis>,
    /// How many to leave out, of the newest.
    pub(crate) offset: u32,
    /// How many.
    pub(crate) limit: u32,
}

/// The manifest `$1` and all that is in it, as `needed`.
const NEEDED: &str = "WITH RECURSIVE needed (id) AS (SELECT CAST($1 AS BIGINT) UNION \
     SELECT c.child_id FROM manifest_child c JOIN needed n ON n.id = c.manifest_id)";

#[derive(FromQueryResult)]
struct Row {
    id: i64,
}

impl Meta {
    /// The history of tags, the newest first.
    pub(crate) async fn tag_history(&self, filter: &HistoryFilter) -> Result<Vec<TagTime>, MetaError> {
        let mut values: Vec<Value> =
            vec![filter.repository.into(), i64::from(filter.limit).into(), i64::from(filter.offset).into()];
        let mut place = |value: Value| {
            values.push(value);
            values.len()
        };
        let ended = match filter.ended_after {
            None => live(place(now().into())),
            Some(after) => {
                let place = place(after.into());
                format!("(COALESCE(t.ended, t.expires) IS NULL OR COALESCE(t.ended, t.expires) > ${place})")
            }
        };
        let name = match &filter.name {
            TagName::Any => String::new(),
            TagName::Is(name) => format!(" AND t.name = ${}", place(name.as_str().into())),
            // Of what both databases have, this minds the case and knows no wildcards.
            TagName::Has(part) => format!(" AND REPLACE(t.name, ${}, '') <> t.name", place(part.as_str().into())),
        };
        let select = format!(
            "SELECT t.name AS name, t.started AS started, COALESCE(t.ended, t.expires) AS ended, t.reversion AS reversion, m.digest AS digest, \
             m.media_type AS media_type, m.layers_size AS layers_size FROM tag t JOIN manifest m ON m.id = t.manifest_id \
             WHERE t.repository_id = $1 AND {ended}{name} ORDER BY t.started DESC, t.id DESC LIMIT $2 OFFSET $3"
        );
        sql::all(&self.connections, &select, values).await
    }
}

impl Change {
    /// The manifest of this digest, which is there until this change ends, brought back with all its children where it was
    /// deleted. `None`: it is gone.
    pub(crate) async fn revive_manifest(&self, repository: i64, digest: &str) -> Result<Option<i64>, MetaError> {
        let select = format!("SELECT id FROM manifest WHERE repository_id = $1 AND digest = $2{}", self.locking());
        let found: Option<Row> = sql::one(&self.transaction, &select, [repository.into(), digest.into()]).await?;
        let Some(Row { id }) = found else { return Ok(None) };
        let update = format!(
            "{NEEDED} UPDATE manifest SET deleted = NULL WHERE deleted IS NOT NULL AND id IN (SELECT id FROM needed)"
        );
        sql::execute(&self.transaction, &update, [id.into()]).await?;
        // Blobs that were deleted since are there for as long as the manifest was.
        let update = format!(
            "{NEEDED} UPDATE repository_blob SET deleted = $3 WHERE repository_id = $2 AND deleted AND blob_id IN \
             (SELECT mb.blob_id FROM manifest_blob mb JOIN needed n ON n.id = mb.manifest_id)"
        );
        sql::execute(&self.transaction, &update, [id.into(), repository.into(), false.into()]).await?;
        Ok(Some(id))
    }

    /// The manifest of this digest, if it was not deleted. It is there until this change ends.
    pub(crate) async fn present_manifest(&self, repository: i64, digest: &str) -> Result<Option<i64>, MetaError> {
        let select = format!(
            "SELECT id FROM manifest WHERE repository_id = $1 AND digest = $2 AND deleted IS NULL{}",
            self.sharing()
        );
        let found: Option<Row> = sql::one(&self.transaction, &select, [repository.into(), digest.into()]).await?;
        Ok(found.map(|row| row.id))
    }

    /// Whether a tag was on a manifest and ended after a time: then it can be restored to it.
    pub(crate) async fn was_tagged(
        &self,
        repository: i64,
        name: &str,
        manifest: i64,
        after: Millis,
    ) -> Result<bool, MetaError> {
        let select = "SELECT id FROM tag WHERE repository_id = $1 AND name = $2 AND manifest_id = $3 \
                      AND (COALESCE(ended, expires) IS NULL OR COALESCE(ended, expires) > $4) LIMIT 1";
        let values = [repository.into(), name.into(), manifest.into(), after.into()];
        let found: Option<Row> = sql::one(&self.transaction, select, values).await?;
        Ok(found.is_some())
    }
}

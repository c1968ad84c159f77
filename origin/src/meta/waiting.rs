//! What a collection leaves alone for now, and until when: so that a rehearsal that finds nothing says why.

use sea_orm::FromQueryResult;

use super::{Meta, MetaError, Millis, sql};

/// Blobs that no manifest needs, and that are held a while longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromQueryResult)]
pub(crate) struct Waiting {
    /// How many.
    pub(crate) blobs: i64,
    /// Their bytes.
    pub(crate) bytes: i64,
    /// When the first of them may be collected.
    pub(crate) first: Option<Millis>,
    /// When the last of them may be.
    pub(crate) last: Option<Millis>,
}

impl Meta {
    /// As of now. A blob that a repository needs is not among them, whatever others hold.
    pub(crate) async fn waiting(&self, now: Millis) -> Result<Waiting, MetaError> {
        let select = "SELECT COUNT(*) AS blobs, CAST(COALESCE(SUM(size), 0) AS BIGINT) AS bytes, MIN(until) AS first, MAX(until) AS last \
             FROM (SELECT b.size AS size, MAX(rb.expires) AS until FROM blob b JOIN repository_blob rb ON rb.blob_id = b.id \
             WHERE NOT EXISTS (SELECT 1 FROM manifest_blob mb WHERE mb.blob_id = b.id) GROUP BY b.id, b.size) AS held WHERE until > $1";
        Ok(sql::one(&self.connections, select, [now.into()]).await?.unwrap_or_default())
    }
}

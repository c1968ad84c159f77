//! Tags that go away by themselves.
//!
//! A tag that expires is gone from that moment on, for everybody who asks. Its row says so at the latest when the tag is set again, or
//! when garbage is collected: then it has ended as any other, and the time machine brings it back as any other.

use sea_orm::FromQueryResult;

use super::unneeded::EXPIRED_TAG;
use super::{Change, MetaError, Millis, sql};

/// That a tag `t` is there at the time that `$place` stands for.
pub(super) fn live(place: usize) -> String {
    format!("t.ended IS NULL AND (t.expires IS NULL OR t.expires > ${place})")
}

#[derive(FromQueryResult)]
struct Expiring {
    id: i64,
    expires: Option<Millis>,
}

#[derive(FromQueryResult)]
struct Ended {
    name: String,
}

impl Change {
    /// Says when a tag expires, or that it does not. When it would have before; `None`: there is no such tag.
    pub(crate) async fn set_expiration(
        &self,
        repository_id: i64,
        name: &str,
        expires: Option<Millis>,
        at: Millis,
    ) -> Result<Option<Option<Millis>>, MetaError> {
        let select = format!(
            "SELECT t.id AS id, t.expires AS expires FROM tag t WHERE t.repository_id = $1 AND t.name = $2 AND {}{}",
            live(3),
            self.locking()
        );
        let values = [repository_id.into(), name.into(), at.into()];
        let Some(before) = sql::one::<Expiring>(&self.transaction, &select, values).await? else { return Ok(None) };
        if before.expires != expires {
            let update = "UPDATE tag SET expires = $2 WHERE id = $1";
            sql::execute(&self.transaction, update, [before.id.into(), expires.into()]).await?;
        }
        Ok(Some(before.expires))
    }

    /// A tag that expired has ended, when somebody is about to set it again.
    pub(super) async fn end_if_expired(&self, repository_id: i64, name: &str, at: Millis) -> Result<(), MetaError> {
        let update =
            "UPDATE tag SET ended = expires WHERE repository_id = $1 AND name = $2 AND ended IS NULL AND expires <= $3";
        sql::execute(&self.transaction, update, [repository_id.into(), name.into(), at.into()]).await?;
        Ok(())
    }

    /// Tags that expired have ended. Their names, as many as there are in a batch.
    pub(crate) async fn end_expired_tags(&self, at: Millis, limit: usize) -> Result<Vec<String>, MetaError> {
        let update = format!(
            "UPDATE tag SET ended = expires WHERE id IN (SELECT id FROM tag WHERE {EXPIRED_TAG} \
             ORDER BY id LIMIT {limit}{}) RETURNING name",
            self.skipping()
        );
        let ended: Vec<Ended> = sql::all(&self.transaction, &update, [at.into()]).await?;
        Ok(ended.into_iter().map(|row| row.name).collect())
    }
}

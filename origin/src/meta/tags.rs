//! Tags and their history. A tag that is moved or deleted ends; the row that says so is what the time machine goes back to.

use sea_orm::FromQueryResult;

use super::expiration::live;
use super::{Change, Meta, MetaError, Millis, now, sql};

/// What a tag was moved from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TagMove {
    /// It was not there.
    Created,
    /// It was on another manifest.
    Moved,
    /// It is where it was.
    Unchanged,
}

#[derive(FromQueryResult)]
struct Name {
    name: String,
}

#[derive(FromQueryResult)]
struct Target {
    manifest_id: i64,
}

impl Meta {
    /// Names of a repository's tags, in order, from after `last` on.
    pub(crate) async fn tag_names(&self, repository_id: i64, last: &str, limit: u32) -> Result<Vec<String>, MetaError> {
        let select = format!(
            "SELECT t.name AS name FROM tag t WHERE t.repository_id = $1 AND t.name > $2 AND {} ORDER BY t.name LIMIT $3",
            live(4)
        );
        let values = [repository_id.into(), last.into(), i64::from(limit).into(), now().into()];
        let names: Vec<Name> = sql::all(&self.connections, &select, values).await?;
        Ok(names.into_iter().map(|row| row.name).collect())
    }
}

impl Change {
    /// Points a tag at a manifest. [`MetaError::Exists`] when another did the same at this moment: trying again helps.
    pub(crate) async fn set_tag(
        &self,
        repository_id: i64,
        name: &str,
        manifest_id: i64,
        at: Millis,
        reversion: bool,
    ) -> Result<TagMove, MetaError> {
        self.end_if_expired(repository_id, name, at).await?;
        let select = format!(
            "SELECT manifest_id FROM tag WHERE repository_id = $1 AND name = $2 AND ended IS NULL{}",
            self.locking()
        );
        let present: Option<Target> = sql::one(&self.transaction, &select, [repository_id.into(), name.into()]).await?;
        let moved = match present {
            Some(target) if target.manifest_id == manifest_id => return Ok(TagMove::Unchanged),
            Some(_) => TagMove::Moved,
            None => TagMove::Created,
        };
        if moved == TagMove::Moved {
            self.end_tag(repository_id, name, at).await?;
        }
        let insert = "INSERT INTO tag (repository_id, name, manifest_id, started, ended, reversion) \
                      VALUES ($1, $2, $3, $4, NULL, $5)";
        let values = [repository_id.into(), name.into(), manifest_id.into(), at.into(), reversion.into()];
        sql::execute(&self.transaction, insert, values).await?;
        Ok(moved)
    }

    /// Ends a tag. Whether it was there.
    pub(crate) async fn end_tag(&self, repository_id: i64, name: &str, at: Millis) -> Result<bool, MetaError> {
        let update =
            format!("UPDATE tag AS t SET ended = $3 WHERE t.repository_id = $1 AND t.name = $2 AND {}", live(3));
        let values = [repository_id.into(), name.into(), at.into()];
        Ok(sql::execute(&self.transaction, &update, values).await? == 1)
    }

    /// Ends all tags of a manifest, and says which they were.
    pub(crate) async fn end_tags_of(&self, manifest_id: i64, at: Millis) -> Result<Vec<String>, MetaError> {
        let update = format!("UPDATE tag AS t SET ended = $2 WHERE t.manifest_id = $1 AND {} RETURNING name", live(2));
        let names: Vec<Name> = sql::all(&self.transaction, &update, [manifest_id.into(), at.into()]).await?;
        Ok(names.into_iter().map(|row| row.name).collect())
    }
}

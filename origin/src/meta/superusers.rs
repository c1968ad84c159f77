//! The superusers who can log in: there is always one left to mend what others broke.

use sea_orm::FromQueryResult;

use super::{Change, MetaError, sql};

#[derive(FromQueryResult)]
struct Id {
    id: i64,
}

impl Change {
    /// How many superusers can log in. Two changes that ask do so one after the other, so neither takes the last two away.
    pub(crate) async fn hold_superusers(&self) -> Result<usize, MetaError> {
        let locking = self.locking();
        let select =
            format!("SELECT id FROM account WHERE kind = 0 AND superuser = 2 AND enabled ORDER BY id{locking}");
        let rows: Vec<Id> = sql::all(&self.transaction, &select, []).await?;
        Ok(rows.iter().filter(|row| row.id > 0).count())
    }
}

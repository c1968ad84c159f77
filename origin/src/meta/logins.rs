//! How often logins failed lately and where they succeeded, for all nodes together.
//!
//! It is kept in cells, of which there is a fixed number: who tries any number of names fills no more than those. Which cell something
//! falls into is for those to say who know what was tried; a row says nothing of it, and not even whether there is such an account.

use sea_orm::{FromQueryResult, Value};

use super::{Change, Meta, MetaError, Millis, sql};

/// What is known of a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromQueryResult)]
pub(crate) struct LoginCell {
    /// Its number.
    pub(crate) cell: i64,
    /// Wrong passwords in a row, with no long pause between them.
    pub(crate) failures: i32,
    /// The last one.
    pub(crate) failed: Option<Millis>,
    /// The last right one, about.
    pub(crate) succeeded: Option<Millis>,
}

#[derive(FromQueryResult)]
struct Cell {
    cell: i64,
}

#[derive(FromQueryResult)]
struct Secret {
    value: Vec<u8>,
}

impl Meta {
    /// What makes it impossible to say from outside which cell something falls into. The same for all nodes.
    pub(crate) async fn login_key(&self) -> Result<Vec<u8>, MetaError> {
        self.secret("logins").await?.ok_or(MetaError::Corrupt("key of logins"))
    }

    /// The key that robot tokens are sealed with. All nodes have the same.
    pub(crate) async fn robot_key(&self) -> Result<Vec<u8>, MetaError> {
        self.secret("robots").await?.ok_or(MetaError::Corrupt("key of robot tokens"))
    }

    async fn secret(&self, name: &str) -> Result<Option<Vec<u8>>, MetaError> {
        let select = "SELECT value FROM secret WHERE name = $1";
        let found: Option<Secret> = sql::one(&self.connections, select, [name.into()]).await?;
        Ok(found.map(|secret| secret.value))
    }

    /// What is known of these cells.
    pub(crate) async fn login_cells(&self, cells: [i64; 2]) -> Result<[LoginCell; 2], MetaError> {
        let select = "SELECT cell, failures, failed, succeeded FROM login_cell WHERE cell IN ($1, $2)";
        let found: Vec<LoginCell> = sql::all(&self.connections, select, cells.map(Into::into)).await?;
        Ok(cells.map(|cell| found.iter().find(|row| row.cell == cell).copied().unwrap_or_default()))
    }
}

impl Change {
    /// Counts a wrong password in these cells; those before `since` are forgotten.
    pub(crate) async fn login_failed(&self, cells: &[i64], since: Millis, now: Millis) -> Result<(), MetaError> {
        let mut cells = cells.to_vec();
        // In one order, so that two who fail at once do not wait for each other.
        cells.sort_unstable();
        let count = "INSERT INTO login_cell (cell, failures, failed) VALUES ($1, 1, $3) ON CONFLICT (cell) DO UPDATE SET \
                     failures = CASE WHEN login_cell.failed > $2 THEN login_cell.failures + 1 ELSE 1 END, failed = $3";
        for cell in cells {
            sql::execute(&self.transaction, count, [cell.into(), since.into(), now.into()]).await?;
        }
        Ok(())
    }

    /// Notes a right password in a cell. Wrong ones stay counted: who sees them forgotten would learn that somebody logged in.
    pub(crate) async fn login_succeeded(&self, cell: i64, now: Millis) -> Result<(), MetaError> {
        let note = "INSERT INTO login_cell (cell, failures, succeeded) VALUES ($1, 0, $2) \
                    ON CONFLICT (cell) DO UPDATE SET succeeded = $2";
        sql::execute(&self.transaction, note, [cell.into(), now.into()]).await?;
        Ok(())
    }

    /// Takes away cells in which nothing failed and nothing succeeded since these times, going on after `last`. What to go on after.
    pub(crate) async fn take_login_cells(
        &self,
        failed: Millis,
        succeeded: Millis,
        last: i64,
        limit: usize,
    ) -> Result<Option<i64>, MetaError> {
        const FORGOTTEN: &str = "(failed IS NULL OR failed <= $1) AND (succeeded IS NULL OR succeeded <= $2)";
        let select = format!("SELECT cell FROM login_cell WHERE {FORGOTTEN} AND cell > $3 ORDER BY cell LIMIT {limit}");
        let times: [Value; 2] = [failed.into(), succeeded.into()];
        let found: Vec<Cell> =
            sql::all(&self.transaction, &select, times.clone().into_iter().chain([last.into()])).await?;
        let Some(Cell { cell: end }) = found.last() else { return Ok(None) };
        // Looked at once more: somebody may have failed since.
        let delete = format!("DELETE FROM login_cell WHERE {FORGOTTEN} AND cell > $3 AND cell <= $4");
        sql::execute(&self.transaction, &delete, times.into_iter().chain([last.into(), (*end).into()])).await?;
        Ok((found.len() == limit).then_some(*end))
    }
}

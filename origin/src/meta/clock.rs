//! One clock for all nodes: the database's own, for what they must not see differently.

use sea_orm::FromQueryResult;

use super::{Change, MetaError, Millis, now, sql};

#[derive(FromQueryResult)]
struct Reading {
    at: Millis,
}

impl Change {
    /// What it says.
    pub(super) async fn clock(&self) -> Result<Millis, MetaError> {
        // All that use one file of SQLite's are on one machine.
        if !self.locks_rows() {
            return Ok(now());
        }
        let select = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) AS at";
        let read: Option<Reading> = sql::one(&self.transaction, select, []).await?;
        read.map(|read| read.at).ok_or(MetaError::Corrupt("time"))
    }
}

//! One clock for all nodes: the database's own, for what they must not see differently.

use sea_orm::{ConnectionTrait, DatabaseBackend, FromQueryResult};

use super::{Change, Meta, MetaError, Millis, now, sql};

#[derive(FromQueryResult)]
struct Reading {
    at: Millis,
}

impl Change {
    /// What it says.
    pub(super) async fn clock(&self) -> Result<Millis, MetaError> {
        read(&self.transaction).await
    }
}

impl Meta {
    /// By how much it is at least ahead of this node's; below zero: behind.
    pub(crate) async fn clock_ahead(&self) -> Result<Millis, MetaError> {
        let asked = now();
        let at = read(&self.connections).await?;
        Ok(ahead(asked, at, now()))
    }
}

async fn read(on: &impl ConnectionTrait) -> Result<Millis, MetaError> {
    // All that use one file of SQLite's are on one machine.
    if on.get_database_backend() != DatabaseBackend::Postgres {
        return Ok(now());
    }
    let select = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) AS at";
    let read: Option<Reading> = sql::one(on, select, []).await?;
    read.map(|read| read.at).ok_or(MetaError::Corrupt("time"))
}

/// It was asked at one time and had answered at another: what lies between may be so.
fn ahead(asked: Millis, at: Millis, answered: Millis) -> Millis {
    if at < asked { at.saturating_sub(asked) } else { at.saturating_sub(answered).max(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_an_answer_takes_does_not_count() {
        for (at, expected) in [(900, -100), (1_000, 0), (1_500, 0), (2_000, 0), (2_100, 100)] {
            assert_eq!(ahead(1_000, at, 2_000), expected, "{at}");
        }
    }
}

//! Whose turn it is: of several nodes, one at a time cleans up.
//!
//! On PostgreSQL a turn is a lock that a connection holds, so that it ends with the node, whatever ends that. It keeps nobody from
//! doing harm: what nodes do beside each other is safe by itself. It keeps them from doing the same work twice. SQLite is one
//! node's own, which takes turns with itself.

use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseTransaction, FromQueryResult, TransactionTrait};

use super::{Meta, MetaError, sql};

/// The key of the lock; any number that no other program uses in the same database.
const TURN_LOCK: i64 = 0x7069_6572_6763;

/// A turn. It ends when this is dropped.
pub(crate) struct Turn {
    lock: Option<DatabaseTransaction>,
}

#[derive(FromQueryResult)]
struct Taken {
    taken: bool,
}

impl Meta {
    /// Takes the turn, unless somebody has it.
    pub(crate) async fn turn(&self) -> Result<Option<Turn>, MetaError> {
        if self.connections.get_database_backend() != DatabaseBackend::Postgres {
            return Ok(Some(Turn { lock: None }));
        }
        let lock = self.connections.begin().await?;
        let select = format!("SELECT pg_try_advisory_xact_lock({TURN_LOCK}) AS taken");
        let taken = sql::one::<Taken>(&lock, &select, []).await?.is_some_and(|row| row.taken);
        Ok(taken.then_some(Turn { lock: Some(lock) }))
    }
}

impl Turn {
    /// Fails once the connection is gone that holds the lock, and with it the turn.
    pub(crate) async fn holds(&self) -> Result<(), MetaError> {
        if let Some(lock) = &self.lock {
            lock.execute_unprepared("SELECT 1").await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::meta::scratch::Scratch;

    #[tokio::test]
    async fn nodes_take_turns() {
        let database = Scratch::postgres().await;
        let (one, other) = (database.open().await, database.open().await);
        let turn = one.turn().await.unwrap().unwrap();
        assert!(other.turn().await.unwrap().is_none() && one.turn().await.unwrap().is_none());
        turn.holds().await.unwrap();
        drop(turn);
        pierhead_tests::eventually("the lock is let go", std::time::Duration::from_secs(10), async || {
            other.turn().await.unwrap()
        })
        .await;
    }
}

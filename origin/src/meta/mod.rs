//! The database: repositories and what they hold, accounts, keys, and who did what. SQL appears nowhere else.
//!
//! SQLite and PostgreSQL run the same code. What PostgreSQL does by locking rows, SQLite does by having one writer at a time: every
//! change is a [`Change`], one transaction, and what it saw is still so when it commits.
//!
//! Invariant: what was told to a client is committed before it hears of it.

mod entity;
mod error;
mod migration;
mod open;

use std::time::{SystemTime, UNIX_EPOCH};

use sea_orm::{DatabaseConnection, DatabaseTransaction, SqliteTransactionMode, TransactionOptions, TransactionTrait};

pub(crate) use entity::accounts::{AccountKind, Superuser, TeamRole};
pub(crate) use entity::repositories::{RepositoryState, Role, Visibility};
pub(crate) use error::MetaError;
pub(crate) use open::OpenError;

/// Milliseconds since the epoch: how the database knows time.
pub(crate) type Millis = i64;

/// The time as the database knows it.
pub(crate) fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The database. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Meta {
    connections: DatabaseConnection,
}

/// A change: all of it or nothing. Dropped before [`Change::commit`], nothing.
pub(crate) struct Change {
    transaction: DatabaseTransaction,
}

impl Meta {
    /// Begins a change.
    pub(crate) async fn change(&self) -> Result<Change, MetaError> {
        // A transaction of SQLite's that begins by reading may find at its first write that another was faster. One that says
        // at once that it will write waits for its turn.
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        Ok(Change { transaction: self.connections.begin_with_options(options).await? })
    }
}

impl Change {
    /// Makes it so.
    pub(crate) async fn commit(self) -> Result<(), MetaError> {
        Ok(self.transaction.commit().await?)
    }
}

//! The database: repositories and what they hold, accounts, keys, and who did what. SQL appears nowhere else.
//!
//! SQLite and PostgreSQL run the same code. What PostgreSQL does by locking rows, SQLite does by having one writer at a time: every
//! change is a [`Change`], one transaction, and what it saw is still so when it commits.
//!
//! Invariant: what was told to a client is committed before it hears of it.

mod accounts;
mod actions;
mod app_tokens;
mod backup;
mod blobs;
mod census;
mod clock;
mod defaults;
mod entity;
mod error;
mod expiration;
mod garbage;
mod history;
mod listing;
mod logins;
mod manifests;
#[cfg(test)]
mod many;
mod migration;
mod open;
mod open_error;
mod permissions;
mod ping;
mod repositories;
mod robots;
#[cfg(test)]
pub(crate) mod scratch;
mod service_keys;
mod sql;
mod superusers;
mod tags;
mod teams;
#[cfg(test)]
mod tests;
mod turn;
mod unneeded;
mod uploads;
mod waiting;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DatabaseBackend, DatabaseConnection, DatabaseTransaction, DbErr,
    SqliteTransactionMode, TransactionOptions, TransactionTrait,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

pub(crate) use accounts::{Account, AccountEdit, NewAccount};
pub(crate) use actions::{Action, ActionCount, ActionFilter, ActionLine, Performer};
pub(crate) use app_tokens::{AppToken, NewAppToken};
pub(crate) use blobs::{Arrival, HeldBlob};
pub(crate) use census::Census;
pub(crate) use defaults::DefaultPermission;
pub(crate) use entity::accounts::{AccountKind, Superuser, TeamRole};
pub(crate) use entity::repositories::{RepositoryState, Role, Visibility};
pub(crate) use error::MetaError;
pub(crate) use history::{HistoryFilter, TagName, TagTime};
pub(crate) use listing::{Listing, RepositoryEdit};
pub(crate) use logins::LoginCell;
pub(crate) use manifests::{NewManifest, Put, Referrer};
pub(crate) use open_error::OpenError;
pub(crate) use permissions::{Facts, Grantee};
pub(crate) use repositories::{Repository, Viewer};
pub(crate) use service_keys::ServiceKey;
pub(crate) use tags::TagMove;
pub(crate) use teams::{Team, TeamSize};
pub(crate) use turn::Turn;
pub(crate) use unneeded::{Before, UnheldBlob, View};
pub(crate) use uploads::{Claim, Progress, UploadRow};

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
    /// SQLite's one writer. Who waits for its turn here holds no connection, so that reading goes on however long that takes.
    writer: Option<Arc<Semaphore>>,
    /// SQLite's, to see that it stays.
    file: Option<Arc<ping::OpenFile>>,
}

/// A change: all of it or nothing. Dropped before [`Change::commit`], nothing.
pub(crate) struct Change {
    transaction: DatabaseTransaction,
    _turn: Option<OwnedSemaphorePermit>,
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
        let _turn = match &self.writer {
            Some(writer) => Some(turn_of(writer).await?),
            None => None,
        };
        Ok(Change { transaction: self.connections.begin_with_options(options).await?, _turn })
    }
}

async fn turn_of(writer: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, MetaError> {
    let turn = timeout(open::BUSY, Arc::clone(writer).acquire_owned()).await;
    // It is never closed.
    turn.ok().and_then(Result::ok).ok_or(MetaError::Unavailable(DbErr::ConnectionAcquire(ConnAcquireErr::Timeout)))
}

impl Change {
    /// Makes it so. An answer that was lost leaves open whether it is: that is no [`MetaError::Unavailable`], which says that nothing was done.
    pub(crate) async fn commit(self) -> Result<(), MetaError> {
        self.transaction.commit().await.map_err(MetaError::of_commit)
    }

    /// At the end of a SELECT: nobody else reads these rows to change them, or changes them, before this change ends.
    fn locking(&self) -> &'static str {
        if self.locks_rows() { " FOR UPDATE" } else { "" }
    }

    /// The same, for the rows of some of the tables.
    fn locking_of(&self, tables: &str) -> String {
        if self.locks_rows() { format!(" FOR UPDATE OF {tables}") } else { String::new() }
    }

    /// At the end of a SELECT: nobody changes these rows before this change ends.
    fn sharing(&self) -> &'static str {
        if self.locks_rows() { " FOR SHARE" } else { "" }
    }

    /// The same, for the rows of some of the tables.
    fn sharing_of(&self, tables: &str) -> String {
        if self.locks_rows() { format!(" FOR SHARE OF {tables}") } else { String::new() }
    }

    /// SQLite locks all of them.
    fn locks_rows(&self) -> bool {
        self.transaction.get_database_backend() == DatabaseBackend::Postgres
    }
}

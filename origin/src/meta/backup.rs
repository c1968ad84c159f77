//! Copies of SQLite's database beside those who use it, and its end: one file that is whole.

use std::path::Path;
use std::time::Duration;

use sea_orm::FromQueryResult;
use tokio::time::timeout;

use super::{Meta, MetaError, sql};

/// Blobs that are read at a time.
const PAGE: i64 = 1000;
/// How long connections may take to be given back at the end.
const CLOSE: Duration = Duration::from_secs(10);

/// A blob whose bytes the store has.
#[derive(Clone, Debug, FromQueryResult)]
pub(crate) struct StoredBlob {
    /// The row.
    pub(crate) id: i64,
    /// Its digest.
    pub(crate) digest: String,
    /// In bytes.
    pub(crate) size: i64,
}

#[derive(FromQueryResult)]
struct Check {
    quick_check: String,
}

impl Meta {
    /// Writes the database as it is at one moment to a new file. Nothing waits for it, and it waits for nothing. SQLite only.
    pub(crate) async fn snapshot(&self, file: &Path) -> Result<(), MetaError> {
        let name = file.to_string_lossy().into_owned();
        sql::execute(&self.connections, "VACUUM INTO $1", [name.into()]).await?;
        Ok(())
    }

    /// What is wrong with the file, in SQLite's words; `None`: nothing.
    pub(crate) async fn damage(&self) -> Result<Option<String>, MetaError> {
        let row: Option<Check> = sql::one(&self.connections, "PRAGMA quick_check(1)", []).await?;
        Ok(row.map(|row| row.quick_check).filter(|said| said != "ok"))
    }

    /// Blobs that the store must have, after this row.
    pub(crate) async fn stored_blobs(&self, after: i64) -> Result<Vec<StoredBlob>, MetaError> {
        let select = format!("SELECT id, digest, size FROM blob WHERE state = 1 AND id > $1 ORDER BY id LIMIT {PAGE}");
        sql::all(&self.connections, &select, [after.into()]).await
    }

    /// Ends all connections. The last of all processes that closes SQLite's database leaves one file, which is whole: a copy of it is a
    /// copy of all.
    pub(crate) async fn close(&self) {
        match timeout(CLOSE, self.connections.close_by_ref()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the database was not closed in order"),
            Err(_) => tracing::warn!("the database was not closed in time"),
        }
    }
}

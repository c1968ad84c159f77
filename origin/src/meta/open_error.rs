//! Why the database could not be opened.

use std::path::{Path, PathBuf};

use pierhead_config::DatabaseKind;
use sea_orm::DbErr;

use super::error::{is_full, is_io_in_sqlite};

/// Bytes that SQLite writes to open a file: its header, and a page of shared memory.
const OPENING: u64 = 64 << 10;

/// Why the database could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The directory of the database's file.
    #[error("database: {0}: {1}")]
    Directory(String, std::io::Error),
    /// The file of the authority that vouches for it.
    #[error("database: {0}: {1}")]
    Authority(String, std::io::Error),
    /// It cannot be reached, and why not.
    #[error("database: {0}: {1}")]
    Connect(String, String),
    /// It can be reached, and takes no changes.
    #[error("database: {0}: {1}")]
    Begin(String, DbErr),
    /// Its disk is full: its file, and the directory.
    #[error("database: {}: the disk is full: make room in {}", .0.display(), .1.display())]
    Full(PathBuf, PathBuf),
    /// The tables could not be made what this version needs.
    #[error("database: {0}: its tables cannot be brought up to date: {1}")]
    Migrate(String, DbErr),
    /// A file that this process may not write.
    #[error("database: {0}")]
    Owner(String),
    /// They are of a later version.
    #[error("database: its tables are of a later version of pierhead-origin")]
    Later,
}

impl OpenError {
    /// That the disk of SQLite's file is full; of a server's disk there is no directory to name.
    pub(crate) fn full(kind: &DatabaseKind) -> Option<OpenError> {
        let DatabaseKind::Sqlite(path) = kind else { return None };
        Some(OpenError::Full(path.clone(), path.parent().unwrap_or(Path::new(".")).to_owned()))
    }

    /// The same, if that is what an error comes from.
    pub(super) fn of_full_disk(error: &DbErr, kind: &DatabaseKind) -> Option<OpenError> {
        let OpenError::Full(file, directory) = OpenError::full(kind)? else { return None };
        let full = is_full(error) || (is_io_in_sqlite(error) && has_no_room(&directory));
        full.then_some(OpenError::Full(file, directory))
    }
}

/// Whether a disk has less room than SQLite needs to open a file.
fn has_no_room(directory: &Path) -> bool {
    rustix::fs::statvfs(directory).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < OPENING)
}

//! What can go wrong with the database.

use sea_orm::{DbErr, RuntimeErr, SqlErr};

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetaError {
    /// It cannot be reached, has no connection free, or takes too long: trying again later can help.
    #[error("the database is not available: {0}")]
    Unavailable(DbErr),
    /// Its disk has no room left: nothing was changed, and trying again helps once there is room.
    #[error("the disk of the database is full: {0}")]
    Full(DbErr),
    /// It met another change, which went on: trying again at once helps.
    #[error("it met another change")]
    Conflict,
    /// Something else was there first: of two who did the same at a time, one wins.
    #[error("it exists already")]
    Exists,
    /// It was taken away in the meantime.
    #[error("what it belongs to is gone")]
    Gone,
    /// A row that nobody here can have written.
    #[error("the database holds what is no {0}")]
    Corrupt(&'static str),
    /// Anything else: a fault of this program, or of the database.
    #[error("the database fails: {0}")]
    Broken(DbErr),
}

impl MetaError {
    /// Why a change may not have been made.
    pub(super) fn of_commit(error: DbErr) -> MetaError {
        match &error {
            DbErr::Exec(RuntimeErr::SqlxError(cause)) | DbErr::Query(RuntimeErr::SqlxError(cause))
                if cause.as_database_error().is_none() =>
            {
                MetaError::Broken(error)
            }
            _ => error.into(),
        }
    }
}

impl From<DbErr> for MetaError {
    fn from(error: DbErr) -> MetaError {
        match error.sql_err() {
            Some(SqlErr::UniqueConstraintViolation(_)) => return MetaError::Exists,
            Some(SqlErr::ForeignKeyConstraintViolation(_)) => return MetaError::Gone,
            _ => {}
        }
        match &error {
            _ if is_full(&error) => MetaError::Full(error),
            DbErr::Exec(cause) | DbErr::Query(cause) if is_conflict(cause) => MetaError::Conflict,
            DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => MetaError::Unavailable(error),
            DbErr::Exec(cause) | DbErr::Query(cause) if is_passing(cause) => MetaError::Unavailable(error),
            _ => MetaError::Broken(error),
        }
    }
}

/// Whether the database ended one of two changes that waited for each other, or saw the same differently (class 40 of PostgreSQL's).
fn is_conflict(cause: &RuntimeErr) -> bool {
    let RuntimeErr::SqlxError(cause) = cause else { return false };
    let code = cause.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code.len() == 5 && code.starts_with("40"))
}

/// Whether the disk of the database has no room left.
pub(super) fn is_full(error: &DbErr) -> bool {
    code(error).is_some_and(|code| match code.len() {
        // PostgreSQL's `disk_full`.
        5 => code == "53100",
        // SQLITE_FULL, and SQLITE_IOERR_SHMSIZE: the file of shared memory cannot grow.
        _ => code == "13" || code == "4874",
    })
}

/// Whether SQLite met an error of the file system whose cause it does not tell.
pub(super) fn is_io_in_sqlite(error: &DbErr) -> bool {
    code(error).filter(|code| code.len() != 5).and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| {
        // SQLITE_IOERR and SQLITE_CANTOPEN.
        matches!(code & 0xff, 10 | 14)
    })
}

/// The code of the database's answer.
fn code(error: &DbErr) -> Option<String> {
    let (DbErr::Conn(cause) | DbErr::Exec(cause) | DbErr::Query(cause)) = error else { return None };
    let RuntimeErr::SqlxError(cause) = cause else { return None };
    Some(cause.as_database_error()?.code()?.into_owned())
}

/// Whether the connection failed, and not the statement; or the statement was ended from outside.
fn is_passing(cause: &RuntimeErr) -> bool {
    let RuntimeErr::SqlxError(cause) = cause else { return false };
    match cause.as_database_error() {
        // PostgreSQL, appendix A: connection exceptions, insufficient resources, operator
        // intervention (a shutdown, a statement past its time), and a server that takes no changes, as it is after a failover.
        Some(error) => error.code().is_some_and(|code| {
            if code.len() == 5 {
                ["08", "25006", "53", "57"].iter().any(|class| code.starts_with(class))
            } else {
                code.parse().is_ok_and(is_passing_in_sqlite)
            }
        }),
        // Everything that is no answer of the database: the connection broke, the pool is closed or has none.
        None => true,
    }
}

/// SQLite's result codes, of which the lowest byte says what it is about: busy, locked, out of memory, a file system that is read-only, fails,
/// or does not open the file.
fn is_passing_in_sqlite(code: u32) -> bool {
    matches!(code & 0xff, 5 | 6 | 7 | 8 | 10 | 14)
}

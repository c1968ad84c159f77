//! `pierhead-origin backup DIR` and `restore DIR`: a node's database and blobs, copied beside the running registry.
//!
//! ```text
//! DIR/meta.db                 the database at one moment
//! DIR/blobs/sha256/ab/<hex>   every blob that it knows
//! DIR/backup.json             what the backup holds; written last: without it the backup is not whole
//! ```
//!
//! Invariant: each blob that the copied database knows is in the copy, or is named as missing. A garbage collection may delete a blob after
//! the database was copied; then the database is copied again, without that blob, until nothing is missing or the store has lost it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use pierhead_config::{Database, DatabaseKind, OriginConfig, Problems, Storage};
use pierhead_registry::oci::Digest;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::meta::{Meta, MetaError, OpenError, now};
use crate::outcome::Outcome;
use crate::owner;

/// The layout that this version writes and reads.
const VERSION: u32 = 1;
/// How often the database is copied again because blobs went in the meantime.
const ROUNDS: u32 = 10;
/// Missing blobs that are named.
const NAMED: usize = 20;

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] Problems),
    /// No runtime.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    /// PostgreSQL has tools of its own.
    #[error(
        "database.postgres: this command copies SQLite only. For PostgreSQL: set `garbage_collection.interval: never` and restart the nodes, run \
         `pg_dump --format=custom`, copy `storage.file_system.path` or the bucket, then set the interval back; restore with `pg_restore`, the blobs first"
    )]
    Postgres,
    /// The database.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// A file.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    /// Where the copy should go is something already.
    #[error("{0}: is not empty; name a new directory for each backup")]
    NotEmpty(PathBuf),
    /// Where the registry should go is one already.
    #[error("{0}: is there already; stop the registry, and move its database and blobs away first")]
    Occupied(PathBuf),
    /// No backup.
    #[error("{0}: is not a whole backup: its backup.json {1}")]
    NotWhole(PathBuf, String),
    /// SQLite found damage.
    #[error("{0}: is damaged: {1}")]
    Damaged(PathBuf, String),
    /// There is no database to copy.
    #[error("{0}: there is no database")]
    NoDatabase(PathBuf),
}

/// `backup.json`
#[derive(Debug, Serialize, Deserialize)]
struct Summary {
    version: u32,
    /// The registry's `hostname`.
    hostname: String,
    /// Milliseconds since the epoch.
    created: i64,
    blobs: u64,
    bytes: u64,
    /// Digests that the store did not have, or not whole.
    missing: Vec<String>,
    /// Whether the blobs are in the backup: those of a bucket are not.
    with_blobs: bool,
}

/// What was done with the blobs of a database.
#[derive(Default)]
struct Tally {
    blobs: u64,
    bytes: u64,
    missing: Vec<String>,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |error| BackupError::File(path, error)
}

fn runtime() -> Result<tokio::runtime::Runtime, BackupError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(BackupError::Runtime)
}

/// SQLite's file.
fn sqlite(config: &OriginConfig) -> Result<&Path, BackupError> {
    match &config.database.kind {
        DatabaseKind::Sqlite(path) => Ok(path),
        DatabaseKind::Postgres { .. } => Err(BackupError::Postgres),
    }
}

fn blobs(storage: &Storage) -> Option<&Path> {
    match storage {
        Storage::FileSystem { path } => Some(path),
        Storage::S3(_) => None,
    }
}

/// The same database, in another file.
async fn open(config: &OriginConfig, file: &Path) -> Result<Meta, OpenError> {
    let kind = DatabaseKind::Sqlite(file.to_owned());
    Meta::open(&Database { kind, ..config.database.clone() }).await
}

/// Copies what a configuration names to a new directory.
pub(crate) fn backup(config: &Path, directory: &Path) -> Result<Outcome, BackupError> {
    let config = OriginConfig::load_unserved(config)?;
    let database = sqlite(&config)?;
    if !database.exists() {
        return Err(BackupError::NoDatabase(database.to_owned()));
    }
    let directory = &std::path::absolute(directory).map_err(at(directory))?;
    owner::make_directory(directory).map_err(at(directory))?;
    if fs::read_dir(directory).map_err(at(directory))?.next().is_some() {
        return Err(BackupError::NotEmpty(directory.clone()));
    }
    runtime()?.block_on(async {
        let meta = open(&config, database).await?;
        let tally = copied(&config, &meta, directory).await;
        meta.close().await;
        finished(&config, directory, tally?)
    })
}

async fn copied(config: &OriginConfig, meta: &Meta, directory: &Path) -> Result<Tally, BackupError> {
    let (copy, tree) = (directory.join("meta.db"), directory.join("blobs"));
    let mut tally = Tally::default();
    for round in 0..ROUNDS {
        let next = directory.join("meta.db.new");
        meta.snapshot(&next).await?;
        let before = std::mem::take(&mut tally.missing);
        if let Some(from) = blobs(&config.storage) {
            let snapshot = open(config, &next).await?;
            let found =
                each_blob(&snapshot, |digest, size| link(&place(from, digest), &place(&tree, digest), size)).await;
            snapshot.close().await;
            tally = found?;
        }
        sync(&next)?;
        fs::rename(&next, &copy).map_err(at(&copy))?;
        // What is missing twice was not taken away in between: the store has lost it.
        if tally.missing.is_empty() || (round > 0 && tally.missing == before) {
            break;
        }
    }
    Ok(tally)
}

fn finished(config: &OriginConfig, directory: &Path, tally: Tally) -> Result<Outcome, BackupError> {
    let with_blobs = blobs(&config.storage).is_some();
    let summary = Summary {
        version: VERSION,
        hostname: config.hostname.clone(),
        created: now(),
        blobs: tally.blobs,
        bytes: tally.bytes,
        missing: tally.missing,
        with_blobs,
    };
    let file = directory.join("backup.json");
    let written = directory.join("backup.json.new");
    fs::write(&written, serde_json::to_vec_pretty(&summary).unwrap_or_default()).map_err(at(&written))?;
    sync(&written)?;
    fs::rename(&written, &file).map_err(at(&file))?;
    sync(directory)?;
    let mut text = match with_blobs {
        true => format!("{}: the database and {} blobs of {} bytes", directory.display(), summary.blobs, summary.bytes),
        false => format!(
            "{}: the database. The blobs stay in the bucket: keep its old versions for longer than this backup, or copy it now",
            directory.display()
        ),
    };
    text.push_str(&named(&summary.missing, "the store does not have them, or not whole"));
    Ok(Outcome::new(text, json!({ "directory": directory, "summary": summary })))
}

fn named(missing: &[String], why: &str) -> String {
    if missing.is_empty() {
        return String::new();
    }
    let more = if missing.len() > NAMED { ", …" } else { "" };
    format!("\n{} blobs are missing ({why}): {}{more}", missing.len(), missing[..missing.len().min(NAMED)].join(", "))
}

/// Makes a new registry of a backup.
pub(crate) fn restore(config: &Path, directory: &Path) -> Result<Outcome, BackupError> {
    let config = OriginConfig::load_unserved(config)?;
    let database = sqlite(&config)?;
    let summary = summary(directory)?;
    if let Some(there) = owner::files_of(database).into_iter().find(|file| file.exists()) {
        return Err(BackupError::Occupied(there));
    }
    if let Some(parent) = database.parent() {
        owner::make_directory(parent).map_err(at(parent))?;
    }
    // Under another name until all of it is there: a registry that starts meanwhile finds none.
    let mut new = database.as_os_str().to_owned();
    new.push(".restoring");
    let new = PathBuf::from(new);
    fs::copy(directory.join("meta.db"), &new).map_err(at(&directory.join("meta.db")))?;
    runtime()?.block_on(async {
        let meta = open(&config, &new).await?;
        let tally = restored(&config, &meta, directory, summary.with_blobs).await;
        meta.close().await;
        let tally = tally?;
        sync(&new)?;
        fs::rename(&new, database).map_err(at(database))?;
        owner::adopt(database);
        database.parent().map(sync).transpose()?;
        let mut text = match blobs(&config.storage) {
            Some(path) => format!(
                "{}: restored, with {} blobs of {} bytes below {}",
                database.display(),
                tally.blobs,
                tally.bytes,
                path.display()
            ),
            None => format!("{}: restored; its blobs are those of the bucket", database.display()),
        };
        text.push_str(&named(&tally.missing, "the backup does not have them, or not whole"));
        let json =
            json!({ "database": database, "blobs": tally.blobs, "bytes": tally.bytes, "missing": tally.missing });
        Ok(Outcome::new(text, json))
    })
}

fn summary(directory: &Path) -> Result<Summary, BackupError> {
    let not_whole = |why: String| BackupError::NotWhole(directory.to_owned(), why);
    let read =
        fs::read(directory.join("backup.json")).map_err(|error| not_whole(format!("cannot be read: {error}")))?;
    let summary: Summary =
        serde_json::from_slice(&read).map_err(|error| not_whole(format!("is not valid: {error}")))?;
    if summary.version == VERSION {
        Ok(summary)
    } else {
        Err(not_whole(format!("is of version {}, and this program reads version {VERSION}", summary.version)))
    }
}

async fn restored(
    config: &OriginConfig,
    meta: &Meta,
    directory: &Path,
    with_blobs: bool,
) -> Result<Tally, BackupError> {
    if let Some(damage) = meta.damage().await? {
        return Err(BackupError::Damaged(directory.join("meta.db"), damage));
    }
    let (Some(tree), true) = (blobs(&config.storage), with_blobs) else { return Ok(Tally::default()) };
    let from = directory.join("blobs");
    each_blob(meta, |digest, size| copy(&place(&from, digest), &place(tree, digest), size)).await
}

/// Puts each blob of a database in its place. `put`: whether it is there now.
async fn each_blob(meta: &Meta, put: impl Fn(&Digest, u64) -> Result<bool, BackupError>) -> Result<Tally, BackupError> {
    let (mut tally, mut last) = (Tally::default(), 0);
    loop {
        let rows = meta.stored_blobs(last).await?;
        let Some(row) = rows.last() else { return Ok(tally) };
        last = row.id;
        for row in rows {
            let digest: Digest = row.digest.parse().map_err(|_| MetaError::Corrupt("digest"))?;
            let size = u64::try_from(row.size).map_err(|_| MetaError::Corrupt("size"))?;
            if put(&digest, size)? {
                tally.blobs += 1;
                tally.bytes += size;
            } else {
                tally.missing.push(row.digest);
            }
        }
    }
}

/// Where the store of files keeps a blob.
fn place(root: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    root.join(digest.algorithm().as_str()).join(&hex[..2]).join(hex)
}

fn is_whole(path: &Path, size: u64) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == size)
}

/// By a second name where the file system can: a blob's file is never written again.
fn link(from: &Path, to: &Path, size: u64) -> Result<bool, BackupError> {
    if is_whole(to, size) {
        return Ok(true);
    }
    if !is_whole(from, size) {
        return Ok(false);
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(at(folder))?;
    }
    match fs::hard_link(from, to) {
        Ok(()) => Ok(true),
        // It was taken away just now.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(_) => copy(from, to, size),
    }
}

/// Copies a file, so that what has its name is whole at any time.
fn copy(from: &Path, to: &Path, size: u64) -> Result<bool, BackupError> {
    if is_whole(to, size) {
        return Ok(true);
    }
    if let Some(folder) = to.parent() {
        owner::make_directory(folder).map_err(at(folder))?;
    }
    let new = to.with_extension("new");
    match fs::copy(from, &new) {
        Ok(copied) if copied == size => {}
        Ok(_) => {
            fs::remove_file(&new).map_err(at(&new))?;
            return Ok(false);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(BackupError::File(from.to_owned(), error)),
    }
    sync(&new)?;
    fs::rename(&new, to).map_err(at(to))?;
    owner::adopt(to);
    Ok(true)
}

/// Makes a file, or the names in a directory, survive a power failure.
fn sync(path: &Path) -> Result<(), BackupError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(at(path))
}

//! Opening the database: connections with limits, and the tables brought up to date, by one node at a time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pierhead_config::{Database, DatabaseKind, DatabaseTls};
use sea_orm::{
    ConnectOptions, ConnectionTrait, DatabaseBackend, DbErr, SqliteTransactionMode, TransactionOptions,
    TransactionTrait,
};
use sea_orm_migration::MigratorTrait;
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Meta;
use super::migration::Migrator;
use super::open_error::OpenError;
use super::ping::OpenFile;
use crate::owner;

/// The key of the lock under which tables are changed; any number that no other program uses in the same database.
const MIGRATION_LOCK: i64 = 0x7069_6572_6d69;

/// How long a change waits for its turn at SQLite's one writer, which may be another process: `pierhead-origin user`.
pub(super) const BUSY: Duration = Duration::from_secs(10);

impl Meta {
    /// Connects, and brings the tables up to date.
    pub(crate) async fn open(database: &Database) -> Result<Meta, OpenError> {
        let place = place(&database.kind);
        let mut server = None;
        let options = match &database.kind {
            DatabaseKind::Sqlite(path) => {
                let options = sqlite(path)?;
                if let Some(objection) = owner::objection_to(path) {
                    return Err(OpenError::Owner(objection));
                }
                options
            }
            DatabaseKind::Postgres { url, password, tls, ca } => {
                let mut options = ConnectOptions::new(url.as_str());
                let password = password.as_ref().map(|secret| secret.reveal().to_owned());
                let mode = ssl_mode(*tls);
                let read = |path: &PathBuf| {
                    std::fs::read(path).map_err(|error| OpenError::Authority(path.display().to_string(), error))
                };
                let ca = ca.as_ref().map(read).transpose()?;
                options.statement_timeout(database.statement_timeout);
                let as_configured = move |mut postgres: PgConnectOptions| {
                    postgres = postgres.ssl_mode(mode).application_name("pierhead-origin");
                    if let Some(password) = &password {
                        postgres = postgres.password(password);
                    }
                    if let Some(ca) = &ca {
                        postgres = postgres.ssl_root_cert_from_pem(ca.clone());
                    }
                    postgres
                };
                server = url.as_str().parse().ok().map(&as_configured);
                options.map_sqlx_postgres_opts(as_configured);
                options
            }
        };
        let mut options = options;
        options
            .max_connections(database.max_connections)
            .min_connections(database.min_connections)
            .connect_timeout(database.connect_timeout)
            .acquire_timeout(database.connect_timeout)
            .sqlx_logging(false);
        let connections = match sea_orm::Database::connect(options).await {
            Ok(connections) => connections,
            Err(error) => {
                if let Some(full) = OpenError::of_full_disk(&error, &database.kind) {
                    return Err(full);
                }
                let reason = match &server {
                    Some(server) => refusal(server, database.connect_timeout).await,
                    None => None,
                };
                let reason = reason.unwrap_or_else(|| error.to_string());
                return Err(OpenError::Connect(place, with_key(reason, &database.kind)));
            }
        };
        let writer = matches!(database.kind, DatabaseKind::Sqlite(_)).then(|| Arc::new(Semaphore::new(1)));
        let mut meta = Meta { connections, writer, file: None };
        meta.migrate(&place).await.map_err(|error| {
            let (OpenError::Migrate(_, cause) | OpenError::Begin(_, cause)) = &error else { return error };
            OpenError::of_full_disk(cause, &database.kind).unwrap_or(error)
        })?;
        if let DatabaseKind::Sqlite(path) = &database.kind {
            owner::files_of(path).iter().for_each(|file| owner::adopt(file));
            let file = OpenFile::of(path).map_err(|error| OpenError::Directory(place, error))?;
            meta.file = Some(Arc::new(file));
        }
        Ok(meta)
    }

    /// Brings the tables up to date. Nodes that start together take turns; those that come second find nothing to do.
    async fn migrate(&self, place: &str) -> Result<(), OpenError> {
        let migrate = |error| OpenError::Migrate(place.to_owned(), error);
        let begin = |error| OpenError::Begin(place.to_owned(), error);
        // SQLite's one writer, from the beginning: another process may be about to do the same.
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let turn = self.connections.begin_with_options(options).await.map_err(begin)?;
        if self.connections.get_database_backend() == DatabaseBackend::Postgres {
            let waits = format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})");
            // The migrator asks for its table again and again, and the server would tell each time that it is there.
            turn.execute_unprepared("SET LOCAL client_min_messages = warning").await.map_err(migrate)?;
            turn.execute_unprepared("SET LOCAL statement_timeout = 0").await.map_err(migrate)?;
            turn.execute_unprepared(&waits).await.map_err(migrate)?;
        }
        let outcome = Migrator::up(&turn, None).await;
        match outcome {
            Ok(()) => turn.commit().await.map_err(migrate),
            // What the migrator says when it meets a step that it does not know.
            Err(DbErr::Custom(message)) if message.contains("is missing") => Err(OpenError::Later),
            Err(error) => Err(migrate(error)),
        }
    }
}

/// Where it is, for who reads that it cannot be reached.
fn place(kind: &DatabaseKind) -> String {
    match kind {
        DatabaseKind::Sqlite(path) => path.display().to_string(),
        DatabaseKind::Postgres { url, .. } => {
            format!("{}:{}{}", url.host_str().unwrap_or_default(), url.port().unwrap_or(5432), url.path())
        }
    }
}

/// Why a server does not let us in: of the pool one hears only that it waited. `None`: now it does.
async fn refusal(server: &PgConnectOptions, limit: Duration) -> Option<String> {
    match timeout(limit, PgConnection::connect_with(server)).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("it does not answer within {limit:?}")),
    }
}

fn sqlite(path: &Path) -> Result<ConnectOptions, OpenError> {
    if let Some(directory) = path.parent() {
        owner::make_directory(directory)
            .map_err(|error| OpenError::Directory(directory.display().to_string(), error))?;
    }
    let mut options = ConnectOptions::new("sqlite::memory:");
    let path = path.to_owned();
    options.map_sqlx_sqlite_opts(move |_: SqliteConnectOptions| {
        SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .busy_timeout(BUSY)
            // Readers do not wait for the writer, and what was committed survives a power failure.
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
    });
    // A file does not go away while nobody looks: what is tested is tested when it comes back.
    options.test_before_acquire(false).map_sqlx_sqlite_pool_opts(closing_unfinished);
    Ok(options)
}

/// Where the disk is full or fails, SQLite ends a transaction by itself, and the driver believes that it still goes on: what comes next
/// on that connection would be part of a transaction that nobody ever commits. Such a connection is closed.
fn closing_unfinished(pool: SqlitePoolOptions) -> SqlitePoolOptions {
    pool.after_release(|connection, _| {
        Box::pin(async move {
            if !connection.is_in_transaction() {
                return Ok(true);
            }
            // A transaction that was dropped is rolled back before this is answered.
            connection.ping().await?;
            let unfinished = connection.is_in_transaction();
            if unfinished {
                tracing::warn!("SQLite gave up a transaction: its connection is closed");
            }
            Ok(!unfinished)
        })
    })
}

/// Names the key that a failed TLS connection is about.
fn with_key(reason: String, kind: &DatabaseKind) -> String {
    let DatabaseKind::Postgres { tls, .. } = kind else { return reason };
    if reason.contains("does not support TLS") {
        format!("{reason}: set `database.tls: disable` to connect without it (it is `{}` now)", tls_word(*tls))
    } else if reason.contains("certificate") {
        format!("{reason}: see `database.ca` and `database.tls` (it is `{}` now)", tls_word(*tls))
    } else {
        reason
    }
}

fn tls_word(tls: DatabaseTls) -> &'static str {
    match tls {
        DatabaseTls::Disable => "disable",
        DatabaseTls::Prefer => "prefer",
        DatabaseTls::Require => "require",
        DatabaseTls::VerifyCa => "verify_ca",
        DatabaseTls::VerifyFull => "verify_full",
    }
}

fn ssl_mode(tls: DatabaseTls) -> PgSslMode {
    match tls {
        DatabaseTls::Disable => PgSslMode::Disable,
        DatabaseTls::Prefer => PgSslMode::Prefer,
        DatabaseTls::Require => PgSslMode::Require,
        DatabaseTls::VerifyCa => PgSslMode::VerifyCa,
        DatabaseTls::VerifyFull => PgSslMode::VerifyFull,
    }
}

#[cfg(test)]
mod tests {
    use pierhead_config::Secret;
    use pierhead_tests::postgres::Postgres;
    use pierhead_tests::server::certificate;
    use sea_orm::{FromQueryResult, Statement};

    use super::*;
    use crate::meta::{MetaError, sql};

    fn sqlite_in(directory: &Path, max_connections: u32) -> Database {
        Database {
            kind: DatabaseKind::Sqlite(directory.join("new/origin.db")),
            max_connections,
            min_connections: 0,
            connect_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(10),
        }
    }

    #[tokio::test]
    async fn opens_again_what_it_made() {
        let directory = tempfile::tempdir().unwrap();
        let database = sqlite_in(directory.path(), 2);
        for _ in 0..2 {
            let meta = Meta::open(&database).await.unwrap();
            meta.change().await.unwrap().commit().await.unwrap();
        }
        let meta = Meta::open(&database).await.unwrap();
        let later = "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_later', 0)";
        meta.connections.execute_unprepared(later).await.unwrap();
        assert!(matches!(Meta::open(&database).await, Err(OpenError::Later)));
    }

    #[tokio::test]
    async fn after_a_full_disk_what_is_committed_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let database = sqlite_in(directory.path(), 1);
        let meta = Meta::open(&database).await.unwrap();
        meta.connections.execute_unprepared("CREATE TABLE filled (text TEXT)").await.unwrap();
        // Of its only connection: no page more than there are.
        meta.connections.execute_unprepared("PRAGMA max_page_count = 1").await.unwrap();
        let large = "INSERT INTO filled VALUES (printf('%.*c', 100000, 'x'))";
        let change = meta.change().await.unwrap();
        let error = change.transaction.execute_unprepared(large).await.unwrap_err();
        assert!(matches!(MetaError::from(error), MetaError::Full(_)));
        drop(change);
        // Another that is given up, and one that has room again.
        drop(meta.change().await.unwrap());
        let change = meta.change().await.unwrap();
        change.transaction.execute_unprepared("PRAGMA max_page_count = 100000").await.unwrap();
        change.transaction.execute_unprepared(large).await.unwrap();
        change.commit().await.unwrap();
        let other = Meta::open(&database).await.unwrap();
        let rows =
            other.connections.query_all_raw(Statement::from_string(DatabaseBackend::Sqlite, "SELECT * FROM filled"));
        assert_eq!(rows.await.unwrap().len(), 1);
        other.change().await.unwrap().commit().await.unwrap();
    }

    #[tokio::test]
    async fn while_another_process_writes_readers_read() {
        let directory = tempfile::tempdir().unwrap();
        let database = sqlite_in(directory.path(), 3);
        let (meta, other) = (Meta::open(&database).await.unwrap(), Meta::open(&database).await.unwrap());
        let blocking = other.change().await.unwrap();
        let waiting: Vec<_> = (0..5)
            .map(|_| {
                let meta = meta.clone();
                tokio::spawn(async move { meta.change().await.unwrap().commit().await.unwrap() })
            })
            .collect();
        pierhead_tests::eventually("one of them waits at the file", Duration::from_secs(10), async || {
            (meta.writer.as_ref().unwrap().available_permits() == 0).then_some(())
        })
        .await;
        tokio::time::timeout(Duration::from_secs(5), meta.account("nobody")).await.unwrap().unwrap();
        assert!(waiting.iter().all(|task| !task.is_finished()));
        drop(blocking);
        for task in waiting {
            task.await.unwrap();
        }
    }

    #[derive(FromQueryResult)]
    struct Connection {
        ssl: bool,
    }

    #[tokio::test]
    async fn postgres_over_tls_is_who_it_says_it_is() {
        pierhead_service::crypto::install().unwrap();
        let (postgres, authority) = Postgres::start_with_tls(&["localhost"]).await;
        let directory = tempfile::tempdir().unwrap();
        let (other, ..) = certificate(directory.path(), &["localhost"]);
        let section = postgres.section();
        let open = async |host: &str, tls: DatabaseTls, ca: Option<&Path>| {
            let mut url: url::Url = section["postgres"].as_str().unwrap().parse().unwrap();
            url.set_host(Some(host)).unwrap();
            let password = section["password"].as_str().map(Secret::new);
            let database = Database {
                kind: DatabaseKind::Postgres { url, password, tls, ca: ca.map(Path::to_owned) },
                max_connections: 2,
                min_connections: 0,
                connect_timeout: Duration::from_secs(10),
                statement_timeout: Duration::from_secs(10),
            };
            Meta::open(&database).await
        };
        for (host, tls, ca) in [
            ("localhost", DatabaseTls::VerifyFull, Some(authority.as_path())),
            ("127.0.0.1", DatabaseTls::VerifyCa, Some(&authority)),
            ("127.0.0.1", DatabaseTls::Require, None),
            ("127.0.0.1", DatabaseTls::Prefer, None),
        ] {
            let meta = open(host, tls, ca).await.unwrap();
            let select = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
            let connection: Option<Connection> = sql::one(&meta.connections, select, []).await.unwrap();
            assert!(connection.unwrap().ssl, "{host} {tls:?}");
        }
        for (host, tls, ca, reason) in [
            ("127.0.0.1", DatabaseTls::VerifyFull, Some(authority.as_path()), "certificate"),
            ("localhost", DatabaseTls::VerifyFull, Some(&other), "certificate"),
            ("localhost", DatabaseTls::VerifyCa, Some(&other), "certificate"),
            ("localhost", DatabaseTls::VerifyFull, None, "certificate"),
            ("localhost", DatabaseTls::VerifyFull, Some(Path::new("/nowhere.crt")), "/nowhere.crt"),
            ("localhost", DatabaseTls::Disable, None, "encryption"),
        ] {
            let error = open(host, tls, ca).await.unwrap_err().to_string();
            assert!(error.contains(reason), "{host} {tls:?} {ca:?}: {error}");
        }
    }
}

//! Databases for tests: one of each kind, so that every test of what the database does runs on both.

use std::time::Duration;

use pierhead_config::{Database, DatabaseKind, DatabaseTls, Secret};
use pierhead_tests::postgres::Postgres;
use tempfile::TempDir;

use super::Meta;

/// A database of a test's own.
pub(crate) struct Scratch {
    /// How to open it.
    pub(crate) settings: Database,
    directory: TempDir,
    _postgres: Option<Postgres>,
}

impl Scratch {
    /// SQLite.
    pub(crate) async fn sqlite() -> Scratch {
        let directory = tempfile::tempdir().unwrap();
        let kind = DatabaseKind::Sqlite(directory.path().join("origin.db"));
        Scratch { settings: settings(kind), directory, _postgres: None }
    }

    /// PostgreSQL.
    pub(crate) async fn postgres() -> Scratch {
        let postgres = Postgres::start().await;
        let section = postgres.section();
        let kind = DatabaseKind::Postgres {
            url: section["postgres"].as_str().unwrap().parse().unwrap(),
            password: section["password"].as_str().map(Secret::new),
            tls: DatabaseTls::Disable,
            ca: None,
        };
        Scratch { settings: settings(kind), directory: tempfile::tempdir().unwrap(), _postgres: Some(postgres) }
    }

    /// Opens it.
    pub(crate) async fn open(&self) -> Meta {
        Meta::open(&self.settings).await.unwrap()
    }

    /// Waits until somebody waits for a lock of this database's; on SQLite, where nobody can see that, not at all.
    pub(crate) async fn somebody_waits(&self, meta: &Meta) {
        if self._postgres.is_some() {
            pierhead_tests::eventually("somebody waits for a lock", Duration::from_secs(10), async || {
                let select = "SELECT pid FROM pg_locks WHERE NOT granted";
                let waiting = super::sql::execute(&meta.connections, select, []).await.unwrap();
                (waiting > 0).then_some(())
            })
            .await;
        }
    }

    /// A directory that lives as long.
    pub(crate) fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }
}

/// Makes everything so much older, as if time had passed.
pub(crate) async fn time_passes(meta: &Meta, by: Duration) {
    let by = i64::try_from(by.as_millis()).unwrap();
    for (table, column) in [
        ("manifest", "pushed"),
        ("manifest", "deleted"),
        ("tag", "started"),
        ("tag", "ended"),
        ("tag", "expires"),
        ("repository_blob", "expires"),
        ("blob", "leaving_until"),
        ("upload", "touched"),
        ("upload", "writer_until"),
        ("action", "at"),
    ] {
        let update = format!("UPDATE {table} SET {column} = {column} - $1");
        super::sql::execute(&meta.connections, &update, [by.into()]).await.unwrap();
    }
}

fn settings(kind: DatabaseKind) -> Database {
    Database {
        kind,
        max_connections: 4,
        min_connections: 0,
        connect_timeout: Duration::from_secs(10),
        statement_timeout: Duration::from_secs(10),
    }
}

/// Runs each of these functions, which take a [`Scratch`], as a test on each kind of database.
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test($crate::meta::scratch::Scratch::sqlite().await).await;
                }
            )+
        }
        mod postgres {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test($crate::meta::scratch::Scratch::postgres().await).await;
                }
            )+
        }
    };
}

pub(crate) use on_both;

//! `database`: a file of this node alone, or PostgreSQL for all nodes.

use std::time::Duration;

use url::Url;

use crate::credentials::{Given, PASSWORD, secret};
use crate::field::{Field, LONGEST, SHORTEST};
use crate::model::{Database, DatabaseKind, DatabaseTls};
use crate::section::Section;

/// More than a server of PostgreSQL can be made to take from one client.
const CONNECTIONS: u64 = 10_000;

/// The section: exactly one of the databases.
pub(super) fn database(field: Field<'_>) -> Option<Database> {
    let mut section = field.section()?;
    let sqlite = section.optional("sqlite", |field| sqlite(&field));
    let url = section.optional("postgres", |field| postgres(&field));
    let account = account(&mut section);
    let kind = match (sqlite, url) {
        (Some(Some(path)), Some(None)) => {
            let keys = ["password", "password_file", "password_env", "tls", "ca"];
            section.meaningless(&keys, "has a meaning only with `postgres`");
            Some(DatabaseKind::Sqlite(path))
        }
        (Some(None), Some(Some(url))) => {
            account.map(|(password, tls, ca)| DatabaseKind::Postgres { url, password, tls, ca })
        }
        (Some(None), Some(None)) | (Some(Some(_)), Some(Some(_))) => {
            section.problem("needs exactly one of `sqlite` and `postgres`");
            None
        }
        _ => None,
    };
    // Garbage collection holds its turn by one, and works by another.
    // Each of SQLite's is a thread with a cache of its own, and more than there are cores read no faster.
    let most = if matches!(kind, Some(DatabaseKind::Sqlite(_))) { 8 } else { 20 };
    let max_connections = section.number("max_connections", most, 2..=CONNECTIONS);
    let min_connections = section.number("min_connections", 1, 0..=CONNECTIONS);
    if min_connections > max_connections {
        section.problem("`min_connections` is more than `max_connections`");
    }
    let connect_timeout = section.duration("connect_timeout", Duration::from_secs(3), SHORTEST..=LONGEST);
    let statement_timeout = section.duration("statement_timeout", Duration::from_secs(10), SHORTEST..=LONGEST);
    section.finish();
    Some(Database {
        kind: kind?,
        max_connections: u32::try_from(max_connections).ok()?,
        min_connections: u32::try_from(min_connections).ok()?,
        connect_timeout,
        statement_timeout,
    })
}

fn sqlite(field: &Field<'_>) -> Option<std::path::PathBuf> {
    let path = field.path("the path of a file")?;
    if path.is_dir() {
        field.problem(format!("{}: is a directory", path.display()));
        return None;
    }
    Some(path)
}

fn postgres(field: &Field<'_>) -> Option<Url> {
    let expected = "a URL such as `postgres://user@host:5432/database`";
    let text = field.text(expected)?;
    let Ok(url) = Url::parse(&text) else {
        field.problem(format!("expected {expected}"));
        return None;
    };
    if url.password().is_some() {
        field.problem("a URL must not hold a password: use `password`, `password_file` or `password_env`");
        return None;
    }
    let whole = matches!(url.scheme(), "postgres" | "postgresql")
        && url.host_str().is_some_and(|host| !host.is_empty())
        && !url.username().is_empty()
        && url.path().strip_prefix('/').is_some_and(|name| !name.is_empty() && !name.contains('/'));
    if !whole || url.query().is_some() || url.fragment().is_some() {
        field.problem(format!("expected {expected}, with nothing after it"));
        return None;
    }
    Some(url)
}

/// Password and TLS. A password goes over the network, so that nothing less than a known server is the default.
type Account = (Option<crate::secret::Secret>, DatabaseTls, Option<std::path::PathBuf>);

fn account(section: &mut Section<'_>) -> Option<Account> {
    let password = match secret(section, PASSWORD) {
        Given::Wrong => None,
        Given::Nothing => Some(None),
        Given::Secret(password) => Some(Some(password)),
    };
    let modes = [
        ("disable", DatabaseTls::Disable),
        ("prefer", DatabaseTls::Prefer),
        ("require", DatabaseTls::Require),
        ("verify_ca", DatabaseTls::VerifyCa),
        ("verify_full", DatabaseTls::VerifyFull),
    ];
    let tls = section.choice("tls", DatabaseTls::VerifyFull, &modes);
    let ca = section.optional("ca", |field| field.readable_file());
    if !matches!(tls, DatabaseTls::VerifyCa | DatabaseTls::VerifyFull) {
        section.meaningless(&["ca"], "has a meaning only with `tls: verify_ca` or `verify_full`");
    }
    Some((password?, tls, ca?))
}

//! What is refused of an origin's configuration, and how it is said.

use std::path::Path;

use super::{load_origin, scratch};

/// What is well in the sections that a case does not write itself.
fn completed(text: &str) -> String {
    let mut whole = text.to_owned();
    for (key, rest) in [
        ("hostname:", "hostname: registry.example.com"),
        ("listener:", "listener: { bind: '127.0.0.1:5080' }"),
        ("storage:", "storage: { file_system: { path: blobs } }"),
        ("database:", "database: { sqlite: meta.db }"),
    ] {
        if !text.lines().any(|line| line.starts_with(key)) {
            whole.push_str(&format!("\n{rest}\n"));
        }
    }
    whole
}

#[test]
fn every_problem_has_its_path() {
    let directory = scratch();
    let shown = directory.path().display();
    let postgres = "expected a URL such as `postgres://user@host:5432/database`";
    let endpoint = "expected a URL such as `https://s3.example.com`, without a path";
    let s3 = |keys: &str| format!("storage: {{ s3: {{ bucket: b, {keys} }} }}");
    let cases: Vec<(String, Vec<String>)> = vec![
        ("listeners: []".into(), vec!["listeners: unknown key; did you mean `listener`?".into()]),
        (
            "hostname: Registry".into(),
            vec![
                "hostname: expected a host name such as `registry.example.com` or `localhost:5000`, in lower case"
                    .into(),
            ],
        ),
        (
            "listener: { bind: 'localhost:9091' }\nadmin: { bind: '0.0.0.0:9091', token: x }".into(),
            vec![
                "admin.bind: 0.0.0.0:9091 is already taken by listener.bind (127.0.0.1:9091)".into(),
                "admin.token: unknown key; the keys here are bind".into(),
            ],
        ),
        (
            "listener: { bind: 'localhost:1', tls: { cert: a.crt }, trusted_proxies: [10.0.0.1/8] }".into(),
            vec![
                "listener.tls.key: is missing".into(),
                "listener.trusted_proxies[0]: has bits beyond its prefix; did you mean `10.0.0.0/8`?".into(),
            ],
        ),
        // Storage.
        ("storage: {}".into(), vec!["storage: needs exactly one of `file_system` and `s3`".into()]),
        (
            "storage: { file_system: { path: a }, s3: { bucket: b } }".into(),
            vec!["storage: needs exactly one of `file_system` and `s3`".into()],
        ),
        (
            "storage: { file_system: { path: empty } }".into(),
            vec![format!("storage.file_system.path: {shown}/empty: is not a directory")],
        ),
        (
            "storage: { s3: { bucket: 'a b', prefix: 'a//b', endpoint: 'https://u:secret@a' } }".into(),
            vec![
            "storage.s3.endpoint: a URL must not hold credentials: use `access_key_id` and `secret_access_key`".into(),
            "storage.s3.bucket: expected the name of a bucket".into(),
            "storage.s3.prefix: expected a prefix of keys such as `datastorage/registry`: letters, digits, `_`, `-`, \
             `.` and `/`".into(),
        ],
        ),
        (s3("endpoint: 'https://a/b'"), vec![format!("storage.s3.endpoint: {endpoint}")]),
        (s3("endpoint: 'ftp://a'"), vec![format!("storage.s3.endpoint: {endpoint}")]),
        (
            s3("endpoint: 'http://a', ca: a.crt"),
            vec!["storage.s3.ca: has a meaning only with an https:// endpoint".into()],
        ),
        (
            s3("access_key_id: me"),
            vec![
                "storage.s3: `access_key_id` needs one of `secret_access_key`, `secret_access_key_file` and \
             `secret_access_key_env` beside it"
                    .into(),
            ],
        ),
        (
            s3("secret_access_key: x"),
            vec!["storage.s3: the secret of an access key needs `access_key_id` beside it".into()],
        ),
        (
            s3("access_key_id: me, secret_access_key: x, secret_access_key_file: password"),
            vec![
                "storage.s3: needs exactly one of `secret_access_key`, `secret_access_key_file` and \
             `secret_access_key_env`"
                    .into(),
            ],
        ),
        (
            s3("part_size: 1MiB"),
            vec!["storage.s3.part_size: expected a size from 5.0 MiB to 512.0 MiB, found \"1MiB\"".into()],
        ),
        (
            s3("part_size: 5MiB") + "\nlimits: { max_layer_size: 1TiB }",
            vec!["storage: `s3.part_size` is too small for `limits.max_layer_size`: 10000 parts hold 48.8 GiB".into()],
        ),
        ("pulls: redirect".into(), vec!["pulls: `redirect` has a meaning only with `storage.s3`".into()]),
        ("redirect_lifetime: 5m".into(), vec!["redirect_lifetime: has a meaning only with `pulls: redirect`".into()]),
        (
            s3("region: eu") + "\npulls: redirect\nredirect_lifetime: 8d",
            vec!["redirect_lifetime: expected a duration from 1s to 7days, found \"8d\"".into()],
        ),
        // The database.
        ("database: {}".into(), vec!["database: needs exactly one of `sqlite` and `postgres`".into()]),
        (
            "database: { sqlite: a, postgres: 'postgres://a@b/c' }".into(),
            vec!["database: needs exactly one of `sqlite` and `postgres`".into()],
        ),
        (
            "database: { sqlite: ., password: x, tls: require }".into(),
            vec![format!("database.sqlite: {shown}/.: is a directory")],
        ),
        (
            "database: { sqlite: a, password: x, tls: require }".into(),
            vec![
                "database.password: has a meaning only with `postgres`".into(),
                "database.tls: has a meaning only with `postgres`".into(),
            ],
        ),
        (
            "database: { postgres: 'postgres://me:hunter2@b/c' }".into(),
            vec![
                "database.postgres: a URL must not hold a password: use `password`, `password_file` or `password_env`"
                    .into(),
            ],
        ),
        (
            "database: { postgres: 'mysql://a@b/c' }".into(),
            vec![format!("database.postgres: {postgres}, with nothing after it")],
        ),
        (
            "database: { postgres: 'postgres://a@b' }".into(),
            vec![format!("database.postgres: {postgres}, with nothing after it")],
        ),
        (
            "database: { postgres: 'postgres://a@b/c?sslmode=disable' }".into(),
            vec![format!("database.postgres: {postgres}, with nothing after it")],
        ),
        ("database: { postgres: nonsense }".into(), vec![format!("database.postgres: {postgres}")]),
        (
            "database: { postgres: 'postgres://a@b/c', tls: require, ca: a.crt }".into(),
            vec!["database.ca: has a meaning only with `tls: verify_ca` or `verify_full`".into()],
        ),
        (
            "database: { sqlite: a, max_connections: 2, min_connections: 3 }".into(),
            vec!["database: `min_connections` is more than `max_connections`".into()],
        ),
        // The rest.
        (
            "auth: { token_lifetime: 30d, key_algorithm: hs256, failed_logins: 0 }".into(),
            vec![
                "auth.token_lifetime: expected a duration from 1s to 7days, found \"30d\"".into(),
                "auth.key_algorithm: expected `es256` or `rs256`, found \"hs256\"".into(),
                "auth.failed_logins: expected a whole number from 1 to 1000, found \"0\"".into(),
            ],
        ),
        (
            "limits: { writes: { running: 0, quued: 1 }, reads: 5 }".into(),
            vec![
                "limits.reads: expected a section, found a number".into(),
                "limits.writes.running: expected a whole number from 1 to 1000000, found \"0\"".into(),
                "limits.writes.quued: unknown key; did you mean `queued`?".into(),
            ],
        ),
        (
            "registry_state: read-only".into(),
            vec!["registry_state: expected `normal` or `readonly`, found \"read-only\"".into()],
        ),
        (
            "garbage_collection: { interval: sometimes }".into(),
            vec![
                "garbage_collection.interval: expected a duration such as `250ms`, `5m` or `24h`, found \"sometimes\""
                    .into(),
            ],
        ),
    ];
    for (text, expected) in cases {
        let problems = load_origin(directory.path(), &completed(&text)).expect_err(&text);
        assert_eq!(problems, expected, "{text}");
        assert!(!problems.join("\n").contains("hunter2") && !problems.join("\n").contains("secret@"), "{problems:?}");
    }
}

#[test]
fn finds_problems_of_all_sections_at_once() {
    let problems = load_origin(Path::new("/nowhere"), "").unwrap_err();
    let expected = ["hostname: is missing", "listener: is missing", "storage: is missing", "database: is missing"];
    assert_eq!(problems, expected);
    let problems = load_origin(Path::new("/nowhere"), "- a").unwrap_err();
    assert_eq!(problems, ["origin.yaml: expected sections such as `listener:`"]);
}

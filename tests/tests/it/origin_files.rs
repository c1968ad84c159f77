//! What an operator of the origin meets in the first hour: whose its files are, ports that are taken, a bucket that is not there, the last
//! superuser, a new configuration, and what commands say.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use pierhead_tests::eventually;
use pierhead_tests::image::Blob;
use pierhead_tests::origin::{Setup, binary};
use pierhead_tests::postgres::Postgres;
use pierhead_tests::process::{Output, run};
use pierhead_tests::pull::reply;
use pierhead_tests::s3::S3Server;
use pierhead_tests::server::certificate;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::origin_acme::{caller, origin_with};

/// A user of this machine that owns nothing else.
const OTHER: u32 = 54_321;

/// Runs a command as another user of this machine. The program is copied to where that user may read it: it may have been built below
/// root's own directory.
async fn as_other(setup: &Setup, arguments: &[&str]) -> Output {
    let config = setup.write("other.yaml");
    chown(&config, Some(OTHER), Some(OTHER)).unwrap();
    let program = setup.dir.path().join("pierhead-origin");
    if !program.exists() {
        std::fs::copy(binary(), &program).unwrap();
    }
    let mut command = Command::new(program);
    command.args(arguments).arg("--config").arg(config).uid(OTHER).gid(OTHER);
    run(command, Duration::from_secs(60)).await
}

fn owner(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().uid()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_root_makes_belongs_to_the_owner_of_the_directory() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root gives files away");
    }
    let setup = Setup::new();
    let state = setup.dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    // The way there is open to the other user.
    for directory in [setup.dir.path(), &state] {
        chown(directory, Some(OTHER), Some(OTHER)).unwrap();
    }
    let setup = setup
        .set("/database", json!({ "sqlite": state.join("deep/meta.db") }))
        .set("/storage", json!({ "file_system": { "path": state.join("blobs") } }));
    setup.command(&["user", "add", "ann", "--generate"]).await.expect_success();
    setup.command(&["gc"]).await.expect_success();
    for path in ["deep", "deep/meta.db", "blobs", "blobs/uploads", "blobs/uploads/pierhead"] {
        assert_eq!(owner(&state.join(path)), OTHER, "{path}");
    }
    // Beside a connection of the service there are more files.
    as_other(&setup, &["user", "add", "bob", "--generate"]).await.expect_success();
    let directory = state.join("backup");
    as_other(&setup, &["backup", directory.to_str().unwrap()]).await.expect_success();
    // A file of root's that is there already is named, with its owner and the remedy.
    for file in ["deep/meta.db", "blobs/uploads/pierhead"] {
        let path = state.join(file);
        chown(&path, Some(0), Some(0)).unwrap();
        let refused = as_other(&setup, &["gc"]).await.expect_failure();
        for expected in [
            path.to_str().unwrap(),
            "belongs to root",
            &format!("runs as uid {OTHER}"),
            &format!("chown {OTHER}:{OTHER}"),
        ] {
            assert!(refused.stderr.contains(expected), "{expected}: {}", refused.stderr);
        }
        // Root mends it by any command.
        setup.command(&["gc"]).await.expect_success();
        assert_eq!(owner(&path), OTHER, "{file}");
    }
    as_other(&setup, &["gc"]).await.expect_success();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named_by_its_key() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (pointer, key) in [("/listener/bind", "listener.bind"), ("/admin/bind", "admin.bind")] {
        let refused = Setup::new().set(pointer, address.as_str()).command(&["serve"]).await.expect_failure();
        let expected = format!("{key}: {address}: ");
        assert!(
            refused.stderr.contains(&expected) && refused.stderr.contains("another process listens there"),
            "{}",
            refused.stderr
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_on_a_port_of_https_is_told() {
    let setup = Setup::new();
    let (cert, key, _) = certificate(setup.dir.path(), &["localhost"]);
    let origin = setup.set("/listener/tls", json!({ "cert": cert, "key": key })).start().await;
    for request in
        ["GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "POST / HTTP/1.0\r\n"]
    {
        let mut tcp = TcpStream::connect(origin.registry).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("https://"), "{request:?}: {answer:?}");
    }
    // What is neither gets nothing.
    let mut tcp = TcpStream::connect(origin.registry).await.unwrap();
    tcp.write_all(b"\x00\x01\x02\x03\x04\x05\x06\x07").await.unwrap();
    let mut answer = Vec::new();
    drop(tcp.read_to_end(&mut answer).await);
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_not_there_is_noticed_at_the_start() {
    let mut server = S3Server::start().await;
    let mut storage = server.storage();
    storage["s3"]["bucket"] = json!("nowhere");
    let setup = Setup::new().storage(storage);
    for command in ["check", "serve"] {
        let refused = setup.command(&[command]).await.expect_failure();
        for expected in ["storage: ", "NoSuchBucket", "create it"] {
            assert!(refused.stderr.contains(expected), "{command}: {expected}: {}", refused.stderr);
        }
    }
    // One that does not answer may do so later: that is a warning.
    let setup = Setup::new().storage(server.storage());
    setup.command(&["check"]).await.expect_success();
    server.stop().await;
    let checked = setup.command(&["check"]).await.expect_success();
    assert!(checked.stderr.contains("storage: the store is not available"), "{}", checked.stderr);
}

/// A read-only registry starts without its bucket. Health and the log name the bucket, and a pull gets an error with a reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_not_there_stands_in_health() {
    let server = S3Server::start().await;
    let mut storage = server.storage();
    storage["s3"]["bucket"] = json!("nowhere");
    let origin = Setup::new().storage(storage).set("/registry_state", "readonly").start().await;
    let health = origin.client().get("/health/endtoend").await;
    let body: Value = serde_json::from_slice(&health.body).unwrap();
    assert_eq!((health.status, &body["data"]["services"]["storage"]), (503, &json!(false)), "{body}");
    assert_eq!(origin.client().get("/health/instance").await.status, 200, "other nodes would fail in the same way");
    let named = |line: &str| line.contains("not well") && line.contains("NoSuchBucket");
    assert!(origin.log().count(named) > 0);
}

/// What this user may not read is named by its key, with its owner and mode.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_may_not_be_read_is_named_with_its_owner() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root gives files away");
    }
    let secret = |setup: &Setup, name: &str| {
        let file = setup.dir.path().join(name);
        std::fs::write(&file, "a-secret").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        file
    };
    let setup = Setup::new();
    chown(setup.dir.path(), Some(OTHER), Some(OTHER)).unwrap();
    let (key, password) = (secret(&setup, "tls.key"), secret(&setup, "password"));
    let (cert, _, _) = certificate(setup.dir.path(), &["localhost"]);
    chown(&cert, Some(OTHER), Some(OTHER)).unwrap();
    let setup = setup
        .set("/listener/tls", json!({ "cert": cert, "key": key }))
        .set("/database", json!({ "postgres": "postgres://me@127.0.0.1:1/db", "password_file": password }));
    for command in ["check", "serve"] {
        let refused = as_other(&setup, &[command]).await.expect_failure();
        for (path, file) in [("listener.tls.key", &key), ("database.password_file", &password)] {
            let expected = format!("{path}: {}: cannot be read: Permission denied", file.display());
            assert!(refused.stderr.contains(&expected), "{command}: {expected}: {}", refused.stderr);
        }
        assert_eq!(refused.stderr.matches("it belongs to uid 0, with mode 600").count(), 2, "{}", refused.stderr);
        assert!(!refused.stderr.contains("a-secret"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_superuser_stays() {
    let setup = Setup::new();
    let user = async |arguments: &[&str]| setup.command(&[&["user"], arguments].concat()).await;
    user(&["add", "root", "--superuser", "--generate"]).await.expect_success();
    user(&["add", "eye", "--superuser", "--readonly", "--generate"]).await.expect_success();
    user(&["add", "ann", "--generate"]).await.expect_success();
    let refused = async || {
        for arguments in [&["rank", "root", "user"][..], &["rank", "root", "superuser-readonly"], &["disable", "root"]]
        {
            let refused = user(arguments).await.expect_failure();
            assert!(refused.stderr.contains("\"root\" is the last superuser who can log in"), "{}", refused.stderr);
        }
        let list = user(&["list"]).await.expect_success().stdout;
        assert!(list.contains("root\tenabled\tsuperuser\t"), "{list}");
    };
    refused().await;
    user(&["rank", "root", "superuser"]).await.expect_success();
    // Another who cannot log in does not count.
    user(&["rank", "ann", "superuser"]).await.expect_success();
    user(&["disable", "ann"]).await.expect_success();
    refused().await;
    user(&["enable", "ann"]).await.expect_success();
    user(&["disable", "root"]).await.expect_success();
    user(&["rank", "root", "user"]).await.expect_success();
}

/// The keys that a reload names, by the message of its line.
fn keys(origin: &pierhead_tests::origin::Origin, mark: usize, message: &str) -> Option<String> {
    origin.log().find(mark, |line| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["fields"]["message"] == message).then(|| line["fields"]["keys"].as_str().unwrap_or_default().to_owned())
    })
}

const TAKEN_UP: &str = "configuration reloaded";
const LATER: &str = "these keys changed, and take effect at the next start";

#[tokio::test(flavor = "multi_thread")]
async fn a_new_configuration_is_taken_up_and_what_needs_a_restart_is_named() {
    let mut origin = origin_with(&["ann"]).await;
    let ann = caller(&origin, "ann");
    let robot = async || ann.put("/user/robots/ci", json!({})).await.0;
    let push = async |client: &pierhead_tests::pull::Client| {
        reply(client.request(Method::POST, "/v2/ann/app/blobs/uploads/")).await.unwrap().status
    };
    let client = origin.login("ann", super::origin_acme::PASSWORD, &["repository:ann/app:pull,push"]).await;
    assert_eq!(push(&client).await, 202);
    origin.rewrite("/registry_state", "readonly");
    // Another hostname would make all tokens worthless. It is named as long as it differs.
    origin.rewrite("/hostname", "other.test");
    origin.rewrite("/admin/bind", "127.0.0.1:1");
    for taken_up in [TAKEN_UP, "configuration reloaded: no key changed that can change while the origin runs"] {
        let mark = origin.log().len();
        origin.signal(Signal::HUP);
        origin.says(mark, LATER).await;
        let expected = if taken_up == TAKEN_UP { "registry_state" } else { "" };
        assert_eq!(keys(&origin, mark, taken_up).as_deref(), Some(expected));
        assert_eq!(keys(&origin, mark, LATER).as_deref(), Some("hostname, admin.bind"));
        assert_eq!((robot().await, push(&client).await), (405, 405));
    }
    // Back again; the log of requests ends, and strangers are not let in.
    let mark = origin.log().len();
    origin.rewrite("/hostname", "registry.test");
    origin.rewrite("/admin/bind", "127.0.0.1:0");
    origin.rewrite("/registry_state", "normal");
    origin.rewrite("/access_log", false);
    origin.rewrite("/auth", json!({ "anonymous_pulls": false }));
    origin.signal(Signal::HUP);
    origin.says(mark, TAKEN_UP).await;
    assert_eq!((robot().await, push(&client).await), (201, 202));
    assert_eq!(origin.client().get("/v2/auth?scope=repository:ann/app:pull").await.status, 401);
    let quiet = origin.client().get("/v2/unseen/tags/list").await.header("x-request-id").to_owned();
    // What is wrong changes nothing.
    let mark = origin.log().len();
    origin.rewrite("/registry_state", "asleep");
    origin.signal(Signal::HUP);
    origin.says(mark, "the new configuration is not valid; the one before stays").await;
    assert_eq!(push(&client).await, 202);
    assert_eq!(origin.log().count(|line| line.contains(&quiet)), 0);
    let mark = origin.log().len();
    origin.rewrite("/registry_state", "normal");
    origin.signal(Signal::HUP);
    origin.says(mark, "configuration reloaded: no key changed that can change while the origin runs").await;
}

/// Sizes, times and rules hold for what begins after the reload; what has begun goes on.
#[tokio::test(flavor = "multi_thread")]
async fn limits_accounts_and_garbage_collection_change_while_the_origin_runs() {
    const PASSWORD: &str = super::origin_acme::PASSWORD;
    let mut origin = origin_with(&["ann"]).await;
    let ann = caller(&origin, "ann");
    let scope = "repository:ann/app:pull,push";
    let token = async |origin: &pierhead_tests::origin::Origin| {
        let ask = format!("/v2/auth?scope={scope}");
        let reply = origin.client().login("ann", PASSWORD).get(&ask).await;
        serde_json::from_slice::<Value>(&reply.body).unwrap()
    };
    let algorithm = |token: &Value| {
        let header = token["token"].as_str().unwrap().split('.').next().unwrap().to_owned();
        let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header).unwrap();
        serde_json::from_slice::<Value>(&header).unwrap()["alg"].as_str().unwrap().to_owned()
    };
    let before = token(&origin).await;
    assert_eq!((before["expires_in"].as_u64(), algorithm(&before)), (Some(3600), "ES256".to_owned()));
    let client = origin.client().bearer(before["token"].as_str().unwrap().to_owned());
    let sent = async |bytes: usize, number: u64| {
        let blob = Blob::random(number, bytes);
        let path = format!("/v2/ann/app/blobs/uploads/?digest={}", blob.digest);
        reply(client.request(Method::POST, &path).body(blob.bytes)).await.unwrap().status
    };
    assert_eq!(sent(2000, 1).await, 201);
    assert_eq!(ann.put("/user/robots/ci", json!({})).await.0, 201);
    let robot = async || ann.see("/user/robots/ci").await["token"].clone();
    assert!(robot().await.is_string());
    assert_eq!(origin.metric("quay_gc_iterations_total", &[]).await, 0.0);

    let mark = origin.log().len();
    for (key, value) in [
        ("/limits", json!({ "max_layer_size": "2KiB", "header_timeout": "1s", "open_uploads": 1 })),
        ("/auth", json!({ "token_lifetime": "2h", "key_algorithm": "rs256", "show_robot_tokens": false })),
        ("/garbage_collection", json!({ "interval": "1s", "blob_grace": "1h" })),
        ("/tag_expiration", json!("1d")),
        ("/action_log_retention", json!("30d")),
        ("/aliases", json!(["other.test"])),
    ] {
        origin.rewrite(key, value);
    }
    origin.signal(Signal::HUP);
    origin.says(mark, TAKEN_UP).await;
    let expected = "aliases, auth, limits, tag_expiration, garbage_collection, action_log_retention";
    assert_eq!(keys(&origin, mark, TAKEN_UP).as_deref(), Some(expected));
    assert_eq!(keys(&origin, mark, LATER), None);
    let after = token(&origin).await;
    assert_eq!((after["expires_in"].as_u64(), algorithm(&after)), (Some(7200), "RS256".to_owned()));
    // The token from before still counts, and the new layer size holds for it.
    assert_eq!((sent(2048, 2).await, sent(2049, 3).await), (201, 413));
    let begin = async || reply(client.request(Method::POST, "/v2/ann/app/blobs/uploads/")).await.unwrap().status;
    assert_eq!((begin().await, begin().await), (202, 429));
    assert_eq!(robot().await, Value::Null, "a token that is kept no more is not shown");
    let user = ann.see("/user/").await;
    assert_eq!(user["tag_expiration_s"].as_u64(), Some(24 * 3600), "{user}");
    let named = origin.client().get_with("/v2/", &[("Host", "other.test")]).await;
    assert!(named.header("www-authenticate").contains("//other.test/v2/auth"), "{:?}", named.headers);
    eventually("garbage is collected", Duration::from_secs(20), async || {
        (origin.metric("quay_gc_iterations_total", &[]).await > 0.0).then_some(())
    })
    .await;
    // A client that says nothing is let go after the new time.
    let mut silent = TcpStream::connect(origin.registry).await.unwrap();
    let mut nothing = Vec::new();
    tokio::time::timeout(Duration::from_secs(8), silent.read_to_end(&mut nothing)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_speak_json() {
    let setup = Setup::new();
    let said = async |arguments: &[&str]| -> (Value, bool) {
        let output = setup.command(&[arguments, &["--json"]].concat()).await;
        let json = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{arguments:?}: {}", output.stdout));
        (json, output.code == Some(0))
    };
    let (made, _) = said(&["user", "add", "ann", "--superuser", "--generate", "--email", "ann@acme.test"]).await;
    assert_eq!(
        (&made["name"], &made["rank"], made["password"].as_str().unwrap().len()),
        (&json!("ann"), &json!("superuser"), 24)
    );
    let row = json!({ "name": "ann", "enabled": true, "rank": "superuser", "email": "ann@acme.test" });
    assert_eq!(said(&["user", "list"]).await, (json!([row]), true));
    assert_eq!(said(&["user", "rank", "ann", "superuser"]).await, (row, true));
    let (refused, ok) = said(&["user", "disable", "bob"]).await;
    assert!(!ok && refused["error"].as_str().unwrap().contains("there is no user \"bob\""), "{refused}");
    assert_eq!(said(&["check"]).await.0["ok"], true);
    let (collected, _) = said(&["gc"]).await;
    assert_eq!((&collected["rehearsed"], &collected["collected"]["blobs"]), (&json!(false), &json!(0)));
    let list = setup.command(&["user", "list"]).await.expect_success().stdout;
    assert_eq!(list, "NAME\tSTATE\tRANK\tEMAIL\nann\tenabled\tsuperuser\tann@acme.test\n");
    let wrong = setup.clone().set("/storage", json!({}));
    let output = wrong.command(&["check", "--json"]).await.expect_failure();
    let refused: Value = serde_json::from_str(&output.stdout).unwrap();
    assert!(refused["error"].as_str().unwrap().contains("storage: needs exactly one of"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_says_until_when_blobs_wait() {
    let setup = Setup::new();
    setup.user("ann", "correct horse", &[]).await;
    let origin = setup.start().await;
    let client = origin.login("ann", "correct horse", &["repository:ann/app:pull,push"]).await;
    let told = setup.command(&["gc", "--dry-run"]).await.expect_success().stdout;
    assert!(!told.contains("wait for"), "{told}");
    let blob = Blob::random(1, 1000);
    client.push_blob("ann/app", &blob.digest, blob.bytes.clone()).await;
    let told = setup.command(&["gc", "--dry-run"]).await.expect_success().stdout;
    assert!(
        told.contains("0 blobs of 0 bytes")
            && told.contains("1 more blobs of 1000 bytes are not needed, and wait for `garbage_collection.blob_grace`"),
        "{told}"
    );
    let told = setup.command(&["gc", "--dry-run", "--json"]).await.expect_success().stdout;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["waiting"]["blobs"], &told["waiting"]["bytes"]), (&json!(1), &json!(1000)), "{told}");
    assert!(told["waiting"]["last"].as_str().unwrap().ends_with('Z'), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_is_quiet_and_its_key_is_named() {
    let postgres = Postgres::start().await;
    let setup = Setup::new().database(postgres.section());
    let mut origin = setup.start().await;
    origin.stop().await;
    origin.start_again().await;
    assert_eq!(origin.log().count(|line| line.contains("already exists")), 0);
    let told = setup.command(&["gc", "--dry-run"]).await.expect_success();
    assert!(!told.stderr.contains("already exists"), "{}", told.stderr);
    let mut section = postgres.section();
    section["tls"] = json!("verify_full");
    let refused = Setup::new().database(section).command(&["user", "list"]).await.expect_failure();
    assert!(refused.stderr.contains("does not support TLS: set `database.tls: disable`"), "{}", refused.stderr);
}

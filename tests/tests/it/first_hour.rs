//! What a newcomer stumbles over in the first hour: a port that is taken, a broken file, an expired certificate, plain HTTP at
//! a port for TLS, an upgrade that fails. Each must say what is wrong, where, and what to do.

use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pierhead_tests::eventually;
use pierhead_tests::image::Image;
use pierhead_tests::launch::fields;
use pierhead_tests::pierhead::{Pierhead, Setup, binary};
use pierhead_tests::process::{Output, run};
use pierhead_tests::raw::says;
use pierhead_tests::registry::DockerRegistry;
use pierhead_tests::setup::Program;
use rcgen::{CertificateParams, KeyPair};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::upstream_tls::version_1;

const LONG: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Runs a command of the edge's binary, with nothing of a home around it.
async fn pierhead(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).env("HOME", home).env_remove("XDG_STATE_HOME");
    run(command, LONG).await
}

/// A certificate for `localhost` that ends so long before or after this moment, and its key.
fn certificate(dir: &Path, ends: impl Fn(SystemTime) -> SystemTime) -> (PathBuf, PathBuf) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = (SystemTime::now() - 400 * DAY).into();
    params.not_after = ends(SystemTime::now()).into();
    let key = KeyPair::generate().unwrap();
    let (cert_file, key_file) = (dir.join("tls.crt"), dir.join("tls.key"));
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    std::fs::write(&cert_file, params.self_signed(&key).unwrap().pem()).unwrap();
    (cert_file, key_file)
}

fn with_tls(setup: Setup, watch: &str) -> Setup {
    let (cert, key) = (setup.dir.path().join("tls.crt"), setup.dir.path().join("tls.key"));
    setup
        .set("/listeners/0/tls", json!({ "certificates": [{ "cert": cert, "key": key }], "watch": watch }))
        .registry("up.test", "http://127.0.0.1:9")
}

/// The first line of the log at or after `mark` with this text.
async fn line(edge: &Pierhead, mark: usize, text: &str) -> Value {
    eventually(text, LONG, async || {
        edge.log().find(mark, |line| line.contains(text).then(|| serde_json::from_str(line).unwrap()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_cannot_be_had_is_named_by_its_key() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let registry = |setup: Setup| setup.registry("up.test", "http://127.0.0.1:9");
    let second = json!({ "name": "second", "bind": address });
    for (setup, key, says) in [
        (registry(Setup::new()).set("/listeners/0/bind", address.as_str()), "listeners[0].bind", "another program"),
        (registry(Setup::new()).with("listeners", second), "listeners[1].bind", "another program"),
        (registry(Setup::new()).set("/admin/bind", address.as_str()), "admin.bind", "another program"),
        (registry(Setup::new()).set("/listeners/0/bind", "192.0.2.1:5000"), "listeners[0].bind", "no such address"),
    ] {
        let refused = setup.command(&["serve"]).await.expect_failure();
        let line = refused.stderr.lines().find(|line| line.starts_with(&format!("{key}: cannot listen on ")));
        assert!(line.is_some_and(|line| line.contains(says)), "{key}: {}", refused.stderr);
        assert_eq!(refused.code, Some(1));
    }
}

/// `ctl` reads the admin section of a file alone, and where no file is named it finds the edge by itself.
/// What the edge's user may not use is named by its key, with its owner and mode.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_used_is_named_with_its_owner() {
    const OTHER: u32 = 54_321;
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root gives files away");
    }
    let setup = Setup::new();
    let (home, cache) = (setup.dir.path().to_owned(), setup.cache());
    chown(&home, Some(OTHER), Some(OTHER)).unwrap();
    let program = Program::installed(&home);
    let password = home.join("password");
    std::fs::write(&password, "a-secret").unwrap();
    std::fs::create_dir(&cache).unwrap();
    for (path, mode) in [(&password, 0o600), (&cache, 0o700)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let run_as_other = async |setup: &Setup, command: &str| {
        let config = setup.write();
        chown(&config, Some(OTHER), Some(OTHER)).unwrap();
        let mut refused = Command::new(program.path());
        refused.args([command, "--config"]).arg(config).uid(OTHER).gid(OTHER);
        run(refused, LONG).await.expect_failure().stderr
    };
    let setup = setup.registry("up.test", "http://127.0.0.1:9");
    let said = run_as_other(&setup, "serve").await;
    let expected = format!("{} belongs to uid 0, with mode 700", cache.display());
    assert!(said.starts_with("cache: ") && said.contains(&expected), "{said}");
    let setup = setup.set("/registries/0/credentials", json!({ "username": "me", "password_file": password }));
    let said = run_as_other(&setup, "check").await;
    let key = "registries[0].credentials.password_file";
    let expected = format!("{key}: {}: cannot be read: Permission denied", password.display());
    assert!(said.contains(&expected) && said.contains("it belongs to uid 0, with mode 600"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_reach_an_edge_whose_file_is_broken() {
    let setup = Setup::new().registry("up.test", "http://127.0.0.1:9").set("/admin/token", "let-me-in-please-now");
    let edge = setup.start().await;
    let home = edge.dir().join("home");
    let file = edge.dir().join("pierhead.yaml");
    let admin = format!("admin:\n  bind: {}\n  token: let-me-in-please-now\n", edge.admin);
    for rest in ["listeners: 7\n", "listeners: [\n", "cache: { path: /c }\nunknown: 1\n"] {
        std::fs::write(&file, format!("{admin}{rest}")).unwrap();
        let status = pierhead(&home, &["ctl", "status", "--config", file.to_str().unwrap()]).await.expect_success();
        assert!(status.stdout.contains("version"), "{}", status.stdout);
        pierhead(&home, &["check", "--config", file.to_str().unwrap()]).await.expect_failure();
    }
    // The running quickstart's configuration is found where its script leaves a link to it.
    let state = home.join(".local/state/pierhead");
    std::fs::create_dir_all(&state).unwrap();
    std::os::unix::fs::symlink(&file, state.join("quickstart.yaml")).unwrap();
    pierhead(&home, &["ctl", "status"]).await.expect_success();
    // What is wrong with the section itself is said.
    std::fs::write(&file, "listeners: [\nadmin: { bind: nowhere }\n").unwrap();
    let refused = pierhead(&home, &["ctl", "status", "--config", file.to_str().unwrap()]).await.expect_failure();
    assert!(refused.stderr.starts_with("admin.bind: "), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_ends_is_said_everywhere() {
    for (name, ends, says, shown) in [
        ("expired", -3i32, "the certificate expired on", "expired 3 days ago"),
        ("soon", 5, "the certificate expires in 5 days", "expires in 5 days"),
    ] {
        let setup = with_tls(Setup::new(), "100ms");
        certificate(setup.dir.path(), |now| match u32::try_from(ends) {
            Ok(days) => now + days * DAY + DAY / 2,
            Err(_) => now - ends.unsigned_abs() * DAY - DAY / 2,
        });
        let checked = setup.command(&["check"]).await.expect_success();
        let warning = format!("warning: listeners[0].tls: {}: {says}", setup.dir.path().join("tls.crt").display());
        assert!(
            checked.stderr.starts_with(&warning) && checked.stdout.ends_with(": ok\n"),
            "{name}: {}",
            checked.stderr
        );
        let edge = setup.start().await;
        let warned = line(&edge, 0, says).await;
        assert_eq!((&warned["level"], &warned["fields"]["listener"]), (&json!("WARN"), &json!("registry")), "{warned}");
        let address = edge.admin.to_string();
        let status = pierhead(edge.dir(), &["ctl", "status", "--address", &address]).await.expect_success();
        assert!(
            status.stdout.lines().any(|line| line.starts_with("certificate ") && line.contains(shown)),
            "{name}: {}",
            status.stdout
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctl_says_when_a_certificate_is_not_valid_yet() {
    let setup = with_tls(Setup::new(), "100ms");
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = (SystemTime::now() + 40 * DAY).into();
    params.not_after = (SystemTime::now() + 400 * DAY).into();
    let key = KeyPair::generate().unwrap();
    std::fs::write(setup.dir.path().join("tls.key"), key.serialize_pem()).unwrap();
    std::fs::write(setup.dir.path().join("tls.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    let edge = setup.start().await;
    let address = edge.admin.to_string();
    let status = pierhead(edge.dir(), &["ctl", "status", "--address", &address]).await.expect_success();
    let is_said =
        |line: &str| line.starts_with("certificate ") && line.contains("tls.crt of listener registry is not valid yet");
    assert!(status.stdout.lines().any(is_said), "{}", status.stdout);
    let shown = pierhead(edge.dir(), &["ctl", "certificates", "--address", &address]).await.expect_success();
    assert!(shown.stdout.contains("not valid before 2"), "{}", shown.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctl_says_that_another_server_is_no_admin_listener() {
    let edge = Setup::new().registry("up.test", "http://127.0.0.1:9").start().await;
    let page = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>";
    let refuses = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}";
    for other in [edge.registry, says(page).await, says(refuses).await] {
        for command in ["status", "pools"] {
            let refused =
                pierhead(edge.dir(), &["ctl", command, "--address", &other.to_string()]).await.expect_failure();
            let expected = format!("what answers at {other} is not an edge's admin listener");
            assert!(refused.stderr.contains(&expected), "{}", refused.stderr);
            assert!(
                refused.stderr.contains("`admin.bind`") && refused.stderr.contains("--address"),
                "{}",
                refused.stderr
            );
        }
    }
}

/// A file with an expired certificate takes the place of nothing that works, by the watch or by a reload.
#[tokio::test(flavor = "multi_thread")]
async fn a_valid_certificate_is_not_replaced_by_an_expired_one() {
    let setup = with_tls(Setup::new(), "50ms");
    certificate(setup.dir.path(), |now| now + 90 * DAY);
    let edge = setup.start().await;
    let mark = edge.log().len();
    certificate(edge.dir(), |now| now - 2 * DAY);
    let refused = line(&edge, mark, "new certificates cannot be used").await;
    assert_eq!(refused["level"], "ERROR");
    assert!(refused["fields"]["error"].as_str().unwrap().contains("the certificate expired on"), "{refused}");
    let labels = [("listener", "registry")];
    let ends = edge.metric("pierhead_certificate_expiry_timestamp_seconds", &labels).await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(ends > now + 80.0 * 24.0 * 3600.0, "the valid one serves on");
    let address = edge.admin.to_string();
    let reload = pierhead(edge.dir(), &["reload", "--address", &address]).await.expect_failure();
    assert!(reload.stderr.contains("expired on") && reload.stderr.contains("stays"), "{}", reload.stderr);
    // The next good one is taken.
    certificate(edge.dir(), |now| now + 200 * DAY);
    edge.metric_until("pierhead_certificate_expiry_timestamp_seconds", &labels, |ends| {
        ends > now + 190.0 * 24.0 * 3600.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_to_a_port_for_tls_is_told_so() {
    let setup = with_tls(Setup::new(), "10s");
    certificate(setup.dir.path(), |now| now + 90 * DAY);
    let edge = setup.start().await;
    let large =
        format!("POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nContent-Length: 30000\r\n\r\n{}", "x".repeat(30_000));
    for request in
        ["GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD / HTTP/1.0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &large]
    {
        let mut client = TcpStream::connect(edge.registry).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 1000];
        let read = tokio::time::timeout(LONG, async {
            let mut filled = 0;
            while !answer[..filled].ends_with(b"use https\n") {
                filled += client.read(&mut answer[filled..]).await.unwrap();
            }
            filled
        });
        let read = read.await.expect("no answer");
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("HTTPS"), "{answer}");
    }
    edge.metric_until("pierhead_refusals_total", &[("reason", "plain_http")], |refused| refused == 4.0).await;
    // Those who speak TLS notice nothing.
    let pem = std::fs::read(edge.dir().join("tls.crt")).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([reqwest::Certificate::from_pem(&pem).unwrap()]);
    let url = format!("https://localhost:{}/v2/", edge.registry.port());
    assert_eq!(client.build().unwrap().get(url).send().await.unwrap().status(), 200);
}

/// The log's first lines say where to go, as a URL, and whether it is TLS.
#[tokio::test(flavor = "multi_thread")]
async fn what_listens_is_said_with_its_url() {
    let setup = with_tls(Setup::new(), "10s").with("listeners", json!({ "name": "plain", "bind": "127.0.0.1:0" }));
    certificate(setup.dir.path(), |now| now + 90 * DAY);
    let edge = setup
        .pool(json!({ "name": "raw", "servers": ["127.0.0.1:9"] }))
        .with("listeners", json!({ "name": "raw", "bind": "127.0.0.1:0", "mode": "tcp", "pool": "raw" }))
        .start()
        .await;
    for (listener, address, scheme) in [
        ("registry", edge.registry, Some("https")),
        ("plain", edge.address("plain"), Some("http")),
        ("raw", edge.address("raw"), None),
        ("admin", edge.admin, Some("http")),
    ] {
        let said = edge.log().find(0, |line| {
            fields(line).filter(|fields| fields["message"] == "listening" && fields["listener"] == listener)
        });
        let said = said.unwrap();
        let url = scheme.map(|scheme| format!("{scheme}://localhost:{}", address.port()));
        assert_eq!((said["url"].as_str(), &said["tls"]), (url.as_deref(), &json!(scheme == Some("https"))), "{said}");
    }
}

/// A certificate that TLS cannot use is refused in words.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_version_1_is_refused_in_words() {
    let setup = with_tls(Setup::new(), "10s");
    version_1(setup.dir.path()).await;
    let refused = setup.command(&["check"]).await.expect_failure();
    assert!(
        refused.stderr.contains("X.509 version 1") && refused.stderr.contains("subjectAltName"),
        "{}",
        refused.stderr
    );
    assert!(!refused.stderr.contains("UnsupportedCertVersion"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_fails_says_why() {
    let setup = Setup::new().registry("up.test", "http://127.0.0.1:9");
    let program = Program::installed(setup.dir.path());
    let mut edge = setup.program([program.path()]).start().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let taken = TcpListener::bind(taken).unwrap();
    let more = json!({ "name": "more", "bind": taken.local_addr().unwrap().to_string() });
    let ended = async |edge: &Pierhead, expected: &str| {
        let logged = async |mark: usize| {
            let refused = line(edge, mark, "not upgraded").await;
            assert!(refused["fields"]["reason"].as_str().unwrap().contains(expected), "{refused}");
        };
        let mark = edge.log().len();
        edge.signal(Signal::USR2);
        logged(mark).await;
        let address = edge.admin.to_string();
        let mark = edge.log().len();
        let asked = pierhead(edge.dir(), &["upgrade", "--address", &address]).await.expect_failure();
        assert!(asked.stderr.contains("not upgraded") && asked.stderr.contains(expected), "{}", asked.stderr);
        // The log reaches this test after the answer: the next attempt is not to find this one's line.
        logged(mark).await;
    };
    // The new process opens the socket of a listener that the old one has not.
    edge.rewrite(|config| config["listeners"].as_array_mut().unwrap().push(more));
    ended(&edge, "listeners[1].bind: cannot listen on ").await;
    edge.rewrite(|config| config["listeners"] = json!(7));
    ended(&edge, "listeners: ").await;
    program.spoil("echo no edge; exit 7");
    ended(&edge, "exit status: 7").await;
    program.spoil("kill -9 $$");
    ended(&edge, "signal: 9").await;
    assert_eq!(edge.operator().get("/health/instance").await.status, 200);
}

/// The cache's tree is its owner's: also one that an earlier version made.
#[tokio::test(flavor = "multi_thread")]
async fn others_do_not_list_the_cache() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[20_000]);
    registry.push("team/app", "latest", &image).await;
    let mut edge = Setup::new().registry_with("up.test", registry.url(), json!({ "default": true })).start().await;
    let pull = async |edge: &Pierhead| {
        edge.client().pull("team/app", "latest").await.unwrap();
        edge.committed(&image.layers[0].digest).await;
    };
    pull(&edge).await;
    let found = |dir: &Path| {
        let (mut work, mut modes) = (vec![dir.to_owned()], Vec::new());
        while let Some(path) = work.pop() {
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                work.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            modes.push((path, metadata.is_dir(), metadata.mode() & 0o777));
        }
        modes
    };
    let check = |edge: &Pierhead| {
        let index = edge.cache().join("index");
        for (path, is_dir, mode) in found(&edge.cache()) {
            let most = match (is_dir, path.starts_with(&index)) {
                (true, false) => 0o750,
                (true, true) => 0o700,
                (false, _) => 0o600,
            };
            assert_eq!(mode & !most, 0, "{} has {mode:o}", path.display());
        }
    };
    check(&edge);
    edge.stop().await;
    check(&edge);
    for (path, is_dir, _) in found(&edge.cache()) {
        use std::os::unix::fs::PermissionsExt;
        let is_content = path.starts_with(edge.cache().join("blobs")) && !is_dir;
        let mode = if is_dir {
            0o755
        } else if is_content {
            0o600
        } else {
            0o644
        };
        if is_dir || path.starts_with(edge.cache().join("index")) {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    }
    edge.start_again().await;
    check(&edge);
    pull(&edge).await;
    edge.stop().await;
    check(&edge);
}

/// The usual metrics of a process, and completion for shells.
#[tokio::test(flavor = "multi_thread")]
async fn usual_things_are_where_they_are_looked_for() {
    let edge = Setup::new().registry("up.test", "http://127.0.0.1:9").start().await;
    for name in ["process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"] {
        assert!(edge.metric(name, &[]).await > 0.0, "{name}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = pierhead(edge.dir(), &["completions", shell]).await.expect_success();
        assert!(script.stdout.contains("client-config"), "{shell}");
    }
}

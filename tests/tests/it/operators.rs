//! What operators see and do, through the API and with `pierhead ctl`, while clients are served.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use pierhead_tests::eventually;
use pierhead_tests::pierhead::{Pierhead, Setup, binary};
use pierhead_tests::process::{Output, run};
use pierhead_tests::pull::Client;
use pierhead_tests::registry::DockerRegistry;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinHandle;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);

/// An edge that passes connections on to these servers, which are called `a`, `b` …
fn passing_on(servers: &[SocketAddr]) -> Setup {
    let servers: Vec<Value> = servers
        .iter()
        .zip('a'..)
        .map(|(address, name)| json!({ "name": name.to_string(), "address": address.to_string() }))
        .collect();
    let health = json!({ "kind": "tcp", "interval": "100ms", "fast_interval": "50ms" });
    Setup::front()
        .set("/listeners/0/mode", "tcp")
        .set("/listeners/0/pool", "origin")
        .pool(json!({ "name": "origin", "servers": servers, "health": health }))
}

async fn pierhead(arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments);
    run(command, LONG).await
}

async fn json_of(edge: &Pierhead, arguments: &[&str]) -> Value {
    let output = edge.ctl(&[arguments, &["--output", "json"]].concat()).await.expect_success();
    serde_json::from_str(&output.stdout).unwrap()
}

/// The columns of the table's row that begins so.
fn row(output: &Output, start: &[&str]) -> Vec<String> {
    let split = |line: &str| -> Vec<String> {
        line.split("  ").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    let rows: Vec<Vec<String>> = output.stdout.lines().map(split).collect();
    let found =
        rows.iter().find(|row| row.len() >= start.len() && row.iter().zip(start).all(|(cell, text)| cell == text));
    found.unwrap_or_else(|| panic!("no row {start:?} in\n{}", output.stdout)).clone()
}

/// Requests one after the other, each over a connection of its own, until it is dropped.
struct Load {
    done: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Load {
    fn on(edge: &Pierhead) -> Load {
        Load::at(edge.registry)
    }

    fn at(address: SocketAddr) -> Load {
        let (done, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let client = Client::new(format!("http://{address}"));
        let (counted, broken, stopped) = (Arc::clone(&done), Arc::clone(&failed), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                match client.request(reqwest::Method::GET, "/v2/").send().await {
                    Ok(answer) if answer.status() == 200 => counted.fetch_add(1, Ordering::Relaxed),
                    _ => broken.fetch_add(1, Ordering::Relaxed),
                };
            }
        });
        Load { done, failed, stop, task }
    }

    /// Waits until some more were served.
    async fn more(&self) {
        let until = self.done.load(Ordering::Relaxed) + 20;
        eventually("requests are served", LONG, async || (self.done.load(Ordering::Relaxed) >= until).then_some(()))
            .await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        assert_eq!(self.failed.load(Ordering::Relaxed), 0, "requests failed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_server_gets_nothing_new_and_no_request_fails() {
    let servers = [DockerRegistry::start().await, DockerRegistry::start().await];
    let edge = passing_on(&servers.each_ref().map(|server| server.address))
        .with("listeners", json!({ "name": "web", "bind": "127.0.0.1:0", "pool": "origin" }))
        .start()
        .await;
    // By session it is drained; maintenance would close those that run, and so is for who sends requests.
    for (order, address) in [("drain", edge.registry), ("maintenance", edge.address("web"))] {
        // In turn: of two sessions each server has one.
        let mut going_on = [kept(address).await, kept(address).await];
        let load = Load::at(address);
        load.more().await;
        let drained = edge.ctl(&[order, "origin", "a"]).await.expect_success();
        assert_eq!(row(&drained, &["origin", "a"])[3], format!("{order} (up)"));
        // What was on its way is done when these are.
        load.more().await;
        let before = servers[0].requests("GET", "/v2/").await;
        load.more().await;
        assert_eq!(servers[0].requests("GET", "/v2/").await, before, "{order}");
        // Both go on; one is a session with the server that is drained.
        for client in &mut going_on {
            ask_again(client).await;
        }
        assert_eq!(servers[0].requests("GET", "/v2/").await, before + usize::from(order == "drain"), "{order}");
        let pools = edge.ctl(&["pools"]).await.expect_success();
        assert_eq!(row(&pools, &["origin", "yes"])[2], "1/2");
        let state = [("pool", "origin"), ("server", "a"), ("state", order)];
        edge.metric_until("pierhead_server_state", &state, |value| value == 1.0).await;

        let ready = edge.ctl(&["ready", "origin", "a"]).await.expect_success();
        assert_eq!(row(&ready, &["origin", "a"])[3], "up");
        load.more().await;
        assert!(servers[0].requests("GET", "/v2/").await > before, "{order}");
        load.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_weight_changes_the_share() {
    let servers = [DockerRegistry::start().await, DockerRegistry::start().await];
    let edge = passing_on(&servers.each_ref().map(|server| server.address)).start().await;
    let first = json_of(&edge, &["servers", "origin"]).await;
    let configured = first["servers"][0]["configured_weight"].as_u64().unwrap();
    let load = Load::on(&edge);

    let given = json_of(&edge, &["weight", "origin", "a", "0"]).await;
    assert_eq!((given["weight"].as_u64(), given["configured_weight"].as_u64()), (Some(0), Some(configured)));
    load.more().await;
    let before = servers[0].requests("GET", "/v2/").await;
    load.more().await;
    assert_eq!(servers[0].requests("GET", "/v2/").await, before);

    let back = edge.ctl(&["weight", "origin", "a", "configured"]).await.expect_success();
    assert_eq!(row(&back, &["origin", "a"])[4], configured.to_string());
    load.more().await;
    assert!(servers[0].requests("GET", "/v2/").await > before);
    load.end().await;
    assert_eq!(edge.ctl(&["weight", "origin", "a", "heavy"]).await.code, Some(2));
}

/// A connection that has asked for something and been answered, and is kept.
async fn kept(address: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(address).await.unwrap();
    ask_again(&mut client).await;
    client
}

/// Asks over it, and reads the whole answer.
async fn ask_again(client: &mut TcpStream) {
    client.write_all(b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n{}") {
        let count = tokio::time::timeout(LONG, client.read_buf(&mut answer)).await.expect("no answer").unwrap();
        assert!(count > 0 && answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
}

/// Reads until the connection ends, in whatever way.
async fn ended(mut client: TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end as well.
    drop(tokio::time::timeout(LONG, client.read_to_end(&mut rest)).await.expect("still open"));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_shown_and_closed() {
    let server = DockerRegistry::start().await;
    let edge = passing_on(&[server.address])
        .with("listeners", json!({ "name": "web", "bind": "127.0.0.1:0", "pool": "origin" }))
        .start()
        .await;
    let passed = kept(edge.registry).await;
    let idle = TcpStream::connect(edge.address("web")).await.unwrap();
    let shown = eventually("both are shown", LONG, async || {
        let shown = json_of(&edge, &["sessions"]).await;
        (shown["total"] == 2 && shown["sessions"][1]["protocol"] == "HTTP/1.1").then_some(shown)
    })
    .await;
    let (first, second) = (&shown["sessions"][0], &shown["sessions"][1]);
    assert_eq!(first["client"], passed.local_addr().unwrap().to_string());
    assert_eq!(
        (&first["listener"], &first["protocol"], &first["pool"], &first["server"]),
        (&json!("registry"), &json!("tcp"), &json!("origin"), &json!("a"))
    );
    assert!(first["received"].as_u64() > Some(20) && first["sent"].as_u64() > Some(20), "{first}");
    assert_eq!((&second["listener"], &second["server"]), (&json!("web"), &Value::Null));

    let table = edge.ctl(&["sessions", "--pool", "origin"]).await.expect_success();
    assert_eq!(table.stdout.lines().count(), 2, "{}", table.stdout);
    assert_eq!(row(&table, &[&first["id"].to_string(), "registry"])[3], "tcp");

    edge.ctl(&["close", &first["id"].to_string(), &second["id"].to_string()]).await.expect_success();
    ended(passed).await;
    ended(idle).await;
    let told = eventually("the session's line", LONG, async || {
        edge.log().find(0, |line| serde_json::from_str::<Value>(line).ok().filter(|line| line["end"].is_string()))
    });
    assert_eq!(told.await["end"], "closed");
    assert_eq!(edge.metric("pierhead_sessions_total", &[("end", "closed")]).await, 1.0);
    eventually("none is shown", LONG, async || (json_of(&edge, &["sessions"]).await["total"] == 0).then_some(())).await;
    let gone = edge.ctl(&["close", &first["id"].to_string()]).await.expect_failure();
    assert_eq!(gone.code, Some(1));
    assert!(gone.stderr.contains("there is no session"), "{}", gone.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_ends_the_sessions_of_a_server() {
    let server = DockerRegistry::start().await;
    let edge = passing_on(&[server.address]).start().await;
    let client = kept(edge.registry).await;
    edge.ctl(&["maintenance", "origin", "a"]).await.expect_success();
    ended(client).await;
    let pools = edge.ctl(&["pools"]).await.expect_success();
    assert_eq!(row(&pools, &["origin", "no"])[2], "0/1");
    let health = edge.operator().get("/health/endtoend").await;
    let health: Value = serde_json::from_slice(&health.body).unwrap();
    assert_eq!((&health["data"]["services"]["origin"], &health["status_code"]), (&json!(false), &json!(503)));
    let status = edge.ctl(&["status"]).await.expect_success();
    assert!(status.stdout.contains("not well: origin"), "{}", status.stdout);
    assert!(status.stdout.contains("origin: no server of it is up: see `ctl servers`"), "{}", status.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_why_an_upstream_cannot_be_asked() {
    let mut registry = DockerRegistry::start().await;
    let edge = Setup::new().registry("up.test", registry.url()).start().await;
    let address = registry.address;
    assert!(edge.ctl(&["status"]).await.expect_success().stdout.contains("all well"));
    registry.stop().await;
    let status = eventually("the outage", LONG, async || {
        edge.client().get("/v2/up.test/team/app/manifests/latest").await;
        let status = edge.ctl(&["status"]).await.expect_success().stdout;
        status.contains("not well: up.test").then_some(status)
    });
    let status = status.await;
    assert!(status.contains(&format!("up.test: {address}: ")), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_the_api_and_nothing_else_does() {
    let server = DockerRegistry::start().await;
    let edge = passing_on(&[server.address]).set("/admin/token", "let-me-in-please-now").start().await;
    let refused = edge.ctl(&["pools"]).await.expect_failure();
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("--token-file"), "{}", refused.stderr);
    let file = edge.dir().join("token");
    for (text, code) in [("let-me-in-please-now\n", 0), ("let-me-out", 1), ("", 1)] {
        std::fs::write(&file, text).unwrap();
        let output = edge.ctl(&["pools", "--token-file", file.to_str().unwrap()]).await;
        assert_eq!(output.code, Some(code), "{text:?}: {}", output.stderr);
        assert!(!output.stderr.contains("let-me"), "{}", output.stderr);
    }
    let config = edge.dir().join("pierhead.yaml");
    edge.ctl(&["pools", "--config", config.to_str().unwrap()]).await.expect_success();
    for (path, status) in [("/metrics", 200), ("/health/instance", 200), ("/api/v1/pools", 401)] {
        assert_eq!(edge.operator().get(path).await.status, status, "{path}");
    }
    assert_eq!(edge.log().count(|line| line.contains("let-me")), 0, "the token is in the log");
}

/// Nor do connections that were opened while it did.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_replaced_opens_nothing_any_more() {
    let server = DockerRegistry::start().await;
    let mut edge = passing_on(&[server.address]).set("/admin/token", "let-me-in-please-now").start().await;
    let mut kept = TcpStream::connect(edge.admin).await.unwrap();
    let request = "GET /api/v1/version HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer let-me-in-please-now\r\n\r\n";
    kept.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 15];
    kept.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    edge.rewrite(|config| config["admin"]["token"] = json!("another-one-from-now-on"));
    edge.reload().await;
    let mut rest = Vec::new();
    let end = kept.read_to_end(&mut rest);
    tokio::time::timeout(LONG / 2, end).await.expect("the connection stays open").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_outlive_reloads_and_a_broken_file_is_told() {
    let servers = [DockerRegistry::start().await, DockerRegistry::start().await];
    let mut edge = passing_on(&servers.each_ref().map(|server| server.address)).start().await;
    edge.ctl(&["drain", "origin", "a"]).await.expect_success();
    edge.rewrite(|config| config["pools"][0]["retries"] = json!(1));
    let address = edge.admin.to_string();
    let done = pierhead(&["reload", "--address", &address]).await.expect_success();
    assert_eq!(done.stdout.trim(), "reloaded: configuration 2 is in use");
    let shown = edge.ctl(&["servers"]).await.expect_success();
    assert_eq!(row(&shown, &["origin", "a"])[3], "drain (up)");

    edge.rewrite(|config| config["pools"][0]["balance"] = json!("sideways"));
    let refused = edge.ctl(&["reload"]).await.expect_failure();
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("\npools[0].balance: "), "{}", refused.stderr);
    let status = edge.ctl(&["status"]).await.expect_success();
    assert!(status.stdout.contains("pools[0].balance: "), "{}", status.stdout);
    assert_eq!(json_of(&edge, &["status"]).await["reload"]["generation"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_shown_with_their_end() {
    let server = DockerRegistry::start().await;
    let setup = passing_on(&[server.address]);
    let made = rcgen::generate_simple_self_signed(vec!["registry.example.com".to_owned()]).unwrap();
    let (cert, key) = (setup.dir.path().join("a.crt"), setup.dir.path().join("a.key"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = json!({ "certificates": [{ "cert": cert, "key": key }] });
    let edge = setup
        .with("listeners", json!({ "name": "web", "bind": "127.0.0.1:0", "pool": "origin", "tls": tls }))
        .start()
        .await;
    let shown = edge.ctl(&["certificates"]).await.expect_success();
    let shown = row(&shown, &["web", "registry.example.com"]);
    assert!(shown[3].parse::<i64>().unwrap() > 1000, "{shown:?}");
    let all = json_of(&edge, &["certificates"]).await;
    let one = &all["certificates"][0];
    assert_eq!((&one["listener"], &one["file"]), (&json!("web"), &json!(cert)));
    assert_eq!(one["fingerprint"].as_str().unwrap().len(), 64);
    let ends = edge.metric("pierhead_certificate_expiry_timestamp_seconds", &[("listener", "web")]).await;
    assert!(ends > 4e9, "{ends}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_edge_it_is_said_so() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for arguments in [&["ctl", "pools"][..], &["reload"]] {
        let output = pierhead(&[arguments, &["--address", &nobody]].concat()).await.expect_failure();
        assert_eq!(output.code, Some(3));
        assert!(output.stderr.contains(&format!("no edge answers at {nobody}")), "{}", output.stderr);
    }
    let output = pierhead(&["ctl", "pools", "--address", "https://edge.example.com"]).await.expect_failure();
    assert!(output.stderr.contains("plain http"), "{}", output.stderr);
}

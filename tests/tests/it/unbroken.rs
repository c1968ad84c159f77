//! What goes on through a reload and an upgrade: pulls over HTTP/2, from the cache and past it, and sessions of layer 4. And
//! what operators said.

use std::time::Duration;

use pierhead_tests::eventually;
use pierhead_tests::image::Image;
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::pull::Client;
use pierhead_tests::registry::DockerRegistry;
use pierhead_tests::server::{Server, certificate};
use pierhead_tests::setup::Program;
use pierhead_tests::wire::Wire;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;

/// A client of a listener that speaks HTTP/2, and nothing else.
fn http2(edge: &Pierhead, listener: &str) -> Client {
    let client = reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true).http2_prior_knowledge();
    Client::new(format!("https://localhost:{}", edge.address(listener).port())).over(client.build().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_over_http2_survive_a_reload_and_an_upgrade() {
    let registry = DockerRegistry::start().await;
    let (large, small) = (Image::new(1, &[6 << 20]), Image::new(2, &[1000]));
    registry.push("team/app", "large", &large).await;
    registry.push("team/app", "small", &small).await;
    let wire = Wire::to(registry.address).await;
    let setup = Setup::new().registry_with("up.test", wire.url(), json!({ "default": true }));
    let (cert, key, _) = certificate(setup.dir.path(), &["localhost"]);
    let tls = json!({ "certificates": [{ "cert": cert, "key": key }] });
    let program = Program::installed(setup.dir.path());
    let mut edge = setup
        .pool(json!({ "name": "origin", "servers": [wire.address.to_string()] }))
        .set("/listeners/0/tls", tls.clone())
        .with("listeners", json!({ "name": "past", "bind": "127.0.0.1:0", "tls": tls, "pool": "origin" }))
        .set("/drain_timeout", "60s")
        .program([program.path()])
        .start()
        .await;
    wire.limit(2 * MIB);
    let before = wire.carried();
    let pulls = ["registry", "past"].map(|listener| {
        let (client, digest) = (http2(&edge, listener), large.layers[0].digest);
        tokio::spawn(async move { client.blob("team/app", &digest).await })
    });
    eventually("pulls that run", LONG, async || (wire.carried() > before + MIB).then_some(())).await;

    // Everything that they go by changes: the listener, the pool, the registry.
    edge.rewrite(|config| {
        config["listeners"][0]["body_timeout"] = json!("7s");
        config["listeners"][1]["hsts"] = json!("1h");
        config["pools"][0]["keep_alive"] = json!("1s");
        config["registries"][0]["tag_ttl"] = json!("7s");
    });
    edge.reload().await;
    let reply = http2(&edge, "past").head("/v2/").await;
    assert_eq!((reply.status, reply.header("strict-transport-security")), (200, "max-age=3600"));
    assert!(pulls.iter().all(|pull| !pull.is_finished()), "the pulls were over too soon to prove anything");

    program.install();
    let successor = edge.upgrade().await;
    for listener in ["registry", "past"] {
        http2(&edge, listener).pull("team/app", "small").await.unwrap();
    }
    assert!(edge.running() && pulls.iter().all(|pull| !pull.is_finished()), "over too soon to prove anything");
    for pull in pulls {
        pull.await.unwrap().unwrap();
    }
    assert!(edge.wait(LONG).await.success());
    successor.signal(Signal::TERM);
    successor.wait(LONG).await;
}

/// An edge whose only listener passes everything on to these servers, called `a` and `b`.
async fn passing_on(servers: &[&Server]) -> (Pierhead, Program) {
    let servers: Vec<Value> = servers
        .iter()
        .zip(["a", "b"])
        .map(|(server, name)| json!({ "name": name, "address": server.address().to_string() }))
        .collect();
    let setup = Setup::front()
        .set("/listeners/0/mode", "tcp")
        .set("/listeners/0/pool", "redis")
        .set("/drain_timeout", "60s")
        .pool(json!({ "name": "redis", "servers": servers }));
    let program = Program::installed(setup.dir.path());
    let edge = setup.program([program.path()]).start().await;
    (edge, program)
}

async fn ask(session: &mut TcpStream, command: &str, expected: &str) {
    session.write_all(command.as_bytes()).await.unwrap();
    let mut answer = vec![0; expected.len()];
    timeout(LONG, session.read_exact(&mut answer)).await.expect("no answer").unwrap();
    assert_eq!(String::from_utf8(answer).unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_survive_a_reload_and_an_upgrade() {
    let redis = Server::redis(&[]).await;
    let (mut edge, program) = passing_on(&[&redis]).await;
    // One that says something now and then, and one that only listens.
    let mut session = TcpStream::connect(edge.registry).await.unwrap();
    ask(&mut session, "INCR n\r\n", ":1\r\n").await;
    let mut subscriber = TcpStream::connect(edge.registry).await.unwrap();
    ask(&mut subscriber, "SUBSCRIBE news\r\n", "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n").await;
    edge.rewrite(|config| {
        config["pools"][0]["retries"] = json!(1);
        config["listeners"][0]["idle_timeout"] = json!("7s");
    });
    edge.reload().await;
    ask(&mut session, "INCR n\r\n", ":2\r\n").await;
    program.install();
    let successor = edge.upgrade().await;
    ask(&mut session, "INCR n\r\n", ":3\r\n").await;
    let mut fresh = TcpStream::connect(edge.registry).await.unwrap();
    ask(&mut fresh, "PUBLISH news hello\r\n", ":1\r\n").await;
    ask(&mut subscriber, "", "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n").await;
    let sessions = async || edge.metric("pierhead_connections", &[("listener", "registry")]).await;
    assert_eq!(sessions().await, 1.0, "the new process has the new one only");
    assert!(edge.running(), "its sessions run");
    drop((session, subscriber));
    assert!(edge.wait(LONG).await.success());
    ask(&mut fresh, "INCR n\r\n", ":4\r\n").await;
    drop(fresh);
    successor.signal(Signal::TERM);
    successor.wait(LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_outlive_upgrades() {
    let (one, two) = (Server::redis(&[]).await, Server::redis(&[]).await);
    let (mut edge, program) = passing_on(&[&one, &two]).await;
    let order = async |server: &str, body: Value| {
        let path = format!("/api/v1/pools/redis/servers/{server}");
        let answer = edge.operator().request(Method::POST, &path).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
    };
    let seen = async |edge: &Pierhead| {
        let reply = edge.operator().get("/api/v1/pools/redis").await;
        let pool: Value = serde_json::from_slice(&reply.body).unwrap();
        let of = |server: &Value| format!("{} {} {}", server["name"], server["operator"], server["weight"]);
        pool["servers"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    order("a", json!({ "action": "maintenance" })).await;
    order("b", json!({ "action": "weight", "weight": 7 })).await;
    let before = seen(&edge).await;
    assert_eq!(before, ["\"a\" \"maintenance\" 1", "\"b\" \"ready\" 7"]);
    program.install();
    let second = edge.upgrade().await;
    assert!(edge.wait(LONG).await.success());
    assert_eq!(seen(&edge).await, before);
    // And from that one to the next.
    let mark = edge.log().len();
    second.signal(Signal::USR2);
    let third = edge.successor(mark).await;
    second.wait(LONG).await;
    assert_eq!(seen(&edge).await, before);
    third.signal(Signal::TERM);
    third.wait(LONG).await;
}

//! Pools: which servers there are, by DNS, and which of them are up, by their checks.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pierhead_tests::dns::NameServer;
use pierhead_tests::eventually;
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::registry::DockerRegistry;
use pierhead_tests::server::{Server, certificate, redis_cli};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(20);

/// An edge whose only listener passes everything on to this pool.
fn passing_on(pool: Value) -> Setup {
    Setup::front().set("/listeners/0/mode", "tcp").set("/listeners/0/pool", "servers").pool(pool)
}

/// Servers that say their own address, and then repeat what they hear. All on one port, each with an address of its own.
struct Greeters {
    port: u16,
    tasks: BTreeMap<u8, JoinSet<()>>,
}

impl Greeters {
    async fn start(last_bytes: &[u8]) -> Greeters {
        loop {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut greeters = Greeters { port: free, tasks: BTreeMap::new() };
            let mut all = true;
            for last in last_bytes {
                all &= greeters.open(*last).await.is_ok();
            }
            if all {
                return greeters;
            }
        }
    }

    async fn open(&mut self, last: u8) -> std::io::Result<()> {
        let listener = TcpListener::bind(SocketAddr::new(address(last), self.port)).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut sessions = JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                sessions.spawn(async move {
                    drop(stream.write_all(format!("{last}\n").as_bytes()).await);
                    let (mut read, mut write) = stream.split();
                    drop(tokio::io::copy(&mut read, &mut write).await);
                });
            }
        });
        self.tasks.insert(last, tasks);
        Ok(())
    }

    /// From here on nobody listens there, and its sessions are over.
    async fn close(&mut self, last: u8) {
        self.tasks.remove(&last).unwrap().shutdown().await;
    }
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

/// A session, and who serves it.
async fn greeted(edge: &Pierhead) -> Option<(u8, BufReader<TcpStream>)> {
    let mut stream = BufReader::new(TcpStream::connect(edge.registry).await.ok()?);
    let mut line = String::new();
    timeout(LONG, stream.read_line(&mut line)).await.expect("nobody says anything").ok()?;
    Some((line.trim().parse().ok()?, stream))
}

/// Who serves so many sessions, and how many each.
async fn served(edge: &Pierhead, sessions: usize) -> BTreeMap<u8, usize> {
    let mut seen = BTreeMap::new();
    for _ in 0..sessions {
        let (last, _) = greeted(edge).await.expect("a session is refused");
        *seen.entry(last).or_default() += 1;
    }
    seen
}

/// Waits until sessions are served by all of these and nobody else.
async fn until_served_by(edge: &Pierhead, wanted: &[u8]) {
    eventually(&format!("sessions are served by {wanted:?}"), LONG, async || {
        let mut seen = Vec::new();
        for _ in 0..6 {
            seen.push(greeted(edge).await?.0);
        }
        seen.sort_unstable();
        seen.dedup();
        (seen == wanted).then_some(())
    })
    .await;
}

async fn until_logged(edge: &Pierhead, text: &str) {
    eventually(text, LONG, async || edge.log().find(0, |line| line.contains(text).then_some(()))).await;
}

fn dns(server: &NameServer) -> Value {
    json!({ "servers": [server.address().to_string()], "min_ttl": "100ms", "max_ttl": "100ms" })
}

#[tokio::test]
async fn answers_of_dns_change_vanish_and_come_back() {
    let greeters = Greeters::start(&[11, 12, 13]).await;
    let mut names = NameServer::start().await;
    names.set(&[("quay.test", "127.0.0.11")]);
    let discovery = json!({ "name": "quay.test", "port": greeters.port });
    let pool = json!({ "name": "servers", "discovery": discovery, "dns": dns(&names) });
    let edge = passing_on(pool).start().await;
    until_served_by(&edge, &[11]).await;
    let (_, mut session) = greeted(&edge).await.unwrap();

    names.set(&[("quay.test", "127.0.0.12"), ("quay.test", "127.0.0.13")]);
    until_served_by(&edge, &[12, 13]).await;
    // Whose server has gone goes on.
    session.write_all(b"still there\n").await.unwrap();
    let mut line = String::new();
    timeout(LONG, session.read_line(&mut line)).await.expect("the session is stuck").unwrap();
    assert_eq!(line, "still there\n");

    names.set(&[]);
    until_logged(&edge, "quay.test: no such name").await;
    assert_eq!(served(&edge, 4).await, BTreeMap::from([(12, 2), (13, 2)]));
    names.stop().await;
    assert_eq!(served(&edge, 4).await, BTreeMap::from([(12, 2), (13, 2)]));

    names.start_again().await;
    names.set(&[("quay.test", "127.0.0.11"), ("quay.test", "127.0.0.13")]);
    until_served_by(&edge, &[11, 13]).await;
    until_logged(&edge, "DNS names servers again").await;
    let labels = [("pool", "servers"), ("server", &*format!("127.0.0.12:{}", greeters.port))];
    edge.metric_until("pierhead_server_state", &labels, |value| value == 0.0).await;
}

#[tokio::test]
async fn an_edge_starts_while_dns_is_away() {
    let greeters = Greeters::start(&[21]).await;
    let mut names = NameServer::start().await;
    names.stop().await;
    let servers = json!([format!("quay.test:{}", greeters.port)]);
    let edge = passing_on(json!({ "name": "servers", "servers": servers, "dns": dns(&names) })).start().await;
    assert!(greeted(&edge).await.is_none(), "there is no server yet");
    names.start_again().await;
    names.set(&[("quay.test", "127.0.0.21")]);
    eventually("a session is served", LONG, async || greeted(&edge).await.map(|(last, _)| assert_eq!(last, 21))).await;
}

#[tokio::test]
async fn a_server_with_a_host_name_follows_it() {
    let greeters = Greeters::start(&[31, 32]).await;
    let names = NameServer::start().await;
    names.set(&[("quay.test", "127.0.0.31")]);
    let servers = json!([{ "name": "one", "address": format!("quay.test:{}", greeters.port) }]);
    let edge = passing_on(json!({ "name": "servers", "servers": servers, "dns": dns(&names) })).start().await;
    until_served_by(&edge, &[31]).await;
    // Another address beside it changes nothing.
    names.set(&[("quay.test", "127.0.0.32"), ("quay.test", "127.0.0.31")]);
    until_logged(&edge, &format!("127.0.0.31:{0} 127.0.0.32:{0}", greeters.port)).await;
    assert_eq!(served(&edge, 4).await, BTreeMap::from([(31, 4)]));
    names.set(&[("quay.test", "127.0.0.32")]);
    until_served_by(&edge, &[32]).await;
    assert!(edge.metric("pierhead_server_sessions_total", &[("server", "one")]).await >= 10.0);
}

#[tokio::test]
async fn services_have_weights_and_backups() {
    let mut greeters = Greeters::start(&[41, 42, 43]).await;
    let mut names = NameServer::start().await;
    let service = |host: &str, priority, weight| {
        format!("srv-host=_registry._tcp.quay.test,{host}.quay.test,{},{priority},{weight}\n", greeters.port)
    };
    names.configure(&(service("a", 10, 30) + &service("b", 10, 10) + &service("c", 20, 50)));
    names.stop().await;
    names.start_again().await;
    names.set(&[("a.quay.test", "127.0.0.41"), ("b.quay.test", "127.0.0.42"), ("c.quay.test", "127.0.0.43")]);
    let pool = json!({
        "name": "servers", "dns": dns(&names),
        "discovery": { "name": "_registry._tcp.quay.test", "record": "srv" },
        "health": { "kind": "tcp", "interval": "50ms", "fast_interval": "20ms" },
    });
    let edge = passing_on(pool).start().await;
    until_served_by(&edge, &[41, 42]).await;
    assert_eq!(served(&edge, 8).await, BTreeMap::from([(41, 6), (42, 2)]));
    greeters.close(41).await;
    assert_eq!(served(&edge, 4).await, BTreeMap::from([(42, 4)]), "refused, and passed on to the next");
    greeters.close(42).await;
    assert_eq!(served(&edge, 4).await, BTreeMap::from([(43, 4)]));
    let down = [("state", "down")];
    edge.metric_until("pierhead_server_state", &down, |value| value == 2.0).await;
    greeters.open(42).await.unwrap();
    edge.metric_until("pierhead_server_state", &down, |value| value == 1.0).await;
    assert_eq!(served(&edge, 4).await, BTreeMap::from([(42, 4)]));
}

fn redis_pool(servers: &[&Server], more: Value) -> Value {
    let servers: Vec<String> = servers.iter().map(|server| server.address().to_string()).collect();
    let mut health = json!({ "kind": "redis", "role": "primary", "interval": "100ms", "fast_interval": "50ms" });
    health.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "name": "servers", "servers": servers, "health": health, "on_down": "close" })
}

async fn in_state(edge: &Pierhead, server: &Server, state: &str) {
    let name = server.address().to_string();
    let labels = [("server", &*name), ("state", state)];
    edge.metric_until("pierhead_server_state", &labels, |value| value == 1.0).await;
}

#[tokio::test]
async fn writes_follow_the_primary() {
    let mut first = Server::redis(&["--requirepass", "s3cret", "--masterauth", "s3cret"]).await;
    let second = Server::redis(&["--requirepass", "s3cret", "--masterauth", "s3cret"]).await;
    let ask = async |at: SocketAddr, words: &[&str]| {
        let output = redis_cli(at, &[&["-a", "s3cret", "--no-auth-warning"], words].concat()).await;
        output.stdout.trim().to_owned()
    };
    let replicate = async |replica: &Server, primary: &Server| {
        let port = primary.address().port().to_string();
        assert_eq!(ask(replica.address(), &["REPLICAOF", "127.0.0.1", &port]).await, "OK");
    };
    replicate(&second, &first).await;
    let edge = passing_on(redis_pool(&[&first, &second], json!({ "password": "s3cret" }))).start().await;
    in_state(&edge, &first, "up").await;
    in_state(&edge, &second, "down").await;
    for number in 0..6 {
        assert_eq!(ask(edge.registry, &["SET", "key", &number.to_string()]).await, "OK");
    }

    // The primary dies; the replica is promoted.
    first.kill().await;
    in_state(&edge, &first, "down").await;
    assert_eq!(ask(second.address(), &["REPLICAOF", "NO", "ONE"]).await, "OK");
    in_state(&edge, &second, "up").await;
    assert_eq!(ask(edge.registry, &["SET", "key", "after"]).await, "OK");
    let mut session = TcpStream::connect(edge.registry).await.unwrap();
    session.write_all(b"AUTH s3cret\r\nPING\r\n").await.unwrap();
    session.read_exact(&mut [0; 12]).await.unwrap();

    // The first comes back and is promoted, with the second as its replica: sessions of the second end.
    first.start_again().await;
    replicate(&second, &first).await;
    in_state(&edge, &second, "down").await;
    in_state(&edge, &first, "up").await;
    let end = timeout(LONG, session.read(&mut [0; 1])).await.expect("the session with the replica goes on");
    assert!(!matches!(end, Ok(1..)), "{end:?}");
    for number in 0..6 {
        assert_eq!(ask(edge.registry, &["SET", "key", &number.to_string()]).await, "OK");
    }
    assert_eq!(edge.log().count(|line| line.contains("s3cret")), 0);
}

#[tokio::test]
async fn a_wrong_password_is_a_server_down_and_no_secret() {
    let redis = Server::redis(&["--requirepass", "s3cret"]).await;
    let edge = passing_on(redis_pool(&[&redis], json!({ "password": "wr0ng" }))).start().await;
    in_state(&edge, &redis, "down").await;
    until_logged(&edge, "AUTH refused (WRONGPASS)").await;
    assert_eq!(edge.log().count(|line| line.contains("wr0ng")), 0);
}

#[tokio::test]
async fn redis_is_checked_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key, _) = certificate(folder.path(), &["localhost", "redis.test"]);
    let ca = cert.clone();
    let redis = Server::start(1, move |dir, ports| {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--port", "0", "--tls-auth-clients", "no"]);
        command.args(["--tls-port", &ports[0].to_string()]).arg("--tls-cert-file").arg(&cert);
        command.arg("--tls-key-file").arg(&key).arg("--tls-ca-cert-file").arg(&cert).arg("--dir").arg(dir);
        command
    })
    .await;
    let tls = json!({ "tls": { "ca": ca, "sni": "redis.test" } });
    let other = json!({ "tls": { "ca": ca, "sni": "other.test" } });
    let mut wrong = redis_pool(&[&redis], other);
    wrong["name"] = json!("wrong");
    let edge = passing_on(redis_pool(&[&redis], tls)).pool(wrong).start().await;
    let state = async |pool, state| {
        edge.metric_until("pierhead_server_state", &[("pool", pool), ("state", state)], |value| value == 1.0).await;
    };
    state("servers", "up").await;
    edge.metric_until("pierhead_server_checks_total", &[("pool", "servers"), ("result", "ok")], |ok| ok > 2.0).await;
    state("wrong", "down").await;
}

#[tokio::test]
async fn a_registry_that_dies_is_noticed_and_one_that_returns_too() {
    let mut first = DockerRegistry::start().await;
    let second = DockerRegistry::start().await;
    let pool = json!({
        "name": "servers",
        "servers": [{ "address": first.address.to_string(), "name": "first", "checked_first": true }, second.address.to_string()],
        "health": { "kind": "http", "path": "/v2/", "statuses": [200], "interval": "100ms", "fast_interval": "30ms" },
    });
    let edge = passing_on(pool).start().await;
    let state = async |state| {
        let labels = [("server", "first"), ("state", state)];
        edge.metric_until("pierhead_server_state", &labels, |value| value == 1.0).await;
    };
    state("up").await;
    for down in [true, false] {
        if down {
            first.stop().await;
        } else {
            first.restart().await;
        }
        for _ in 0..20 {
            assert_eq!(edge.client().get("/v2/").await.status, 200);
        }
        state(if down { "down" } else { "up" }).await;
    }
    let labels = [("pool", "servers"), ("server", "first")];
    let served = edge.metric("pierhead_server_sessions_total", &labels).await;
    assert_eq!(edge.client().get("/v2/").await.status, 200);
    assert_eq!(edge.client().get("/v2/").await.status, 200);
    assert!(edge.metric("pierhead_server_sessions_total", &labels).await > served, "it has its share again");
}

#[tokio::test]
async fn nginx_that_expects_tls_and_a_proxy_header_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key, _) = certificate(folder.path(), &["quay.test"]);
    let block = format!(
        "server {{ listen 127.0.0.1:@PORT@ ssl proxy_protocol; ssl_certificate {}; ssl_certificate_key {}; \
         location /health {{ return 200 '{{\"data\":{{\"services\":{{\"storage\":true,\"redis\":false}}}}}}'; }} }}",
        cert.display(),
        key.display(),
    );
    let nginx = Server::nginx(1, &block).await;
    let pool = |name: &str, version: &str, service: &str| {
        let field = json!({ "pointer": format!("/data/services/{service}"), "equals": true });
        json!({
            "name": name, "servers": [nginx.address().to_string()], "send_proxy": version,
            "tls": { "ca": cert, "sni": "quay.test" },
            "health": {
                "kind": "http", "path": "/health", "json": field, "interval": "100ms", "fast_interval": "50ms",
            },
        })
    };
    let setup = passing_on(pool("servers", "v2", "storage")).pool(pool("first", "v1", "storage"));
    let edge = setup.pool(pool("ill", "v2", "redis")).start().await;
    for name in ["servers", "first"] {
        let passed = [("pool", name), ("result", "ok")];
        edge.metric_until("pierhead_server_checks_total", &passed, |count| count > 2.0).await;
        assert_eq!(edge.metric("pierhead_server_checks_total", &[("pool", name), ("result", "failed")]).await, 0.0);
    }
    edge.metric_until("pierhead_server_state", &[("pool", "ill"), ("state", "down")], |value| value == 1.0).await;
    until_logged(&edge, "/data/services/redis is not what is expected").await;
}

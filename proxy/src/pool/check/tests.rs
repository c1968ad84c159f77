//! Checks against servers that misbehave, each named by how.

use pierhead_config::{BodyField, Credentials, HttpCheck, RedisCheck, Secret};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::tests::{pools, pools_after, settings};
use super::super::view::{PoolView, ServerState};
use super::super::{Pool, Pools};
use super::*;

fn health(check: HealthCheck) -> Health {
    let unverified = config::ServerTls { verify: false, ..config::ServerTls::default() };
    Health {
        tls: matches!(check, HealthCheck::Tls).then_some(unverified),
        check,
        port: None,
        interval: Duration::from_millis(30),
        fast_interval: Duration::from_millis(10),
        timeout: Duration::from_millis(300),
        rise: 2,
        fall: 3,
        jitter: 10,
    }
}

fn http() -> HttpCheck {
    HttpCheck { path: "/health".to_owned(), host: None, statuses: vec![(200, 299)], body: None, json: None }
}

/// A server that answers each connection with these bytes, once it was asked something, and then leaves it open.
async fn answering(bytes: impl Into<Vec<u8>>) -> SocketAddr {
    let bytes = bytes.into();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let bytes = bytes.clone();
            tokio::spawn(async move {
                drop(stream.read(&mut [0; 1024]).await);
                drop(stream.write_all(&bytes).await);
                drop(stream.read_to_end(&mut Vec::new()).await);
            });
        }
    });
    address
}

/// A server that answers with one byte at a time, for ever.
async fn dripping() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                while stream.write_all(b"H").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
    });
    address
}

/// A port that nobody listens on.
async fn dead() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn at(servers: &[(&str, SocketAddr)], check: HealthCheck) -> config::Pool {
    let server = |(name, address): &(&str, SocketAddr)| config::Server {
        name: (*name).to_owned(),
        address: config::Address::Socket(*address),
        weight: 1,
        backup: false,
        max_connections: None,
        checked_first: true,
    };
    config::Pool { health: Some(health(check)), ..settings(servers.iter().map(server).collect()) }
}

fn quay(pools: &Pools) -> &Pool {
    pools.get("quay").unwrap()
}

async fn until(pool: &Pool, what: &str, mut test: impl FnMut(&PoolView) -> bool) -> PoolView {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let view = pool.view();
        if test(&view) {
            return view;
        }
        assert!(Instant::now() < deadline, "{what}: {view:#?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What one check of a server at an address comes to.
async fn outcome(address: SocketAddr, check: HealthCheck) -> String {
    let pools = pools(at(&[("a", address)], check)).await;
    let view = until(quay(&pools), "checked", |view| view.servers[0].last_check.is_some()).await;
    view.servers[0].last_check.clone().unwrap().failure.unwrap_or_else(|| "passed".to_owned())
}

#[tokio::test]
async fn dead_silent_and_dripping_servers_delay_nobody() {
    let good = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let servers =
        [("good", good), ("dead", dead().await), ("silent", answering("").await), ("dripping", dripping().await)];
    let pools = pools(at(&servers, HealthCheck::Http(http()))).await;
    let passed = |view: &PoolView, count| view.servers[0].checks_passed >= count;
    let view = until(quay(&pools), "three checks of the good one", |view| passed(view, 3)).await;
    assert_eq!(view.servers[0].state, ServerState::Up);
    assert!(view.servers[2].checks_failed + view.servers[3].checks_failed <= 2, "it had to wait: {view:#?}");
    let view =
        until(quay(&pools), "all are checked", |view| view.servers.iter().all(|one| one.last_check.is_some())).await;
    assert_eq!(view.servers.iter().map(|one| one.state).filter(|state| *state == ServerState::Up).count(), 1);
    assert!(view.servers[1].reason.contains("refused"), "{view:#?}");
    assert_eq!(view.servers[2].reason, "no answer within 300ms");
    assert_eq!(view.servers[3].reason, "no answer within 300ms");
}

#[tokio::test]
async fn pages_are_what_is_expected_or_not() {
    let page = |status: u16, body: &str| format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let text = |text: &str| HttpCheck { body: Some(text.to_owned()), ..http() };
    let field =
        |pointer: &str, equals| HttpCheck { json: Some(BodyField { pointer: pointer.to_owned(), equals }), ..http() };
    let quay = r#"{"data":{"services":{"storage":true,"redis":false}},"status_code":200}"#;
    let long = "x".repeat(100_000);
    for (answer, check, expected) in [
        (page(200, ""), http(), "passed"),
        (page(299, ""), http(), "passed"),
        (page(503, ""), http(), "status 503"),
        (page(401, ""), HttpCheck { statuses: vec![(200, 200), (401, 401)], ..http() }, "passed"),
        (page(200, "all is well"), text("is well"), "passed"),
        (page(200, "all is lost"), text("is well"), "the expected text is not in the body"),
        (page(200, &format!("well{long}")), text("well"), "passed"),
        (page(200, &format!("{long}well")), text("well"), "the expected text is not in the body"),
        // Without an end: what is wanted is there, or time runs out.
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nwel\r\n1\r\nl\r\n0\r\n\r\n".to_owned(),
            text("well"),
            "passed",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nwel".to_owned(), text("well"), "no answer within 300ms"),
        (page(200, quay), field("/data/services/storage", json!(true)), "passed"),
        (page(200, quay), field("/status_code", json!(200)), "passed"),
        (page(200, quay), field("/data/services/redis", json!(true)), "/data/services/redis is not what is expected"),
        (page(200, quay), field("/data/other", json!(true)), "/data/other is not what is expected"),
        (page(200, "storage"), field("/data", json!(true)), "the body is no JSON, or too long"),
        (page(200, &format!("\"{long}\"")), field("", json!(long)), "the body is no JSON, or too long"),
    ] {
        let seen = outcome(answering(answer.clone()).await, HealthCheck::Http(check)).await;
        assert_eq!(seen, expected, "{:.200}", answer);
    }
    let nonsense = outcome(answering("SSH-2.0-OpenSSH\r\n").await, HealthCheck::Http(http())).await;
    assert!(nonsense.starts_with("http: "), "{nonsense}");
    let endless = answering(format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(1 << 20))).await;
    let endless = outcome(endless, HealthCheck::Http(http())).await;
    assert!(endless.starts_with("http: "), "{endless}");
}

#[tokio::test]
async fn redis_servers_that_say_no_are_not_up() {
    let check = |password: Option<&str>, primary| {
        let credentials = password.map(|password| Credentials {
            username: String::new(),
            password: Secret::new(password),
            password_file: None,
        });
        HealthCheck::Redis(RedisCheck { credentials, primary })
    };
    let replica = "+PONG\r\n*5\r\n$5\r\nslave\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n:2\r\n";
    for (answer, check, expected) in [
        ("+PONG\r\n", check(None, false), "passed"),
        ("+OK\r\n+PONG\r\n*1\r\n$6\r\nmaster\r\n", check(Some("secret"), true), "passed"),
        (replica, check(None, true), "redis: its role is slave"),
        (replica, check(None, false), "passed"),
        ("-NOAUTH Authentication required.\r\n", check(None, false), "redis: NOAUTH Authentication required."),
        ("-ERR unknown: 'secret'\r\n", check(Some("secret"), false), "redis: AUTH refused (ERR)"),
        ("-LOADING Redis is loading\r\n", check(None, false), "redis: LOADING Redis is loading"),
        ("HTTP/1.1 400 Bad Request\r\n", check(None, false), "redis: not an answer of a Redis server"),
        ("+PONG\r\n*1\r\n*1\r\n*1\r\n", check(None, true), "no answer within 300ms"),
    ] {
        assert_eq!(outcome(answering(answer).await, check).await, expected, "{answer:?}");
    }
    let endless = answering(vec![b'x'; 1 << 20]).await;
    assert_eq!(outcome(endless, check(None, false)).await, "redis: not an answer of a Redis server");
}

#[tokio::test]
async fn a_handshake_is_more_than_a_connection() {
    let silent = answering("").await;
    assert_eq!(outcome(silent, HealthCheck::Tcp).await, "passed");
    assert_eq!(outcome(silent, HealthCheck::Tls).await, "no answer within 300ms");
    let plain = outcome(answering("HTTP/1.1 400 Bad Request\r\n\r\n").await, HealthCheck::Tls).await;
    assert!(plain.contains("does not speak TLS"), "{plain}");
}

#[tokio::test]
async fn another_port_may_be_asked() {
    let asked = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let mut settings = at(&[("a", dead().await)], HealthCheck::Http(http()));
    settings.health.as_mut().unwrap().port = Some(asked.port());
    let pools = pools(settings).await;
    until(quay(&pools), "up", |view| view.available).await;
}

#[tokio::test]
async fn requests_that_fail_bring_the_next_check_forward() {
    let good = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let mut settings = at(&[("a", good)], HealthCheck::Http(http()));
    settings.health.as_mut().unwrap().interval = Duration::from_secs(3600);
    settings.passive = Some(config::Passive { failures: 1, server_errors: true, hold: Duration::from_secs(3600) });
    let pools = pools(settings).await;
    until(quay(&pools), "up", |view| view.available).await;
    quay(&pools).lease(&Default::default()).await.unwrap().failed(&"no answer");
    assert!(!quay(&pools).available());
    let view = until(quay(&pools), "up again", |view| view.available).await;
    assert_eq!(view.servers[0].checks_passed, 3, "the first, and two for rise");
}

#[tokio::test]
async fn one_generation_checks_and_goes_on_with_what_was_known() {
    let good = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let mut settings = at(&[("a", good)], HealthCheck::Http(http()));
    settings.health.as_mut().unwrap().interval = Duration::from_secs(3600);
    let first = pools(settings.clone()).await;
    until(quay(&first), "up", |view| view.available).await;
    let second = pools_after(settings.clone(), &first).await;
    assert!(quay(&second).available(), "it is not checked first again");
    // A generation that asks more often, and one after it that asks no more.
    settings.health.as_mut().unwrap().interval = Duration::from_millis(10);
    let third = pools_after(settings.clone(), &second).await;
    let checks = |pools: &Pools| quay(pools).view().servers[0].checks_passed;
    assert_eq!(checks(&third), 1, "nobody asked again");
    until(quay(&third), "checked by the third", |view| view.servers[0].checks_passed > 3).await;
    settings.health = None;
    let fourth = pools_after(settings, &third).await;
    let ended = checks(&fourth);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(checks(&third), ended, "the third has ended, though it is still there");
    drop((first, second));
}

#[test]
fn pauses_vary_and_are_short_while_something_changes() {
    let health = health(HealthCheck::Tcp);
    for (changing, chance, expected) in
        [(false, 0.5, 30.0), (false, 0.0, 27.0), (false, 1.0, 33.0), (true, 0.5, 10.0), (true, 0.0, 9.0)]
    {
        let millis = pause(&health, changing, chance).as_secs_f64() * 1000.0;
        assert!((millis - expected).abs() < 0.001, "{millis}");
    }
}

#[test]
fn first_checks_are_spread_and_awaited_ones_come_soon() {
    let second = Duration::from_secs(1);
    let health =
        |fast, jitter| Health { interval: 2 * second, fast_interval: fast, jitter, ..health(HealthCheck::Tcp) };
    let millis = Duration::from_millis;
    for (fast, jitter, awaited, chance, expected) in [
        (second, 10, false, 0.0, millis(0)),
        (second, 10, false, 0.5, millis(500)),
        (second, 10, false, 1.0, millis(1000)),
        (10 * second, 10, false, 1.0, millis(2000)),
        (second, 10, true, 1.0, millis(100)),
        (10 * second, 10, true, 0.5, millis(50)),
        (millis(200), 10, true, 1.0, millis(20)),
        (second, 0, false, 1.0, millis(0)),
        (second, 0, true, 1.0, millis(0)),
    ] {
        assert_eq!(delay(&health(fast, jitter), awaited, chance), expected, "{fast:?} {jitter} {awaited} {chance}");
    }
}

#[tokio::test(start_paused = true)]
async fn many_servers_are_not_first_checked_all_at_once() {
    let refusing = dead().await;
    let names: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    let servers: Vec<_> = names.iter().map(|name| (name.as_str(), refusing)).collect();
    let mut settings = at(&servers, HealthCheck::Tcp);
    let second = Duration::from_secs(1);
    settings.health = settings.health.map(|health| Health { interval: second, fast_interval: second, ..health });
    settings.servers.iter_mut().for_each(|server| server.checked_first = server.name == "7");
    let begun = Instant::now();
    let pools = pools(settings).await;
    let mut checked = Vec::new();
    while begun.elapsed() < 2 * second {
        tokio::time::sleep(Duration::from_millis(10)).await;
        for server in quay(&pools).view().servers.iter().filter(|server| server.last_check.is_some()) {
            if !checked.iter().any(|(name, _)| *name == server.name) {
                checked.push((server.name.clone(), begun.elapsed()));
            }
        }
    }
    assert_eq!(checked.len(), 50);
    let at = |wanted: &str| checked.iter().find(|(name, _)| name == wanted).unwrap().1;
    assert!(at("7") <= Duration::from_millis(120), "{:?}", at("7"));
    for quarter in 0..4 {
        let here = |took: &Duration| (took.as_millis() / 250).min(3) == quarter;
        assert!(checked.iter().any(|(_, took)| here(took)), "nobody in quarter {quarter}: {checked:?}");
    }
    assert!(checked.iter().all(|(_, took)| *took <= second + Duration::from_millis(50)), "{checked:?}");
}

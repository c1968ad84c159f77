//! Layer 4: sessions that are passed on as they are, to redis, to nginx, through haproxy, and what ends them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pierhead_tests::eventually;
use pierhead_tests::image::noise;
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::process::run;
use pierhead_tests::server::{Server, redis_cli};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;

/// Longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// An edge whose only listener passes everything on to these servers.
pub(crate) fn passing_on(servers: &[SocketAddr]) -> Setup {
    let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
    Setup::front()
        .set("/listeners/0/mode", "tcp")
        .set("/listeners/0/pool", "servers")
        .pool(json!({ "name": "servers", "servers": servers }))
}

/// The access-log line of a session that ended so.
async fn ended(edge: &Pierhead, end: &str) -> Value {
    logged(edge, &format!("a session that ended with {end}"), |line| line["end"] == end).await
}

/// The first access-log line of a session that satisfies `test`.
async fn logged(edge: &Pierhead, what: &str, test: impl Fn(&Value) -> bool) -> Value {
    eventually(what, LONG, async || {
        edge.log().find(0, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["end"].is_string() && test(&line)).then_some(line)
        })
    })
    .await
}

/// The address of a port that nobody listens on.
fn nobody() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub(crate) async fn ask_redis(stream: &mut TcpStream, command: &str, expected: &str) {
    stream.write_all(command.as_bytes()).await.unwrap();
    let mut answer = vec![0; expected.len()];
    timeout(LONG, stream.read_exact(&mut answer)).await.expect("redis does not answer").unwrap();
    assert_eq!(String::from_utf8(answer).unwrap(), expected);
}

#[tokio::test]
async fn redis_notices_nothing() {
    let redis = Server::redis(&[]).await;
    let edge = passing_on(&[redis.address()]).start().await;
    let value = "v".repeat(100_000);
    redis_cli(edge.registry, &["SET", "key", &value]).await.expect_success();
    assert_eq!(redis_cli(redis.address(), &["GET", "key"]).await.expect_success().stdout.trim(), value);
    assert_eq!(redis_cli(edge.registry, &["GET", "key"]).await.expect_success().stdout.trim(), value);

    // A subscription is silent until somebody publishes, elsewhere.
    let mut subscriber = TcpStream::connect(edge.registry).await.unwrap();
    let subscribed = "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n";
    ask_redis(&mut subscriber, "SUBSCRIBE news\r\n", subscribed).await;
    assert_eq!(redis_cli(edge.registry, &["PUBLISH", "news", "hello"]).await.expect_success().stdout.trim(), "1");
    ask_redis(&mut subscriber, "", "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n").await;

    // Many commands at once, and the end of the client's direction behind them.
    let mut client = TcpStream::connect(edge.registry).await.unwrap();
    client.write_all("INCR n\r\n".repeat(10_000).as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answers = String::new();
    timeout(LONG, client.read_to_string(&mut answers)).await.expect("the server's end is not passed on").unwrap();
    assert_eq!(answers, (1..=10_000).map(|n| format!(":{n}\r\n")).collect::<String>());

    let line = ended(&edge, "client").await;
    assert_eq!(
        (&line["listener"], &line["pool"], &line["protocol"]),
        (&"registry".into(), &"servers".into(), &"tcp".into())
    );
    assert_eq!(line["server"], redis.address().to_string());
    assert!(line["bytes_up"].as_u64().unwrap() > 100_000, "{line}");
    drop(subscriber);
    eventually("all sessions are over", LONG, async || {
        (edge.metric("pierhead_connections", &[("listener", "registry")]).await == 0.0).then_some(())
    })
    .await;
    let sum = edge.metric("pierhead_session_bytes_total", &[("listener", "registry"), ("direction", "received")]).await;
    assert!(sum > 180_000.0, "{sum}");
    assert!(edge.metric("pierhead_sessions_total", &[("listener", "registry")]).await >= 5.0);
    let server = [("pool", "servers"), ("direction", "sent")];
    assert!(edge.metric("pierhead_server_bytes_total", &server).await > 180_000.0);
    assert!(edge.metric("pierhead_server_sessions_total", &[("pool", "servers")]).await >= 5.0);
}

#[tokio::test]
async fn redis_benchmark_runs_through() {
    let redis = Server::redis(&[]).await;
    let edge = passing_on(&[redis.address()]).start().await;
    for pipeline in ["1", "16"] {
        let mut command = Command::new("redis-benchmark");
        let port = edge.registry.port().to_string();
        command.args(["-h", "127.0.0.1", "-p", &port, "-t", "set,get,lrange_100", "-n", "2000", "-q", "-P", pipeline]);
        let output = run(command, Duration::from_secs(60)).await.expect_success();
        assert_eq!(output.stdout.matches("requests per second").count(), 4, "{}", output.stdout);
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_costs_no_session() {
    let redis = Server::redis(&[]).await;
    let edge = passing_on(&[nobody(), redis.address()]).start().await;
    for _ in 0..10 {
        let mut client = TcpStream::connect(edge.registry).await.unwrap();
        ask_redis(&mut client, "PING\r\n", "+PONG\r\n").await;
    }
    let retried = logged(&edge, "a session that was tried again", |line| line["retries"].is_number()).await;
    assert_eq!((&retried["retries"], &retried["server"]), (&1.into(), &redis.address().to_string().into()));
}

#[tokio::test]
async fn who_gets_no_server_sees_a_reset() {
    let edge = passing_on(&[nobody()]).set("/pools/0/retries", 0).start().await;
    // The reset may come before the client has looked at its connection for the first time.
    let talk = async { TcpStream::connect(edge.registry).await?.read_u8().await };
    let error = timeout(LONG, talk).await.expect("the connection stays open").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let line = ended(&edge, "unreachable").await;
    assert_eq!(line["bytes_up"], 0);
}

#[tokio::test]
async fn who_leaves_while_it_waits_leaves_the_queue() {
    let redis = Server::redis(&[]).await;
    let edge = Setup::front()
        .set("/listeners/0/mode", "tcp")
        .set("/listeners/0/pool", "servers")
        .pool(json!({
            "name": "servers", "queue_timeout": "1h",
            "servers": [{ "address": redis.address().to_string(), "max_connections": 1 }],
        }))
        .start()
        .await;
    let queued = async |length: f64| edge.metric_until("pierhead_pool_queue_length", &[], |now| now == length).await;
    let mut first = TcpStream::connect(edge.registry).await.unwrap();
    ask_redis(&mut first, "PING\r\n", "+PONG\r\n").await;
    let silent = TcpStream::connect(edge.registry).await.unwrap();
    queued(1.0).await;
    let mut reset = TcpStream::connect(edge.registry).await.unwrap();
    reset.write_all(b"PING\r\n").await.unwrap();
    reset.set_zero_linger().unwrap();
    queued(2.0).await;
    // One that has asked, and says that this was all, waits on.
    let mut patient = TcpStream::connect(edge.registry).await.unwrap();
    patient.write_all(b"PING\r\n").await.unwrap();
    patient.shutdown().await.unwrap();
    queued(3.0).await;
    drop(silent);
    queued(2.0).await;
    drop(reset);
    queued(1.0).await;
    assert_eq!(edge.metric("pierhead_sessions_total", &[("end", "left")]).await, 2.0);
    let line = ended(&edge, "left").await;
    assert!(line["server"].is_null() && line["connect_ms"].is_null(), "{line}");
    drop(first);
    let mut answer = String::new();
    timeout(LONG, patient.read_to_string(&mut answer)).await.expect("it is not its turn").unwrap();
    assert_eq!(answer, "+PONG\r\n");
}

/// A client of IPv4 is one of IPv4, whatever the socket.
#[tokio::test]
async fn a_listener_of_both_families_knows_who_came() {
    let redis = Server::redis(&[]).await;
    let edge = passing_on(&[redis.address()]).set("/listeners/0/bind", "[::]:0").start().await;
    for host in ["127.0.0.1", "::1"] {
        let address = SocketAddr::new(host.parse().unwrap(), edge.registry.port());
        assert_eq!(redis_cli(address, &["PING"]).await.stdout.trim(), "PONG");
        logged(&edge, host, |line| line["client"] == host).await;
    }
    // Who has no cache has none that is full.
    assert_eq!(edge.metric("pierhead_cache_writable", &[]).await, 1.0);
}

#[tokio::test]
async fn a_reset_is_passed_on_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let edge = passing_on(&[listener.local_addr().unwrap()]).start().await;
    for client_breaks in [true, false] {
        let mut client = TcpStream::connect(edge.registry).await.unwrap();
        let mut server = listener.accept().await.unwrap().0;
        client.write_all(b"a").await.unwrap();
        server.read_u8().await.unwrap();
        let (breaks, mut sees) = if client_breaks { (client, server) } else { (server, client) };
        rustix::net::sockopt::set_socket_linger(&breaks, Some(Duration::ZERO)).unwrap();
        drop(breaks);
        let error = timeout(LONG, sees.read_u8()).await.expect("the connection stays open").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        ended(&edge, if client_breaks { "client_broke" } else { "server_broke" }).await;
    }
}

#[tokio::test]
async fn sessions_have_a_time_for_silence() {
    let redis = Server::redis(&[]).await;
    let setup = passing_on(&[redis.address()]).set("/listeners/0/idle_timeout", "300ms");
    let edge = setup.start().await;
    let mut client = TcpStream::connect(edge.registry).await.unwrap();
    ask_redis(&mut client, "PING\r\n", "+PONG\r\n").await;
    assert_eq!(timeout(LONG, client.read(&mut [0; 1])).await.expect("the connection stays open").unwrap(), 0);
    ended(&edge, "idle").await;
}

/// A server that answers checks no longer, though the connections to it are there: stopped, as by a frozen machine.
#[tokio::test]
async fn sessions_end_with_their_server_if_they_are_to() {
    for close in [true, false] {
        let redis = Server::redis(&[]).await;
        let edge = passing_on(&[redis.address()])
            .set("/pools/0/health", json!({ "kind": "redis", "interval": "100ms", "timeout": "200ms", "fall": 2 }))
            .set("/pools/0/on_down", if close { "close" } else { "keep" })
            .start()
            .await;
        let mut client = TcpStream::connect(edge.registry).await.unwrap();
        ask_redis(&mut client, "PING\r\n", "+PONG\r\n").await;
        redis.signal(Signal::STOP);
        edge.metric_until("pierhead_server_state", &[("state", "down")], |down| down == 1.0).await;
        if close {
            let error = timeout(LONG, client.read_u8()).await.expect("the connection stays open").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            ended(&edge, "server_down").await;
        }
        redis.signal(Signal::CONT);
        if !close {
            ask_redis(&mut client, "PING\r\n", "+PONG\r\n").await;
        }
    }
}

#[tokio::test]
async fn sessions_go_on_while_the_edge_drains_but_not_for_ever() {
    let redis = Server::redis(&[]).await;
    let setup = passing_on(&[redis.address()]).set("/drain_wait", "10ms").set("/drain_timeout", "2s");
    let mut edge = setup.start().await;
    let mut client = TcpStream::connect(edge.registry).await.unwrap();
    ask_redis(&mut client, "PING\r\n", "+PONG\r\n").await;
    edge.terminate();
    eventually("the listener is closed", LONG, async || TcpStream::connect(edge.registry).await.err()).await;
    ask_redis(&mut client, "PING\r\n", "+PONG\r\n").await;
    edge.wait(LONG).await;
    ended(&edge, "stopped").await;
    assert!(client.read_u8().await.is_err());
}

#[tokio::test]
async fn the_clients_address_goes_from_haproxy_to_nginx() {
    let nginx = Server::nginx(
        1,
        "server { listen 127.0.0.1:@PORT@ proxy_protocol; return 200 $proxy_protocol_addr:$proxy_protocol_server_port; }",
    )
    .await;
    for version in ["v1", "v2"] {
        let edge = passing_on(&[nginx.address()])
            .set("/trusted_proxies", json!(["127.0.0.1/32"]))
            .set("/listeners/0/accept_proxy", true)
            .set("/pools/0/send_proxy", version)
            .start()
            .await;
        let before = Server::haproxy(
            1,
            &format!(
                "defaults\n mode tcp\n timeout client 20s\n timeout server 20s\n timeout connect 5s\n\
                 listen front\n bind 127.0.0.1:@PORT@\n server edge {} send-proxy-v2\n",
                edge.registry
            ),
        )
        .await;
        let mut command = Command::new("curl");
        command.args(["-s", "--interface", "127.0.0.9", &format!("http://{}/", before.address())]);
        let answer = run(command, LONG).await.expect_success().stdout;
        assert_eq!(answer, format!("127.0.0.9:{}", before.address().port()), "{version}");
        logged(&edge, "the session of curl", |line| line["client"] == "127.0.0.9").await;
    }
}

/// Both ways at once, more than fits anywhere, to a reader that takes its time at first.
#[tokio::test]
async fn heavy_a_gigabyte_each_way_takes_no_memory() {
    const CHUNKS: usize = 1024;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let edge = passing_on(&[listener.local_addr().unwrap()]).start().await;
    let client = TcpStream::connect(edge.registry).await.unwrap();
    let server = listener.accept().await.unwrap().0;
    let chunk = noise(7, 1 << 20);
    let begun = Instant::now();
    let (mut client_reads, mut client_writes) = client.into_split();
    let (mut server_reads, mut server_writes) = server.into_split();
    let write = async |writer: &mut tokio::net::tcp::OwnedWriteHalf| {
        for _ in 0..CHUNKS {
            writer.write_all(&chunk).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    };
    let read = async |reader: &mut tokio::net::tcp::OwnedReadHalf| {
        let mut found = vec![0; 1 << 20];
        for number in 0..CHUNKS {
            reader.read_exact(&mut found).await.unwrap();
            assert!(found == chunk, "chunk {number} is not what was sent");
        }
        assert_eq!(reader.read(&mut found).await.unwrap(), 0);
    };
    tokio::join!(write(&mut client_writes), write(&mut server_writes), read(&mut client_reads), async {
        // What the edge does not hold back piles up in it.
        eventually("the edge waits for the reader", LONG, async || {
            (begun.elapsed() > Duration::from_secs(1)).then_some(())
        })
        .await;
        read(&mut server_reads).await;
    });
    let both = |line: &Value| line["bytes_up"] == 1 << 30 && line["bytes_down"] == 1 << 30;
    logged(&edge, "a session of two gigabytes", both).await;
    assert!(edge.peak_memory() < 64 << 20, "{} MiB", edge.peak_memory() >> 20);
}

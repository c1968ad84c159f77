//! Requests to servers that misbehave: which are tried again, where, and which connections are used again.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use pierhead_config as config;
use pierhead_config::Address;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::super::Pools;
use super::super::tests::{server, settings};
use super::*;
use crate::admin::metrics::Metrics;

const LONG: Duration = Duration::from_secs(20);
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy";

/// What a server does with each request of a connection: what it says, and whether it then closes.
#[derive(Clone, Copy)]
enum Says {
    Answer(&'static str),
    AnswerAndClose(&'static str),
    Nothing,
}

/// A server that does the same with every request; how many connections and requests it got.
struct Scripted {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    closed: Arc<Semaphore>,
}

impl Scripted {
    async fn start(says: Says) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let server = Scripted {
            address: listener.local_addr().unwrap(),
            connections: Arc::clone(&connections),
            requests: Arc::clone(&requests),
            closed: Arc::new(Semaphore::new(0)),
        };
        let closed = Arc::clone(&server.closed);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (requests, closed) = (Arc::clone(&requests), Arc::clone(&closed));
                tokio::spawn(async move {
                    serve(tcp, says, requests).await;
                    closed.add_permits(1);
                });
            }
        });
        server
    }

    /// Comes when so many connections have ended.
    async fn closed(&self, count: u32) {
        drop(self.closed.acquire_many(count).await.unwrap());
    }

    fn counts(&self) -> (usize, usize) {
        (self.connections.load(Ordering::SeqCst), self.requests.load(Ordering::SeqCst))
    }
}

async fn serve(mut tcp: TcpStream, says: Says, requests: Arc<AtomicUsize>) {
    let mut received = Vec::new();
    while tcp.read_buf(&mut received).await.is_ok_and(|count| count > 0) {
        if !received.ends_with(b"\r\n\r\n") {
            continue;
        }
        received.clear();
        requests.fetch_add(1, Ordering::SeqCst);
        match says {
            Says::Answer(text) => tcp.write_all(text.as_bytes()).await.unwrap(),
            Says::AnswerAndClose(text) => return tcp.write_all(text.as_bytes()).await.unwrap(),
            Says::Nothing => return,
        }
    }
}

/// An address that refuses connections.
async fn closed() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn pool(servers: &[SocketAddr]) -> Arc<Pool> {
    let names = servers.iter().map(|address| (address.to_string(), *address));
    pool_of(names.collect()).await
}

async fn pool_of(servers: Vec<(String, SocketAddr)>) -> Arc<Pool> {
    let one =
        |(name, address): &(String, SocketAddr)| config::Server { address: Address::Socket(*address), ..server(name) };
    let settings = config::Pool {
        queue_size: 10,
        queue_timeout: LONG,
        connect_timeout: LONG,
        first_byte_timeout: Some(LONG),
        idle_timeout: LONG,
        retries: 2,
        ..settings(servers.iter().map(one).collect())
    };
    let pools = Pools::new(&[settings], None, &Arc::new(Metrics::new().unwrap())).unwrap();
    pools.start().await;
    Arc::clone(pools.get("quay").unwrap())
}

fn question(method: &Method) -> Question<'_> {
    let head = Bytes::from(format!("{method} / HTTP/1.1\r\nHost: test\r\n\r\n"));
    Question { head, method, body: false, wish: Wish::default(), told: None }
}

/// Asks; the status and the body, or what went wrong.
async fn ask(pool: &Arc<Pool>, method: Method) -> Result<(u16, String), ExchangeError> {
    let (mut exchange, answer) = pool.ask(&question(&method)).await?;
    let mut body = Vec::new();
    while let Some(piece) = exchange.body().await.unwrap() {
        body.extend_from_slice(&piece);
    }
    exchange.finish();
    Ok((answer.status.as_u16(), String::from_utf8(body).unwrap()))
}

#[tokio::test]
async fn a_read_gets_its_answer_from_whoever_has_one() {
    let good = Scripted::start(Says::Answer(OK)).await;
    for bad in [
        closed().await,
        Scripted::start(Says::Nothing).await.address,
        Scripted::start(Says::Answer(BUSY)).await.address,
        Scripted::start(Says::AnswerAndClose("HTTP/1.1 200 OK\r\nContent-")).await.address,
    ] {
        let pool = pool(&[bad, good.address]).await;
        for method in [Method::GET, Method::HEAD, Method::GET, Method::HEAD] {
            let head = method == Method::HEAD;
            let (status, body) = ask(&pool, method).await.unwrap();
            assert_eq!((status, body.as_str()), (200, if head { "" } else { "ok" }));
        }
    }
}

#[tokio::test]
async fn what_may_have_been_done_is_not_done_again() {
    let (good, bad) = (Scripted::start(Says::Answer(OK)).await, Scripted::start(Says::Nothing).await);
    let pool_of_both = pool(&[bad.address, good.address]).await;
    let mut failed = 0;
    for _ in 0..4 {
        failed += usize::from(ask(&pool_of_both, Method::POST).await.is_err());
    }
    assert_eq!((failed, bad.counts().1, good.counts().1), (2, 2, 2));
    // But one that could not even be sent was not done.
    let pool = pool(&[closed().await, good.address]).await;
    for _ in 0..2 {
        assert_eq!(ask(&pool, Method::POST).await.unwrap().0, 200);
    }
}

#[tokio::test]
async fn the_last_answer_is_better_than_none() {
    let (one, two) = (Scripted::start(Says::Answer(BUSY)).await, Scripted::start(Says::Answer(BUSY)).await);
    let pool = pool(&[one.address, two.address]).await;
    assert_eq!(ask(&pool, Method::GET).await.unwrap(), (503, "busy".to_owned()));
    assert_eq!((one.counts().1, two.counts().1), (1, 1));
}

#[tokio::test]
async fn nonsense_is_asked_for_once() {
    let server =
        Scripted::start(Says::Answer("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")).await;
    let pool = pool(&[server.address]).await;
    let error = ask(&pool, Method::GET).await.unwrap_err();
    assert!(matches!(error, ExchangeError::Wire { error: WireError::Nonsense(_), .. }), "{error}");
    assert_eq!(server.counts().1, 1);
}

#[tokio::test]
async fn only_reads_use_a_connection_again() {
    let server = Scripted::start(Says::Answer(OK)).await;
    let pool = pool(&[server.address]).await;
    for (method, connections) in
        [(Method::GET, 1), (Method::GET, 1), (Method::POST, 2), (Method::PUT, 3), (Method::HEAD, 3)]
    {
        ask(&pool, method.clone()).await.unwrap();
        assert_eq!(server.counts().0, connections, "{method}");
    }
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_no_failure() {
    let server = Scripted::start(Says::AnswerAndClose(OK)).await;
    let pool = pool(&[server.address]).await;
    for connections in 1..20 {
        assert_eq!(ask(&pool, Method::GET).await.unwrap().0, 200);
        assert_eq!(server.counts(), (connections, connections));
    }
}

#[tokio::test(start_paused = true)]
async fn kept_connections_grow_old() {
    let server = Scripted::start(Says::Answer(OK)).await;
    let pool = pool(&[server.address]).await;
    for (pause, connections) in [(0, 1), (3, 1), (3, 1), (5, 2)] {
        tokio::time::sleep(Duration::from_secs(pause)).await;
        ask(&pool, Method::GET).await.unwrap();
        assert_eq!(server.counts().0, connections, "after {pause} s");
    }
}

#[tokio::test(start_paused = true)]
async fn kept_connections_are_closed_in_time() {
    let server = Scripted::start(Says::Answer(OK)).await;
    let pool = pool(&[server.address]).await;
    let begun = Instant::now();
    let mut later = pool.open(&question(&Method::GET)).await.unwrap();
    ask(&pool, Method::GET).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    later.sent();
    later.answer().await.unwrap();
    while later.body().await.unwrap().is_some() {}
    later.finish();
    for (closed, limit) in [(1, 4), (2, 5)] {
        server.closed(closed).await;
        let (took, limit) = (begun.elapsed(), Duration::from_secs(limit));
        assert!(took <= limit && took > limit - Duration::from_secs(1), "{closed}: {took:?}");
    }
}

#[tokio::test]
async fn servers_at_one_address_do_not_share_connections() {
    let server = Scripted::start(Says::Answer(OK)).await;
    let pool = pool_of(vec![("a".to_owned(), server.address), ("b".to_owned(), server.address)]).await;
    for connections in [1, 2, 2, 2] {
        ask(&pool, Method::GET).await.unwrap();
        assert_eq!(server.counts().0, connections);
    }
    assert_eq!(pool.servers().iter().map(|server| server.metrics().reused.get()).collect::<Vec<_>>(), [1, 1]);
}

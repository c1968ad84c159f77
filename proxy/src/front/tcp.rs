//! A session of layer 4: a client, a server of a pool, and the bytes between them.
//!
//! Invariants: a server is only given up for another while it has seen nothing of the client but its address; a side that
//! was broken off sees that, and no ordinary end.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pierhead_config::{HttpListener, Mode, TcpListener};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use tokio_util::either::Either;

use super::accepted::Accepted;
use super::account::{Account, End, Tally};
use super::hello::{self, Hello, UNRECOGNIZED_NAME};
use super::relay::{Silence, relay};
use super::service::Service;
use super::socket::break_off;
use super::{Application, Connection, lanes};
use crate::admin::metrics::ServerMetrics;
use crate::admin::sessions::{self, Protocol};
use crate::pool::{Lease, Pool, ServerStream, Told, Wish, socket};

/// How long to wait before a server is tried again that has just failed, where there is no other.
const AGAIN: Duration = Duration::from_secs(1);

/// How long a session that a listener of requests passes through may be silent in the end.
const HALF_CLOSE: Duration = Duration::from_secs(30);

impl From<&TcpListener> for Silence {
    fn from(listener: &TcpListener) -> Silence {
        Silence { idle: listener.idle_timeout, half_close: listener.half_close_timeout }
    }
}

impl From<&HttpListener> for Silence {
    fn from(listener: &HttpListener) -> Silence {
        Silence { idle: listener.tunnel_timeout, half_close: HALF_CLOSE.min(listener.tunnel_timeout) }
    }
}

/// Passes a connection on that is not for us: all of a listener of bytes, and TLS whose client wants a name that has a
/// route. Gives back what is to be served here.
pub(super) async fn pass_through<A: Application>(
    mut accepted: Accepted,
    service: &Service<A>,
    connection: &Connection,
    deadline: tokio::time::Instant,
) -> Option<Accepted> {
    let looked_at = !service.sni.is_empty() && (service.tls.is_some() || matches!(service.mode, Mode::Tcp(_)));
    let hello = if looked_at {
        match timeout_at(deadline, hello::read(&mut accepted)).await {
            Ok(Ok(hello)) => hello,
            Ok(Err(error)) => {
                service.refused(connection, "hello", Some(&error));
                return None;
            }
            Err(_) => {
                service.refused(connection, "hello", Some(&"timed out"));
                return None;
            }
        }
    } else {
        Hello::Other
    };
    let routed = hello::route(&service.sni, &hello);
    let (pool, silence) = match &service.mode {
        Mode::Tcp(tcp) => (routed.or(tcp.pool.as_deref()), Silence::from(tcp)),
        Mode::Http(_) if routed.is_none() => return Some(accepted),
        Mode::Http(http) => (routed, Silence::from(http)),
    };
    let Some(pool) = pool else {
        service.refused(connection, "sni", None);
        if let Hello::Tls(_) = hello {
            // Seven bytes always fit in, and a client that is gone already is no news.
            drop(accepted.tcp.try_write(&UNRECOGNIZED_NAME));
        }
        return None;
    };
    serve(accepted, service, connection, pool, silence).await;
    None
}

/// Passes a client on to a server of a pool, with what it has sent already, and stays until both are done.
async fn serve<A: Application>(
    Accepted { tcp: client, received }: Accepted,
    service: &Service<A>,
    connection: &Connection,
    pool: &str,
    silence: Silence,
) {
    connection.session.speaks(Protocol::Tcp, false);
    let mut account = Account {
        log: service.application.access_log(),
        connection,
        pool,
        server: None,
        begun: Instant::now(),
        reached: None,
        retries: 0,
        error: None,
        tally: None,
        counts: &service.counts,
        end: End::Stopped,
    };
    let reached = match service.application.pool(pool) {
        Some(pool) => tokio::select! {
            biased;
            () = connection.session.closed() => Err(End::Closed),
            reached = reach(&pool, &mut account) => reached,
            () = left(&client, received.is_empty()) => Err(End::Left),
        },
        None => Err(End::NoPool),
    };
    let (lease, server) = match reached {
        Ok(reached) => reached,
        Err(end) => {
            tracing::debug!(listener = %connection.listener, pool, client = %connection.client, end = end.as_str(), "no session");
            account.end = end;
            return break_off(&client);
        }
    };
    lease.server().metrics().sessions.inc();
    account.reached = Some(account.begun.elapsed());
    let server_counts = Arc::clone(lease.server().metrics());
    let tally = Tally::new(Arc::clone(&connection.session), Arc::clone(&service.counts), server_counts);
    let tally = Arc::clone(account.tally.insert(Arc::new(tally)));
    let entry = Arc::clone(&connection.session);
    let session = Session { lease, entry, received, silence, tally };
    let carried = match server {
        Either::Left(server) => change_lanes(client, server, session).await,
        encrypted @ Either::Right(_) => Ok(session.carry(client, encrypted).await),
    };
    match carried {
        Ok(end) => account.end = end,
        Err(error) => tracing::warn!(listener = %connection.listener, %error, "session lost"),
    }
}

/// Carries a session where its sockets are watched by the thread that serves them.
async fn change_lanes(client: TcpStream, server: TcpStream, session: Session) -> io::Result<End> {
    let (client, server) = (client.into_std()?, server.into_std()?);
    let carried = lanes::run(async move {
        let (client, server) = (TcpStream::from_std(client)?, TcpStream::from_std(server)?);
        Ok(session.carry(client, Either::Left(server)).await)
    });
    carried.await.unwrap_or(Ok(End::Stopped))
}

/// A session that has its server.
struct Session {
    lease: Lease,
    /// Among those that are open.
    entry: Arc<sessions::Session>,
    received: BytesMut,
    silence: Silence,
    tally: Arc<Tally>,
}

impl Session {
    /// Passes everything on, until one or both have ended.
    async fn carry(self, mut client: TcpStream, mut server: ServerStream) -> End {
        let Session { lease, entry, received, silence, tally } = self;
        let running = relay(&mut client, &mut server, received, silence, tally.passed(), || tally.count());
        let end = tokio::select! {
            biased;
            over = running => End::Over(over),
            () = lease.lost() => End::ServerDown,
            () = entry.closed() => End::Closed,
        };
        if end.breaks_server() {
            break_off(socket(&server));
        }
        if end.breaks_client() {
            break_off(&client);
        }
        end
    }
}

/// Comes when a client that waits has gone: when it broke off, or ended its side without ever having said a word. One that
/// asked something and ended its side may well wait for the answer.
async fn left(client: &TcpStream, silent: bool) {
    if silent && client.peek(&mut [0]).await.is_ok_and(|count| count == 0) {
        return;
    }
    // In vain where the system cannot tell: then it is found out later.
    if client.ready(Interest::ERROR).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A connection to one of the servers.
async fn reach(pool: &Pool, account: &mut Account<'_>) -> Result<(Lease, ServerStream), End> {
    let told = Told { source: account.connection.client, destination: account.connection.destination };
    let mut tried: Vec<Arc<str>> = Vec::new();
    let mut last: Option<Arc<ServerMetrics>> = None;
    loop {
        let wish = Wish { client: Some(account.connection.client.ip()), key: None, tried: &tried };
        let lease = pool.lease(&wish).await.map_err(End::Refused)?;
        let (name, metrics) = (lease.server().shared_name(), lease.server().metrics());
        let again = tried.contains(name);
        if let Some(last) = &last {
            if Arc::ptr_eq(last, metrics) { &metrics.retries } else { &last.redispatches }.inc();
        }
        if again {
            tokio::time::sleep(AGAIN.min(pool.settings().connect_timeout)).await;
        }
        account.server = Some(Arc::clone(name));
        match pool.connect(&lease, Some(&told)).await {
            Ok(stream) => {
                lease.answered(None);
                account.error = None;
                account.connection.session.to(account.pool, name);
                return Ok((lease, stream));
            }
            Err(error) => {
                lease.failed(&error);
                account.error = Some(error.to_string());
                if account.retries >= pool.settings().retries {
                    return Err(End::Unreachable);
                }
                account.retries += 1;
                last = Some(Arc::clone(metrics));
                if !again {
                    tried.push(Arc::clone(name));
                }
            }
        }
    }
}

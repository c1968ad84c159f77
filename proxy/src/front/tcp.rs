//! A session of layer 4: a client, a server of a pool, and the bytes between them.
//!
//! Invariants: a server is only given up for another while it has seen nothing of the client but its address; however a
//! session ends, it leaves one line in the access log and its numbers in the metrics; a side that was broken off sees
//! that, and no ordinary end.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use pierhead_config::{HttpListener, Mode, TcpListener};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::timeout_at;

use super::accepted::Accepted;
use super::hello::{self, Hello, UNRECOGNIZED_NAME};
use super::relay::{Over, Silence, relay};
use super::service::Service;
use super::{Application, Connection};
use crate::admin::metrics::{ListenerMetrics, ServerMetrics};
use crate::admin::sessions::{Passed, Protocol};
use crate::logging::{AccessLog, Time, milliseconds};
use crate::pool::{Lease, LeaseError, Pool, ServerStream, Told, Wish};

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
        Silence { idle: listener.idle_timeout, half_close: HALF_CLOSE.min(listener.idle_timeout) }
    }
}

/// How a session came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It was running.
    Over(Over),
    /// It was running when its server went down.
    ServerDown,
    /// It got no server.
    Refused(LeaseError),
    /// No server could be reached.
    Unreachable,
    /// The pool is no longer configured.
    NoPool,
    /// The edge stopped.
    Stopped,
}

impl End {
    /// As operators see it.
    fn as_str(self) -> &'static str {
        match self {
            End::Over(Over::Client) => "client",
            End::Over(Over::Server) => "server",
            End::Over(Over::ClientBroke) => "client_broke",
            End::Over(Over::ServerBroke) => "server_broke",
            End::Over(Over::Idle) => "idle",
            End::Over(Over::HalfClosed) => "half_closed",
            End::ServerDown => "server_down",
            End::Refused(LeaseError::NoServer) | End::NoPool => "no_server",
            End::Refused(LeaseError::QueueFull) => "queue_full",
            End::Refused(LeaseError::QueueTimeout) => "queue_timeout",
            End::Unreachable => "unreachable",
            End::Stopped => "stopped",
        }
    }

    /// Whether the client is to see that it was broken off.
    fn breaks_client(self) -> bool {
        !matches!(self, End::Over(Over::Client | Over::Server | Over::Idle | Over::HalfClosed))
    }

    /// Whether the server is.
    fn breaks_server(self) -> bool {
        matches!(self, End::Over(Over::ClientBroke) | End::ServerDown)
    }
}

/// One session in the access log.
#[derive(Debug, Serialize)]
struct SessionLine<'a> {
    /// When it began, as RFC 3339 in UTC.
    time: Time,
    /// The client's address.
    client: IpAddr,
    /// Which listener took it.
    listener: &'a str,
    /// `tcp`
    protocol: &'static str,
    /// Where it went.
    pool: &'a str,
    /// Who of them, when one was reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    /// How it ended: [`End`]
    end: &'static str,
    /// From the client to the server.
    bytes_up: u64,
    /// From the server to the client.
    bytes_down: u64,
    /// Servers that could not be reached before.
    #[serde(skip_serializing_if = "is_zero")]
    retries: u32,
    /// Until a server was reached, the time in the queue included.
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_ms: Option<f64>,
    /// From its first byte to its last.
    total_ms: f64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What is told of a session when it is dropped.
struct Account<'a> {
    log: AccessLog,
    connection: &'a Connection,
    pool: &'a str,
    server: Option<Arc<str>>,
    begun: Instant,
    reached: Option<Duration>,
    retries: u32,
    /// How much of what was passed on the metrics have.
    counted: Passed,
    counts: &'a ListenerMetrics,
    server_counts: Option<Arc<ServerMetrics>>,
    end: End,
}

impl Account<'_> {
    /// Brings the metrics up to date.
    fn count(&self) {
        let fresh = |passed: &AtomicU64, counted: &AtomicU64| {
            let all = passed.load(Ordering::Relaxed);
            all - counted.swap(all, Ordering::Relaxed)
        };
        let (up, down) = (
            fresh(&self.connection.session.passed().up, &self.counted.up),
            fresh(&self.connection.session.passed().down, &self.counted.down),
        );
        self.counts.session_received.inc_by(up);
        self.counts.session_sent.inc_by(down);
        if let Some(server) = &self.server_counts {
            server.sent.inc_by(up);
            server.received.inc_by(down);
        }
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        let total = self.begun.elapsed();
        self.count();
        self.counts.session(self.end.as_str(), total);
        if !self.log.is_on() {
            return;
        }
        self.log.write(&SessionLine {
            time: Time(SystemTime::now() - total),
            client: self.connection.client.ip(),
            listener: &self.connection.listener,
            protocol: "tcp",
            pool: self.pool,
            server: self.server.as_deref(),
            end: self.end.as_str(),
            bytes_up: self.connection.session.passed().up.load(Ordering::Relaxed),
            bytes_down: self.connection.session.passed().down.load(Ordering::Relaxed),
            retries: self.retries,
            connect_ms: self.reached.map(milliseconds),
            total_ms: milliseconds(total),
        });
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
    Accepted { tcp: mut client, received }: Accepted,
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
        counted: Passed::default(),
        counts: &service.counts,
        server_counts: None,
        end: End::Stopped,
    };
    let reached = match service.application.pool(pool) {
        Some(pool) => reach(&pool, &mut account).await,
        None => Err(End::NoPool),
    };
    account.end = match reached {
        Ok((lease, mut server)) => {
            account.reached = Some(account.begun.elapsed());
            lease.server().metrics().sessions.inc();
            account.server_counts = Some(Arc::clone(lease.server().metrics()));
            let passed = connection.session.passed();
            let running = relay(&mut client, &mut server, received, silence, passed, || account.count());
            let end = tokio::select! {
                biased;
                over = running => End::Over(over),
                () = lease.lost() => End::ServerDown,
            };
            if end.breaks_server() {
                break_off(server.socket());
            }
            end
        }
        Err(end) => {
            tracing::debug!(listener = %connection.listener, pool, client = %connection.client, end = end.as_str(), "no session");
            end
        }
    };
    if account.end.breaks_client() {
        break_off(&client);
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
                account.connection.session.to(account.pool, name);
                return Ok((lease, stream));
            }
            Err(error) => {
                lease.failed();
                tracing::debug!(pool = account.pool, server = %name, %error, "server not reached");
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

/// Has the peer see, when the socket is closed, that it was not done.
fn break_off(socket: &TcpStream) {
    if let Err(error) = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO)) {
        tracing::debug!(%error, "not broken off");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    use super::*;

    /// What is named in the first column of one of the two tables about sessions.
    fn documented(table: &str) -> BTreeSet<&'static str> {
        let chapter = include_str!("../../../docs/operating.md").split("## Sessions").nth(1).unwrap();
        let rows = chapter.split("## ").next().unwrap().split(table).nth(1).unwrap().split("\n\n").next().unwrap();
        let first = |row: &'static str| row.split('|').nth(1).unwrap_or_default();
        rows.lines().map(first).flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
    }

    #[test]
    fn every_field_and_every_end_is_documented() {
        let line = SessionLine {
            time: Time(SystemTime::UNIX_EPOCH),
            client: Ipv4Addr::LOCALHOST.into(),
            listener: "",
            protocol: "",
            pool: "",
            server: Some(""),
            end: "",
            bytes_up: 0,
            bytes_down: 0,
            retries: 1,
            connect_ms: Some(0.0),
            total_ms: 0.0,
        };
        let line = serde_json::to_value(&line).unwrap();
        let fields: BTreeSet<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(documented("| Field |"), fields);
        let over = [Over::Client, Over::Server, Over::ClientBroke, Over::ServerBroke, Over::Idle, Over::HalfClosed];
        let refused = [LeaseError::NoServer, LeaseError::QueueFull, LeaseError::QueueTimeout];
        let ends = over.map(End::Over).into_iter().chain(refused.map(End::Refused));
        let ends = ends.chain([End::ServerDown, End::Unreachable, End::NoPool, End::Stopped]);
        assert_eq!(documented("| End |"), ends.map(End::as_str).collect());
    }
}

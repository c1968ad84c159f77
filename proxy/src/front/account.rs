//! What is told of a session of layer 4: to the access log once it has ended, to the metrics all along.
//!
//! Invariant: however a session ends, even with the edge itself, it leaves one line in the access log and its numbers in
//! the metrics.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::Connection;
use super::relay::Over;
use crate::admin::metrics::{ListenerMetrics, ServerMetrics};
use crate::admin::sessions::{Passed, Session};
use crate::pool::LeaseError;
use pierhead_service::logging::{AccessLog, Time, milliseconds};

/// How a session came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
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
    /// The client went away before a server was reached.
    Left,
    /// An operator wanted it closed.
    Closed,
    /// The edge stopped.
    Stopped,
}

impl End {
    /// As operators see it.
    pub(super) fn as_str(self) -> &'static str {
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
            End::Left => "left",
            End::Closed => "closed",
            End::Stopped => "stopped",
        }
    }

    /// Whether the client is to see that it was broken off.
    pub(super) fn breaks_client(self) -> bool {
        !matches!(self, End::Over(Over::Client | Over::Server | Over::Idle | Over::HalfClosed))
    }

    /// Whether the server is.
    pub(super) fn breaks_server(self) -> bool {
        matches!(self, End::Over(Over::ClientBroke) | End::ServerDown | End::Closed)
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
    /// Why the last one could not be.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
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

/// What was passed on, and how much of it the metrics have.
pub(super) struct Tally {
    session: Arc<Session>,
    counted: Passed,
    listener: Arc<ListenerMetrics>,
    server: Arc<ServerMetrics>,
}

impl Tally {
    /// Of a session that begins.
    pub(super) fn new(session: Arc<Session>, listener: Arc<ListenerMetrics>, server: Arc<ServerMetrics>) -> Tally {
        Tally { session, counted: Passed::default(), listener, server }
    }

    /// Kept up to date by whoever passes on.
    pub(super) fn passed(&self) -> &Passed {
        self.session.passed()
    }

    /// Brings the metrics up to date.
    pub(super) fn count(&self) {
        let fresh = |passed: &AtomicU64, counted: &AtomicU64| {
            let all = passed.load(Ordering::Relaxed);
            all.saturating_sub(counted.swap(all, Ordering::Relaxed))
        };
        let (passed, counted) = (self.passed(), &self.counted);
        let (up, down) = (fresh(&passed.up, &counted.up), fresh(&passed.down, &counted.down));
        self.listener.session_received.inc_by(up);
        self.listener.session_sent.inc_by(down);
        self.server.sent.inc_by(up);
        self.server.received.inc_by(down);
    }
}

/// What is told of a session when it is dropped.
pub(super) struct Account<'a> {
    /// Where to.
    pub(super) log: AccessLog,
    /// Whose.
    pub(super) connection: &'a Connection,
    /// Where it goes.
    pub(super) pool: &'a str,
    /// Who of them was asked last.
    pub(super) server: Option<Arc<str>>,
    /// When.
    pub(super) begun: Instant,
    /// How long it took to reach a server.
    pub(super) reached: Option<Duration>,
    /// How many could not be reached.
    pub(super) retries: u32,
    /// Why the last one could not be, when none could.
    pub(super) error: Option<String>,
    /// Once there is something to be passed on.
    pub(super) tally: Option<Arc<Tally>>,
    /// What the listener counts.
    pub(super) counts: &'a ListenerMetrics,
    /// How it ended. Until it has: [`End::Stopped`].
    pub(super) end: End,
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        let total = self.begun.elapsed();
        let (mut bytes_up, mut bytes_down) = (0, 0);
        if let Some(tally) = &self.tally {
            tally.count();
            bytes_up = tally.passed().up.load(Ordering::Relaxed);
            bytes_down = tally.passed().down.load(Ordering::Relaxed);
        }
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
            bytes_up,
            bytes_down,
            retries: self.retries,
            error: self.error.as_deref(),
            connect_ms: self.reached.map(milliseconds),
            total_ms: milliseconds(total),
        });
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
            error: Some(""),
            connect_ms: Some(0.0),
            total_ms: 0.0,
        };
        let line = serde_json::to_value(&line).unwrap();
        let fields: BTreeSet<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(documented("| Field |"), fields);
        let over = [Over::Client, Over::Server, Over::ClientBroke, Over::ServerBroke, Over::Idle, Over::HalfClosed];
        let refused = [LeaseError::NoServer, LeaseError::QueueFull, LeaseError::QueueTimeout];
        let ends = over.map(End::Over).into_iter().chain(refused.map(End::Refused));
        let ends = ends.chain([End::ServerDown, End::Unreachable, End::NoPool, End::Left, End::Closed, End::Stopped]);
        assert_eq!(documented("| End |"), ends.map(End::as_str).collect());
    }
}

//! What pools and their servers do.
//!
//! Servers come and go, by DNS and by reloads. A handle is shared by all who mean the same server, and when the last of
//! them drops it the server's series go too: what is shown is what there is.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{Error, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::family::{counters, gauges, times};

/// The states of a server: its own, and those that operators put it in.
const STATES: [&str; 5] = ["up", "down", "held", "drain", "maintenance"];
/// The classes of a status.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// By pool and server.
pub(super) struct Servers {
    queue_length: IntGaugeVec,
    queue_seconds: HistogramVec,
    refusals: IntCounterVec,
    state: IntGaugeVec,
    checks: IntCounterVec,
    check_seconds: HistogramVec,
    connections: IntGaugeVec,
    requests: IntCounterVec,
    sessions: IntCounterVec,
    errors: IntCounterVec,
    retries: IntCounterVec,
    reused: IntCounterVec,
    connect_seconds: HistogramVec,
    response_seconds: HistogramVec,
    bytes: IntCounterVec,
    known: Mutex<HashMap<(String, String), Weak<ServerMetrics>>>,
}

impl Servers {
    pub(super) fn new(r: &Registry) -> Result<Servers, Error> {
        let server = ["pool", "server"];
        let and = |last| ["pool", "server", last];
        Ok(Servers {
            queue_length: gauges(
                r,
                "pierhead_pool_queue_length",
                "Requests and sessions that wait for a server just now.",
                &["pool"],
            )?,
            queue_seconds: times(
                r,
                "pierhead_pool_queue_seconds",
                "How long those that had to wait waited, whatever came of it.",
                &["pool"],
            )?,
            refusals: counters(
                r,
                "pierhead_pool_refusals_total",
                "Requests and sessions that got no server (no_server, queue_full, queue_timeout).",
                &["pool", "reason"],
            )?,
            state: gauges(
                r,
                "pierhead_server_state",
                "1 for the state that a server is in, 0 for the others.",
                &and("state"),
            )?,
            checks: counters(r, "pierhead_server_checks_total", "Health checks (ok, failed).", &and("result"))?,
            check_seconds: times(r, "pierhead_server_check_seconds", "Duration of health checks.", &server)?,
            connections: gauges(
                r,
                "pierhead_server_connections",
                "Requests and sessions that a server is busy with.",
                &server,
            )?,
            requests: counters(
                r,
                "pierhead_server_requests_total",
                "Requests that a server answered, by class of the status.",
                &and("code"),
            )?,
            sessions: counters(
                r,
                "pierhead_server_sessions_total",
                "Layer-4 sessions that began with a server.",
                &server,
            )?,
            errors: counters(
                r,
                "pierhead_server_errors_total",
                "What went wrong with a server (connect, tls, timeout, response).",
                &and("kind"),
            )?,
            retries: counters(
                r,
                "pierhead_server_retries_total",
                "Requests and sessions that were tried again after this server failed them, here (same) or elsewhere (other).",
                &and("where"),
            )?,
            reused: counters(
                r,
                "pierhead_server_reused_connections_total",
                "Requests that went over a connection that was kept.",
                &server,
            )?,
            connect_seconds: times(
                r,
                "pierhead_server_connect_seconds",
                "Duration of connecting, TLS included; its count is that of connections opened.",
                &server,
            )?,
            response_seconds: times(
                r,
                "pierhead_server_response_seconds",
                "From a request to the header of its answer.",
                &server,
            )?,
            bytes: counters(
                r,
                "pierhead_server_bytes_total",
                "Bytes of bodies and sessions, received from servers and sent to them.",
                &and("direction"),
            )?,
            known: Mutex::default(),
        })
    }

    pub(super) fn pool(&self, pool: &str) -> PoolMetrics {
        let refused = |reason| self.refusals.with_label_values(&[pool, reason]);
        PoolMetrics {
            queue_length: self.queue_length.with_label_values(&[pool]),
            queue_seconds: self.queue_seconds.with_label_values(&[pool]),
            no_server: refused("no_server"),
            queue_full: refused("queue_full"),
            queue_timeout: refused("queue_timeout"),
        }
    }

    pub(super) fn server(self: &Arc<Self>, pool: &str, server: &str) -> Arc<ServerMetrics> {
        let mut known = self.known.lock();
        let key = (pool.to_owned(), server.to_owned());
        if let Some(same) = known.get(&key).and_then(Weak::upgrade) {
            return same;
        }
        let labels = [pool, server];
        let and = |last| [pool, server, last];
        let handle = Arc::new(ServerMetrics {
            families: Arc::clone(self),
            key: key.clone(),
            states: STATES.map(|state| self.state.with_label_values(&and(state))),
            checks_ok: self.checks.with_label_values(&and("ok")),
            checks_failed: self.checks.with_label_values(&and("failed")),
            check_seconds: self.check_seconds.with_label_values(&labels),
            connections: self.connections.with_label_values(&labels),
            requests: CLASSES.map(|class| self.requests.with_label_values(&and(class))),
            sessions: self.sessions.with_label_values(&labels),
            errors: ServerFailure::ALL.map(|kind| self.errors.with_label_values(&and(kind.as_str()))),
            retries: self.retries.with_label_values(&and("same")),
            redispatches: self.retries.with_label_values(&and("other")),
            reused: self.reused.with_label_values(&labels),
            connect_seconds: self.connect_seconds.with_label_values(&labels),
            response_seconds: self.response_seconds.with_label_values(&labels),
            received: self.bytes.with_label_values(&and("received")),
            sent: self.bytes.with_label_values(&and("sent")),
        });
        known.insert(key, Arc::downgrade(&handle));
        handle
    }

    /// The last handle of a server is gone, unless somebody has asked for it again meanwhile.
    fn forget(&self, key: &(String, String)) {
        let mut known = self.known.lock();
        if known.get(key).is_none_or(|handle| handle.strong_count() > 0) {
            return;
        }
        known.remove(key);
        let labels = [key.0.as_str(), key.1.as_str()];
        let and = |last| [key.0.as_str(), key.1.as_str(), last];
        // All of them exist; what does not need not go.
        for family in [&self.sessions, &self.reused] {
            drop(family.remove_label_values(&labels));
        }
        for family in [&self.check_seconds, &self.connect_seconds, &self.response_seconds] {
            drop(family.remove_label_values(&labels));
        }
        drop(self.connections.remove_label_values(&labels));
        for state in STATES {
            drop(self.state.remove_label_values(&and(state)));
        }
        let kinds = ServerFailure::ALL.map(ServerFailure::as_str);
        for (family, values) in [
            (&self.checks, &["ok", "failed"][..]),
            (&self.requests, &CLASSES),
            (&self.errors, &kinds),
            (&self.retries, &["same", "other"]),
            (&self.bytes, &["received", "sent"]),
        ] {
            for value in values {
                drop(family.remove_label_values(&and(value)));
            }
        }
    }
}

/// The handles of one pool.
#[derive(Clone)]
pub(crate) struct PoolMetrics {
    /// Who waits.
    pub(crate) queue_length: IntGauge,
    queue_seconds: Histogram,
    /// Turned away because no server is up.
    pub(crate) no_server: IntCounter,
    /// Turned away because too many wait already.
    pub(crate) queue_full: IntCounter,
    /// Turned away because it waited too long.
    pub(crate) queue_timeout: IntCounter,
}

impl PoolMetrics {
    /// Somebody waited for this long.
    pub(crate) fn waited(&self, time: Duration) {
        self.queue_seconds.observe(time.as_secs_f64());
    }
}

/// What can go wrong with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerFailure {
    /// No TCP connection.
    Connect,
    /// No TLS.
    Tls,
    /// It was silent for too long.
    Timeout,
    /// It broke off, or what it said is no answer.
    Response,
}

impl ServerFailure {
    /// In the order of their values.
    const ALL: [ServerFailure; 4] =
        [ServerFailure::Connect, ServerFailure::Tls, ServerFailure::Timeout, ServerFailure::Response];

    fn as_str(self) -> &'static str {
        match self {
            ServerFailure::Connect => "connect",
            ServerFailure::Tls => "tls",
            ServerFailure::Timeout => "timeout",
            ServerFailure::Response => "response",
        }
    }
}

/// The handles of one server. Counts outlive reloads, as the server does.
pub(crate) struct ServerMetrics {
    families: Arc<Servers>,
    key: (String, String),
    states: [IntGauge; STATES.len()],
    checks_ok: IntCounter,
    checks_failed: IntCounter,
    check_seconds: Histogram,
    /// Requests and sessions that it is busy with.
    pub(crate) connections: IntGauge,
    requests: [IntCounter; 5],
    /// Layer-4 sessions that began.
    pub(crate) sessions: IntCounter,
    errors: [IntCounter; 4],
    /// Tried again on this server.
    pub(crate) retries: IntCounter,
    /// Tried again on another.
    pub(crate) redispatches: IntCounter,
    /// Requests over a connection that was kept.
    pub(crate) reused: IntCounter,
    connect_seconds: Histogram,
    response_seconds: Histogram,
    /// Bytes that came from it.
    pub(crate) received: IntCounter,
    /// Bytes that went to it.
    pub(crate) sent: IntCounter,
}

impl ServerMetrics {
    /// The state that it is in: the operator's (`drain`, `maintenance`), or else its own (`up`, `down`, `held`).
    pub(crate) fn state(&self, now: &str) {
        for (state, gauge) in STATES.iter().zip(&self.states) {
            gauge.set(i64::from(*state == now));
        }
    }

    /// A health check.
    pub(crate) fn checked(&self, well: bool, took: Duration) {
        if well { &self.checks_ok } else { &self.checks_failed }.inc();
        self.check_seconds.observe(took.as_secs_f64());
    }

    /// A connection was opened.
    pub(crate) fn connected(&self, took: Duration) {
        self.connect_seconds.observe(took.as_secs_f64());
    }

    /// The header of an answer came.
    pub(crate) fn answered(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        self.requests[class].inc();
        self.response_seconds.observe(took.as_secs_f64());
    }

    /// Something went wrong.
    pub(crate) fn failed(&self, kind: ServerFailure) {
        self.errors[kind as usize].inc();
    }

    /// Checks that succeeded and that failed.
    pub(crate) fn checks(&self) -> (u64, u64) {
        (self.checks_ok.get(), self.checks_failed.get())
    }

    /// Requests that it answered.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.iter().map(IntCounter::get).sum()
    }

    /// What went wrong.
    pub(crate) fn errors(&self) -> u64 {
        self.errors.iter().map(IntCounter::get).sum()
    }
}

impl Drop for ServerMetrics {
    fn drop(&mut self) {
        self.families.forget(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;
    use crate::pool::{Operator, view::ServerState};

    fn lines(metrics: &Metrics, part: &str) -> usize {
        String::from_utf8(metrics.render().unwrap()).unwrap().lines().filter(|line| line.contains(part)).count()
    }

    #[test]
    fn a_server_is_shown_for_as_long_as_somebody_has_its_handle() {
        let metrics = Metrics::new().unwrap();
        let first = metrics.server("quay", "a");
        let other = metrics.server("quay", "b");
        let second = metrics.server("quay", "a");
        second.sessions.inc();
        drop(first);
        assert_eq!(lines(&metrics, r#"pierhead_server_sessions_total{pool="quay",server="a"} 1"#), 1);
        drop(second);
        assert_eq!(lines(&metrics, r#"server="a""#), 0, "all series are gone");
        assert!(lines(&metrics, r#"server="b""#) > 20);
        drop(other);
        let again = metrics.server("quay", "a");
        again.state("drain");
        assert_eq!(lines(&metrics, r#"pierhead_server_state{pool="quay",server="a",state="drain"} 1"#), 1);
        assert_eq!(lines(&metrics, r#"pierhead_server_state{pool="quay",server="a",state="up"} 0"#), 1);
        let own = [ServerState::Up, ServerState::Down, ServerState::Held].map(ServerState::name);
        let wanted = [Operator::Drain, Operator::Maintenance].map(Operator::name);
        for state in own.into_iter().chain(wanted) {
            again.state(state);
            let line = format!(r#"pierhead_server_state{{pool="quay",server="a",state="{state}"}} 1"#);
            assert_eq!(lines(&metrics, &line), 1, "{line}");
        }
    }

    #[test]
    fn what_went_wrong_and_what_was_answered_is_told_apart() {
        let metrics = Metrics::new().unwrap();
        let server = metrics.server("quay", "a");
        for kind in ServerFailure::ALL {
            server.failed(kind);
            let line = format!(r#"pierhead_server_errors_total{{kind="{}",pool="quay",server="a"}} 1"#, kind.as_str());
            assert_eq!(lines(&metrics, &line), 1, "{line}");
        }
        for (status, class) in [(101, "1xx"), (204, "2xx"), (404, "4xx"), (599, "5xx")] {
            server.answered(status, Duration::from_millis(1));
            let line = format!(r#"pierhead_server_requests_total{{code="{class}",pool="quay",server="a"}} 1"#);
            assert_eq!(lines(&metrics, &line), 1, "{line}");
        }
        server.answered(0, Duration::ZERO);
        server.answered(999, Duration::ZERO);
        assert_eq!((server.requests(), server.errors()), (6, 4));
    }
}

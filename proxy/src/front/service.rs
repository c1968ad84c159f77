//! What all connections of a listener share: whom they ask, what they may take, and who counts them.

use std::sync::Arc;
use std::time::Duration;

use pierhead_config::{HttpTarget, Mode, SniRoute};
use pierhead_service::shares::Room;

use super::admission::Admission;
use super::drain::Drain;
use super::tls::Termination;
use super::{Application, Connection};
use crate::admin::metrics::{ListenerMetrics, Metrics};
use crate::admin::sessions::Sessions;

/// What a client may take of us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// From the first byte of a request to the end of its header; also for a TLS handshake.
    pub(crate) header_timeout: Duration,
    /// Largest header.
    pub(crate) max_header_size: usize,
    /// Longest silence of a client within the body that it sends.
    pub(crate) body_timeout: Duration,
    /// Between requests.
    pub(crate) idle_timeout: Duration,
    /// Longest time that a write makes no progress.
    pub(crate) write_timeout: Duration,
}

impl Limits {
    /// Those of a listener.
    pub(crate) fn of(mode: &Mode) -> Limits {
        match mode {
            Mode::Http(http) => Limits {
                header_timeout: http.header_timeout,
                max_header_size: usize::try_from(http.max_header_size).unwrap_or(usize::MAX),
                body_timeout: http.body_timeout,
                idle_timeout: http.idle_timeout,
                write_timeout: http.write_timeout,
            },
            Mode::Tcp(tcp) => Limits {
                header_timeout: tcp.header_timeout,
                max_header_size: 0,
                body_timeout: tcp.idle_timeout,
                idle_timeout: tcp.idle_timeout,
                write_timeout: tcp.idle_timeout,
            },
        }
    }
}

/// Shared by all connections that a listener accepts under one configuration.
pub(crate) struct Service<A: Application> {
    /// What is spoken.
    pub(crate) mode: Mode,
    /// TLS that is passed through unopened.
    pub(crate) sni: Vec<SniRoute>,
    /// Whether a PROXY header comes first.
    pub(crate) accept_proxy: bool,
    /// Who may connect.
    pub(crate) admission: Arc<Admission>,
    /// Places of the listener, in fair shares.
    pub(crate) connections: Arc<Room>,
    /// Places for requests of HTTP/2 beside the first of their connection, in fair shares.
    pub(crate) streams: Arc<Room>,
    /// TLS where the listener has it.
    pub(crate) tls: Option<Arc<Termination>>,
    /// Answers requests.
    pub(crate) application: Arc<A>,
    /// What each client may take.
    pub(crate) limits: Limits,
    /// Whether to go on, and what is running.
    pub(crate) drain: Drain,
    /// Counts connections and refusals.
    pub(crate) metrics: Arc<Metrics>,
    /// What this listener counts.
    pub(crate) counts: Arc<ListenerMetrics>,
    /// All connections that are open.
    pub(crate) sessions: Arc<Sessions>,
}

impl<A: Application> Service<A> {
    /// Whether all requests go to a pool, and none is answered from here but those that ask for our health.
    pub(crate) fn only_forwards(&self) -> bool {
        matches!(&self.mode, Mode::Http(http) if matches!(http.target, HttpTarget::Pool(_)))
    }

    /// A client and this listener did not agree on TLS.
    pub(crate) fn handshake_failed(&self, connection: &Connection, error: &dyn std::fmt::Display) {
        self.counts.handshake_failed();
        self.refused(connection, "tls", Some(error));
    }

    /// A client was turned away before the application saw it. It is counted for operators and logged for the curious
    /// only: whoever scans the port must not fill the log.
    pub(crate) fn refused(&self, connection: &Connection, reason: &str, error: Option<&dyn std::fmt::Display>) {
        self.metrics.refused(&connection.listener, reason);
        let error = error.map(tracing::field::display);
        tracing::debug!(listener = %connection.listener, client = %connection.client, reason, error, "refused");
    }
}

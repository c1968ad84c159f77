//! What all connections of a listener share: whom they ask, what they may take, and who counts them.

use std::sync::Arc;
use std::time::Duration;

use super::drain::Drain;
use super::{Application, Connection};
use crate::admin::metrics::Metrics;

/// What a client may take of us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// From the first byte of a request to the end of its header; also for a TLS handshake.
    pub(crate) header_timeout: Duration,
    /// Largest header.
    pub(crate) max_header_size: usize,
    /// Between requests.
    pub(crate) idle_timeout: Duration,
    /// Longest time that a write makes no progress.
    pub(crate) write_timeout: Duration,
}

/// Shared by all connections of a listener.
pub(crate) struct Service<A: Application> {
    /// Answers requests.
    pub(crate) application: Arc<A>,
    /// What each client may take.
    pub(crate) limits: Limits,
    /// Whether to go on, and what is running.
    pub(crate) drain: Drain,
    /// Counts connections and refusals.
    pub(crate) metrics: Arc<Metrics>,
}

impl<A: Application> Service<A> {
    /// A client was turned away before the application saw it. It is counted for operators and logged for the curious
    /// only: whoever scans the port must not fill the log.
    pub(crate) fn refused(&self, connection: &Connection, reason: &str, error: Option<&dyn std::fmt::Display>) {
        self.metrics.refused(&connection.listener, reason);
        let error = error.map(tracing::field::display);
        tracing::debug!(listener = %connection.listener, client = %connection.peer, reason, error, "refused");
    }
}

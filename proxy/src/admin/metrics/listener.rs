//! What listeners see: connections, handshakes, sessions of layer 4, clients turned away, certificates.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{Error, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::family::{counters, gauges, times_in};

/// Buckets for the length of a session, from a check of a balancer to a subscription that lasts a day.
const SESSION_SECONDS: [f64; 9] = [0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 6.0 * 3600.0, 24.0 * 3600.0];

/// By listener.
pub(super) struct Listeners {
    open: IntGaugeVec,
    accepted: IntCounterVec,
    refusals: IntCounterVec,
    limited: IntCounterVec,
    handshakes: IntCounterVec,
    sessions: IntCounterVec,
    session_bytes: IntCounterVec,
    session_seconds: HistogramVec,
    certificates: IntGaugeVec,
    renewals: IntCounterVec,
    /// Which certificates each listener has shown last, to be forgotten when it shows others.
    shown: Mutex<HashMap<String, Vec<String>>>,
}

impl Listeners {
    pub(super) fn new(r: &Registry) -> Result<Listeners, Error> {
        Ok(Listeners {
            open: gauges(r, "pierhead_connections", "Open client connections.", &["listener"])?,
            accepted: counters(r, "pierhead_connections_accepted_total", "Client connections.", &["listener"])?,
            refusals: counters(
                r,
                "pierhead_refusals_total",
                "Clients turned away before their request was looked at (tls, malformed, timeout, too_large, coding …).",
                &["listener", "reason"],
            )?,
            limited: counters(
                r,
                "pierhead_limited_total",
                "Requests and connections refused by a limit.",
                &["listener", "limit"],
            )?,
            handshakes: counters(
                r,
                "pierhead_tls_handshakes_total",
                "TLS handshakes with clients (ok, failed); version and whether resumed of those that succeeded.",
                &["listener", "result", "version", "resumed"],
            )?,
            sessions: counters(
                r,
                "pierhead_sessions_total",
                "Layer-4 sessions that have ended, by how.",
                &["listener", "end"],
            )?,
            session_bytes: counters(
                r,
                "pierhead_session_bytes_total",
                "Bytes of layer-4 sessions, received from clients and sent to them.",
                &["listener", "direction"],
            )?,
            session_seconds: times_in(
                r,
                "pierhead_session_duration_seconds",
                "How long layer-4 sessions were.",
                &["listener"],
                &SESSION_SECONDS,
            )?,
            certificates: gauges(
                r,
                "pierhead_certificate_expiry_timestamp_seconds",
                "When a certificate that a listener shows ends.",
                &["listener", "file"],
            )?,
            renewals: counters(
                r,
                "pierhead_certificate_renewals_total",
                "Files of certificates that changed: renewed, or refused while the old ones serve on.",
                &["listener", "result"],
            )?,
            shown: Mutex::default(),
        })
    }

    pub(super) fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        let handshake = |version, resumed| self.handshakes.with_label_values(&[name, "ok", version, resumed]);
        Arc::new(ListenerMetrics {
            open: self.open.with_label_values(&[name]),
            accepted: self.accepted.with_label_values(&[name]),
            handshakes: [
                [handshake("1.2", "false"), handshake("1.2", "true")],
                [handshake("1.3", "false"), handshake("1.3", "true")],
            ],
            failed_handshakes: self.handshakes.with_label_values(&[name, "failed", "", ""]),
            sessions: self.sessions.clone(),
            session_seconds: self.session_seconds.with_label_values(&[name]),
            session_received: self.session_bytes.with_label_values(&[name, "received"]),
            session_sent: self.session_bytes.with_label_values(&[name, "sent"]),
            name: name.to_owned(),
        })
    }

    pub(super) fn refused(&self, listener: &str, reason: &str) {
        self.refusals.with_label_values(&[listener, reason]).inc();
    }

    pub(super) fn limited(&self, listener: &str, limit: &str) {
        self.limited.with_label_values(&[listener, limit]).inc();
    }

    pub(super) fn certificates_renewed(&self, listener: &str, usable: bool) {
        self.renewals.with_label_values(&[listener, if usable { "renewed" } else { "refused" }]).inc();
    }

    pub(super) fn certificates<'a>(&self, listener: &str, shown: impl IntoIterator<Item = (&'a str, i64)>) {
        let mut before = self.shown.lock();
        let files = before.entry(listener.to_owned()).or_default();
        for file in files.drain(..) {
            // What was never shown cannot be forgotten either, and need not be.
            drop(self.certificates.remove_label_values(&[listener, &file]));
        }
        for (file, ends) in shown {
            self.certificates.with_label_values(&[listener, file]).set(ends);
            files.push(file.to_owned());
        }
    }
}

impl Listeners {
    /// Forgets the certificates of all but these: who is gone shows none, and none of them will ever be renewed.
    pub(super) fn certificates_only_of(&self, listeners: &[&str]) {
        self.shown.lock().retain(|listener, files| {
            let stays = listeners.contains(&listener.as_str());
            for file in files.iter().filter(|_| !stays) {
                drop(self.certificates.remove_label_values(&[listener, file]));
            }
            stays
        });
    }
}

/// The handles of one listener.
pub(crate) struct ListenerMetrics {
    name: String,
    open: IntGauge,
    accepted: IntCounter,
    /// By version (1.2, 1.3), then whether resumed.
    handshakes: [[IntCounter; 2]; 2],
    failed_handshakes: IntCounter,
    sessions: IntCounterVec,
    session_seconds: Histogram,
    /// Bytes that sessions of layer 4 have received from clients, so far.
    pub(crate) session_received: IntCounter,
    /// Bytes that they have sent to clients, so far.
    pub(crate) session_sent: IntCounter,
}

impl ListenerMetrics {
    /// A connection, open until the answer is dropped.
    pub(crate) fn connection(&self) -> OpenConnection {
        self.accepted.inc();
        OpenConnection::new(self.open.clone())
    }

    /// A handshake that succeeded.
    pub(crate) fn handshake(&self, tls13: bool, resumed: bool) {
        self.handshakes[usize::from(tls13)][usize::from(resumed)].inc();
    }

    /// One that did not.
    pub(crate) fn handshake_failed(&self) {
        self.failed_handshakes.inc();
    }

    /// A session of layer 4 that has ended: how, in a word of ours, and after how long. Its bytes are counted while it
    /// runs.
    pub(crate) fn session(&self, end: &'static str, lasted: Duration) {
        self.sessions.with_label_values(&[&self.name, end]).inc();
        self.session_seconds.observe(lasted.as_secs_f64());
    }
}

/// An open connection; closed when dropped.
pub(crate) struct OpenConnection {
    open: IntGauge,
}

impl OpenConnection {
    fn new(open: IntGauge) -> OpenConnection {
        open.inc();
        OpenConnection { open }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.open.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;

    #[test]
    fn certificates_that_are_no_longer_shown_are_forgotten() {
        let metrics = Metrics::new().unwrap();
        metrics.certificates("a", [("old.crt", 1), ("kept.crt", 2)]);
        metrics.certificates("b", [("old.crt", 3)]);
        metrics.certificates("a", [("kept.crt", 4), ("new.crt", 5)]);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        let shown: Vec<&str> = text.lines().filter(|line| line.starts_with("pierhead_certificate_")).collect();
        let name = "pierhead_certificate_expiry_timestamp_seconds";
        assert_eq!(
            shown,
            [
                format!("{name}{{file=\"kept.crt\",listener=\"a\"}} 4"),
                format!("{name}{{file=\"new.crt\",listener=\"a\"}} 5"),
                format!("{name}{{file=\"old.crt\",listener=\"b\"}} 3"),
            ]
        );
    }
}

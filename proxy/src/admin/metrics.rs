//! Every metric of the edge: names, labels and the only code that touches `prometheus`.
//!
//! No metric is labelled by digest, tag or repository: their number is not ours to limit.

use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// Buckets for times in seconds, from a hit in memory to a slow upstream.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// All metrics of one edge.
pub(crate) struct Metrics {
    registry: Registry,
    /// `pierhead_requests_total{registry,kind,outcome,code}`
    requests: IntCounterVec,
    /// `pierhead_response_bytes_total{registry,kind,outcome}`
    response_bytes: IntCounterVec,
    /// `pierhead_time_to_first_byte_seconds{kind,outcome}`
    first_byte: HistogramVec,
    /// `pierhead_upstream_requests_total{registry,code}`
    upstream_requests: IntCounterVec,
    /// `pierhead_upstream_errors_total{registry}`
    upstream_errors: IntCounterVec,
    /// `pierhead_upstream_request_duration_seconds{registry}`
    upstream_latency: HistogramVec,
    /// `pierhead_upstream_received_bytes_total{registry}`
    upstream_bytes: IntCounterVec,
    /// `pierhead_upstream_rate_limit_remaining{registry}`
    rate_limit: IntGaugeVec,
    /// `pierhead_authentications_total{result}`
    authentications: IntCounterVec,
    /// `pierhead_connections{listener}`
    connections: IntGaugeVec,
    /// `pierhead_refusals_total{listener,reason}`
    refusals: IntCounterVec,
    /// `pierhead_fills_in_progress`
    pub(crate) fills: IntGauge,
    /// `pierhead_fill_readers`
    pub(crate) fill_readers: IntGauge,
    /// `pierhead_cache_bytes`
    pub(crate) cache_bytes: IntGauge,
    /// `pierhead_cache_limit_bytes`
    pub(crate) cache_limit: IntGauge,
    /// `pierhead_cache_entries`
    pub(crate) cache_entries: IntGauge,
    /// `pierhead_cache_evictions_total`
    pub(crate) evictions: IntCounter,
    /// `pierhead_cache_evicted_bytes_total`
    pub(crate) evicted_bytes: IntCounter,
    /// `pierhead_cache_writable`: 0 while requests are served past a full or failing disk.
    pub(crate) writable: IntGauge,
    /// `pierhead_cache_storage_errors_total`
    pub(crate) storage_errors: IntCounter,
    /// `pierhead_verification_failures_total{where}`: `upstream`, `disk`.
    verification_failures: IntCounterVec,
    /// `pierhead_scrub_duration_seconds`
    pub(crate) scrub_duration: Histogram,
}

/// Makes a collector and registers it. Names are constants of this file, so failing is a fault of ours that any test shows.
macro_rules! register {
    ($registry:expr, $collector:expr) => {{
        let collector = $collector?;
        $registry.register(Box::new(collector.clone()))?;
        collector
    }};
}

impl Metrics {
    /// A fresh set.
    pub(crate) fn new() -> Result<Metrics, prometheus::Error> {
        let r = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let times = |name: &str, help: &str, labels: &[&str]| {
            HistogramVec::new(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()), labels)
        };
        let version = register!(
            r,
            IntGaugeVec::new(Opts::new("pierhead_build_info", "Always 1; the version is the label."), &["version"])
        );
        version.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Metrics {
            requests: register!(
                r,
                counters(
                    "pierhead_requests_total",
                    "Requests by kind (manifest, blob, list, other), cache outcome and status.",
                    &["registry", "kind", "outcome", "code"]
                )
            ),
            response_bytes: register!(
                r,
                counters(
                    "pierhead_response_bytes_total",
                    "Body bytes sent to clients.",
                    &["registry", "kind", "outcome"]
                )
            ),
            first_byte: register!(
                r,
                times(
                    "pierhead_time_to_first_byte_seconds",
                    "From the end of a request's header to the first byte of its answer.",
                    &["kind", "outcome"]
                )
            ),
            upstream_requests: register!(
                r,
                counters("pierhead_upstream_requests_total", "Requests to upstreams by status.", &["registry", "code"])
            ),
            upstream_errors: register!(
                r,
                counters("pierhead_upstream_errors_total", "Requests to upstreams that got no answer.", &["registry"])
            ),
            upstream_latency: register!(
                r,
                times(
                    "pierhead_upstream_request_duration_seconds",
                    "From a request to an upstream to the header of its answer.",
                    &["registry"]
                )
            ),
            upstream_bytes: register!(
                r,
                counters(
                    "pierhead_upstream_received_bytes_total",
                    "Body bytes received from upstreams.",
                    &["registry"]
                )
            ),
            rate_limit: register!(
                r,
                IntGaugeVec::new(
                    Opts::new("pierhead_upstream_rate_limit_remaining", "Requests left in the upstream's window."),
                    &["registry"]
                )
            ),
            authentications: register!(
                r,
                counters(
                    "pierhead_authentications_total",
                    "Logins to this edge that were checked (ok, failed, limited); one that was checked within the hour is not checked again.",
                    &["result"]
                )
            ),
            connections: register!(
                r,
                IntGaugeVec::new(Opts::new("pierhead_connections", "Open client connections."), &["listener"])
            ),
            refusals: register!(
                r,
                counters(
                    "pierhead_refusals_total",
                    "Clients turned away before their request was looked at (tls, malformed, timeout, too_large, coding).",
                    &["listener", "reason"]
                )
            ),
            fills: register!(r, IntGauge::new("pierhead_fills_in_progress", "Blobs being fetched.")),
            fill_readers: register!(r, IntGauge::new("pierhead_fill_readers", "Clients reading blobs being fetched.")),
            cache_bytes: register!(
                r,
                IntGauge::new("pierhead_cache_bytes", "Bytes of content on disk, partial blobs included.")
            ),
            cache_limit: register!(r, IntGauge::new("pierhead_cache_limit_bytes", "The configured max_size.")),
            cache_entries: register!(
                r,
                IntGauge::new("pierhead_cache_entries", "Blobs and manifests on disk, partial ones included.")
            ),
            evictions: register!(r, IntCounter::new("pierhead_cache_evictions_total", "Evicted entries.")),
            evicted_bytes: register!(r, IntCounter::new("pierhead_cache_evicted_bytes_total", "Evicted bytes.")),
            writable: register!(
                r,
                IntGauge::new("pierhead_cache_writable", "0 while requests are served past a full or failing disk.")
            ),
            storage_errors: register!(
                r,
                IntCounter::new("pierhead_cache_storage_errors_total", "Reads and writes of the cache that failed.")
            ),
            verification_failures: register!(
                r,
                counters(
                    "pierhead_verification_failures_total",
                    "Content that did not hash to its digest, from upstream or from disk.",
                    &["where"]
                )
            ),
            scrub_duration: register!(
                r,
                Histogram::with_opts(
                    HistogramOpts::new("pierhead_scrub_duration_seconds", "Duration of whole scrub passes.")
                        .buckets(vec![1.0, 10.0, 60.0, 600.0, 3600.0, 6.0 * 3600.0, 24.0 * 3600.0])
                )
            ),
            registry: r,
        })
    }

    /// The Prometheus text format.
    pub(crate) fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// A finished request.
    pub(crate) fn request(
        &self,
        registry: &str,
        kind: &str,
        outcome: &str,
        code: &str,
        bytes: u64,
        first_byte: Duration,
    ) {
        self.requests.with_label_values(&[registry, kind, outcome, code]).inc();
        self.response_bytes.with_label_values(&[registry, kind, outcome]).inc_by(bytes);
        self.first_byte.with_label_values(&[kind, outcome]).observe(first_byte.as_secs_f64());
    }

    /// A connection, open until the answer is dropped.
    pub(crate) fn connection(&self, listener: &str) -> OpenConnection {
        let connections = self.connections.with_label_values(&[listener]);
        connections.inc();
        OpenConnection { connections }
    }

    /// A client that was turned away before its request was looked at.
    pub(crate) fn refused(&self, listener: &str, reason: &str) {
        self.refusals.with_label_values(&[listener, reason]).inc();
    }

    /// An attempt to log in to this edge: `ok`, `failed` or `limited`.
    pub(crate) fn authentication(&self, result: &str) {
        self.authentications.with_label_values(&[result]).inc();
    }

    /// Content that did not hash to its digest.
    pub(crate) fn verification_failure(&self, place: VerificationPlace) {
        let place = match place {
            VerificationPlace::Upstream => "upstream",
            VerificationPlace::Disk => "disk",
        };
        self.verification_failures.with_label_values(&[place]).inc();
    }

    /// The observer of one registry's client.
    pub(crate) fn upstream(self: &std::sync::Arc<Self>, registry: &str) -> UpstreamObserver {
        UpstreamObserver { metrics: std::sync::Arc::clone(self), registry: registry.to_owned() }
    }
}

/// An open connection; closed when dropped.
pub(crate) struct OpenConnection {
    connections: IntGauge,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.connections.dec();
    }
}

/// Where wrong content was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VerificationPlace {
    /// On its way in.
    Upstream,
    /// In the store.
    Disk,
}

/// Counts what a registry's client does.
pub(crate) struct UpstreamObserver {
    metrics: std::sync::Arc<Metrics>,
    registry: String,
}

impl pierhead_registry::client::Observer for UpstreamObserver {
    fn request(&self, status: Option<u16>, elapsed: Duration) {
        let registry = self.registry.as_str();
        match status {
            Some(status) => {
                self.metrics.upstream_requests.with_label_values(&[registry, &status.to_string()]).inc();
                self.metrics.upstream_latency.with_label_values(&[registry]).observe(elapsed.as_secs_f64());
            }
            None => self.metrics.upstream_errors.with_label_values(&[registry]).inc(),
        }
    }

    fn received(&self, bytes: u64) {
        self.metrics.upstream_bytes.with_label_values(&[&self.registry]).inc_by(bytes);
    }

    fn rate_limit_remaining(&self, left: u64) {
        self.metrics.rate_limit.with_label_values(&[&self.registry]).set(i64::try_from(left).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn every_metric_is_documented() {
        let named = |text: &'static str, quote: char| -> BTreeSet<&str> {
            let is_name =
                |word: &&str| word.starts_with("pierhead_") && word.ends_with(|c: char| c.is_ascii_lowercase());
            text.split(quote).filter(is_name).collect()
        };
        let table = include_str!("../../../docs/operating.md").split("## Metrics").nth(1).unwrap();
        let table = table.split("Worth an alert").next().unwrap();
        assert_eq!(named(table, '`'), named(include_str!("metrics.rs"), '"'));
    }
}

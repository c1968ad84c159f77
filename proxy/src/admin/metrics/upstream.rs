//! What registries' clients do.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{Error, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::Metrics;
use super::family::{counters, gauges, times};

/// By registry.
pub(super) struct Upstreams {
    requests: IntCounterVec,
    errors: IntCounterVec,
    latency: HistogramVec,
    bytes: IntCounterVec,
    rate_limit: IntGaugeVec,
    account_refused: IntGaugeVec,
}

impl Upstreams {
    pub(super) fn new(r: &Registry) -> Result<Upstreams, Error> {
        Ok(Upstreams {
            requests: counters(
                r,
                "pierhead_upstream_requests_total",
                "Requests to upstreams by status.",
                &["registry", "code"],
            )?,
            errors: counters(
                r,
                "pierhead_upstream_errors_total",
                "Requests to upstreams that got no answer.",
                &["registry"],
            )?,
            latency: times(
                r,
                "pierhead_upstream_request_duration_seconds",
                "From a request to an upstream to the header of its answer.",
                &["registry"],
            )?,
            bytes: counters(
                r,
                "pierhead_upstream_received_bytes_total",
                "Body bytes received from upstreams.",
                &["registry"],
            )?,
            rate_limit: gauges(
                r,
                "pierhead_upstream_rate_limit_remaining",
                "Requests left in the upstream's window.",
                &["registry"],
            )?,
            account_refused: gauges(
                r,
                "pierhead_upstream_account_refused",
                "1 while the upstream refuses the account that the configuration gives the edge.",
                &["registry"],
            )?,
        })
    }
}

impl Upstreams {
    /// Whether a registry refuses the edge's account.
    pub(super) fn account_refused(&self, registry: &str) -> IntGauge {
        self.account_refused.with_label_values(&[registry])
    }
}

/// Counts what a registry's client does.
pub(crate) struct UpstreamObserver {
    metrics: Arc<Metrics>,
    registry: String,
}

impl UpstreamObserver {
    pub(super) fn new(metrics: &Arc<Metrics>, registry: &str) -> UpstreamObserver {
        UpstreamObserver { metrics: Arc::clone(metrics), registry: registry.to_owned() }
    }
}

impl pierhead_registry::client::Observer for UpstreamObserver {
    fn request(&self, status: Option<u16>, elapsed: Duration) {
        let (upstreams, registry) = (&self.metrics.upstreams, self.registry.as_str());
        match status {
            Some(status) => {
                upstreams.requests.with_label_values(&[registry, &status.to_string()]).inc();
                upstreams.latency.with_label_values(&[registry]).observe(elapsed.as_secs_f64());
            }
            None => upstreams.errors.with_label_values(&[registry]).inc(),
        }
    }

    fn received(&self, bytes: u64) {
        self.metrics.upstreams.bytes.with_label_values(&[&self.registry]).inc_by(bytes);
    }

    fn rate_limit_remaining(&self, left: u64) {
        let left = i64::try_from(left).unwrap_or(i64::MAX);
        self.metrics.upstreams.rate_limit.with_label_values(&[&self.registry]).set(left);
    }
}

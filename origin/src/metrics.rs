//! Every metric of the origin: names, labels and the only code that touches `prometheus`. Names are Quay's where Quay has them.
//!
//! No metric is labelled by digest, tag, repository or account: their number is not ours to limit.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use pierhead_registry::oci::media_type;
use pierhead_service::shares::Observer;
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, Error, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::meta::Census;

/// Buckets for times in seconds, from a manifest in memory to a layer over a slow line.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

/// All metrics of one origin.
pub(crate) struct Metrics {
    registry: Registry,
    requests: HistogramVec,
    pulls: IntCounterVec,
    pushes: IntCounterVec,
    pulled_bytes: IntCounter,
    pushed_bytes: IntCounter,
    authentications: IntCounterVec,
    /// `quay_multipart_uploads_started_total`
    pub(crate) uploads_started: IntCounter,
    /// `quay_multipart_uploads_completed_total`
    pub(crate) uploads_completed: IntCounter,
    repositories: IntGauge,
    users: IntGauge,
    organizations: IntGauge,
    robots: IntGauge,
    /// `quay_gc_iterations_total`
    pub(crate) gc_iterations: IntCounter,
    /// `quay_gc_storage_blobs_deleted_total`
    pub(crate) gc_blobs: IntCounter,
    /// `quay_gc_repos_purged_total`
    pub(crate) gc_repositories: IntCounter,
    /// `pierhead_origin_blobs_lost_total`
    pub(crate) blobs_lost: IntCounter,
    connections: IntGaugeVec,
    bytes: IntCounterVec,
    running: IntGaugeVec,
    queued: IntGaugeVec,
    refusals: IntCounterVec,
}

impl Metrics {
    /// A fresh set.
    pub(crate) fn new() -> Result<Metrics, Error> {
        let r = Registry::new();
        r.register(Box::new(ProcessCollector::for_self()))?;
        let version = gauges(&r, "pierhead_origin_build_info", "Always 1; the version is the label.", &["version"])?;
        version.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let requests = HistogramOpts::new("quay_request_duration_seconds", "Requests, to the last byte of the answer.");
        Ok(Metrics {
            requests: registered(
                &r,
                HistogramVec::new(requests.buckets(SECONDS.to_vec()), &["method", "route", "status"]),
            )?,
            pulls: counters(
                &r,
                "quay_registry_image_pulls_total",
                "Manifests that were asked for, by tag or by digest.",
                &["protocol", "ref", "status"],
            )?,
            pushes: counters(
                &r,
                "quay_registry_image_pushes_total",
                "Manifests that were pushed.",
                &["protocol", "status", "media_type"],
            )?,
            pulled_bytes: counter(
                &r,
                "quay_registry_image_pulled_estimated_bytes_total",
                "Bytes of the layers of manifests that were pulled, whoever sends them.",
            )?,
            pushed_bytes: counter(&r, "quay_registry_image_pushed_bytes_total", "Bytes of blobs that were pushed.")?,
            authentications: counters(
                &r,
                "quay_authentication_attempts_total",
                "Credentials that were checked.",
                &["auth_kind", "success"],
            )?,
            uploads_started: counter(&r, "quay_multipart_uploads_started_total", "Uploads of blobs that began.")?,
            uploads_completed: counter(&r, "quay_multipart_uploads_completed_total", "Those that became a blob.")?,
            repositories: gauge(&r, "quay_repository_rows", "Repositories.")?,
            users: gauge(&r, "quay_user_rows", "Users.")?,
            organizations: gauge(&r, "quay_org_rows", "Organisations.")?,
            robots: gauge(&r, "quay_robot_rows", "Robots.")?,
            gc_iterations: counter(&r, "quay_gc_iterations_total", "Runs of the garbage collection on this node.")?,
            gc_blobs: counter(&r, "quay_gc_storage_blobs_deleted_total", "Blobs that it took away.")?,
            gc_repositories: counter(&r, "quay_gc_repos_purged_total", "Deleted repositories that it took away.")?,
            blobs_lost: counter(
                &r,
                "pierhead_origin_blobs_lost_total",
                "Blobs that the store was found to have lost, whole or in part.",
            )?,
            connections: gauges(&r, "pierhead_origin_connections", "Open connections.", &["listener"])?,
            bytes: counters(
                &r,
                "pierhead_origin_bytes_total",
                "Bytes on connections, TLS included, received and sent.",
                &["listener", "direction"],
            )?,
            running: gauges(&r, "pierhead_origin_requests_running", "Places in use, or bytes.", &["kind"])?,
            queued: gauges(&r, "pierhead_origin_requests_queued", "Clients that wait for a place.", &["kind"])?,
            refusals: counters(
                &r,
                "pierhead_origin_refusals_total",
                "Clients that got no place, or lost it (queue_full, waited, share, slow, readonly).",
                &["kind", "reason"],
            )?,
            registry: r,
        })
    }

    /// The Prometheus text format.
    pub(crate) fn render(&self) -> Result<Vec<u8>, Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// A finished request. `route` has no names in it.
    pub(crate) fn request(&self, method: &Method, route: &str, status: u16, duration: Duration) {
        let method = match *method {
            Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::PATCH | Method::DELETE => method.as_str(),
            _ => "other",
        };
        let labels = [method, route, &status.to_string()];
        self.requests.with_label_values(&labels).observe(duration.as_secs_f64());
    }

    /// A manifest that was asked for: by `tag` or by `manifest`, as Quay calls a digest.
    pub(crate) fn pulled(&self, by_tag: bool, status: u16, bytes: u64) {
        let reference = if by_tag { "tag" } else { "manifest" };
        self.pulls.with_label_values(&["v2", reference, &status.to_string()]).inc();
        self.pulled_bytes.inc_by(bytes);
    }

    /// A manifest that was pushed. Media types that are not known well are one.
    pub(crate) fn pushed(&self, status: u16, media_type: &str) {
        let media_type =
            media_type::ALL.into_iter().find(|known| media_type::is_same(known, media_type)).unwrap_or("other");
        self.pushes.with_label_values(&["v2", &status.to_string(), media_type]).inc();
    }

    /// A blob that was pushed.
    pub(crate) fn blob_pushed(&self, bytes: u64) {
        self.pushed_bytes.inc_by(bytes);
    }

    /// Credentials that were checked.
    pub(crate) fn authentication(&self, kind: &'static str, success: bool) {
        self.authentications.with_label_values(&[kind, if success { "True" } else { "False" }]).inc();
    }

    /// How many there are of what operators watch grow.
    pub(crate) fn counted(&self, census: &Census) {
        self.repositories.set(census.repositories);
        self.users.set(census.users);
        self.organizations.set(census.organizations);
        self.robots.set(census.robots);
    }

    /// The handle of a listener.
    pub(crate) fn listener(&self, listener: &str) -> Arc<ListenerMetrics> {
        Arc::new(ListenerMetrics {
            connections: self.connections.with_label_values(&[listener]),
            received: self.bytes.with_label_values(&[listener, "received"]),
            sent: self.bytes.with_label_values(&[listener, "sent"]),
        })
    }

    /// The handle of an admission.
    pub(crate) fn gate(&self, kind: &'static str) -> GateMetrics {
        GateMetrics {
            running: self.running.with_label_values(&[kind]),
            queued: self.queued.with_label_values(&[kind]),
            refusals: self.refusals.clone(),
            kind,
        }
    }
}

/// Of a listener.
pub(crate) struct ListenerMetrics {
    connections: IntGauge,
    received: IntCounter,
    sent: IntCounter,
}

impl ListenerMetrics {
    /// A connection.
    pub(crate) fn opened(&self) {
        self.connections.inc();
    }

    /// Its end.
    pub(crate) fn closed(&self) {
        self.connections.dec();
    }

    /// From a client.
    pub(crate) fn received(&self, bytes: usize) {
        self.received.inc_by(bytes as u64);
    }

    /// To a client.
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.inc_by(bytes as u64);
    }
}

/// Of an admission.
#[derive(Clone)]
pub(crate) struct GateMetrics {
    /// At work.
    running: IntGauge,
    /// Waiting.
    queued: IntGauge,
    refusals: IntCounterVec,
    kind: &'static str,
}

impl GateMetrics {
    /// A request that was not let in.
    pub(crate) fn refused(&self, reason: &str) {
        self.refusals.with_label_values(&[self.kind, reason]).inc();
    }
}

impl Observer for GateMetrics {
    fn running(&self, change: i64) {
        self.running.add(change);
    }

    fn queued(&self, change: i64) {
        self.queued.add(change);
    }

    fn refused(&self, reason: &'static str) {
        GateMetrics::refused(self, reason);
    }
}

/// Names are constants of this file, so failing is a fault of ours that any test shows.
fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: Result<C, Error>) -> Result<C, Error> {
    let collector = collector?;
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, Error> {
    registered(registry, IntCounter::new(name, help))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, Error> {
    registered(registry, IntGauge::new(name, help))
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, Error> {
    registered(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn every_metric_is_documented() {
        let named = |text: &'static str, quote: char| -> BTreeSet<&str> {
            let is_name = |word: &&str| {
                (word.starts_with("quay_") || word.starts_with("pierhead_origin_"))
                    && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            };
            text.split(quote).filter(is_name).collect()
        };
        let table = include_str!("../../docs/origin-operating.md").split("## Metrics").nth(1).unwrap();
        let declared = include_str!("metrics.rs").split("#[cfg(test)]").next().unwrap();
        assert_eq!(named(table, '`'), named(declared, '"'));
    }
}

//! Every metric of the edge: names, labels and the only code that touches `prometheus`.
//!
//! Those who count keep a handle ([`ServerMetrics`], [`ListenerMetrics`] …) that was resolved once: counting is then one
//! atomic addition, without a look-up by label.
//!
//! No metric is labelled by digest, tag or repository: their number is not ours to limit. Labels are names from the
//! configuration, and words of ours.

mod family;
mod listener;
mod reload;
mod request;
mod server;
mod share;
mod token;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use prometheus::process_collector::ProcessCollector;
use prometheus::{Encoder, Histogram, IntCounter, IntCounterVec, IntGauge, Registry, TextEncoder};

use self::family::{counter, counters, gauge, gauges};
pub(crate) use self::listener::ListenerMetrics;
use self::listener::Listeners;
use self::reload::Reloads;
pub(crate) use self::request::FORWARDED;
use self::request::Requests;
use self::server::Servers;
pub(crate) use self::server::{PoolMetrics, ServerFailure, ServerMetrics};
pub(crate) use self::share::ShareMetrics;
use self::share::Shares;
pub(crate) use self::token::TokenMetrics;
use self::token::Tokens;
pub(crate) use self::upstream::UpstreamObserver;
use self::upstream::Upstreams;

/// All metrics of one edge.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Requests,
    /// `pierhead_authentications_total{result}`
    authentications: IntCounterVec,
    /// `pierhead_api_requests_total{code}`
    api: IntCounterVec,
    upstreams: Upstreams,
    tokens: Tokens,
    listeners: Listeners,
    servers: Arc<Servers>,
    shares: Shares,
    reloads: Reloads,
    /// `pierhead_fills_in_progress`
    pub(crate) fills: IntGauge,
    /// `pierhead_fill_readers`
    pub(crate) fill_readers: IntGauge,
    /// `pierhead_cache_bytes`
    pub(crate) cache_bytes: IntGauge,
    /// `pierhead_cache_record_bytes`
    pub(crate) cache_record_bytes: IntGauge,
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

impl Metrics {
    /// A fresh set.
    pub(crate) fn new() -> Result<Metrics, prometheus::Error> {
        let r = Registry::new();
        r.register(Box::new(ProcessCollector::for_self()))?;
        let version = gauges(&r, "pierhead_build_info", "Always 1; the version is the label.", &["version"])?;
        version.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let writable =
            gauge(&r, "pierhead_cache_writable", "0 while requests are served past a full or failing disk.")?;
        // An edge without a cache has none that fails.
        writable.set(1);
        Ok(Metrics {
            requests: Requests::new(&r)?,
            authentications: counters(
                &r,
                "pierhead_authentications_total",
                "Logins to this edge that were checked (ok, failed, limited); one that was checked within the hour is not checked again.",
                &["result"],
            )?,
            api: counters(&r, "pierhead_api_requests_total", "Requests to the operators' API by status.", &["code"])?,
            upstreams: Upstreams::new(&r)?,
            tokens: Tokens::new(&r)?,
            listeners: Listeners::new(&r)?,
            servers: Arc::new(Servers::new(&r)?),
            shares: Shares::new(&r)?,
            reloads: Reloads::new(&r)?,
            fills: gauge(&r, "pierhead_fills_in_progress", "Blobs being fetched.")?,
            fill_readers: gauge(&r, "pierhead_fill_readers", "Clients reading blobs being fetched.")?,
            cache_bytes: gauge(&r, "pierhead_cache_bytes", "Bytes of content on disk, partial blobs included.")?,
            cache_record_bytes: gauge(&r, "pierhead_cache_record_bytes", "Bytes of records of repositories on disk.")?,
            cache_limit: gauge(
                &r,
                "pierhead_cache_limit_bytes",
                "Most bytes of content and records: max_size, or what the disk can hold where that is less.",
            )?,
            cache_entries: gauge(&r, "pierhead_cache_entries", "Blobs and manifests on disk, partial ones included.")?,
            evictions: counter(&r, "pierhead_cache_evictions_total", "Evicted entries.")?,
            evicted_bytes: counter(&r, "pierhead_cache_evicted_bytes_total", "Evicted bytes.")?,
            writable,
            storage_errors: counter(
                &r,
                "pierhead_cache_storage_errors_total",
                "Reads and writes of the cache that failed.",
            )?,
            verification_failures: counters(
                &r,
                "pierhead_verification_failures_total",
                "Content that did not hash to its digest, from upstream or from disk.",
                &["where"],
            )?,
            scrub_duration: family::histogram(
                &r,
                "pierhead_scrub_duration_seconds",
                "Duration of whole scrub passes.",
                &[1.0, 10.0, 60.0, 600.0, 3600.0, 6.0 * 3600.0, 24.0 * 3600.0],
            )?,
            registry: r,
        })
    }

    /// The Prometheus text format.
    pub(crate) fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// Counts what one kind of shares refuses.
    pub(crate) fn share(&self, kind: &'static str) -> ShareMetrics {
        self.shares.of(kind)
    }

    /// A finished request. `forwarded`: it was no pull, and was passed on to the servers of a pool.
    pub(crate) fn request(
        &self,
        registry: &str,
        (kind, outcome, forwarded): (&'static str, &'static str, bool),
        status: u16,
        bytes: u64,
        first_byte: Duration,
    ) {
        self.requests.ended(registry, (kind, outcome, forwarded), status, bytes, first_byte);
    }

    /// How many requests for content were answered, by registry and outcome; under [`FORWARDED`] those that are no pulls.
    pub(crate) fn outcomes(&self) -> Vec<(String, &'static str, u64)> {
        self.requests.outcomes()
    }

    /// An attempt to log in to this edge: `ok`, `failed` or `limited`.
    pub(crate) fn authentication(&self, result: &str) {
        self.authentications.with_label_values(&[result]).inc();
    }

    /// A request to the operators' API.
    pub(crate) fn api_request(&self, code: &str) {
        self.api.with_label_values(&[code]).inc();
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
    pub(crate) fn upstream(self: &Arc<Self>, registry: &str) -> UpstreamObserver {
        UpstreamObserver::new(self, registry)
    }

    /// 1 while a registry refuses the edge's account.
    pub(crate) fn account_refused(&self, registry: &str) -> IntGauge {
        self.upstreams.account_refused(registry)
    }

    /// The handle of the tokens of a registry.
    pub(crate) fn tokens(&self, registry: &str) -> TokenMetrics {
        self.tokens.of(registry)
    }

    /// The handle of a pool.
    pub(crate) fn pool(&self, pool: &str) -> PoolMetrics {
        self.servers.pool(pool)
    }

    /// The handle of a server. Whoever asks while another has it gets the same; when the last is dropped, the server is
    /// no longer shown.
    pub(crate) fn server(&self, pool: &str, server: &str) -> Arc<ServerMetrics> {
        self.servers.server(pool, server)
    }

    /// The handle of a listener.
    pub(crate) fn listener(&self, listener: &str) -> Arc<ListenerMetrics> {
        self.listeners.listener(listener)
    }

    /// A client that was turned away before its request was looked at.
    pub(crate) fn refused(&self, listener: &str, reason: &str) {
        self.listeners.refused(listener, reason);
    }

    /// Somebody who wanted more than a limit allows: `client_rate`, `registry_rate`, `client_connections` …
    pub(crate) fn limited(&self, listener: &str, limit: &str) {
        self.listeners.limited(listener, limit);
    }

    /// New files of certificates were found, and could be used or not.
    pub(crate) fn certificates_renewed(&self, listener: &str, usable: bool) {
        self.listeners.certificates_renewed(listener, usable);
    }

    /// The certificates that a listener shows now, by their files' names, and when they end, in seconds since 1970.
    /// What it showed before is forgotten.
    pub(crate) fn certificates<'a>(&self, listener: &str, shown: impl IntoIterator<Item = (&'a str, i64)>) {
        self.listeners.certificates(listener, shown);
    }

    /// The listeners that show certificates are these from here on.
    pub(crate) fn certificates_only_of(&self, listeners: &[&str]) {
        self.listeners.certificates_only_of(listeners);
    }

    /// The configuration was read again: whether it could be used, and its number then.
    pub(crate) fn reloaded(&self, well: bool) {
        self.reloads.reloaded(well);
    }

    /// Which configuration is in use; the first is 1.
    pub(crate) fn generation(&self, number: u64) {
        self.reloads.generation(number);
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
        let table = include_str!("../../../../docs/operating.md").split("## Metrics").nth(1).unwrap();
        let table = table.split("Worth an alert").next().unwrap();
        let sources = [
            include_str!("mod.rs"),
            include_str!("listener.rs"),
            include_str!("reload.rs"),
            include_str!("request.rs"),
            include_str!("server.rs"),
            include_str!("share.rs"),
            include_str!("token.rs"),
            include_str!("upstream.rs"),
        ];
        let declared: BTreeSet<&str> = sources.into_iter().flat_map(|source| named(source, '"')).collect();
        assert_eq!(named(table, '`'), declared);
    }
}

//! Finished requests.
//!
//! This is counted at every request, so the three look-ups by labels that it would take are made once for each
//! combination: from then on it is found by the registry's name and a glance along the few that the registry has.
//! Combinations are as many as names in the configuration times words of ours times statuses.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus::{Error, Histogram, HistogramVec, IntCounter, IntCounterVec, Registry};

use super::family::{counters, times};

/// By registry, kind, outcome and status.
pub(super) struct Requests {
    total: IntCounterVec,
    bytes: IntCounterVec,
    first_byte: HistogramVec,
    known: ArcSwap<HashMap<String, Vec<Series>>>,
}

/// One combination.
#[derive(Clone)]
struct Series {
    kind: &'static str,
    outcome: &'static str,
    status: u16,
    total: IntCounter,
    bytes: IntCounter,
    first_byte: Histogram,
}

impl Requests {
    pub(super) fn new(r: &Registry) -> Result<Requests, Error> {
        Ok(Requests {
            total: counters(
                r,
                "pierhead_requests_total",
                "Requests by kind (manifest, blob, list, other), cache outcome and status.",
                &["registry", "kind", "outcome", "code"],
            )?,
            bytes: counters(
                r,
                "pierhead_response_bytes_total",
                "Body bytes sent to clients.",
                &["registry", "kind", "outcome"],
            )?,
            first_byte: times(
                r,
                "pierhead_time_to_first_byte_seconds",
                "From the end of a request's header to the first byte of its answer.",
                &["kind", "outcome"],
            )?,
            known: ArcSwap::default(),
        })
    }

    /// One has ended.
    pub(super) fn ended(
        &self,
        registry: &str,
        (kind, outcome): (&'static str, &'static str),
        status: u16,
        bytes: u64,
        first_byte: Duration,
    ) {
        let count = |series: &Series| {
            series.total.inc();
            series.bytes.inc_by(bytes);
            series.first_byte.observe(first_byte.as_secs_f64());
        };
        let known = self.known.load();
        let same = |series: &&Series| series.status == status && series.kind == kind && series.outcome == outcome;
        match known.get(registry).and_then(|all| all.iter().find(same)) {
            Some(series) => count(series),
            None => count(&self.learn(registry, kind, outcome, status)),
        }
    }

    /// How many requests for content were answered, by registry and outcome.
    pub(super) fn outcomes(&self) -> Vec<(String, String, u64)> {
        let known = self.known.load();
        let of = |(registry, all): (&String, &Vec<Series>)| {
            let content = all.iter().filter(|series| series.kind != "other");
            let counted = content.map(|series| (registry.clone(), series.outcome.to_owned(), series.total.get()));
            counted.collect::<Vec<_>>()
        };
        known.iter().filter(|(registry, _)| !registry.is_empty()).flat_map(of).collect()
    }

    /// The first of its kind. Two that come at once find the same counters, and one of the two is remembered.
    fn learn(&self, registry: &str, kind: &'static str, outcome: &'static str, status: u16) -> Series {
        let series = Series {
            kind,
            outcome,
            status,
            total: self.total.with_label_values(&[registry, kind, outcome, &status.to_string()]),
            bytes: self.bytes.with_label_values(&[registry, kind, outcome]),
            first_byte: self.first_byte.with_label_values(&[kind, outcome]),
        };
        let mut known = HashMap::clone(&self.known.load());
        known.entry(registry.to_owned()).or_default().push(series.clone());
        self.known.store(Arc::new(known));
        series
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_counted_where_it_belongs() {
        let registry = Registry::new();
        let requests = Arc::new(Requests::new(&registry).unwrap());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let requests = Arc::clone(&requests);
                scope.spawn(move || {
                    for number in 0..100 {
                        let status = if number % 4 == 0 { 404 } else { 200 };
                        requests.ended("a", ("blob", "hit"), status, 10, Duration::from_millis(1));
                        requests.ended("", ("other", "none"), 200, 0, Duration::ZERO);
                    }
                });
            }
        });
        for (labels, expected) in [
            (["a", "blob", "hit", "200"], 300),
            (["a", "blob", "hit", "404"], 100),
            (["", "other", "none", "200"], 400),
        ] {
            assert_eq!(requests.total.with_label_values(&labels).get(), expected, "{labels:?}");
        }
        assert_eq!(requests.bytes.with_label_values(&["a", "blob", "hit"]).get(), 4000);
        assert_eq!(requests.first_byte.with_label_values(&["blob", "hit"]).get_sample_count(), 400);
    }
}

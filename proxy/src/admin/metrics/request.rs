//! Finished requests.
//!
//! This is counted at every request, so the three look-ups by labels that it would take are made once for each
//! combination: from then on it is found by the registry's name and a glance along the few that the registry has.
//! Combinations are as many as names in the configuration times words of ours times statuses.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus::{Error, Histogram, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

use super::family::{counters, times};

/// The word for requests that were passed on to the servers of a pool.
pub(crate) const FORWARDED: &str = "forwarded";

/// By registry, kind, outcome and status.
pub(super) struct Requests {
    total: IntCounterVec,
    bytes: IntCounterVec,
    first_byte: HistogramVec,
    /// Not exported: by registry, and outcome or [`FORWARDED`].
    counted: IntCounterVec,
    known: ArcSwap<HashMap<String, Vec<Series>>>,
}

/// One combination.
#[derive(Clone)]
struct Series {
    kind: &'static str,
    outcome: &'static str,
    forwarded: bool,
    status: u16,
    /// What [`Requests::outcomes`] reads.
    counted: Option<IntCounter>,
    total: IntCounter,
    bytes: IntCounter,
    first_byte: Histogram,
}

impl Series {
    fn word(&self) -> &'static str {
        if self.forwarded { FORWARDED } else { self.outcome }
    }
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
            counted: IntCounterVec::new(Opts::new("counted", "Requests for content."), &["registry", "outcome"])?,
            known: ArcSwap::default(),
        })
    }

    /// One has ended.
    pub(super) fn ended(
        &self,
        registry: &str,
        (kind, outcome, forwarded): (&'static str, &'static str, bool),
        status: u16,
        bytes: u64,
        first_byte: Duration,
    ) {
        let count = |series: &Series| {
            series.total.inc();
            if let Some(counted) = &series.counted {
                counted.inc();
            }
            series.bytes.inc_by(bytes);
            series.first_byte.observe(first_byte.as_secs_f64());
        };
        let known = self.known.load();
        let same = |series: &&Series| {
            (series.status, series.kind, series.outcome, series.forwarded) == (status, kind, outcome, forwarded)
        };
        match known.get(registry).and_then(|all| all.iter().find(same)) {
            Some(series) => count(series),
            None => count(&self.learn(registry, (kind, outcome, forwarded), status)),
        }
    }

    /// How many requests for content were answered, by registry and outcome; under [`FORWARDED`] those that are no pulls.
    pub(super) fn outcomes(&self) -> Vec<(String, &'static str, u64)> {
        let known = self.known.load();
        let of = |(registry, all): (&String, &Vec<Series>)| {
            // Statuses and kinds share a counter.
            let words = all.iter().filter_map(|series| Some((series.word(), series.counted.as_ref()?.get())));
            let words: BTreeMap<_, _> = words.collect();
            words.into_iter().map(|(word, count)| (registry.clone(), word, count)).collect::<Vec<_>>()
        };
        known.iter().filter(|(registry, _)| !registry.is_empty()).flat_map(of).collect()
    }

    /// The first of its kind. Two that come at once find the same counters, and one of the two is remembered.
    fn learn(
        &self,
        registry: &str,
        (kind, outcome, forwarded): (&'static str, &'static str, bool),
        status: u16,
    ) -> Series {
        let word = if forwarded { FORWARDED } else { outcome };
        let is_content = kind != "other" || forwarded;
        let series = Series {
            kind,
            outcome,
            forwarded,
            counted: is_content.then(|| self.counted.with_label_values(&[registry, word])),
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
                        requests.ended("a", ("blob", "hit", false), status, 10, Duration::from_millis(1));
                        requests.ended("", ("other", "none", false), 200, 0, Duration::ZERO);
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

    #[test]
    fn what_was_forwarded_is_counted_apart() {
        let registry = Registry::new();
        let requests = Requests::new(&registry).unwrap();
        for (kind, outcome, forwarded) in [
            ("blob", "hit", false),
            ("blob", "bypass", false),
            ("blob", "bypass", true),
            ("other", "bypass", true),
            ("other", "none", false),
        ] {
            requests.ended("a", (kind, outcome, forwarded), 200, 0, Duration::ZERO);
        }
        let of = |word| requests.outcomes().iter().filter(|one| one.1 == word).map(|one| one.2).sum::<u64>();
        assert_eq!(["hit", "bypass", FORWARDED, "none"].map(of), [1, 1, 2, 0]);
        assert_eq!(requests.total.with_label_values(&["a", "blob", "bypass", "200"]).get(), 2, "one metric for both");
    }
}

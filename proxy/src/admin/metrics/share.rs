//! What fair shares refuse, and how many wait for one.

use prometheus::{Error, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use pierhead_service::shares::Observer;

use super::family::{counters, gauges};

/// By kind of what is shared.
pub(super) struct Shares {
    refusals: IntCounterVec,
    waiting: IntGaugeVec,
}

impl Shares {
    pub(super) fn new(r: &Registry) -> Result<Shares, Error> {
        Ok(Shares {
            refusals: counters(
                r,
                "pierhead_share_refusals_total",
                "Clients that got no share of something scarce (queue_full, waited, share), or lost it to those that wait (slow).",
                &["kind", "reason"],
            )?,
            waiting: gauges(
                r,
                "pierhead_share_waiting",
                "Clients that wait for a share of something scarce.",
                &["kind"],
            )?,
        })
    }

    pub(super) fn of(&self, kind: &'static str) -> ShareMetrics {
        ShareMetrics { kind, refusals: self.refusals.clone(), waiting: self.waiting.with_label_values(&[kind]) }
    }
}

/// What one kind counts.
pub(crate) struct ShareMetrics {
    kind: &'static str,
    refusals: IntCounterVec,
    waiting: IntGauge,
}

impl Observer for ShareMetrics {
    fn queued(&self, change: i64) {
        self.waiting.add(change);
    }

    fn refused(&self, reason: &'static str) {
        self.refusals.with_label_values(&[self.kind, reason]).inc();
    }
}

//! Whether the configuration that operators wrote is the one that is in use.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{Error, IntCounter, IntGauge, Registry};

use super::family::{counters, gauge};

/// Of the whole edge.
pub(super) struct Reloads {
    done: IntCounter,
    refused: IntCounter,
    last_success: IntGauge,
    last_success_time: IntGauge,
    generation: IntGauge,
}

impl Reloads {
    pub(super) fn new(r: &Registry) -> Result<Reloads, Error> {
        let total =
            counters(r, "pierhead_config_reloads_total", "Reloads of the configuration (ok, refused).", &["result"])?;
        let last_success = gauge(
            r,
            "pierhead_config_last_reload_success",
            "1 while the last reload, or the start, was in order; 0 while the file cannot be used.",
        )?;
        last_success.set(1);
        let last_success_time = gauge(
            r,
            "pierhead_config_last_reload_success_timestamp_seconds",
            "When the configuration in use was read.",
        )?;
        last_success_time.set(unix(SystemTime::now()));
        let generation =
            gauge(r, "pierhead_config_generation", "Which configuration since the start is in use; the first is 1.")?;
        generation.set(1);
        Ok(Reloads {
            done: total.with_label_values(&["ok"]),
            refused: total.with_label_values(&["refused"]),
            last_success,
            last_success_time,
            generation,
        })
    }

    pub(super) fn reloaded(&self, well: bool) {
        self.last_success.set(i64::from(well));
        if well {
            self.done.inc();
            self.last_success_time.set(unix(SystemTime::now()));
        } else {
            self.refused.inc();
        }
    }

    pub(super) fn generation(&self, number: u64) {
        self.generation.set(i64::try_from(number).unwrap_or(i64::MAX));
    }
}

fn unix(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

//! `cache`: the local store.

use std::time::Duration;

use crate::field::{Field, LONGEST};
use crate::model::Cache;

const MIB: u64 = 1024 * 1024;
/// Less cannot hold one manifest of the largest size beside a layer.
const SMALLEST: u64 = MIB;
/// 8 EiB: what a signed 64-bit offset can count.
const LARGEST: u64 = i64::MAX as u64;

/// The store's section.
pub(crate) fn cache(field: Field<'_>) -> Option<Cache> {
    let mut section = field.section()?;
    let path = section.required("path").and_then(|field| field.directory());
    let max_size = section.required("max_size").and_then(|field| field.size(SMALLEST..=LARGEST));
    let min_free = section.take("min_free").and_then(|field| field.size(0..=LARGEST));
    let offline = section.flag("offline", false);
    let fsync = section.choice("fsync", true, &[("always", true), ("never", false)]);
    let verify_on_read = section.flag("verify_on_read", false);
    let scrub_interval = match section.take("scrub_interval") {
        Some(field) => scrub_interval(&field),
        None => Some(Duration::from_secs(7 * 24 * 3600)),
    };
    let memory = section.size("memory", 64 * MIB, MIB..=LARGEST);
    section.finish();
    Some(Cache { path: path?, max_size: max_size?, min_free, offline, fsync, verify_on_read, scrub_interval, memory })
}

fn scrub_interval(field: &Field<'_>) -> Option<Duration> {
    if field.is_text("never") { None } else { field.duration(Duration::from_secs(1)..=LONGEST) }
}

//! `limits`: what is accepted, and how much at a time.

use std::time::Duration;

use crate::field::{Field, LONGEST, SHORTEST};
use crate::limits::{CONNECTIONS_LIMIT, lowest_rate};
use crate::model::{Admission, LowestRate, OriginLimits};
use crate::section::Section;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
/// More at a time than any machine answers.
const REQUESTS: u64 = 1_000_000;

/// What holds without the section. A write may hold a part of an upload in memory, a download only what the connection takes.
pub(super) const DEFAULT: OriginLimits = OriginLimits {
    max_layer_size: 20 * GIB,
    max_manifest_size: 4 * MIB,
    max_connections: 10_000,
    logins: Admission { running: 100, queued: 1000, wait: Duration::from_secs(10) },
    reads: Admission { running: 1000, queued: 1000, wait: Duration::from_secs(10) },
    downloads: Admission { running: 5000, queued: 1000, wait: Duration::from_secs(10) },
    manifests: Admission { running: 100, queued: 1000, wait: Duration::from_secs(30) },
    writes: Admission { running: 100, queued: 1000, wait: Duration::from_secs(30) },
    lowest_rate: LowestRate::DEFAULT,
    open_uploads: 100,
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(60),
};

/// The section.
pub(super) fn limits(field: Field<'_>) -> Option<OriginLimits> {
    let mut section = field.section()?;
    let max_layer_size = section.size("max_layer_size", DEFAULT.max_layer_size, KIB..=5 * 1024 * GIB);
    let max_manifest_size = section.size("max_manifest_size", DEFAULT.max_manifest_size, KIB..=256 * MIB);
    let max_connections = section.number("max_connections", DEFAULT.max_connections, 1..=CONNECTIONS_LIMIT);
    let logins = section.optional("logins", |field| admission(field, DEFAULT.logins));
    let reads = section.optional("reads", |field| admission(field, DEFAULT.reads));
    let downloads = section.optional("downloads", |field| admission(field, DEFAULT.downloads));
    let manifests = section.optional("manifests", |field| admission(field, DEFAULT.manifests));
    let writes = section.optional("writes", |field| admission(field, DEFAULT.writes));
    let lowest_rate = section.optional("lowest_rate", lowest_rate);
    let open_uploads = requests(&mut section, "open_uploads", DEFAULT.open_uploads, 1);
    let header_timeout = section.duration("header_timeout", DEFAULT.header_timeout, SHORTEST..=LONGEST);
    let idle_timeout = section.duration("idle_timeout", DEFAULT.idle_timeout, SHORTEST..=LONGEST);
    section.finish();
    Some(OriginLimits {
        max_layer_size,
        max_manifest_size,
        max_connections,
        logins: logins?.unwrap_or(DEFAULT.logins),
        reads: reads?.unwrap_or(DEFAULT.reads),
        downloads: downloads?.unwrap_or(DEFAULT.downloads),
        manifests: manifests?.unwrap_or(DEFAULT.manifests),
        writes: writes?.unwrap_or(DEFAULT.writes),
        lowest_rate: lowest_rate?.unwrap_or(DEFAULT.lowest_rate),
        open_uploads,
        header_timeout,
        idle_timeout,
    })
}

fn admission(field: Field<'_>, default: Admission) -> Option<Admission> {
    let mut section = field.section()?;
    let running = requests(&mut section, "running", default.running, 1);
    let queued = requests(&mut section, "queued", default.queued, 0);
    let wait = section.duration("wait", default.wait, Duration::ZERO..=LONGEST);
    section.finish();
    Some(Admission { running, queued, wait })
}

fn requests(section: &mut Section<'_>, key: &'static str, default: u32, least: u64) -> u32 {
    u32::try_from(section.number(key, u64::from(default), least..=REQUESTS)).unwrap_or(default)
}

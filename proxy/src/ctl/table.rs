//! The API's documents as tables for people.
//!
//! Pure: what is shown depends on the document alone. Control characters are shown as such, never sent to the terminal:
//! some texts come from servers and clients.

use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use humantime::parse_rfc3339;
use serde_json::Value;

use crate::admin::shape::{
    CacheStats, Certificate, CertificateList, HoldingList, Image, Pool, RefusedFiles, Reload, Server, SessionList,
    Version, Why,
};

/// What stands where there is nothing to say.
const NONE: &str = "-";

pub(super) fn pools(pools: &[Pool]) -> String {
    let mut table = table(&["POOL", "AVAILABLE", "SERVERS UP", "ACTIVE", "QUEUED", "REQUESTS", "ERRORS", "DNS"]);
    for pool in pools {
        let serving = pool.servers.iter().filter(|server| server.state == "up" && server.operator == "ready").count();
        table.add_row([
            text(&pool.name),
            text(if pool.available { "yes" } else { "no" }),
            number(format!("{serving}/{}", pool.servers.len())),
            number(pool.servers.iter().map(|server| server.active).sum::<usize>()),
            number(pool.queued),
            number(pool.servers.iter().map(|server| server.requests).sum::<u64>()),
            number(pool.servers.iter().map(|server| server.errors).sum::<u64>()),
            text(&pool.names.iter().find_map(|name| name.failure.clone()).unwrap_or_else(|| NONE.to_owned())),
        ]);
    }
    rendered(&table)
}

pub(super) fn servers(pools: &[Pool]) -> String {
    let mut table = servers_table();
    for pool in pools {
        for server in &pool.servers {
            add_server(&mut table, &pool.name, server);
        }
    }
    rendered(&table)
}

/// One server.
pub(super) fn server(pool: &str, server: &Server) -> String {
    let mut table = servers_table();
    add_server(&mut table, pool, server);
    rendered(&table)
}

fn servers_table() -> Table {
    table(&[
        "POOL", "SERVER", "ADDRESS", "STATE", "WEIGHT", "ACTIVE", "REQUESTS", "ERRORS", "CHECKS", "SINCE", "REASON",
    ])
}

fn add_server(table: &mut Table, pool: &str, server: &Server) {
    let mut state = match server.operator.as_str() {
        "ready" => server.state.clone(),
        // Of a server that nothing is asked of, it still matters whether it could.
        operator => format!("{operator} ({})", server.state),
    };
    if server.backup {
        state.push_str(", backup");
    }
    let weight = match server.weight {
        weight if weight == server.configured_weight => weight.to_string(),
        weight => format!("{weight} (of {})", server.configured_weight),
    };
    let active = match server.max_connections {
        Some(most) => format!("{}/{most}", server.active),
        None => server.active.to_string(),
    };
    table.add_row([
        text(pool),
        text(&server.name),
        text(&server.address),
        text(&state),
        number(weight),
        number(active),
        number(server.requests),
        number(server.errors),
        number(format!("{} ok, {} failed", server.checks.passed, server.checks.failed)),
        text(&seconds(&server.since)),
        text(if server.reason.is_empty() { NONE } else { &server.reason }),
    ]);
}

pub(super) fn sessions(list: &SessionList) -> String {
    let mut table = table(&["ID", "LISTENER", "CLIENT", "PROTOCOL", "SINCE", "POOL", "SERVER", "RECEIVED", "SENT"]);
    for session in &list.sessions {
        let client = match session.client == session.peer {
            true => session.client.clone(),
            false => format!("{} (by {})", session.client, session.peer),
        };
        let tls = if session.secure { ", TLS" } else { "" };
        let bytes = |bytes: u64| if session.server.is_some() { bytes.to_string() } else { NONE.to_owned() };
        table.add_row([
            number(session.id),
            text(&session.listener),
            text(&client),
            text(&format!("{}{tls}", session.protocol)),
            text(&seconds(&session.since)),
            text(session.pool.as_deref().unwrap_or(NONE)),
            text(session.server.as_deref().unwrap_or(NONE)),
            number(bytes(session.received)),
            number(bytes(session.sent)),
        ]);
    }
    let mut shown = rendered(&table);
    if list.total > list.sessions.len() {
        shown.push_str(&format!("\n{} of {}", list.sessions.len(), list.total));
    }
    shown
}

pub(super) fn certificates(list: &CertificateList) -> String {
    let mut table = table(&["LISTENER", "NAMES", "ENDS", "DAYS LEFT", "ISSUER", "FILE"]);
    for certificate in &list.certificates {
        table.add_row([
            text(&certificate.listener),
            text(&certificate.names.join(", ")),
            text(&seconds(&certificate.not_after)),
            match valid_from(certificate) {
                Some(from) => text(&format!("not valid before {from}")),
                None => number(certificate.seconds_left.div_euclid(24 * 3600)),
            },
            text(&certificate.issuer),
            text(&certificate.file),
        ]);
    }
    let refused = list.refused.iter().map(|refused| format!("\n{}", printable(&refused_files(refused))));
    format!("{}{}", rendered(&table), refused.collect::<String>())
}

/// When a certificate becomes valid that is not yet. The clock is the edge's, which its end and the time until then tell.
fn valid_from(certificate: &Certificate) -> Option<String> {
    let (begins, ends) = (parse_rfc3339(&certificate.not_before).ok()?, parse_rfc3339(&certificate.not_after).ok()?);
    let left = Duration::from_secs(u64::try_from(certificate.seconds_left).ok()?);
    (begins > ends.checked_sub(left)?).then(|| seconds(&certificate.not_before))
}

fn refused_files(RefusedFiles { listener, problem }: &RefusedFiles) -> String {
    format!("new files of listener {listener} cannot be used, the old ones serve on: {problem}")
}

pub(super) fn cache_stats(stats: &CacheStats) -> String {
    let percent = |rate: Option<f64>| rate.map_or_else(|| NONE.to_owned(), |rate| format!("{:.1} %", rate * 100.0));
    let full = if stats.limit == 0 { 0.0 } else { stats.bytes as f64 / stats.limit as f64 };
    let mut lines = vec![
        format!("size       {} of {} ({})", size(stats.bytes), size(stats.limit), percent(Some(full))),
        format!("contents   {} blobs and manifests", stats.contents),
        format!("evicted    {}, {} since the start", stats.evictions, size(stats.evicted_bytes)),
    ];
    if !stats.writable {
        lines.push("not stored requests go past a full or failing disk: see the log".to_owned());
    }
    let mut table = table(&["REGISTRY", "HIT RATE", "HITS", "REVALIDATED", "STALE", "MISSES", "BYPASSES", "FORWARDED"]);
    for registry in &stats.registries {
        table.add_row([
            text(&registry.name),
            number(percent(registry.hit_rate)),
            number(registry.hits),
            number(registry.revalidated),
            number(registry.stale),
            number(registry.misses),
            number(registry.bypasses),
            number(registry.forwarded),
        ]);
    }
    if !stats.registries.is_empty() {
        lines.extend([String::new(), rendered(&table)]);
    }
    lines.join("\n")
}

pub(super) fn holdings(list: &HoldingList) -> String {
    let mut table = table(&["REPOSITORY", "TAGS", "CONTENTS", "SIZE", "LAST USED"]);
    for holding in &list.repositories {
        table.add_row([
            text(&format!("{}/{}", holding.registry, holding.repository)),
            number(holding.tags),
            number(holding.contents),
            number(size(holding.bytes)),
            text(&holding.used.as_deref().map_or_else(|| NONE.to_owned(), seconds)),
        ]);
    }
    let mut shown = rendered(&table);
    if list.total > list.repositories.len() {
        shown.push_str(&format!("\n{} of {}", list.repositories.len(), list.total));
    }
    shown
}

pub(super) fn images(images: &[Image]) -> String {
    let mut table = table(&["TAG", "DIGEST", "SIZE", "PARTS HERE", "LAST USED", "CHECKED", "PINNED BY"]);
    for image in images {
        table.add_row([
            text(&image.tag),
            text(&image.digest),
            number(size(image.bytes)),
            number(format!("{}/{}", image.contents, image.contents + image.missing)),
            text(&image.used.as_deref().map_or_else(|| NONE.to_owned(), seconds)),
            text(&seconds(&image.checked)),
            text(image.pinned.as_deref().unwrap_or(NONE)),
        ]);
    }
    rendered(&table)
}

pub(super) fn why(why: &Why) -> String {
    why.reasons.iter().map(|reason| printable(reason)).collect::<Vec<_>>().join("\n")
}

/// A number of bytes, for people.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if bytes < 1024 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// What `status` shows.
pub(super) struct Standing<'a> {
    pub(super) version: &'a Version,
    pub(super) health: &'a Value,
    pub(super) reload: &'a Reload,
    /// How many connections are open.
    pub(super) sessions: usize,
    pub(super) certificates: &'a CertificateList,
    pub(super) pools: &'a [Pool],
}

/// A certificate that has expired or will within this is worth a line.
const NOTICE: i64 = 30 * 24 * 3600;

pub(super) fn status(standing: &Standing<'_>) -> String {
    let Standing { version, health, reload, sessions, certificates, pools: of } = standing;
    let services = health.pointer("/data/services").and_then(Value::as_object);
    let sick: Vec<&str> = services
        .into_iter()
        .flatten()
        .filter(|(_, well)| well.as_bool() != Some(true))
        .map(|(name, _)| name.as_str())
        .collect();
    let expanded = health.pointer("/data/services_expanded").and_then(Value::as_object);
    let noted = |(name, service): (&String, &Value)| {
        let said = ["message", "failure"].iter().find_map(|key| service.get(key)?.as_str())?;
        Some(format!("               {name}: {said}"))
    };
    let notes: Vec<String> = expanded.into_iter().flatten().filter_map(noted).collect();
    let is_degraded = !notes.is_empty();
    let mut lines = vec![
        format!("version        {} (process {}, since {})", version.version, version.pid, seconds(&version.started)),
        match sick.is_empty() {
            true if is_degraded => "health         well, with less than it should have:".to_owned(),
            true => "health         all well".to_owned(),
            false => format!("health         not well: {}", sick.join(", ")),
        },
    ];
    lines.extend(notes);
    lines.push(format!("configuration  {} since {}", reload.generation, seconds(&reload.since)));
    if !reload.problems.is_empty() {
        lines.push(format!("               the file, read {}, cannot be used:", seconds(&reload.looked)));
        lines.extend(reload.problems.iter().map(|problem| format!("                 {problem}")));
    }
    for refused in &certificates.refused {
        lines.push(format!("certificate    {}", refused_files(refused)));
    }
    for certificate in &certificates.certificates {
        let (file, listener) = (&certificate.file, &certificate.listener);
        if let Some(from) = valid_from(certificate) {
            lines.push(format!("certificate    {file} of listener {listener} is not valid yet, but from {from} on"));
        }
    }
    for certificate in certificates.certificates.iter().filter(|certificate| certificate.seconds_left <= NOTICE) {
        let days = certificate.seconds_left.abs() / (24 * 3600);
        let ends = match (certificate.seconds_left < 0, days) {
            (true, 0) => "expired within the last day".to_owned(),
            (true, days) => format!("expired {days} days ago"),
            (false, 0) => "expires within a day".to_owned(),
            (false, days) => format!("expires in {days} days"),
        };
        let (file, listener, date) = (&certificate.file, &certificate.listener, seconds(&certificate.not_after));
        lines.push(format!("certificate    {file} of listener {listener} {ends}, on {date}"));
    }
    lines.push(format!("connections    {sessions}"));
    let mut shown: Vec<String> = lines.iter().map(|line| printable(line)).collect();
    if !of.is_empty() {
        shown.push(String::new());
        shown.push(pools(of));
    }
    shown.join("\n")
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    table
}

/// Without the blanks that fill the last column, and without the margin.
fn rendered(table: &Table) -> String {
    let lines: Vec<String> =
        table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect();
    lines.join("\n")
}

fn text(text: &str) -> Cell {
    Cell::new(printable(text))
}

fn number(number: impl ToString) -> Cell {
    Cell::new(number.to_string()).set_alignment(CellAlignment::Right)
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A time of the API, to the second.
fn seconds(time: &str) -> String {
    time.split_once('.').map_or_else(|| time.to_owned(), |(seconds, _)| format!("{seconds}Z"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pool() -> Pool {
        serde_json::from_value(json!({
            "name": "quay", "available": true, "queued": 0, "queue_size": 10, "names": [],
            "servers": [
                { "name": "a", "address": "192.0.2.1:443", "state": "up", "operator": "ready", "reason": "",
                  "since": "2026-01-02T03:04:05.678Z", "weight": 100, "configured_weight": 100, "backup": false,
                  "active": 3, "max_connections": 50, "requests": 1000, "errors": 2,
                  "checks": { "passed": 7, "failed": 1 } },
                { "name": "b", "address": "192.0.2.2:443", "state": "down", "operator": "drain",
                  "reason": "bad\u{1b}[2J", "since": "2026-01-02T03:04:05Z", "weight": 1, "configured_weight": 100,
                  "backup": true, "active": 0, "requests": 0, "errors": 0, "checks": { "passed": 0, "failed": 9 } },
            ],
        }))
        .unwrap()
    }

    #[test]
    fn servers_stand_below_each_other() {
        let shown = servers(&[pool()]);
        let lines: Vec<Vec<&str>> = shown
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|part| !part.is_empty()).collect())
            .collect();
        assert_eq!(lines[0].first(), Some(&"POOL"));
        assert_eq!(
            lines[1],
            [
                "quay",
                "a",
                "192.0.2.1:443",
                "up",
                "100",
                "3/50",
                "1000",
                "2",
                "7 ok, 1 failed",
                "2026-01-02T03:04:05Z",
                "-"
            ]
        );
        assert_eq!(lines[2][3], "drain (down), backup");
        assert_eq!(lines[2][4], "1 (of 100)");
        assert!(!shown.contains('\u{1b}'), "a server does not write to the operator's terminal");
        assert!(shown.lines().all(|line| line == line.trim()));
    }

    #[test]
    fn a_pool_says_how_many_serve() {
        let shown = pools(&[pool()]);
        let row = shown.lines().nth(1).unwrap();
        assert!(row.starts_with("quay") && row.contains("yes") && row.contains("1/2"), "{shown}");
    }

    #[test]
    fn what_a_registry_lacks_is_said_beside_health() {
        let version: Version = serde_json::from_value(json!({
            "name": "pierhead", "version": "1.0.0", "pid": 7, "started": "2026-01-02T03:04:05.000Z",
        }))
        .unwrap();
        let reload: Reload = serde_json::from_value(json!({
            "generation": 1, "since": "2026-01-02T03:04:05.000Z", "looked": "2026-01-02T03:04:05.000Z", "problems": [],
        }))
        .unwrap();
        let certificates = &CertificateList { certificates: Vec::new(), refused: Vec::new() };
        let shown = |health: Value| {
            let (version, reload) = (&version, &reload);
            status(&Standing { version, health: &health, reload, sessions: 0, certificates, pools: &[] })
        };
        let services = json!({ "docker.io": true });
        assert!(shown(json!({ "data": { "services": services } })).contains("health         all well"));
        let expanded = json!({ "docker.io": { "status": true, "message": "degraded: auth\u{1b} refuses" } });
        let shown = shown(json!({ "data": { "services": services, "services_expanded": expanded } }));
        assert!(shown.contains("\n               docker.io: degraded: auth\u{fffd} refuses\n"), "{shown}");
        assert!(!shown.contains("all well"), "{shown}");
    }

    #[test]
    fn connections_that_are_not_shown_are_counted() {
        let list: SessionList = serde_json::from_value(json!({ "total": 3, "sessions": [
            { "id": 7, "listener": "redis", "client": "192.0.2.9:1", "peer": "192.0.2.1:2", "secure": false,
              "since": "2026-01-02T03:04:05.000Z", "protocol": "tcp", "pool": "redis", "server": "one",
              "received": 10, "sent": 20 },
        ] }))
        .unwrap();
        let shown = sessions(&list);
        assert!(shown.contains("192.0.2.9:1 (by 192.0.2.1:2)"), "{shown}");
        assert!(shown.ends_with("\n1 of 3"), "{shown}");
    }
}

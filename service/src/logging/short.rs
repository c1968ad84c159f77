//! A line of the access log for people: what a terminal shows instead of JSON. Pure.
//!
//! Invariant: what clients wrote reaches the terminal without control characters.

use std::fmt::Write;

use serde_json::Value;

const GREEN: &str = "32";
const CYAN: &str = "36";
const YELLOW: &str = "33";
const RED: &str = "31";

/// Characters of a digest that are shown.
const DIGEST: usize = "sha256:".len() + 12;

/// `09:30:00 200 GET docker.io/library/alpine:latest hit 1.2 MiB 3 ms 127.0.0.1`, from the fields of a line.
pub(super) fn render(line: &Value, coloured: bool) -> String {
    let text = |name: &str| line[name].as_str().filter(|text| !text.is_empty());
    let mut short = text("time").and_then(|time| time.get(11..19)).unwrap_or("--:--:--").to_owned();
    // Writing to a String cannot fail.
    let mut add = |part: &str| {
        let _ = write!(short, " {part}");
    };
    if let Some(status) = line["status"].as_u64() {
        let colour = match status {
            200..300 => GREEN,
            300..400 => CYAN,
            400..500 => YELLOW,
            _ => RED,
        };
        add(&if coloured { format!("\x1b[{colour}m{status}\x1b[0m") } else { status.to_string() });
    }
    let what = what(line);
    let words = [text("method").or(text("protocol")), Some(what.as_str()), text("outcome"), text("end")];
    let said = [text("reason").filter(|reason| Some(*reason) != text("outcome")), text("error")];
    for word in words.into_iter().flatten().filter(|word| !word.is_empty() && *word != "none") {
        add(&printable(word));
    }
    for word in said.into_iter().flatten() {
        add(&format!("({})", printable(word)));
    }
    if let Some(bytes) = line["bytes"].as_u64().filter(|bytes| *bytes > 0) {
        add(&size(bytes));
    }
    if let Some(took) = line["total_ms"].as_f64() {
        add(&if took < 10_000.0 { format!("{took:.0} ms") } else { format!("{:.0} s", took / 1000.0) });
    }
    if let Some(client) = text("client") {
        add(&printable(client));
    }
    short
}

/// What was asked for.
fn what(line: &Value) -> String {
    let text = |name: &str| line[name].as_str();
    let Some(repository) = text("repository") else {
        return text("path").or(text("pool")).unwrap_or_default().to_owned();
    };
    let name = match text("registry") {
        Some(registry) => format!("{registry}/{repository}"),
        None => repository.to_owned(),
    };
    match text("reference") {
        Some(digest) if digest.contains(':') && !digest.contains('/') => {
            format!("{name}@{}", digest.get(..DIGEST).unwrap_or(digest))
        }
        Some(list) if list == "tags" || list.contains('/') => {
            format!("{name} {}", list.get(..10 + DIGEST).unwrap_or(list))
        }
        Some(tag) => format!("{name}:{tag}"),
        None => name,
    }
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::render;

    #[test]
    fn a_request_is_one_short_line() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for (fields, expected) in [
            (
                json!({ "registry": "docker.io", "repository": "library/alpine", "reference": "latest", "outcome": "hit",
                    "status": 200, "bytes": 1300, "total_ms": 2.6 }),
                "09:30:00 200 GET docker.io/library/alpine:latest hit 1.3 KiB 3 ms 192.0.2.1",
            ),
            (
                json!({ "registry": "q.io", "repository": "a/b", "reference": digest, "outcome": "miss", "status": 503,
                    "reason": "the registry does not answer", "bytes": 0, "total_ms": 12_000.0 }),
                "09:30:00 503 GET q.io/a/b@sha256:abababababab miss (the registry does not answer) 12 s 192.0.2.1",
            ),
            (
                json!({ "repository": "a", "reference": "tags", "outcome": "none", "status": 404, "total_ms": 1.0 }),
                "09:30:00 404 GET a tags 1 ms 192.0.2.1",
            ),
            (json!({ "path": "/v2/\u{1b}[2J", "status": 400 }), "09:30:00 400 GET /v2/\u{fffd}[2J 192.0.2.1"),
        ] {
            let mut line = json!({ "time": "2026-01-02T09:30:00.123Z", "method": "GET", "client": "192.0.2.1" });
            line.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            assert_eq!(render(&line, false), expected);
        }
        let session = json!({ "time": "2026-01-02T09:30:00.123Z", "protocol": "tcp", "pool": "redis", "end": "client",
            "total_ms": 5.0, "client": "192.0.2.1" });
        assert_eq!(render(&session, false), "09:30:00 tcp redis client 5 ms 192.0.2.1");
    }

    #[test]
    fn the_status_has_a_colour() {
        for (status, colour) in [(200, "32"), (302, "36"), (404, "33"), (502, "31")] {
            let line = render(&json!({ "status": status }), true);
            assert!(line.contains(&format!("\u{1b}[{colour}m{status}\u{1b}[0m")), "{line:?}");
        }
    }
}

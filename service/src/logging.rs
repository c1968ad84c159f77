//! Logs, and the access log beside them, on standard error: short lines on a terminal, else JSON.
//!
//! Invariant: a log that nobody reads stops no request. Lines go through a bounded queue to a thread of its own; when
//! the queue is full, lines are dropped rather than waited for.

mod short;

use std::io::{IsTerminal, Write};
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Lines that may wait for standard error.
const QUEUE: usize = 16 * 1024;

/// What is logged unless `RUST_LOG` says otherwise.
const DEFAULT_LEVEL: LevelFilter = LevelFilter::INFO;
/// But for these libraries: Pingora warns of clients that go away early, and migrations tell of each step.
const QUIETER: [(&str, LevelFilter); 2] =
    [("pingora_core", LevelFilter::ERROR), ("sea_orm_migration", LevelFilter::WARN)];

/// The running log. Dropping it writes out what is queued.
pub struct Logging {
    writer: NonBlocking,
    _guard: WorkerGuard,
}

impl Logging {
    /// Starts it, and has panics logged: a panic ends the task it happens in, and nobody would see it else.
    pub fn start() -> Logging {
        let (writer, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(QUEUE)
            .thread_name("log")
            .finish(std::io::stderr());
        let (filter, mistake) = filter(std::env::var("RUST_LOG").ok().as_deref());
        let lines = fmt::layer().with_writer(writer.clone());
        let lines =
            if std::io::stderr().is_terminal() { lines.with_target(false).boxed() } else { lines.json().boxed() };
        tracing_subscriber::registry().with(lines.with_filter(filter)).init();
        if let Some(error) = mistake {
            tracing::warn!(%error, "RUST_LOG is not understood, and left alone");
        }
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            tracing::error!(place, cause = panic.payload_as_str().unwrap_or_default(), "panic");
        }));
        Logging { writer, _guard: guard }
    }

    /// The access log.
    pub fn access_log(&self, enabled: bool) -> AccessLog {
        if !enabled {
            return AccessLog::off();
        }
        let form = match std::io::stderr().is_terminal() {
            true => Form::Short { coloured: std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty()) },
            false => Form::Json,
        };
        AccessLog { writer: Some(self.writer.clone()), form }
    }
}

/// How a request is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Form {
    /// One JSON object a line.
    #[default]
    Json,
    /// A line for people.
    Short { coloured: bool },
}

/// One line for each request, or nothing at all.
#[derive(Clone, Debug, Default)]
pub struct AccessLog {
    writer: Option<NonBlocking>,
    form: Form,
}

impl AccessLog {
    /// One that writes nothing.
    pub fn off() -> AccessLog {
        AccessLog::default()
    }

    /// Whether making a line is worth it.
    pub fn is_on(&self) -> bool {
        self.writer.is_some()
    }

    /// Writes one line.
    pub fn write(&self, line: &impl Serialize) {
        let Some(writer) = &self.writer else { return };
        let mut text = Vec::with_capacity(512);
        let written = match self.form {
            Form::Json => serde_json::to_writer(&mut text, line),
            Form::Short { coloured } => {
                serde_json::to_value(line).map(|line| text.extend_from_slice(short::render(&line, coloured).as_bytes()))
            }
        };
        if written.is_ok() {
            text.push(b'\n');
            // Only fails when the writing thread has ended, which it does last.
            drop(writer.clone().write_all(&text));
        }
    }
}

/// A point in time that is written as RFC 3339 without an intermediate string.
#[derive(Clone, Copy, Debug)]
pub struct Time(pub std::time::SystemTime);

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_millis(self.0))
    }
}

/// Milliseconds with three decimals: a hit takes a fraction of one.
pub fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// What to log, and what is wrong with the wish.
fn filter(wish: Option<&str>) -> (Targets, Option<ParseError>) {
    let default = || Targets::new().with_default(DEFAULT_LEVEL).with_targets(QUIETER);
    match wish.filter(|wish| !wish.is_empty()).map(Targets::from_str) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (default(), Some(error)),
        None => (default(), None),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::SystemTime;

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_wish_that_is_not_understood_is_told() {
        for (wish, mistaken, level) in [
            (None, false, "info"),
            (Some(""), false, "info"),
            (Some("debug"), false, "debug"),
            (Some("pierhead=loud"), true, "info"),
        ] {
            let (filter, mistake) = filter(wish);
            assert_eq!(mistake.is_some(), mistaken, "{wish:?}");
            assert!(filter.to_string().contains(level), "{wish:?}: {filter}");
        }
    }

    #[test]
    fn access_log_is_one_object_a_line() {
        let memory = Memory::default();
        let (writer, guard) = tracing_appender::non_blocking(memory.clone());
        let log = AccessLog { writer: Some(writer), form: Form::Json };
        log.write(&serde_json::json!({"status": 200, "reference": "a\nb"}));
        log.write(&serde_json::json!({"status": 404}));
        AccessLog::off().write(&serde_json::json!({"status": 500}));
        drop((log, guard));
        let text = String::from_utf8(memory.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["reference"], "a\nb");
    }

    #[test]
    fn time_is_rfc_3339_and_durations_are_short() {
        let time = Time(SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123));
        assert_eq!(serde_json::to_string(&time).unwrap(), "\"2023-11-14T22:13:20.123Z\"");
        assert!((milliseconds(Duration::from_nanos(1_234_567)) - 1.235).abs() < 1e-9);
    }
}

//! The list of measurements, and how they are run: one after the other, each by itself, so that one that fails takes no
//! other with it.

mod attack;
mod attacked;
mod blob_http1;
mod blob_http2;
mod cold;
mod front;
mod herd;
mod layer4;
mod manifest;
mod memory;
mod origin;
mod refusals;
mod start;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use crate::machine::{self, Machine};
use crate::options::{Options, Scale};
use crate::report::{self, Entry, Findings};

/// A measurement that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(3600);

struct Measurement {
    name: &'static str,
    about: &'static str,
    measure: fn(Scale) -> LocalBoxFuture<'static, Findings>,
}

const ALL: &[Measurement] = &[
    Measurement {
        name: "blob-http1",
        about: blob_http1::ABOUT,
        measure: |scale| blob_http1::measure(scale).boxed_local(),
    },
    Measurement {
        name: "blob-http2",
        about: blob_http2::ABOUT,
        measure: |scale| blob_http2::measure(scale).boxed_local(),
    },
    Measurement { name: "manifest", about: manifest::ABOUT, measure: |scale| manifest::measure(scale).boxed_local() },
    Measurement { name: "herd", about: herd::ABOUT, measure: |scale| herd::measure(scale).boxed_local() },
    Measurement { name: "cold", about: cold::ABOUT, measure: |scale| cold::measure(scale).boxed_local() },
    Measurement { name: "refusals", about: refusals::ABOUT, measure: |scale| refusals::measure(scale).boxed_local() },
    Measurement { name: "attacked", about: attacked::ABOUT, measure: |scale| attacked::measure(scale).boxed_local() },
    Measurement { name: "memory", about: memory::ABOUT, measure: |scale| memory::measure(scale).boxed_local() },
    Measurement { name: "front-small", about: front::SMALL, measure: |scale| front::small(scale).boxed_local() },
    Measurement { name: "front-large", about: front::LARGE, measure: |scale| front::large(scale).boxed_local() },
    Measurement {
        name: "front-handshakes",
        about: front::HANDSHAKES,
        measure: |scale| front::handshakes(scale).boxed_local(),
    },
    Measurement { name: "front-death", about: front::DEATH, measure: |scale| front::death(scale).boxed_local() },
    Measurement { name: "front-push", about: front::PUSH, measure: |scale| front::push(scale).boxed_local() },
    Measurement { name: "layer4-redis", about: layer4::REDIS, measure: |scale| layer4::redis(scale).boxed_local() },
    Measurement { name: "layer4-bulk", about: layer4::BULK, measure: |scale| layer4::bulk(scale).boxed_local() },
    Measurement { name: "origin", about: origin::TRANSFERS, measure: |scale| origin::transfers(scale).boxed_local() },
    Measurement { name: "origin-lists", about: origin::LISTS, measure: |scale| origin::lists(scale).boxed_local() },
    Measurement {
        name: "origin-attacked",
        about: origin::ATTACKED,
        measure: |scale| origin::attacked(scale).boxed_local(),
    },
    Measurement { name: "start", about: start::ABOUT, measure: |scale| start::measure(scale).boxed_local() },
];

/// Every measurement with what it measures, a line each.
pub(crate) fn list() -> String {
    ALL.iter().map(|measurement| format!("{:<18}{}\n", measurement.name, measurement.about)).collect()
}

/// Whether there is a measurement of this name.
pub(crate) fn exists(name: &str) -> bool {
    ALL.iter().any(|measurement| measurement.name == name)
}

/// Runs what is wanted, prints the table, and writes the results.
pub(crate) async fn run(options: &Options) -> ExitCode {
    let scale = options.scale();
    let machine = Machine::look().await;
    let mut heading = format!("{}- command: `pierhead-bench {}`\n", machine.text(), arguments());
    if scale.quick {
        heading.push_str("- quick: small work, one run; the verdicts mean nothing\n");
    }
    if cfg!(debug_assertions) {
        heading.push_str("- not a release build: the verdicts mean nothing\n");
    }
    let mut entries = Vec::new();
    for measurement in ALL.iter().filter(|measurement| options.wants(measurement.name)) {
        eprintln!("{}: {} (load {})", measurement.name, measurement.about, machine::load());
        let measuring = AssertUnwindSafe((measurement.measure)(scale)).catch_unwind();
        let result = match tokio::time::timeout(LIMIT, measuring).await {
            Ok(Ok(findings)) => Ok(findings),
            Ok(Err(panic)) => Err(panic_text(panic)),
            Err(_) => Err(format!("not within {LIMIT:?}")),
        };
        let entry = Entry { name: measurement.name.to_owned(), about: measurement.about.to_owned(), result };
        eprint!("{}", report::table(std::slice::from_ref(&entry)));
        entries.push(entry);
    }
    print!("{heading}\n{}", report::table(&entries));
    let whole = format!("# Results\n\n{heading}\n{}\n{}", report::table(&entries), report::details(&entries));
    if let Some(path) = output(options, &machine) {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        }
        std::fs::write(&path, whole).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        println!("\nwritten to {}", path.display());
    }
    if entries.iter().any(|entry| entry.result.is_err()) {
        ExitCode::FAILURE
    } else if options.strict && !entries.iter().all(Entry::is_reached) {
        ExitCode::from(2)
    } else {
        ExitCode::SUCCESS
    }
}

/// The file for the results: what was asked for, or else a dated one, named by the machine and, unless it holds all,
/// the measurements. Quick runs are not worth a file.
fn output(options: &Options, machine: &Machine) -> Option<PathBuf> {
    if let Some(path) = &options.output {
        return Some(path.clone());
    }
    if options.scale().quick {
        return None;
    }
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let date = now.split('T').next().unwrap_or_default();
    let names: String = options.names().iter().map(|name| format!("-{name}")).collect();
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    Some(results.join(format!("{date}-{}{names}.md", machine.kind())))
}

fn arguments() -> String {
    std::env::args().skip(1).collect::<Vec<_>>().join(" ")
}

fn panic_text(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => other.downcast::<&str>().map_or_else(|_| "it panicked".to_owned(), |text| (*text).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{ALL, exists, list, panic_text};

    #[test]
    fn every_measurement_has_a_name_of_its_own() {
        let names: HashSet<&str> = ALL.iter().map(|measurement| measurement.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(names.iter().all(|name| exists(name) && list().contains(name)));
        assert!(!exists("nothing"));
    }

    #[test]
    fn a_panic_becomes_the_reason() {
        let name = "nginx";
        let panic = std::panic::catch_unwind(|| panic!("no {name}")).unwrap_err();
        assert_eq!(panic_text(panic), "no nginx");
        let panic = std::panic::catch_unwind(|| panic!("none")).unwrap_err();
        assert_eq!(panic_text(panic), "none");
    }
}

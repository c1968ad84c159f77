//! Tests of the whole: configurations, what is refused, the examples, and the documentation.

mod documentation;
mod examples;
mod front_door;
mod front_door_refusals;
mod load;
mod origin;
mod origin_refusals;
mod refusals;

use std::path::Path;

use crate::load::{EDGE, Kind, parse};
use crate::model::{Config, OriginConfig};
use crate::origin::ORIGIN;

/// Loads a text as if it were a file of `directory`; problems as their lines.
fn load_in(directory: &Path, text: &str) -> Result<Config, Vec<String>> {
    read(directory, "edge.yaml", text, &EDGE)
}

/// The same for an origin's.
fn load_origin(directory: &Path, text: &str) -> Result<OriginConfig, Vec<String>> {
    read(directory, "origin.yaml", text, &ORIGIN)
}

fn read<T>(directory: &Path, file: &str, text: &str, kind: &Kind<T>) -> Result<T, Vec<String>> {
    let lookup = |name: &str| match name {
        "HOME" => Some("/home/me".to_owned()),
        "HUB_PASSWORD" => Some("from the environment".to_owned()),
        "PORT" => Some("5000".to_owned()),
        _ => None,
    };
    parse(text, Path::new(file), directory, &lookup, kind)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn load(text: &str) -> Result<Config, Vec<String>> {
    load_in(Path::new("/nowhere"), text)
}

/// A scratch directory with every file that the tests name.
fn scratch() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let hash = format!("$2y$05${}", "a".repeat(53));
    for (name, content) in [
        ("a.crt", "certificate".to_owned()),
        ("a.key", "key".to_owned()),
        ("password", "from a file\n".to_owned()),
        ("empty", String::new()),
        ("users", format!("# who may pull\nalice:{hash}\n\nbob:{hash}\n")),
        ("bad-users", format!("alice:{hash}\nbob:$apr1$x$y\nalice:{hash}\n")),
    ] {
        std::fs::write(directory.path().join(name), content).unwrap();
    }
    directory
}

/// What is well in the sections that a case does not write itself.
fn completed(text: &str) -> String {
    let mut whole = text.to_owned();
    for (key, rest) in [
        ("listeners:", "listeners: [{ name: a, bind: '127.0.0.1:5000' }]"),
        ("registries:", "registries: [{ name: quay.io, upstream: 'https://quay.io' }]"),
        ("cache:", "cache: { path: /c, max_size: 1GiB }"),
    ] {
        if !text.lines().any(|line| line.starts_with(key)) {
            whole.push_str(&format!("\n{rest}\n"));
        }
    }
    whole
}

/// One registry with the given keys beside its name and upstream.
fn registry(keys: &str) -> String {
    format!("registries: [{{ name: quay.io, upstream: 'https://quay.io', {keys} }}]")
}

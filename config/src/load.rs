//! A file, as a checked [`Config`] or as the list of all that is wrong with it.
//!
//! Reading never stops at the first problem: what cannot be read is left out, the rest is read on, and a
//! configuration exists only if nothing was noted.

use std::cell::RefCell;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use serde_yaml::{Mapping, Value};

use crate::claims::Claims;
use crate::field::{Context, Field, LONGEST};
use crate::model::{Admin, Config, Limits};
use crate::problem::Problems;
use crate::section::Section;
use crate::{access, cache, listener, registry};

/// Largest configuration, and largest file that is read with it.
pub(crate) const FILE_LIMIT: u64 = 1024 * 1024;
/// Where operators look when nothing else is said.
const ADMIN: &str = "127.0.0.1:9090";

impl Config {
    /// Reads and checks a file. Relative paths in it are relative to its directory.
    pub fn load(path: &Path) -> Result<Config, Problems> {
        let text = read_limited(path).map_err(|message| Problems::single(path.display(), message))?;
        let file = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let directory = file.parent().unwrap_or(Path::new("/"));
        parse(&text, path, directory, &|name| std::env::var(name).ok())
    }
}

/// A text file of at most [`FILE_LIMIT`].
pub(crate) fn read_limited(path: &Path) -> Result<String, String> {
    let read = || {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(FILE_LIMIT + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error: std::io::Error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(format!("is larger than {}", bytesize::ByteSize(FILE_LIMIT)));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())
}

/// Checks a configuration's text. Pure but for the files that it names.
pub(crate) fn parse(
    text: &str,
    file: &Path,
    directory: &Path,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, Problems> {
    let mut document: Value = match serde_yaml::from_str(text) {
        Ok(Value::Null) => Value::Mapping(Mapping::new()),
        Ok(document) => document,
        Err(error) => return Err(Problems::single(file.display(), error.to_string())),
    };
    if let Err(error) = document.apply_merge() {
        return Err(Problems::single(file.display(), error.to_string()));
    }
    let Value::Mapping(mapping) = &document else {
        return Err(Problems::single(file.display(), "expected sections such as `listeners:`"));
    };
    let context = Context { directory, lookup, problems: RefCell::default() };
    let config = config(Section::new(&context, String::new(), mapping));
    let problems = context.problems.into_inner();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ if problems.is_empty() => Err(Problems::single(file.display(), "is not complete")),
        _ => Err(Problems(problems)),
    }
}

fn config(mut file: Section<'_>) -> Option<Config> {
    let mut claims = Claims::default();
    let listeners = file
        .required("listeners")
        .and_then(|field| some_of(&field, "listener", |entry| listener::listener(entry, &mut claims)));
    let registries = file
        .required("registries")
        .and_then(|field| some_of(&field, "registry", |entry| registry::registry(entry, &mut claims)));
    let cache = file.required("cache").and_then(cache::cache);
    let admin = match file.take("admin") {
        Some(field) => admin(field, &mut claims),
        None => ADMIN.parse().ok().map(|bind| Admin { bind, token: None }),
    };
    let access = match file.take("access") {
        Some(field) => access::access(field, &claims).map(Some),
        None => Some(None),
    };
    let access_log = file.flag("access_log", true);
    let drain_timeout = file.duration("drain_timeout", Duration::from_secs(300), Duration::ZERO..=LONGEST);
    let drain_wait = file.duration("drain_wait", Duration::ZERO, Duration::ZERO..=LONGEST);
    file.unsupported(&["pools", "locations"]);
    file.finish();
    Some(Config {
        listeners: listeners?,
        pools: Vec::new(),
        registries: registries?,
        cache: Some(cache?),
        admin: admin?,
        access: access?,
        access_log,
        trusted_proxies: Vec::new(),
        limits: Limits::default(),
        drain_timeout,
        drain_wait,
    })
}

/// A list with at least one entry.
pub(crate) fn some_of<'a, T>(
    field: &Field<'a>,
    noun: &str,
    entry: impl FnMut(Field<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    if field.is_empty_list() {
        field.problem(format!("needs at least one {noun}"));
        return None;
    }
    field.list(entry)
}

fn admin(field: Field<'_>, claims: &mut Claims) -> Option<Admin> {
    let mut section = field.section()?;
    let bind = match section.required("bind") {
        Some(field) => listener::bind(&field, claims),
        None => None,
    };
    section.finish();
    Some(Admin { bind: bind?, token: None })
}

//! A file, as a checked configuration or as the list of all that is wrong with it.
//!
//! Reading never stops at the first problem: what cannot be read is left out, the rest is read on, and a
//! configuration exists only if nothing was noted.

use std::cell::RefCell;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use serde_yaml::{Mapping, Value};

use crate::admin::admin;
use crate::claims::{Claims, Wanted};
use crate::field::{Context, Field, LONGEST};
use crate::limits::{limits, networks};
use crate::model::{Admin, Cache, Config, Registry};
use crate::pool::pool;
use crate::problem::Problems;
use crate::rights::cannot_be_read;
use crate::section::Section;
use crate::{access, cache, listener, registry};

/// Largest configuration, and largest file that is read with it.
pub(crate) const FILE_LIMIT: u64 = 1024 * 1024;

impl Config {
    /// Reads and checks a file. Relative paths in it are relative to its directory.
    pub fn load(path: &Path) -> Result<Config, Problems> {
        load(path, &EDGE)
    }
}

impl Admin {
    /// Reads the `admin` section of an edge's file, and nothing else: operators need it most while the rest is broken. Where
    /// the whole is not even YAML, the lines of the section are read alone.
    pub fn load(path: &Path) -> Result<Admin, Problems> {
        let text = read_limited(path).map_err(|message| Problems::single(path.display(), message))?;
        let is_yaml = serde_yaml::from_str::<Value>(&text).is_ok_and(|mut document| document.apply_merge().is_ok());
        let text = if is_yaml { text } else { lines_of(&text, "admin") };
        load_text(&text, path, &ADMIN)
    }
}

/// The lines of a section that is written as one at the top of a file: from its key to the next line that begins one.
fn lines_of(text: &str, section: &str) -> String {
    let begins = |line: &str| line.strip_prefix(section).is_some_and(|rest| rest.starts_with(':'));
    let belongs = |line: &&str| line.is_empty() || line.starts_with([' ', '\t', '#']);
    let mut lines = text.lines().skip_while(|line| !begins(line));
    let first = lines.next().into_iter();
    first.chain(lines.take_while(belongs)).flat_map(|line| [line, "\n"]).collect()
}

/// How a kind of file is read.
pub(crate) struct Kind<T> {
    /// A section that every such file has.
    pub(crate) section: &'static str,
    /// Reads the whole of it.
    pub(crate) read: fn(Section<'_>) -> Option<T>,
}

/// The edge's.
pub(crate) const EDGE: Kind<Config> = Kind { section: "listeners", read: config };

/// Of the edge's, what operators need to reach it.
const ADMIN: Kind<Admin> =
    Kind { section: "admin", read: |mut file| admin(file.take("admin"), &mut Claims::default()) };

/// Reads and checks a file of a kind.
pub(crate) fn load<T>(path: &Path, kind: &Kind<T>) -> Result<T, Problems> {
    let text = read_limited(path).map_err(|message| Problems::single(path.display(), message))?;
    load_text(&text, path, kind)
}

fn load_text<T>(text: &str, path: &Path, kind: &Kind<T>) -> Result<T, Problems> {
    let file = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let directory = file.parent().unwrap_or(Path::new("/"));
    parse(text, path, directory, &|name| std::env::var(name).ok(), kind)
}

/// A text file of at most [`FILE_LIMIT`].
pub(crate) fn read_limited(path: &Path) -> Result<String, String> {
    let read = || {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(FILE_LIMIT + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error: std::io::Error| cannot_be_read(path, &error))?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(format!("is larger than {}", bytesize::ByteSize(FILE_LIMIT)));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())
}

/// Checks a configuration's text. Pure but for the files that it names.
pub(crate) fn parse<T>(
    text: &str,
    file: &Path,
    directory: &Path,
    lookup: &dyn Fn(&str) -> Option<String>,
    kind: &Kind<T>,
) -> Result<T, Problems> {
    let mut document: Value = match serde_yaml::from_str(text) {
        Ok(Value::Null) => Value::Mapping(Mapping::new()),
        Ok(document) => document,
        Err(error) => return Err(Problems::single(file.display(), error.to_string())),
    };
    if let Err(error) = document.apply_merge() {
        return Err(Problems::single(file.display(), error.to_string()));
    }
    let Value::Mapping(mapping) = &document else {
        return Err(Problems::single(file.display(), format!("expected sections such as `{}:`", kind.section)));
    };
    let context = Context { directory, lookup, problems: RefCell::default() };
    let config = (kind.read)(Section::new(&context, String::new(), mapping));
    let problems = context.problems.into_inner();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ if problems.is_empty() => Err(Problems::single(file.display(), "is not complete")),
        _ => Err(Problems(problems)),
    }
}

fn config(mut file: Section<'_>) -> Option<Config> {
    let mut claims = Claims::default();
    let trusted_proxies = networks(&mut file, "trusted_proxies");
    if trusted_proxies.as_ref().is_some_and(Vec::is_empty) {
        claims.trust_nobody();
    }
    // Before those who refer to them.
    let pools = file.optional("pools", |field| field.list(|entry| pool(entry, &mut claims)));
    let listeners = file
        .required("listeners")
        .and_then(|field| some_of(&field, "listener", |entry| listener::listener(entry, &mut claims)));
    if listeners.is_none() {
        claims.want_registries(Wanted::Yes);
    }
    let registries = registries(&mut file, &mut claims);
    let cache = cache(&mut file, &claims);
    let admin = admin(file.take("admin"), &mut claims);
    let access = file.optional("access", |field| access::access(field, &claims));
    if file.peek("registries").is_none() && claims.registries_wanted() == Wanted::No {
        file.meaningless(&["cache", "access"], "has a meaning only with `registries`");
    }
    let limits = file.optional("limits", limits);
    let access_log = file.flag("access_log", true);
    let drain_timeout = file.duration("drain_timeout", Duration::from_secs(300), Duration::ZERO..=LONGEST);
    let drain_wait = file.duration("drain_wait", Duration::ZERO, Duration::ZERO..=LONGEST);
    file.unsupported(&["locations"]);
    file.finish();
    Some(Config {
        listeners: listeners?,
        pools: pools?.unwrap_or_default(),
        registries: registries?,
        cache: cache?,
        admin: admin?,
        access: access?,
        access_log,
        trusted_proxies: trusted_proxies?,
        limits: limits?.unwrap_or_default(),
        drain_timeout,
        drain_wait,
    })
}

/// Needed unless each listener has somebody else to answer, and then in nobody's way.
fn registries(file: &mut Section<'_>, claims: &mut Claims) -> Option<Vec<Registry>> {
    let wanted = claims.registries_wanted();
    let field = if wanted == Wanted::Yes { Some(file.required("registries")?) } else { file.take("registries") };
    let Some(field) = field else { return Some(Vec::new()) };
    if wanted == Wanted::No {
        field.problem("no listener serves them: each has a `pool` or a redirect");
    }
    some_of(&field, "registry", |entry| registry::registry(entry, claims))
}

/// Needed exactly where there are registries.
fn cache(file: &mut Section<'_>, claims: &Claims) -> Option<Option<Cache>> {
    if claims.registries_wanted() == Wanted::Yes || file.peek("registries").is_some() {
        return file.required("cache").and_then(cache::cache).map(Some);
    }
    file.optional("cache", cache::cache)
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

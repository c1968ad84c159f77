//! A haproxy.cfg, as a configuration of this edge, and line by line what could not be carried over.
//!
//! Pure: text in, text out. Nothing is left silently: a line is carried over, or asks for what is so anyway, or is
//! listed.

mod bind;
mod check;
mod duration;
mod file;
mod listeners;
mod pools;
mod proxy;
mod report;
mod rules;
mod server;
#[cfg(test)]
mod tests;
mod words;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use ipnet::IpNet;

use self::duration::written;
use self::file::File;
use self::listeners::{Needs, Surroundings};
use self::report::{Left, Report};
use self::yaml::{Node, Section};

/// Longest name of a listener or a pool.
const NAME_LIMIT: usize = 64;

/// Largest file that is read: far beyond any that a person wrote.
const FILE_LIMIT: u64 = 4 * 1024 * 1024;

/// What can be converted.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Format {
    /// A haproxy.cfg.
    Haproxy,
}

impl Format {
    /// Reads and converts a file.
    pub(crate) fn convert(self, path: &Path) -> Result<Converted, String> {
        let problem = |problem: &dyn std::fmt::Display| format!("{}: {problem}", path.display());
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(|error| problem(&error))?;
        file.take(FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(|error| problem(&error))?;
        if bytes.len() as u64 > FILE_LIMIT {
            return Err(problem(&format_args!("is larger than {FILE_LIMIT} bytes")));
        }
        match self {
            Format::Haproxy => haproxy_of_bytes(&bytes, &Path::is_dir).and_found(path),
        }
    }
}

/// What became of a file.
pub(crate) struct Converted {
    /// The configuration.
    pub(crate) yaml: String,
    left: Vec<Left>,
    /// Whether the file has a `frontend`, `listen` or `backend` section.
    has_proxies: bool,
}

impl Converted {
    /// Fails for a file that defines no proxy: it is empty, or of another format. The error also has the lines that were left.
    fn and_found(self, path: &Path) -> Result<Converted, String> {
        if self.has_proxies {
            return Ok(self);
        }
        let nothing = "found nothing to convert: there is no `frontend`, `listen` or `backend` section";
        Err(format!("{}{}: {nothing}", self.left(path), path.display()))
    }

    /// What could not be carried over of this file, a line each.
    pub(crate) fn left(&self, path: &Path) -> String {
        self.left.iter().map(|Left { line, what, why }| format!("{}:{line}: {what}: {why}\n", path.display())).collect()
    }
}

/// Converts a haproxy.cfg, whatever its encoding. Bytes that are not UTF-8 mostly stand in comments.
fn haproxy_of_bytes(bytes: &[u8], is_directory: &dyn Fn(&Path) -> bool) -> Converted {
    let mut converted = haproxy(&String::from_utf8_lossy(bytes), is_directory);
    let is_foreign = |line: &[u8]| !line.trim_ascii_start().starts_with(b"#") && std::str::from_utf8(line).is_err();
    let foreign = (1..).zip(bytes.split(|byte| *byte == b'\n')).filter(|(_, line)| is_foreign(line));
    converted.left.extend(foreign.map(|(line, _)| Left {
        line,
        what: "the line".to_owned(),
        why: "is not UTF-8: each byte that is not was taken for an unknown character".to_owned(),
    }));
    converted.left.sort();
    converted
}

/// Converts the text of a haproxy.cfg. `is_directory` tells a directory of certificates from a file.
fn haproxy(text: &str, is_directory: &dyn Fn(&Path) -> bool) -> Converted {
    let mut report = Report::default();
    let file = File::read(text, &mut report);
    let names = names(file.backends.iter().map(|backend| backend.name.as_str()), &[]);
    let mut made = Vec::new();
    let mut pools = BTreeMap::new();
    for backend in &file.backends {
        let Some(name) = names.get(&backend.name) else { continue };
        if let Some(pool) = pools::pool(name, backend, &file.global, &mut report) {
            made.push(Node::from(pool));
            pools.insert(backend.name.clone(), name.clone());
        }
    }
    let backends = file.backends.iter().map(|backend| (backend.name.clone(), backend.clone())).collect();
    let around = Surroundings { pools: &pools, backends: &backends, is_directory };
    let names = self::names(file.frontends.iter().map(|frontend| frontend.name.as_str()), &["admin"]);
    let mut needs = Needs { names: names.values().cloned().collect(), ..Needs::default() };
    let mut listening = Vec::new();
    for frontend in &file.frontends {
        let Some(name) = names.get(&frontend.name) else { continue };
        listening.extend(listeners::listeners(name, frontend, &around, &mut needs, &mut report));
    }
    let mut whole = Section::default();
    whole.put("listeners", Node::List(listening.into_iter().map(Node::from).collect()));
    whole.put("pools", (!made.is_empty()).then_some(Node::List(made)));
    registries(&mut whole, &needs, &file, &mut report);
    let trusted: Vec<Node> = needs.trusted.iter().map(Node::text).collect();
    whole.put("trusted_proxies", (!trusted.is_empty()).then_some(Node::List(trusted)));
    let mut limits = Section::default();
    limits.put("max_connections", file.global.max_connections.as_ref().map(Node::plain));
    whole.put("limits", (!limits.is_empty()).then(|| Node::from(limits)));
    whole.put("drain_wait", file.global.drain_wait.map(|wait| Node::plain(written(wait))));
    whole.put("drain_timeout", file.global.drain_timeout.map(|limit| Node::plain(written(limit))));
    let has_proxies = !file.frontends.is_empty() || !file.backends.is_empty();
    Converted { yaml: whole.render(), left: report.into_lines(), has_proxies }
}

/// Hosts that lead to pools. Only registries have hosts, and they are cached.
fn registries(whole: &mut Section, needs: &Needs, file: &File, report: &mut Report) {
    if needs.hosts.is_empty() {
        return;
    }
    let line = file.frontends.iter().flat_map(|frontend| &frontend.routes).map(|route| route.line).min().unwrap_or(1);
    let mut registries = Vec::new();
    let mut default = needs.default_pool.as_ref();
    for (host, pool) in &needs.hosts {
        let mut registry = Section::default();
        registry.put("name", Node::text(host)).put("hosts", Node::List(vec![Node::text(host)]));
        registry.put("pool", Node::text(pool));
        let is_default = default == Some(pool);
        registry.put("default", Node::set(is_default));
        default = default.filter(|_| !is_default);
        registries.push(Node::from(registry));
    }
    if let Some(pool) = default {
        let label: String =
            pool.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
        let name = format!("{}.internal", label.trim_matches('-'));
        report.left(line, "default_backend", format!("became a registry `{name}`: give it the name that clients use"));
        let mut registry = Section::default();
        registry.put("name", Node::text(name)).put("pool", Node::text(pool)).put("default", Node::plain(true));
        registries.push(registry.into());
    }
    whole.put("registries", Node::List(registries));
    let mut cache = Section::default();
    cache.put("path", Node::text("/var/lib/pierhead")).put("max_size", Node::plain("10GiB"));
    whole.put("cache", Node::from(cache));
    report.left(line, "use_backend", "hosts lead to registries, which are cached: see to `cache` in the result");
}

/// Names as this configuration allows them, by those of the file. The first of two of one name counts, as there.
fn names<'a>(written: impl Iterator<Item = &'a str>, taken: &[&str]) -> BTreeMap<String, String> {
    let mut used: BTreeSet<String> = taken.iter().map(|name| (*name).to_owned()).collect();
    let mut names = BTreeMap::new();
    for name in written {
        let allowed = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') { c } else { '-' };
        // Room for the number of an address, or of another of the same name.
        let plain: String = name.chars().map(allowed).take(NAME_LIMIT - 8).collect();
        let plain = if plain.is_empty() { "unnamed".to_owned() } else { plain };
        let numbered = (2..).map(|number| format!("{plain}_{number}"));
        let Some(free) = std::iter::once(plain.clone()).chain(numbered).find(|name| !used.contains(name)) else {
            continue;
        };
        used.insert(free.clone());
        names.entry(name.to_owned()).or_insert(free);
    }
    names
}

/// A network or an address, as this configuration writes it.
fn network(text: &str) -> Option<String> {
    let network: IpNet = text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))?;
    Some(network.trunc().to_string())
}

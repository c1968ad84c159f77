//! A haproxy.cfg: its sections, and what its `global` and `resolvers` say.

use std::collections::HashMap;
use std::time::Duration;

use super::duration;
use super::proxy::Proxy;
use super::report::Report;
use super::words::{Line, lines};

/// Everything that a file says, read over its defaults.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) global: Global,
    /// In the order of the file. A `listen` is both.
    pub(super) frontends: Vec<Proxy>,
    /// In the order of the file.
    pub(super) backends: Vec<Proxy>,
}

/// What is one for the whole process.
#[derive(Debug, Default)]
pub(super) struct Global {
    pub(super) max_connections: Option<String>,
    pub(super) drain_timeout: Option<Duration>,
    pub(super) drain_wait: Option<Duration>,
    pub(super) bases: Bases,
    pub(super) resolvers: HashMap<String, Resolvers>,
}

/// Where files lie whose names are relative.
#[derive(Debug, Default)]
pub(super) struct Bases {
    /// Certificates.
    pub(super) certificates: Option<String>,
    /// Authorities.
    pub(super) authorities: Option<String>,
}

impl Bases {
    /// The name of a certificate's file, made whole.
    pub(super) fn certificate(&self, file: &mut String) {
        under(self.certificates.as_deref(), file);
    }

    /// The same of authorities.
    pub(super) fn authority(&self, file: &mut String) {
        under(self.authorities.as_deref(), file);
    }
}

fn under(base: Option<&str>, file: &mut String) {
    if let Some(base) = base.filter(|_| !file.starts_with(['/', '$'])) {
        *file = format!("{}/{file}", base.trim_end_matches('/'));
    }
}

/// Name servers.
#[derive(Debug, Default)]
pub(super) struct Resolvers {
    pub(super) servers: Vec<String>,
    pub(super) valid: Option<Duration>,
}

/// Words that begin a section.
const SECTIONS: &[&str] = &[
    "acme",
    "backend",
    "cache",
    "crt-store",
    "defaults",
    "fcgi-app",
    "frontend",
    "global",
    "http-errors",
    "listen",
    "log-forward",
    "log-profile",
    "mailers",
    "peers",
    "program",
    "resolvers",
    "ring",
    "traces",
    "userlist",
];

/// Global directives that belong to how haproxy runs, or ask for what is so anyway.
const RUNS: &[&str] = &[
    "chroot",
    "cpu-map",
    "daemon",
    "description",
    "group",
    "insecure-fork-wanted",
    "master-worker",
    "nbproc",
    "nbthread",
    "node",
    "pidfile",
    "set-dumpable",
    "ulimit-n",
    "user",
    "uid",
    "gid",
    "no",
    "expose-fd",
    "numa-cpu-mapping",
    "spread-checks",
    "localpeer",
    "presetenv",
    "h1-case-adjust",
    "thread-groups",
    "zero-warning",
];

/// Other global directives, and what there is instead.
const LEFT: &[(&str, &str)] = &[
    ("stats", "`pierhead ctl` and the API of the `admin` listener"),
    ("log", "the log goes to standard error, one line of JSON a request"),
    ("ssl-default-bind-ciphers", "there are two policies: `tls.ciphers: intermediate` or `modern`"),
    ("ssl-default-bind-ciphersuites", "there are two policies: `tls.ciphers: intermediate` or `modern`"),
    ("ssl-default-bind-curves", "there are two policies: `tls.ciphers: intermediate` or `modern`"),
    ("ssl-default-bind-options", "`tls.min_version`; nothing older than TLS 1.2 is spoken"),
    ("ssl-default-server-ciphers", "servers are offered what is good"),
    ("ssl-default-server-ciphersuites", "servers are offered what is good"),
    ("ssl-default-server-options", "`tls.min_version`; nothing older than TLS 1.2 is spoken"),
    ("ssl-server-verify", "`tls.verify` of each pool"),
    ("ssl-dh-param-file", "key exchange is by elliptic curves"),
    ("lua-load", "nothing is programmed"),
    ("setenv", "variables come from the environment: set them there"),
];

impl File {
    /// Reads a whole file.
    pub(super) fn read(text: &str, report: &mut Report) -> File {
        let lines = lines(text);
        let starts = |line: &Line| SECTIONS.contains(&line.words[0].as_str());
        let mut file = File::default();
        let mut defaults: (Proxy, HashMap<String, Proxy>) = Default::default();
        let mut rest = lines.as_slice();
        while let Some((header, after)) = rest.split_first() {
            let end = after.iter().position(starts).unwrap_or(after.len());
            let (body, next) = after.split_at(end);
            rest = next;
            file.section(header, body, &mut defaults, report);
        }
        file
    }

    fn section(
        &mut self,
        header: &Line,
        body: &[Line],
        (latest, named): &mut (Proxy, HashMap<String, Proxy>),
        report: &mut Report,
    ) {
        let words = header.as_strs();
        let over = match words.iter().position(|word| *word == "from").and_then(|at| words.get(at + 1)) {
            Some(name) => named.get(*name).unwrap_or(latest),
            None => latest,
        };
        match words[0] {
            "global" => self.global.read(body, report),
            "resolvers" => {
                let name = words.get(1).copied().unwrap_or_default().to_owned();
                self.global.resolvers.insert(name, Resolvers::read(body, report));
            }
            "defaults" => {
                let base = if words.contains(&"from") { over.clone() } else { Proxy::default() };
                *latest = Proxy::read(header, body, &base, report);
                named.insert(latest.name.clone(), latest.clone());
            }
            "frontend" => self.frontends.push(Proxy::read(header, body, over, report).based(&self.global.bases)),
            "backend" => self.backends.push(Proxy::read(header, body, over, report).based(&self.global.bases)),
            "listen" => {
                let both = Proxy::read(header, body, over, report).based(&self.global.bases);
                if !both.servers.is_empty() || !both.templates.is_empty() {
                    self.backends.push(both.clone());
                }
                self.frontends.push(both);
            }
            section if SECTIONS.contains(&section) => {
                report.left(
                    header.number,
                    words[..words.len().min(2)].join(" "),
                    "sections of this kind have no counterpart",
                );
            }
            word if word.starts_with('.') => {
                report.left(header.number, word, "conditions are not understood: all lines count");
            }
            word => report.left(header.number, word, "stands in no section"),
        }
    }
}

impl Global {
    fn read(&mut self, lines: &[Line], report: &mut Report) {
        for line in lines {
            let words = line.as_strs();
            match words.as_slice() {
                ["maxconn", number] => self.max_connections = Some((*number).to_owned()),
                ["hard-stop-after", time] => self.drain_timeout = duration::parse(time),
                ["crt-base", base] => self.bases.certificates = Some((*base).to_owned()),
                ["ca-base", base] => self.bases.authorities = Some((*base).to_owned()),
                ["grace", time] => self.drain_wait = duration::parse(time),
                [word, ..] if RUNS.contains(word) => {}
                // Sizes of buffers and the like.
                [word, ..] if word.starts_with("tune.") => {}
                [word, ..] => {
                    let known = LEFT.iter().find(|(known, _)| known == word);
                    report.left(line.number, *word, known.map_or("has no counterpart", |(_, why)| why));
                }
                [] => {}
            }
        }
    }
}

impl Resolvers {
    fn read(lines: &[Line], report: &mut Report) -> Resolvers {
        let mut resolvers = Resolvers::default();
        for line in lines {
            let words = line.as_strs();
            match words.as_slice() {
                ["nameserver", name, address] => {
                    let address =
                        address.strip_prefix("udp@").or_else(|| address.strip_prefix("dgram@")).unwrap_or(address);
                    match address.parse::<std::net::SocketAddr>() {
                        Ok(address) => resolvers.servers.push(address.to_string()),
                        Err(_) => report.left(line.number, format!("nameserver {name}"), "needs an address and a port"),
                    }
                }
                ["hold", "valid", time] => resolvers.valid = duration::parse(time).filter(|time| !time.is_zero()),
                // The last good answer holds for as long as DNS fails.
                ["hold" | "timeout" | "resolve_retries" | "accepted_payload_size" | "parse-resolv-conf", ..] => {}
                _ => report.left(line.number, words[0], "has no counterpart"),
            }
        }
        resolvers
    }
}

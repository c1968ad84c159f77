//! A `defaults`, `frontend`, `backend` or `listen` section: what its lines say, over what its defaults say.

use std::collections::BTreeMap;
use std::time::Duration;

use super::bind::{Bind, binds};
use super::check::Check;
use super::file::Bases;
use super::report::Report;
use super::rules::{Acls, Names, condition, conditions};
use super::server::{Parameters, Server, Template, parameters, server, template};
use super::words::Line;
use super::{duration, network};

/// `use_backend`
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) line: usize,
    pub(super) backend: String,
    pub(super) names: Names,
}

/// A redirect to https.
#[derive(Clone, Copy, Debug)]
pub(super) struct Redirect {
    pub(super) line: usize,
    /// Only of what did not come with TLS.
    pub(super) unless_tls: bool,
}

/// What a section says.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxy {
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) http: bool,
    // Of frontends.
    pub(super) binds: Vec<Bind>,
    pub(super) default_backend: Option<(usize, String)>,
    acls: Acls,
    pub(super) routes: Vec<Route>,
    pub(super) max_connections: Option<String>,
    pub(super) redirect: Option<Redirect>,
    pub(super) hsts: Option<Duration>,
    /// Networks that may send PROXY headers.
    pub(super) proxies: Vec<String>,
    pub(super) inspect_delay: Option<Duration>,
    // Of backends.
    pub(super) servers: Vec<Server>,
    pub(super) templates: Vec<Template>,
    defaults: Parameters,
    pub(super) balance: Option<(&'static str, Option<&'static str>)>,
    pub(super) check: Check,
    pub(super) retries: Option<String>,
    pub(super) server_close: bool,
    // Of both.
    timeouts: BTreeMap<String, Duration>,
}

/// Directives that ask for what is so anyway, or belong to how haproxy runs.
const SO_ANYWAY: &[&[&str]] = &[
    &["mode", "http"],
    &["log", "global"],
    &["no", "log"],
    &["description"],
    &["enabled"],
    &["hash-type", "consistent"],
    &["option", "abortonclose"],
    &["option", "clitcpka"],
    &["option", "contstats"],
    &["option", "dontlog-normal"],
    &["option", "dontlognull"],
    &["option", "http-buffer-request"],
    &["option", "http-keep-alive"],
    &["option", "http-no-delay"],
    &["option", "httplog"],
    &["option", "log-health-checks"],
    &["option", "log-separate-errors"],
    &["option", "redispatch"],
    &["option", "socket-stats"],
    &["option", "splice-auto"],
    &["option", "splice-request"],
    &["option", "splice-response"],
    &["option", "srvtcpka"],
    &["option", "tcp-smart-accept"],
    &["option", "tcp-smart-connect"],
    &["option", "tcpka"],
    &["option", "tcplog"],
    &["option", "tcplog", "clf"],
    &["no", "option"],
    &["tcp-check", "comment"],
    &["unique-id-format"],
    &["tcp-request", "content", "accept"],
    &["tcp-request", "content", "reject"],
];

/// Headers that are always set, whatever the client sent.
const ALWAYS_SET: &[&str] =
    &["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "forwarded", "x-request-id"];

/// Directives that have no counterpart, by their first words, and what there is instead.
const LEFT: &[(&[&str], &str)] = &[
    (&["stats"], "metrics and an API are on the `admin` listener; `pierhead ctl` is its command line"),
    (&["monitor-uri"], "`/health/instance` is on the `admin` listener, and on every one of `mode: http`"),
    (&["monitor-net"], "`/health/instance` is on the `admin` listener, and on every one of `mode: http`"),
    (&["cookie"], "the same server for the same client: `balance: hash`"),
    (&["stick"], "the same server for the same client: `balance: hash`"),
    (&["stick-table"], "see `limits` for rates, and `balance: hash` for the same server"),
    (&["http-request", "track-sc0"], "see `limits.requests_per_client`"),
    (&["http-request", "track-sc1"], "see `limits.requests_per_client`"),
    (&["tcp-request", "connection", "track-sc0"], "see `limits.max_connections_per_client`"),
    (&["http-request", "deny"], "see `limits` for rates and `deny` of a registry for repositories"),
    (&["http-request", "tarpit"], "see `limits`"),
    (&["rate-limit"], "see `limits`"),
    (&["log"], "the log goes to standard error, one line of JSON a request"),
    (&["log-format"], "the log's fields are fixed"),
    (&["log-tag"], "the log's fields are fixed"),
    (&["errorfile"], "errors are answered as registries answer them"),
    (&["errorloc"], "errors are answered as registries answer them"),
    (&["compression"], "layers are compressed already"),
    (&["http-request"], "requests are forwarded as they are"),
    (&["http-response"], "answers are forwarded as they are"),
    (&["redirect"], "only `redirect scheme https` has a counterpart"),
    (&["tcp-request"], "has no counterpart"),
    (&["unique-id-header"], "`X-Request-Id` is always set"),
    (&["option"], "has no counterpart"),
    (&["timeout"], "has no counterpart"),
];

impl Proxy {
    /// A section over its defaults. Defaults have neither servers nor addresses.
    pub(super) fn read(header: &Line, lines: &[Line], over: &Proxy, report: &mut Report) -> Proxy {
        let mut proxy =
            Proxy { line: header.number, name: header.words.get(1).cloned().unwrap_or_default(), ..over.clone() };
        // Frontends of old have their address beside their name.
        if matches!(header.words[0].as_str(), "frontend" | "listen")
            && let Some(address) = header.words.get(2).filter(|word| word.contains(':'))
        {
            let bind = Line { number: header.number, words: vec!["bind".to_owned(), address.clone()] };
            proxy.binds.extend(binds(&bind, report));
        }
        // Conditions are named before they are used, though not always written before.
        for line in lines.iter().filter(|line| line.words[0] == "acl") {
            proxy.acl(line, report);
        }
        for line in lines {
            proxy.line(line, report);
        }
        proxy
    }

    /// With whole names of files.
    pub(super) fn based(mut self, bases: &Bases) -> Proxy {
        for tls in self.binds.iter_mut().filter_map(|bind| bind.tls.as_mut()) {
            tls.based(bases);
        }
        let servers = self.servers.iter_mut().map(|server| &mut server.parameters);
        for parameters in servers.chain(self.templates.iter_mut().map(|template| &mut template.parameters)) {
            let settings = &mut parameters.shared.tls_settings;
            settings.ca.iter_mut().for_each(|file| bases.authority(file));
            settings.certificate.iter_mut().for_each(|file| bases.certificate(file));
        }
        self
    }

    /// A timeout. Those of 0 are none.
    pub(super) fn timeout(&self, name: &str) -> Option<Duration> {
        self.timeouts.get(name).copied()
    }

    fn acl(&mut self, line: &Line, report: &mut Report) {
        let words = line.as_strs();
        let [_, name, condition_words @ ..] = words.as_slice() else { return };
        match (condition(condition_words), self.acls.get_mut(*name)) {
            (Some(names), Some(Some(known))) => known.push(names),
            (Some(names), None) => drop(self.acls.insert((*name).to_owned(), Some(vec![names]))),
            _ => {
                // Whether that matters shows where it is used, which is left then as well.
                self.acls.insert((*name).to_owned(), None);
                report.left(line.number, format!("acl {name}"), "only names decide: the Host header, or SNI");
            }
        }
    }

    fn line(&mut self, line: &Line, report: &mut Report) {
        let words = line.as_strs();
        let left =
            |report: &mut Report, why: &str| report.left(line.number, words[..words.len().min(2)].join(" "), why);
        match words.as_slice() {
            ["mode", mode @ ("http" | "tcp")] => self.http = *mode == "http",
            ["acl", ..] => {}
            ["bind", ..] => self.binds.extend(binds(line, report)),
            ["default_backend", name] => self.default_backend = Some((line.number, (*name).to_owned())),
            ["use_backend", name, "if", rest @ ..] => match conditions(rest, &self.acls) {
                Some(found) => {
                    let backend = (*name).to_owned();
                    let route = |names| Route { line: line.number, backend: backend.clone(), names };
                    self.routes.extend(found.into_iter().map(route));
                }
                None => left(report, "only names decide: the Host header, or SNI"),
            },
            ["maxconn", number] => self.max_connections = Some((*number).to_owned()),
            ["timeout", name, time] => self.timed(name, time, line, report),
            ["balance", rest @ ..] => self.balanced(rest, line, report),
            ["retries", number] => self.retries = Some((*number).to_owned()),
            ["retry-on", reasons @ ..] => {
                let done = ["all-retryable-errors", "conn-failure", "empty-response", "502", "503", "504"];
                if reasons.iter().any(|reason| !done.contains(reason)) {
                    left(
                        report,
                        "requests are tried again when nothing was sent, and a GET also on an empty answer, 502, 503, 504",
                    );
                }
            }
            ["default-server", rest @ ..] => {
                let defaults = std::mem::take(&mut self.defaults);
                self.defaults = parameters(line, rest, defaults, report);
            }
            ["server", ..] => self.servers.extend(server(line, &self.defaults, report)),
            ["server-template", ..] => self.templates.extend(template(line, &self.defaults, report)),
            ["option", "forwardfor", rest @ ..] if !rest.contains(&"header") => {}
            ["no", "option", "http-server-close" | "httpclose"] => self.server_close = false,
            ["option", "http-server-close" | "httpclose" | "forceclose"] => self.server_close = true,
            ["option", rest @ ..] if self.check.option(line, rest, report) => {}
            ["http-check", rest @ ..] => self.check.http_check(line, rest, report),
            ["tcp-check", rest @ ..] => self.check.tcp_check(line, rest, report),
            ["http-request", "redirect", "scheme", "https", rest @ ..] | ["redirect", "scheme", "https", rest @ ..] => {
                self.redirected(rest, line, report);
            }
            ["http-response", "set-header" | "add-header", name, value, rest @ ..]
                if name.eq_ignore_ascii_case("strict-transport-security") =>
            {
                self.strict(value, rest, line, report);
            }
            ["http-request", "set-header" | "add-header", name, ..]
                if ALWAYS_SET.contains(&name.to_ascii_lowercase().as_str()) => {}
            ["unique-id-header", name] if name.eq_ignore_ascii_case("x-request-id") => {}
            ["tcp-request", "inspect-delay", time] => self.inspect_delay = duration::parse(time),
            ["tcp-request", "connection", "expect-proxy", "layer4", "if", "{", "src", networks @ .., "}"]
                if networks.iter().all(|word| network(word).is_some()) =>
            {
                self.proxies.extend(networks.iter().filter_map(|word| network(word)));
            }
            words if SO_ANYWAY.iter().any(|known| words.starts_with(known)) => {}
            words => {
                let known = LEFT.iter().find(|(known, _)| words.starts_with(known));
                left(report, known.map_or("has no counterpart", |(_, why)| why));
            }
        }
    }

    fn timed(&mut self, name: &str, time: &str, line: &Line, report: &mut Report) {
        let known = [
            "check",
            "client",
            "client-fin",
            "connect",
            "http-keep-alive",
            "http-request",
            "queue",
            "server",
            "server-fin",
            "tunnel",
        ];
        match duration::parse(time) {
            Some(time) if known.contains(&name) && !time.is_zero() => drop(self.timeouts.insert(name.to_owned(), time)),
            Some(time) if known.contains(&name) && time.is_zero() => {
                self.timeouts.remove(name);
                report.left(line.number, format!("timeout {name}"), "there is always a limit; the default was taken");
            }
            _ => report.left(line.number, format!("timeout {name}"), "has no counterpart"),
        }
    }

    fn balanced(&mut self, words: &[&str], line: &Line, report: &mut Report) {
        self.balance = match words {
            ["roundrobin" | "static-rr"] => None,
            ["leastconn"] => Some(("least_connections", None)),
            ["random", ..] => Some(("random", None)),
            ["source"] => Some(("hash", None)),
            ["uri", ..] => Some(("hash", Some("digest"))),
            _ => {
                let why = "servers take turns, unless `balance` is `least_connections`, `random` or `hash`";
                report.left(line.number, line.words[..line.words.len().min(2)].join(" "), why);
                None
            }
        };
    }

    fn redirected(&mut self, words: &[&str], line: &Line, report: &mut Report) {
        let condition = match words {
            ["code", _, rest @ ..] => rest,
            rest => rest,
        };
        self.redirect = match condition {
            [] => Some(Redirect { line: line.number, unless_tls: false }),
            ["if", "!{", "ssl_fc", "}"] | ["unless", "{", "ssl_fc", "}"] | ["if", "!", "{", "ssl_fc", "}"] => {
                Some(Redirect { line: line.number, unless_tls: true })
            }
            _ => {
                report.left(
                    line.number,
                    "redirect scheme https",
                    "only what did not come with TLS, or all, can be redirected",
                );
                None
            }
        };
    }

    fn strict(&mut self, value: &str, rest: &[&str], line: &Line, report: &mut Report) {
        let what = "Strict-Transport-Security";
        let mut parts = value.split(';').map(str::trim).filter(|part| !part.is_empty());
        let age = parts.next().and_then(|part| part.strip_prefix("max-age=")?.trim_matches('"').parse().ok());
        match age {
            Some(seconds) if (1..=10 * 365 * 24 * 3600).contains(&seconds) => {
                self.hsts = Some(Duration::from_secs(seconds));
                if let Some(part) = parts.next() {
                    report.left(line.number, format!("{what} {part}"), "only max-age is sent");
                }
            }
            _ => report.left(line.number, what, "needs a max-age"),
        }
        if !matches!(rest, [] | ["if", "{", "ssl_fc", "}"]) {
            report.left(line.number, what, "is sent with every answer over TLS");
        }
    }
}

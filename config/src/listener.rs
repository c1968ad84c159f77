//! `listeners[]`: where clients connect.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use serde_yaml::Value;

use crate::claims::{Claims, Wanted};
use crate::field::{Field, LONGEST, SHORTEST};
use crate::host;
use crate::limits::CONNECTIONS_LIMIT;
use crate::load::some_of;
use crate::model::{HttpListener, HttpTarget, Listener, Mode, SniRoute, TcpListener};
use crate::section::Section;
use crate::tls::tls;

const KIB: u64 = 1024;
/// Larger headers are an attack, whatever the operator believes.
const HEADER_LIMIT: u64 = 1024 * KIB;
/// How long both sides of what is only passed on may be silent.
const TUNNEL: Duration = Duration::from_secs(3600);
/// Where https is when nothing else is said.
const HTTPS: u16 = 443;

/// What is spoken, as far as the file says.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Http,
    Tcp,
    Unknown,
}

/// One listener.
pub(crate) fn listener(field: Field<'_>, claims: &mut Claims) -> Option<Listener> {
    let mut section = field.section()?;
    let name = section.required("name").and_then(|field| name(&field, claims));
    let bind = section.required("bind").and_then(|field| bind(&field, claims));
    let kind = kind(&mut section);
    let accept_proxy = accept_proxy(&mut section, claims);
    let sni = section.optional("sni", |field| routes(&field, claims));
    let pool = section.optional("pool", |field| claims.pool_named(&field));
    let max_connections = section.number("max_connections", 10_000, 1..=CONNECTIONS_LIMIT);
    let timeouts = SHORTEST..=LONGEST;
    let header_timeout = section.duration("header_timeout", Duration::from_secs(10), timeouts.clone());
    let idle = if kind == Kind::Tcp { TUNNEL } else { Duration::from_secs(60) };
    let idle_timeout = section.duration("idle_timeout", idle, timeouts.clone());

    let tls = section.optional("tls", tls);
    let redirect = section.optional("redirect_to_https", |field| redirect(&field)).map(Option::flatten);
    let hsts = section.optional("hsts", |field| field.duration(Duration::from_secs(1)..=LONGEST));
    let max_header_size = section.size("max_header_size", 64 * KIB, KIB..=HEADER_LIMIT);
    let body_timeout = section.duration("body_timeout", Duration::from_secs(60), timeouts.clone());
    let write_timeout = section.duration("write_timeout", Duration::from_secs(60), timeouts.clone());
    let tunnel_timeout = section.duration("tunnel_timeout", TUNNEL, timeouts.clone());
    let half_close_timeout = section.duration("half_close_timeout", Duration::from_secs(30), timeouts);
    conflicts(&section, kind);
    section.finish();
    let mode = match kind {
        Kind::Unknown => None,
        Kind::Tcp => pool.map(|pool| Mode::Tcp(TcpListener { pool, header_timeout, idle_timeout, half_close_timeout })),
        Kind::Http => {
            let target = target(pool, redirect);
            claims.want_registries(match target {
                Some(HttpTarget::Registries) => Wanted::Yes,
                Some(_) => Wanted::No,
                None => Wanted::Perhaps,
            });
            let http = |tls, target, hsts| HttpListener {
                tls,
                target,
                hsts,
                header_timeout,
                max_header_size,
                body_timeout,
                idle_timeout,
                tunnel_timeout,
                write_timeout,
            };
            tls.zip(target).zip(hsts).map(|((tls, target), hsts)| Mode::Http(http(tls, target, hsts)))
        }
    };
    if kind == Kind::Unknown {
        claims.want_registries(Wanted::Perhaps);
    }
    let max_connections = usize::try_from(max_connections).ok()?;
    Some(Listener {
        name: name?,
        bind: bind?,
        accept_proxy,
        sni: sni?.unwrap_or_default(),
        max_connections,
        mode: mode?,
    })
}

fn kind(section: &mut Section<'_>) -> Kind {
    let Some(field) = section.take("mode") else { return Kind::Http };
    field.choice(&[("http", Kind::Http), ("tcp", Kind::Tcp)]).unwrap_or(Kind::Unknown)
}

/// Who answers requests; the registries when nobody else is named.
fn target(pool: Option<Option<String>>, redirect: Option<Option<u16>>) -> Option<HttpTarget> {
    match (pool?, redirect?) {
        (_, Some(port)) => Some(HttpTarget::RedirectToHttps(port)),
        (Some(pool), None) => Some(HttpTarget::Pool(pool)),
        (None, None) => Some(HttpTarget::Registries),
    }
}

/// Keys that do not go with the mode, or with each other.
fn conflicts(section: &Section<'_>, kind: Kind) {
    let has = |key: &str| section.peek(key).is_some_and(|field| !field.is_false());
    match kind {
        Kind::Unknown => {}
        Kind::Tcp => {
            let keys = ["tls", "redirect_to_https", "hsts", "max_header_size", "body_timeout", "write_timeout"];
            section.meaningless(&["tunnel_timeout"], "has a meaning only with `mode: http`; here it is `idle_timeout`");
            section.meaningless(&keys, "has a meaning only with `mode: http`");
            if !has("pool") && !has("sni") {
                section.problem("needs a `pool`, or `sni` routes, with `mode: tcp`");
            }
        }
        Kind::Http => {
            section.meaningless(&["half_close_timeout"], "has a meaning only with `mode: tcp`");
            if !has("tls") {
                section.meaningless(&["hsts", "sni"], "has a meaning only with `tls`");
            } else if has("redirect_to_https") {
                section.meaningless(&["redirect_to_https"], "cannot be together with `tls`: it is https already");
            }
            if has("redirect_to_https") {
                section.meaningless(&["pool"], "cannot be together with `redirect_to_https`");
            }
        }
    }
}

/// The name of something that logs and metrics tell from its like.
pub(crate) fn plain_name(field: &Field<'_>) -> Option<String> {
    let expected = "a name of up to 64 letters, digits, `_`, `-` and `.`";
    let name = field.text(expected)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.len() > 64 || !name.chars().all(allowed) {
        field.problem(format!("expected {expected}"));
        return None;
    }
    Some(name)
}

fn name(field: &Field<'_>, claims: &mut Claims) -> Option<String> {
    let name = plain_name(field)?;
    // Logs and metrics know both by their names.
    if name == "admin" {
        field.problem("`admin` is the name of the operators' own listener");
        return None;
    }
    claims.listener(&name, field);
    Some(name)
}

/// An address that nobody else listens on.
pub(crate) fn bind(field: &Field<'_>, claims: &mut Claims) -> Option<SocketAddr> {
    let address = field.address()?;
    claims.address(address, field);
    Some(address)
}

/// PROXY headers are believed, so that only those who are trusted may send them.
fn accept_proxy(section: &mut Section<'_>, claims: &Claims) -> bool {
    let Some(field) = section.take("accept_proxy") else { return false };
    let accept = field.flag() == Some(true);
    if accept && claims.nobody_is_trusted() {
        field.problem("needs `trusted_proxies`: nobody else may connect where PROXY headers are believed");
    }
    accept
}

/// `true` for the usual port, or another.
fn redirect(field: &Field<'_>) -> Option<Option<u16>> {
    match field.value {
        Value::Bool(redirect) => Some(redirect.then_some(HTTPS)),
        _ => field.port().map(Some),
    }
}

fn routes(field: &Field<'_>, claims: &Claims) -> Option<Vec<SniRoute>> {
    let mut seen = BTreeSet::new();
    some_of(field, "route", |entry| {
        let mut section = entry.section()?;
        let names = section.required("names").and_then(|field| {
            some_of(&field, "name", |entry| {
                let name = host::pattern(&entry)?;
                if !seen.insert(name.clone()) {
                    entry.problem(format!("{name} has a route already"));
                }
                Some(name)
            })
        });
        let pool = section.required("pool").and_then(|field| claims.pool_named(&field));
        section.finish();
        Some(SniRoute { names: names?, pool: pool? })
    })
}

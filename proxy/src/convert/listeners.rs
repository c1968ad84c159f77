//! A frontend, as listeners: one for each of its addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use super::bind::Bind;
use super::duration::written;
use super::proxy::{Proxy, Route};
use super::report::Report;
use super::rules::By;
use super::yaml::{Node, Section};

/// The networks from which haproxy is usually reached by those that send PROXY headers to it.
const PRIVATE: &[&str] = &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];

/// What frontends need beside listeners.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// Hosts that lead to pools: only registries have hosts.
    pub(super) hosts: BTreeMap<String, String>,
    /// The pool of all other hosts.
    pub(super) default_pool: Option<String>,
    /// Who may send PROXY headers.
    pub(super) trusted: Vec<String>,
    /// Names of listeners that are given away.
    pub(super) names: BTreeSet<String>,
}

/// What surrounds a frontend.
pub(super) struct Surroundings<'a> {
    /// The names of the pools, by those of their backends.
    pub(super) pools: &'a BTreeMap<String, String>,
    /// All backends.
    pub(super) backends: &'a BTreeMap<String, Proxy>,
    /// What the file system says.
    pub(super) is_directory: &'a dyn Fn(&Path) -> bool,
}

/// The listeners of a frontend.
pub(super) fn listeners(
    name: &str,
    frontend: &Proxy,
    around: &Surroundings<'_>,
    needs: &mut Needs,
    report: &mut Report,
) -> Vec<Section> {
    let hosts = routes(frontend, around, needs, report);
    let default = default_pool(frontend, around, report);
    let mut listeners = Vec::new();
    for (index, bind) in frontend.binds.iter().enumerate() {
        if frontend.binds.iter().any(|other| other.covers(bind)) {
            continue;
        }
        let mut listener = Section::default();
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        let free = |name: &String| index == 0 || !needs.names.contains(name);
        let Some(name) = std::iter::once(name.to_owned()).chain(numbered).find(free) else { continue };
        needs.names.insert(name.clone());
        listener.put("name", Node::text(name));
        listener.put("bind", Node::text(&bind.address));
        listener.put("mode", (!frontend.http).then(|| Node::text("tcp")));
        if !target(&mut listener, frontend, bind, &hosts, default, needs, report) {
            continue;
        }
        if bind.accept_proxy || !frontend.proxies.is_empty() {
            listener.put("accept_proxy", Node::plain(true));
            trust(frontend, bind, needs, report);
        }
        if let Some(tls) = &bind.tls {
            if frontend.http {
                listener.put("tls", Node::from(tls.write(bind.line, around.is_directory, report)));
                listener.put("hsts", frontend.hsts.map(|hsts| Node::plain(written(hsts))));
            } else {
                report.left(bind.line, "bind ssl", "with `mode: tcp` TLS is passed through, not opened");
            }
        }
        timeouts(&mut listener, frontend, around);
        let limit = bind.max_connections.as_ref().or(frontend.max_connections.as_ref());
        listener.put("max_connections", limit.map(Node::plain));
        listeners.push(listener);
    }
    listeners
}

/// Where names lead: SNI routes for the listener; hosts go to the registries.
fn routes(frontend: &Proxy, around: &Surroundings<'_>, needs: &mut Needs, report: &mut Report) -> Routes {
    let mut routes = Routes::default();
    for route in &frontend.routes {
        let Some(pool) = around.pools.get(&route.backend) else {
            report.left(route.line, format!("use_backend {}", route.backend), no_pool(&route.backend, around));
            continue;
        };
        match (route.names.by, frontend.http) {
            (By::Sni, false) => routes.sni(pool, route),
            (By::Host, true) => routes.hosts(pool, route, needs, report),
            _ => {
                let why = "hosts are known with `mode http`, and names of passed-through TLS with `mode tcp`";
                report.left(route.line, format!("use_backend {}", route.backend), why);
            }
        }
    }
    routes
}

#[derive(Default)]
struct Routes {
    sni: Vec<Node>,
    by_host: bool,
}

impl Routes {
    fn sni(&mut self, pool: &str, route: &Route) {
        let mut section = Section::default();
        section.put("names", Node::List(route.names.names.iter().map(Node::text).collect()));
        section.put("pool", Node::text(pool));
        self.sni.push(section.into());
    }

    fn hosts(&mut self, pool: &str, route: &Route, needs: &mut Needs, report: &mut Report) {
        for host in &route.names.names {
            let what = format!("use_backend {}", route.backend);
            // As a registry's name.
            if host.starts_with('*') || !host.contains('.') {
                report.left(route.line, what, format!("{host}: only whole host names lead to a registry"));
                continue;
            }
            let known = needs.hosts.entry(host.clone()).or_insert_with(|| pool.to_owned());
            if known != pool {
                report.left(route.line, what, format!("{host} leads to `{known}` on all listeners"));
            }
            self.by_host = true;
        }
    }
}

/// Why a backend became no pool.
fn no_pool(backend: &str, around: &Surroundings<'_>) -> String {
    if around.backends.contains_key(backend) {
        return "has no servers that could be carried over".to_owned();
    }
    format!("there is no `backend {backend}` in this file: add it, or convert it together with the file that has it")
}

fn default_pool<'a>(frontend: &Proxy, around: &Surroundings<'a>, report: &mut Report) -> Option<&'a String> {
    // A `listen` is its own backend.
    let own =
        around.pools.get(&frontend.name).filter(|_| !frontend.servers.is_empty() || !frontend.templates.is_empty());
    let Some((line, backend)) = &frontend.default_backend else { return own };
    let pool = around.pools.get(backend);
    if pool.is_none() {
        report.left(*line, format!("default_backend {backend}"), no_pool(backend, around));
    }
    pool
}

/// Who answers; whether there is somebody.
fn target(
    listener: &mut Section,
    frontend: &Proxy,
    bind: &Bind,
    routes: &Routes,
    default: Option<&String>,
    needs: &mut Needs,
    report: &mut Report,
) -> bool {
    if let Some(redirect) = frontend.redirect.filter(|_| frontend.http) {
        if bind.tls.is_none() {
            listener.put("redirect_to_https", Node::plain(true));
            return true;
        }
        if !redirect.unless_tls {
            report.left(redirect.line, "redirect scheme https", "what came with TLS is not redirected");
        }
    }
    if routes.by_host {
        if let Some(pool) = default {
            needs.default_pool.get_or_insert_with(|| pool.clone());
        }
        return true;
    }
    listener.put("pool", default.map(Node::text));
    listener.put("sni", (!routes.sni.is_empty()).then(|| Node::List(routes.sni.clone())));
    let answered = default.is_some() || !routes.sni.is_empty();
    if !answered {
        report.left(bind.line, format!("bind {}", bind.address), "leads to no servers: no listener was made of it");
    }
    answered
}

fn trust(frontend: &Proxy, bind: &Bind, needs: &mut Needs, report: &mut Report) {
    let known = if frontend.proxies.is_empty() {
        let why = "haproxy believes PROXY headers of everybody; `trusted_proxies` has the private networks: put your balancers there";
        report.left(bind.line, "bind accept-proxy", why);
        PRIVATE.iter().map(|network| (*network).to_owned()).collect()
    } else {
        frontend.proxies.clone()
    };
    for network in known {
        if !needs.trusted.contains(&network) {
            needs.trusted.push(network);
        }
    }
}

fn timeouts(listener: &mut Section, frontend: &Proxy, around: &Surroundings<'_>) {
    let mut put = |key, duration: Option<Duration>| {
        listener.put(key, duration.map(|duration| Node::plain(written(duration))));
    };
    let backend = frontend.default_backend.as_ref().and_then(|(_, name)| around.backends.get(name)).unwrap_or(frontend);
    let tunnel = backend.timeout("tunnel").or(frontend.timeout("tunnel"));
    if frontend.http {
        let client = frontend.timeout("client");
        put("header_timeout", frontend.timeout("http-request"));
        put("idle_timeout", frontend.timeout("http-keep-alive").or(frontend.timeout("http-request")).or(client));
        put("tunnel_timeout", tunnel);
        put("body_timeout", client);
        put("write_timeout", client);
        return;
    }
    put("header_timeout", frontend.inspect_delay);
    // The first side that loses its patience ends both.
    let silence = [frontend.timeout("client"), backend.timeout("server")].into_iter().flatten().min();
    put("idle_timeout", tunnel.or(silence));
    put("half_close_timeout", frontend.timeout("client-fin").or(backend.timeout("server-fin")));
}

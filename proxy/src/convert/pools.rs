//! A backend, as a pool.

use std::time::Duration;

use super::duration::written;
use super::file::Global;
use super::proxy::Proxy;
use super::report::Report;
use super::server::{Parameters, ServerTls, Shared};
use super::yaml::{Node, Section};

/// What this configuration takes when it is not told.
const INTERVAL: Duration = Duration::from_secs(2);

/// One entry of `pools`; none for a backend without servers.
pub(super) fn pool(name: &str, backend: &Proxy, global: &Global, report: &mut Report) -> Option<Section> {
    let first = match (backend.servers.first(), backend.templates.first()) {
        (Some(server), _) => &server.parameters,
        (None, Some(template)) => &template.parameters,
        (None, None) => return None,
    };
    let shared = &first.shared;
    differences(backend, shared, report);
    let mut pool = Section::default();
    pool.put("name", Node::text(name));
    pool.put("servers", servers(backend));
    pool.put("discovery", discovery(backend, report));
    pool.put("dns", dns(shared, backend, global, report));
    pool.put("tls", shared.tls.then(|| Node::from(tls(&shared.tls_settings, backend, report))));
    if let Some((balance, by)) = backend.balance {
        pool.put("balance", Node::text(balance)).put("hash_by", by.map(Node::text));
    }
    pool.put("health", shared.checked.then(|| Node::from(health(backend, shared, report))));
    pool.put("passive", passive(backend, shared, report));
    let time = |duration: Option<Duration>| duration.map(|duration| Node::plain(written(duration)));
    pool.put("slow_start", time(shared.slow_start));
    // haproxy waits for a connection as long as for a place.
    pool.put("queue_timeout", time(backend.timeout("queue").or(backend.timeout("connect"))));
    pool.put("connect_timeout", time(backend.timeout("connect")));
    if backend.http {
        pool.put("first_byte_timeout", time(backend.timeout("server")));
        pool.put("idle_timeout", time(backend.timeout("server")));
        pool.put("keep_alive", backend.server_close.then(|| Node::plain("0s")));
    }
    pool.put("retries", backend.retries.as_ref().map(Node::plain));
    pool.put("send_proxy", shared.send_proxy.map(Node::text));
    pool.put("on_down", shared.close_on_down.then(|| Node::text("close")));
    Some(pool)
}

/// Servers whose checks, TLS or manners differ from those of the first.
fn differences(backend: &Proxy, first: &Shared, report: &mut Report) {
    for server in &backend.servers {
        if server.parameters.shared != *first {
            let why = "has checks, TLS or PROXY headers of its own; a pool has them once, those of its first server";
            report.left(server.line, format!("server {}", server.name), why);
        }
    }
}

fn servers(backend: &Proxy) -> Option<Node> {
    let server = |server: &super::server::Server| {
        let Parameters { weight, backup, max_connections, .. } = &server.parameters;
        let mut section = Section::default();
        section.put("name", Node::text(&server.name));
        section.put("address", Node::text(&server.address));
        section.put("weight", weight.as_ref().filter(|weight| *weight != "1").map(Node::plain));
        section.put("backup", Node::set(*backup));
        section.put("max_connections", max_connections.as_ref().map(Node::plain));
        Node::from(section)
    };
    (!backend.servers.is_empty()).then(|| Node::List(backend.servers.iter().map(server).collect()))
}

fn discovery(backend: &Proxy, report: &mut Report) -> Option<Node> {
    let (first, others) = backend.templates.split_first()?;
    for other in others {
        report.left(other.line, "server-template", "a pool has one discovery: make another pool of it");
    }
    let mut section = Section::default();
    section.put("name", Node::text(&first.name));
    let srv = first.name.starts_with('_');
    section.put("record", srv.then(|| Node::text("srv")));
    section.put("port", first.port.as_ref().filter(|_| !srv).map(Node::plain));
    section.put("max_connections", first.parameters.max_connections.as_ref().map(Node::plain));
    Some(section.into())
}

/// The name servers, where there is a name to ask for.
fn dns(shared: &Shared, backend: &Proxy, global: &Global, report: &mut Report) -> Option<Node> {
    let name = shared.resolvers.as_ref()?;
    let line = backend.servers.first().map_or(backend.line, |server| server.line);
    let Some(resolvers) = global.resolvers.get(name) else {
        report.left(line, format!("resolvers {name}"), "is not in the file: the system's name servers are asked");
        return None;
    };
    let is_name = |address: &str| address.parse::<std::net::SocketAddr>().is_err();
    if backend.templates.is_empty() && !backend.servers.iter().any(|server| is_name(&server.address)) {
        return None;
    }
    let mut section = Section::default();
    let addresses: Vec<Node> = resolvers.servers.iter().map(Node::text).collect();
    section.put("servers", (!addresses.is_empty()).then_some(Node::List(addresses)));
    section.put("max_ttl", resolvers.valid.map(|valid| Node::plain(written(valid))));
    (!section.is_empty()).then(|| section.into())
}

fn tls(settings: &ServerTls, backend: &Proxy, report: &mut Report) -> Section {
    let mut section = Section::default();
    section.put("sni", settings.name.as_ref().map(Node::text));
    if settings.unverified {
        section.put("verify", Node::plain(false));
    } else {
        section.put("ca", settings.ca.as_ref().map(Node::text));
        if settings.name.is_none() {
            let line = backend.servers.first().map_or(backend.line, |server| server.line);
            report.left(
                line,
                "server verify",
                "haproxy compares no names: here each certificate must name its server's host, or `tls.sni`",
            );
        }
    }
    let certificate = settings.certificate.as_ref().map(|file| {
        let mut both = Section::default();
        both.put("cert", Node::text(file)).put("key", Node::text(file));
        Node::from(both)
    });
    section.put("client_certificate", certificate);
    section.put("min_version", settings.only_13.then(|| Node::text("1.3")));
    section
}

fn health(backend: &Proxy, shared: &Shared, report: &mut Report) -> Section {
    let mut section = Section::default();
    let checks_tls = shared.check_tls || backend.check.asks_for_tls();
    backend.check.write(shared.tls || checks_tls, &mut section, report);
    if checks_tls && !shared.tls {
        // haproxy verifies nothing here unless it is told to.
        let mut settings = shared.tls_settings.clone();
        settings.unverified |= settings.ca.is_none();
        settings.name = shared.check_name.clone().or(settings.name);
        section.put("tls", Node::from(tls(&settings, backend, report)));
    }
    if !backend.check.has_port() {
        section.put("port", shared.check_port.as_ref().map(Node::plain));
    }
    let interval = shared.inter.unwrap_or(INTERVAL);
    let time = |duration: Option<Duration>| duration.map(|duration| Node::plain(written(duration)));
    section.put("interval", time(Some(interval)));
    section.put("fast_interval", time(shared.fastinter.filter(|fast| *fast <= interval)));
    section.put("timeout", time(Some(backend.timeout("check").unwrap_or(interval))));
    section.put("rise", shared.rise.as_ref().map(Node::plain));
    section.put("fall", shared.fall.as_ref().map(Node::plain));
    section
}

fn passive(backend: &Proxy, shared: &Shared, report: &mut Report) -> Option<Node> {
    let observed = shared.observe.as_ref()?;
    let line = backend.servers.first().map_or(backend.line, |server| server.line);
    if !shared.mark_down {
        report.left(line, "server on-error", "failures of requests mark a server down: `passive`");
    }
    let mut section = Section::default();
    section.put("failures", Node::plain(shared.error_limit.as_deref().unwrap_or("10")));
    section.put("server_errors", Node::set(observed == "layer7"));
    Some(section.into())
}

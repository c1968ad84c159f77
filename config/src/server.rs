//! Servers of a pool: those that are written down, and those that DNS names.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::field::{Field, LONGEST};
use crate::host;
use crate::limits::connections;
use crate::load::some_of;
use crate::model::{Address, Discovery, DnsRecord, DnsTiming, Server};
use crate::section::Section;

/// What a 16-bit weight of an SRV record may be.
const WEIGHT_LIMIT: u64 = 65535;
/// Longest name of a server: the longest host name and its port.
const NAME_LIMIT: usize = 260;
/// Asking more often is load.
const SHORTEST_TTL: Duration = Duration::from_millis(100);

/// What the rest of a pool means for its servers.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings {
    /// Whether they are checked.
    pub(crate) checked: bool,
    /// Whether DNS names servers as well.
    pub(crate) discovered: bool,
}

/// `servers`: each `"host:port"` or a section. Names are unique in the pool.
pub(crate) fn servers(field: &Field<'_>, pool: Surroundings) -> Option<Vec<Server>> {
    let mut names = BTreeMap::new();
    let entry = |entry: Field<'_>| {
        let (server, path) = if entry.is_section() {
            let path = format!("{}.name", entry.path);
            (section(entry.clone(), pool)?, path)
        } else {
            (plain(&entry)?, entry.path.clone())
        };
        match names.get(&server.name) {
            Some(taken) => entry.problem(format!("{} is already taken by {taken}", server.name)),
            None => drop(names.insert(server.name.clone(), path)),
        }
        Some(server)
    };
    if pool.discovered { field.list(entry) } else { some_of(field, "server", entry) }
}

fn plain(field: &Field<'_>) -> Option<Server> {
    let (name, address) = address(field)?;
    Some(Server { name, address, weight: 1, backup: false, max_connections: None, checked_first: false })
}

fn section(field: Field<'_>, pool: Surroundings) -> Option<Server> {
    let mut section = field.section()?;
    let name = section.optional("name", |field| name(&field));
    let address = section.required("address").and_then(|field| address(&field));
    let weight = section.number("weight", 1, 0..=WEIGHT_LIMIT);
    let backup = section.flag("backup", false);
    let max_connections = connections(&mut section, "max_connections");
    let checked_first = checked_first(&mut section, pool.checked);
    section.finish();
    let (written, address) = address?;
    Some(Server {
        name: name?.unwrap_or(written),
        address,
        weight: u32::try_from(weight).ok()?,
        backup,
        max_connections,
        checked_first,
    })
}

/// A server that is never checked would wait for ever.
fn checked_first(section: &mut Section<'_>, checked: bool) -> bool {
    let checked_first = section.flag("checked_first", false);
    if checked_first && !checked {
        section.meaningless(&["checked_first"], "has a meaning only in a pool with `health`");
    }
    checked_first
}

fn name(field: &Field<'_>) -> Option<String> {
    let expected = "a name of letters, digits, `_`, `-`, `.`, `:`, `[` and `]`";
    let name = field.text(expected)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '[' | ']');
    if name.len() > NAME_LIMIT || !name.chars().all(allowed) {
        field.problem(format!("expected {expected}"));
        return None;
    }
    Some(name)
}

/// An address as written, and what it means.
fn address(field: &Field<'_>) -> Option<(String, Address)> {
    let expected = "a host and a port such as `quay01.example.com:443` or `10.0.0.5:443`";
    let text = field.text(expected)?;
    if let Ok(address) = text.parse::<SocketAddr>()
        && address.port() != 0
    {
        return Some((text, Address::Socket(address)));
    }
    let parsed = text.rsplit_once(':').and_then(|(host, port)| {
        let port = port.parse::<u16>().ok().filter(|port| *port != 0)?;
        // What looks like an IPv4 address and is none is no name either.
        let numeric = host.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
        (host::is_dns_name(host) && !numeric).then(|| Address::Name { host: host.to_lowercase(), port })
    });
    match parsed {
        Some(address) => Some((text, address)),
        None => {
            field.problem(format!("expected {expected}"));
            None
        }
    }
}

/// `discovery`
pub(crate) fn discovery(field: Field<'_>, checked: bool) -> Option<Discovery> {
    let mut section = field.section()?;
    let name = section.required("name").and_then(|field| {
        let expected = "a host name such as `quay.example.com` or `_registry._tcp.example.com`";
        let name = field.text(expected)?;
        if host::is_dns_name(&name) {
            return Some(name.to_lowercase());
        }
        field.problem(format!("expected {expected}"));
        None
    });
    let srv = section.take("record").map_or(Some(false), |field| field.choice(&[("address", false), ("srv", true)]));
    let port = section.optional("port", |field| field.port());
    let max_connections = connections(&mut section, "max_connections");
    let checked_first = checked_first(&mut section, checked);
    let record = match (srv, port) {
        (Some(true), _) => {
            section.meaningless(&["port"], "has no meaning with `record: srv`, which brings ports");
            Some(DnsRecord::Srv)
        }
        (Some(false), Some(Some(port))) => Some(DnsRecord::Address { port }),
        (Some(false), Some(None)) => {
            section.problem("needs a `port` with `record: address`");
            None
        }
        _ => None,
    };
    section.finish();
    Some(Discovery { name: name?, record: record?, max_connections, checked_first })
}

/// `dns`
pub(crate) fn dns(section: &mut Section<'_>) -> Option<DnsTiming> {
    let (min, max) = (Duration::from_secs(5), Duration::from_secs(300));
    let Some(field) = section.take("dns") else {
        return Some(DnsTiming { servers: Vec::new(), min_ttl: min, max_ttl: max });
    };
    let mut section = field.section()?;
    let servers = section.optional("servers", |field| field.list(|entry| name_server(&entry)));
    let mut ttl = |key| section.take(key).and_then(|field| field.duration(SHORTEST_TTL..=LONGEST));
    let (least, most) = (ttl("min_ttl"), ttl("max_ttl"));
    if let (Some(least), Some(most)) = (least, most)
        && least > most
    {
        section.problem("`min_ttl` is longer than `max_ttl`");
    }
    section.finish();
    Some(DnsTiming {
        servers: servers?.unwrap_or_default(),
        // One that is given moves the other's default out of its way.
        min_ttl: least.unwrap_or(most.map_or(min, |most| most.min(min))),
        max_ttl: most.unwrap_or(least.map_or(max, |least| least.max(max))),
    })
}

fn name_server(field: &Field<'_>) -> Option<SocketAddr> {
    let expected = "the address of a name server such as `10.0.0.53` or `10.0.0.53:5353`";
    let text = field.text(expected)?;
    let plain = || text.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, 53));
    let parsed = text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0).or_else(plain);
    if parsed.is_none() {
        field.problem(format!("expected {expected}"));
    }
    parsed
}

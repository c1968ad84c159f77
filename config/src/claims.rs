//! What may be given away only once: names, hosts, addresses, and the default.
//!
//! Claims are noted while sections are read, so that a conflict is found even between two sections that are
//! otherwise wrong.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::field::Field;
use crate::likeness::nearest;

/// Whether there must be registries, as far as one can tell from listeners that may be wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wanted {
    /// Nobody would serve them.
    #[default]
    No,
    /// Nobody knows: a listener does not say clearly what it is.
    Perhaps,
    /// A listener has nobody else to answer its requests.
    Yes,
}

/// What was claimed so far, and by whom.
#[derive(Default)]
pub(crate) struct Claims {
    listeners: BTreeMap<String, String>,
    addresses: Vec<(SocketAddr, String)>,
    pools: BTreeMap<String, String>,
    nobody_trusted: bool,
    wanted: Wanted,
    registries: BTreeMap<String, String>,
    hosts: BTreeMap<String, String>,
    default: Option<String>,
    passthrough: Option<String>,
}

impl Claims {
    /// The name of a listener.
    pub(crate) fn listener(&mut self, name: &str, field: &Field<'_>) {
        claim(&mut self.listeners, name, field);
    }

    /// An address to listen on. Port 0 is any free one and never in the way.
    pub(crate) fn address(&mut self, address: SocketAddr, field: &Field<'_>) {
        let other = self.addresses.iter().find(|(taken, _)| overlap(*taken, address));
        if let Some((taken, path)) = other {
            field.problem(format!("{address} is already taken by {path} ({taken})"));
        } else {
            self.addresses.push((address, field.path.clone()));
        }
    }

    /// The name of a pool.
    pub(crate) fn pool(&mut self, name: &str, field: &Field<'_>) {
        claim(&mut self.pools, name, field);
    }

    /// A pool that was claimed, by its name. Pools are read before those who refer to them.
    pub(crate) fn pool_named(&self, field: &Field<'_>) -> Option<String> {
        let name = field.text("the name of a pool")?;
        if self.pools.contains_key(&name) {
            return Some(name);
        }
        let known = || self.pools.keys().map(String::as_str);
        field.problem(match nearest(&name, known()) {
            Some(known) => format!("there is no such pool; did you mean `{known}`?"),
            None if self.pools.is_empty() => "there is no such pool: there are none".to_owned(),
            None => format!("there is no such pool; the pools are {}", known().collect::<Vec<_>>().join(", ")),
        });
        None
    }

    /// That no network is trusted.
    pub(crate) fn trust_nobody(&mut self) {
        self.nobody_trusted = true;
    }

    /// Whether no network is trusted.
    pub(crate) fn nobody_is_trusted(&self) -> bool {
        self.nobody_trusted
    }

    /// Whether a listener wants registries; the strongest wish counts.
    pub(crate) fn want_registries(&mut self, wanted: Wanted) {
        self.wanted = self.wanted.max(wanted);
    }

    /// Whether any listener wants registries.
    pub(crate) fn registries_wanted(&self) -> Wanted {
        self.wanted
    }

    /// The name of a registry. It may be its own host, never another's.
    pub(crate) fn registry(&mut self, name: &str, field: &Field<'_>) {
        if let Some(path) = self.hosts.get(name) {
            field.problem(format!("{name} is already taken by {path}"));
        }
        claim(&mut self.registries, name, field);
    }

    /// A host of the registry at `registry` (its path).
    pub(crate) fn host(&mut self, host: &str, field: &Field<'_>, registry: &str) {
        let owner = self.registries.get(host).filter(|path| **path != format!("{registry}.name"));
        if let Some(path) = owner {
            field.problem(format!("{host} is already taken by {path}"));
        }
        claim(&mut self.hosts, host, field);
    }

    /// To be the default registry.
    pub(crate) fn default_registry(&mut self, field: &Field<'_>) {
        match &self.default {
            Some(path) => field.problem(format!("only one registry can be the default; {path} is")),
            None => self.default = Some(field.path.clone()),
        }
    }

    /// To be sent the callers' own credentials; `path` says so, or would.
    pub(crate) fn passthrough(&mut self, path: String) {
        self.passthrough.get_or_insert(path);
    }

    /// Who is sent the callers' own credentials, if anybody.
    pub(crate) fn passthrough_path(&self) -> Option<&str> {
        self.passthrough.as_deref()
    }
}

fn claim(taken: &mut BTreeMap<String, String>, name: &str, field: &Field<'_>) {
    match taken.get(name) {
        Some(path) => field.problem(format!("{name} is already taken by {path}")),
        None => {
            taken.insert(name.to_owned(), field.path.clone());
        }
    }
}

/// Whether two listeners cannot both have their address. `[::]` takes IPv4's as well.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let any = |ip: IpAddr| ip == Ipv6Addr::UNSPECIFIED;
    let any_of_family = |ip: IpAddr, other: IpAddr| ip == Ipv4Addr::UNSPECIFIED && other.is_ipv4();
    a.port() != 0
        && a.port() == b.port()
        && (a.ip() == b.ip()
            || any(a.ip())
            || any(b.ip())
            || any_of_family(a.ip(), b.ip())
            || any_of_family(b.ip(), a.ip()))
}

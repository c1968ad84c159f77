//! Where clients find the edge, as opposed to what it listens on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use pierhead_config::{Config, HttpTarget, Listener, Registry, Source};

/// `HOST[:PORT]`, as given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    host: String,
    port: Option<u16>,
}

/// Why a text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected HOST or HOST:PORT, such as `edge.example.com:5000`")]
pub(crate) struct AddressError;

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Address { host: host_of(address.ip()), port: Some(address.port()) });
        }
        if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(Address { host: host_of(ip), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().map_err(|_| AddressError)?)),
            None => (text, None),
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        if host.is_empty() || host.len() > 253 || !host.chars().all(allowed) {
            return Err(AddressError);
        }
        Ok(Address { host: host.to_owned(), port })
    }
}

/// An address as it stands in a URL.
fn host_of(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// The edge as a client sees it.
pub(super) struct Edge {
    pub(super) tls: bool,
    host: String,
    port: u16,
}

impl Edge {
    /// `machine` names this machine; it is asked only when nothing else tells where the edge is.
    pub(super) fn new(config: &Config, address: Option<&Address>, machine: impl Fn() -> String) -> Option<Edge> {
        let pulls = |listener: &&Listener| listener.http().is_some_and(|http| http.target == HttpTarget::Registries);
        let listeners: Vec<&Listener> = config.listeners.iter().filter(pulls).collect();
        let has_tls = |listener: &Listener| listener.http().is_some_and(|http| http.tls.is_some());
        let listener = listeners.iter().find(|listener| has_tls(listener)).or(listeners.first())?;
        let (host, port) = match address {
            Some(Address { host, port }) => (host.clone(), port.unwrap_or(listener.bind.port())),
            None => (host_at(listener.bind.ip(), machine), listener.bind.port()),
        };
        Some(Edge { tls: has_tls(listener), host, port })
    }

    /// Host, and port where it is not the scheme's own.
    pub(super) fn authority(&self) -> String {
        self.authority_of(&self.host)
    }

    /// The same for another name of the edge, which may bring its own port.
    pub(super) fn authority_of(&self, host: &str) -> String {
        let own = if self.tls { 443 } else { 80 };
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        if has_port || self.port == own { host.to_owned() } else { format!("{host}:{}", self.port) }
    }

    /// The base URL for an authority.
    pub(super) fn url(&self, authority: &str) -> String {
        format!("{}://{authority}", if self.tls { "https" } else { "http" })
    }

    /// Where a registry with a pool is at home: there it can be pushed to as well, and logged in to by its own tokens.
    pub(super) fn home(&self, registry: &Registry) -> Option<String> {
        let Source::Pool(_) = registry.upstream.source else { return None };
        let host = registry.hosts.first().map(|host| self.authority_of(host));
        host.or_else(|| registry.default.then(|| self.authority()))
    }

    /// What stands before a registry's repositories in an image's name: its home where it has one; the edge and the registry's name, or a virtual
    /// host of its own. A path cannot hold the colon of a port; and at a virtual host every path means that host's
    /// registry. Then there may be no way but `?ns=`.
    pub(super) fn place(&self, config: &Config, registry: &Registry) -> Option<String> {
        if let Some(home) = self.home(registry) {
            return Some(home);
        }
        let authority = self.authority();
        let is_here = |registry: &&Registry| registry.hosts.iter().any(|host| *host == self.host || *host == authority);
        let own_host = || registry.hosts.first().map(|host| self.authority_of(host));
        match config.registries.iter().find(is_here) {
            Some(owner) if owner.name == registry.name => Some(authority),
            Some(_) => own_host(),
            None if registry.name.contains(':') => own_host(),
            None => Some(format!("{authority}/{}", registry.name)),
        }
    }

    /// Whether only this machine can reach it.
    pub(super) fn is_loopback(&self) -> bool {
        let ip = self.host.trim_matches(['[', ']']).parse::<IpAddr>();
        self.host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    }
}

/// Where a client on this machine finds what listens on an address.
pub(crate) fn url(address: SocketAddr, tls: bool) -> String {
    let edge = Edge { tls, host: host_at(address.ip(), machine), port: address.port() };
    edge.url(&edge.authority())
}

fn host_at(ip: IpAddr, machine: impl Fn() -> String) -> String {
    match ip {
        ip if ip.is_unspecified() => machine(),
        ip if ip == Ipv4Addr::LOCALHOST => "localhost".to_owned(),
        ip => host_of(ip),
    }
}

/// This machine's host name.
pub(super) fn machine() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" | "(none)" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn reads_addresses() {
        for (text, host, port) in [
            ("edge.example.com", "edge.example.com", None),
            ("edge:5000", "edge", Some(5000)),
            ("10.0.0.1:443", "10.0.0.1", Some(443)),
            ("10.0.0.1", "10.0.0.1", None),
            ("[::1]:5000", "[::1]", Some(5000)),
            ("::1", "[::1]", None),
        ] {
            assert_eq!(text.parse(), Ok(Address { host: host.to_owned(), port }), "{text}");
        }
        for bad in ["", ":5000", "a:", "a:x", "a:70000", "http://a", "a/b", "a b", "\"a"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}

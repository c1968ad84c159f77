//! What clients may take.

use ipnet::IpNet;

use super::Globs;

/// Limits for all listeners together.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Connections at once, all listeners together.
    pub max_connections: Option<usize>,
    /// Connections at once from one client: an IPv4 address, or an IPv6 network of 64 bits.
    pub max_connections_per_client: Option<usize>,
    /// Requests of one client.
    pub requests_per_client: Option<Rate>,
    /// Clients that nothing of this holds for.
    pub exempt_networks: Vec<IpNet>,
    /// Repositories whose requests are neither counted nor refused.
    pub exempt_repositories: Globs,
}

/// Requests a second, and how many may come at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// A second. Not 0.
    pub per_second: u32,
    /// At once, beyond that.
    pub burst: u32,
}

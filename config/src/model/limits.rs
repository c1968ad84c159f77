//! What clients may take.

use std::time::Duration;

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
    /// What a client must keep up while others wait.
    pub lowest_rate: LowestRate,
    /// Clients that nothing of this holds for.
    pub exempt_networks: Vec<IpNet>,
    /// Repositories whose requests are neither counted nor refused.
    pub exempt_repositories: Globs,
}

/// How slow a client may be while others wait for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LowestRate {
    /// Bytes a second. 0: no client is too slow.
    pub bytes_per_second: u64,
    /// Measured over this long.
    pub grace: Duration,
}

impl LowestRate {
    /// What holds without a word.
    pub const DEFAULT: LowestRate = LowestRate { bytes_per_second: 1024, grace: Duration::from_secs(10) };
}

impl Default for LowestRate {
    fn default() -> LowestRate {
        LowestRate::DEFAULT
    }
}

/// Requests a second, and how many may come at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// A second. Not 0.
    pub per_second: u32,
    /// At once, beyond that.
    pub burst: u32,
}

//! What of the configuration can change while the origin runs: SIGHUP replaces all of it at once.

use std::time::Duration;

use ipnet::IpNet;
use pierhead_config::{OriginConfig, Pulls, RegistryState};

/// Keys by the names that they have in the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    /// Whether anything may be written.
    pub(crate) registry_state: RegistryState,
    /// How blobs reach clients.
    pub(crate) pulls: Pulls,
    /// Whether each request leaves a line in the log.
    pub(crate) access_log: bool,
    /// How long running requests may take to finish at the end.
    pub(crate) drain_timeout: Duration,
    /// How long to keep accepting after readiness has failed.
    pub(crate) drain_wait: Duration,
    /// `listener.trusted_proxies`
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// `auth.anonymous_pulls`
    pub(crate) anonymous_pulls: bool,
}

impl Live {
    /// As configured.
    pub(crate) fn of(config: &OriginConfig) -> Live {
        Live {
            registry_state: config.registry_state,
            pulls: config.pulls,
            access_log: config.access_log,
            drain_timeout: config.drain_timeout,
            drain_wait: config.drain_wait,
            trusted_proxies: config.listener.trusted_proxies.clone(),
            anonymous_pulls: config.auth.anonymous_pulls,
        }
    }

    /// Whether nothing may be written.
    pub(crate) fn is_read_only(&self) -> bool {
        self.registry_state == RegistryState::ReadOnly
    }
}

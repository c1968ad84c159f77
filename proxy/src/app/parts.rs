//! The configuration, as each of the modules wants to know its part of it. Pure.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use pierhead_config::{Config, Credentials, HttpTarget, Listener, Registry};
use pierhead_registry::client::{Account, AccountSettings, EdgeId, EndpointSettings, RedirectTarget, Settings};

use crate::cache::{self, Parallel, Pins};
use crate::edge::Target;

/// The store, as the cache wants to know it.
pub(super) fn store(config: &Config) -> Option<cache::Settings> {
    let cache = config.cache.as_ref()?;
    Some(cache::Settings {
        path: cache.path.clone(),
        fsync: cache.fsync,
        verify_on_read: cache.verify_on_read,
        scrub_interval: cache.scrub_interval,
        memory: cache.memory,
        changing: changing(config, cache),
    })
}

fn changing(config: &Config, cache: &pierhead_config::Cache) -> cache::Changing {
    let names = || config.registries.iter().map(|registry| (Arc::<str>::from(registry.name.as_str()), registry));
    cache::Changing {
        max_size: cache.max_size,
        min_free: cache.min_free,
        shares: names().map(|(name, registry)| (name, registry.max_share)).collect(),
        pins: Pins::new(names().map(|(name, registry)| (name, registry.pin.clone()))),
        parallel: names()
            .map(|(name, registry)| {
                let upstream = &registry.upstream;
                (name, Parallel { above: upstream.parallel_above, connections: upstream.connections })
            })
            .collect(),
    }
}

/// Whether no upstream is ever asked.
pub(super) fn offline(config: &Config) -> bool {
    config.cache.as_ref().is_some_and(|cache| cache.offline)
}

/// What an open cache would have to be closed for, as `path: message`.
pub(super) fn fixed(before: &cache::Settings, after: &cache::Settings) -> Vec<String> {
    let keys = [
        ("path", before.path == after.path),
        ("fsync", before.fsync == after.fsync),
        ("verify_on_read", before.verify_on_read == after.verify_on_read),
        ("scrub_interval", before.scrub_interval == after.scrub_interval),
        ("memory", before.memory == after.memory),
    ];
    let changed = keys.into_iter().filter(|(_, same)| !same);
    changed
        .map(|(key, _)| format!("cache.{key}: cannot be changed while the cache is in use: needs a restart"))
        .collect()
}

/// Who answers the requests of each listener. Connections that were accepted by a listener which is gone, or had another
/// name, may still ask, however many generations ago that was.
pub(super) fn targets(config: &Config, before: &HashMap<Arc<str>, Target>) -> HashMap<Arc<str>, Target> {
    let target = |listener: &Listener| Some((Arc::from(listener.name.as_str()), Target::from(listener.http()?)));
    let still = |target: &Target| match &target.kind {
        HttpTarget::Pool(name) => config.pools.iter().any(|pool| pool.name == *name),
        HttpTarget::Registries | HttpTarget::RedirectToHttps(_) => true,
    };
    let gone =
        before.iter().filter(|(_, target)| still(target)).map(|(name, target)| (Arc::clone(name), target.clone()));
    gone.chain(config.listeners.iter().filter_map(target)).collect()
}

/// An upstream, as the client wants to know it.
pub(super) fn upstream(registry: &Registry, listeners: &[SocketAddr], edge: Option<&EdgeId>) -> Settings {
    let upstream = &registry.upstream;
    let last = upstream.source.endpoints().len().saturating_sub(1);
    Settings {
        name: registry.name.clone(),
        endpoints: upstream
            .source
            .endpoints()
            .iter()
            .enumerate()
            .map(|(index, endpoint)| EndpointSettings {
                url: endpoint.url.clone(),
                repository_prefix: endpoint.repository_prefix.clone(),
                account: account(
                    endpoint.credentials.as_ref().or(upstream.credentials.as_ref().filter(|_| index == last)),
                ),
                ca: endpoint.ca.clone(),
                client_certificate: endpoint
                    .client_certificate
                    .as_ref()
                    .map(|files| (files.cert.clone(), files.key.clone())),
                transport: None,
            })
            .collect(),
        realms: upstream.realms.clone(),
        redirects_to: upstream.redirects_to.iter().map(redirect_target).collect(),
        listeners: listeners.to_vec(),
        edge: edge.cloned(),
        connect_timeout: upstream.connect_timeout,
        first_byte_timeout: upstream.first_byte_timeout,
        idle_timeout: upstream.idle_timeout,
        retries: upstream.retries,
        resume_for: upstream.resume_for,
        cool_down: upstream.cool_down,
        max_manifest_size: upstream.max_manifest_size,
    }
}

/// An account, as the client wants to know it.
pub(super) fn account(credentials: Option<&Credentials>) -> Option<AccountSettings> {
    let credentials = credentials?;
    let account =
        Account { username: credentials.username.clone(), password: credentials.password.reveal().to_owned() };
    Some(AccountSettings { account, password_file: credentials.password_file.clone() })
}

fn redirect_target(target: &pierhead_config::RedirectTarget) -> RedirectTarget {
    match target {
        pierhead_config::RedirectTarget::Host { host, port } => {
            RedirectTarget::Host { host: host.clone(), port: *port }
        }
        pierhead_config::RedirectTarget::Network(network) => RedirectTarget::Network(*network),
    }
}

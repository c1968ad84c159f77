//! The one place that knows every module: from a checked configuration to a running edge, and from a signal to its end.
//!
//! Invariant: the edge is ready only when everything is, and stops being ready before anything stops.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pierhead_config::{Config, HttpListener, HttpTarget, Registry, Source};
use pierhead_registry::client::{Account, BuildError, Client, EndpointSettings, Settings};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::admin::Admin;
use crate::admin::health::{Check, Health};
use crate::admin::metrics::Metrics;
use crate::cache::{self, Cache, OpenError, Parallel, Pins};
use crate::edge::{Edge, EdgeParts, Gate, Generation, RegistryParts};
use crate::front::{self, Admission, BindError, Drain, Listener, Phase};
use crate::logging::Logging;
use crate::pool::{Pool, PoolError, Pools, transport};

/// Threads for reads of cold files, writes and password hashes.
const BLOCKING_THREADS: usize = 64;

/// How long blocking work that nobody waits for may still run at the end.
const LAST_WORK: Duration = Duration::from_secs(1);

/// Why the edge did not start, or did not stop as it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppError {
    /// No threads, no signals.
    #[error("runtime: {0}")]
    Runtime(#[source] std::io::Error),
    /// The names of metrics are wrong: a fault of ours.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A listener.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The operators' listener.
    #[error("admin: {address}: {source}")]
    Admin {
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The store.
    #[error(transparent)]
    Cache(#[from] OpenError),
    /// The client of a registry.
    #[error("registry {name}: {source}")]
    Client {
        /// Which registry.
        name: String,
        /// Why not.
        source: BuildError,
    },
    /// A pool.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// A second signal.
    #[error("stopped at once by a second signal")]
    Interrupted,
}

/// What is wrong with the files that a configuration names, as `path: message`: certificates that cannot be used,
/// keys that are not theirs. Opens no port and touches no cache.
pub(crate) fn check(config: &Config) -> Result<Vec<String>, AppError> {
    let metrics = Arc::new(Metrics::new()?);
    let listeners = config.listeners.iter().enumerate().filter_map(|(index, listener)| {
        let error = listener.http()?.tls.as_ref().and_then(|tls| front::check_tls(tls).err())?;
        Some(format!("listeners[{index}].tls: {error}"))
    });
    let registries = config.registries.iter().enumerate().filter_map(|(index, registry)| {
        let error = Client::new(upstream(registry), Arc::new(metrics.upstream(&registry.name))).err()?;
        Some(format!("registries[{index}].upstream: {error}"))
    });
    Ok(listeners.chain(registries).collect())
}

/// Runs an edge until it is told to stop.
pub(crate) fn serve(config: Config) -> Result<(), AppError> {
    let logging = Logging::start();
    raise_descriptor_limit(&config);
    let runtime = runtime().map_err(AppError::Runtime)?;
    let outcome = runtime.block_on(run(config, &logging));
    // Fills that are still in progress are left: what they have is durable, and they go on after the next start.
    runtime.shutdown_timeout(LAST_WORK);
    outcome
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("edge")
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
}

/// Takes all the descriptors that the system allows: the usual soft limit of 1024 is there for programs that use
/// `select`, and would end an edge with a few hundred clients.
fn raise_descriptor_limit(config: &Config) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    // A client that is served from the store needs its own descriptor and the file's.
    let wanted = config.listeners.iter().map(|listener| 2 * listener.max_connections as u64).sum::<u64>();
    if let Some(allowed) = getrlimit(Resource::Nofile).current
        && allowed < wanted
    {
        tracing::warn!(allowed, wanted, "fewer open files are allowed than max_connections may need");
    }
}

async fn run(config: Config, logging: &Logging) -> Result<(), AppError> {
    let mut stop = Stop::listen().map_err(AppError::Runtime)?;
    let metrics = Arc::new(Metrics::new()?);
    let drain = Drain::new();
    let mut listeners = Vec::new();
    for settings in &config.listeners {
        listeners.push(Listener::bind(settings)?);
    }
    let address = config.admin.bind;
    let admin = Admin::bind(address).await.map_err(|source| AppError::Admin { address, source })?;

    let cache = match store(&config) {
        Some(settings) => Some(Cache::open(settings, Arc::clone(&metrics)).await?),
        None => None,
    };
    let pools = Arc::new(Pools::new(&config.pools, None, &metrics)?);
    let registries = registries(&config, &metrics, &pools)?;
    pools.start().await;
    let offline = config.cache.as_ref().is_some_and(|cache| cache.offline);
    let health = Arc::new(health(offline, &drain, cache.as_ref(), &registries, &pools));
    let access_log = logging.access_log(config.access_log);
    let edge = cache.as_ref().map(|cache| {
        Arc::new(Edge::new(EdgeParts {
            registries,
            cache: Arc::clone(cache),
            metrics: Arc::clone(&metrics),
            health: Arc::clone(&health),
            access: config.access.clone(),
            access_log: access_log.clone(),
            offline,
        }))
    });
    let gate = Arc::new(Gate::new(Generation { edge, pools, targets: targets(&config), access_log }));

    let admission = Arc::new(Admission::new(&config.trusted_proxies, &config.limits, None));
    for listener in listeners {
        tracing::info!(listener = listener.name(), address = %listener.address(), "listening");
        tokio::spawn(listener.serve(Arc::clone(&gate), Arc::clone(&admission), drain.clone(), Arc::clone(&metrics)));
    }
    tracing::info!(listener = "admin", address = %admin.address(), "listening");
    tokio::spawn(admin.serve(health, metrics));
    drain.advance(Phase::Serving);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");
    stop.received().await;
    let left = tokio::select! {
        () = leave(&drain, config.drain_wait, config.drain_timeout) => Ok(()),
        () = stop.received() => Err(AppError::Interrupted),
    };
    if let Some(cache) = cache {
        cache.close().await;
    }
    left
}

/// The store, as the cache wants to know it.
fn store(config: &Config) -> Option<cache::Settings> {
    let cache = config.cache.as_ref()?;
    let names = || config.registries.iter().map(|registry| (Arc::<str>::from(registry.name.as_str()), registry));
    Some(cache::Settings {
        path: cache.path.clone(),
        max_size: cache.max_size,
        fsync: cache.fsync,
        verify_on_read: cache.verify_on_read,
        scrub_interval: cache.scrub_interval,
        memory: cache.memory,
        pins: Pins::new(names().map(|(name, registry)| (name, registry.pin.clone()))),
        parallel: names()
            .map(|(name, registry)| {
                let upstream = &registry.upstream;
                (name, Parallel { above: upstream.parallel_above, connections: upstream.connections })
            })
            .collect(),
    })
}

/// Who answers the requests of each listener.
fn targets(config: &Config) -> HashMap<Arc<str>, HttpTarget> {
    let target = |listener: &pierhead_config::Listener| {
        Some((Arc::from(listener.name.as_str()), listener.http()?.target.clone()))
    };
    config.listeners.iter().filter_map(target).collect()
}

/// Every registry with its client. Contacts nobody: an edge starts while all upstreams are down.
fn registries(config: &Config, metrics: &Arc<Metrics>, pools: &Pools) -> Result<Vec<RegistryParts>, AppError> {
    let mut parts = Vec::with_capacity(config.registries.len());
    for registry in &config.registries {
        let pool = match &registry.upstream.source {
            Source::Pool(name) => pools.get(name).cloned(),
            Source::Upstream(_) => None,
        };
        let mut settings = upstream(registry);
        settings.endpoints.extend(pool.as_ref().and_then(|pool| origin(registry, pool, config)));
        let client = Client::new(settings, Arc::new(metrics.upstream(&registry.name)))
            .map_err(|source| AppError::Client { name: registry.name.clone(), source })?;
        parts.push(RegistryParts { config: registry.clone(), client, pool });
    }
    Ok(parts)
}

/// The origin behind a pool, called by the registry's own host where it has one.
fn origin(registry: &Registry, pool: &Arc<Pool>, config: &Config) -> Option<EndpointSettings> {
    let hosts = registry.hosts.iter().chain([&registry.name]).map(String::as_str);
    let is_door = |http: &HttpListener| http.tls.is_some() && http.target == HttpTarget::Registries;
    let secure = config.listeners.iter().filter_map(|listener| listener.http()).any(is_door);
    transport::endpoint(pool, hosts, secure)
}

/// An upstream, as the client wants to know it.
fn upstream(registry: &Registry) -> Settings {
    let upstream = &registry.upstream;
    Settings {
        name: registry.name.clone(),
        endpoints: upstream
            .source
            .endpoints()
            .iter()
            .map(|endpoint| EndpointSettings {
                url: endpoint.url.clone(),
                ca: endpoint.ca.clone(),
                client_certificate: endpoint
                    .client_certificate
                    .as_ref()
                    .map(|files| (files.cert.clone(), files.key.clone())),
                transport: None,
            })
            .collect(),
        credential: upstream.credentials.as_ref().map(|credentials| Account {
            username: credentials.username.clone(),
            password: credentials.password.reveal().to_owned(),
        }),
        realms: upstream.realms.clone(),
        connect_timeout: upstream.connect_timeout,
        first_byte_timeout: upstream.first_byte_timeout,
        idle_timeout: upstream.idle_timeout,
        retries: upstream.retries,
        resume_for: upstream.resume_for,
        cool_down: upstream.cool_down,
        connections: upstream.connections,
        max_manifest_size: upstream.max_manifest_size,
    }
}

/// What is checked: this instance by its listeners and its store, the rest by each upstream's circuit breaker. An
/// edge that is meant to be offline misses no upstream.
fn health(
    offline: bool,
    drain: &Drain,
    cache: Option<&Arc<Cache>>,
    registries: &[RegistryParts],
    pools: &Arc<Pools>,
) -> Health {
    let drain = drain.clone();
    let mut health = Health::default().with(Check::Instance, "listeners", move || drain.phase() == Phase::Serving);
    if let Some(cache) = cache {
        let writable = Arc::clone(cache);
        health = health
            // Open since before there was anybody to ask.
            .with(Check::Instance, "cache", || true)
            .with(Check::EndToEnd, "cache_writable", move || writable.writable());
    }
    for pool in pools.iter() {
        let (name, pool) = (pool.settings().name.clone(), Arc::clone(pool));
        health = health.with(Check::EndToEnd, name, move || pool.available());
    }
    for registry in registries {
        let client = registry.client.clone();
        health = health.with(Check::EndToEnd, &registry.config.name, move || offline || client.available());
    }
    health
}

/// The end, in its order: not ready, then not accepting, then not running.
async fn leave(drain: &Drain, wait: Duration, limit: Duration) {
    drain.advance(Phase::Leaving);
    tracing::info!(seconds = wait.as_secs_f64(), "stopping: no longer ready");
    tokio::time::sleep(wait).await;
    drain.advance(Phase::Draining);
    let running = drain.running();
    tracing::info!(running, seconds = limit.as_secs_f64(), "stopping: no longer accepting, waiting for requests");
    match drain.wait(limit).await {
        0 => tracing::info!("stopped"),
        unfinished => tracing::warn!(unfinished, "stopped before all connections were finished"),
    }
}

/// The signals that stop an edge. SIGPIPE is ignored from the start, by the standard library.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn listen() -> std::io::Result<Stop> {
        Ok(Stop { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_comes_in_its_order_and_with_the_last_request() {
        let drain = Drain::new();
        drain.advance(Phase::Serving);
        let (watched, begin) = (drain.clone(), Instant::now());
        drain.spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(watched.phase(), Phase::Leaving, "still accepting while load balancers look elsewhere");
            tokio::time::sleep(Duration::from_secs(4)).await;
            assert_eq!(watched.phase(), Phase::Draining);
        });
        leave(&drain, Duration::from_secs(2), Duration::from_secs(60)).await;
        assert_eq!(begin.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_end_is_not_waited_for_longer_than_allowed() {
        let drain = Drain::new();
        drain.spawn(std::future::pending());
        let begin = Instant::now();
        leave(&drain, Duration::ZERO, Duration::from_secs(60)).await;
        assert_eq!(begin.elapsed().as_secs(), 60);
    }
}

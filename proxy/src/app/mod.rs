//! The one place that knows every module: from a checked configuration to a running edge, from a signal to a new
//! generation of it or to its end.
//!
//! Invariant: the edge is ready only when everything is, and stops being ready before anything stops.

mod clients;
mod control;
mod error;
mod generation;
mod parts;
mod reload;
mod signals;
mod sockets;
mod stop;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pierhead_config::Config;
use pierhead_registry::client::Client;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;

use self::control::control;
pub(crate) use self::error::AppError;
use self::generation::{Built, Foundation};
use self::reload::reload;
use self::signals::{Signals, Told};
use self::sockets::Sockets;
use crate::admin::metrics::Metrics;
use crate::front::{Phase, check_tls};
use crate::logging::Logging;
use crate::pool::check_tls as check_pool_tls;

/// Threads for reads of cold files, writes and password hashes.
const BLOCKING_THREADS: usize = 64;

/// How long blocking work that nobody waits for may still run at the end.
const LAST_WORK: Duration = Duration::from_secs(1);

/// What is wrong with the files that a configuration names, as `path: message`: certificates that cannot be used,
/// keys that are not theirs. Opens no port and touches no cache.
pub(crate) fn check(config: &Config) -> Result<Vec<String>, AppError> {
    let metrics = Arc::new(Metrics::new()?);
    let listeners = config.listeners.iter().enumerate().filter_map(|(index, listener)| {
        let error = listener.http()?.tls.as_ref().and_then(|tls| check_tls(tls).err())?;
        Some(format!("listeners[{index}].tls: {error}"))
    });
    let registries = config.registries.iter().enumerate().filter_map(|(index, registry)| {
        let error = Client::new(parts::upstream(registry), Arc::new(metrics.upstream(&registry.name))).err()?;
        Some(format!("registries[{index}].upstream: {error}"))
    });
    let pools = config.pools.iter().enumerate().flat_map(|(index, pool)| {
        check_pool_tls(pool).into_iter().map(move |(section, error)| format!("pools[{index}].{section}: {error}"))
    });
    Ok(listeners.chain(pools).chain(registries).collect())
}

/// Reads a configuration and all that it names; the problems, one a line, are the error.
pub(crate) fn load(path: &Path) -> Result<Config, AppError> {
    let config =
        Config::load(path).map_err(|problems| AppError::Refused(problems.iter().map(ToString::to_string).collect()))?;
    let problems = check(&config)?;
    if problems.is_empty() { Ok(config) } else { Err(AppError::Refused(problems)) }
}

/// Runs an edge until it is told to stop.
pub(crate) fn serve(path: &Path) -> Result<(), AppError> {
    let config = load(path)?;
    let logging = Logging::start();
    raise_descriptor_limit(&config);
    let runtime = runtime().map_err(AppError::Runtime)?;
    let outcome = runtime.block_on(run(path, config, &logging));
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

async fn run(path: &Path, config: Config, logging: &Logging) -> Result<(), AppError> {
    let mut signals = Signals::listen().map_err(AppError::Runtime)?;
    let (handle, mut requests) = control(SystemTime::now());
    let foundation = Foundation::new(logging.access_log(true), Arc::new(handle))?;
    let built = Built::new(&foundation, config, None, Sockets::default()).await?;
    let mut running = built.start(&foundation, None).await;
    let drain = &foundation.common.drain;
    drain.advance(Phase::Serving);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");
    loop {
        let asked = tokio::select! {
            told = signals.next() => match told {
                Told::Stop => break,
                Told::Reload => None,
            },
            asked = requests.next() => Some(asked),
        };
        let reloaded;
        (running, reloaded) = reload(path, &foundation, running, &requests).await;
        if let Some(asked) = asked {
            // Whoever asked may have gone.
            drop(asked.send(reloaded));
        }
    }
    running.let_go();
    let left = tokio::select! {
        () = stop::leave(drain, running.config.drain_wait, running.config.drain_timeout) => Ok(()),
        () = signals.stop() => Err(AppError::Interrupted),
    };
    running.close().await;
    left
}

//! The one place that knows every module: from a checked configuration to a running edge, from a signal to a new
//! generation of it or to its end.
//!
//! Invariant: the edge is ready only when everything is, and stops being ready before anything stops.

mod activation;
mod channel;
mod clients;
mod control;
mod error;
mod generation;
mod parts;
mod program;
mod reload;
mod sockets;
mod stop;
mod upgrade;

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pierhead_config::Config;
use pierhead_registry::client::Client;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use self::control::{Outcome, control};
pub(crate) use self::error::AppError;
use self::generation::{Built, Foundation, Running};
use self::reload::{reload, take_back};
use self::sockets::{Place, Sockets};
use self::upgrade::Predecessor;
use crate::admin::metrics::Metrics;
use crate::front::{Phase, check_tls, client_certificate_doubt};
use crate::pool::check_tls as check_pool_tls;
use pierhead_service::descriptors::raise_limit;
use pierhead_service::health::{Check, Health};
use pierhead_service::logging::Logging;
use pierhead_service::signals::{Signals, Told};
use pierhead_service::supervisor;

/// Threads for reads of cold files, writes and password hashes.
const BLOCKING_THREADS: usize = 64;

/// How long blocking work that nobody waits for may still run at the end.
const LAST_WORK: Duration = Duration::from_secs(1);

/// How long a process that has been taken over stays at least.
const PARTING: Duration = Duration::from_millis(250);

/// What a look at the files that a configuration names has found, as `path: message`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    /// What an edge cannot start with: certificates that cannot be used, keys that are not theirs.
    pub(crate) problems: Vec<String>,
    /// What it starts with all the same, and an operator should know: certificates that have expired, or soon will.
    pub(crate) warnings: Vec<String>,
}

/// Looks at the files that a configuration names. Opens no port and touches no cache.
pub(crate) fn check(config: &Config, now: SystemTime) -> Result<Checked, AppError> {
    let metrics = Arc::new(Metrics::new()?);
    let mut checked = Checked::default();
    for (index, listener) in config.listeners.iter().enumerate() {
        let Some(tls) = listener.http().and_then(|http| http.tls.as_ref()) else { continue };
        match check_tls(tls, now) {
            Ok(doubts) => {
                let doubts = doubts.iter().map(|doubt| format!("listeners[{index}].tls: {doubt}"));
                checked.warnings.extend(doubts);
            }
            Err(error) => checked.problems.push(format!("listeners[{index}].tls: {error}")),
        }
    }
    for (index, pool) in config.pools.iter().enumerate() {
        let wrong = check_pool_tls(pool).into_iter();
        checked.problems.extend(wrong.map(|(section, error)| format!("pools[{index}].{section}: {error}")));
        let shown = pool.tls.as_ref().and_then(|tls| tls.client_certificate.as_ref());
        let doubt = shown.and_then(|files| client_certificate_doubt(&files.cert, now));
        checked.warnings.extend(doubt.map(|doubt| format!("pools[{index}].tls.client_certificate: {doubt}")));
    }
    for (index, registry) in config.registries.iter().enumerate() {
        let client = Client::new(parts::upstream(registry, &[], None), Arc::new(metrics.upstream(&registry.name)));
        checked.problems.extend(client.err().map(|error| format!("registries[{index}].upstream: {error}")));
        let mut shown: Vec<_> = registry.upstream.source.endpoints().iter().collect();
        shown.dedup_by(|one, other| one.client_certificate == other.client_certificate);
        let shown = shown.into_iter().filter_map(|endpoint| endpoint.client_certificate.as_ref());
        let doubts = shown.filter_map(|files| client_certificate_doubt(&files.cert, now));
        checked.warnings.extend(doubts.map(|doubt| format!("registries[{index}].client_certificate: {doubt}")));
    }
    checked.warnings.extend(cache_warning(config));
    Ok(checked)
}

/// What of the cache's section works, and not as it is written, as `path: message`.
fn cache_warning(config: &Config) -> Option<String> {
    config.cache.as_ref().and_then(|cache| {
        let disk = crate::cache::Disk::of(&cache.path).ok()?;
        // What is there already is not looked at: that is for the running edge to say.
        (disk.size < cache.max_size).then(|| {
            format!(
                "cache.max_size: is {} bytes, and the disk below {} has {}: content is evicted when the disk is full",
                cache.max_size,
                cache.path.display(),
                disk.size
            )
        })
    })
}

/// Reads a configuration and all that it names; the problems, one a line, are the error.
pub(crate) fn load(path: &Path) -> Result<(Config, Checked), AppError> {
    let config =
        Config::load(path).map_err(|problems| AppError::Refused(problems.iter().map(ToString::to_string).collect()))?;
    let checked = check(&config, SystemTime::now())?;
    if checked.problems.is_empty() { Ok((config, checked)) } else { Err(AppError::Refused(checked.problems)) }
}

/// Runs an edge until it is told to stop, or another process has taken over. With `take_over` it is that process, started
/// by the edge that runs.
pub(crate) fn serve(path: &Path, take_over: bool) -> Result<(), AppError> {
    let outcome = serve_until_told(path, take_over);
    if let (true, Err(error)) = (take_over, &outcome)
        && let Ok(channel) = upgrade::channel()
    {
        channel::refuse(&channel, &error.to_string());
    }
    outcome
}

fn serve_until_told(path: &Path, take_over: bool) -> Result<(), AppError> {
    let path = &std::path::absolute(path).map_err(AppError::Runtime)?;
    let program = program::own_path().map_err(AppError::Runtime)?;
    let (config, _) = load(path)?;
    let mut start = Start { program, sockets: Vec::new(), predecessor: None };
    if take_over {
        let channel = upgrade::channel().map_err(AppError::TakeOver)?;
        start.sockets = channel::receive_sockets(&channel).map_err(AppError::TakeOver)?;
        start.predecessor = Some(channel);
    } else {
        start.sockets = activation::sockets(&config);
    }
    let logging = Logging::start();
    raise_limit(descriptors(&config));
    let runtime = runtime().map_err(AppError::Runtime)?;
    let outcome = runtime.block_on(run(path, config, start, &logging));
    // Fills that are still in progress are left: what they have is durable, and they go on after the next start.
    runtime.shutdown_timeout(LAST_WORK);
    outcome
}

/// What a process begins with.
struct Start {
    /// Where this program lies.
    program: PathBuf,
    /// Sockets that others opened.
    sockets: Vec<(Place, TcpListener)>,
    /// The edge whose place this one takes.
    predecessor: Option<UnixStream>,
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("edge")
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
}

/// A client that is served from the store needs its own descriptor and the file's.
fn descriptors(config: &Config) -> u64 {
    let of_listeners = config.listeners.iter().map(|listener| listener.max_connections).sum::<usize>();
    2 * config.limits.max_connections.unwrap_or(usize::MAX).min(of_listeners) as u64
}

async fn run(path: &Path, config: Config, start: Start, logging: &Logging) -> Result<(), AppError> {
    let mut signals = Signals::listen().map_err(AppError::Runtime)?;
    let (handle, mut requests) = control(SystemTime::now());
    let foundation = Foundation::new(logging.access_log(true), Arc::new(handle))?;
    let mut predecessor = start.predecessor.map(Predecessor::new).transpose().map_err(AppError::TakeOver)?;
    let sockets = Sockets::handed_over(start.sockets).map_err(AppError::Runtime)?;
    let built = Built::new(&foundation, config, None, sockets, predecessor.as_mut()).await?;
    let mut running = built.start(&foundation, None).await;
    let drain = &foundation.common.drain;
    drain.advance(Phase::Serving);
    if let Some(predecessor) = predecessor {
        predecessor.ready().await;
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), process = std::process::id(), "ready");
    supervisor::ready();
    supervisor::beat();
    let taken_over = loop {
        let (told, asked) = tokio::select! {
            told = signals.next() => (told, None),
            (told, asked) = requests.next() => (told, Some(asked)),
        };
        let outcome = match told {
            Told::Stop => break false,
            Told::Reload => {
                let reloaded;
                (running, reloaded) = reload(path, &foundation, running, &requests).await;
                reloaded
            }
            Told::Upgrade => {
                let upgraded = tokio::select! {
                    upgraded = hand_over(&start.program, path, &foundation, &running) => upgraded,
                    () = signals.stop() => break false,
                };
                match upgraded {
                    Ok(()) => {
                        answer(asked, Ok(requests.status()));
                        break true;
                    }
                    Err(reason) => {
                        tracing::error!(reason, "not upgraded: this process serves on");
                        if drain.is_paused() {
                            running = take_back(&foundation, running).await;
                            drain.pause(false);
                        }
                        Err(reason.lines().map(str::to_owned).collect())
                    }
                }
            }
        };
        answer(asked, outcome);
    };
    let limit = running.config.drain_timeout;
    let leaving = async {
        if taken_over {
            // Those who ask this process over connections that are open are not to look elsewhere.
            foundation.health.replace(Health::default().with(Check::Instance, "listeners", || true));
            running.retire();
            // Whoever asked for this is still to be told.
            tokio::time::sleep(PARTING).await;
            stop::finish(drain, limit).await;
        } else {
            supervisor::stopping();
            running.let_go();
            stop::leave(drain, running.config.drain_wait, limit).await;
        }
    };
    let left = tokio::select! {
        () = leaving => Ok(()),
        () = signals.stop() => Err(AppError::Interrupted),
    };
    running.close().await;
    left
}

async fn hand_over(program: &Path, config: &Path, foundation: &Foundation, running: &Running) -> Result<(), String> {
    tracing::info!(program = %program.display(), "upgrading");
    upgrade::start(program, config, running).await?.serve(foundation, running).await
}

/// Tells whoever asked, if somebody did, and is still there.
fn answer(asked: Option<oneshot::Sender<Outcome>>, outcome: Outcome) {
    if let Some(asked) = asked {
        drop(asked.send(outcome));
    }
}

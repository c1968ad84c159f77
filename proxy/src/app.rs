//! The one place that knows every module: from a checked configuration to a running edge, and from a signal to its end.
//!
//! Invariant: the edge is ready only when everything is, and stops being ready before anything stops.

use std::sync::Arc;
use std::time::Duration;

use pierhead_config::Config;
use pingora_core::protocols::http::ServerSession;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::admin::Admin;
use crate::admin::health::{Check, Health};
use crate::admin::metrics::Metrics;
use crate::cache::OpenError;
use crate::front::{Application, BindError, Connection, Drain, Listener, Phase, Reuse};
use crate::logging::Logging;

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
    /// A second signal.
    #[error("stopped at once by a second signal")]
    Interrupted,
}

/// Runs an edge until it is told to stop.
pub(crate) fn serve(config: Config) -> Result<(), AppError> {
    let logging = Logging::start();
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

    let phase = drain.clone();
    let health =
        Arc::new(Health::default().with(Check::Instance, "listeners", move || phase.phase() == Phase::Serving));
    let _ = logging.access_log(config.access_log);
    let application = Arc::new(Nothing);

    for listener in listeners {
        tracing::info!(listener = listener.name(), address = %listener.address(), "listening");
        drain.spawn(listener.serve(Arc::clone(&application), drain.clone(), Arc::clone(&metrics)));
    }
    tracing::info!(listener = "admin", address = %admin.address(), "listening");
    tokio::spawn(async move {
        if let Err(error) = admin.serve(health, metrics).await {
            tracing::error!(%error, "the admin listener ended");
        }
    });
    drain.advance(Phase::Serving);
    tracing::info!("ready");
    stop.received().await;
    tokio::select! {
        () = leave(&drain, config.drain_wait, config.drain_timeout) => Ok(()),
        () = stop.received() => Err(AppError::Interrupted),
    }
}

/// The end, in its order: not ready, then not accepting, then not running.
async fn leave(drain: &Drain, wait: Duration, limit: Duration) {
    drain.advance(Phase::Leaving);
    tracing::info!(seconds = wait.as_secs_f64(), "stopping: no longer ready");
    tokio::time::sleep(wait).await;
    drain.advance(Phase::Draining);
    tracing::info!(seconds = limit.as_secs_f64(), "stopping: no longer accepting, waiting for running requests");
    match drain.wait(limit).await {
        0 => tracing::info!("stopped"),
        unfinished => tracing::warn!(unfinished, "stopped before all requests were finished"),
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

struct Nothing;

impl Application for Nothing {
    async fn handle(self: &Arc<Self>, session: &mut ServerSession, _connection: &Connection) -> Reuse {
        match session.respond_error(404).await {
            Ok(()) => Reuse::Keep,
            Err(_) => Reuse::Close,
        }
    }
}

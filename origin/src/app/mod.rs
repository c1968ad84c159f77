//! The one place that knows every module: from a checked configuration to a running origin, from a signal to its end.
//!
//! Invariant: the origin is ready only when everything is, and stops being ready before anything stops.

mod arriving;
mod backup;
mod cleartext;
mod collect;
mod connection;
mod error;
mod listener;
mod reload;
mod socket;
mod stop;
mod store;
mod tls;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper_util::service::TowerToHyperService;
use pierhead_config::{DatabaseKind, OriginConfig, OriginLimits, RegistryState, Storage};
use pierhead_registry::store::StoreError;
use pierhead_service::descriptors::raise_limit;
use pierhead_service::logging::{AccessLog, Logging};
use pierhead_service::shares::{Room, Rules};
use pierhead_service::signals::{Signals, Told};
use pierhead_service::supervisor;
use pierhead_service::told::contains;
use serde_json::json;

pub(crate) use self::backup::{backup, restore};
pub(crate) use self::collect::collect;
pub(crate) use self::error::AppError;
use self::listener::{Listener, Patience, Running, Served};
use self::tls::Tls;
use crate::api::{self, Origin, Parts};
use crate::auth::Auth;
use crate::meta::{Meta, OpenError};
use crate::metrics::Metrics;
use crate::outcome::Outcome;
use crate::owner;
use crate::workers::Workers;

/// Threads for files and password hashes.
const BLOCKING_THREADS: usize = 64;

/// How long blocking work that nobody waits for may still run at the end.
const LAST_WORK: Duration = Duration::from_secs(1);

/// Connections of operators at a time; more wait.
const OPERATORS: u64 = 64;

/// Descriptors that a client may need: one that pushes its own, a file's and the directory's.
const DESCRIPTORS: u64 = 3;

/// Connections that wait for a place, and how long.
const WAITING: u64 = 1024;
const WAIT: Duration = Duration::from_secs(60);

/// How long they may be silent or take nothing.
const OPERATORS_PATIENCE: Duration = Duration::from_secs(30);

/// Reads a configuration and the files that it names, and asks the bucket. What works, and will not please clients, is a warning.
pub(crate) fn check(path: &Path) -> Result<Outcome, AppError> {
    let config = OriginConfig::load(path)?;
    let mut warnings = Vec::new();
    if let Some(files) = &config.listener.tls {
        let tls = Tls::new(files)?;
        let doubt = tls.doubt(SystemTime::now());
        warnings.extend(doubt.map(|(file, doubt)| format!("listener.tls.cert: {}: {doubt}", file.display())));
    }
    warnings.extend(unusable(&config)?);
    warnings.iter().for_each(|warning| eprintln!("{warning}"));
    let json = json!({ "config": path, "ok": true, "warnings": warnings });
    Ok(Outcome::new(format!("{}: ok", path.display()), json))
}

/// Why a bucket or the database's files cannot be used. A bucket that refuses is an error; one that does not answer may do so later.
/// A check makes no files on this machine; in a bucket it writes the object of the health check.
fn unusable(config: &OriginConfig) -> Result<Option<String>, AppError> {
    if let DatabaseKind::Sqlite(file) = &config.database.kind
        && let Some(objection) = owner::objection_to(file)
    {
        return Err(OpenError::Owner(objection).into());
    }
    let Storage::S3(_) = &config.storage else { return Ok(None) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AppError::Runtime)?;
    let answer = runtime.block_on(async { store::verify(store::open(&config.storage).await?.as_ref()).await });
    match answer {
        Ok(()) => Ok(None),
        Err(error @ StoreError::Refused(_)) if config.registry_state == RegistryState::Normal => Err(error.into()),
        Err(error) => Ok(Some(format!("storage: {error}"))),
    }
}

/// Runs an origin until it is told to stop.
pub(crate) fn serve(path: &Path) -> Result<(), AppError> {
    let config = OriginConfig::load(path)?;
    let tls = config.listener.tls.as_ref().map(Tls::new).transpose()?.map(Arc::new);
    let logging = Logging::start();
    raise_limit(DESCRIPTORS * config.limits.max_connections);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("origin")
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(AppError::Runtime)?;
    let outcome = runtime.block_on(run(path, config, tls, &logging));
    runtime.shutdown_timeout(LAST_WORK);
    outcome
}

async fn run(path: &Path, config: OriginConfig, tls: Option<Arc<Tls>>, logging: &Logging) -> Result<(), AppError> {
    let mut signals = Signals::listen().map_err(AppError::Runtime)?;
    let metrics = Arc::new(Metrics::new()?);
    tls.as_deref().inspect(|tls| warn_of(tls));
    let (clients, operators) = (
        Listener::open("registry", "listener", config.listener.bind)?,
        Listener::open("admin", "admin", config.admin)?,
    );
    // Whether a line is written is looked at for each: SIGHUP may change it.
    let log = logging.access_log(true);
    let parts = tokio::select! {
        parts = parts(&config, Arc::clone(&metrics), log) => parts?,
        () = signals.stop() => return Ok(()),
    };
    let origin = Arc::new(Origin::new(config, parts));
    let config = origin.live();
    let limits = &config.limits;
    let running = Running::default();
    let places = Places {
        registry: connections("connection", limits.max_connections, limits, &metrics),
        operators: connections("admin_connection", OPERATORS, limits, &metrics),
    };
    let registry = Served {
        service: TowerToHyperService::new(api::router(&origin)),
        tls: tls.clone(),
        connections: Arc::clone(&places.registry),
        trusted: trusted(&origin),
        patience: patience(&origin),
        metrics: metrics.listener("registry"),
    };
    // While the origin finishes its work operators still want to see it: they are told to go last.
    let watching = Running::default();
    let admin = Served {
        service: TowerToHyperService::new(api::operators(&origin)),
        tls: None,
        connections: Arc::clone(&places.operators),
        trusted: Arc::new(|_| false),
        patience: Arc::new(|| Patience { header: OPERATORS_PATIENCE, idle: OPERATORS_PATIENCE }),
        metrics: metrics.listener("admin"),
    };
    tokio::spawn(clients.serve(registry, running.clone()));
    tokio::spawn(operators.serve(admin, watching));
    let workers = Workers::start(&origin);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), process = std::process::id(), "ready");
    supervisor::ready();
    supervisor::beat();
    loop {
        match signals.next().await {
            Told::Stop => break,
            Told::Reload => {
                supervisor::reloading();
                reload::reload(path, &origin, &places, tls.as_deref()).await;
                supervisor::ready();
            }
            Told::Upgrade => {
                tracing::info!("an origin is not replaced while it runs: start another node, then stop this one");
            }
        }
    }
    supervisor::stopping();
    let left = async {
        let live = origin.live();
        let (wait, limit) = (live.drain_wait, live.drain_timeout);
        tokio::join!(stop::leave(&origin.standing, &running, wait, limit), workers.stop());
    };
    tokio::select! {
        () = left => {}
        () = signals.stop() => return Err(AppError::Interrupted),
    }
    // A copy of the database's file alone is whole from here on.
    origin.meta.close().await;
    Ok(())
}

/// Which peers are trusted proxies, under the configuration as it is when they connect.
fn trusted(origin: &Arc<Origin>) -> Arc<dyn Fn(IpAddr) -> bool + Send + Sync> {
    let origin = Arc::clone(origin);
    Arc::new(move |peer| contains(&origin.live().listener.trusted_proxies, peer))
}

/// How long clients may take, under the configuration as it is when they connect.
fn patience(origin: &Arc<Origin>) -> Arc<dyn Fn() -> Patience + Send + Sync> {
    let origin = Arc::clone(origin);
    Arc::new(move || {
        let live = origin.live();
        Patience { header: live.limits.header_timeout, idle: live.limits.idle_timeout }
    })
}

/// Places for connections.
struct Places {
    registry: Arc<Room>,
    operators: Arc<Room>,
}

impl Places {
    /// Other limits. Connections that are open stay open.
    fn change(&self, limits: &OriginLimits) {
        raise_limit(DESCRIPTORS * limits.max_connections);
        self.registry.resize(limits.max_connections, api::floor(limits));
        self.operators.resize(OPERATORS, api::floor(limits));
    }
}

fn connections(kind: &'static str, room: u64, limits: &OriginLimits, metrics: &Metrics) -> Arc<Room> {
    let rules = Rules { kind, room, queue: WAITING, wait: WAIT, floor: api::floor(limits), reserve: true };
    Room::new(rules, metrics.gate(kind))
}

/// What requests are answered with.
async fn parts(config: &OriginConfig, metrics: Arc<Metrics>, log: AccessLog) -> Result<Parts, AppError> {
    let store = store::open(&config.storage).await?;
    match store::verify(store.as_ref()).await {
        Ok(()) => {}
        // A bucket that is not there, or credentials that are not good: nothing that waiting would mend.
        Err(error @ StoreError::Refused(_)) if config.registry_state == RegistryState::Normal => {
            return Err(error.into());
        }
        // It may come back; health says so until then.
        Err(error) => tracing::warn!(part = "storage", %error, "not well"),
    }
    let meta = Meta::open(&config.database).await?;
    let auth = Auth::open(meta.clone(), &config.hostname, &config.auth).await;
    let auth = auth.map_err(|error| match OpenError::full(&config.database.kind) {
        Some(full) if error.is_full() => full.into(),
        _ => AppError::from(error),
    })?;
    Ok(Parts { meta, store, auth, metrics, log })
}

fn warn_of(tls: &Tls) {
    if let Some((file, doubt)) = tls.doubt(SystemTime::now()) {
        tracing::warn!(file = %file.display(), "{doubt}");
    }
}

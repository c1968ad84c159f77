//! The faces of the origin over HTTP: the registry API, tokens, `/api/v1`, health; and on a listener of its own what operators see.
//!
//! The way of every request: [`asked`] finds out who asks for what and gives it a name, [`access`] writes down what became of it,
//! [`admission`] lets in so many at a time, and then the router knows whose it is.

mod access;
mod admission;
mod asked;
mod cross_site;
mod departures;
mod health;
mod inert;
mod operators;
mod outgoing;
mod paced;
mod refusal;
mod registry;
mod token;
mod v1;
mod whole;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::Response;
use axum::routing::any;
use http::StatusCode;
use pierhead_config::OriginConfig;
use pierhead_registry::oci::ErrorCode;
use pierhead_registry::store::BlobStore;
use pierhead_service::logging::AccessLog;
use tokio::sync::watch;

use self::admission::Admission;
pub(crate) use self::admission::floor;
use self::asked::Asked;
pub(crate) use self::departures::Departures;
use self::health::Checks;
pub(crate) use self::operators::operators;
pub(crate) use self::outgoing::{Lane, first_of_a_file, stands_for_a_file};
use crate::auth::Auth;
use crate::meta::Meta;
use crate::metrics::Metrics;
use crate::registry::Registry;

/// The connection that a request came over.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// Who connected.
    pub(crate) peer: SocketAddr,
    /// The address of this machine that it reached.
    pub(crate) reached: SocketAddr,
    /// Whether over TLS.
    pub(crate) secure: bool,
    /// By which files are sent, where the kernel can send them.
    pub(crate) lane: Option<Lane>,
    /// What is on its way over it.
    pub(crate) departures: Arc<Departures>,
}

/// Whether this process takes part, or is about to leave.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    leaving: AtomicBool,
}

impl Standing {
    /// From here on it says that it is not ready. There is no way back.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether it does.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }
}

/// All parts of a running origin, for those who answer requests.
pub(crate) struct Origin {
    /// The database.
    pub(crate) meta: Meta,
    /// Blobs.
    pub(crate) store: Arc<dyn BlobStore>,
    /// Accounts, rights and tokens.
    pub(crate) auth: Auth,
    /// Push and pull.
    pub(crate) registry: Arc<Registry>,
    /// What is counted.
    pub(crate) metrics: Arc<Metrics>,
    /// Whether it is ready.
    pub(crate) standing: Standing,
    live: watch::Sender<Arc<OriginConfig>>,
    log: AccessLog,
    admission: Admission,
    checks: Checks,
}

impl Origin {
    /// The configuration that holds now: as it was last read, but for keys that need a restart, which are as they were at the start.
    pub(crate) fn live(&self) -> Arc<OriginConfig> {
        Arc::clone(&self.live.borrow())
    }

    /// The same, for a worker that waits for another.
    pub(crate) fn watch_live(&self) -> watch::Receiver<Arc<OriginConfig>> {
        self.live.subscribe()
    }

    /// From here on, this configuration holds. Requests and connections that have begun keep their places.
    pub(crate) fn set_live(&self, live: OriginConfig) {
        self.admission.change(&live.limits);
        self.registry.set_bounds(&live);
        self.live.send_replace(Arc::new(live));
    }
}

/// What an origin is made of.
pub(crate) struct Parts {
    /// See [`Origin`].
    pub(crate) meta: Meta,
    /// See [`Origin`].
    pub(crate) store: Arc<dyn BlobStore>,
    /// See [`Origin`].
    pub(crate) auth: Auth,
    /// See [`Origin`].
    pub(crate) metrics: Arc<Metrics>,
    /// One line a request.
    pub(crate) log: AccessLog,
}

impl Origin {
    /// Puts them together.
    pub(crate) fn new(config: OriginConfig, parts: Parts) -> Origin {
        let Parts { meta, store, auth, metrics, log } = parts;
        let admission = Admission::new(&config.limits, &metrics);
        let registry = Arc::new(Registry::new(meta.clone(), Arc::clone(&store), Arc::clone(&metrics), &config));
        let checks = Checks::new(&config);
        let standing = Standing::default();
        let live = watch::Sender::new(Arc::new(config));
        Origin { meta, store, auth, registry, metrics, standing, live, log, admission, checks }
    }
}

/// Layer: turns away what a browser sends for a page of another site.
async fn refuse_foreign(State(origin): State<Arc<Origin>>, request: Request, next: Next) -> Response {
    let asked = request.extensions().get::<Arc<Asked>>();
    let live = origin.live();
    let hosts: Vec<&str> = asked.map(|asked| asked.host.as_str()).into_iter().chain([live.hostname.as_str()]).collect();
    if !cross_site::is_foreign(request.method(), request.headers(), &hosts) {
        return next.run(request).await;
    }
    if request.uri().path().starts_with("/api/") {
        return v1::foreign();
    }
    refusal::refusal(StatusCode::FORBIDDEN, ErrorCode::Denied, "a page of another site must not change anything here")
}

/// What clients reach.
pub(crate) fn router(origin: &Arc<Origin>) -> Router {
    Router::new()
        .merge(health::routes())
        .route("/v2", any(registry::answer))
        .route("/v2/", any(registry::answer))
        .route("/v2/{*rest}", any(registry::answer))
        .merge(token::routes())
        .merge(v1::routes(origin))
        .fallback(refusal::nothing_here)
        .layer(from_fn_with_state(Arc::clone(origin), admission::admit))
        .layer(from_fn_with_state(Arc::clone(origin), refuse_foreign))
        .layer(from_fn_with_state(Arc::clone(origin), access::record))
        .layer(map_response(inert::mark))
        .with_state(Arc::clone(origin))
}

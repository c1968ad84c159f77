//! The operators' API, below `/api/v1/`.
//!
//! Its description is derived from the routes and the shapes themselves, so it cannot say anything else than what is
//! done. What was changed is in the log: by the pool, by the reload, by the closing of a connection.

mod cache;
mod certificates;
mod error;
mod extract;
mod guard;
mod pools;
mod reload;
mod sessions;
pub(crate) mod shape;
#[cfg(test)]
pub(super) mod tests;
mod version;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use pierhead_config::Secret;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) use self::error::ApiError;
pub(crate) use self::error::UNKNOWN_REGISTRY;
use self::guard::{Guard, SLOWED};
use super::control::Control;
use super::metrics::Metrics;
use super::sessions::Sessions;
use crate::cache::Cache;
use crate::front::ListenerCertificates;
use crate::pool::Pools;

/// Largest body of a request.
const BODY_LIMIT: usize = 16 * 1024;

/// For a whole request: a reload looks at files and asks DNS.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What the API shows and steers.
pub(crate) struct Operated {
    /// The pools of the newest configuration.
    pub(crate) pools: Box<dyn Fn() -> Arc<Pools> + Send + Sync>,
    /// The store, where there is one.
    pub(crate) cache: Box<dyn Fn() -> Option<Arc<Cache>> + Send + Sync>,
    /// Whether the newest configuration has a registry of this name.
    pub(crate) is_registry: Box<dyn Fn(&str) -> bool + Send + Sync>,
    /// What listeners show.
    pub(crate) certificates: Box<dyn Fn() -> Vec<ListenerCertificates> + Send + Sync>,
    /// The open connections.
    pub(crate) sessions: Arc<Sessions>,
    /// The edge as a whole.
    pub(crate) control: Arc<dyn Control>,
}

/// What all handlers see.
struct Shared {
    operated: Operated,
    metrics: Arc<Metrics>,
    guard: Guard,
    started: SystemTime,
}

type Seen = State<Arc<Shared>>;

#[derive(OpenApi)]
#[openapi(info(title = "pierhead", description = "What operators see of an edge, and what they may ask of it."))]
struct Document;

/// All routes.
pub(super) fn router(operated: Operated, token: Option<&Secret>, metrics: Arc<Metrics>) -> Router {
    let guard = Guard::new(token);
    let shared = Arc::new(Shared { operated, metrics, guard, started: SystemTime::now() });
    let (router, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(pools::list))
        .routes(routes!(pools::show))
        .routes(routes!(pools::server, pools::order))
        .routes(routes!(sessions::list))
        .routes(routes!(sessions::close))
        .routes(routes!(cache::stats))
        .routes(routes!(cache::repositories))
        .routes(routes!(cache::images))
        .routes(routes!(cache::why))
        .routes(routes!(cache::purge))
        .routes(routes!(cache::pin))
        .routes(routes!(cache::unpin))
        .routes(routes!(certificates::list))
        .routes(routes!(reload::status, reload::reload))
        .routes(routes!(reload::upgrade))
        .routes(routes!(version::show))
        .split_for_parts();
    let token = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    document.components.get_or_insert_default().add_security_scheme("token", token);
    // Maps with text as keys always serialise.
    let document = document.to_json().unwrap_or_default();
    let described = move || async move { ([(header::CONTENT_TYPE, "application/json")], document.clone()) };
    router
        .route("/api/v1/openapi.json", get(described))
        .route("/api/{*path}", axum::routing::any(async || ApiError::NoRoute))
        .method_not_allowed_fallback(async || ApiError::NoMethod)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(from_fn_with_state(Arc::clone(&shared), guarded))
        .with_state(shared)
}

/// What every request goes through.
async fn guarded(State(shared): Seen, request: Request, next: Next) -> Response {
    let admitted = shared.guard.admit(request.method(), request.headers());
    let mut response = match admitted {
        Ok(()) => match tokio::time::timeout(TIMEOUT, next.run(request)).await {
            Ok(response) => response,
            Err(_) => ApiError::Timeout(TIMEOUT.as_secs()).into_response(),
        },
        Err(refused) => {
            tracing::warn!(path = request.uri().path(), reason = %refused, "request to the API refused");
            if refused == ApiError::Unauthorized {
                tokio::time::sleep(SLOWED).await;
            }
            refused.into_response()
        }
    };
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    shared.metrics.api_request(response.status().as_str());
    response
}

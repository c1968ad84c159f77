//! What operators see, on a listener of their own: health, metrics, and a page that says what is where.
//!
//! It stands on an address of its own, so that whoever may pull images may not read metrics.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};

use super::{Origin, health, inert};

const PAGE: &str = concat!(
    "pierhead-origin ",
    env!("CARGO_PKG_VERSION"),
    "\n\n/health/instance   whether this process serves\n/health/endtoend   whether what it depends on works\n",
    "/health/warning    whether a disk is filling up\n/metrics           for Prometheus\n"
);

/// The router of that listener.
pub(crate) fn operators(origin: &Arc<Origin>) -> Router {
    Router::new()
        .route("/", get(async || PAGE))
        .route("/metrics", get(metrics))
        .merge(health::routes())
        .layer(map_response(inert::mark))
        .with_state(Arc::clone(origin))
}

async fn metrics(State(origin): State<Arc<Origin>>) -> Response {
    match origin.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

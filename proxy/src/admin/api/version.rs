//! What runs.

use axum::Json;
use axum::extract::State;

use super::Seen;
use super::shape::{ErrorBody, Version, time};

/// What runs.
#[utoipa::path(get, path = "/api/v1/version", operation_id = "version", security(("token" = [])),
    responses((status = 200, body = Version), (status = 401, body = ErrorBody)))]
pub(super) async fn show(State(shared): Seen) -> Json<Version> {
    Json(Version {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: time(shared.started),
    })
}

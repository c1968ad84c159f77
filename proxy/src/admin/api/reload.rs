//! The configuration: which one is in use, and reading it again; and the program: having another take over.

use axum::Json;
use axum::extract::State;

use super::Seen;
use super::error::ApiError;
use super::shape::{ErrorBody, Reload};

/// Which configuration is in use, and what came of the last look at the file.
#[utoipa::path(get, path = "/api/v1/reload", operation_id = "reload_status", security(("token" = [])),
    responses((status = 200, body = Reload), (status = 401, body = ErrorBody)))]
pub(super) async fn status(State(shared): Seen) -> Json<Reload> {
    Json(Reload::from(shared.operated.control.status()))
}

/// Reads the configuration again. A file that cannot be used changes nothing.
#[utoipa::path(post, path = "/api/v1/reload", operation_id = "reload", security(("token" = [])),
    responses((status = 200, body = Reload), (status = 401, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub(super) async fn reload(State(shared): Seen) -> Result<Json<Reload>, ApiError> {
    shared.operated.control.reload().await.map(Reload::from).map(Json).map_err(ApiError::NotReloaded)
}

/// Has the program that now lies where this one was started from take over. When it cannot, this process serves on.
#[utoipa::path(post, path = "/api/v1/upgrade", operation_id = "upgrade", security(("token" = [])),
    responses((status = 200, body = Reload), (status = 401, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub(super) async fn upgrade(State(shared): Seen) -> Result<Json<Reload>, ApiError> {
    shared.operated.control.upgrade().await.map(Reload::from).map(Json).map_err(ApiError::NotUpgraded)
}

//! The open connections.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Seen;
use super::error::ApiError;
use super::extract::Asked;
use super::shape::{ErrorBody, Session, SessionList};

/// How many are shown unless asked otherwise.
const SHOWN: usize = 1000;

/// Which to show.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Those of a listener.
    listener: Option<String>,
    /// Those that go to a pool.
    pool: Option<String>,
    /// Those that go to a server of this name.
    server: Option<String>,
    /// How many at the most; 1000 unless given.
    limit: Option<usize>,
}

/// The open connections.
#[utoipa::path(get, path = "/api/v1/sessions", operation_id = "list_sessions", security(("token" = [])),
    params(Wanted), responses((status = 200, body = SessionList), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody)))]
pub(super) async fn list(State(shared): Seen, Asked(wanted): Asked<Wanted>) -> Result<Json<SessionList>, ApiError> {
    let is = |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|name| found == Some(name));
    let mut sessions = Vec::new();
    let mut total = 0;
    for session in shared.operated.sessions.list() {
        let view = session.view();
        if is(&wanted.listener, Some(&view.listener))
            && is(&wanted.pool, view.pool.as_deref())
            && is(&wanted.server, view.server.as_deref())
        {
            total += 1;
            if sessions.len() < wanted.limit.unwrap_or(SHOWN) {
                sessions.push(Session::from(view));
            }
        }
    }
    Ok(Json(SessionList { total, sessions }))
}

/// Closes a connection, whatever it is at.
#[utoipa::path(delete, path = "/api/v1/sessions/{id}", operation_id = "close_session", security(("token" = [])),
    params(("id" = u64, Path, description = "Its number.")),
    responses((status = 204, description = "It is being closed."), (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
pub(super) async fn close(State(shared): Seen, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    if id.parse().is_ok_and(|number| shared.operated.sessions.close(number)) {
        tracing::info!(id, "an operator closed a connection");
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::NotFound { what: "session", name: id })
    }
}

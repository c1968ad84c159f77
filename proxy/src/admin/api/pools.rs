//! Pools and their servers: what is known of them, and what operators want of them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};

use super::Seen;
use super::error::ApiError;
use super::extract::Sent;
use super::shape::{ErrorBody, Order, Pool, PoolList, Server};
use crate::pool::{self, Operator};

/// All pools, with their servers.
#[utoipa::path(get, path = "/api/v1/pools", operation_id = "list_pools", security(("token" = [])),
    responses((status = 200, body = PoolList), (status = 401, body = ErrorBody)))]
pub(super) async fn list(State(shared): Seen) -> Json<PoolList> {
    let pools = (shared.operated.pools)();
    Json(PoolList { pools: pools.iter().map(|pool| Pool::from(pool.view())).collect() })
}

/// One pool.
#[utoipa::path(get, path = "/api/v1/pools/{pool}", operation_id = "show_pool", security(("token" = [])),
    params(("pool" = String, Path, description = "Its name.")),
    responses((status = 200, body = Pool), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(super) async fn show(State(shared): Seen, Path(pool): Path<String>) -> Result<Json<Pool>, ApiError> {
    Ok(Json(Pool::from(named(&shared.operated.pools, &pool)?.view())))
}

/// One server of a pool.
#[utoipa::path(get, path = "/api/v1/pools/{pool}/servers/{server}", operation_id = "show_server",
    security(("token" = [])),
    params(("pool" = String, Path, description = "The pool's name."),
        ("server" = String, Path, description = "The server's name in the pool.")),
    responses((status = 200, body = Server), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(super) async fn server(
    State(shared): Seen,
    Path((pool, server)): Path<(String, String)>,
) -> Result<Json<Server>, ApiError> {
    Ok(Json(viewed(&*named(&shared.operated.pools, &pool)?, &server)?))
}

/// Tells what is wanted of a server. It holds until it is told otherwise, through reloads and upgrades, and not beyond a restart.
#[utoipa::path(post, path = "/api/v1/pools/{pool}/servers/{server}", operation_id = "order_server",
    security(("token" = [])), request_body = Order,
    params(("pool" = String, Path, description = "The pool's name."),
        ("server" = String, Path, description = "The server's name in the pool.")),
    responses((status = 200, body = Server), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 422, body = ErrorBody)))]
pub(super) async fn order(
    State(shared): Seen,
    Path((pool, server)): Path<(String, String)>,
    Sent(order): Sent<Order>,
) -> Result<Json<Server>, ApiError> {
    let of = named(&shared.operated.pools, &pool)?;
    let known = match order {
        Order::Drain {} => of.operate(&server, Operator::Drain),
        Order::Maintenance {} => of.operate(&server, Operator::Maintenance),
        Order::Ready {} => of.operate(&server, Operator::Ready),
        Order::Weight { weight } => of.set_weight(&server, weight),
    };
    if !known {
        return Err(unknown_server(&server));
    }
    Ok(Json(viewed(&of, &server)?))
}

fn named(pools: &dyn Fn() -> Arc<pool::Pools>, name: &str) -> Result<Arc<pool::Pool>, ApiError> {
    pools().get(name).cloned().ok_or_else(|| ApiError::NotFound { what: "pool", name: name.to_owned() })
}

fn viewed(pool: &pool::Pool, server: &str) -> Result<Server, ApiError> {
    let found = pool.view().servers.into_iter().find(|view| view.name == server);
    found.map(Server::from).ok_or_else(|| unknown_server(server))
}

fn unknown_server(name: &str) -> ApiError {
    ApiError::NotFound { what: "server", name: name.to_owned() }
}

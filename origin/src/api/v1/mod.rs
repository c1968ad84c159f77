//! `/api/v1`: accounts, rights, repositories and tags, with Quay's paths and shapes, for Quay's clients and habits.
//!
//! Every handler says what it takes and gives in types; the document at `/api/v1/discovery` is generated from those, so there is no second
//! description that could differ. What changes something is one transaction, with its line in the action log.

mod app_tokens;
mod error;
mod extract;
mod ignored;
mod logs;
mod organizations;
mod page;
mod path;
mod permissions;
mod prototypes;
mod repositories;
mod required;
mod robots;
mod superusers;
mod tags;
mod teams;
mod users;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Extension, Router};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WARNING};
use http::{StatusCode, Uri};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::error::ApiError;
use self::ignored::Ignored;
use super::Origin;
use super::asked::Asked;

/// Largest body of a request.
const BODY_LIMIT: usize = 64 * 1024;
/// For a whole request.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(OpenApi)]
#[openapi(info(
    title = "pierhead-origin",
    description = "Accounts, rights, repositories and tags. Log in with a user name and password, or with an application token as a bearer."
))]
struct Document;

/// All routes below `/api`.
pub(super) fn routes(origin: &Arc<Origin>) -> Router<Arc<Origin>> {
    let (router, mut document) = described().split_for_parts();
    let components = document.components.get_or_insert_default();
    for (name, scheme) in [("password", HttpAuthScheme::Basic), ("application", HttpAuthScheme::Bearer)] {
        components.add_security_scheme(name, SecurityScheme::Http(HttpBuilder::new().scheme(scheme).build()));
    }
    let nothing: [&str; 0] = [];
    let requirement = |name: &str| SecurityRequirement::new(name, nothing);
    document.security = Some(vec![requirement("password"), requirement("application"), SecurityRequirement::default()]);
    // Maps with text as keys always serialise.
    let document = document.to_json().unwrap_or_default();
    let discovery = move || async move { ([(CONTENT_TYPE, "application/json")], document.clone()) };
    let inner = router
        .route("/api/v1/discovery", get(discovery))
        .route("/api/v1/error/{kind}", get(kind_of_error))
        .fallback(unknown)
        .method_not_allowed_fallback(async || {
            ApiError::Refused(StatusCode::METHOD_NOT_ALLOWED, "not with this method; see /api/v1/discovery".to_owned())
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(from_fn_with_state(Arc::clone(origin), guarded))
        .with_state(Arc::clone(origin));
    // A service of its own: its paths are made canonical before they are looked up.
    let inner = TowerToHyperService::new(inner);
    let enter = move |Extension(asked): Extension<Arc<Asked>>, request: Request| {
        let inner = inner.clone();
        async move {
            let base = asked.url("");
            let response = match canonical(request, asked) {
                Ok(request) => match inner.call(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                },
                Err(error) => error.into_response(),
            };
            error::locate(response, &base)
        }
    };
    Router::new().route("/api/{*path}", any(enter))
}

async fn unknown(uri: Uri) -> ApiError {
    match path::unserved(uri.path()) {
        Some(part) => ApiError::NotServed(part),
        None => ApiError::NotFound("thing; see /api/v1/discovery"),
    }
}

/// What the `type` of an error leads to.
async fn kind_of_error(Path(kind): Path<String>) -> Result<Response, ApiError> {
    let description = error::describe(&kind).ok_or(ApiError::NotFound("kind of error"))?;
    let body = json!({ "type": format!("/api/v1/error/{kind}"), "title": kind, "description": description });
    Ok(axum::Json(body).into_response())
}

/// The answer to a request that a browser sends for a page of another site.
pub(super) fn foreign() -> Response {
    let message = "a page of another site must not change anything here".to_owned();
    ApiError::Refused(StatusCode::FORBIDDEN, message).into_response()
}

fn canonical(request: Request, asked: Arc<Asked>) -> Result<Request, ApiError> {
    let (mut parts, body) = request.into_parts();
    let path = path::canonical(parts.uri.path());
    let target = parts.uri.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    parts.uri = target.parse::<Uri>().map_err(|_| ApiError::invalid("this is no path"))?;
    // What the outer router found in the path would be taken for names of the inner one's.
    parts.extensions.clear();
    parts.extensions.insert(asked);
    Ok(Request::from_parts(parts, body))
}

/// What every request goes through.
async fn guarded(State(origin): State<Arc<Origin>>, mut request: Request, next: Next) -> Response {
    let changes = !request.method().is_safe();
    let ignored = Ignored::default();
    request.extensions_mut().insert(ignored.clone());
    let mut response = if changes && origin.live().is_read_only() {
        let message = "the registry is read-only for now".to_owned();
        ApiError::Refused(StatusCode::METHOD_NOT_ALLOWED, message).into_response()
    } else {
        match tokio::time::timeout(TIMEOUT, next.run(request)).await {
            Ok(response) => response,
            Err(_) => {
                ApiError::Later(StatusCode::SERVICE_UNAVAILABLE, 10, "it took too long".to_owned()).into_response()
            }
        }
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(warning) = ignored.warning() {
        response.headers_mut().insert(WARNING, warning);
    }
    response
}

fn described() -> OpenApiRouter<Arc<Origin>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(organizations::create))
        .routes(routes!(organizations::show, organizations::edit, organizations::delete))
        .routes(routes!(organizations::members))
        .routes(routes!(organizations::member, organizations::remove_member))
        .routes(routes!(teams::put, teams::delete))
        .routes(routes!(teams::members))
        .routes(routes!(teams::add_member, teams::remove_member))
        .routes(routes!(teams::permissions))
        .routes(routes!(robots::of_organization))
        .routes(routes!(robots::one_of_organization, robots::create_of_organization, robots::delete_of_organization))
        .routes(routes!(robots::regenerate_of_organization))
        .routes(routes!(robots::permissions_of_organization))
        .routes(routes!(robots::of_user))
        .routes(routes!(robots::one_of_user, robots::create_of_user, robots::delete_of_user))
        .routes(routes!(robots::regenerate_of_user))
        .routes(routes!(robots::permissions_of_user))
        .routes(routes!(prototypes::list, prototypes::create))
        .routes(routes!(prototypes::edit, prototypes::delete))
        .routes(routes!(repositories::create, repositories::list))
        .routes(routes!(repositories::show, repositories::describe, repositories::delete))
        .routes(routes!(repositories::change_visibility))
        .routes(routes!(repositories::change_state))
        .routes(routes!(permissions::users))
        .routes(routes!(permissions::user, permissions::grant_user, permissions::revoke_user))
        .routes(routes!(permissions::transitive))
        .routes(routes!(permissions::teams))
        .routes(routes!(permissions::team, permissions::grant_team, permissions::revoke_team))
        .routes(routes!(tags::list))
        .routes(routes!(tags::put, tags::delete))
        .routes(routes!(tags::restore))
        .routes(routes!(users::me, users::edit))
        .routes(routes!(users::show))
        .routes(routes!(users::star))
        .routes(routes!(users::unstar))
        .routes(routes!(app_tokens::list, app_tokens::create))
        .routes(routes!(app_tokens::show, app_tokens::revoke))
        .routes(routes!(logs::of_organization))
        .routes(routes!(logs::of_repository))
        .routes(routes!(logs::of_user))
        .routes(routes!(logs::of_all))
        .routes(routes!(logs::counts_of_organization))
        .routes(routes!(logs::counts_of_repository))
        .routes(routes!(logs::counts_of_user))
        .routes(routes!(logs::counts_of_all))
        .routes(routes!(superusers::users, superusers::create_user))
        .routes(routes!(superusers::user, superusers::edit_user, superusers::delete_user))
        .routes(routes!(superusers::organizations))
        .routes(routes!(superusers::delete_organization))
}

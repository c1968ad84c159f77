//! `/api/v1`: accounts, rights, repositories and tags, with Quay's paths and shapes, for Quay's clients and habits.
//!
//! Every handler says what it takes and gives in types; the document at `/api/v1/discovery` is generated from those, so there is no second
//! description that could differ. What changes something is one transaction, with its line in the action log.

mod app_tokens;
mod error;
mod extract;
mod in_person;
mod logs;
mod organizations;
mod page;
mod path;
mod permissions;
mod prototypes;
mod repositories;
mod robots;
mod superusers;
mod tags;
mod teams;
mod users;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Extension, Router};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode, Uri};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use pierhead_config::RegistryState;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::error::ApiError;
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
    let readonly = origin.config.registry_state == RegistryState::ReadOnly;
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
        .fallback(async || ApiError::NotFound("thing; see /api/v1/discovery"))
        .method_not_allowed_fallback(async || {
            ApiError::Refused(StatusCode::METHOD_NOT_ALLOWED, "not with this method; see /api/v1/discovery".to_owned())
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(from_fn(move |request: Request, next: Next| guarded(readonly, request, next)))
        .with_state(Arc::clone(origin));
    // A service of its own: its paths are made canonical before they are looked up.
    let inner = TowerToHyperService::new(inner);
    let enter = move |Extension(asked): Extension<Arc<Asked>>, request: Request| {
        let inner = inner.clone();
        async move {
            let request = canonical(request, asked)?;
            match inner.call(request).await {
                Ok(response) => Ok::<Response, ApiError>(response),
                Err(never) => match never {},
            }
        }
    };
    Router::new().route("/api/{*path}", any(enter))
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
async fn guarded(readonly: bool, request: Request, next: Next) -> Response {
    let changes = !request.method().is_safe();
    let mut response = if changes && is_from_a_page(request.headers()) {
        ApiError::Forbidden.into_response()
    } else if changes && readonly {
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
    response
}

/// Whether a browser says that a page of somebody else asks: it would bring along the password that its user once typed.
fn is_from_a_page(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    site.is_some_and(|site| site != b"same-origin" && site != b"none")
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

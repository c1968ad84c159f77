//! The registry API, `/v2/…` (OCI distribution specification 1.1): requests to calls of the registry, and what they come to back to answers.
//!
//! Every request says in its token what it may do; who that token was given to, and why, is long decided. So the way is: what does it
//! ask for, may it, do it, answer.

mod authorise;
mod lists;
mod manifests;
mod pull;
mod query;
mod refusal;
mod sending;
mod uploads;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use pierhead_registry::oci::{Action, Endpoint, EndpointError, ErrorCode, RepositoryName};

use self::authorise::{Granted, Right};
use self::query::Query;
use self::refusal::Refusal;
use super::asked::Asked;
use super::{Connection, Lane, Origin};
use crate::registry::RegistryError;

/// What every answer says: it is version 2 of the API.
const VERSION: (HeaderName, HeaderValue) =
    (HeaderName::from_static("docker-distribution-api-version"), HeaderValue::from_static("registry/2.0"));

/// `Docker-Content-Digest`
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A request that was understood.
struct Wanted {
    origin: Arc<Origin>,
    asked: Arc<Asked>,
    method: Method,
    query: Query,
    lane: Option<Lane>,
}

/// Answers a request to `/v2/…`.
pub(super) async fn answer(State(origin): State<Arc<Origin>>, request: Request) -> Response {
    let Some(asked) = request.extensions().get::<Arc<Asked>>().cloned() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let mut response = match carry_out(Arc::clone(&origin), Arc::clone(&asked), request).await {
        Ok(response) => response,
        Err(refusal) => refusal.answer(&origin.auth, &asked.url(""), &asked.request_id),
    };
    response.headers_mut().extend([VERSION]);
    response
}

async fn carry_out(origin: Arc<Origin>, asked: Arc<Asked>, request: Request) -> Result<Response, Refusal> {
    let endpoint = Endpoint::parse(request.uri().path()).map_err(not_understood)?;
    let query = Query::parse(request.uri().query().unwrap_or_default())?;
    let lane = request.extensions().get::<Connection>().and_then(|connection| connection.lane.clone());
    let wanted = Wanted { lane, method: request.method().clone(), origin, asked, query };
    match endpoint {
        Endpoint::Ping => {
            wanted.only(&[Method::GET, Method::HEAD])?;
            wanted.granted(request.headers(), Right::Ping).await?;
            Ok(StatusCode::OK.into_response())
        }
        Endpoint::Catalog => {
            wanted.only(&[Method::GET, Method::HEAD])?;
            let granted = wanted.granted(request.headers(), Right::Catalog).await?;
            lists::catalog(&wanted, &granted).await
        }
        Endpoint::Repository { name, action } => {
            let name: RepositoryName = name.parse().map_err(Refusal::name)?;
            if !name.as_str().contains('/') {
                // A client that pushes looks for its blobs first, and would end at a bare 400: an answer to HEAD has no text.
                let looks = wanted.method == Method::HEAD && matches!(action, Action::Blob(_));
                return Err(if looks { RegistryError::NameUnknown.into() } else { Refusal::no_namespace(&name) });
            }
            repository(&wanted, &name, action, request).await
        }
    }
}

async fn repository(
    wanted: &Wanted,
    name: &RepositoryName,
    action: Action,
    request: Request,
) -> Result<Response, Refusal> {
    let methods: &[Method] = match &action {
        Action::Manifest(_) => &[Method::GET, Method::HEAD, Method::PUT, Method::DELETE],
        Action::Blob(_) => &[Method::GET, Method::HEAD, Method::DELETE],
        Action::Tags | Action::Referrers(_) => &[Method::GET, Method::HEAD],
        Action::Upload(None) => &[Method::POST],
        Action::Upload(Some(_)) => &[Method::GET, Method::HEAD, Method::PATCH, Method::PUT, Method::DELETE],
    };
    wanted.only(methods)?;
    let from = wanted.query.from.as_deref().filter(|_| wanted.query.mount.is_some());
    let from: Option<RepositoryName> = from.and_then(|from| from.parse().ok());
    let right = match (&wanted.method, &action, &from) {
        (&Method::POST, Action::Upload(None), Some(from)) => Right::Mount { to: name, from },
        // The status of an upload is for those who push.
        (_, Action::Upload(_), _) | (&Method::PUT, ..) => Right::Push(name),
        (&Method::DELETE, ..) => Right::Delete(name),
        _ => Right::Pull(name),
    };
    let granted = wanted.granted(request.headers(), right).await?;
    match action {
        Action::Manifest(reference) => manifests::answer(wanted, &granted, name, &reference, request).await,
        Action::Blob(digest) if wanted.method == Method::DELETE => {
            let performer = manifests::performer(wanted, &granted);
            wanted.origin.registry.delete_blob(name.as_str(), &digest, &performer).await?;
            Ok(StatusCode::ACCEPTED.into_response())
        }
        Action::Blob(digest) => pull::blob(wanted, name, &digest, request.headers()).await,
        Action::Tags => lists::tags(wanted, name).await,
        Action::Referrers(digest) => lists::referrers(wanted, name, &digest).await,
        Action::Upload(None) => uploads::begin(wanted, &granted, name, request).await,
        Action::Upload(Some(id)) => uploads::answer(wanted, name, &id, request).await,
    }
}

fn not_understood(error: EndpointError) -> Refusal {
    let (status, code) = match &error {
        EndpointError::Foreign | EndpointError::Unknown => (StatusCode::NOT_FOUND, ErrorCode::Unsupported),
        EndpointError::TooLong => (StatusCode::URI_TOO_LONG, ErrorCode::NameInvalid),
        EndpointError::Reference(_) => (StatusCode::BAD_REQUEST, ErrorCode::TagInvalid),
        EndpointError::Digest(_) => (StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid),
    };
    Refusal::new(status, code, error.to_string())
}

impl Wanted {
    /// Refuses other methods.
    fn only(&self, methods: &[Method]) -> Result<(), Refusal> {
        if methods.contains(&self.method) { Ok(()) } else { Err(Refusal::method(methods)) }
    }

    /// What the request's token grants, if it grants enough.
    async fn granted(&self, headers: &HeaderMap, right: Right<'_>) -> Result<Granted, Refusal> {
        let granted = authorise::authorise(&self.origin, headers, right).await?;
        if let Some(name) = granted.name() {
            self.asked.is_by(name);
        }
        Ok(granted)
    }
}

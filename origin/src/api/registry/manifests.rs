//! Manifests: pulled, pushed, deleted.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use pierhead_registry::oci::{ErrorCode, Reference, RepositoryName};
use pierhead_service::conditional::{self, Verdict};
use pierhead_service::shares::{Party, Permit};
use tokio::time::timeout;

use super::authorise::Granted;
use super::refusal::Refusal;
use super::{CONTENT_DIGEST, Wanted, uploads};
use crate::api::whole::{NotWhole, gather};
use crate::meta::Performer;
use crate::registry::{Pushed, RegistryError};

/// Says that the manifest's `subject` was understood (OCI distribution specification, "Pushing Manifests with Subject").
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// How long a manifest may take to come: it takes room from others.
const COMING: Duration = Duration::from_secs(60);
/// When a client that was too slow may send its manifest again.
const SOON: Duration = Duration::from_secs(1);

/// `/v2/<name>/manifests/<reference>`
pub(super) async fn answer(
    wanted: &Wanted,
    granted: &Granted,
    name: &RepositoryName,
    reference: &Reference,
    request: Request,
) -> Result<Response, Refusal> {
    match wanted.method {
        Method::PUT => push(wanted, granted, name, reference, request).await,
        Method::DELETE => {
            let registry = &wanted.origin.registry;
            registry.delete_manifest(name.as_str(), reference, &performer(wanted, granted)).await?;
            Ok(StatusCode::ACCEPTED.into_response())
        }
        _ => pull(wanted, name, reference, request.headers()).await,
    }
}

async fn pull(
    wanted: &Wanted,
    name: &RepositoryName,
    reference: &Reference,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let (registry, metrics) = (&wanted.origin.registry, &wanted.origin.metrics);
    let by_tag = matches!(reference, Reference::Tag(_));
    let found = match registry.manifest(name.as_str(), reference).await {
        Ok(found) => found,
        Err(error) => {
            if matches!(error, RegistryError::ManifestUnknown | RegistryError::NameUnknown) {
                metrics.pulled(by_tag, StatusCode::NOT_FOUND.as_u16(), 0);
            }
            return Err(error.into());
        }
    };
    let etag = format!("\"{}\"", found.digest);
    let status = match conditional::evaluate(headers, &etag) {
        Verdict::Proceed => StatusCode::OK,
        Verdict::NotModified => StatusCode::NOT_MODIFIED,
        Verdict::Failed => StatusCode::PRECONDITION_FAILED,
    };
    let body = match (status, &wanted.method) {
        (StatusCode::OK, &Method::GET) => {
            metrics.pulled(by_tag, status.as_u16(), found.layers_size);
            Body::from(registry.manifest_content(&found).await?)
        }
        _ => Body::empty(),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let digest = found.digest.to_string();
    for (name, value) in [(CONTENT_DIGEST, digest), (ETAG, etag), (CONTENT_TYPE, found.media_type)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    if status == StatusCode::OK {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(found.size));
    }
    Ok(response)
}

async fn push(
    wanted: &Wanted,
    granted: &Granted,
    name: &RepositoryName,
    reference: &Reference,
    request: Request,
) -> Result<Response, Refusal> {
    let origin = &wanted.origin;
    let content_type = media_type(request.headers());
    let outcome = async {
        let (content, _room) = content(wanted, request).await?;
        let repository = uploads::repository(wanted, granted, name).await?;
        let performer = performer(wanted, granted);
        let pushed = Pushed {
            repository,
            name: name.as_str(),
            reference,
            content_type: &content_type,
            content: &content,
            performer: &performer,
        };
        Ok::<_, Refusal>(origin.registry.publish(pushed).await?)
    };
    let published = match outcome.await {
        Ok(published) => published,
        Err(refusal) => {
            origin.metrics.pushed(refusal.status().as_u16(), &content_type);
            return Err(refusal);
        }
    };
    origin.metrics.pushed(StatusCode::CREATED.as_u16(), &content_type);
    let mut response = StatusCode::CREATED.into_response();
    let digest = published.digest.to_string();
    let location = wanted.asked.url(&format!("/v2/{name}/manifests/{digest}"));
    let subject = published.subject.map(|subject| (SUBJECT, subject.to_string()));
    for (name, value) in [(LOCATION, location), (CONTENT_DIGEST, digest)].into_iter().chain(subject) {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

/// The whole body, which fits into memory or is refused, and the memory that it takes there until the permit is dropped.
async fn content(wanted: &Wanted, request: Request) -> Result<(Vec<u8>, Permit), Refusal> {
    let origin = &wanted.origin;
    let limit = origin.registry.max_manifest_size();
    let said = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if said.unwrap_or_default() > limit {
        return Err(RegistryError::TooLarge(limit).into());
    }
    let party = request.extensions().get::<Party>().cloned().unwrap_or_default();
    let mut permit = origin.admission.manifest_bytes.begin(party);
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    match timeout(COMING, gather(request.into_body(), &mut permit, most)).await {
        Ok(Ok(content)) => Ok((content, permit)),
        Ok(Err(NotWhole::TooLarge(_))) => Err(RegistryError::TooLarge(limit).into()),
        Ok(Err(NotWhole::Full(_))) => {
            Err(Refusal::busy("too many large manifests are being pushed", origin.config.limits.manifests.wait))
        }
        Ok(Err(error @ NotWhole::TooSlow)) => Err(Refusal::busy(&error.to_string(), SOON)),
        Ok(Err(NotWhole::Broken(error))) => Err(RegistryError::Body(error.to_string()).into()),
        Err(_) => {
            let message = format!("the manifest has not come within {} s", COMING.as_secs());
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::ManifestInvalid, message))
        }
    }
}

/// Without its parameters: `application/json; charset=utf-8` is `application/json`.
fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_owned()
}

/// Who does this, for the action log.
pub(super) fn performer(wanted: &Wanted, granted: &Granted) -> Performer {
    Performer { name: granted.name().map(str::to_owned), ip: Some(wanted.asked.peer.to_string()) }
}

//! Manifests: pulled, pushed, deleted.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use pierhead_registry::oci::{ErrorCode, NameError, Reference, RepositoryName, Tag, media_type};
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

/// A tag that was set (OCI distribution specification, "Pushing a Manifest with Tags").
const TAG: HeaderName = HeaderName::from_static("oci-tag");
/// Most `tag` parameters of one push. Each is a row that is locked, and a header of the answer: many clients take a hundred headers.
const TAGS: usize = 50;

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
    // An earlier version may have taken what no browser may see under its own type.
    let media_type = media_type::served(&found.media_type).to_owned();
    for (name, value) in [(CONTENT_DIGEST, digest), (ETAG, etag), (CONTENT_TYPE, media_type)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    // The length that a 200 would have, or none (RFC 9110, section 8.6): left alone, a 304 to a HEAD would say 0.
    if status == StatusCode::OK || (status == StatusCode::NOT_MODIFIED && wanted.method == Method::HEAD) {
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
    let content_type = content_type(request.headers());
    let outcome = async {
        let tags = tags(&wanted.query.tags, reference)?;
        let (content, _room) = content(wanted, request).await?;
        let repository = uploads::repository(wanted, granted, name).await?;
        let performer = performer(wanted, granted);
        let pushed = Pushed {
            repository,
            name: name.as_str(),
            reference,
            tags: &tags,
            content_type: &content_type,
            content: &content,
            performer: &performer,
        };
        Ok::<_, Refusal>((origin.registry.publish(pushed).await?, tags))
    };
    let (published, tags) = match outcome.await {
        Ok(published) => published,
        Err(refusal) => {
            origin.metrics.pushed(refusal.status().as_u16(), &content_type);
            return Err(refusal);
        }
    };
    origin.metrics.pushed(StatusCode::CREATED.as_u16(), &content_type);
    let mut response = StatusCode::CREATED.into_response();
    let digest = published.digest.to_string();
    let location = wanted.asked.location(&format!("/v2/{name}/manifests/{digest}"));
    let subject = published.subject.map(|subject| (SUBJECT, subject.to_string()));
    for (name, value) in [(LOCATION, location), (CONTENT_DIGEST, digest)].into_iter().chain(subject) {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    for tag in &tags {
        if let Ok(value) = HeaderValue::from_str(tag.as_str()) {
            response.headers_mut().append(TAG, value);
        }
    }
    Ok(response)
}

/// The `tag` parameters of a push by digest, each once. A client that says them elsewhere would believe that they were set.
fn tags(written: &[String], reference: &Reference) -> Result<Vec<Tag>, Refusal> {
    if written.len() > TAGS {
        let message = format!("{} tag parameters: up to {TAGS} are taken at a time", written.len());
        return Err(Refusal::new(StatusCode::URI_TOO_LONG, ErrorCode::TagInvalid, message));
    }
    if matches!(reference, Reference::Tag(_)) && !written.is_empty() {
        let message = "tag parameters belong to a push by digest: PUT manifests/<digest>?tag=<tag>".to_owned();
        return Err(Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::TagInvalid, message));
    }
    let mut tags: Vec<Tag> = Vec::with_capacity(written.len());
    for text in written {
        let tag: Tag = text.parse().map_err(|error: NameError| {
            Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::TagInvalid, error.to_string())
        })?;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    // In one order for all, so that two pushes of the same tags wait for each other and do not block each other.
    tags.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    Ok(tags)
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
            Err(Refusal::busy("too many large manifests are being pushed", origin.live().limits.manifests.wait))
        }
        Ok(Err(error @ NotWhole::TooSlow)) => Err(Refusal::busy(&error.to_string(), SOON)),
        Ok(Err(NotWhole::Broken(error))) => Err(RegistryError::Body(error.to_string()).into()),
        Err(_) => {
            let message = format!("the manifest has not come within {} s", COMING.as_secs());
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::ManifestInvalid, message))
        }
    }
}

/// The one `Content-Type` of a request. Of two, a browser and this registry might take a different one.
fn content_type(headers: &HeaderMap) -> String {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let one = values.next().filter(|_| values.next().is_none());
    one.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// Who does this, for the action log.
pub(super) fn performer(wanted: &Wanted, granted: &Granted) -> Performer {
    Performer { name: granted.name().map(str::to_owned), ip: Some(wanted.asked.peer.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_a_push_by_digest() {
        let digest: Reference = format!("sha256:{}", "a".repeat(64)).parse().unwrap();
        let tag: Reference = "v1".parse().unwrap();
        let written = |tags: &[&str]| tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>();
        let names = |tags: Vec<Tag>| tags.iter().map(Tag::to_string).collect::<Vec<_>>();
        for (given, expected) in
            [(&[][..], &[][..]), (&["b", "a", "b"], &["a", "b"]), (&["v1.2-rc.1_X"], &["v1.2-rc.1_X"])]
        {
            assert_eq!(tags(&written(given), &digest).map(names).ok().unwrap(), expected);
        }
        let most: Vec<String> = (0..=TAGS).map(|number| number.to_string()).collect();
        assert_eq!(tags(&most[1..], &digest).ok().unwrap().len(), TAGS);
        for (given, reference, status) in [
            (most, &digest, StatusCode::URI_TOO_LONG),
            (written(&["a", "b/c"]), &digest, StatusCode::BAD_REQUEST),
            (written(&[""]), &digest, StatusCode::BAD_REQUEST),
            (written(&["b"]), &tag, StatusCode::BAD_REQUEST),
        ] {
            assert_eq!(tags(&given, reference).err().map(|refusal| refusal.status()), Some(status), "{given:?}");
        }
    }
}

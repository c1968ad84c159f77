//! Lists as answers: pages with a `Link` to the next (RFC 8288).

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, LINK};
use http::{HeaderName, HeaderValue, StatusCode};
use pierhead_registry::oci::{Digest, ErrorCode, RepositoryName, media_type};
use serde_json::json;
use url::form_urlencoded;

use super::Wanted;
use super::authorise::Granted;
use super::refusal::Refusal;
use crate::registry::{LONGEST_PAGE, ReferrersAsked};

/// Tells which filters were applied (OCI distribution specification, "Listing Referrers").
const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");

/// `/v2/<name>/tags/list`
pub(super) async fn tags(wanted: &Wanted, name: &RepositoryName) -> Result<Response, Refusal> {
    let (count, last) = page(wanted);
    let (tags, more) = wanted.origin.registry.tags(name.as_str(), last, count).await?;
    let next = tags
        .last()
        .filter(|_| more)
        .map(|tag| next(&format!("/v2/{name}/tags/list"), &[("n", &count.to_string()), ("last", tag)]));
    Ok(answer("application/json", &json!({ "name": name.as_str(), "tags": tags }), next))
}

/// `/v2/_catalog`
pub(super) async fn catalog(wanted: &Wanted, granted: &Granted) -> Result<Response, Refusal> {
    let origin = &wanted.origin;
    let caller = origin.auth.bearer(granted.claims()).await?;
    let (count, last) = page(wanted);
    let (names, more) = match origin.auth.viewer(&caller) {
        Some(viewer) => origin.registry.catalog(viewer, last, count).await?,
        None => (Vec::new(), false),
    };
    let next =
        names.last().filter(|_| more).map(|name| next("/v2/_catalog", &[("n", &count.to_string()), ("last", name)]));
    Ok(answer("application/json", &json!({ "repositories": names }), next))
}

/// `/v2/<name>/referrers/<digest>`
pub(super) async fn referrers(wanted: &Wanted, name: &RepositoryName, subject: &Digest) -> Result<Response, Refusal> {
    let artifact_type = wanted.query.artifact_type.as_deref();
    let last: Option<Digest> = wanted.query.last.as_deref().map(str::parse).transpose().map_err(|_| {
        let message = "last is the digest in the Link of the page before".to_owned();
        Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::PaginationNumberInvalid, message)
    })?;
    let asked = ReferrersAsked { subject, artifact_type, last: last.as_ref() };
    let page = wanted.origin.registry.referrers(name.as_str(), asked).await?;
    let next = page.next.as_deref().map(|last| {
        let filter = artifact_type.map(|kind| ("artifactType", kind));
        let parameters: Vec<(&str, &str)> = filter.into_iter().chain([("last", last)]).collect();
        next(&format!("/v2/{name}/referrers/{subject}"), &parameters)
    });
    let mut response = answer(media_type::OCI_INDEX, &page, next);
    if artifact_type.is_some() {
        response.headers_mut().insert(FILTERS, HeaderValue::from_static("artifactType"));
    }
    Ok(response)
}

fn page(wanted: &Wanted) -> (u32, &str) {
    (wanted.query.count.unwrap_or(LONGEST_PAGE), wanted.query.last.as_deref().unwrap_or_default())
}

/// Where the next page is: relative, so that it is right behind any proxy.
fn next(path: &str, parameters: &[(&str, &str)]) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    format!("<{path}?{query}>; rel=\"next\"")
}

fn answer(content_type: &'static str, body: &impl serde::Serialize, next: Option<String>) -> Response {
    // Names, numbers and texts always serialise.
    let body = serde_json::to_vec(body).unwrap_or_default();
    let mut response = (StatusCode::OK, [(CONTENT_TYPE, HeaderValue::from_static(content_type))], body).into_response();
    if let Some(link) = next.and_then(|next| HeaderValue::try_from(next).ok()) {
        response.headers_mut().insert(LINK, link);
    }
    response
}

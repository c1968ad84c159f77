//! Pushing blobs: uploads begun, gone on with, finished, cancelled; and mounts.

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, TryStreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use pierhead_registry::oci::{Algorithm, Digest, ErrorCode, RepositoryName};
use pierhead_registry::store::UploadId;

use super::authorise::{Granted, Meant, Right, meant};
use super::manifests::performer;
use super::refusal::Refusal;
use super::{CONTENT_DIGEST, Wanted};
use crate::registry::{Finished, Piece, Standing};

/// An upload's name, for those who do not read it from its location.
const UPLOAD: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// `POST /v2/<name>/blobs/uploads/`: a mount, a blob in one request, or the beginning of an upload.
pub(super) async fn begin(
    wanted: &Wanted,
    granted: &Granted,
    name: &RepositoryName,
    request: Request,
) -> Result<Response, Refusal> {
    let origin = &wanted.origin;
    let repository = repository(wanted, granted, name).await?;
    if let Some(digest) = &wanted.query.mount
        && let Some(from) = mountable(wanted, granted, digest).await?
        && origin.registry.mount(&from, repository, digest).await?
    {
        return Ok(created(wanted, name, digest));
    }
    let whole = wanted.query.digest.map(|digest| piece(request).map(|piece| (digest, piece))).transpose()?;
    let algorithm = wanted.query.algorithm.or(wanted.query.digest.map(|digest| digest.algorithm()));
    let id = origin.registry.begin_upload(repository, algorithm.unwrap_or(Algorithm::Sha256), granted.name()).await?;
    origin.metrics.uploads_started.inc();
    if let Some((digest, piece)) = whole {
        let finished = origin.registry.push_whole(name.as_str(), id, piece, digest).await?;
        return Ok(pushed(wanted, name, &digest, finished));
    }
    Ok(standing(wanted, StatusCode::ACCEPTED, name, &id, Standing { length: 0 }))
}

/// `/v2/<name>/blobs/uploads/<id>`
pub(super) async fn answer(
    wanted: &Wanted,
    name: &RepositoryName,
    id: &str,
    request: Request,
) -> Result<Response, Refusal> {
    let id = UploadId::parse(id).ok_or(crate::registry::RegistryError::UploadUnknown)?;
    let registry = &wanted.origin.registry;
    match wanted.method {
        Method::PATCH => {
            let stands = registry.append(name.as_str(), &id, piece(request)?).await?;
            Ok(standing(wanted, StatusCode::ACCEPTED, name, &id, stands))
        }
        Method::PUT => {
            let Some(digest) = wanted.query.digest else {
                let message = "the query lacks the digest of the whole blob".to_owned();
                return Err(Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid, message));
            };
            let finished = registry.finish(name.as_str(), &id, piece(request)?, digest).await?;
            Ok(pushed(wanted, name, &digest, finished))
        }
        Method::DELETE => {
            registry.cancel_upload(name.as_str(), &id).await?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        _ => {
            let stands = registry.upload(name.as_str(), &id).await?;
            Ok(standing(wanted, StatusCode::NO_CONTENT, name, &id, stands))
        }
    }
}

/// A blob is there: by this request, or by one before it.
fn pushed(wanted: &Wanted, name: &RepositoryName, digest: &Digest, finished: Finished) -> Response {
    if let Finished::Now(length) = finished {
        wanted.origin.metrics.uploads_completed.inc();
        wanted.origin.metrics.blob_pushed(length);
    }
    created(wanted, name, digest)
}

/// The repository that is pushed to. The first push makes it, private.
pub(super) async fn repository(wanted: &Wanted, granted: &Granted, name: &RepositoryName) -> Result<i64, Refusal> {
    let origin = &wanted.origin;
    if let Some(repository) = granted.repository() {
        return Ok(repository.id);
    }
    let caller = origin.auth.bearer(granted.claims()).await?;
    let (facts, rights) = origin.auth.repository(&caller, name.as_str()).await?;
    match (facts.namespace, caller.id()) {
        (Some(namespace), Some(creator)) if rights.push => {
            let performer = performer(wanted, granted);
            if let Some(made) = origin.registry.create_by_push(namespace.id, name, creator, &performer).await? {
                return Ok(made);
            }
            match meant(origin, granted.claims(), Right::Push(name)).await? {
                Meant::Repository(repository) => Ok(repository.id),
                Meant::Nothing | Meant::Other => {
                    Err(denied("somebody else made this repository just now, and the account may not push to it"))
                }
            }
        }
        _ => Err(denied("there is no such repository, and the account may not create it")),
    }
}

fn denied(message: &str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message.to_owned())
}

/// The repository from which a blob can be mounted: the one that the client names, if its token lets it pull there; or, when it names
/// none, any that the token names and lets it pull from. What it may not see it learns nothing of: it pushes as if there were nothing.
async fn mountable(wanted: &Wanted, granted: &Granted, digest: &Digest) -> Result<Option<String>, Refusal> {
    let origin = &wanted.origin;
    if let Some(from) = &wanted.query.from {
        let Ok(name) = from.parse::<RepositoryName>() else { return Ok(None) };
        let found = meant(origin, granted.claims(), Right::Pull(&name)).await?;
        return Ok(matches!(found, Meant::Repository(_)).then_some(from.clone()));
    }
    let names: Vec<&str> = granted.claims().access.iter().map(|access| access.name.as_str()).collect();
    for holder in origin.meta.holders(&names, digest).await? {
        let Ok(name) = holder.parse::<RepositoryName>() else { continue };
        if let Meant::Repository(_) = meant(origin, granted.claims(), Right::Pull(&name)).await? {
            return Ok(Some(holder));
        }
    }
    Ok(None)
}

/// A piece of an upload.
fn piece(request: Request) -> Result<Piece, Refusal> {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let start = start(request.headers(), length)?;
    let body = request.into_body().into_data_stream().map_err(|error| error.to_string()).boxed();
    Ok(Piece { start, length, body })
}

/// Where a piece begins, as its `Content-Range` says: `<first>-<last>`, which is not HTTP's own grammar.
fn start(headers: &HeaderMap, length: Option<u64>) -> Result<Option<u64>, Refusal> {
    let Some(value) = headers.get(CONTENT_RANGE) else { return Ok(None) };
    let parse = || {
        let text = value.to_str().ok()?.trim();
        let text = text.strip_prefix("bytes").unwrap_or(text).trim_start_matches([' ', '=']);
        let (first, last) = text.split('/').next()?.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        let said = last.checked_sub(first)?.checked_add(1)?;
        length.is_none_or(|length| length == said).then_some(first)
    };
    parse().map(Some).ok_or_else(|| {
        let message = "Content-Range is <first>-<last>, and as long as Content-Length says".to_owned();
        Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::SizeInvalid, message)
    })
}

/// What an upload holds: `0-<last>`. Nothing at all is `0-0` as well, which every client of this API expects.
pub(super) fn range(length: u64) -> String {
    format!("0-{}", length.saturating_sub(1))
}

fn standing(wanted: &Wanted, status: StatusCode, name: &RepositoryName, id: &UploadId, stands: Standing) -> Response {
    let location = wanted.asked.location(&format!("/v2/{name}/blobs/uploads/{}", id.as_str()));
    with(status, [(LOCATION, location), (RANGE, range(stands.length)), (UPLOAD, id.as_str().to_owned())])
}

fn created(wanted: &Wanted, name: &RepositoryName, digest: &Digest) -> Response {
    let location = wanted.asked.location(&format!("/v2/{name}/blobs/{digest}"));
    with(StatusCode::CREATED, [(LOCATION, location), (CONTENT_DIGEST, digest.to_string())])
}

fn with<const N: usize>(status: StatusCode, lines: [(HeaderName, String); N]) -> Response {
    let mut response = status.into_response();
    for (name, value) in lines {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_say_where_they_begin() {
        for (text, length, expected) in [
            ("0-9", Some(10), Ok(0)),
            ("10-19", None, Ok(10)),
            ("bytes 10-19/*", Some(10), Ok(10)),
            ("bytes=10-19", Some(10), Ok(10)),
            ("10-19", Some(9), Err(())),
            ("19-10", None, Err(())),
            ("0-18446744073709551615", None, Err(())),
            ("10-", None, Err(())),
            ("-10", None, Err(())),
            ("x", None, Err(())),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_RANGE, HeaderValue::from_static(text))]);
            assert_eq!(start(&headers, length).map_err(drop).map(Option::unwrap_or_default), expected, "{text}");
        }
        assert_eq!(start(&HeaderMap::new(), Some(1)).ok(), Some(None));
        assert_eq!((range(0), range(1), range(10)), ("0-0".to_owned(), "0-0".to_owned(), "0-9".to_owned()));
    }
}

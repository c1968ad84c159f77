//! What is asked of one repository: manifests, lists, the size of a blob, and the beginning of a blob's body.
//!
//! Invariant: a manifest that leaves here hashes to the digest it is returned under.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use reqwest::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LINK};
use reqwest::{Method, StatusCode};
use serde::de::IgnoredAny;

use super::body::BlobSource;
use super::exchange::{Caller, Identity};
use super::failure::Failure;
use super::retry::Attempts;
use super::send::Call;
use super::upstream::Upstream;
use super::{
    BlobBody, ClientError, Credential, FetchedList, FetchedManifest, HeadAnswer, ListKind, ManifestInfo, range,
};
use crate::oci::{Algorithm, Digest, Manifest, Reference, RepositoryName, media_type, schema1};

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// What gzip begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// One repository, seen with one credential. Cheap to clone.
#[derive(Clone)]
pub struct Repository {
    upstream: Arc<Upstream>,
    name: RepositoryName,
    caller: Caller,
}

impl Repository {
    pub(super) fn new(upstream: Arc<Upstream>, name: RepositoryName, credential: Option<Credential>) -> Repository {
        let scope = format!("repository:{name}:pull").into();
        Repository { upstream, name, caller: Caller { scope, credential: credential.map(Identity::from) } }
    }

    /// Whether an error that somebody else was given may be taken for this repository's and this credential's as well:
    /// the same registry failed. What it answered was said to somebody else.
    pub fn shares(&self, error: &ClientError) -> bool {
        !error.is_answer() && error.registry() == self.upstream.name()
    }

    /// How many endpoints the registry has.
    pub fn endpoints(&self) -> usize {
        self.upstream.endpoints.len()
    }

    /// HEAD of a manifest. `accept` are media types as the client sent them, empty for all.
    ///
    /// Only what a HEAD affirms counts. Where it fails, or does not say all that a GET would, the manifest is fetched
    /// and returned. A HEAD that names the digest `known` says enough.
    pub async fn head_manifest(
        &self,
        reference: &Reference,
        accept: &[String],
        known: Option<&Digest>,
    ) -> Result<HeadAnswer, ClientError> {
        let call = self.call(Method::HEAD, format!("manifests/{reference}"), accept_header(accept));
        let mut attempts = Attempts::new(&self.upstream, &[]);
        loop {
            let turn = attempts.next().await?;
            let answer = self.upstream.exchange(turn.index, &call, &self.caller).await;
            match answer {
                Ok(answer) => {
                    turn.settle(None);
                    let response = answer.success().ok();
                    return match response.and_then(|response| info(response.headers(), reference, known)) {
                        Some(info) => Ok(HeadAnswer::Head(info)),
                        None => self.get_manifest(reference, accept).await.map(HeadAnswer::Manifest),
                    };
                }
                Err(failure) => attempts.failed(turn, failure)?,
            }
        }
    }

    /// GET of a manifest; checked against the digest when asked by one.
    pub async fn get_manifest(&self, reference: &Reference, accept: &[String]) -> Result<FetchedManifest, ClientError> {
        let call = self.call(Method::GET, format!("manifests/{reference}"), accept_header(accept));
        let mut attempts = Attempts::new(&self.upstream, &[]);
        loop {
            let turn = attempts.next().await?;
            match self.fetch(turn.index, &call).await.and_then(|fetched| manifest(fetched, reference)) {
                Ok(manifest) => {
                    turn.settle(None);
                    return Ok(manifest);
                }
                Err(failure) => attempts.failed(turn, failure)?,
            }
        }
    }

    /// GET of a list, with the query as the client sent it (`n=…&last=…`, `artifactType=…`).
    pub async fn get_list(&self, kind: &ListKind, query: Option<&str>) -> Result<FetchedList, ClientError> {
        let (path, accept) = match kind {
            ListKind::Tags => ("tags/list".to_owned(), HeaderValue::from_static("application/json")),
            ListKind::Referrers(digest) => {
                (format!("referrers/{digest}"), HeaderValue::from_static(media_type::OCI_INDEX))
            }
        };
        let mut call = self.call(Method::GET, path, accept);
        call.query = query.filter(|query| !query.is_empty()).map(str::to_owned);
        let mut attempts = Attempts::new(&self.upstream, &[]);
        loop {
            let turn = attempts.next().await?;
            match self.fetch(turn.index, &call).await.and_then(whole) {
                Ok((headers, bytes)) => {
                    turn.settle(None);
                    return Ok(FetchedList {
                        media_type: content_type(&headers).unwrap_or_else(|| "application/json".to_owned()),
                        link: text(&headers, &LINK),
                        filters_applied: text(&headers, &OCI_FILTERS_APPLIED),
                        bytes,
                    });
                }
                Err(failure) => attempts.failed(turn, failure)?,
            }
        }
    }

    /// HEAD of a blob: its size, where upstream tells it. Also the question "may this credential read it here?".
    pub async fn head_blob(&self, digest: &Digest) -> Result<Option<u64>, ClientError> {
        let mut attempts = Attempts::new(&self.upstream, &[]);
        loop {
            let turn = attempts.next().await?;
            match self.blob_size(turn.index, digest).await {
                Ok(size) => {
                    turn.settle(None);
                    return Ok(size);
                }
                Err(failure) => attempts.failed(turn, failure)?,
            }
        }
    }

    /// The size of a blob as the header of a GET tells it: for whoever is about to fetch a part of it. HEAD may know less,
    /// and its no proves nothing.
    pub async fn probe_blob(&self, digest: &Digest) -> Result<Option<u64>, ClientError> {
        let source = self.source(digest);
        let mut attempts = Attempts::new(&self.upstream, &[]);
        loop {
            let turn = attempts.next().await?;
            match source.probe(turn.index).await {
                Ok(size) => {
                    turn.settle(None);
                    return Ok(size);
                }
                Err(failure) => attempts.failed(turn, failure)?,
            }
        }
    }

    /// GET of a blob, from `start` to the end, or to `end` (exclusive). `avoid` are endpoints (by index) that sent wrong
    /// bytes for this digest: they are asked last. Waits for one of the registry's connections to be free.
    pub async fn get_blob(
        &self,
        digest: &Digest,
        start: u64,
        end: Option<u64>,
        avoid: &[usize],
    ) -> Result<BlobBody, ClientError> {
        BlobBody::open(self.source(digest), &self.upstream.connections, start, end, avoid).await
    }

    /// The same for a body that is read only as fast as a client takes it. These have as many connections again, for
    /// among themselves: a few clients that hardly read must not keep others from being served.
    pub async fn get_blob_slowly(
        &self,
        digest: &Digest,
        start: u64,
        end: Option<u64>,
        avoid: &[usize],
    ) -> Result<BlobBody, ClientError> {
        BlobBody::open(self.source(digest), &self.upstream.slow_connections, start, end, avoid).await
    }

    fn source(&self, digest: &Digest) -> BlobSource {
        BlobSource::new(Arc::clone(&self.upstream), self.caller.clone(), self.blob_call(digest))
    }

    /// By HEAD; where that is not to be had, from the header of the shortest possible GET. Presigned URLs bind the
    /// method, so an object store behind a redirect often refuses a HEAD.
    async fn blob_size(&self, index: usize, digest: &Digest) -> Result<Option<u64>, Failure> {
        let mut call = self.blob_call(digest);
        (call.method, call.blob) = (Method::HEAD, false);
        let answer = self.upstream.exchange(index, &call, &self.caller).await?;
        let status = answer.response.status();
        if no_head(status) || (answer.foreign && matches!(status.as_u16(), 400 | 401 | 403)) {
            return self.source(digest).probe(index).await;
        }
        Ok(range::content_length(answer.success()?.headers()))
    }

    async fn fetch(&self, index: usize, call: &Call) -> Result<(HeaderMap, Bytes), Failure> {
        let mut response = self.upstream.exchange(index, call, &self.caller).await?.success()?;
        let headers = std::mem::take(response.headers_mut());
        let limit = self.upstream.settings.max_manifest_size;
        if range::content_length(&headers).is_some_and(|length| length > limit) {
            return Err(Failure::invalid(format!("the body is longer than {limit} bytes")));
        }
        let body = self.upstream.read(response, limit).await?;
        let body = decoded(&headers, body, limit)?;
        Ok((headers, body.into()))
    }

    fn call(&self, method: Method, path: String, accept: HeaderValue) -> Call {
        let headers = HeaderMap::from_iter([(ACCEPT, accept)]);
        Call { method, path: format!("{}/{path}", self.name), query: None, headers, blob: false }
    }

    fn blob_call(&self, digest: &Digest) -> Call {
        let call = self.call(Method::GET, format!("blobs/{digest}"), HeaderValue::from_static("*/*"));
        Call { blob: true, ..call }
    }
}

/// All in one line: some registries read only the first.
fn accept_header(accept: &[String]) -> HeaderValue {
    let asked =
        accept.iter().map(|entry| entry.trim()).filter(|entry| !entry.is_empty()).collect::<Vec<_>>().join(", ");
    let asked = if asked.is_empty() { media_type::ALL.join(", ") } else { asked };
    HeaderValue::try_from(asked).unwrap_or(HeaderValue::from_static("*/*"))
}

/// A document as it is: identity was asked for, yet some servers compress all the same, and clients in Go decode that without
/// a word. What says that it is encoded and is not stays as it came.
fn decoded(headers: &HeaderMap, body: Vec<u8>, limit: u64) -> Result<Vec<u8>, Failure> {
    let label = headers.get(CONTENT_ENCODING).and_then(|value| value.to_str().ok()).map(str::trim).unwrap_or_default();
    let gzip = label.eq_ignore_ascii_case("gzip") || label.eq_ignore_ascii_case("x-gzip");
    if !gzip || !body.starts_with(&GZIP) {
        return Ok(body);
    }
    let mut document = Vec::new();
    let read = MultiGzDecoder::new(body.as_slice()).take(limit.saturating_add(1)).read_to_end(&mut document);
    match read {
        Ok(_) if document.len() as u64 > limit => {
            Err(Failure::invalid(format!("the body, decoded, is longer than {limit} bytes")))
        }
        Ok(_) => Ok(document),
        Err(error) => Err(Failure::invalid(format!("the body is not the gzip that it says it is: {error}"))),
    }
}

fn no_head(status: StatusCode) -> bool {
    matches!(status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED)
}

/// What the header of a HEAD's answer says of a manifest, if that is all that a GET would say (RFC 9110, section 9.3.2).
fn info(headers: &HeaderMap, reference: &Reference, known: Option<&Digest>) -> Option<ManifestInfo> {
    let told = content_digest(headers);
    let digest = match reference {
        // Another digest than the one asked for is for the bytes to decide.
        Reference::Digest(asked) => told.is_none_or(|told| told == *asked).then_some(*asked)?,
        Reference::Tag(_) => told?,
    };
    if known == Some(&digest) {
        let media_type = content_type(headers).unwrap_or_default();
        return Some(ManifestInfo { digest, media_type, size: range::content_length(headers).unwrap_or_default() });
    }
    let size = range::content_length(headers).filter(|size| *size > 0)?;
    Some(ManifestInfo { digest, media_type: content_type(headers)?, size })
}

/// Refuses a login page, and a body without a length that was cut short: where no digest tells, JSON does.
fn whole(fetched: (HeaderMap, Bytes)) -> Result<(HeaderMap, Bytes), Failure> {
    match serde_json::from_slice::<IgnoredAny>(&fetched.1) {
        Ok(_) => Ok(fetched),
        Err(_) => Err(Failure::invalid("the body is no JSON")),
    }
}

/// Checks the bytes against all that is known of their digest.
fn manifest(fetched: (HeaderMap, Bytes), reference: &Reference) -> Result<FetchedManifest, Failure> {
    let told = content_digest(&fetched.0);
    let asked = match reference {
        Reference::Digest(asked) => Some(*asked),
        Reference::Tag(_) => None,
    };
    let (headers, bytes) = if asked.or(told).is_some() { fetched } else { whole(fetched)? };
    // By tag, the algorithm that HEAD will tell of, so that the two can be compared.
    let algorithm = asked.or(told).map_or(Algorithm::Sha256, |digest| digest.algorithm());
    // Of a signed manifest of schema 1, the digest is over what was signed.
    let payload = schema1::signed_payload(&bytes);
    let digest = [payload.as_deref(), Some(&bytes)]
        .into_iter()
        .flatten()
        .map(|content| Digest::of(algorithm, content))
        .reduce(|signed, raw| if asked.or(told) == Some(raw) { raw } else { signed });
    let digest = digest.unwrap_or_else(|| Digest::of(algorithm, &bytes));
    let told = told.filter(|told| told.algorithm() == digest.algorithm());
    if asked.is_some_and(|asked| asked != digest) || told.is_some_and(|told| told != digest) {
        return Err(Failure::invalid("the manifest does not hash to its digest"));
    }
    let media_type = content_type(&headers).unwrap_or_else(|| media_type_of(&bytes));
    Ok(FetchedManifest { digest, media_type, bytes })
}

/// What a manifest is, where nobody said: by its own `mediaType`, or by what it holds.
fn media_type_of(bytes: &[u8]) -> String {
    let Ok(manifest) = Manifest::parse(bytes) else { return media_type::OCI_MANIFEST.to_owned() };
    let by_shape = || if manifest.manifests.is_empty() { media_type::OCI_MANIFEST } else { media_type::OCI_INDEX };
    manifest.media_type.clone().filter(|named| !named.is_empty()).unwrap_or_else(|| by_shape().to_owned())
}

fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(DOCKER_CONTENT_DIGEST)?.to_str().ok()?.trim().parse().ok()
}

/// The media type without its parameters; `None` also where it says no more than "bytes", as static mirrors do.
fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let named = value.split(';').next()?.trim();
    (!matches!(named, "" | "application/octet-stream" | "text/plain")).then(|| named.to_owned())
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{accept_header, media_type_of};
    use crate::oci::media_type;

    #[test]
    fn names_a_manifest_that_has_no_name() {
        for (body, expected) in [
            (r#"{"mediaType":"application/vnd.example"}"#, "application/vnd.example"),
            (
                r#"{"manifests":[{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}]}"#,
                media_type::OCI_INDEX,
            ),
            (r#"{"config":{"digest":"x"},"layers":[]}"#, media_type::OCI_MANIFEST),
            (r#"{"mediaType":""}"#, media_type::OCI_MANIFEST),
            ("no json", media_type::OCI_MANIFEST),
        ] {
            assert_eq!(media_type_of(body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn accepts_in_one_line() {
        assert_eq!(accept_header(&["a/b".to_owned(), " c/d, e/f ".to_owned(), String::new()]), "a/b, c/d, e/f");
        assert_eq!(accept_header(&[]), media_type::ALL.join(", "));
        assert_eq!(accept_header(&["a\nb".to_owned()]), "*/*");
    }
}

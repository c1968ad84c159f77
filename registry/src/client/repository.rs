//! What is asked of one repository: manifests, lists, and the beginning of a blob's body. HEADs of manifests: `heads`; the size
//! of a blob: `size`.
//!
//! What an answer proves is not decided here, but in `verdict` and `manifest`.

use std::io::Read;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use reqwest::header::{ACCEPT, CONTENT_ENCODING, HeaderMap, HeaderName, HeaderValue, LINK};
use reqwest::{Method, Response};

use super::exchange::{Caller, Cause, Identity};
use super::failure::Failure;
use super::loops::Trail;
use super::pages::PageKey;
use super::pauses::Kind;
use super::reach::Aim;
use super::retry::Attempts;
use super::send::Call;
use super::source::{self, BlobSource};
use super::upstream::Upstream;
use super::{BlobBody, ClientError, Credential, FetchedList, FetchedManifest, ListKind, manifest, range};
use crate::oci::{Digest, Reference, RepositoryName, media_type};

const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// What gzip begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// One repository, seen with one credential. Cheap to clone.
#[derive(Clone)]
pub struct Repository {
    pub(super) upstream: Arc<Upstream>,
    pub(super) caller: Caller,
    /// Whether a yes lets the caller have what others brought here.
    pub(super) gives_rights: bool,
}

/// Equal: the same repository of the same registry, seen with the same credential. Upstream's answer to one is its answer to the other.
impl PartialEq for Repository {
    fn eq(&self, other: &Repository) -> bool {
        Arc::ptr_eq(&self.upstream, &other.upstream) && self.caller.asks_as(&other.caller)
    }
}

impl Eq for Repository {}

impl Repository {
    pub(super) fn new(upstream: Arc<Upstream>, name: RepositoryName, credential: Option<Credential>) -> Repository {
        let credential = credential.map(Identity::from);
        let caller = Caller { repository: name, credential, cause: Cause::default() };
        Repository { upstream, caller, gives_rights: false }
    }

    /// The same, of which a yes lets the caller have what others brought here. So of what is here only the registry itself is asked, the
    /// last of the addresses, and its answer must be about the thing that was asked for as far as a header can tell.
    pub fn giving_rights(mut self, yes: bool) -> Repository {
        self.gives_rights = yes;
        self
    }

    /// The same, for a client at this address: the token service of an origin that is reached by a transport is told.
    pub fn on_behalf_of(mut self, address: Option<IpAddr>) -> Repository {
        self.caller.cause.address = address;
        self
    }

    /// This repository, asked because of a request that came through the edges of `trail`.
    pub fn after(mut self, trail: Trail) -> Repository {
        self.caller.cause.trail = trail;
        self
    }

    /// Whether an error that another request was given holds for this repository and credential as well: the registry
    /// itself failed, or limits or refuses the account that both use. An answer, and a no that proves nothing, hold for one alone.
    pub fn shares(&self, error: &ClientError, asker: Option<&Repository>) -> bool {
        let failed = match error {
            // A loop is one of the other request's trail.
            ClientError::Invalid { status: Some(508), .. } => false,
            ClientError::Unavailable { .. } | ClientError::Invalid { .. } => true,
            ClientError::RateLimited { .. } => {
                asker.is_none_or(|asker| asker.caller.credential == self.caller.credential)
            }
            ClientError::AccountRefused { .. } => self.caller.credential.is_none(),
            _ => false,
        };
        failed && error.registry() == self.upstream.name()
    }

    /// The registry's name.
    pub fn registry(&self) -> &str {
        self.upstream.name()
    }

    /// Whether the endpoint at `index` is a mirror: one before the last.
    pub(super) fn is_mirror(&self, index: usize) -> bool {
        !self.upstream.endpoints[index].last
    }

    /// How many endpoints the registry has.
    pub fn endpoints(&self) -> usize {
        self.upstream.endpoints.len()
    }

    /// GET of a manifest; checked against the digest when asked by one.
    pub async fn get_manifest(&self, reference: &Reference, accept: &[String]) -> Result<FetchedManifest, ClientError> {
        let attempts = Attempts::new(&self.upstream, &[]);
        let (manifest, _) = self.get(attempts, manifest_call(Method::GET, reference, accept), reference).await?;
        Ok(manifest)
    }

    /// The manifest, and the endpoint that gave it.
    pub(super) async fn get(
        &self,
        mut attempts: Attempts,
        call: Call,
        reference: &Reference,
    ) -> Result<(FetchedManifest, usize), ClientError> {
        loop {
            let turn = attempts.next().await?;
            match self.fetch(turn.index, &call).await.and_then(|fetched| manifest::manifest(fetched, reference)) {
                Ok(manifest) => {
                    let index = turn.index;
                    turn.settle(None);
                    return Ok((FetchedManifest { mirrored: self.is_mirror(index), ..manifest }, index));
                }
                Err(failure) => attempts.failed(turn, failure),
            }
        }
    }

    /// GET of a list, with the query as the client sent it (`n=…&last=…`, `artifactType=…`).
    pub async fn get_list(&self, kind: &ListKind, query: Option<&str>) -> Result<FetchedList, ClientError> {
        let (path, accept, kind) = match kind {
            ListKind::Tags => ("tags/list".to_owned(), HeaderValue::from_static("application/json"), Kind::Tags),
            ListKind::Referrers(digest) => {
                (format!("referrers/{digest}"), HeaderValue::from_static(media_type::OCI_INDEX), Kind::Referrers)
            }
        };
        let mut call = call(Method::GET, path, accept, kind, Aim::Other);
        call.query = query.filter(|query| !query.is_empty()).map(str::to_owned);
        let mut attempts = match kind {
            // A failure becomes a 404, for clients have another way to referrers, and so they do not try again.
            Kind::Referrers => Attempts::of_a_client(&self.upstream),
            // Clients try again.
            _ => Attempts::once(&self.upstream, &[]),
        };
        let page = PageKey { repository: self.caller.repository.clone(), path: call.path.clone() };
        if let Some(index) = self.upstream.pages.source(&page, call.query.as_deref()) {
            attempts = attempts.first_of_all(index);
        }
        loop {
            let turn = attempts.next().await?;
            match self.fetch(turn.index, &call).await.and_then(manifest::whole) {
                Ok((headers, bytes)) => {
                    let (index, link) = (turn.index, lines(&headers, &LINK));
                    turn.settle(None);
                    if link.is_some() && self.endpoints() > 1 {
                        self.upstream.pages.learn(page, index);
                    }
                    return Ok(FetchedList {
                        media_type: manifest::content_type(&headers).unwrap_or_else(|| "application/json".to_owned()),
                        link,
                        filters_applied: text(&headers, &OCI_FILTERS_APPLIED),
                        bytes,
                    });
                }
                Err(failure) => attempts.failed(turn, failure),
            }
        }
    }

    /// Fails at once when no address would be asked now for a blob, from `start` to `end` as [`Repository::get_blob`] has them; for
    /// callers that must wait for something else first.
    pub fn check(&self, start: u64, end: Option<u64>, avoid: &[usize]) -> Result<(), ClientError> {
        Attempts::new(&self.upstream, avoid).check(source::ways(start, end), &self.caller)
    }

    /// GET of a blob, from `start` to the end, or to `end` (exclusive). `avoid` are endpoints (by index) that sent wrong
    /// bytes for this digest: they are asked last. How many bodies there are at a time is for the caller to bound.
    pub async fn get_blob(
        &self,
        digest: &Digest,
        start: u64,
        end: Option<u64>,
        avoid: &[usize],
    ) -> Result<BlobBody, ClientError> {
        self.get_blob_of(digest, None, start, end, avoid).await
    }

    /// As [`Repository::get_blob`], for a blob whose manifest tells the length `expected`. A mirror that states another length is passed.
    /// At the last address it counts only against a body without a length that ends early in a way that a broken connection
    /// does too: the rest of such a body is asked for.
    pub async fn get_blob_of(
        &self,
        digest: &Digest,
        expected: Option<u64>,
        start: u64,
        end: Option<u64>,
        avoid: &[usize],
    ) -> Result<BlobBody, ClientError> {
        BlobBody::open(self.source_of(digest, expected), start, end, avoid).await
    }

    pub(super) fn source(&self, digest: &Digest) -> BlobSource {
        self.source_of(digest, None)
    }

    pub(super) fn source_of(&self, digest: &Digest, expected: Option<u64>) -> BlobSource {
        let (upstream, caller) = (Arc::clone(&self.upstream), self.caller.clone());
        BlobSource::new(upstream, caller, self.blob_call(digest), *digest, expected)
    }

    pub(super) async fn ask(&self, index: usize, call: &Call) -> Result<Response, Failure> {
        let answer = self.upstream.exchange(index, call, &self.caller).await?;
        self.upstream.accept(answer).await
    }

    async fn fetch(&self, index: usize, call: &Call) -> Result<(HeaderMap, Bytes), Failure> {
        let mut response = self.ask(index, call).await?;
        let headers = std::mem::take(response.headers_mut());
        let limit = self.upstream.settings.max_manifest_size;
        if range::content_length(&headers).is_some_and(|length| length > limit) {
            return Err(Failure::invalid(format!("the body is longer than {limit} bytes")));
        }
        let body = self.upstream.read(response, limit).await?;
        let body = decoded(&headers, body, limit)?;
        Ok((headers, body.into()))
    }

    pub(super) fn blob_call(&self, digest: &Digest) -> Call {
        let any = HeaderValue::from_static("*/*");
        Call { blob: true, ..call(Method::GET, format!("blobs/{digest}"), any, Kind::Blob, Aim::Content) }
    }
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

fn call(method: Method, path: String, accept: HeaderValue, kind: Kind, aim: Aim) -> Call {
    let headers = HeaderMap::from_iter([(ACCEPT, accept)]);
    Call { method, path, query: None, headers, blob: false, kind, aim, since: Instant::now() }
}

pub(super) fn manifest_call(method: Method, reference: &Reference, accept: &[String]) -> Call {
    let kind = if method == Method::HEAD { Kind::ManifestHead } else { Kind::Manifest };
    let aim = match reference {
        Reference::Digest(_) => Aim::Content,
        Reference::Tag(_) => Aim::Other,
    };
    call(method, format!("manifests/{reference}"), accept_header(accept), kind, aim)
}

/// All in one line: some registries read only the first.
fn accept_header(accept: &[String]) -> HeaderValue {
    let asked =
        accept.iter().map(|entry| entry.trim()).filter(|entry| !entry.is_empty()).collect::<Vec<_>>().join(", ");
    let asked = if asked.is_empty() { media_type::ALL.join(", ") } else { asked };
    HeaderValue::try_from(asked).unwrap_or(HeaderValue::from_static("*/*"))
}

/// All lines of a header as one list, so that none is lost; what is not UTF-8 shows as that.
fn lines(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let lines: Vec<_> = headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::accept_header;
    use crate::oci::media_type;

    #[test]
    fn accepts_in_one_line() {
        assert_eq!(accept_header(&["a/b".to_owned(), " c/d, e/f ".to_owned(), String::new()]), "a/b, c/d, e/f");
        assert_eq!(accept_header(&[]), media_type::ALL.join(", "));
        assert_eq!(accept_header(&["a\nb".to_owned()]), "*/*");
    }
}

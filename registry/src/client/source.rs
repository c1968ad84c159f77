//! One request for a blob, or a part of it, to one endpoint.
//!
//! Invariant: what is returned as a part is the part that was asked for, or the blob from its start. A server need not
//! take ranges: where it refuses one the request is sent again without, and that is remembered of the endpoint. Where it
//! fails to answer one, the next attempt is without. A failure of a request with a range proves nothing about the blob: before
//! that is given up it is asked for once without a range, as a client would ask.

use std::sync::Arc;

use reqwest::header::{ACCEPT_RANGES, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_RANGE, RANGE, TRANSFER_ENCODING};
use reqwest::{Response, StatusCode};
use tokio::time::Instant;

use super::ClientError;
use super::exchange::Caller;
use super::failing::{BlobKey, Lately};
use super::failure::Failure;
use super::manifest;
use super::pauses::Kind;
use super::range::{self, Extent, RangeError, Speaker};
use super::retry::{Attempts, Turn};
use super::send::{Answer, Call};
use super::upstream::Upstream;
use crate::oci::Digest;

/// Where a blob comes from.
pub(super) struct BlobSource {
    /// The registry.
    pub(super) upstream: Arc<Upstream>,
    pub(super) caller: Caller,
    call: Call,
    digest: Digest,
    /// Length of the blob as a manifest tells it: a hint.
    pub(super) expected: Option<u64>,
    /// The endpoint that failed to answer a request for a range: it is asked without one where that will do, or once it fails again.
    plain: Option<usize>,
    /// Endpoints that sent wrong bytes for this blob: perhaps for the range.
    distrusted: Vec<usize>,
    /// The endpoints that failed a request for a range in a way that may be of the range, and were not asked without one.
    owing: Vec<Owing>,
    /// No request has a range any more.
    without: bool,
    /// The 5xx that a HEAD was answered with. A range that is answered with that too fails for another reason than the range.
    head: Option<u16>,
    key: BlobKey,
    /// The blob failed lately.
    failing: Option<Lately>,
    /// A HEAD of it failed in this request, or lately.
    headless: bool,
}

/// An endpoint whose failure may be of the range.
struct Owing {
    index: usize,
    /// The failure was a 429, or the pause after one.
    limited: bool,
}

/// The header of an answer that carries a part of a blob.
pub(super) struct Opened {
    /// Its body is still to be read.
    pub(super) response: Response,
    /// Which part.
    pub(super) extent: Extent,
    /// Strong, or `None`.
    pub(super) etag: Option<HeaderValue>,
    /// Whether the server sends parts.
    pub(super) ranges: bool,
    /// Whether HTTP tells the end of the body from a connection that was closed in its middle.
    pub(super) proven: bool,
}

/// What a GET of a blob's first byte tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobProbe {
    /// The length of the blob, where the server tells it.
    pub size: Option<u64>,
    /// Whether the server sends parts of it.
    pub ranges: bool,
    /// Whether it is labelled as a page, and not with the digest.
    pub(super) page: bool,
    /// See [`is_unnamed`].
    pub(super) unnamed: bool,
}

/// What a HEAD of a blob came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobHead {
    /// It is there, and this long where the server tells it.
    Size(Option<u64>),
    /// The same, said by a mirror: no word of the registry on anybody's rights.
    Mirrored(Option<u64>),
    /// The HEAD was answered with what may be about a page in place of the blob, of this length. A client's HEAD may be answered with that.
    Page(Option<u64>),
    /// The HEAD was answered with 200 and a length of 0, and the GET that asked for the length failed with this. A client's HEAD may be
    /// answered with 200. Whether the client may read the blob is decided by the failure of the GET.
    Unopened(ClientError),
}

/// What an endpoint has from a given byte on.
pub(super) enum Opening {
    /// A part of the blob.
    Body(Box<Opened>),
    /// Nothing: the blob is this long.
    End(u64),
}

impl BlobSource {
    /// `call` is the GET of the blob, without a range.
    pub(super) fn new(
        upstream: Arc<Upstream>,
        caller: Caller,
        call: Call,
        digest: Digest,
        expected: Option<u64>,
    ) -> BlobSource {
        let account = upstream.endpoints.last().and_then(|endpoint| caller.account_at(endpoint));
        let key = BlobKey { repository: caller.repository.clone(), account, digest };
        let failing = upstream.failing.get(&key);
        BlobSource {
            upstream,
            caller,
            call,
            digest,
            expected,
            plain: None,
            distrusted: Vec::new(),
            owing: Vec::new(),
            without: false,
            head: None,
            key,
            failing,
            headless: failing.is_some_and(|lately| lately.head),
        }
    }

    /// Begins a request of its own: a token from before it may have expired.
    pub(super) fn begin_again(&mut self) {
        self.call.since = std::time::Instant::now();
    }

    /// The attempts at one request for it: one of each address where the blob failed lately.
    pub(super) fn attempts(&self, avoid: &[usize]) -> Attempts {
        if self.failing.is_some() {
            Attempts::once(&self.upstream, avoid)
        } else {
            Attempts::new(&self.upstream, avoid)
        }
    }

    /// Whether a HEAD is left out because the blob failed lately. `wanted`: the client asks by HEAD.
    pub(super) fn omits_head(&self, wanted: bool) -> bool {
        self.failing.is_some_and(|lately| lately.head || !wanted)
    }

    /// The blob is being sent.
    pub(super) fn sends(&mut self) {
        if self.failing.take().is_some() {
            self.upstream.failing.ended(&self.key);
        }
    }

    /// The next endpoint to ask for the beginning of the blob, or for all of it. After the last attempt come those that were asked for
    /// it with a range alone, once each and without a range.
    /// `whole`: its failure says something of the whole blob.
    pub(super) async fn turn(&mut self, attempts: &mut Attempts, whole: bool) -> Result<Turn, ClientError> {
        let error = match attempts.next().await {
            // The registry itself has spoken of the blob.
            Err(error) if !error.is_answer() => error,
            turn => return turn,
        };
        let Some(Owing { index, .. }) = self.owing.first() else {
            if whole {
                self.upstream.failing.note(self.key.clone(), Lately { head: self.headless }, &error);
            }
            return Err(error);
        };
        self.plain = Some(*index);
        Ok(Turn::insist(&self.upstream, *index))
    }

    /// From now on no request has a range. False where that was so.
    pub(super) fn leave_out_the_range(&mut self) -> bool {
        !std::mem::replace(&mut self.without, true)
    }

    /// As [`ways`], of the requests of this source.
    pub(super) fn ways(&self, start: u64, end: Option<u64>) -> &'static [Kind] {
        if self.without { &[Kind::Blob] } else { ways(start, end) }
    }

    /// Notes how a HEAD of the blob failed at the endpoint at `index`.
    pub(super) fn head_failed(&mut self, index: usize, failure: &Failure) {
        // Where the method is refused the range may be too, and only a no to the whole is one.
        if matches!(failure, Failure::Unconfirmed(_)) {
            self.plain = Some(index);
        }
        self.head = failure.status().filter(|status| *status >= 500);
        self.headless = true;
    }

    /// Whether the digest is that of no bytes.
    pub(super) fn is_of_nothing(&self) -> bool {
        Digest::of(self.digest.algorithm(), b"") == self.digest
    }

    /// Asks these endpoints without a range where that will do.
    pub(super) fn distrust(&mut self, endpoints: &[usize]) {
        self.distrusted = endpoints.to_vec();
    }

    /// What the header of the shortest possible GET tells of the blob.
    pub(super) async fn probe(&mut self, index: usize) -> Result<BlobProbe, Failure> {
        // Of one that failed lately the range is left out: it would be asked for without one after that in any case.
        let end = self.failing.is_none().then_some(1);
        let opening = self.open(index, 0, end, None).await?;
        self.sends();
        match opening {
            Opening::Body(opened) => {
                let headers = opened.response.headers();
                let (page, unnamed) = (is_page(headers, &self.digest), is_unnamed(headers, &self.digest));
                Ok(BlobProbe { size: opened.extent.total, ranges: opened.ranges, page, unnamed })
            }
            Opening::End(total) => Ok(BlobProbe { size: Some(total), ranges: true, page: false, unnamed: false }),
        }
    }

    /// Asks one endpoint for `start..end`; once more, for everything, when it does not take the range.
    pub(super) async fn open(
        &mut self,
        index: usize,
        start: u64,
        end: Option<u64>,
        if_range: Option<&HeaderValue>,
    ) -> Result<Opening, Failure> {
        let upstream = Arc::clone(&self.upstream);
        let endpoint = &upstream.endpoints[index];
        let range = range::header(start, end).and_then(|range| HeaderValue::try_from(range).ok());
        // From its start the blob can be had without a range as well.
        let avoided = range.is_some()
            && (self.without
                || start == 0
                    && (self.plain == Some(index)
                        || self.distrusted.contains(&index)
                        || !endpoint.ranges.is_worth_trying(Instant::now())));
        let mut refused = false;
        if let Some(range) = range.filter(|_| !avoided) {
            let answer = match self.ask(index, Some((range, if_range))).await {
                Err(Failure::Unauthorized) if endpoint.last => None,
                Err(failure) => {
                    if matches!(failure, Failure::Broken(_)) {
                        self.plain = Some(index);
                    }
                    return Err(self.owe(index, start, failure));
                }
                Ok(answer) => Some(answer),
            };
            let again = self.plain == Some(index);
            // A server that is known to take no ranges need not say so in so many words.
            refused = answer.as_ref().is_none_or(|answer| {
                let status = answer.response.status();
                let speaker = match (answer.foreign, endpoint.last) {
                    (true, _) => Speaker::Target,
                    (false, true) => Speaker::Registry,
                    (false, false) => Speaker::Mirror,
                };
                (range::is_refused(status, answer.response.headers(), start, speaker, again)
                    && self.head != Some(status.as_u16()))
                    || (status == StatusCode::INTERNAL_SERVER_ERROR && !endpoint.ranges.is_worth_trying(Instant::now()))
            });
            if let Some(answer) = answer.filter(|_| !refused) {
                let (status, headers) = (answer.response.status(), answer.response.headers());
                if status == StatusCode::RANGE_NOT_SATISFIABLE {
                    let total = range::unsatisfied(headers);
                    return total.map(Opening::End).ok_or_else(|| Failure::invalid(RangeError::Beyond));
                }
                self.plain = (!status.is_success()).then_some(index);
                match self.opened(index, answer, start, end).await {
                    // A 206 that is not what it should be: this server is bad at ranges.
                    Err(Failure::Invalid(_)) if status == StatusCode::PARTIAL_CONTENT => refused = true,
                    Err(failure) => return Err(self.owe(index, start, failure)),
                    Ok(opened) => return Ok(Opening::Body(Box::new(opened))),
                }
            }
        }
        if refused && start == 0 {
            self.plain = Some(index);
        }
        let paid = self.owing.iter().position(|owing| owing.index == index).map(|at| self.owing.remove(at));
        let answer = self.ask(index, None).await?;
        let mut opened = self.opened(index, answer, start, end).await?;
        if refused || paid.is_some_and(|owing| owing.limited) {
            let (registry, host) = (self.upstream.name(), endpoint.host());
            tracing::debug!(registry, host, "the server does not take ranges");
            endpoint.ranges.refused(Instant::now());
        }
        opened.ranges &= !(refused || avoided);
        Ok(Opening::Body(Box::new(opened)))
    }

    /// Notes a failure of a request with a range.
    fn owe(&mut self, index: usize, start: u64, failure: Failure) -> Failure {
        // In the middle of a blob a request without a range costs all that lies before it.
        if start == 0 && may_be_of_the_range(&failure) && self.owing.iter().all(|owing| owing.index != index) {
            self.owing.push(Owing { index, limited: matches!(failure, Failure::RateLimited(..)) });
        }
        failure
    }

    async fn ask(&self, index: usize, range: Option<(HeaderValue, Option<&HeaderValue>)>) -> Result<Answer, Failure> {
        let mut call = self.call.clone();
        if let Some((range, if_range)) = range {
            call.kind = Kind::BlobPart;
            call.headers.insert(RANGE, range);
            if let Some(etag) = if_range {
                call.headers.insert(IF_RANGE, etag.clone());
            }
        }
        self.upstream.exchange(index, &call, &self.caller).await
    }

    async fn opened(&self, index: usize, answer: Answer, start: u64, end: Option<u64>) -> Result<Opened, Failure> {
        let endpoint = &self.upstream.endpoints[index];
        let carried = endpoint.transport.is_some() && !answer.foreign;
        let response = self.upstream.accept(answer).await?;
        let (status, headers) = (response.status(), response.headers());
        if !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Err(Failure::invalid(format!("unexpected status {}", status.as_u16())));
        }
        let extent = range::check(status, headers, start, end).map_err(Failure::invalid)?;
        // No byte would come that the digest could refuse.
        if extent.total == Some(0) && !self.is_of_nothing() {
            return Err(nothing());
        }
        // The last address is believed: its label may be wrong, and the digest decides.
        let page = is_page(headers, &self.digest);
        if !endpoint.last && self.expected.is_some() && is_other(extent.total, page, self.expected) {
            return Err(other(page));
        }
        let ranges = status == StatusCode::PARTIAL_CONTENT
            || headers.get(ACCEPT_RANGES).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"bytes"));
        let proven = carried || range::content_length(headers).is_some() || headers.contains_key(TRANSFER_ENCODING);
        Ok(Opened { extent, etag: strong_etag(headers), ranges, proven, response })
    }
}

/// How `start..end` of a blob can be asked for. From its start it can be had without a range as well.
pub(super) fn ways(start: u64, end: Option<u64>) -> &'static [Kind] {
    match (start, end) {
        (0, None) => &[Kind::Blob],
        (0, Some(_)) => &[Kind::BlobPart, Kind::Blob],
        _ => &[Kind::BlobPart],
    }
}

/// Whether a request for a range may have failed in this way for its range alone.
fn may_be_of_the_range(failure: &Failure) -> bool {
    match failure {
        Failure::NotFound
        | Failure::Unauthorized
        | Failure::Forbidden
        | Failure::Rejected(_)
        | Failure::RateLimited(..)
        | Failure::Broken(_)
        | Failure::Expired(_) => true,
        // A redirect that cannot be followed leads no further without a range.
        Failure::Invalid(why) => !why.status.is_some_and(|status| (300..400).contains(&status)),
        // There was no answer, or it was not about the blob; waiting once more for an answer takes as long again.
        Failure::Unconfirmed(_)
        | Failure::AccountRefused(_)
        | Failure::Dead(_)
        | Failure::Silent(_)
        | Failure::Astray(_) => false,
    }
}

/// A blob without a byte, and its digest is not that of nothing.
pub(super) fn nothing() -> Failure {
    Failure::invalid("nothing in place of the blob")
}

/// Whether an answer may be a login page, or that of an application, in place of the blob: it is labelled so, and not with the digest.
pub(super) fn is_page(headers: &HeaderMap, digest: &Digest) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    let html = ["text/html", "application/xhtml+xml"].iter().any(|page| essence.eq_ignore_ascii_case(page));
    html && manifest::content_digest(headers) != Some(*digest)
}

/// Whether an answer does not name what it brings: neither its digest nor a type that blobs have. Without a length it may be anything.
pub(super) fn is_unnamed(headers: &HeaderMap, digest: &Digest) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_blobs = ["application/octet-stream", "binary/octet-stream"].contains(&essence.as_str())
        || essence.starts_with("application/vnd.");
    !is_blobs && manifest::content_digest(headers) != Some(*digest)
}

/// Whether an answer may be about something else than the blob: it has another length than is known, or is labelled as a page.
pub(super) fn is_other(told: Option<u64>, page: bool, known: Option<u64>) -> bool {
    match (told, known) {
        (Some(told), Some(known)) => told != known,
        (None, Some(_)) | (_, None) => page,
    }
}

/// The failure of an endpoint that answers with something else than the blob.
pub(super) fn other(page: bool) -> Failure {
    Failure::invalid(if page { "a page in place of the blob" } else { "a blob of another length" })
}

fn strong_etag(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(ETAG).filter(|value| value.as_bytes().starts_with(b"\"")).cloned()
}

//! Whether a blob is there, and how large it is.
//!
//! A HEAD may say yes, and only a GET no. What a HEAD did not tell is asked by the shortest possible GET, and remembered of the
//! endpoint, so that later questions cost one request.
//!
//! Not every 200 is a yes: servers also send a login page, or an application's, for any path. What is labelled as a page, and a length
//! other than the known one, give nobody a right to bytes that are here already.

use reqwest::Method;
use tokio::time::Instant;

use super::failure::Failure;
use super::pauses::Kind;
use super::repository::Repository;
use super::retry::Attempts;
use super::send::Call;
use super::source::{self, is_other, is_page, other};
use super::{BlobHead, BlobProbe, ClientError, manifest, range};
use crate::oci::Digest;

impl Repository {
    /// HEAD of a blob. A HEAD's 404 is [`ClientError::Unconfirmed`]; any other failure of a HEAD is decided by a GET of the first byte.
    /// `known`: the length of the blob, where it is here.
    pub async fn head_blob(&self, digest: &Digest, known: Option<u64>) -> Result<BlobHead, ClientError> {
        self.size(digest, true, known).await
    }

    /// The question "may this credential read the blob here?", as a client asks it that sends a GET: a HEAD may say yes, and
    /// only a GET no. It is answered by [`BlobHead::Size`] or [`BlobHead::Mirrored`].
    pub async fn find_blob(&self, digest: &Digest, known: Option<u64>) -> Result<BlobHead, ClientError> {
        self.size(digest, false, known).await
    }

    /// By HEAD; where that is not to be had, from the header of the shortest possible GET. Presigned URLs bind the
    /// method, so an object store behind a redirect often refuses a HEAD. An endpoint whose GET said more than its HEAD is
    /// asked by GET at once from then on, for a client that sends a GET; one whose HEADs say 0 for what is longer, for all.
    async fn size(&self, digest: &Digest, absent_by_head: bool, known: Option<u64>) -> Result<BlobHead, ClientError> {
        let yes =
            |index: usize, size| if self.is_mirror(index) { BlobHead::Mirrored(size) } else { BlobHead::Size(size) };
        let mut source = self.source(digest);
        let mut attempts = source.attempts(&[]);
        let decides = self.gives_rights && (!absent_by_head || known.is_some());
        if decides {
            attempts = attempts.of_the_registry();
        }
        // Their HEADs failed: further tries are by GET, which would follow in any case.
        let mut failed = Vec::new();
        loop {
            let turn = source.turn(&mut attempts, true).await?;
            let (index, endpoint) = (turn.index, &self.upstream.endpoints[turn.index]);
            let by_head = !source.omits_head(absent_by_head)
                && !failed.contains(&index)
                && !self.is_sized_by_get(index, absent_by_head);
            let mut untold = false;
            if by_head {
                match self.ask_head(index, digest, known).await {
                    Ok(HeadSize::Told(size)) => {
                        turn.settle(None);
                        return Ok(yes(index, size));
                    }
                    Ok(HeadSize::Other(size)) if absent_by_head && known.is_none() => {
                        turn.settle(None);
                        return Ok(BlobHead::Page(size));
                    }
                    Ok(HeadSize::Other(_)) => {}
                    Ok(HeadSize::Zero) => untold = true,
                    Ok(HeadSize::Refused(failure)) if is_for_a_get(&failure, endpoint.last, absent_by_head) => {
                        source.head_failed(index, &failure);
                        attempts.note(index, failure);
                    }
                    Ok(HeadSize::Refused(failure)) | Err(failure) => {
                        failed.push(index);
                        attempts.failed(turn, failure);
                        continue;
                    }
                }
            }
            match source.probe(index).await {
                Ok(probe)
                    if is_other(probe.size, probe.page, known)
                        || (decides && probe.size.is_none() && probe.unnamed) =>
                {
                    failed.push(index);
                    attempts.failed(turn, other(probe.page));
                }
                Ok(probe) => {
                    turn.settle(None);
                    let now = Instant::now();
                    if by_head {
                        endpoint.heads.refused(now);
                    }
                    if untold {
                        endpoint.lengths.refused(now);
                    }
                    return Ok(yes(index, probe.size));
                }
                // A client's HEAD may be answered with 200. Whether the client may read the blob is for the GET to say.
                Err(failure) if untold && absent_by_head && endpoint.last => {
                    turn.settle(Some(&failure));
                    return Ok(BlobHead::Unopened(failure.at(endpoint.host(), None).into_error(self.upstream.name())));
                }
                Err(failure) => {
                    failed.push(index);
                    attempts.failed(turn, failure);
                }
            }
        }
    }

    /// What the header of a GET tells of a blob: asked before a part of it is fetched. HEAD may know less, and its no proves
    /// nothing. `failed`: upstream has just failed to send a part, so that one try of each address is enough.
    /// `expected`: its length as a manifest tells it, by which mirrors that have something else are passed.
    pub async fn probe_blob(
        &self,
        digest: &Digest,
        expected: Option<u64>,
        failed: bool,
    ) -> Result<BlobProbe, ClientError> {
        let mut source = self.source_of(digest, expected);
        let mut attempts = if failed { Attempts::once(&self.upstream, &[]) } else { source.attempts(&[]) };
        loop {
            let turn = source.turn(&mut attempts, true).await?;
            match source.probe(turn.index).await {
                Ok(probe) => {
                    turn.settle(None);
                    return Ok(probe);
                }
                Err(failure) => attempts.failed(turn, failure),
            }
        }
    }

    /// Whether the size of a blob is asked for by GET without a HEAD before it.
    ///
    /// What a mirror says to a GET is as good, and its no sends the question on in any case. A client's HEAD is asked by HEAD
    /// where that tells all: a cache upstream must not fetch a blob for it.
    fn is_sized_by_get(&self, index: usize, absent_by_head: bool) -> bool {
        let (endpoint, now) = (&self.upstream.endpoints[index], Instant::now());
        match absent_by_head {
            true => !endpoint.lengths.is_worth_trying(now),
            false => !endpoint.last || !endpoint.heads.is_worth_trying(now),
        }
    }

    async fn ask_head(&self, index: usize, digest: &Digest, known: Option<u64>) -> Result<HeadSize, Failure> {
        let call = Call { method: Method::HEAD, blob: false, kind: Kind::BlobHead, ..self.blob_call(digest) };
        let answer = match self.upstream.exchange(index, &call, &self.caller).await {
            // A limit of HEADs is none of GETs.
            Err(failure @ (Failure::Unconfirmed(_) | Failure::RateLimited(..))) => {
                return Ok(HeadSize::Refused(failure));
            }
            answer => answer?,
        };
        let response = match self.upstream.accept(answer).await {
            Err(failure) => return Ok(HeadSize::Refused(failure)),
            Ok(response) => response,
        };
        let headers = response.headers();
        let size = range::content_length(headers);
        let is_empty = || Digest::of(digest.algorithm(), b"") == *digest;
        if size == Some(0) && !is_empty() {
            return Ok(HeadSize::Zero);
        }
        // Some registries label a HEAD with the digest and a length of their own.
        let named = manifest::content_digest(headers) == Some(*digest);
        let decides = self.gives_rights && known.is_some();
        let unsaid = decides && size.is_none() && source::is_unnamed(headers, digest);
        let other = !named && (unsaid || is_other(size, is_page(headers, digest), known));
        Ok(if other { HeadSize::Other(size) } else { HeadSize::Told(size) })
    }
}

/// What a HEAD says of a blob's size.
enum HeadSize {
    /// This much, or nothing.
    Told(Option<u64>),
    /// 0, which is wrong.
    Zero,
    /// It may be about something else.
    Other(Option<u64>),
    /// It was answered with something else.
    Refused(Failure),
}

/// Whether a GET decides after an answer to a HEAD. `last`: of the registry itself.
fn is_for_a_get(failure: &Failure, last: bool, absent_by_head: bool) -> bool {
    last && !(absent_by_head && matches!(failure, Failure::Unconfirmed(404 | 410)))
}

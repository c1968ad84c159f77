//! Blobs: who may have them, and from where they come.
//!
//! The bytes are shared by all repositories, the right to them is not: a blob is served when this repository is known
//! to hold it, or upstream says so now. Otherwise whoever knows a digest could read a private layer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RANGE;
use pierhead_registry::client::{BlobHead, ClientError};
use pierhead_registry::oci::Digest;

use super::Edge;
use super::flights::FlightError;
use super::outcome::{BypassReason, Outcome, StaleReason};
use super::plan::Authorisation;
use super::refusal::{Refusal, Thing};
use super::scope::{Key, Scope, Wanted};
use super::served::{Content, Refused, Served};
use crate::cache::{Blob, BlobError, BlobState, Stretch, Want, are_few, stretches};
use pierhead_service::conditional::{self, Verdict};
use pierhead_service::range::{self, Selection, Spec};

/// How long the answer to a range waits for the length of a blob that upstream does not tell. Without it the answer is the
/// whole blob.
const SETTLE: Duration = Duration::from_secs(10);

impl Edge {
    /// Answers a request for a blob.
    pub(crate) async fn blob(
        self: &Arc<Self>,
        scope: &Scope,
        digest: &Digest,
        head: bool,
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Result<Served, Refused> {
        let held = self.cache.holds(&scope.repository, digest).await;
        let size = self.cache.blob_size(digest).await;
        let want = want(headers, digest, size);
        let right = match scope.authorisation(&self.cache, now).await {
            Authorisation::Fresh if held => Right::Known,
            Authorisation::Refuse => return Err(Refusal::Offline(Thing::Blob).into()),
            _ if scope.offline => return Err(Refusal::Offline(Thing::Blob).into()),
            // Nobody has any of its bytes: upstream's sending them is its yes.
            Authorisation::Fresh if size.is_none() && !head => {
                self.not_refused(scope, &scope.key(Wanted::Blob(*digest)))?;
                Right::ByFetching
            }
            Authorisation::AskElseKnown if held => match self.ask_blob(scope, digest, size, head).await {
                Ok(_) => Right::Asked,
                Err(refused) if refused.refusal.is_failure() => Right::Stale,
                Err(refused) => return Err(refused),
            },
            _ => {
                let found = self.ask_blob(scope, digest, size, head).await?;
                if head {
                    return Ok(self.blob_head(digest, &found));
                }
                Right::Asked
            }
        };
        if let Some(size) = size
            && (head || (right.is_established() && is_unchanged(headers, digest)))
        {
            let outcome = right.outcome(BlobState::Committed);
            return Ok(Served::new(Content::BlobHead(*digest, Some(size)), outcome));
        }
        if head {
            // Held, yet its bytes are gone, and their number with them.
            if scope.offline {
                return Err(Refusal::Offline(Thing::Blob).into());
            }
            let found = self.ask_blob(scope, digest, None, head).await?;
            return Ok(self.blob_head(digest, &found));
        }
        let opened = match right {
            Right::ByFetching if want == Want::Whole => self.open_together(scope, digest, want).await?,
            // Opened by each for itself: who wants the whole must not be given what was opened for a part.
            Right::ByFetching | Right::Known | Right::Asked | Right::Stale => self.open(scope, digest, want).await,
        };
        let settled = match opened {
            Ok(blob) => settle(&blob, headers).await.map(|()| blob),
            Err(error) => Err(error),
        };
        match settled {
            Ok(blob) => {
                let outcome = right.outcome(blob.state());
                Ok(Served::new(Content::Blob(*digest, blob), outcome))
            }
            Err(error) => {
                self.blob_failed(scope, digest, &error).await;
                Err(Refused::new(Refusal::blob(&error, scope.caller.is_some()), Outcome::Miss))
            }
        }
    }

    /// What a client's HEAD gets. Upstream need not tell a size; then a manifest that was seen does, if there is one.
    fn blob_head(&self, digest: &Digest, found: &BlobHead) -> Served {
        let told = match found {
            BlobHead::Size(size) | BlobHead::Mirrored(size) | BlobHead::Page(size) => *size,
            BlobHead::Unopened(_) => None,
        };
        let size = told.or_else(|| self.cache.announced_size(digest));
        Served::new(Content::BlobHead(*digest, size), Outcome::Miss)
    }

    async fn open(&self, scope: &Scope, digest: &Digest, want: Want) -> Result<Arc<Blob>, BlobError> {
        let source = (!scope.offline).then(|| scope.blob_source());
        let held = self.cache.holds(&scope.repository, digest).await;
        let opened = self.cache.open_blob(&scope.repository, digest, want, source).await;
        if let Err(BlobError::Upstream(error)) = &opened {
            scope.learn(&self.cache, Thing::Blob, &Err::<(), _>(error.clone()), |()| false).await;
        }
        let blob = opened?;
        // What was known while its bytes were not here could not be written down.
        if !held || blob.state() != BlobState::Committed {
            scope.keep(self.cache.link(&scope.repository, digest)).await;
        }
        // An empty blob has no last byte for its hash to be checked before, so that is done before its header goes out.
        if blob.size() == Some(0) {
            blob.reader(0..0).read(&mut [0]).await?;
        }
        Ok(Arc::new(blob))
    }

    /// Opens what this repository is not known to hold, once for all who ask at the same time. Each of them alone would
    /// find that somebody else has started, and ask upstream whether it may join.
    async fn open_together(
        self: &Arc<Self>,
        scope: &Scope,
        digest: &Digest,
        want: Want,
    ) -> Result<Result<Arc<Blob>, BlobError>, FlightError> {
        let question = {
            let (edge, scope, digest) = (Arc::clone(self), scope.clone(), *digest);
            move || async move { edge.open(&scope, &digest, want).await }
        };
        let _wanted = self.cache.want_blob(digest, &scope.party);
        self.openings.join(&scope.party, scope.key(Wanted::Blob(*digest)), question).await
    }

    /// Writes down what upstream's refusal to send a blob means.
    async fn blob_failed(&self, scope: &Scope, digest: &Digest, error: &BlobError) {
        match error {
            BlobError::Upstream(upstream) => {
                let result = Err::<(), _>(upstream.clone());
                let key = scope.key(Wanted::Blob(*digest));
                self.negatives.keep(key, &result, scope.upstream.config.negative_ttl);
                // To one caller of many, "not found" may mean "not for you".
                if matches!(upstream, ClientError::NotFound { .. }) && scope.caller.is_none() {
                    self.cache.unlink(&scope.repository, digest).await;
                }
            }
            BlobError::Busy(_) | BlobError::Mismatch { .. } | BlobError::Storage { .. } | BlobError::Offline { .. } => {
                tracing::warn!(repository = %scope.repository, %error, "no blob");
            }
        }
    }

    fn not_refused(&self, scope: &Scope, key: &Key) -> Result<(), Refused> {
        self.remembered(scope, self.negatives.get(key))
    }

    fn remembered(&self, scope: &Scope, error: Option<ClientError>) -> Result<(), Refused> {
        match error {
            Some(error) => Err(Refused { outcome: Outcome::Hit, ..scope.blob_refused(&error) }),
            None => Ok(()),
        }
    }

    /// Asks upstream about a blob: does this repository hold it, and may the caller have it? `head`: the caller asks by HEAD, so
    /// upstream's no to a HEAD is the answer. For a GET only a GET's no counts: another cache behind may fetch for a GET alone. `size`: the
    /// length of the blob, where it is here.
    async fn ask_blob(
        self: &Arc<Self>,
        scope: &Scope,
        digest: &Digest,
        size: Option<u64>,
        head: bool,
    ) -> Result<BlobHead, Refused> {
        let refused = scope.key(Wanted::Blob(*digest));
        match head {
            true => self.remembered(scope, self.negatives.get_for_head(&refused))?,
            false => self.not_refused(scope, &refused)?,
        }
        let key = scope.key(if head { Wanted::BlobHead(*digest) } else { Wanted::Blob(*digest) });
        let question = {
            let (edge, scope, digest, key) = (Arc::clone(self), scope.clone(), *digest, key.clone());
            move || async move {
                let source = scope.source();
                let result = match head {
                    true => source.head_blob(&digest, size).await,
                    false => source.find_blob(&digest, size).await,
                };
                // Both are good enough for the answer to a HEAD, and give no right to anything.
                if let Ok(BlobHead::Unopened(error)) = &result {
                    scope.learn(&edge.cache, Thing::Blob, &Err::<(), _>(error.clone()), |()| false).await;
                    return result;
                }
                if let Ok(BlobHead::Page(_)) = &result {
                    return result;
                }
                let of_the_registry = |found: &BlobHead| matches!(found, BlobHead::Size(_));
                scope.learn(&edge.cache, Thing::Blob, &result, of_the_registry).await;
                if !head {
                    edge.negatives.keep(key, &result, scope.upstream.config.negative_ttl);
                }
                if scope.caller.is_none() && result.is_ok() || result.as_ref().is_ok_and(of_the_registry) {
                    scope.keep(edge.cache.link(&scope.repository, &digest)).await;
                }
                result
            }
        };
        self.blobs.join(&scope.party, key, question).await?.map_err(|error| scope.blob_refused(&error))
    }
}

/// Why a caller may have a blob.
#[derive(Clone, Copy)]
enum Right {
    /// It is known that this repository holds it.
    Known,
    /// Upstream said so just now.
    Asked,
    /// Upstream said so to this caller before, and cannot be asked.
    Stale,
    /// Upstream will have said so when the blob is open, by sending it.
    ByFetching,
}

impl Right {
    fn is_established(self) -> bool {
        !matches!(self, Right::ByFetching)
    }

    fn outcome(self, state: BlobState) -> Outcome {
        match (state, self) {
            (BlobState::Uncached, _) => Outcome::Bypass(BypassReason::Uncached),
            (BlobState::Filling, _) => Outcome::Miss,
            (BlobState::Committed, Right::Asked | Right::ByFetching) => Outcome::Revalidated,
            (BlobState::Committed, Right::Stale) => Outcome::Stale(StaleReason::UpstreamFailed),
            (BlobState::Committed, Right::Known) => Outcome::Hit,
        }
    }
}

fn is_unchanged(headers: &HeaderMap, digest: &Digest) -> bool {
    headers.contains_key(http::header::IF_NONE_MATCH)
        && conditional::evaluate(headers, &format!("\"{digest}\"")) == Verdict::NotModified
}

/// Waits for what the answer to a range must know: the length of the blob; and where the range lies beyond that, whether it
/// is the length. A page in place of the blob has one too, and a label refuses nothing.
async fn settle(blob: &Blob, headers: &HeaderMap) -> Result<(), BlobError> {
    let Some(specs) = headers.get(RANGE).and_then(|header| range::parse(header.as_bytes())) else { return Ok(()) };
    blob.settle(SETTLE).await;
    match blob.size() {
        Some(size) if range::select(&specs, size) == Selection::Unsatisfiable => blob.prove(SETTLE).await,
        _ => Ok(()),
    }
}

/// Whether a request starts a fill of the whole blob. One that asks for a part, however it is cut, does not.
fn want(headers: &HeaderMap, digest: &Digest, size: Option<u64>) -> Want {
    let Some(specs) = headers.get(RANGE).and_then(|header| range::parse(header.as_bytes())) else { return Want::Whole };
    if range::is_whole(&specs, size) || !conditional::range_applies(headers, &format!("\"{digest}\"")) {
        Want::Whole
    } else {
        Want::Part(match specs[..] {
            [Spec::Closed(start, last)] => Some(Stretch { start, end: last.checked_add(1) }),
            [Spec::From(start)] => Some(Stretch { start, end: None }),
            [Spec::Suffix(_)] => None,
            _ => return several(&specs),
        })
    }
}

/// What to ask for first where a client asks for several ranges: of few stretches the first one, whose answer tells the length of the
/// blob, too.
fn several(specs: &[Spec]) -> Want {
    let closed = |spec: &Spec| match spec {
        Spec::Closed(start, last) => Some(*start..last.saturating_add(1)),
        Spec::From(_) | Spec::Suffix(_) => None,
    };
    let ranges: Vec<_> = specs.iter().filter_map(closed).collect();
    let mut stretches = stretches(&ranges);
    let first = stretches.first().cloned();
    if specs.iter().any(|spec| matches!(spec, Spec::From(_))) {
        return Want::Whole;
    }
    // The end of the blob, wherever that is.
    if ranges.len() < specs.len() {
        stretches.push(0..1);
    }
    let first = first.filter(|_| are_few(&stretches));
    Want::Part(first.map(|stretch| Stretch { start: stretch.start, end: Some(stretch.end) }))
}

impl Scope {
    /// Upstream's error about a blob, as a refusal.
    fn blob_refused(&self, error: &ClientError) -> Refused {
        Refused::new(Refusal::upstream(error, Thing::Blob, self.caller.is_some()), Outcome::Miss)
    }
}

#[cfg(test)]
mod tests {
    use http::header::{IF_RANGE, RANGE};
    use http::{HeaderMap, HeaderValue};
    use pierhead_registry::oci::{Algorithm, Digest};

    use super::{Stretch, Want, want};

    #[test]
    fn parts_do_not_start_fills() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let same = format!("\"{digest}\"");
        let part = |start, end| Want::Part(Some(Stretch { start, end }));
        for (range, if_range, size, expected) in [
            (None, None, None, Want::Whole),
            (Some("bytes=0-"), None, None, Want::Whole),
            (Some("bytes=0-9"), None, Some(10), Want::Whole),
            (Some("bytes=0-9"), None, Some(11), part(0, Some(10))),
            (Some("bytes=5-"), None, None, part(5, None)),
            (Some("bytes=5-9"), None, None, part(5, Some(10))),
            (Some("bytes=-5"), None, None, Want::Part(None)),
            (Some("bytes=0-1,5-6"), None, None, part(0, Some(7))),
            (Some("bytes=5-6,0-1,-9"), None, None, part(0, Some(7))),
            (Some("bytes=0-1,5000000-5000001"), None, None, part(0, Some(2))),
            (Some("bytes=0-1,5000000-5000001,-9"), None, None, Want::Part(None)),
            (Some("bytes=0-1,5-"), None, None, Want::Whole),
            (Some("lines=0-1"), None, None, Want::Whole),
            (Some("bytes=5-"), Some("\"other\""), None, Want::Whole),
            (Some("bytes=5-"), Some(same.as_str()), None, part(5, None)),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(range) = range {
                headers.insert(RANGE, HeaderValue::from_static(range));
            }
            if let Some(if_range) = if_range {
                headers.insert(IF_RANGE, HeaderValue::from_str(if_range).unwrap());
            }
            assert_eq!(want(&headers, &digest, size), expected, "{range:?} {if_range:?} {size:?}");
        }
    }
}

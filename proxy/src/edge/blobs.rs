//! Blobs: who may have them, and from where they come.
//!
//! The bytes are shared by all repositories, the right to them is not: a blob is served when this repository is known
//! to hold it, or upstream says so now. Otherwise whoever knows a digest could read a private layer.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use http::header::RANGE;
use pierhead_registry::client::ClientError;
use pierhead_registry::oci::Digest;

use super::Edge;
use super::conditional::{self, Verdict};
use super::outcome::{BypassReason, Outcome, StaleReason};
use super::plan::Authorisation;
use super::range;
use super::refusal::{Refusal, Thing};
use super::scope::{Scope, Wanted};
use super::served::{Content, Refused, Served};
use crate::cache::{BlobError, BlobState, Want};

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
        let key = scope.key(Wanted::Blob(*digest));
        if let Some(error) = self.negatives.get(&key) {
            return Err(Refused { outcome: Outcome::Hit, ..scope.blob_refused(&error) });
        }
        let held = self.cache.holds(&scope.repository, digest).await;
        let size = self.cache.blob_size(digest);
        let right = match scope.authorisation(&self.cache, now).await {
            Authorisation::Refuse => return Err(Refusal::Offline(Thing::Blob).into()),
            Authorisation::Fresh if held => Right::Known,
            _ if scope.offline => return Err(Refusal::Offline(Thing::Blob).into()),
            // Nobody has any of its bytes: upstream's sending them is its yes.
            Authorisation::Fresh if size.is_none() && !head => Right::ByFetching,
            Authorisation::AskElseKnown if held => match self.ask_blob(scope, digest).await {
                Ok(_) => Right::Asked,
                Err(refused) if refused.refusal.is_failure() => Right::Stale,
                Err(refused) => return Err(refused),
            },
            _ => {
                let asked = self.ask_blob(scope, digest).await?;
                if head {
                    return Ok(Served::new(Content::BlobHead(*digest, asked), Outcome::Miss));
                }
                Right::Asked
            }
        };
        if let (Some(size), true) = (size, head || is_unchanged(headers, digest)) {
            return Ok(Served::new(Content::BlobHead(*digest, size), right.outcome(BlobState::Committed)));
        }
        if head {
            // Held, yet of unknown size: a manifest that does not say.
            if scope.offline {
                return Err(Refusal::Offline(Thing::Blob).into());
            }
            let size = self.ask_blob(scope, digest).await?;
            return Ok(Served::new(Content::BlobHead(*digest, size), Outcome::Miss));
        }
        let source = (!scope.offline).then(|| scope.source());
        match self.cache.open_blob(&scope.repository, digest, want(headers, size), source).await {
            Ok(blob) => {
                let outcome = right.outcome(blob.state());
                Ok(Served::new(Content::Blob(*digest, blob), outcome))
            }
            Err(error) => {
                if let BlobError::Upstream(upstream) = &error {
                    let result = Err::<(), _>(upstream.clone());
                    self.negatives.keep(key, &result, scope.upstream.config.negative_ttl);
                    if matches!(upstream, ClientError::NotFound { .. }) && scope.caller.is_none() {
                        self.cache.unlink(&scope.repository, digest).await;
                    }
                }
                Err(Refused::new(Refusal::blob(&error, scope.caller.is_some()), Outcome::Miss))
            }
        }
    }

    /// Asks upstream for a blob's header: does this repository hold it, and may the caller have it?
    async fn ask_blob(self: &Arc<Self>, scope: &Scope, digest: &Digest) -> Result<u64, Refused> {
        let key = scope.key(Wanted::Blob(*digest));
        let question = {
            let (edge, scope, digest, key) = (Arc::clone(self), scope.clone(), *digest, key.clone());
            move || async move {
                let source = scope.source();
                let result = scope.ask(&edge.cache, source.head_blob(&digest)).await;
                edge.negatives.keep(key, &result, scope.upstream.config.negative_ttl);
                // A link to bytes that are nowhere near would only cost memory.
                if result.is_ok() && edge.cache.blob_size(&digest).is_some() {
                    edge.cache.link(&scope.repository, &digest).await;
                }
                result
            }
        };
        self.blobs.join(key, question).await?.map_err(|error| scope.blob_refused(&error))
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
    /// Upstream will say so by sending it.
    ByFetching,
}

impl Right {
    fn outcome(self, state: BlobState) -> Outcome {
        match (state, self) {
            (BlobState::Uncached, _) => Outcome::Bypass(BypassReason::Uncached),
            (BlobState::Filling, _) => Outcome::Miss,
            (BlobState::Committed, Right::Asked) => Outcome::Revalidated,
            (BlobState::Committed, Right::Stale) => Outcome::Stale(StaleReason::UpstreamFailed),
            (BlobState::Committed, Right::Known | Right::ByFetching) => Outcome::Hit,
        }
    }
}

fn is_unchanged(headers: &HeaderMap, digest: &Digest) -> bool {
    headers.contains_key(http::header::IF_NONE_MATCH)
        && conditional::evaluate(headers, &format!("\"{digest}\"")) == Verdict::NotModified
}

/// Whether a request starts a fill of the whole blob. One that asks for a part, however it is cut, does not.
fn want(headers: &HeaderMap, size: Option<u64>) -> Want {
    match headers.get(RANGE).and_then(|header| range::parse(header.as_bytes())) {
        Some(specs) if !range::is_whole(&specs, size) => Want::Part,
        _ => Want::Whole,
    }
}

impl Scope {
    /// Upstream's error about a blob, as a refusal.
    fn blob_refused(&self, error: &ClientError) -> Refused {
        Refused::new(Refusal::upstream(error, Thing::Blob, self.caller.is_some()), Outcome::Miss)
    }
}

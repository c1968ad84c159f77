//! Fetching: the whole of a blob, over one connection or several, or a range of it that somebody waits for.
//!
//! Whoever fetches claims a stretch first, so that no byte is asked for twice; a body that runs into what is already here
//! is cut off. The client below resumes broken bodies and tries other addresses; what fails here has failed there for good.

use std::ops::Range;
use std::sync::Arc;

use futures_util::future::try_join_all;
use pierhead_registry::client::{BlobBody, ClientError};
use pierhead_registry::oci::Digest;

use super::lease::Lease;
use super::registry::{Fills, Origin};
use super::{Fill, Piece};
use crate::cache::store::Store;
use crate::cache::{BlobError, Want};

/// What one connection of several fetches at a time: small enough for readers to follow, large enough to pay for a request.
const STRETCH: u64 = 16 << 20;
/// Most connections for one blob: others want some too.
const CONNECTIONS: usize = 4;
/// A body is cut off when at least this much of what follows is already here.
const CUT: u64 = 256 << 10;

/// The first body of a new fill: the whole blob, or its first stretch when it is known to be large.
pub(super) async fn first(origin: &Origin, digest: &Digest, avoid: &[usize]) -> Result<BlobBody, ClientError> {
    let large = origin.hint.is_some_and(|hint| hint > origin.parallel_above && origin.connections > 1);
    origin.source.get_blob(digest, 0, large.then_some(STRETCH), avoid).await
}

/// Fetches all that is missing of a fill, starting with `body` when there is one. The only one at a time of a fill.
pub(super) async fn whole(
    lease: Lease,
    store: Arc<Store>,
    fills: Arc<Fills>,
    origin: Origin,
    body: Option<BlobBody>,
    avoid: Vec<usize>,
) {
    let fill = Arc::clone(lease.fill());
    if let Err(why) = fills.reserve(&store, fill.digest, fill.total).await {
        tracing::warn!(digest = %fill.digest, size = fill.total, %why, "served through, uncached");
        fill.fail(BlobError::Storage { digest: fill.digest, reason: why.to_string() });
        fill.end_whole();
        return;
    }
    fill.checked().await;
    let ranges = !fill.is_unranged() && body.as_ref().is_none_or(BlobBody::ranges);
    let several = fill.total > origin.parallel_above && ranges;
    let workers = if several { CONNECTIONS.min(origin.connections).max(1) } else { 1 };
    let stretch = if workers > 1 { STRETCH } else { u64::MAX };
    let mut first = body;
    while !fill.over() {
        let work = (0..workers).map(|_| fetch(&fill, &origin, first.take(), stretch, &avoid));
        if let Err(error) = try_join_all(work).await {
            tracing::warn!(digest = %fill.digest, %error, "fill stopped");
            fill.fail(error);
        }
        // What is left is being fetched for readers of ranges, who may fail.
        fill.wait(|state| state.is_over() || state.next_free(fill.total).is_some()).await;
    }
    fill.end_whole();
    let again = matches!(fill.failure(), Some(BlobError::Mismatch { .. }))
        && fills.refused(&fill.digest).len() < origin.source.endpoints();
    drop(lease);
    if again {
        // From an address that has not lied yet; whoever asks next joins.
        let _ = Box::pin(fills.join(&store, &fill.digest, Want::Whole, Some(origin))).await;
    }
}

/// Fetches one free stretch after the other until there is none.
async fn fetch(
    fill: &Arc<Fill>,
    origin: &Origin,
    mut first: Option<BlobBody>,
    stretch: u64,
    avoid: &[usize],
) -> Result<(), BlobError> {
    while let Some(claimed) = fill.claim_next(stretch) {
        if fill.over() {
            break;
        }
        let body = match first.take() {
            Some(body) => body,
            None => get(fill, origin, &claimed.range, avoid).await?,
        };
        copy(fill, body, &claimed.range).await?;
    }
    Ok(())
}

/// Fetches a range that a reader waits for, as far as it is missing.
pub(in crate::cache) async fn range(
    lease: Lease,
    store: Arc<Store>,
    fills: Arc<Fills>,
    origin: Origin,
    range: Range<u64>,
) -> Result<(), BlobError> {
    let fill = lease.fill();
    let avoid = fills.refused(&fill.digest);
    for gap in fill.gaps(range) {
        let size = (fill.bytes() + (gap.end - gap.start)).min(fill.total);
        if let Err(why) = fills.reserve(&store, fill.digest, size).await {
            return Err(BlobError::Storage { digest: fill.digest, reason: why.to_string() });
        }
        let claimed = fill.claim(gap);
        let body = get(fill, &origin, &claimed.range, &avoid).await?;
        if body.start() < claimed.range.start {
            // Each part would cost all that lies before it. So the whole is fetched, once, and the part waited for.
            drop((body, claimed));
            fill.unrange();
            fills.ensure_whole(&store, &lease, &origin, None);
            return Ok(());
        }
        copy(fill, body, &claimed.range).await?;
    }
    Ok(())
}

async fn get(fill: &Fill, origin: &Origin, range: &Range<u64>, avoid: &[usize]) -> Result<BlobBody, BlobError> {
    let end = (range.end < fill.total).then_some(range.end);
    Ok(origin.source.get_blob(&fill.digest, range.start, end, avoid).await?)
}

/// Hands a body to the writer, as far as it lies in `range`, and waits until that is in the file.
async fn copy(fill: &Fill, mut body: BlobBody, range: &Range<u64>) -> Result<(), BlobError> {
    if body.total() != fill.total {
        if fill.condemn() {
            tracing::warn!(digest = %fill.digest, was = fill.total, is = body.total(), "upstream changed a length");
            return Err(BlobError::Mismatch { digest: fill.digest });
        }
        let (registry, host, status) = ("upstream".to_owned(), String::new(), None);
        let reason = format!("{} is {} bytes long, and was {}", fill.digest, body.total(), fill.total);
        return Err(ClientError::Invalid { registry, host, status, reason }.into());
    }
    let mut offset = body.start();
    while offset < range.end && !fill.over() {
        fill.note_endpoint(body.endpoint());
        let Some(mut bytes) = body.chunk().await? else { break };
        let start = offset;
        offset += bytes.len() as u64;
        // A server that ignores ranges sends from the start; what is not wanted of that is passed over.
        if offset <= range.start {
            continue;
        }
        if start < range.start {
            bytes = bytes.slice(usize::try_from(range.start - start).unwrap_or(usize::MAX)..);
        }
        let at = start.max(range.start);
        if offset > range.end {
            bytes.truncate(usize::try_from(range.end - at).unwrap_or(usize::MAX));
        }
        if fill.pieces.send(Piece { offset: at, bytes }).await.is_err() {
            return Ok(());
        }
        if offset < range.end && fill.contiguous(offset) >= (offset + CUT).min(range.end) {
            break;
        }
    }
    if offset == range.end && range.end < fill.total {
        // Reading up to the end of the body lets its connection be used again.
        body.chunk().await?;
    }
    let end = offset.min(range.end);
    fill.wait(|state| state.failed.is_some() || state.segments.gaps(range.start..end).is_empty()).await;
    Ok(())
}

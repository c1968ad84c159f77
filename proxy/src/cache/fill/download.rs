//! Fetching: the whole of a blob, over one connection or several, or a range of it that somebody waits for.
//!
//! Whoever fetches claims a stretch first, so that no byte is asked for twice; a body that runs into what is already here
//! is cut off. The client below resumes broken bodies and tries other addresses.
//!
//! Several connections are a favour that upstream may refuse: a fill goes on with those that it can have, and fails with
//! the last. A body that was opened for the whole blob is read to its end, by itself: cutting it off would throw away what
//! is already on its way.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use pierhead_registry::client::{BlobBody, ClientError};
use pierhead_registry::oci::Digest;
use pierhead_service::shares::Permit;
use tokio_util::sync::CancellationToken;

use super::answers::Failure;
use super::connections::Parties;
use super::lease::Lease;
use super::registry::{Fills, Origin};
use super::{Claimed, Fill, Piece};
use crate::cache::store::Store;
use crate::cache::{BlobError, Want};

/// What one connection of several fetches at a time: small enough for readers to follow, large enough to pay for a request.
const STRETCH: u64 = 16 << 20;
/// Most connections for one blob: others want some too.
const CONNECTIONS: usize = 4;
/// How much is asked for at a time for the reader of a range that no download covers.
pub(in crate::cache) const READ_ON: u64 = 8 << 20;
/// A body is cut off when at least this much of what follows is already here; and less than this is asked for once more,
/// rather than in two requests around it.
pub(super) const CUT: u64 = 256 << 10;
/// How long upstream may ask a fill to wait that has made progress; one that is asked to wait longer fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a fill waits whose last connection was refused for no given time.
const PAUSE: Duration = Duration::from_secs(1);

/// A body of upstream's, with the connection that it takes of the registry's.
pub(super) struct Body {
    body: BlobBody,
    permit: Permit,
    /// Another client wants the connection. Only for a body of which the rest can be asked for later.
    wanted: Option<CancellationToken>,
}

impl Body {
    /// Length of the whole blob, once it is known.
    pub(super) fn total(&self) -> Option<u64> {
        self.body.total()
    }

    /// Offset of the first byte.
    pub(super) fn start(&self) -> u64 {
        self.body.start()
    }

    /// Offset of its end, once it is known.
    pub(super) fn end(&self) -> Option<u64> {
        self.body.end()
    }

    /// Goes on to the end of the blob where upstream sends all of it. True where it does.
    pub(super) fn widen(&mut self) -> bool {
        self.body.widen()
    }

    /// Is not given to another client: what comes of it would have to be asked for again from its start.
    fn keep(&mut self) {
        self.permit.gives_way(false);
        self.wanted = None;
    }

    /// The next piece; `None` at the end, or where another client wants the connection.
    async fn chunk(&mut self) -> Result<Option<Bytes>, BlobError> {
        let Some(wanted) = &self.wanted else { return Ok(self.body.chunk().await?) };
        tokio::select! {
            biased;
            () = wanted.cancelled() => Ok(None),
            piece = self.body.chunk() => Ok(piece?),
        }
    }
}

/// Opens a body in its turn. While upstream has not answered yet, the connection may be given to another client, and is waited for again.
pub(super) async fn open(
    origin: &Origin,
    parties: &Parties,
    digest: &Digest,
    range: (u64, Option<u64>),
    expected: Option<u64>,
    avoid: &[usize],
) -> Result<Body, BlobError> {
    let repository = &origin.source.repository;
    loop {
        repository.check(range.0, range.1, avoid)?;
        let permit = origin.source.for_fill(parties).await?;
        let wanted = permit.pace().when_cut();
        let opened = tokio::select! {
            biased;
            () = wanted.cancelled() => continue,
            opened = repository.get_blob_of(digest, expected, range.0, range.1, avoid) => opened,
        };
        let body = opened?;
        let resumable = body.ranges() && body.total().is_some();
        permit.gives_way(resumable);
        if wanted.is_cancelled() {
            continue;
        }
        return Ok(Body { body, permit, wanted: resumable.then_some(wanted) });
    }
}

/// The first body of a new fill: the whole blob, or its first stretch when it is known to be large.
pub(super) async fn first(
    origin: &Origin,
    parties: &Parties,
    digest: &Digest,
    avoid: &[usize],
) -> Result<Body, BlobError> {
    let large = origin.hint.is_some_and(|hint| hint > origin.parallel_above && origin.connections > 1);
    let body = open(origin, parties, digest, (0, large.then_some(STRETCH)), origin.hint, avoid).await?;
    if !large || body.total().is_none() || body.total() == origin.hint {
        return Ok(body);
    }
    // Perhaps a page in place of the range. What a client would get decides.
    drop(body);
    open(origin, parties, digest, (0, None), origin.hint, avoid).await
}

/// How what is missing of a fill is asked for.
#[derive(Clone, Copy)]
struct Manner<'a> {
    /// By itself, and not within the whole.
    parts: bool,
    /// Endpoints that sent wrong bytes.
    avoid: &'a [usize],
}

/// Fetches all that is missing of a fill, starting with `body` when there is one. The only one at a time of a fill.
pub(super) async fn whole(
    lease: Lease,
    store: Arc<Store>,
    fills: Arc<Fills>,
    origin: Origin,
    body: Option<Body>,
    avoid: Vec<usize>,
) {
    let fill = Arc::clone(lease.fill());
    fill.checked().await;
    let narrow = fills.narrow(&fill.owner).unwrap_or(usize::MAX);
    let mut workers = workers(&fill, &origin, body.as_ref()).min(narrow).max(1);
    let mut first = body;
    let mut manner = Manner { parts: true, avoid: &avoid };
    let mut failed = None;
    while !fill.over() {
        let before = fill.bytes();
        let began_at = fill.first_free();
        match fetch_all(&fill, &fills, &origin, first.take(), workers, manner).await {
            Ok(()) => {}
            Err(error) => match pause(&error).filter(|_| fill.bytes() > before) {
                Some(pause) => {
                    tracing::debug!(digest = %fill.digest, %error, "fill goes on over one connection");
                    workers = 1;
                    tokio::time::sleep(pause).await;
                }
                // Upstream may fail for the rest alone, however it fails. Without this a blob of which some is here would never be
                // had from it again.
                // A part from the start was asked for without a range as well, which is the whole.
                None if manner.parts
                    && fill.bytes() > 0
                    && may_be_of_the_part(&error)
                    && !(workers == 1 && began_at == Some(0) && fill.bytes() == before) =>
                {
                    tracing::debug!(digest = %fill.digest, %error, "fill goes on with the whole");
                    (workers, manner.parts) = (1, false);
                }
                None => {
                    tracing::warn!(digest = %fill.digest, %error, "fill stopped");
                    failed = Some(Failure::new(error, Some(&origin)));
                    break;
                }
            },
        }
        // What is left is being fetched for readers of ranges, who may fail.
        fill.wait(|state| state.is_over() || state.next_free().is_some()).await;
    }
    fill.end_whole(failed);
    let again =
        matches!(fill.failure(), Some(BlobError::Mismatch { .. })) && fills.is_elsewhere(&fill.digest, origin.party());
    drop(lease);
    if again {
        // From an address that has not lied yet; whoever asks next joins.
        let registry = Arc::clone(&fill.owner);
        let _ = Box::pin(fills.join(&store, &registry, &fill.digest, Want::Whole, Some(origin))).await;
    }
}

/// Over how many connections a blob is fetched, when `body` is the first of them.
fn workers(fill: &Fill, origin: &Origin, body: Option<&Body>) -> usize {
    let large = fill.total().is_some_and(|total| total > origin.parallel_above);
    let parts = !fill.is_unranged() && body.is_none_or(|body| body.body.ranges() && !body.body.is_whole());
    if large && parts { CONNECTIONS.min(origin.connections).max(1) } else { 1 }
}

/// How long to wait before one connection is asked for again, where the failure of the last one may be of the moment.
fn pause(error: &BlobError) -> Option<Duration> {
    match error {
        BlobError::Upstream(ClientError::RateLimited { retry_after, .. }) => {
            Some(*retry_after).filter(|pause| *pause <= PATIENCE)
        }
        BlobError::Upstream(ClientError::Unavailable { .. }) | BlobError::Busy(_) => Some(PAUSE),
        _ => None,
    }
}

/// Whether upstream may fail in this way for a part alone. What it answered, it answered to a request for the whole as well.
fn may_be_of_the_part(error: &BlobError) -> bool {
    matches!(error, BlobError::Upstream(error) if !error.is_answer())
}

/// Fetches what is missing within the whole: that is read once, from its start to its end, and what is here is passed over.
async fn fetch_within_the_whole(fill: &Arc<Fill>, origin: &Origin, avoid: &[usize]) -> Result<(), BlobError> {
    let Some(free) = fill.claim_next(u64::MAX) else { return Ok(()) };
    let claimed = fill.claim(free.range.start..u64::MAX);
    let expected = fill.total().or(origin.hint);
    let mut body = open(origin, &fill.parties, &fill.digest, (0, None), expected, avoid).await?;
    body.keep();
    copy(fill, body, &claimed.range).await
}

/// Fetches all free stretches, over as many connections as upstream lets the fill have. Fails when the last one does.
async fn fetch_all(
    fill: &Arc<Fill>,
    fills: &Fills,
    origin: &Origin,
    mut first: Option<Body>,
    workers: usize,
    manner: Manner<'_>,
) -> Result<(), BlobError> {
    if !manner.parts {
        return fetch_within_the_whole(fill, origin, manner.avoid).await;
    }
    let stretch = if workers > 1 { STRETCH } else { u64::MAX };
    let work = (0..workers).map(|number| fetch(fill, fills, origin, first.take(), number, stretch, manner.avoid));
    let mut work: FuturesUnordered<_> = work.collect();
    while let Some(done) = work.next().await {
        match done {
            Ok(()) => {}
            Err(BlobError::Upstream(error)) if !work.is_empty() => {
                tracing::debug!(digest = %fill.digest, %error, left = work.len(), "fill goes on with fewer connections");
                fills.narrows(&fill.owner, work.len());
            }
            Err(BlobError::Busy(_)) if !work.is_empty() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fetches one free stretch after the other until there is none, or until upstream turns out to allow fewer connections
/// than this one's number.
async fn fetch(
    fill: &Arc<Fill>,
    fills: &Fills,
    origin: &Origin,
    mut first: Option<Body>,
    number: usize,
    stretch: u64,
    avoid: &[usize],
) -> Result<(), BlobError> {
    while let Some(claimed) = fill.claim_next(stretch) {
        let surplus = number > 0 && fills.narrow(&fill.owner).is_some_and(|connections| number >= connections);
        if fill.over() || surplus {
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

/// Fetches what the first body of a new fill holds, which was opened for a reader of a part.
pub(super) async fn opened(lease: Lease, body: Body, claimed: Claimed) {
    let fill = lease.fill();
    if let Err(error) = copy(fill, body, &claimed.range).await {
        tracing::debug!(digest = %fill.digest, %error, "the part is asked for again");
    }
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
    if fill.is_unranged() {
        fills.ensure_whole(&store, &lease, &origin, None);
        return Ok(());
    }
    for gap in fill.missing(range) {
        let claimed = fill.claim(gap);
        let body = get(fill, &origin, &claimed.range, &avoid).await?;
        if body.body.start() < claimed.range.start {
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

async fn get(fill: &Fill, origin: &Origin, range: &Range<u64>, avoid: &[usize]) -> Result<Body, BlobError> {
    let end = Some(range.end).filter(|end| *end < fill.bound());
    let expected = fill.total().or(origin.hint);
    open(origin, &fill.parties, &fill.digest, (range.start, end), expected, avoid).await
}

/// Takes up the length of the blob as a body tells it, which must be the one that is known.
fn agree(fill: &Fill, body: &Body) -> Result<(), BlobError> {
    let Some(told) = body.total() else { return Ok(()) };
    if fill.know(told) {
        return Ok(());
    }
    let known = fill.bound();
    if fill.condemn() {
        tracing::warn!(digest = %fill.digest, was = known, is = told, "upstream changed a length");
        return Err(BlobError::Mismatch { registry: Arc::clone(&fill.owner), digest: fill.digest });
    }
    let (registry, host, status) = (fill.owner.to_string(), String::new(), None);
    let reason = format!("{} is {told} bytes long, and was {known}", fill.digest);
    Err(ClientError::Invalid { registry, host, status, reason }.into())
}

/// Hands a body to the writer, as far as it lies in `range`, and waits until that is in the file. It ends early where another client wants
/// the connection.
async fn copy(fill: &Fill, mut body: Body, range: &Range<u64>) -> Result<(), BlobError> {
    agree(fill, &body)?;
    let mut offset = body.body.start();
    let last = |fill: &Fill| range.end.min(fill.bound());
    while offset < last(fill) && !fill.over() {
        fill.note_endpoint(body.body.endpoint());
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
        if body.wanted.is_some() && offset < range.end && fill.contiguous(offset) >= (offset + CUT).min(range.end) {
            break;
        }
    }
    if offset == range.end && range.end < fill.bound() {
        // Reading up to the end of the body lets its connection be used again.
        body.body.chunk().await?;
    }
    let end = offset.min(range.end);
    fill.wait(|state| state.failed.is_some() || state.segments.gaps(range.start..end).is_empty()).await;
    // A length that only the end of the body tells.
    if !fill.over() { agree(fill, &body) } else { Ok(()) }
}

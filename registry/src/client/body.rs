//! The body of a blob: one body for whoever reads it, however many connections it takes.
//!
//! Invariants: bytes come in order, each once, from [`BlobBody::start`] to exactly the end asked for; a connection that
//! breaks is taken up at the byte where it broke, by a new request (so with a fresh token and a fresh redirect), at the
//! same endpoint first; every answer agrees on the length of the blob. [`BlobBody::chunk`] may be dropped at any await
//! and called again.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::{ACCEPT_RANGES, ETAG, HeaderMap, HeaderValue, IF_RANGE, RANGE};
use reqwest::{Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::ClientError;
use super::exchange::Caller;
use super::failure::Failure;
use super::range::{self, Extent, RangeError};
use super::retry::{Attempts, Turn, order, pause};
use super::send::Call;
use super::upstream::Upstream;

/// Where a blob comes from.
pub(super) struct BlobSource {
    upstream: Arc<Upstream>,
    caller: Caller,
    call: Call,
}

/// The header of an answer that carries a part of a blob.
struct Opened {
    response: Response,
    extent: Extent,
    /// Strong, or `None`.
    etag: Option<HeaderValue>,
    ranges: bool,
}

impl BlobSource {
    /// `call` is the GET of the blob, without a range.
    pub(super) fn new(upstream: Arc<Upstream>, caller: Caller, call: Call) -> BlobSource {
        BlobSource { upstream, caller, call }
    }

    /// Asks one endpoint for `start..end`.
    async fn open(
        &self,
        index: usize,
        start: u64,
        end: Option<u64>,
        if_range: Option<&HeaderValue>,
    ) -> Result<Opened, Failure> {
        let mut call = self.call.clone();
        if let Some(range) = range::header(start, end).and_then(|range| HeaderValue::try_from(range).ok()) {
            call.headers.insert(RANGE, range);
            if let Some(etag) = if_range {
                call.headers.insert(IF_RANGE, etag.clone());
            }
        }
        let answer = self.upstream.exchange(index, &call, &self.caller).await?;
        if answer.response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(Failure::invalid(RangeError::Beyond));
        }
        let response = answer.success()?;
        let (status, headers) = (response.status(), response.headers());
        if !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Err(Failure::invalid(format!("unexpected status {}", status.as_u16())));
        }
        let extent = range::check(status, headers, start, end).map_err(Failure::invalid)?;
        let ranges = status == StatusCode::PARTIAL_CONTENT
            || headers.get(ACCEPT_RANGES).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"bytes"));
        Ok(Opened { extent, etag: strong_etag(headers), ranges, response })
    }
}

fn strong_etag(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(ETAG).filter(|value| value.as_bytes().starts_with(b"\"")).cloned()
}

/// One connection's answer, being read.
struct Reply {
    response: Response,
    /// Offset in the blob of the next byte that it will send.
    at: u64,
    /// Offset of its end.
    end: u64,
    /// Whether HTTP itself holds it to that end.
    framed: bool,
}

/// The body of a blob, or of a part of it. When the connection breaks, [`BlobBody::chunk`] takes it up again where it
/// stopped, at the same endpoint or the next, for as long as `resume_for` allows; the caller sees one body.
/// Dropping it closes the connection and frees the slot.
pub struct BlobBody {
    source: BlobSource,
    total: u64,
    start: u64,
    end: u64,
    ranges: bool,
    /// Offset of the next byte to give out.
    at: u64,
    /// `None` while broken, and after the end.
    reply: Option<Reply>,
    /// Endpoint of the last reply, and the strong validator it gave.
    endpoint: usize,
    etag: Option<HeaderValue>,
    /// The endpoints still worth asking, the next one first.
    order: Vec<usize>,
    /// How often it was tried to go on since the last byte, and when it is to be tried again. Kept here, so that a
    /// caller who drops [`BlobBody::chunk`] now and then does not start the wait over.
    tried: u32,
    due: Option<Instant>,
    /// Since when nothing came although it was waited for; a reader's own pauses do not count.
    broken: Option<Instant>,
    /// Why it broke, and whether that is the end of it.
    last: Failure,
    over: bool,
    _permit: OwnedSemaphorePermit,
}

impl BlobBody {
    /// Waits for a connection to be free, and opens the body at the first endpoint that answers.
    pub(super) async fn open(
        source: BlobSource,
        connections: &Arc<Semaphore>,
        start: u64,
        end: Option<u64>,
        avoid: &[usize],
    ) -> Result<BlobBody, ClientError> {
        let upstream = Arc::clone(&source.upstream);
        if end.is_some_and(|end| end <= start) {
            return Err(Failure::invalid(RangeError::Beyond).into_error(upstream.name()));
        }
        let mut attempts = Attempts::new(&upstream, avoid);
        // A connection may be long in coming; that there is nothing to use it for can be told now.
        attempts.check()?;
        let permit = Arc::clone(connections).acquire_owned().await;
        let permit = permit.map_err(|_| Failure::dead("shutting down").into_error(upstream.name()))?;
        loop {
            let turn = attempts.next().await?;
            match source.open(turn.index, start, end, None).await {
                Ok(opened) => {
                    let endpoint = turn.index;
                    turn.settle(None);
                    let Extent { start, total, .. } = opened.extent;
                    let mut order = order(upstream.endpoints.len(), avoid);
                    bring_forward(&mut order, endpoint);
                    return Ok(BlobBody {
                        source,
                        total,
                        start,
                        end: end.map_or(total, |end| end.min(total)),
                        ranges: opened.ranges,
                        at: start,
                        endpoint,
                        etag: opened.etag.clone(),
                        reply: Some(Reply::new(opened)),
                        order,
                        tried: 0,
                        due: None,
                        broken: None,
                        last: Failure::broken("nothing came"),
                        over: false,
                        _permit: permit,
                    });
                }
                Err(failure) => attempts.failed(turn, failure)?,
            }
        }
    }

    /// Length of the whole blob.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Offset of the first byte. It is 0 when upstream ignored the range that was asked for (a plain 200).
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Whether upstream serves ranges of this blob (a 206, or `Accept-Ranges: bytes`).
    pub fn ranges(&self) -> bool {
        self.ranges
    }

    /// Index of the endpoint that sends it at the moment.
    pub fn endpoint(&self) -> usize {
        self.endpoint
    }

    /// The next piece; `None` at the end, which is always exactly the end that was asked for.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            if self.over {
                return Err(self.error());
            }
            let Some(reply) = &mut self.reply else {
                if self.at == self.end {
                    return Ok(None);
                }
                self.resume().await?;
                continue;
            };
            if self.at == self.end && (reply.framed || reply.at < reply.end) {
                self.reply = None;
                return Ok(None);
            }
            let idle = self.source.upstream.settings.idle_timeout;
            let piece = match timeout(idle, reply.response.chunk()).await {
                Ok(Ok(Some(piece))) => piece,
                // A reply that is framed by its own end alone: it was looked at whether more would come.
                Ok(Ok(None)) if reply.at == reply.end => {
                    self.reply = None;
                    continue;
                }
                Ok(Ok(None)) => {
                    self.broke("the body ended early".to_owned());
                    continue;
                }
                Ok(Err(error)) => {
                    self.broke(super::failure::reason(error));
                    continue;
                }
                Err(_) => {
                    self.broke("the body stopped coming".to_owned());
                    continue;
                }
            };
            if let Some(piece) = self.take(piece)? {
                return Ok(Some(piece));
            }
        }
    }

    /// What of a piece that just came is new and wanted.
    fn take(&mut self, mut piece: Bytes) -> Result<Option<Bytes>, ClientError> {
        let length = piece.len() as u64;
        self.source.upstream.observer.received(length);
        let Some(reply) = &mut self.reply else { return Ok(None) };
        let from = reply.at;
        if length > reply.end - from {
            return Err(self.give_up(Failure::invalid("the body is longer than announced")));
        }
        reply.at += length;
        let to = reply.at.min(self.end);
        if to <= self.at {
            return Ok(None);
        }
        // Both fit: they are at most the piece's own length.
        let (skip, keep) = (usize::try_from(self.at - from), usize::try_from(to - from));
        let (Ok(skip), Ok(keep)) = (skip, keep) else { return Ok(None) };
        piece = piece.slice(skip..keep);
        self.at = to;
        self.tried = 0;
        self.broken = None;
        Ok(Some(piece))
    }

    fn broke(&mut self, reason: String) {
        self.reply = None;
        let upstream = &self.source.upstream;
        let (registry, host) = (upstream.name(), upstream.endpoints[self.endpoint].host());
        tracing::debug!(registry, host, at = self.at, total = self.total, reason, "body broke; resuming");
        self.last = Failure::broken(reason);
        self.broken.get_or_insert_with(Instant::now);
    }

    /// Opens the rest of the body, trying for as long as the settings allow without a byte. It does so even where the
    /// breakers are open: its readers are already waiting, and its own pauses space the attempts.
    async fn resume(&mut self) -> Result<(), ClientError> {
        let upstream = Arc::clone(&self.source.upstream);
        let deadline = *self.broken.get_or_insert_with(Instant::now) + upstream.settings.resume_for;
        loop {
            let now = Instant::now();
            let due = *self.due.get_or_insert_with(|| now + pause(self.tried, rand::random()));
            let limited = upstream.limit.left(now).unwrap_or_default();
            let next = due.max(now + limited);
            if next >= deadline {
                let limited = (!limited.is_zero()).then(|| Failure::rate_limited(limited));
                return Err(self.give_up(limited.unwrap_or_else(|| self.last.clone())));
            }
            sleep_until(next).await;
            let turn = self.order.iter().find_map(|index| Turn::admit(&upstream, *index));
            let turn = turn.or_else(|| self.order.first().map(|index| Turn::insist(&upstream, *index)));
            let Some(turn) = turn else { return Err(self.give_up(self.last.clone())) };
            let index = turn.index;
            let etag = self.etag.as_ref().filter(|_| index == self.endpoint);
            // Until the end asked for, but open-ended where that is the blob's: presigned URLs are happier that way.
            let end = (self.end < self.total).then_some(self.end);
            let opened = timeout_at(deadline, self.source.open(index, self.at, end, etag)).await;
            // Our patience ended, which says nothing about the endpoint.
            let Ok(opened) = opened else { return Err(self.give_up(self.last.clone())) };
            let opened = opened.and_then(|opened| match opened.extent.total {
                total if total == self.total => Ok(opened),
                total => Err(Failure::invalid(RangeError::Changed(self.total, total))),
            });
            turn.settle(opened.as_ref().err());
            self.tried += 1;
            self.due = None;
            match opened {
                Ok(opened) => {
                    bring_forward(&mut self.order, index);
                    self.endpoint = index;
                    self.etag = opened.etag.clone();
                    self.reply = Some(Reply::new(opened));
                    return Ok(());
                }
                Err(failure @ (Failure::Dead(_) | Failure::Astray(_) | Failure::Broken(_))) => {
                    // The next attempt is at the next endpoint.
                    self.order.retain(|other| *other != index);
                    self.order.push(index);
                    self.last = failure;
                }
                Err(Failure::RateLimited(..)) => {}
                Err(failure) => {
                    self.order.retain(|other| *other != index);
                    if self.order.is_empty() {
                        return Err(self.give_up(failure));
                    }
                    self.last = failure;
                }
            }
        }
    }

    fn give_up(&mut self, failure: Failure) -> ClientError {
        self.reply = None;
        self.over = true;
        self.last = failure;
        self.error()
    }

    fn error(&self) -> ClientError {
        self.last.clone().into_error(self.source.upstream.name())
    }
}

impl Reply {
    fn new(opened: Opened) -> Reply {
        let framed = range::content_length(opened.response.headers()).is_some();
        Reply { response: opened.response, at: opened.extent.start, end: opened.extent.end, framed }
    }
}

impl fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobBody")
            .field("at", &self.at)
            .field("end", &self.end)
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}

/// Moves `index` to the front.
fn bring_forward(order: &mut Vec<usize>, index: usize) {
    order.retain(|other| *other != index);
    order.insert(0, index);
}

//! The body of a blob: one body for its reader, however many connections it takes.
//!
//! Invariants: bytes come in order, each once, from [`BlobBody::start`] to exactly the end asked for; a connection that
//! breaks is taken up at the byte where it broke, by a new request (so with a fresh token and a fresh redirect), at the
//! same endpoint first; answers that tell the length of the blob agree on it. [`BlobBody::chunk`] may be dropped at any
//! await and called again.
//!
//! An answer need not tell a length. Then the end of its body is the end of the blob, as far as this module can know, and
//! the reader checks the digest.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::Response;
use reqwest::header::HeaderValue;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::ClientError;
use super::failure::Failure;
use super::range::{self, Extent, RangeError};
use super::retry::{Turn, order, pause};
use super::source::{BlobSource, Opened, Opening, nothing};

/// An answer that brings less than this before it breaks is worth no more than a failed attempt: the pause before the next one grows. Else
/// a server could have a request for each few bytes.
const WORTH: u64 = 16 << 10;

/// One connection's answer, being read.
struct Reply {
    response: Response,
    /// Offset in the blob of the next byte that it will send.
    at: u64,
    /// Offset of its end; `None`: where the body ends.
    end: Option<u64>,
    /// Whether HTTP itself holds it to that end.
    framed: bool,
    /// Whether HTTP tells the end of the body from a connection that was closed in its middle.
    proven: bool,
}

/// The body of a blob, or of a part of it. When the connection breaks, [`BlobBody::chunk`] takes it up again where it
/// stopped, at the same endpoint or the next, for as long as `resume_for` allows; the caller sees one body.
/// Dropping it closes the connection.
pub struct BlobBody {
    source: BlobSource,
    /// Length of the blob, once an answer or its end told it.
    total: Option<u64>,
    start: u64,
    /// The end asked for, or that of the blob once it is known.
    end: Option<u64>,
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
    /// How often it was tried to go on since an answer brought something, and when it is to be tried again. Kept here, so that
    /// a caller who drops [`BlobBody::chunk`] now and then does not start the wait over.
    tried: u32,
    /// What the present answer brought.
    brought: u64,
    due: Option<Instant>,
    /// Since when nothing came although it was waited for; a reader's own pauses do not count.
    broken: Option<Instant>,
    /// Where a body ended before the expected length, with nothing to prove that it was the end.
    ended: Option<u64>,
    /// Why it broke, and whether that is the end of it.
    last: Failure,
    over: bool,
}

impl BlobBody {
    /// Opens the body at the first endpoint that answers.
    pub(super) async fn open(
        mut source: BlobSource,
        start: u64,
        end: Option<u64>,
        avoid: &[usize],
    ) -> Result<BlobBody, ClientError> {
        let upstream = Arc::clone(&source.upstream);
        if end.is_some_and(|end| end <= start) {
            return Err(Failure::invalid(RangeError::Beyond).into_error(upstream.name()));
        }
        source.distrust(avoid);
        let mut attempts = source.attempts(avoid);
        loop {
            let turn = source.turn(&mut attempts, start == 0).await?;
            match source.open(turn.index, start, end, None).await {
                Ok(Opening::End(total)) if total > 0 || start > 0 => {
                    attempts.failed(turn, Failure::invalid(RangeError::Beyond));
                }
                Ok(opening) => {
                    let endpoint = turn.index;
                    turn.settle(None);
                    source.sends();
                    let opened = match opening {
                        Opening::Body(opened) => Some(*opened),
                        Opening::End(_) => None,
                    };
                    let total = opened.as_ref().map_or(Some(0), |opened| opened.extent.total);
                    let mut order = order(upstream.endpoints.len(), avoid);
                    bring_forward(&mut order, endpoint);
                    let start = opened.as_ref().map_or(0, |opened| opened.extent.start);
                    return Ok(BlobBody {
                        source,
                        total,
                        start,
                        end: shorter(end, total),
                        ranges: opened.as_ref().is_some_and(|opened| opened.ranges),
                        at: start,
                        endpoint,
                        etag: opened.as_ref().and_then(|opened| opened.etag.clone()),
                        reply: opened.map(Reply::new),
                        order,
                        tried: 0,
                        brought: 0,
                        due: None,
                        broken: None,
                        ended: None,
                        last: Failure::broken("nothing came"),
                        over: false,
                    });
                }
                Err(failure) => attempts.failed(turn, failure),
            }
        }
    }

    /// Length of the whole blob; `None` until it is known, at the latest at the end.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Offset of the first byte. It is 0 when upstream ignored the range that was asked for (a plain 200).
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Offset of its end; `None` until that is known.
    pub fn end(&self) -> Option<u64> {
        self.end
    }

    /// Goes on to the end of the blob where upstream sends all of it, although a part was asked for. True where it does.
    pub fn widen(&mut self) -> bool {
        let all = self.at == 0 && self.reply.as_ref().is_some_and(|reply| reply.at == 0 && reply.end == self.total);
        if all {
            self.end = self.total;
        }
        all
    }

    /// Whether it was opened for the whole blob: from its start to its end.
    pub fn is_whole(&self) -> bool {
        self.start == 0 && self.total == self.end
    }

    /// Whether upstream serves ranges of this blob (a 206, or `Accept-Ranges: bytes`).
    pub fn ranges(&self) -> bool {
        self.ranges
    }

    /// Index of the endpoint that sends it at the moment.
    pub fn endpoint(&self) -> usize {
        self.endpoint
    }

    /// The next piece; `None` at the end, which is the end that was asked for, or that of the blob.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            if self.over {
                return Err(self.error());
            }
            let Some(reply) = &mut self.reply else {
                if self.end == Some(self.at) {
                    return Ok(None);
                }
                self.resume().await?;
                continue;
            };
            if self.end == Some(self.at) && (reply.framed || reply.end != Some(reply.at)) {
                self.reply = None;
                return Ok(None);
            }
            let idle = self.source.upstream.settings.idle_timeout;
            let piece = match timeout(idle, reply.response.chunk()).await {
                Ok(Ok(Some(piece))) => piece,
                Ok(Ok(None)) => {
                    self.ended();
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
        if reply.end.is_some_and(|end| length > end - from) {
            return Err(self.give_up(Failure::invalid("the body is longer than announced")));
        }
        reply.at += length;
        let to = self.end.map_or(reply.at, |end| reply.at.min(end));
        if to <= self.at {
            return Ok(None);
        }
        // Both fit: they are at most the piece's own length.
        let (skip, keep) = (usize::try_from(self.at - from), usize::try_from(to - from));
        let (Ok(skip), Ok(keep)) = (skip, keep) else { return Ok(None) };
        piece = piece.slice(skip..keep);
        self.at = to;
        self.brought += piece.len() as u64;
        if self.brought >= WORTH {
            self.tried = 0;
        }
        self.broken = None;
        Ok(Some(piece))
    }

    /// A reply ended, in a way that HTTP allows.
    fn ended(&mut self) {
        let Some(reply) = self.reply.take() else { return };
        let short = match reply.end {
            Some(end) => reply.at < end,
            None => reply.at < self.at || self.total.is_some_and(|total| reply.at < total),
        };
        // A second answer that ends in the same place is believed.
        let doubtful = reply.end.is_none()
            && !reply.proven
            && self.source.expected.is_some_and(|expected| reply.at < expected)
            && self.ended != Some(reply.at);
        if reply.at == 0 && self.total.is_none() && !self.source.is_of_nothing() {
            // It would be so the next time, too.
            self.order.retain(|index| *index != self.endpoint);
            self.broke("nothing in place of the blob".to_owned());
            self.last = nothing();
            self.over = self.order.is_empty();
        } else if short || doubtful {
            self.ended = Some(reply.at);
            self.broke("the body ended early".to_owned());
        } else if self.total.is_none() && (reply.end.is_none() || self.source.expected == Some(reply.at)) {
            self.know(reply.at);
        }
    }

    /// Takes up the length of the blob.
    fn know(&mut self, total: u64) {
        self.total = Some(total);
        self.end = shorter(self.end, self.total);
    }

    fn broke(&mut self, reason: String) {
        self.reply = None;
        // It answered for the rest and brought next to nothing of it: the others come first now.
        if self.tried > 0 && self.brought < WORTH {
            self.order.retain(|index| *index != self.endpoint);
            self.order.push(self.endpoint);
        }
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
            // Until the end asked for, but open-ended where that is the blob's: presigned URLs are happier that way.
            let end = self.end.filter(|end| self.total != Some(*end));
            let ways = self.source.ways(self.at, end);
            let limited = self
                .order
                .first()
                .map(|index| upstream.blob_pause(*index, ways, &self.source.caller))
                .unwrap_or_default();
            let next = due.max(now + limited);
            if next >= deadline {
                if !limited.is_zero() && self.leave_out_the_range() {
                    continue;
                }
                let limited = (!limited.is_zero()).then(|| Failure::rate_limited(limited));
                return Err(self.give_up(limited.unwrap_or_else(|| self.last.clone())));
            }
            sleep_until(next).await;
            let turn = self.order.iter().find_map(|index| Turn::admit(&upstream, *index));
            let turn = turn.or_else(|| self.order.first().map(|index| Turn::insist(&upstream, *index)));
            let Some(turn) = turn else { return Err(self.give_up(self.last.clone())) };
            let index = turn.index;
            let etag = self.etag.as_ref().filter(|_| index == self.endpoint);
            self.source.begin_again();
            let opened = timeout_at(deadline, self.source.open(index, self.at, end, etag)).await;
            // Our patience ended, which says nothing about the endpoint.
            let Ok(opened) = opened else { return Err(self.give_up(self.last.clone())) };
            let opened = opened.and_then(|opening| self.agrees(opening));
            turn.settle(opened.as_ref().err());
            self.tried += 1;
            self.brought = 0;
            self.due = None;
            match opened {
                // It ended where it broke.
                Ok(None) => {
                    self.know(self.at);
                    return Ok(());
                }
                Ok(Some(opened)) => {
                    if let (None, Some(total)) = (self.total, opened.extent.total) {
                        self.know(total);
                    }
                    bring_forward(&mut self.order, index);
                    self.endpoint = index;
                    self.etag = opened.etag.clone();
                    self.reply = Some(Reply::new(opened));
                    return Ok(());
                }
                Err(
                    failure @ (Failure::Dead(_)
                    | Failure::Silent(_)
                    | Failure::Astray(_)
                    | Failure::Broken(_)
                    | Failure::Expired(_)),
                ) => {
                    // The next attempt is at the next endpoint.
                    self.order.retain(|other| *other != index);
                    self.order.push(index);
                    self.last = failure;
                }
                Err(Failure::RateLimited(..)) => {}
                Err(failure) => {
                    self.order.retain(|other| *other != index);
                    if self.order.is_empty() {
                        // What upstream answered, it answered to a request without a range as well.
                        if !matches!(failure, Failure::Invalid(_)) || !self.leave_out_the_range() {
                            return Err(self.give_up(failure));
                        }
                        self.order.push(index);
                    }
                    self.last = failure;
                }
            }
        }
    }

    /// Goes on without a range: once, before a body that began at the start of the blob is given up. False where that was tried.
    fn leave_out_the_range(&mut self) -> bool {
        self.start == 0 && self.at > 0 && self.source.leave_out_the_range()
    }

    /// What goes on where this body stands, if it is of the same length; `None`: nothing, for that is its end.
    fn agrees(&self, opening: Opening) -> Result<Option<Opened>, Failure> {
        let told = match &opening {
            Opening::Body(opened) => opened.extent.total,
            Opening::End(total) => Some(*total),
        };
        // Without a length so far, it has at least what has come of it.
        let changed = match (self.total, told) {
            (Some(total), Some(told)) => total != told,
            (None, Some(told)) => told < self.at,
            (_, None) => false,
        };
        match (opening, told) {
            (_, Some(told)) if changed => {
                Err(Failure::invalid(RangeError::Changed(self.total.unwrap_or(self.at), told)))
            }
            (Opening::Body(opened), _) => Ok(Some(*opened)),
            (Opening::End(total), _) if total == self.at => Ok(None),
            (Opening::End(_), _) => Err(Failure::invalid(RangeError::Beyond)),
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
        let Extent { start, end, .. } = opened.extent;
        Reply { response: opened.response, at: start, end, framed, proven: opened.proven }
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

/// The earlier of two ends; `None` is no end.
fn shorter(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

/// Moves `index` to the front.
fn bring_forward(order: &mut Vec<usize>, index: usize) {
    order.retain(|other| *other != index);
    order.insert(0, index);
}

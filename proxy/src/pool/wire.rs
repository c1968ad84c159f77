//! A connection to a server that speaks HTTP/1.1, as its client.
//!
//! Everything is a `poll_…` that loses nothing when it is given up half-way, so that one task can send a request's body,
//! wait for the answer and watch the client, all at once, without another task or a channel.
//!
//! Invariants: a body is never taken for whole before its last byte; memory is one buffer of a bounded size, and none
//! while the connection waits for another request.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::task::noop_waker_ref;
use http::Method;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

use super::answer::{Answer, Framing, Nonsense};
use super::chunks::{Chunks, Found};
use super::connect::ServerStream;
use crate::front::Deadline;

/// What is reserved for an answer to begin with: small ones need no second read.
const FIRST_READ: usize = 8 * 1024;
/// What is read at a time of a server that has much to say.
const LARGEST_READ: usize = 256 * 1024;
/// Pieces that one call writes at most.
const VECTORS: usize = 16;

/// Why an exchange with a server ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    /// The connection broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It was closed before a single byte of an answer.
    #[error("the server closed the connection without an answer")]
    Empty,
    /// It was closed within an answer.
    #[error("the server closed the connection within its answer")]
    Short,
    /// What came is not an answer.
    #[error("{0}")]
    Nonsense(#[from] Nonsense),
    /// Nothing came for too long.
    #[error("the server was silent for too long")]
    Silent,
}

/// Where in an answer the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// Before the header, or after the end.
    None,
    /// In a body of known length.
    Length(u64),
    /// In a chunked one.
    Chunks(Chunks),
    /// In one that ends with the connection.
    Close,
}

/// Bytes on their way to a server.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pieces: VecDeque<Bytes>,
    /// Whether everything has been written but not yet flushed.
    flush: bool,
}

impl Outgoing {
    /// Adds a piece.
    pub(crate) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.pieces.push_back(piece);
            self.flush = true;
        }
    }

    /// Whether all is on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && !self.flush
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(first) = self.pieces.front_mut() {
            if first.len() > count {
                first.advance(count);
                return;
            }
            count -= first.len();
            self.pieces.pop_front();
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: ServerStream,
    received: BytesMut,
    rest: Rest,
    /// What the next read has room for.
    room: usize,
    /// When a wait ends.
    silence: Option<Deadline>,
    waiting: bool,
    /// Whether it has carried an answer before.
    reused: bool,
}

impl Wire {
    /// Over a fresh connection.
    pub(super) fn new(stream: ServerStream) -> Wire {
        Wire {
            stream,
            received: BytesMut::new(),
            rest: Rest::None,
            room: FIRST_READ,
            silence: None,
            waiting: false,
            reused: false,
        }
    }

    /// Whether it has carried an answer before, and may have been closed by its server at any moment since.
    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Puts it by for another request.
    pub(super) fn rested(mut self) -> Option<Wire> {
        if self.rest != Rest::None || !self.received.is_empty() {
            return None;
        }
        self.reused = true;
        self.waiting = false;
        if self.received.capacity() > FIRST_READ {
            self.received = BytesMut::new();
        }
        self.room = FIRST_READ;
        Some(self)
    }

    /// Whether the server has neither closed it nor said anything unasked.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut context = Context::from_waker(noop_waker_ref());
        Pin::new(&mut self.stream).poll_read(&mut context, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// Writes as much as the server takes; ready when all of it is on its way.
    pub(crate) fn poll_send(&mut self, context: &mut Context<'_>, outgoing: &mut Outgoing) -> Poll<io::Result<()>> {
        while !outgoing.pieces.is_empty() {
            let mut vector = [IoSlice::new(&[]); VECTORS];
            let mut used = 0;
            for (slot, piece) in vector.iter_mut().zip(&outgoing.pieces) {
                *slot = IoSlice::new(piece);
                used += 1;
            }
            // The system's call for one buffer is cheaper than the one for many.
            let written = match &vector[..used] {
                [piece] => Pin::new(&mut self.stream).poll_write(context, piece),
                pieces => Pin::new(&mut self.stream).poll_write_vectored(context, pieces),
            };
            let count = ready!(written)?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            outgoing.advance(count);
        }
        if outgoing.flush {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            outgoing.flush = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends our side: after an upgrade, when the client has ended its own.
    pub(crate) fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    /// The header of the next answer, 1xx included. `limit`: how long to wait for it from now on.
    pub(crate) fn poll_answer(
        &mut self,
        context: &mut Context<'_>,
        method: &Method,
        limit: Option<Duration>,
    ) -> Poll<Result<Answer, WireError>> {
        loop {
            if !self.received.is_empty()
                && let Some(answer) = Answer::take(&mut self.received, method)?
            {
                self.rest = match answer.framing {
                    Framing::Empty => Rest::None,
                    Framing::Length(length) => Rest::Length(length),
                    Framing::Chunks => Rest::Chunks(Chunks::Size),
                    Framing::Close => Rest::Close,
                };
                return Poll::Ready(Ok(answer));
            }
            match ready!(self.poll_receive(context, limit)) {
                Ok(0) if self.received.is_empty() => return Poll::Ready(Err(WireError::Empty)),
                Ok(0) => return Poll::Ready(Err(WireError::Short)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// The next piece of the body; `None` at its end. `limit`: the longest silence.
    pub(crate) fn poll_body(
        &mut self,
        context: &mut Context<'_>,
        limit: Duration,
    ) -> Poll<Result<Option<Bytes>, WireError>> {
        loop {
            match &mut self.rest {
                Rest::None => return Poll::Ready(Ok(None)),
                Rest::Length(left) => {
                    if !self.received.is_empty() {
                        let count = usize::try_from(*left).unwrap_or(usize::MAX).min(self.received.len());
                        *left -= count as u64;
                        if *left == 0 {
                            self.rest = Rest::None;
                        }
                        return Poll::Ready(Ok(Some(self.received.split_to(count).freeze())));
                    }
                }
                Rest::Chunks(chunks) => match chunks.take(&mut self.received)? {
                    Found::Data(data) => return Poll::Ready(Ok(Some(data))),
                    Found::End => {
                        self.rest = Rest::None;
                        return Poll::Ready(Ok(None));
                    }
                    Found::Nothing => {}
                },
                Rest::Close => {
                    if !self.received.is_empty() {
                        return Poll::Ready(Ok(Some(self.received.split().freeze())));
                    }
                }
            }
            match ready!(self.poll_receive(context, Some(limit))) {
                Ok(0) if self.rest == Rest::Close => self.rest = Rest::None,
                Ok(0) => return Poll::Ready(Err(WireError::Short)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Whether the body has been read to its end.
    pub(crate) fn is_done(&self) -> bool {
        self.rest == Rest::None
    }

    /// What is awaited may take as long as if it were awaited from now on.
    pub(super) fn wait_anew(&mut self) {
        self.waiting = false;
    }

    /// After an upgrade: whatever comes, until the server ends it.
    pub(crate) fn open_ended(&mut self) {
        self.rest = Rest::Close;
    }

    /// Receives something; 0 at the end.
    fn poll_receive(&mut self, context: &mut Context<'_>, limit: Option<Duration>) -> Poll<Result<usize, WireError>> {
        self.received.reserve(self.room);
        let room = self.received.capacity() - self.received.len();
        match poll_read_buf(Pin::new(&mut self.stream), context, &mut self.received) {
            Poll::Ready(Ok(count)) => {
                self.waiting = false;
                if count == room && self.room < LARGEST_READ {
                    self.room *= 2;
                }
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            Poll::Pending => {
                let Some(limit) = limit else { return Poll::Pending };
                if !self.waiting {
                    self.waiting = true;
                    Deadline::at(&mut self.silence, Instant::now() + limit);
                }
                let passed = self.silence.as_mut().is_some_and(|deadline| deadline.poll_passed(context).is_ready());
                if passed { Poll::Ready(Err(WireError::Silent)) } else { Poll::Pending }
            }
        }
    }
}

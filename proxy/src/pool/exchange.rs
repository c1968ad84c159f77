//! A request on its way to one server, and its answer.
//!
//! Invariant: a connection is kept for another request only when this one was sent whole and its answer read to its end.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::time::Instant;

use super::answer::Answer;
use super::wire::{Outgoing, Wire, WireError};
use super::{Lease, Pool, Server};
use crate::admin::metrics::ServerFailure;

/// How long the answer of a server that stopped to listen may take.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A request on its way, and its answer.
pub(crate) struct Exchange {
    pool: Arc<Pool>,
    lease: Lease,
    wire: Wire,
    method: Method,
    retries: u32,
    /// Whether the connection may be used again, as far as the answer has a say in it.
    reusable: bool,
    /// Whether the request was sent whole.
    sent: bool,
    /// How long to wait for an answer, where it is not the pool that says.
    patience: Option<Duration>,
    /// Another protocol is spoken: the longest silence in it.
    upgraded: Option<Duration>,
    /// Whether our side is to be ended.
    ending: bool,
    /// When the request was sent, or begun to be.
    asked: Instant,
}

impl Exchange {
    /// Over a connection to a leased server, after so many tries.
    pub(super) fn new(pool: Arc<Pool>, lease: Lease, wire: Wire, method: Method, retries: u32) -> Exchange {
        Exchange {
            pool,
            lease,
            wire,
            method,
            retries,
            reusable: true,
            sent: false,
            patience: None,
            upgraded: None,
            ending: false,
            asked: Instant::now(),
        }
    }

    /// Whether its connection carried a request before.
    pub(super) fn is_over_reused(&self) -> bool {
        self.wire.is_reused()
    }

    /// Who was asked in the end.
    pub(crate) fn server(&self) -> &Arc<Server> {
        self.lease.server()
    }

    /// How often it was tried again.
    pub(crate) fn retries(&self) -> u32 {
        self.retries
    }

    /// Sends something; ready when all of it is on its way.
    pub(crate) fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        outgoing: &mut Outgoing,
    ) -> Poll<Result<(), WireError>> {
        self.wire.poll_send(context, outgoing).map_err(WireError::from)
    }

    /// The same, waited for.
    pub(super) async fn send(&mut self, outgoing: &mut Outgoing) -> Result<(), WireError> {
        poll_fn(|context| self.poll_send(context, outgoing)).await
    }

    /// The request has been sent whole.
    pub(crate) fn sent(&mut self) {
        self.sent = true;
        self.asked = Instant::now();
    }

    /// The header of the next answer, 1xx included.
    pub(crate) fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Result<Answer, WireError>> {
        // For as long as the client has not said all, the server may well be silent.
        let limit = self.patience.or(self.pool.settings.first_byte_timeout.filter(|_| self.sent));
        let answer = std::task::ready!(self.wire.poll_answer(context, &self.method, limit));
        match &answer {
            Ok(answer) if answer.status.is_informational() && answer.status != StatusCode::SWITCHING_PROTOCOLS => {}
            Ok(answer) => {
                self.reusable = answer.reusable;
                let status = answer.status.as_u16();
                self.lease.answered(Some(status));
                self.server().metrics().answered(status, self.asked.elapsed());
            }
            Err(_) => self.reusable = false,
        }
        Poll::Ready(answer)
    }

    /// The same, waited for.
    pub(crate) async fn answer(&mut self) -> Result<Answer, WireError> {
        poll_fn(|context| self.poll_answer(context)).await
    }

    /// The next piece of the body; `None` at its end.
    pub(crate) fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, WireError>> {
        if self.ending && self.wire.poll_end(context).is_ready() {
            self.ending = false;
        }
        let piece =
            std::task::ready!(self.wire.poll_body(context, self.upgraded.unwrap_or(self.pool.settings.idle_timeout)));
        match &piece {
            Ok(Some(piece)) => self.server().metrics().received.inc_by(piece.len() as u64),
            Ok(None) => {}
            // In another protocol silence may be an end as good as any.
            Err(error) if self.upgraded.is_none() => self.failed(error),
            Err(_) => {}
        }
        Poll::Ready(piece)
    }

    /// The server did not do what it should.
    pub(crate) fn failed(&self, error: &WireError) {
        self.lease.failed(error);
        let kind = match error {
            WireError::Silent => ServerFailure::Timeout,
            WireError::Io(_) | WireError::Empty | WireError::Short | WireError::Nonsense(_) => ServerFailure::Response,
        };
        self.server().metrics().failed(kind);
    }

    /// The same, waited for.
    pub(crate) async fn body(&mut self) -> Result<Option<Bytes>, WireError> {
        poll_fn(|context| self.poll_body(context)).await
    }

    /// Whether the whole answer was read.
    pub(crate) fn is_done(&self) -> bool {
        self.wire.is_done()
    }

    /// The answer was read as far as anybody wants to. The connection is kept when nothing is left on it.
    pub(crate) fn finish(self) {
        if self.reusable
            && self.sent
            && self.pool.settings.send_proxy.is_none()
            && self.wire.is_done()
            && let Some(wire) = self.wire.rested()
        {
            self.pool.idle.keep(self.lease.server(), wire);
        }
    }

    /// The server takes no more of the request: if it has answered, its answer is here or about to come.
    pub(crate) fn expect_soon(&mut self) {
        self.patience = Some(LAST_WORD);
        self.wire.wait_anew();
    }

    /// From here on another protocol is spoken, in which nobody is silent for longer than this.
    pub(crate) fn upgrade(&mut self, silence: Duration) {
        self.upgraded = Some(silence);
        self.wire.open_ended();
    }

    /// After an upgrade: the client has ended its side.
    pub(crate) fn end(&mut self) {
        self.ending = true;
    }
}

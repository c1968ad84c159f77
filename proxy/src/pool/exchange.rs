//! One request to one server of a pool, and to another one where that can do no harm.
//!
//! A request is sent again when nothing of it was sent (no connection), and, when it only reads, also when its server
//! broke off before it answered, or answered 502, 503 or 504. A request with a body is never sent twice: its server may
//! have acted on it. For the same reason only a request that reads is sent over a connection that was used before: its
//! server may be closing it at this very moment.
//!
//! Invariant: a connection is kept for another request only when this one was sent whole and its answer read to its end.

use std::fmt::Display;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::time::Instant;

use super::answer::Answer;
use super::connect::{ConnectError, Told};
use super::wire::{Outgoing, Wire, WireError};
use super::{Lease, LeaseError, Pool, Server, Wish};
use crate::admin::metrics::ServerFailure;

/// How long to wait before the same server is asked again, and at most.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long the answer of a server that stopped to listen may take.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What is asked of a pool.
#[derive(Clone, Debug)]
pub(crate) struct Question<'a> {
    /// The method.
    pub(crate) method: &'a Method,
    /// Request line and header, with the empty line at their end, as they are sent.
    pub(crate) head: Bytes,
    /// Whether a body follows.
    pub(crate) body: bool,
    /// For the choice of a server.
    pub(crate) wish: Wish<'a>,
    /// What the server is told of the client, where the pool does that.
    pub(crate) told: Option<Told>,
}

impl Question<'_> {
    /// Whether it may be sent again after a server may have seen it.
    fn only_reads(&self) -> bool {
        !self.body && matches!(*self.method, Method::GET | Method::HEAD)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// There is no server.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// None can be reached; this is what the last one said.
    #[error("{server}: {error}")]
    Connect {
        /// Which server.
        server: Arc<str>,
        /// How often it was tried again.
        retries: u32,
        /// Why not.
        error: ConnectError,
    },
    /// The last one broke off.
    #[error("{server}: {error}")]
    Wire {
        /// Which server.
        server: Arc<str>,
        /// How often it was tried again.
        retries: u32,
        /// How.
        error: WireError,
    },
}

impl ExchangeError {
    /// Who was asked last, and after how many other tries.
    pub(crate) fn server(&self) -> Option<(&Arc<str>, u32)> {
        match self {
            ExchangeError::Lease(_) => None,
            ExchangeError::Connect { server, retries, .. } | ExchangeError::Wire { server, retries, .. } => {
                Some((server, *retries))
            }
        }
    }

    /// What went wrong, whoever it was.
    pub(crate) fn failure(&self) -> &dyn Display {
        match self {
            ExchangeError::Lease(error) => error,
            ExchangeError::Connect { error, .. } => error,
            ExchangeError::Wire { error, .. } => error,
        }
    }
}

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

/// What came of one try.
enum Tried {
    /// Another one may do better.
    Again(ExchangeError),
    /// No other may.
    Final(ExchangeError),
}

impl Pool {
    /// Sends a request's header. What follows of the request is for the caller to send, and the answer to read.
    pub(crate) async fn open(self: &Arc<Self>, question: &Question<'_>) -> Result<Exchange, ExchangeError> {
        let mut attempts = Attempts::new(self, question);
        loop {
            match attempts.send().await {
                Ok(exchange) => return Ok(exchange),
                Err(tried) => attempts.next(tried).await?,
            }
        }
    }

    /// Asks a question without a body; the answer may be a 1xx, which more answers follow.
    pub(crate) async fn ask(self: &Arc<Self>, question: &Question<'_>) -> Result<(Exchange, Answer), ExchangeError> {
        let mut attempts = Attempts::new(self, question);
        loop {
            let tried = match attempts.send().await {
                Ok(mut exchange) => {
                    exchange.sent = true;
                    match exchange.answer().await {
                        Ok(answer) if attempts.is_enough(&answer) => return Ok((exchange, answer)),
                        // The last word when it turns out that nobody else is there.
                        Ok(answer) => {
                            if attempts.another() {
                                attempts.failed(exchange.lease.server());
                                attempts.retries += 1;
                                continue;
                            }
                            return Ok((exchange, answer));
                        }
                        Err(error) => attempts.broke(&exchange, error),
                    }
                }
                Err(tried) => tried,
            };
            attempts.next(tried).await?;
        }
    }
}

/// The tries of one request.
struct Attempts<'q> {
    pool: &'q Arc<Pool>,
    question: &'q Question<'q>,
    /// Whoever failed.
    tried: Vec<Arc<str>>,
    retries: u32,
    /// Who failed last.
    last: Option<Arc<Server>>,
    /// Whether a connection that was used before has failed: then the others are as likely dead.
    fresh: bool,
}

impl<'q> Attempts<'q> {
    fn new(pool: &'q Arc<Pool>, question: &'q Question<'q>) -> Attempts<'q> {
        Attempts { pool, question, tried: Vec::new(), retries: 0, last: None, fresh: !question.only_reads() }
    }

    /// Sends the header to a server.
    async fn send(&mut self) -> Result<Exchange, Tried> {
        let wish = Wish { tried: &self.tried, ..self.question.wish };
        let lease = self.pool.lease(&wish).await.map_err(|error| Tried::Final(error.into()))?;
        if let Some(last) = self.last.take() {
            let metrics = last.metrics();
            if Arc::ptr_eq(&last, lease.server()) { &metrics.retries } else { &metrics.redispatches }.inc();
        }
        if self.tried.contains(lease.server().shared_name()) {
            // There is no other. It may be on its way up again.
            let pause = PAUSE.saturating_mul(1 << self.retries.min(8)).min(LONGEST_PAUSE);
            tokio::time::sleep(pause).await;
        }
        let told = self.pool.settings.send_proxy.and(self.question.told.as_ref());
        let kept = match self.fresh {
            false => self.pool.idle.take(lease.server()),
            true => None,
        };
        let wire = match kept {
            Some(wire) => {
                lease.server().metrics().reused.inc();
                wire
            }
            None => match self.pool.connect(&lease, told).await {
                Ok(stream) => Wire::new(stream),
                Err(error) => {
                    lease.failed(&error);
                    let server = self.failed(lease.server());
                    return Err(Tried::Again(ExchangeError::Connect { server, retries: self.retries, error }));
                }
            },
        };
        let mut exchange = Exchange {
            pool: Arc::clone(self.pool),
            lease,
            wire,
            method: self.question.method.clone(),
            retries: self.retries,
            reusable: true,
            sent: false,
            patience: None,
            upgraded: None,
            ending: false,
            asked: Instant::now(),
        };
        let mut outgoing = Outgoing::default();
        outgoing.push(self.question.head.clone());
        match exchange.send(&mut outgoing).await {
            Ok(()) => Ok(exchange),
            Err(error) => Err(self.broke(&exchange, error)),
        }
    }

    /// The server broke off after something may have been sent.
    fn broke(&mut self, exchange: &Exchange, error: WireError) -> Tried {
        let silent = matches!(error, WireError::Silent);
        let answered = matches!(error, WireError::Nonsense(_));
        let server = if exchange.wire.is_reused() && !silent && !answered {
            // It was closed while nobody looked, which says nothing of the server.
            self.fresh = true;
            Arc::clone(exchange.lease.server().shared_name())
        } else {
            exchange.failed(&error);
            self.failed(exchange.lease.server())
        };
        let error = ExchangeError::Wire { server, retries: self.retries, error };
        if self.question.only_reads() && !silent && !answered { Tried::Again(error) } else { Tried::Final(error) }
    }

    /// Comes last from now on.
    fn failed(&mut self, server: &Arc<Server>) -> Arc<str> {
        self.last = Some(Arc::clone(server));
        self.tried.push(Arc::clone(server.shared_name()));
        Arc::clone(server.shared_name())
    }

    /// Whether an answer is one that the client gets.
    fn is_enough(&self, answer: &Answer) -> bool {
        let failed = matches!(
            answer.status,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        );
        !(failed && self.question.only_reads())
    }

    /// Whether there is a server that has not been tried, and time to try it.
    fn another(&self) -> bool {
        let untried = self.pool.servers().iter().filter(|server| !self.tried.contains(server.shared_name())).count();
        // The one that has just answered is among them.
        untried > 1 && self.retries < self.pool.settings.retries
    }

    /// Goes on to the next try, or gives up.
    async fn next(&mut self, tried: Tried) -> Result<(), ExchangeError> {
        let error = match tried {
            Tried::Final(error) => return Err(error),
            Tried::Again(error) => error,
        };
        let dead = matches!(&error, ExchangeError::Wire { server, .. } if !self.tried.contains(server));
        if dead {
            // A connection that had died is no try.
            return Ok(());
        }
        if self.retries >= self.pool.settings.retries {
            return Err(error);
        }
        self.retries += 1;
        Ok(())
    }
}

impl Exchange {
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

    async fn send(&mut self, outgoing: &mut Outgoing) -> Result<(), WireError> {
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

#[cfg(test)]
mod tests;

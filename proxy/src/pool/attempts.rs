//! The tries of a request: at one server of a pool, and at another one where that can do no harm.
//!
//! A request is sent again when nothing of it was sent (no connection), and, when it only reads, also when its server
//! broke off before it answered, or answered 502, 503 or 504. A request with a body is never sent twice: its server may
//! have acted on it. For the same reason only a request that reads is sent over a connection that was used before: its
//! server may be closing it at this very moment.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};

use super::answer::Answer;
use super::connect::{ConnectError, Told};
use super::exchange::Exchange;
use super::wire::{Outgoing, Wire, WireError};
use super::{LeaseError, Pool, Server, Wish};

/// How long to wait before the same server is asked again, and at most.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

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
                    exchange.sent();
                    match exchange.answer().await {
                        Ok(answer) if attempts.is_enough(&answer) => return Ok((exchange, answer)),
                        // The last word when it turns out that nobody else is there.
                        Ok(answer) => {
                            if attempts.another() {
                                attempts.failed(exchange.server());
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
        let (pool, method) = (Arc::clone(self.pool), self.question.method.clone());
        let mut exchange = Exchange::new(pool, lease, wire, method, self.retries);
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
        let server = if exchange.is_over_reused() && !silent && !answered {
            // It was closed while nobody looked, which says nothing of the server.
            self.fresh = true;
            Arc::clone(exchange.server().shared_name())
        } else {
            exchange.failed(&error);
            self.failed(exchange.server())
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

#[cfg(test)]
mod tests;

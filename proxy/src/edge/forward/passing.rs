//! From a request that was sent to the end of its answer, as the client sees it.

use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use pingora_core::protocols::http::ServerSession;

use super::relay::{Broken, Relay};
use super::{Errand, Passed, answer, location, refusal_of_wire};
use crate::edge::gate::Visit;
use crate::edge::record::Forwarded;
use crate::edge::refusal::Refusal;
use crate::front::{FRAME, lanes};
use crate::pool::{Answer, Framing};

/// See the module.
pub(super) struct Passing<'a, E: Errand> {
    pub(super) errand: &'a E,
    pub(super) visit: &'a Visit<'a>,
    pub(super) asked: answer::Asked<'a>,
    pub(super) relay: Relay<'a>,
    /// Whether the client asked for another protocol.
    pub(super) upgrade: bool,
    /// What is told of who answers.
    pub(super) by: &'a mut Forwarded,
}

impl<E: Errand> Passing<'_, E> {
    /// Takes the answer to the client.
    pub(super) async fn run(mut self, mut first: Option<Answer>) -> Result<Passed, Refusal> {
        let answer = loop {
            let answer = match first.take() {
                Some(answer) => answer,
                None => match self.relay.answer().await {
                    Ok(answer) => answer,
                    Err(broken) => return self.unanswered(broken).await,
                },
            };
            match answer.status {
                StatusCode::SWITCHING_PROTOCOLS if self.upgrade => break answer,
                StatusCode::SWITCHING_PROTOCOLS => {
                    self.errand.answered(None).await;
                    return Err(Refusal::Invalid(None));
                }
                status if !status.is_informational() => break answer,
                // A client of HTTP/1.0 knows none of these.
                _ if !self.asked.chunks => {}
                _ => {
                    let header = self.header(answer);
                    if self.relay.session.write_response_header(header).await.is_err()
                        && !self.errand.outlives_its_client()
                    {
                        return self.unanswered(Broken::Client).await;
                    }
                }
            }
        };
        lanes::after_others().await;
        let status = answer.status;
        self.errand.answered(Some(status)).await;
        let mut passed = Passed { status: Some(status), bytes: 0, first_byte: Instant::now(), complete: false };
        match self.pass(answer, &mut passed).await {
            Ok(()) => {
                passed.complete = true;
                self.relay.exchange.finish();
            }
            Err(broken) => {
                if let Broken::Server(error) = broken {
                    self.by.error = Some(error.to_string());
                }
                abort(self.relay.session);
            }
        }
        Ok(passed)
    }

    async fn pass(&mut self, answer: Answer, passed: &mut Passed) -> Result<(), Broken> {
        let empty = answer.framing == Framing::Empty;
        let upgraded = answer.status == StatusCode::SWITCHING_PROTOCOLS;
        let header = self.header(answer);
        if let (true, ServerSession::H2(session)) = (empty, &mut *self.relay.session) {
            session.write_response_header(header, true).map_err(|_| Broken::Client)?;
            passed.first_byte = Instant::now();
            return Ok(());
        }
        self.relay.session.write_response_header(header).await.map_err(|_| Broken::Client)?;
        passed.first_byte = Instant::now();
        if upgraded {
            self.relay.upgrade(self.visit.target.tunnel_timeout);
        }
        while let Some(piece) = self.relay.body().await? {
            let length = piece.len() as u64;
            write(self.relay.session, piece).await?;
            passed.bytes += length;
        }
        self.relay.session.write_response_body(Bytes::new(), true).await.map_err(|_| Broken::Client)
    }

    fn header(&self, answer: Answer) -> Box<pingora_http::ResponseHeader> {
        let server = self.relay.exchange.server();
        let own = location::Own {
            address: server.address(),
            name: server.name(),
            secure: self.errand.pool().settings().tls.is_some(),
        };
        answer::header(answer, &self.asked, &own)
    }

    /// Nothing has been sent to the client, and nothing came.
    async fn unanswered(self, broken: Broken) -> Result<Passed, Refusal> {
        if matches!(broken, Broken::Server(_)) {
            self.errand.answered(None).await;
        }
        match broken {
            Broken::Client => Ok(Passed { status: None, bytes: 0, first_byte: Instant::now(), complete: false }),
            Broken::ClientSilent => {
                // The rest of its body would be taken for its next request, if it ever came.
                self.relay.session.set_keepalive(None);
                Err(Refusal::Slow)
            }
            Broken::ClientNonsense => Err(Refusal::Malformed),
            Broken::Server(error) => {
                self.by.error = Some(error.to_string());
                self.relay.exchange.failed(&error);
                Err(refusal_of_wire(&error, &self.errand.pool().settings().name))
            }
        }
    }
}

/// Writes a piece of a body. HTTP/2 gets it in frames that each fill a record of TLS.
async fn write(session: &mut ServerSession, mut piece: Bytes) -> Result<(), Broken> {
    match session {
        ServerSession::H1(session) => session.write_body(&piece).await.map(drop).map_err(|_| Broken::Client),
        session => {
            while !piece.is_empty() {
                let frame = piece.split_to(FRAME.min(piece.len()));
                session.write_response_body(frame, false).await.map_err(|_| Broken::Client)?;
            }
            Ok(())
        }
    }
}

/// Makes the client see that the answer broke off; the caller closes the connection as well.
fn abort(session: &mut ServerSession) {
    session.set_keepalive(None);
    if let ServerSession::H2(session) = session {
        session.shutdown();
    }
}

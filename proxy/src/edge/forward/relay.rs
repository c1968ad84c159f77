//! A request's body on its way to a server and the answer on its way back, at once, in one task.
//!
//! Whatever comes first is done first: a piece of the body, an answer that does not wait for the rest of the body, a
//! client or a server that goes away. Nothing is kept but the one piece that is on its way in each direction.
//!
//! Invariants: a body of known length goes out with just that many bytes, or its connection is closed; silence is
//! limited, and time is not; a client that has gone costs its server no more work, unless something is known by the answer.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use pingora_core::protocols::http::ServerSession;
use tokio::time::Instant;

use super::head;
use crate::edge::form::TokenForm;
use crate::front::{Deadline, MalformedChunk};
use crate::pool::{Answer, Exchange, Outgoing, WireError};

/// Why nothing more comes of a request.
#[derive(Debug)]
pub(super) enum Broken {
    /// The client went away, or broke off within its body.
    Client,
    /// It was silent within its body for too long.
    ClientSilent,
    /// Its body is not framed as it says.
    ClientNonsense,
    /// The server.
    Server(WireError),
}

/// What happened next.
enum Event {
    Answer(Result<Answer, WireError>),
    Body(Result<Option<Bytes>, WireError>),
    Sent(Result<(), WireError>),
    Piece(Option<Bytes>),
    Broken(Broken),
}

/// What is awaited of the server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Answer,
    Body,
}

/// The client's side of what is sent.
enum Upload {
    /// It goes on.
    Going,
    /// All was taken from the client; some may still be on its way to the server.
    Taken,
    /// The server has it all, or wants no more.
    Ended,
}

/// See the module.
pub(super) struct Relay<'a> {
    pub(super) session: &'a mut ServerSession,
    pub(super) exchange: Exchange,
    upload: Upload,
    chunks: bool,
    /// What is still to come of a body of known length.
    left: Option<u64>,
    outgoing: Outgoing,
    clock: Option<Deadline>,
    /// The client's longest silence.
    client_silence: Duration,
    /// The longest time that the server takes nothing.
    server_silence: Duration,
    upgraded: bool,
    /// Whether the answer is waited for when the client has gone.
    patient: bool,
    /// Gets a copy of the body, where that is a form.
    copy: Option<&'a TokenForm>,
    /// Why no more of its body comes, where that is so.
    cut: Option<Broken>,
}

impl<'a> Relay<'a> {
    /// For a request whose head has been sent.
    pub(super) fn new(
        session: &'a mut ServerSession,
        exchange: Exchange,
        body: head::Body,
        client_silence: Duration,
        server_silence: Duration,
    ) -> Relay<'a> {
        Relay {
            session,
            exchange,
            upload: if body.is_some() { Upload::Going } else { Upload::Ended },
            chunks: body == head::Body::Chunks,
            left: if let head::Body::Length(length) = body { Some(length) } else { None },
            outgoing: Outgoing::default(),
            clock: None,
            client_silence,
            server_silence,
            upgraded: false,
            patient: false,
            copy: None,
            cut: None,
        }
    }

    /// Has the answer waited for when the client has gone, or not.
    pub(super) fn patient(self, patient: bool) -> Relay<'a> {
        Relay { patient, ..self }
    }

    /// Has the body copied on its way, where it is a form.
    pub(super) fn copied(self, copy: Option<&'a TokenForm>) -> Relay<'a> {
        Relay { copy, ..self }
    }

    /// From here on both sides speak another protocol, until one of them ends or both are silent.
    pub(super) fn upgrade(&mut self, silence: Duration) {
        self.exchange.upgrade(silence);
        self.upgraded = true;
        self.upload = Upload::Going;
        (self.chunks, self.left) = (false, None);
        (self.client_silence, self.server_silence) = (silence, silence);
    }

    /// The header of the next answer.
    pub(super) async fn answer(&mut self) -> Result<Answer, Broken> {
        loop {
            match self.next(Awaited::Answer).await {
                Event::Answer(Ok(answer)) => return Ok(answer),
                // Without its whole body nothing was done, but for a server that does not wait for bodies: that has answered.
                Event::Answer(Err(error)) => return Err(self.cut.take().unwrap_or(Broken::Server(error))),
                event => match self.handle(event) {
                    Err(broken) if self.patient && self.cut.is_none() => {
                        self.cut = Some(broken);
                        self.session.set_keepalive(None);
                        (self.outgoing, self.upload) = (Outgoing::default(), Upload::Ended);
                        self.exchange.expect_soon();
                    }
                    handled => handled?,
                },
            }
        }
    }

    /// The next piece of the answer's body; `None` at its end.
    pub(super) async fn body(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            match self.next(Awaited::Body).await {
                Event::Body(piece) => return piece.map_err(Broken::Server),
                event => self.handle(event)?,
            }
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Broken> {
        match event {
            Event::Piece(Some(piece)) => {
                let length = piece.len() as u64;
                if let Some(left) = &mut self.left {
                    // The client's own protocol counts as well: it does not come to this.
                    *left = left.checked_sub(length).ok_or(Broken::Client)?;
                }
                if let Some(copy) = self.copy {
                    copy.push(&piece);
                }
                if length > 0 {
                    self.exchange.server().metrics().sent.inc_by(length);
                    if self.chunks {
                        self.outgoing.push(Bytes::from(format!("{length:x}\r\n")));
                        self.outgoing.push(piece);
                        self.outgoing.push(Bytes::from_static(b"\r\n"));
                    } else {
                        self.outgoing.push(piece);
                    }
                    if self.left == Some(0) {
                        self.upload = Upload::Taken;
                    }
                }
            }
            Event::Piece(None) => {
                if self.left.is_some_and(|left| left > 0) {
                    return Err(Broken::Client);
                }
                if self.chunks {
                    self.outgoing.push(Bytes::from_static(b"0\r\n\r\n"));
                }
                self.upload = Upload::Taken;
            }
            Event::Sent(Ok(())) => {}
            // It may have answered before it stopped to listen: the answer tells more.
            Event::Sent(Err(_)) => {
                self.outgoing = Outgoing::default();
                self.upload = Upload::Ended;
                self.exchange.expect_soon();
            }
            Event::Broken(broken) => return Err(broken),
            Event::Answer(_) | Event::Body(_) => {}
        }
        if matches!(self.upload, Upload::Taken) && self.outgoing.is_empty() {
            self.upload = Upload::Ended;
            if self.upgraded {
                self.exchange.end();
            } else {
                self.exchange.sent();
            }
        }
        Ok(())
    }

    async fn next(&mut self, awaited: Awaited) -> Event {
        let Relay { session, exchange, outgoing, clock, .. } = self;
        if !outgoing.is_empty() {
            let clock = Deadline::at(clock, Instant::now() + self.server_silence);
            return poll_fn(|context| {
                if let Poll::Ready(event) = poll(exchange, awaited, context) {
                    return Poll::Ready(event);
                }
                if let Poll::Ready(sent) = exchange.poll_send(context, outgoing) {
                    return Poll::Ready(Event::Sent(sent));
                }
                clock.poll_passed(context).map(|()| Event::Sent(Err(WireError::Silent)))
            })
            .await;
        }
        let heard = poll_fn(|context| poll(exchange, awaited, context));
        if matches!(self.upload, Upload::Going) {
            let clock = Deadline::at(clock, Instant::now() + self.client_silence);
            return tokio::select! {
                biased;
                event = heard => event,
                piece = session.read_request_body() => match piece {
                    Ok(piece) => Event::Piece(piece),
                    Err(error) if is_nonsense(&error) => Event::Broken(Broken::ClientNonsense),
                    Err(_) => Event::Broken(Broken::Client),
                },
                () = clock.passed() => Event::Broken(Broken::ClientSilent),
            };
        }
        if self.upgraded || (self.patient && awaited == Awaited::Answer) {
            return heard.await;
        }
        tokio::select! {
            biased;
            event = heard => event,
            () = gone(session) => Event::Broken(Broken::Client),
        }
    }
}

fn poll(exchange: &mut Exchange, awaited: Awaited, context: &mut std::task::Context<'_>) -> Poll<Event> {
    match awaited {
        Awaited::Answer => exchange.poll_answer(context).map(Event::Answer),
        Awaited::Body => exchange.poll_body(context).map(Event::Body),
    }
}

/// Whether a body could not be read because of what it is.
fn is_nonsense(error: &pingora_core::Error) -> bool {
    let mut cause = error.cause.as_deref().map(|cause| cause as &(dyn std::error::Error + 'static));
    while let Some(error) = cause {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if inner.is_some_and(|inner| inner.is::<MalformedChunk>()) {
            return true;
        }
        cause = match error.downcast_ref::<pingora_core::Error>() {
            Some(error) => error.cause.as_deref().map(|cause| cause as _),
            None => error.source(),
        };
    }
    false
}

/// Comes when the client goes away, after it has said all.
pub(super) async fn gone(session: &mut ServerSession) {
    // It never gives anything: there is no body left.
    while session.read_body_or_idle(true).await.is_ok() {}
}

//! HTTP/1: one connection, one request after another.
//!
//! The header is read here, under a deadline for all of it and up to the listener's size, and only then given to
//! Pingora, whose own reader has a timeout for each read and a fixed limit of 1 MiB.
//!
//! Invariant: a connection is used again only when the last response was complete, the last request was read whole,
//! both sides want it and the edge is not draining.

use std::pin::pin;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::StatusCode;
use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::chunks::Chunks;
use super::deadline::Deadline;
use super::head::{self, Refusal, Scanner};
use super::service::{Limits, Service};
use super::stream::ClientStream;
use super::{Application, Connection, Reuse, lanes};

/// How much is read at a time, and reserved for a header to begin with.
const READ_SIZE: usize = 4 * 1024;

/// Empty lines that may precede a request.
const BLANK_LINES: usize = 2;

/// The largest request body of which what the application leaves is read, to keep the connection.
const DRAIN_LIMIT: u64 = 64 * 1024;

/// What is still read after the last answer, so that the client gets to see it: closing a connection with unread
/// bytes makes the kernel reset it, which destroys what is on its way. A client that sends a large body may have filled the
/// buffers of both kernels before it looks.
const LINGER_BYTES: usize = 16 * 1024 * 1024;
const LINGER_READ: usize = 16 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(1);

/// What came of waiting for a request.
enum Head {
    /// The buffer starts with a whole header of this length; whether a body in chunks follows.
    Complete { length: usize, chunked: bool },
    /// The client has gone, or has been silent for too long, or the edge is draining.
    Ended,
}

/// Serves a connection to its end.
pub(crate) async fn serve<A: Application>(
    mut stream: Stream,
    chunks: &Chunks,
    service: &Service<A>,
    connection: &Connection,
) {
    let Service { application, limits, drain, .. } = service;
    let mut stop = pin!(drain.draining());
    let mut clock = Deadline::new(Instant::now() + limits.idle_timeout);
    let mut received = BytesMut::new();
    loop {
        connection.session.waits();
        let head = read_head(&mut stream, &mut received, limits, &mut clock, stop.as_mut()).await;
        connection.session.moved(0);
        match head {
            Ok(Head::Complete { length, chunked }) => {
                if chunked && let Err(refusal) = chunks.begin(&received[length..]) {
                    return refuse(stream, refusal, service, connection).await;
                }
            }
            Ok(Head::Ended) => return,
            Err(refusal) => return refuse(stream, refusal, service, connection).await,
        }
        lanes::after_others().await;
        let mut session = ServerSession::new_http1(stream);
        session.set_pipelining_enabled(true);
        if let ServerSession::H1(session) = &mut session {
            // What stays behind is room in the same memory, which the next header takes again; that of a large one is
            // given back.
            let prefix = received.split();
            if prefix.len() > READ_SIZE {
                received = BytesMut::new();
            }
            session.set_pipelined_prefix(prefix);
        }
        let small = match accept(&mut session, limits).await {
            Ok(small) => small,
            Err(refusal) => {
                if let ServerSession::H1(session) = session {
                    refuse(session.into_inner(), refusal, service, connection).await;
                }
                return;
            }
        };
        if drain.is_draining() {
            session.set_keepalive(None);
        }
        if application.handle(&mut session, connection).await == Reuse::Close {
            // Dropped as it is, without the TLS alert that would end it in good order.
            if ends_with_connection(&session)
                && let ServerSession::H1(session) = &session
                && let Some(stream) = session.stream().as_any().downcast_ref::<ClientStream>()
            {
                stream.break_off();
            }
            return;
        }
        if !small && !session.is_body_done() {
            if let ServerSession::H1(mut session) = session
                && session.finish_body().await.is_ok()
            {
                linger(session.into_inner()).await;
            }
            return;
        }
        match session.finish().await {
            Ok(Some(reusable)) => {
                let (next, rest) = reusable.into_parts();
                stream = next;
                if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
                    received = rest;
                }
            }
            Ok(None) | Err(_) => return,
        }
    }
}

/// Reads until `received` starts with a whole header.
async fn read_head(
    stream: &mut Stream,
    received: &mut BytesMut,
    limits: &Limits,
    clock: &mut Deadline,
    mut stop: std::pin::Pin<&mut (impl Future<Output = ()> + Send)>,
) -> Result<Head, Refusal> {
    let mut scanner = Scanner::default();
    let mut blank_lines = 0;
    let mut begun = false;
    clock.set(Instant::now() + limits.idle_timeout);
    loop {
        while blank_lines < BLANK_LINES && received.starts_with(b"\r\n") {
            received.advance(2);
            scanner = Scanner::default();
            blank_lines += 1;
        }
        match scanner.scan(received)? {
            Some(length) if length > limits.max_header_size => return Err(Refusal::TooLarge),
            Some(_) if received.starts_with(b"\r\n") => return Err(Refusal::Malformed),
            Some(length) => {
                let chunked = head::examine(&received[..length])?;
                let length = match head::in_origin_form(&received[..length]) {
                    None => length,
                    Some(head) => {
                        *received = [&head[..], &received[length..]].concat()[..].into();
                        head.len()
                    }
                };
                return Ok(Head::Complete { length, chunked });
            }
            None if received.len() > limits.max_header_size => return Err(Refusal::TooLarge),
            None => {}
        }
        if !begun && !received.is_empty() {
            begun = true;
            clock.set(Instant::now() + limits.header_timeout);
        }
        received.reserve(READ_SIZE);
        tokio::select! {
            biased;
            read = stream.read_buf(received) => match read {
                Ok(count) if count > 0 => {}
                _ => return Ok(Head::Ended),
            },
            () = clock.passed() => return if begun { Err(Refusal::Timeout) } else { Ok(Head::Ended) },
            () = stop.as_mut(), if !begun => return Ok(Head::Ended),
        }
    }
}

/// Parses the header. The body is left to the application; whether what it leaves of it is worth reading, so that the
/// connection can be kept.
async fn accept(session: &mut ServerSession, limits: &Limits) -> Result<bool, Refusal> {
    match timeout(limits.header_timeout, session.read_request()).await {
        Ok(Ok(true)) => {}
        Ok(_) => return Err(Refusal::Malformed),
        Err(_) => return Err(Refusal::Timeout),
    }
    session.set_read_timeout(Some(limits.body_timeout));
    session.set_total_drain_timeout(Some(limits.header_timeout));
    let headers = &session.req_header().headers;
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let small = length.is_none_or(|length| length <= DRAIN_LIMIT)
        && !headers.contains_key(TRANSFER_ENCODING)
        && !headers.contains_key(EXPECT);
    if let ServerSession::H1(session) = session {
        // Else an answer that comes before the end of the body says that the connection ends with it.
        session.set_close_on_response_before_downstream_finish(!small);
    }
    Ok(small)
}

/// Whether nothing but the end of the connection tells the client where its answer ends, as clients of HTTP/1.0 have it.
fn ends_with_connection(session: &ServerSession) -> bool {
    session.response_written().is_some_and(|answer| {
        answer.status != StatusCode::SWITCHING_PROTOCOLS
            && !answer.headers.contains_key(CONTENT_LENGTH)
            && !answer.headers.contains_key(TRANSFER_ENCODING)
    })
}

/// Answers with a refusal and closes.
async fn refuse<A: Application>(mut stream: Stream, refusal: Refusal, service: &Service<A>, connection: &Connection) {
    service.refused(connection, refusal.reason(), None);
    if stream.write_all(refusal.response()).await.is_ok() {
        linger(stream).await;
    }
}

/// Ends our side, then reads on for a moment.
async fn linger(mut stream: Stream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let rest = async {
        let mut discarded = vec![0; LINGER_READ];
        let mut total = 0;
        while total < LINGER_BYTES {
            match stream.read(&mut discarded).await {
                Ok(count) if count > 0 => total += count,
                _ => break,
            }
        }
    };
    drop(timeout(LINGER_TIME, rest).await);
}

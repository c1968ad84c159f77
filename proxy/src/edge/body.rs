//! Writes an answer to the client: header, then body, through one buffer.
//!
//! Invariant: an answer that broke off never looks complete. Over HTTP/1 the announced length, or the last chunk, is not
//! reached and the connection is closed; over HTTP/2 the stream is reset. Memory is one buffer a request, whatever the size of the blob.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::Version;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use pingora_core::protocols::http::ServerSession;
use pingora_http::ResponseHeader;

use crate::cache::{Blob, BlobError, BlobReader, BlobState, ENDLESS};
use crate::front::FRAME;
use pierhead_service::range::Multipart;

/// Bytes read and written at a time over HTTP/1.
const CHUNK: usize = 64 * 1024;
/// The same over HTTP/2, in whole frames: there several are under way for each slow client.
const FRAMES: usize = 2 * FRAME;
/// Buffers that HTTP/2 may hold of one body.
const TURNS: usize = 3;

/// A body, before it is read.
pub(crate) enum Body {
    /// None.
    Empty,
    /// In memory.
    Bytes(Bytes),
    /// A blob, or one range of it.
    Blob(Arc<Blob>, Range<u64>),
    /// Several ranges of a blob.
    Multipart(Arc<Blob>, Multipart),
}

impl Body {
    /// Waits for the first byte of a blob that is not all here. Until the header has gone out, that it will not come can
    /// be told by a status, which sends clients on to their next mirror; afterwards only by breaking off.
    pub(crate) async fn begin(&self) -> Result<(), BlobError> {
        let (blob, reader) = match self {
            // The whole range, so that what is fetched for this reader serves the next one.
            Body::Blob(blob, range) => (blob, Some(blob.reader(range.clone()))),
            Body::Multipart(blob, multipart) => (blob, readers(blob, multipart).next()),
            Body::Empty | Body::Bytes(_) => return Ok(()),
        };
        if let (BlobState::Filling, Some(mut reader)) = (blob.state(), reader) {
            reader.read(&mut [0]).await?;
        }
        Ok(())
    }
}

/// A reader for each part, in order, each made when its turn comes.
fn readers(blob: &Blob, multipart: &Multipart) -> impl Iterator<Item = BlobReader> {
    let ranges: Vec<_> = multipart.parts.iter().map(|(_, range)| range.clone()).collect();
    let stretches = blob.gathered(&ranges);
    ranges.into_iter().map(move |range| {
        let holds = |stretch: &&Range<u64>| stretch.start <= range.start && range.end <= stretch.end;
        let fetched = stretches.iter().find(holds).cloned().unwrap_or_else(|| range.clone());
        blob.reader_within(range, fetched)
    })
}

/// What went out.
pub(crate) struct Sent {
    /// Bytes of the body.
    pub(crate) bytes: u64,
    /// When the first byte went out.
    pub(crate) first_byte: Instant,
    /// Whether the answer is whole.
    pub(crate) complete: bool,
}

/// Why an answer broke off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    /// The client went away or is too slow.
    #[error("client: {0}")]
    Client(#[from] Box<pingora_core::Error>),
    /// The blob cannot be read on.
    #[error("{0}")]
    Blob(#[from] BlobError),
    /// The blob ended before its length.
    #[error("the blob is shorter than its length")]
    Short,
}

/// Sends an answer. `id` is the request's, for the log.
pub(crate) async fn send(session: &mut ServerSession, header: Box<ResponseHeader>, body: Body, id: &str) -> Sent {
    let mut sent = Sent { bytes: 0, first_byte: Instant::now(), complete: false };
    let written = match frame(session, header, &body).await {
        Some(framed) => write(session, framed, body, &mut sent).await,
        None => Err(Broken::Short),
    };
    match written {
        Ok(()) => sent.complete = true,
        Err(broken) => {
            match &broken {
                Broken::Client(error) => tracing::debug!(id, %error, "answer broke off"),
                Broken::Blob(_) | Broken::Short => tracing::warn!(id, error = %broken, "answer broke off"),
            }
            abort(session);
        }
    }
    sent
}

/// Frames a body whose length is not known: in chunks over HTTP/1.1. HTTP/1.0 has nothing that tells its end from a broken
/// connection, so there the length is waited for; `None` when the fill fails before it is known.
async fn frame(session: &ServerSession, mut header: Box<ResponseHeader>, body: &Body) -> Option<Box<ResponseHeader>> {
    let (Body::Blob(blob, _), ServerSession::H1(http)) = (body, session) else { return Some(header) };
    if header.headers.contains_key(CONTENT_LENGTH) {
        return Some(header);
    }
    // Either line is a valid one.
    if http.req_header().version == Version::HTTP_10 {
        blob.settle(Duration::MAX).await;
        match blob.size() {
            Some(size) => drop(header.insert_header(CONTENT_LENGTH, size)),
            None if blob.state() == BlobState::Filling => return None,
            None => {}
        }
    } else {
        let _ = header.insert_header(TRANSFER_ENCODING, "chunked");
    }
    Some(header)
}

async fn write(
    session: &mut ServerSession,
    header: Box<ResponseHeader>,
    body: Body,
    sent: &mut Sent,
) -> Result<(), Broken> {
    if let (Body::Empty, ServerSession::H2(session)) = (&body, &mut *session) {
        session.write_response_header(header, true)?;
        sent.first_byte = Instant::now();
        return Ok(());
    }
    session.write_response_header(header).await?;
    sent.first_byte = Instant::now();
    match body {
        Body::Empty => {}
        Body::Bytes(bytes) => {
            let length = bytes.len() as u64;
            session.write_response_body(bytes, true).await?;
            sent.bytes += length;
        }
        Body::Blob(blob, range) => {
            let (reader, length) = (blob.reader(range.clone()), range.end - range.start);
            copy(session, reader, length, range.end == ENDLESS, &mut Buffer::new(session), sent).await?;
            finish(session).await?;
        }
        Body::Multipart(blob, multipart) => {
            let mut buffer = Buffer::new(session);
            let readers = readers(&blob, &multipart);
            for ((heading, range), reader) in multipart.parts.iter().zip(readers) {
                text(session, heading.clone(), sent).await?;
                copy(session, reader, range.end - range.start, false, &mut buffer, sent).await?;
            }
            text(session, multipart.end, sent).await?;
            finish(session).await?;
        }
    }
    Ok(())
}

/// What is read into. HTTP/1 writes borrowed bytes, so one buffer serves a whole body. HTTP/2 keeps what it is given
/// until the client's window takes it, so there a few buffers take turns.
enum Buffer {
    Reused(Vec<u8>),
    Shared(VecDeque<Bytes>),
}

impl Buffer {
    fn new(session: &ServerSession) -> Buffer {
        match session {
            ServerSession::H1(_) => Buffer::Reused(vec![0; CHUNK]),
            _ => Buffer::Shared(VecDeque::with_capacity(TURNS)),
        }
    }
}

/// A buffer that HTTP/2 is done with, or else a fresh one.
fn take_turn(lent: &mut VecDeque<Bytes>) -> BytesMut {
    while let Some(oldest) = lent.pop_front() {
        match oldest.try_into_mut() {
            Ok(buffer) => return buffer,
            // Still on its way. Were it never to come back, it would be freed when it has gone.
            Err(oldest) if lent.len() + 1 < TURNS => {
                lent.push_front(oldest);
                break;
            }
            Err(_) => {}
        }
    }
    BytesMut::zeroed(FRAMES)
}

async fn copy(
    session: &mut ServerSession,
    mut reader: BlobReader,
    mut left: u64,
    endless: bool,
    buffer: &mut Buffer,
    sent: &mut Sent,
) -> Result<(), Broken> {
    while left > 0 {
        let room = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let count = match (&mut *buffer, &mut *session) {
            (Buffer::Reused(buffer), ServerSession::H1(session)) => {
                let count = reader.read(&mut buffer[..room]).await?;
                session.write_body(&buffer[..count]).await?;
                count
            }
            (Buffer::Shared(lent), session) => {
                let mut buffer = take_turn(lent);
                let count = reader.read(&mut buffer[..room.min(FRAMES)]).await?;
                let whole = buffer.freeze();
                let mut chunk = whole.slice(..count);
                lent.push_back(whole);
                while !chunk.is_empty() {
                    let frame = chunk.split_to(FRAME.min(chunk.len()));
                    session.write_response_body(frame, false).await?;
                }
                count
            }
            (Buffer::Reused(_), _) => 0,
        };
        if count == 0 {
            return if endless { Ok(()) } else { Err(Broken::Short) };
        }
        left = left.saturating_sub(count as u64);
        sent.bytes += count as u64;
    }
    Ok(())
}

async fn text(session: &mut ServerSession, text: String, sent: &mut Sent) -> Result<(), Broken> {
    let length = text.len() as u64;
    session.write_response_body(Bytes::from(text), false).await?;
    sent.bytes += length;
    Ok(())
}

async fn finish(session: &mut ServerSession) -> Result<(), Broken> {
    session.write_response_body(Bytes::new(), true).await?;
    Ok(())
}

/// Makes the client see that the answer broke off; the caller closes the connection as well.
fn abort(session: &mut ServerSession) {
    session.set_keepalive(None);
    if let ServerSession::H2(session) = session {
        session.shutdown();
    }
}

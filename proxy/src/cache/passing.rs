//! A body that is read past the store, as slowly as its client likes.
//!
//! It holds one of the registry's few connections. While its client reads nothing, another client may want that: then the connection is
//! closed, and opened again at the byte where the client stands once it reads on and its turn has come. The client sees one body.
//!
//! An upstream that sends no parts would have to send all again. There a client keeps the connection while it is fast enough, and loses its
//! body with it when it is not.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use pierhead_registry::client::BlobBody;
use pierhead_registry::oci::Digest;
use pierhead_service::shares::{Full, Permit};
use tokio_util::task::AbortOnDropHandle;

use super::BlobError;
use super::fill::ENDLESS;
use super::fill::connections::Source;

/// The rest of a body, with the connection that it may lose and get again.
pub(super) struct Passing {
    source: Source,
    digest: Digest,
    /// What is still to come. [`ENDLESS`]: to the end of the blob.
    range: Range<u64>,
    /// Length of the blob as a manifest tells it.
    expected: Option<u64>,
    /// Addresses that are asked last.
    avoid: Vec<usize>,
    /// Length of the blob, once it is known.
    total: Option<u64>,
    state: State,
    /// How long the piece was that the client took last.
    taken: u64,
    connection: Arc<Mutex<Option<Connection>>>,
    /// Closes the connection when another client wants it.
    watch: Option<AbortOnDropHandle<()>>,
}

/// How far a body has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was asked for yet.
    Fresh,
    /// Begun; the rest can be asked for.
    Resumable,
    /// Begun; only the whole can be asked for.
    Whole,
    /// All came.
    Over,
}

struct Connection {
    body: BlobBody,
    /// Offset of its next byte. It lies before what is to come where upstream ignores ranges.
    at: u64,
    permit: Permit,
}

impl Passing {
    /// Nothing is asked for yet. `expected`: the blob's length as a manifest tells it; `avoid`: addresses that sent wrong bytes.
    pub(super) fn new(
        source: &Source,
        digest: &Digest,
        range: Range<u64>,
        expected: Option<u64>,
        avoid: Vec<usize>,
    ) -> Passing {
        Passing {
            source: source.clone(),
            digest: *digest,
            range,
            expected,
            avoid,
            total: None,
            state: State::Fresh,
            taken: 0,
            connection: Arc::default(),
            watch: None,
        }
    }

    /// Length of the whole blob, once it is known.
    pub(super) fn total(&self) -> Option<u64> {
        self.total
    }

    /// The next piece; `None` at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, BlobError> {
        loop {
            let held = self.connection.lock().take();
            let mut connection = match held {
                Some(connection) => connection,
                None if self.state == State::Over => return Ok(None),
                // Too slow while others waited.
                None if self.state == State::Whole => return Err(Full::Share.into()),
                None => self.open().await?,
            };
            let pace = Arc::clone(connection.permit.pace());
            pace.moved(std::mem::take(&mut self.taken));
            let wanted = pace.when_cut();
            let piece = tokio::select! {
                biased;
                // From here on the watch finds no connection to close.
                () = wanted.cancelled() => continue,
                piece = connection.body.chunk() => piece?,
            };
            self.total = connection.body.total();
            let Some(mut piece) = piece else {
                self.state = State::Over;
                return Ok(None);
            };
            let skip = self.range.start.saturating_sub(connection.at).min(piece.len() as u64);
            connection.at += piece.len() as u64;
            piece.advance(usize::try_from(skip).unwrap_or(piece.len()));
            self.range.start += piece.len() as u64;
            self.taken = piece.len() as u64;
            if !piece.is_empty() {
                pace.waits();
            }
            if !pace.is_cut() {
                *self.connection.lock() = Some(connection);
                if pace.is_cut() {
                    // Cut between the look and here: the watch may have come too early.
                    self.connection.lock().take();
                }
            }
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }

    async fn open(&mut self) -> Result<Connection, BlobError> {
        let repository = &self.source.repository;
        let end = Some(self.range.end).filter(|end| *end != ENDLESS);
        repository.check(self.range.start, end, &self.avoid)?;
        let permit = self.source.for_client().await?;
        permit.pace().moved(0);
        let body = repository.get_blob_of(&self.digest, self.expected, self.range.start, end, &self.avoid).await?;
        let (held, wanted) = (Arc::downgrade(&self.connection), permit.pace().when_cut());
        let watch = tokio::spawn(async move {
            wanted.cancelled().await;
            if let Some(held) = held.upgrade() {
                held.lock().take();
            }
        });
        self.watch = Some(AbortOnDropHandle::new(watch));
        let resumable = body.ranges() && body.total().is_some();
        permit.gives_way(resumable);
        self.state = if resumable { State::Resumable } else { State::Whole };
        Ok(Connection { at: body.start(), body, permit })
    }
}

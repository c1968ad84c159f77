//! Bytes of files that go out without passing through this program: the kernel takes them from the file (sendfile(2)).
//!
//! HTTP is written by a library that wants bytes. So the body of such an answer yields bytes that stand for those of the file: slices of
//! one static page range, of the right length. The connection's socket knows them by their address, and sends the file instead.
//!
//! Invariant: what stands for a file is never sent itself. Only a connection that hands its slices to the socket as they are (HTTP/1.1
//! without TLS, vectored) has a [`Lane`]; every piece is taken from the lane once, in order; and a socket that meets such bytes without a
//! file in the lane fails.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use rustix::io::{ReadWriteFlags, preadv2};
use tokio::task::JoinHandle;

/// What is sent at a time: long enough for few calls, short enough to be read ahead.
const PIECE: usize = 1024 * 1024;
/// Nobody writes to it and nobody reads it, so that it takes no memory.
static STANDS_FOR_A_FILE: [u8; PIECE] = [0; PIECE];

/// Whether these bytes stand for bytes of a file.
pub(crate) fn stands_for_a_file(bytes: &[u8]) -> bool {
    STANDS_FOR_A_FILE.as_ptr_range().contains(&bytes.as_ptr())
}

/// How many of these slices come before the first that stands for a file, and how long that is. `None`: there is none.
pub(crate) fn first_of_a_file(slices: &[IoSlice<'_>]) -> Option<(usize, usize)> {
    let at = slices.iter().position(|slice| !slice.is_empty() && stands_for_a_file(slice))?;
    Some((at, slices[at].len()))
}

/// A part of a file.
type Piece = (Arc<File>, Range<u64>);

/// What one connection has still to take from files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lane {
    pieces: Arc<Mutex<VecDeque<Piece>>>,
}

impl Lane {
    /// Sends some of the next piece: `send` is given a file, where to begin, and how much at most, and says how much it sent.
    pub(crate) fn send(
        &self,
        most: usize,
        send: impl FnOnce(&File, u64, usize) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut pieces = self.pieces.lock();
        let Some((file, range)) = pieces.front_mut() else {
            return Err(io::Error::other("bytes of a file without a file"));
        };
        let left = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let sent = send(file, range.start, most.min(left))?;
        if sent == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it was"));
        }
        range.start += sent as u64;
        if range.is_empty() {
            pieces.pop_front();
        }
        Ok(sent)
    }
}

/// A part of a file, as a body.
pub(crate) struct FromFile {
    lane: Lane,
    file: Arc<File>,
    range: Range<u64>,
    /// A piece that is being brought into memory: sending it must not wait for a disk.
    reading: Option<JoinHandle<io::Result<()>>>,
}

impl FromFile {
    /// These bytes of a file, over the connection whose lane it is.
    pub(crate) fn new(lane: Lane, file: File, range: Range<u64>) -> FromFile {
        FromFile { lane, file: Arc::new(file), range, reading: None }
    }

    fn next(&self) -> Range<u64> {
        self.range.start..self.range.end.min(self.range.start.saturating_add(PIECE as u64))
    }
}

impl Body for FromFile {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let piece = self.next();
        if piece.is_empty() {
            return Poll::Ready(None);
        }
        if self.reading.is_none() && !is_in_memory(&self.file, &piece) {
            let (file, piece) = (Arc::clone(&self.file), piece.clone());
            self.reading = Some(tokio::task::spawn_blocking(move || read_through(&file, piece)));
        }
        if let Some(reading) = &mut self.reading {
            let read = ready!(Pin::new(reading).poll(context));
            self.reading = None;
            if let Err(error) = read.map_err(io::Error::other).and_then(|read| read) {
                return Poll::Ready(Some(Err(error)));
            }
        }
        self.range.start = piece.end;
        // At most a piece.
        let length = usize::try_from(piece.end - piece.start).unwrap_or(PIECE);
        self.lane.pieces.lock().push_back((Arc::clone(&self.file), piece));
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&STANDS_FOR_A_FILE[..length])))))
    }

    fn is_end_stream(&self) -> bool {
        self.range.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.range.end - self.range.start)
    }
}

/// Whether the kernel has the first and the last byte of a piece in memory. What lies between mostly came with them.
fn is_in_memory(file: &File, piece: &Range<u64>) -> bool {
    [piece.start, piece.end - 1].into_iter().all(|at| {
        let mut byte = [0];
        preadv2(file, &mut [io::IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT).is_ok()
    })
}

fn read_through(file: &File, piece: Range<u64>) -> io::Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    let mut at = piece.start;
    while at < piece.end {
        let most = usize::try_from(piece.end - at).unwrap_or(usize::MAX).min(buffer.len());
        match file.read_at(&mut buffer[..most], at)? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it was")),
            read => at += read as u64,
        }
    }
    Ok(())
}

//! The bytes of a blob as the body of an answer.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use pierhead_registry::store::Content;
use rustix::io::{ReadWriteFlags, preadv2};

use super::super::outgoing::{FromFile, Lane};

/// What is read from a file at a time, where the kernel cannot send it.
const PIECE: u64 = 128 * 1024;

/// All bytes of a content. `lane`: the connection's, if it can send files.
pub(super) fn body(content: Content, lane: Option<Lane>) -> Body {
    match (content, lane) {
        (Content::Stream(stream), _) => Body::from_stream(stream),
        (Content::File(file, range), Some(lane)) => Body::new(FromFile::new(lane, file, range)),
        (Content::File(file, range), None) => Body::from_stream(stream::try_unfold((file, range), next)),
    }
}

async fn next((file, range): (File, Range<u64>)) -> io::Result<Option<(Bytes, (File, Range<u64>))>> {
    if range.is_empty() {
        return Ok(None);
    }
    let length = (range.end - range.start).min(PIECE);
    let mut piece = vec![0; usize::try_from(length).unwrap_or(0)];
    // What the kernel has in memory is copied at once; only a disk is worth another thread.
    let got = preadv2(&file, &mut [IoSliceMut::new(&mut piece)], range.start, ReadWriteFlags::NOWAIT).unwrap_or(0);
    let (file, piece) = if got == piece.len() {
        (file, piece)
    } else {
        let at = range.start;
        tokio::task::spawn_blocking(move || file.read_exact_at(&mut piece, at).map(|()| (file, piece))).await??
    };
    Ok(Some((piece.into(), (file, range.start + length..range.end))))
}

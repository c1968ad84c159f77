//! The chunks of a body, taken out of what was received. Pure.
//!
//! Invariant: what is between the chunks is bounded; trailers are read and dropped: nobody here has a use for them, and
//! a field that comes after the decision it is about is better not believed.

use bytes::{Buf, Bytes, BytesMut};

use super::answer::Nonsense;

/// Longest line that begins a chunk, with its extensions.
const LINE_LIMIT: usize = 4 * 1024;
/// All trailers together.
const TRAILER_LIMIT: usize = 16 * 1024;

/// Where in a chunked body the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunks {
    /// Before the line that tells the size of a chunk.
    Size,
    /// Within a chunk: so many bytes are left.
    Data(u64),
    /// After the bytes of a chunk, before the end of their line.
    End,
    /// After the last chunk; so many bytes of trailers were read.
    Trailers(usize),
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Bytes of the body.
    Data(Bytes),
    /// More must be received first.
    Nothing,
    /// The body has ended.
    End,
}

impl Chunks {
    /// Takes the next piece.
    pub(super) fn take(&mut self, received: &mut BytesMut) -> Result<Found, Nonsense> {
        loop {
            match *self {
                Chunks::Size => match httparse::parse_chunk_size(received) {
                    Ok(httparse::Status::Complete((length, size))) => {
                        if length > LINE_LIMIT {
                            return Err(Nonsense::Chunk);
                        }
                        received.advance(length);
                        *self = if size == 0 { Chunks::Trailers(0) } else { Chunks::Data(size) };
                    }
                    Ok(httparse::Status::Partial) if received.len() <= LINE_LIMIT => return Ok(Found::Nothing),
                    Ok(httparse::Status::Partial) | Err(_) => return Err(Nonsense::Chunk),
                },
                Chunks::Data(left) => {
                    if received.is_empty() {
                        return Ok(Found::Nothing);
                    }
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(received.len());
                    let left = left - count as u64;
                    *self = if left == 0 { Chunks::End } else { Chunks::Data(left) };
                    return Ok(Found::Data(received.split_to(count).freeze()));
                }
                Chunks::End => {
                    if received.len() < 2 {
                        return if b"\r\n".starts_with(received) { Ok(Found::Nothing) } else { Err(Nonsense::Chunk) };
                    }
                    if !received.starts_with(b"\r\n") {
                        return Err(Nonsense::Chunk);
                    }
                    received.advance(2);
                    *self = Chunks::Size;
                }
                Chunks::Trailers(read) => {
                    let Some(end) = memchr::memchr(b'\n', received) else {
                        let within = read + received.len() <= TRAILER_LIMIT;
                        return if within { Ok(Found::Nothing) } else { Err(Nonsense::TooLarge) };
                    };
                    let line = received.split_to(end + 1);
                    let Some(line) = line.strip_suffix(b"\r\n") else { return Err(Nonsense::Chunk) };
                    if line.is_empty() {
                        return Ok(Found::End);
                    }
                    if read + end > TRAILER_LIMIT {
                        return Err(Nonsense::TooLarge);
                    }
                    *self = Chunks::Trailers(read + end + 1);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the text in pieces of `step` bytes; the body, and what is left behind it.
    fn decode(text: &str, step: usize) -> Result<(String, String), Nonsense> {
        let (mut chunks, mut received, mut body) = (Chunks::Size, BytesMut::new(), Vec::new());
        let mut rest = text.as_bytes();
        loop {
            match chunks.take(&mut received)? {
                Found::Data(data) => body.extend_from_slice(&data),
                Found::End => {
                    received.extend_from_slice(rest);
                    return Ok((String::from_utf8(body).unwrap(), String::from_utf8(received.to_vec()).unwrap()));
                }
                Found::Nothing if rest.is_empty() => panic!("unfinished: {text:?}"),
                Found::Nothing => {
                    let (now, later) = rest.split_at(step.min(rest.len()));
                    received.extend_from_slice(now);
                    rest = later;
                }
            }
        }
    }

    #[test]
    fn chunks_are_put_together_however_they_come() {
        for (text, body) in [
            ("0\r\n\r\n", ""),
            ("5\r\nhello\r\n0\r\n\r\n", "hello"),
            ("5;name=value\r\nhello\r\nA\r\n, world!!!\r\n00\r\n\r\n", "hello, world!!!"),
            ("1\r\na\r\n0\r\nTrailer: yes\r\nAnother: one\r\n\r\n", "a"),
        ] {
            for step in [1, 2, 3, 1000] {
                let text = format!("{text}HTTP");
                assert_eq!(decode(&text, step), Ok((body.to_owned(), "HTTP".to_owned())), "{text:?} by {step}");
            }
        }
    }

    #[test]
    fn refuses_what_is_not_a_chunk() {
        let long = |count| "x".repeat(count);
        for (text, expected) in [
            ("x\r\n".to_owned(), Nonsense::Chunk),
            ("-1\r\n".to_owned(), Nonsense::Chunk),
            ("0x5\r\nhello\r\n".to_owned(), Nonsense::Chunk),
            ("5\r\nhello!\r\n0\r\n\r\n".to_owned(), Nonsense::Chunk),
            ("5\r\nhello\n0\r\n\r\n".to_owned(), Nonsense::Chunk),
            ("10000000000000000\r\n".to_owned(), Nonsense::Chunk),
            (format!("5;{}\r\nhello\r\n0\r\n\r\n", long(LINE_LIMIT)), Nonsense::Chunk),
            ("0\r\nA: b\n\r\n".to_owned(), Nonsense::Chunk),
            (format!("0\r\nA: {}\r\n\r\n", long(TRAILER_LIMIT)), Nonsense::TooLarge),
            (format!("0\r\n{}\r\n", "A: b\r\n".repeat(TRAILER_LIMIT / 6 + 1)), Nonsense::TooLarge),
        ] {
            for step in [1, 1000] {
                assert_eq!(decode(&text, step), Err(expected), "{} by {step}", &text[..text.len().min(40)]);
            }
        }
    }
}

//! Request bodies in chunks, looked at before the parser does.
//!
//! Where a body in chunks ends is as much a matter of reading as where a header does, and Pingora's reader is lenient: no
//! size is 0 to it, and a line may end within an extension. So every byte of such a body passes here first, and what is
//! not strictly as RFC 9112 has it fails the read. Once the body has ended, nothing is looked at: what follows is another
//! request.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::head::{Refusal, is_token_byte};

/// Digits of a size: no chunk is larger than anybody can count.
const DIGITS: u8 = 15;

/// Longest extension of a chunk, which nobody reads.
const EXTENSION_LIMIT: u16 = 256;

/// All trailers together, which nobody reads either.
const TRAILER_LIMIT: u16 = 8 * 1024;

/// What is not as RFC 9112 has it: the client's fault, and no accident of the connection.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("malformed chunk")]
pub(crate) struct MalformedChunk;

/// The body that a connection carries just now. Shared by who knows what it carries and who reads it.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    active: AtomicBool,
    scanner: Mutex<Scanner>,
}

impl Chunks {
    /// A body in chunks begins, of which this has come with the header.
    pub(crate) fn begin(&self, received: &[u8]) -> Result<(), Refusal> {
        let mut scanner = Scanner::default();
        let ended = scanner.scan(received).ok_or(Refusal::Malformed)?;
        *self.scanner.lock() = scanner;
        self.active.store(!ended, Ordering::Release);
        Ok(())
    }

    /// What has just been read.
    pub(crate) fn see(&self, bytes: &[u8]) -> io::Result<()> {
        if !self.active.load(Ordering::Acquire) {
            return Ok(());
        }
        match self.scanner.lock().scan(bytes) {
            Some(ended) => {
                self.active.store(!ended, Ordering::Release);
                Ok(())
            }
            None => Err(io::Error::new(io::ErrorKind::InvalidData, MalformedChunk)),
        }
    }
}

/// Where in a body the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Size { digits: u8, value: u64 },
    Extension { length: u16, value: u64 },
    SizeEnd { value: u64 },
    Data { left: u64 },
    DataEnd,
    DataEndFeed,
    Line,
    Name,
    Value,
    LineEnd,
    LastEnd,
    Ended,
}

/// Follows a body. Pure.
#[derive(Debug)]
struct Scanner {
    place: Place,
    trailers: u16,
}

impl Default for Scanner {
    fn default() -> Scanner {
        Scanner { place: Place::Size { digits: 0, value: 0 }, trailers: 0 }
    }
}

impl Scanner {
    /// Whether the body has ended; `None`: it is not one.
    fn scan(&mut self, mut bytes: &[u8]) -> Option<bool> {
        while let Some((byte, rest)) = bytes.split_first() {
            if let Place::Data { left } = self.place {
                // Most bytes are data: they are passed over at once.
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                bytes = &bytes[count..];
                self.place = match left - count as u64 {
                    0 => Place::DataEnd,
                    left => Place::Data { left },
                };
                continue;
            }
            self.place = match self.place {
                Place::Ended => return Some(true),
                place => self.step(place, *byte)?,
            };
            bytes = rest;
        }
        Some(self.place == Place::Ended)
    }

    fn step(&mut self, place: Place, byte: u8) -> Option<Place> {
        if matches!(place, Place::Line | Place::Name | Place::Value) {
            self.trailers += 1;
            if self.trailers > TRAILER_LIMIT {
                return None;
            }
        }
        Some(match (place, byte) {
            (Place::Size { digits, value }, byte) if byte.is_ascii_hexdigit() && digits < DIGITS => {
                let digit = char::from(byte).to_digit(16)?;
                Place::Size { digits: digits + 1, value: value * 16 + u64::from(digit) }
            }
            (Place::Size { digits: 1.., value }, b';') => Place::Extension { length: 0, value },
            (Place::Size { digits: 1.., value } | Place::Extension { value, .. }, b'\r') => Place::SizeEnd { value },
            (Place::Extension { length, value }, byte) if is_text(byte) && length < EXTENSION_LIMIT => {
                Place::Extension { length: length + 1, value }
            }
            (Place::SizeEnd { value: 0 }, b'\n') => Place::Line,
            (Place::SizeEnd { value }, b'\n') => Place::Data { left: value },
            (Place::DataEnd, b'\r') => Place::DataEndFeed,
            (Place::DataEndFeed, b'\n') => Place::Size { digits: 0, value: 0 },
            (Place::Line, b'\r') => Place::LastEnd,
            (Place::Line | Place::Name, byte) if is_token_byte(byte) => Place::Name,
            (Place::Name, b':') => Place::Value,
            (Place::Value, b'\r') => Place::LineEnd,
            (Place::Value, byte) if is_text(byte) => Place::Value,
            (Place::LineEnd, b'\n') => Place::Line,
            (Place::LastEnd, b'\n') => Place::Ended,
            _ => return None,
        })
    }
}

/// What may stand in a value.
fn is_text(byte: u8) -> bool {
    !byte.is_ascii_control() || byte == b'\t'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_what_they_should_be() {
        let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(257));
        let trailers = format!("0\r\nX: {}\r\n\r\n", "x".repeat(9000));
        for (body, expected) in [
            ("0\r\n\r\n", Some(true)),
            ("0\r\n\r\nGET / HTTP/1.1\n\n", Some(true)),
            ("5\r\nhello\r\n0\r\n\r\n", Some(true)),
            ("00000a\r\n0123456789\r\n000\r\n\r\n", Some(true)),
            ("A;name=value; other=\"x\"\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n", None),
            ("2;name=value; other=\"x\"\r\n\r\n\r\n0\r\n\r\n", Some(true)),
            ("0\r\nX: y\r\nZ:\r\n\r\n", Some(true)),
            ("", Some(false)),
            ("5", Some(false)),
            ("5\r\nhel", Some(false)),
            ("0\r\n", Some(false)),
            ("0\r\nX", Some(false)),
            ("fffffffffffffff\r\n", Some(false)),
            ("1000000000000000\r\n", None),
            ("\r\na", None),
            (";a\r\n", None),
            (" 1\r\n", None),
            ("1 \r\n", None),
            ("0x1\r\n", None),
            ("-1\r\n", None),
            ("+1\r\n", None),
            ("1\na\n", None),
            ("1\r\r\n", None),
            ("1\r\nab\r\n", None),
            ("1\r\na0\r\n", None),
            ("1\r\na\n0\r\n\r\n", None),
            ("2;\nxx\r\n", None),
            ("2;\rxx\r\n", None),
            ("2;\0\r\n", None),
            ("0\r\n X: y\r\n\r\n", None),
            ("0\r\nX : y\r\n\r\n", None),
            ("0\r\nX\r\n\r\n", None),
            ("0\r\nX: y\n\r\n", None),
            ("0\r\n\n", None),
            (&long, None),
            (&trailers, None),
        ] {
            assert_eq!(Scanner::default().scan(body.as_bytes()), expected, "{body:?}");
            let mut scanner = Scanner::default();
            let mut last = Some(false);
            for piece in body.as_bytes().chunks(1) {
                if last == Some(false) {
                    last = scanner.scan(piece);
                }
            }
            assert_eq!(last, expected, "{body:?} in pieces");
        }
    }

    #[test]
    fn only_what_belongs_to_the_body_is_looked_at() {
        let chunks = Chunks::default();
        assert!(chunks.see(b"no chunk").is_ok());
        chunks.begin(b"5\r\nhel").unwrap();
        assert!(chunks.see(b"lo\r\n0\r\n").is_ok());
        assert!(chunks.see(b"\r\nGET / HTTP/1.1\r\n").is_ok());
        assert!(chunks.see(b"no chunk").is_ok());
        assert_eq!(chunks.begin(b"x"), Err(Refusal::Malformed));
        chunks.begin(b"").unwrap();
        assert!(chunks.see(b"\r\n").is_err());
    }
}

//! HTTP/2 as the lean client needs it: one stream after the other, windows as large as they can be, each answer a success
//! of a known length. Pure. The frames are RFC 9113's.

use std::net::SocketAddr;

use crate::lean::Conversation;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const INITIAL_WINDOW_SIZE: u16 = 4;
const LARGEST_WINDOW: u32 = (1 << 31) - 1;
/// The window of a connection before it is enlarged.
const FIRST_WINDOW: u32 = 65_535;
/// After so many bytes the window of the connection is filled up.
const FILL_UP: u32 = 1 << 30;
/// The longest frame that is not a body, which is kept while it comes.
const LONGEST: usize = 16 << 10;

/// Downloads of one path.
pub(crate) struct Downloads {
    request: Vec<u8>,
    size: u64,
    /// Answers that have not ended.
    left: usize,
    stream: u32,
    /// Bytes of the body of the running answer so far.
    received: u64,
    /// Bytes of bodies since the window was last filled up.
    consumed: u32,
    /// What has come of a frame's header, or of a frame that is not a body.
    frame: Vec<u8>,
    /// Bytes still to come of a DATA frame, and whether it ends its stream.
    data: Option<(usize, bool)>,
}

impl Downloads {
    /// The preface and the first request are added to `first`.
    pub(crate) fn begin(host: SocketAddr, path: &str, times: usize, size: u64, first: &mut Vec<u8>) -> Downloads {
        // :method GET and :scheme https are in the static table; path and authority are literals that nobody indexes.
        let mut request = vec![0x82, 0x87];
        literal(&mut request, 4, path);
        literal(&mut request, 1, &host.to_string());
        first.extend_from_slice(PREFACE);
        let mut window = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
        window.extend_from_slice(&LARGEST_WINDOW.to_be_bytes());
        push(first, SETTINGS, 0, 0, &window);
        push(first, WINDOW_UPDATE, 0, 0, &(LARGEST_WINDOW - FIRST_WINDOW).to_be_bytes());
        let (stream, received, consumed) = (1, 0, 0);
        push(first, HEADERS, END_STREAM | END_HEADERS, stream, &request);
        Downloads { request, size, left: times, stream, received, consumed, frame: Vec::new(), data: None }
    }

    /// Takes what has come of the running DATA frame.
    fn take_data(&mut self, bytes: &[u8], left: usize, last: bool, answer: &mut Vec<u8>) -> usize {
        let taken = left.min(bytes.len());
        self.received += taken as u64;
        self.consumed += u32::try_from(taken).unwrap_or(u32::MAX);
        self.data = (taken < left).then_some((left - taken, last));
        if self.consumed >= FILL_UP {
            push(answer, WINDOW_UPDATE, 0, 0, &self.consumed.to_be_bytes());
            self.consumed = 0;
        }
        if self.data.is_none() && last {
            self.end(answer);
        }
        taken
    }

    fn end(&mut self, answer: &mut Vec<u8>) {
        assert_eq!(self.received, self.size, "length of a body");
        self.received = 0;
        self.left -= 1;
        if self.left > 0 {
            self.stream += 2;
            push(answer, HEADERS, END_STREAM | END_HEADERS, self.stream, &self.request);
        }
    }

    /// Reacts to a whole frame that is not DATA.
    fn react(&mut self, answer: &mut Vec<u8>) {
        let frame = std::mem::take(&mut self.frame);
        let (kind, flags, payload) = (frame[3], frame[4], &frame[9..]);
        match kind {
            SETTINGS if flags & ACK == 0 => push(answer, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => push(answer, PING, ACK, 0, payload),
            HEADERS => {
                assert_eq!(flags & (PADDED | END_STREAM | END_HEADERS), END_HEADERS, "flags of a header");
                // A change of the table's size may come first; `:status 200` is number 8 of the static table.
                let status = payload.iter().find(|byte| **byte & 0xe0 != 0x20);
                assert_eq!(status, Some(&0x88), "an answer that is no success");
            }
            SETTINGS | PING | WINDOW_UPDATE => {}
            other => panic!("an unexpected frame, of type {other}: {payload:?}"),
        }
    }
}

impl Conversation for Downloads {
    fn receive(&mut self, mut bytes: &[u8], answer: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if let Some((left, last)) = self.data {
                let taken = self.take_data(bytes, left, last, answer);
                bytes = &bytes[taken..];
                continue;
            }
            let wanted = if self.frame.len() < 9 { 9 } else { 9 + length(&self.frame) };
            let taken = (wanted - self.frame.len()).min(bytes.len());
            self.frame.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.frame.len() < 9 {
                continue;
            }
            let length = length(&self.frame);
            if self.frame[3] == DATA {
                let (flags, stream) = (self.frame[4], stream(&self.frame));
                assert_eq!(flags & PADDED, 0, "a padded body");
                assert_eq!(stream, self.stream, "another stream");
                self.frame.clear();
                self.take_data(&[], length, flags & END_STREAM != 0, answer);
            } else if self.frame.len() == 9 + length {
                self.react(answer);
            }
            assert!(self.frame.len() < LONGEST, "a frame that is too long");
        }
    }

    fn is_over(&self) -> bool {
        self.left == 0
    }
}

fn length(frame: &[u8]) -> usize {
    usize::from(frame[0]) << 16 | usize::from(frame[1]) << 8 | usize::from(frame[2])
}

fn stream(frame: &[u8]) -> u32 {
    u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]) & LARGEST_WINDOW
}

fn push(to: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    to.extend_from_slice(&length[1..]);
    to.extend_from_slice(&[kind, flags]);
    to.extend_from_slice(&stream.to_be_bytes());
    to.extend_from_slice(payload);
}

/// A header of the static table's name with a value of its own, neither indexed nor compressed.
fn literal(to: &mut Vec<u8>, name: u8, value: &str) {
    let length = u8::try_from(value.len()).ok().filter(|length| *length < 254).expect("a short value");
    // Lengths from 127 on are continued in a second byte.
    match length.checked_sub(127) {
        None => to.extend_from_slice(&[name, length]),
        Some(rest) => to.extend_from_slice(&[name, 127, rest]),
    }
    to.extend_from_slice(value.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::{ACK, Conversation, DATA, Downloads, END_HEADERS, END_STREAM, HEADERS, PING, SETTINGS, literal, push};

    fn begin(times: usize) -> Downloads {
        Downloads::begin(([127, 0, 0, 1], 1).into(), "/x", times, 5, &mut Vec::new())
    }

    fn answer(stream: u32, status: &[u8], bodies: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        push(&mut bytes, HEADERS, END_HEADERS, stream, status);
        for body in bodies {
            push(&mut bytes, DATA, 0, stream, body);
        }
        push(&mut bytes, DATA, END_STREAM, stream, &[]);
        bytes
    }

    #[test]
    fn answers_are_counted_however_they_are_cut() {
        let mut bytes = Vec::new();
        push(&mut bytes, SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]);
        bytes.extend(answer(1, &[0x20, 0x88, 0x61], &[b"abc", b"de"]));
        push(&mut bytes, PING, 0, 0, b"12345678");
        bytes.extend(answer(3, &[0x88], &[b"abcde"]));
        for size in [1, 2, 5, 9, 11, 500] {
            let (mut downloads, mut said) = (begin(2), Vec::new());
            for piece in bytes.chunks(size) {
                assert!(!downloads.is_over());
                downloads.receive(piece, &mut said);
            }
            assert!(downloads.is_over(), "{size}");
            let mut expected = Vec::new();
            push(&mut expected, SETTINGS, ACK, 0, &[]);
            push(&mut expected, HEADERS, END_STREAM | END_HEADERS, 3, &downloads.request);
            push(&mut expected, PING, ACK, 0, b"12345678");
            assert_eq!(said, expected, "{size}");
        }
    }

    #[test]
    fn what_is_no_whole_success_is_refused() {
        let mut goaway = Vec::new();
        push(&mut goaway, 7, 0, 0, &[0; 8]);
        for bytes in [
            answer(1, &[0x8d], &[b"abcde"]),
            answer(1, &[0x88], &[b"abcd"]),
            answer(1, &[0x88], &[b"abcdef"]),
            answer(3, &[0x88], &[b"abcde"]),
            goaway,
        ] {
            let mut downloads = begin(1);
            let receive = || downloads.receive(&bytes, &mut Vec::new());
            assert!(catch_unwind(AssertUnwindSafe(receive)).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn long_values_have_a_second_byte_of_length() {
        for (length, expected) in [(5, &[4, 5][..]), (126, &[4, 126]), (127, &[4, 127, 0]), (200, &[4, 127, 73])] {
            let mut bytes = Vec::new();
            literal(&mut bytes, 4, &"x".repeat(length));
            assert_eq!(&bytes[..expected.len()], expected);
            assert_eq!(bytes.len(), expected.len() + length);
        }
    }
}

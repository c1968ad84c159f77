//! HTTP/1.1 as the lean client needs it: one request after the other, each answer a success of a known length. Pure.

use std::net::SocketAddr;

use crate::discard::content_length;
use crate::lean::Conversation;

/// Longest response header.
const HEADER: usize = 16 << 10;

/// Downloads of one path.
pub(crate) struct Downloads {
    request: Vec<u8>,
    size: u64,
    /// Answers that have not ended.
    left: usize,
    /// What has come of a header.
    header: Vec<u8>,
    /// Bytes of the body still to come; `None` within a header.
    body: Option<u64>,
}

impl Downloads {
    /// The first request is added to `first`.
    pub(crate) fn begin(host: SocketAddr, path: &str, times: usize, size: u64, first: &mut Vec<u8>) -> Downloads {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n\r\n").into_bytes();
        first.extend_from_slice(&request);
        Downloads { request, size, left: times, header: Vec::new(), body: None }
    }
}

impl Conversation for Downloads {
    fn receive(&mut self, mut bytes: &[u8], answer: &mut Vec<u8>) {
        while !bytes.is_empty() {
            assert_ne!(self.left, 0, "more than was asked for");
            let Some(body) = &mut self.body else {
                let before = self.header.len();
                self.header.extend_from_slice(bytes);
                let Some(end) = self.header.windows(4).position(|window| window == b"\r\n\r\n") else {
                    assert!(self.header.len() < HEADER, "an endless header");
                    return;
                };
                self.header.truncate(end + 4);
                bytes = &bytes[end + 4 - before..];
                let length = content_length(&self.header);
                assert_eq!(length, Some(self.size), "{}", String::from_utf8_lossy(&self.header));
                self.header.clear();
                self.body = Some(self.size);
                continue;
            };
            let taken = usize::try_from(*body).unwrap_or(usize::MAX).min(bytes.len());
            *body -= taken as u64;
            bytes = &bytes[taken..];
            if *body == 0 {
                self.body = None;
                self.left -= 1;
                if self.left > 0 {
                    answer.extend_from_slice(&self.request);
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::{Conversation, Downloads};

    fn begin(times: usize) -> (Downloads, Vec<u8>) {
        let mut first = Vec::new();
        let downloads = Downloads::begin(([127, 0, 0, 1], 1).into(), "/x", times, 5, &mut first);
        (downloads, first)
    }

    #[test]
    fn answers_are_counted_however_they_are_cut() {
        let answers =
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcdeHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfghij";
        for size in [1, 2, 3, 7, 40, 200] {
            let (mut downloads, first) = begin(2);
            assert!(first.starts_with(b"GET /x HTTP/1.1\r\n"));
            let mut asked = Vec::new();
            for piece in answers.chunks(size) {
                assert!(!downloads.is_over());
                downloads.receive(piece, &mut asked);
            }
            assert!(downloads.is_over());
            assert_eq!(asked, first, "one more request");
        }
    }

    #[test]
    fn what_is_no_whole_success_is_refused() {
        for answer in [
            "HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nabcde",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcdefgh",
        ] {
            let (mut downloads, _) = begin(1);
            let receive = || downloads.receive(answer.as_bytes(), &mut Vec::new());
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(receive)).is_err(), "{answer}");
        }
    }
}

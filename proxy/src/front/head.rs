//! Where a request's header ends, and which headers are refused whatever they ask for. Pure.
//!
//! Two readers of one connection who disagree on where a request ends are how requests are smuggled. So whatever can
//! be read in two ways is refused here, before the parser has a chance to be lenient: bare line feeds, a length beside
//! a transfer coding, several lengths, a request without a host.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Version};

/// Why a request is answered before anybody looks at what it asks for. The connection is closed after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not HTTP, or HTTP that can be read in two ways.
    Malformed,
    /// The header did not end in time.
    Timeout,
    /// The header is larger than the listener allows.
    TooLarge,
    /// A transfer coding that nobody here knows.
    Coding,
}

impl Refusal {
    /// As operators see it.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Refusal::Malformed => "malformed",
            Refusal::Timeout => "timeout",
            Refusal::TooLarge => "too_large",
            Refusal::Coding => "coding",
        }
    }

    /// The whole answer.
    pub(crate) fn response(self) -> &'static [u8] {
        match self {
            Refusal::Malformed => b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            Refusal::Timeout => b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            Refusal::TooLarge => {
                b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            }
            Refusal::Coding => b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        }
    }
}

/// Looks for the end of a header in bytes that grow. Sees every byte once.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    seen: usize,
    line: usize,
}

impl Scanner {
    /// The length of the header, its last empty line included, or `None` when it has not ended yet. `bytes` is what
    /// it was the last time, and more.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        let fresh = bytes.get(self.seen..).unwrap_or_default();
        for feed in memchr::memchr_iter(b'\n', fresh).map(|at| self.seen + at) {
            if feed == 0 || bytes[feed - 1] != b'\r' {
                return Err(Refusal::Malformed);
            }
            if feed == self.line + 1 {
                return Ok(Some(feed + 1));
            }
            self.line = feed + 1;
        }
        self.seen = bytes.len();
        Ok(None)
    }
}

/// Whether it is clear where this request ends and whom it is for. `raw` is the header as received: the parser drops
/// the length beside a transfer coding.
pub(crate) fn check(version: Version, headers: &HeaderMap, raw: &[u8]) -> Result<(), Refusal> {
    if version >= Version::HTTP_11 && !headers.contains_key(HOST) {
        return Err(Refusal::Malformed);
    }
    if let Some(coding) = headers.get(TRANSFER_ENCODING) {
        if names_length(raw) || headers.get_all(TRANSFER_ENCODING).iter().nth(1).is_some() {
            return Err(Refusal::Malformed);
        }
        if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::Coding);
        }
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next()
        && (lengths.next().is_some() || !length.as_bytes().iter().all(u8::is_ascii_digit))
    {
        return Err(Refusal::Malformed);
    }
    Ok(())
}

/// Whether a line of the header starts with `Content-Length`.
fn names_length(raw: &[u8]) -> bool {
    const NAME: &[u8] = b"content-length";
    raw.split(|byte| *byte == b'\n')
        .any(|line| line.len() >= NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn finds_the_end_of_a_header() {
        for (bytes, expected) in [
            ("", Ok(None)),
            ("GET / HTTP/1.1\r\nHost: a\r\n", Ok(None)),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r", Ok(None)),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(Some(27))),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\nrest\n", Ok(Some(27))),
            ("GET / HTTP/1.1\nHost: a\n\n", Err(Refusal::Malformed)),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", Err(Refusal::Malformed)),
            ("\n", Err(Refusal::Malformed)),
        ] {
            assert_eq!(Scanner::default().scan(bytes.as_bytes()), expected, "{bytes:?}");
        }
    }

    #[test]
    fn finds_the_end_wherever_the_bytes_were_cut() {
        let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        for cut in 0..27 {
            let mut scanner = Scanner::default();
            assert_eq!(scanner.scan(&bytes[..cut]), Ok(None), "{cut}");
            assert_eq!(scanner.scan(bytes), Ok(Some(27)), "{cut}");
        }
    }

    #[test]
    fn refuses_what_can_be_read_in_two_ways() {
        type Case<'a> = (Version, &'a [(&'a str, &'a str)], Result<(), Refusal>);
        let cases: [Case<'_>; 12] = [
            (Version::HTTP_11, &[("host", "a")], Ok(())),
            (Version::HTTP_11, &[], Err(Refusal::Malformed)),
            (Version::HTTP_10, &[], Ok(())),
            (Version::HTTP_11, &[("host", "a"), ("content-length", "5")], Ok(())),
            (Version::HTTP_11, &[("host", "a"), ("content-length", "5, 5")], Err(Refusal::Malformed)),
            (Version::HTTP_11, &[("host", "a"), ("content-length", "+5")], Err(Refusal::Malformed)),
            (
                Version::HTTP_11,
                &[("host", "a"), ("content-length", "5"), ("content-length", "5")],
                Err(Refusal::Malformed),
            ),
            (Version::HTTP_11, &[("host", "a"), ("transfer-encoding", "chunked")], Ok(())),
            (Version::HTTP_11, &[("host", "a"), ("transfer-encoding", "Chunked")], Ok(())),
            (Version::HTTP_11, &[("host", "a"), ("transfer-encoding", "gzip, chunked")], Err(Refusal::Coding)),
            (Version::HTTP_11, &[("host", "a"), ("transfer-encoding", "identity")], Err(Refusal::Coding)),
            (
                Version::HTTP_11,
                &[("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
                Err(Refusal::Malformed),
            ),
        ];
        for (version, lines, expected) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_bytes(value.as_bytes()).unwrap(),
                );
            }
            assert_eq!(check(version, &headers, b""), expected, "{lines:?}");
        }
    }

    #[test]
    fn refuses_a_length_beside_a_coding_even_when_the_parser_dropped_it() {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("a"));
        headers.insert("transfer-encoding", HeaderValue::from_static("chunked"));
        let raw = b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\ncontent-LENGTH: 5\r\n\r\n";
        assert_eq!(check(Version::HTTP_11, &headers, raw), Err(Refusal::Malformed));
    }
}

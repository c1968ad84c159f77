//! The header of a server's answer, and where its body ends. Pure.
//!
//! Invariant: whatever can be read in two ways is refused. Two readers of one connection who disagree on where an answer
//! ends let one client's answer become another's. So a length beside a coding, two lengths, a coding other than
//! `chunked`, folded lines and spaces before colons make an answer nonsense (RFC 9112, sections 2.2, 5 and 6.3).

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

/// Largest header of an answer.
pub(super) const HEADER_LIMIT: usize = 64 * 1024;
/// Most lines in it.
const LINES: usize = 128;

/// What a server answered: everything but the body.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: StatusCode,
    /// Its header, as sent.
    pub(crate) headers: HeaderMap,
    /// Where its body ends.
    pub(crate) framing: Framing,
    /// Whether the connection can be used again after it.
    pub(crate) reusable: bool,
}

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    Empty,
    /// After so many bytes.
    Length(u64),
    /// With the last chunk.
    Chunks,
    /// With the connection.
    Close,
}

/// Why an answer is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Nonsense {
    /// Not HTTP/1.
    #[error("not an HTTP/1 answer")]
    Header,
    /// A header that goes on and on.
    #[error("header is too large")]
    TooLarge,
    /// Two ways to tell where the body ends, or none that is known.
    #[error("the length of the body is ambiguous")]
    Framing,
    /// Not a chunk where one must be.
    #[error("malformed chunk")]
    Chunk,
}

impl Answer {
    /// Takes the header off the beginning of what was received; `None`: it is not all here yet.
    pub(super) fn take(received: &mut BytesMut, method: &Method) -> Result<Option<Answer>, Nonsense> {
        let mut lines = [const { MaybeUninit::uninit() }; LINES];
        let mut parsed = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        let length = match parser.parse_response_with_uninit_headers(&mut parsed, received, &mut lines) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if received.len() <= HEADER_LIMIT => return Ok(None),
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Err(Nonsense::TooLarge),
            Err(_) => return Err(Nonsense::Header),
        };
        if length > HEADER_LIMIT {
            return Err(Nonsense::TooLarge);
        }
        let code = parsed.code.unwrap_or_default();
        let status = StatusCode::from_u16(code).map_err(|_| Nonsense::Header)?;
        if code >= 600 {
            return Err(Nonsense::Header);
        }
        let persistent = parsed.version == Some(1);
        // Where each value lies, so that the values can share the memory they were received in.
        let start = received.as_ptr() as usize;
        let mut headers = HeaderMap::with_capacity(parsed.headers.len());
        let mut fields = Vec::with_capacity(parsed.headers.len());
        for line in parsed.headers.iter() {
            let begin = line.value.as_ptr() as usize - start;
            let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| Nonsense::Header)?;
            fields.push((name, begin, begin + line.value.len()));
        }
        let whole: Bytes = received.split_to(length).freeze();
        for (name, begin, end) in fields {
            let value = HeaderValue::from_maybe_shared(whole.slice(begin..end)).map_err(|_| Nonsense::Header)?;
            headers.append(name, value);
        }
        let framing = framing(method, status, persistent, &headers)?;
        let reusable = persistent
            && framing != Framing::Close
            && status != StatusCode::SWITCHING_PROTOCOLS
            && !has_token(&headers, &CONNECTION, "close");
        Ok(Some(Answer { status, headers, framing, reusable }))
    }
}

fn framing(method: &Method, status: StatusCode, persistent: bool, headers: &HeaderMap) -> Result<Framing, Nonsense> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next().map(|value| digits(value.as_bytes()).ok_or(Nonsense::Framing)).transpose()?;
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next();
    if lengths.next().is_some() || codings.next().is_some() || (length.is_some() && coding.is_some()) {
        return Err(Nonsense::Framing);
    }
    let chunked = match coding {
        Some(coding) if persistent && coding.as_bytes().eq_ignore_ascii_case(b"chunked") => true,
        Some(_) => return Err(Nonsense::Framing),
        None => false,
    };
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    Ok(match length {
        _ if method == Method::HEAD || status.is_informational() || bodiless => Framing::Empty,
        _ if chunked => Framing::Chunks,
        Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
        None => Framing::Close,
    })
}

/// A number that is nothing but digits.
fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Whether a header that is a list of words has this one.
pub(crate) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let words = |value: &HeaderValue| {
        value.as_bytes().split(|c| *c == b',').any(|word| word.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    };
    headers.get_all(name).iter().any(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(text: &str, method: &Method) -> Result<Option<Answer>, Nonsense> {
        Answer::take(&mut BytesMut::from(text), method)
    }

    #[test]
    fn finds_the_end_of_the_body() {
        for (method, head, framing, reusable) in [
            (Method::GET, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Framing::Length(5), true),
            (Method::GET, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Framing::Empty, true),
            (Method::GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", Framing::Chunks, true),
            (Method::GET, "HTTP/1.1 200 OK\r\n\r\n", Framing::Close, false),
            (
                Method::GET,
                "HTTP/1.1 200\r\nconnection: x, Close\r\ncontent-length: 1\r\n\r\n",
                Framing::Length(1),
                false,
            ),
            (Method::GET, "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", Framing::Length(5), false),
            (Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Framing::Empty, true),
            (Method::HEAD, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Framing::Empty, true),
            (Method::GET, "HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n", Framing::Empty, true),
            (Method::PUT, "HTTP/1.1 204 No\r\n\r\n", Framing::Empty, true),
            (Method::PUT, "HTTP/1.1 100 Continue\r\n\r\n", Framing::Empty, true),
            (Method::GET, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", Framing::Empty, false),
        ] {
            let answer = take(head, &method).unwrap().unwrap();
            assert_eq!((answer.framing, answer.reusable), (framing, reusable), "{method} {head}");
        }
    }

    #[test]
    fn refuses_what_can_be_read_in_two_ways() {
        let ok = "HTTP/1.1 200 OK\r\n";
        for (head, expected) in [
            (format!("{ok}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"), Nonsense::Framing),
            (format!("{ok}Content-Length: 5\r\nContent-Length: 5\r\n\r\n"), Nonsense::Framing),
            (format!("{ok}Content-Length: 5\r\nContent-Length: 6\r\n\r\n"), Nonsense::Framing),
            (format!("{ok}Content-Length: 5, 5\r\n\r\n"), Nonsense::Framing),
            (format!("{ok}Content-Length: +5\r\n\r\n"), Nonsense::Framing),
            (format!("{ok}Content-Length: \r\n\r\n"), Nonsense::Framing),
            (format!("{ok}Content-Length: 99999999999999999999\r\n\r\n"), Nonsense::Framing),
            (format!("{ok}Transfer-Encoding: gzip, chunked\r\n\r\n"), Nonsense::Framing),
            (format!("{ok}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"), Nonsense::Framing),
            (format!("{ok}Transfer-Encoding: identity\r\n\r\n"), Nonsense::Framing),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), Nonsense::Framing),
            (format!("{ok}Content-Length : 5\r\n\r\n"), Nonsense::Header),
            (format!("{ok}A: b\r\n c\r\n\r\n"), Nonsense::Header),
            (format!("{ok}A: b\0c\r\n\r\n"), Nonsense::Header),
            ("HTTP/2 200 OK\r\n\r\n".to_owned(), Nonsense::Header),
            ("SSH-2.0-OpenSSH\r\n".to_owned(), Nonsense::Header),
            ("HTTP/1.1 999 No\r\n\r\n".to_owned(), Nonsense::Header),
            (format!("{ok}{}\r\n", "A: b\r\n".repeat(LINES + 1)), Nonsense::TooLarge),
            (format!("{ok}A: {}", "b".repeat(HEADER_LIMIT)), Nonsense::TooLarge),
        ] {
            assert_eq!(take(&head, &Method::GET).unwrap_err(), expected, "{}", &head[..head.len().min(80)]);
        }
    }

    #[test]
    fn takes_the_header_and_leaves_the_body() {
        let mut received = BytesMut::from("HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 5\r\n");
        assert!(Answer::take(&mut received, &Method::GET).unwrap().is_none());
        received.extend_from_slice(b"\r\nhello");
        let answer = Answer::take(&mut received, &Method::GET).unwrap().unwrap();
        assert_eq!((answer.headers["a"].as_bytes(), &received[..]), (&b"b"[..], &b"hello"[..]));
    }
}

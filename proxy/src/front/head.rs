//! Where a request's header ends, and which headers are refused whatever they ask for. Pure.
//!
//! Two readers of one connection who disagree on where a request ends are how requests are smuggled. So whatever can
//! be read in two ways is refused here, before the parser has a chance to be lenient: bare line feeds, folded lines,
//! control characters, spaces before colons, a length beside a transfer coding, several lengths, several hosts or none.

use std::net::Ipv6Addr;

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

/// What of a header says where its request ends and whom it is for.
#[derive(Default)]
struct Framing<'a> {
    hosts: usize,
    length: Option<&'a [u8]>,
    coding: Option<&'a [u8]>,
}

/// Refuses a header that not everybody reads in the same way; whether a body in chunks follows. `raw` is a whole one, as
/// [`Scanner`] finds it. It is looked at before the parser, which mends what is not right: it escapes a target, folds lines, drops the length beside a coding.
pub(crate) fn examine(raw: &[u8]) -> Result<bool, Refusal> {
    let mut lines = raw.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let minor = start_line(lines.next().unwrap_or_default()).ok_or(Refusal::Malformed)?;
    let mut framing = Framing::default();
    for line in lines.take_while(|line| !line.is_empty()) {
        field(line, &mut framing).ok_or(Refusal::Malformed)?;
    }
    if framing.hosts > 1 || (minor == 1 && framing.hosts == 0) {
        return Err(Refusal::Malformed);
    }
    match (framing.length, framing.coding) {
        (None, None) => Ok(false),
        (Some(length), None) if is_length(length) => Ok(false),
        (None, Some(coding)) if minor == 1 && coding.eq_ignore_ascii_case(b"chunked") => Ok(true),
        (None, Some(_)) if minor == 1 => Err(Refusal::Coding),
        _ => Err(Refusal::Malformed),
    }
}

/// The minor version of HTTP/1, if the line is a method, a target and a version with one space between each.
fn start_line(line: &[u8]) -> Option<u8> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (method, target, version) = (parts.next()?, parts.next()?, parts.next()?);
    let known =
        target.starts_with(b"/") || (target == b"*" && method == b"OPTIONS") || absolute(method, target).is_some();
    if parts.next().is_some() || !is_token(method) || !known || !target.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    match version {
        b"HTTP/1.1" => Some(1),
        b"HTTP/1.0" => Some(0),
        _ => None,
    }
}

/// The authority of a target in absolute form (RFC 9112, 3.2.2), and what stands for it where only the path is written.
fn absolute<'a>(method: &[u8], target: &'a [u8]) -> Option<(&'a [u8], Vec<u8>)> {
    let scheme = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme)))?;
    let rest = &target[scheme.len()..];
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let path = match path.first() {
        Some(b'/') => path.to_vec(),
        None if method == b"OPTIONS" => b"*".to_vec(),
        _ => [b"/", path].concat(),
    };
    is_authority(authority).then_some((authority, path))
}

/// A host, perhaps with a port, and nothing that somebody could take for a user or an escape.
fn is_authority(text: &[u8]) -> bool {
    let Some(text) = std::str::from_utf8(text).ok() else { return false };
    let (host_is_one, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((address, port)) => (address.parse::<Ipv6Addr>().is_ok(), port),
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            (!host.is_empty() && host.bytes().all(plain), port)
        }
    };
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    host_is_one && (port.is_empty() || port.strip_prefix(':').is_some_and(digits))
}

/// A header whose target is in absolute form, as one that says the same by a path and a `Host`; `None`: it is in order as
/// it is. The target's authority takes the place of any `Host` (RFC 9112, 3.2.2). `raw` is one that was examined.
pub(crate) fn in_origin_form(raw: &[u8]) -> Option<Vec<u8>> {
    let method_end = memchr::memchr(b' ', raw)?;
    if matches!(raw.get(method_end + 1)?, b'/' | b'*') {
        return None;
    }
    let line_end = memchr::memchr(b'\n', raw)?;
    let (start, lines) = raw.split_at(line_end + 1);
    let mut parts = start.split(|byte| *byte == b' ');
    let (method, target, version) = (parts.next()?, parts.next()?, parts.next()?);
    let (authority, path) = absolute(method, target)?;
    let mut head = [method, b" ", &path, b" ", version, b"Host: ", authority, b"\r\n"].concat();
    let is_host = |line: &&[u8]| line.get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"host:"));
    lines.split_inclusive(|byte| *byte == b'\n').filter(|line| !is_host(line)).for_each(|line| head.extend(line));
    Some(head)
}

/// One line: a name, a colon right after it, and a value without control characters.
fn field<'a>(line: &'a [u8], framing: &mut Framing<'a>) -> Option<()> {
    let (name, value) = line.split_at(memchr::memchr(b':', line)?);
    let value = value[1..].trim_ascii();
    if !is_token(name) || value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return None;
    }
    let once = |slot: &mut Option<&'a [u8]>| slot.replace(value).is_none().then_some(());
    match name.len() {
        4 if name.eq_ignore_ascii_case(b"host") => {
            framing.hosts += 1;
            if !value.iter().all(|byte| is_host_byte(*byte)) {
                return None;
            }
        }
        14 if name.eq_ignore_ascii_case(b"content-length") => once(&mut framing.length)?,
        17 if name.eq_ignore_ascii_case(b"transfer-encoding") => once(&mut framing.coding)?,
        _ => {}
    }
    Some(())
}

/// Digits, and few enough that everybody can count that far.
fn is_length(value: &[u8]) -> bool {
    (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit)
}

/// What a host, with its port, may consist of: whatever ends it for any reader of URLs, or makes two of it, may not.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\"#,/<>?@\\^`{|}".contains(&byte)
}

/// A token of RFC 9110, 5.6.2.
fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_token_byte(*byte))
}

/// What a token may consist of.
pub(crate) fn is_token_byte(byte: u8) -> bool {
    const fn table() -> [bool; 256] {
        let mut table = [false; 256];
        let mut byte = 0_u8;
        while byte < 128 {
            table[byte as usize] = byte.is_ascii_alphanumeric();
            byte += 1;
        }
        let others = b"!#$%&'*+-.^_`|~";
        let mut at = 0;
        while at < others.len() {
            table[others[at] as usize] = true;
            at += 1;
        }
        table
    }
    const TOKEN: [bool; 256] = table();
    TOKEN[usize::from(byte)]
}

#[cfg(test)]
mod tests {
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
        let (fine, malformed, coding) = (Ok(false), Err(Refusal::Malformed), Err(Refusal::Coding));
        for (start, expected) in [
            ("GET / HTTP/1.1", fine),
            ("GET / HTTP/1.0", fine),
            ("M-SEARCH /?a=b#c HTTP/1.1", fine),
            ("OPTIONS * HTTP/1.1", fine),
            ("GET http://a/ HTTP/1.1", fine),
            ("GET HTTPS://a-1.example:8443?x HTTP/1.1", fine),
            ("GET http://[2001:db8::1]:80/x HTTP/1.1", fine),
            ("OPTIONS http://a HTTP/1.1", fine),
            ("GET http:///x HTTP/1.1", malformed),
            ("GET http://u@a/x HTTP/1.1", malformed),
            ("GET http://u:p@a/x HTTP/1.1", malformed),
            ("GET http://a:/x HTTP/1.1", malformed),
            ("GET http://a:99999/x HTTP/1.1", malformed),
            ("GET http://a:8a/x HTTP/1.1", malformed),
            ("GET http://a:+8/x HTTP/1.1", malformed),
            ("GET http://a%2f/x HTTP/1.1", malformed),
            ("GET http://a\\b/x HTTP/1.1", malformed),
            ("GET http://[a]/x HTTP/1.1", malformed),
            ("GET http://[::1]x/x HTTP/1.1", malformed),
            ("GET http:a/x HTTP/1.1", malformed),
            ("GET ftp://a/x HTTP/1.1", malformed),
            ("GET x:http://a/x HTTP/1.1", malformed),
            ("GET * HTTP/1.1", malformed),
            ("GET a HTTP/1.1", malformed),
            ("CONNECT a:443 HTTP/1.1", malformed),
            ("GET / HTTP/1.2", malformed),
            ("GET / HTTP/2.0", malformed),
            ("GET / http/1.1", malformed),
            ("GET /", malformed),
            ("GET  / HTTP/1.1", malformed),
            ("GET / HTTP/1.1 ", malformed),
            ("GET / x HTTP/1.1", malformed),
            (" GET / HTTP/1.1", malformed),
            ("GET\t/ HTTP/1.1", malformed),
            ("G(T / HTTP/1.1", malformed),
            ("GET /\0 HTTP/1.1", malformed),
            ("GET /\u{fc} HTTP/1.1", malformed),
            ("GET /a\rb HTTP/1.1", malformed),
        ] {
            let raw = format!("{start}\r\nHost: a\r\n\r\n");
            assert_eq!(examine(raw.as_bytes()), expected, "{start:?}");
        }
        for (minor, lines, expected) in [
            (1, "Host: a", fine),
            (1, "host:a", fine),
            (1, "HOST:\t a \t", fine),
            (1, "", malformed),
            (0, "", fine),
            (1, "Host: [2001:db8::1]:8443", fine),
            (1, "Host: a_b-c.example:443", fine),
            (1, "Host: a b", malformed),
            (1, "Host: a,b", malformed),
            (1, "Host: user@a", malformed),
            (1, "Host: a/b", malformed),
            (1, "Host: a?b", malformed),
            (1, "Host: a\"b", malformed),
            (1, "Host: \u{fc}", malformed),
            (1, "Host: a\r\nhost: a", malformed),
            (0, "Host: a\r\nhost: b", malformed),
            (1, "Host: a\r\nX: \u{fc}\t\u{fc}", fine),
            (1, "Host: a\r\nX:", fine),
            (1, "Host: a\r\nX : b", malformed),
            (1, "Host: a\r\n: b", malformed),
            (1, "Host: a\r\nX", malformed),
            (1, "Host: a\r\n X: b", malformed),
            (1, "Host: a\r\nX: b\r\n\tc", malformed),
            (1, "Host: a\r\nX: b\0", malformed),
            (1, "Host: a\r\nX: b\rY: c", malformed),
            (1, "Host: a\r\nX\u{fc}: b", malformed),
            (1, "Host: a\r\nContent-Length: 5", fine),
            (1, "Host: a\r\nContent-Length: 5, 5", malformed),
            (1, "Host: a\r\nContent-Length: +5", malformed),
            (1, "Host: a\r\nContent-Length: -5", malformed),
            (1, "Host: a\r\nContent-Length: 0x5", malformed),
            (1, "Host: a\r\nContent-Length:", malformed),
            (1, "Host: a\r\nContent-Length: 18446744073709551616", malformed),
            (1, "Host: a\r\nContent-Length: 5\r\ncontent-length: 5", malformed),
            (1, "Host: a\r\nTransfer-Encoding: chunked", Ok(true)),
            (1, "Host: a\r\nTransfer-Encoding: Chunked", Ok(true)),
            (1, "Host: a\r\nTransfer-Encoding: gzip, chunked", coding),
            (1, "Host: a\r\nTransfer-Encoding: identity", coding),
            (1, "Host: a\r\nTransfer-Encoding: xchunked", coding),
            (1, "Host: a\r\nTransfer-Encoding: chunked;a", coding),
            (1, "Host: a\r\nTransfer-Encoding: \u{b}chunked", malformed),
            (1, "Host: a\r\nTransfer-Encoding : chunked", malformed),
            (0, "Host: a\r\nTransfer-Encoding: chunked", malformed),
            (1, "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked", malformed),
            (1, "Host: a\r\nTransfer-Encoding: chunked\r\ncontent-LENGTH: 5", malformed),
            (1, "Host: a\r\nTransfer-Encoding: gzip\r\ncontent-LENGTH: 5", malformed),
        ] {
            let end = if lines.is_empty() { "" } else { "\r\n" };
            let raw = format!("GET / HTTP/1.{minor}\r\n{lines}{end}\r\nX: after");
            assert_eq!(examine(raw.as_bytes()), expected, "{lines:?}");
        }
    }

    #[test]
    fn an_absolute_target_says_whom_it_is_for() {
        for (raw, expected) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", None),
            (
                "GET http://b:8080/x?y=http://c/ HTTP/1.1\r\nX: 1\r\nhOsT: a\r\nHosts: c\r\n\r\n",
                Some("GET /x?y=http://c/ HTTP/1.1\r\nHost: b:8080\r\nX: 1\r\nHosts: c\r\n\r\n"),
            ),
            ("GET HTTP://b HTTP/1.0\r\n\r\n", Some("GET / HTTP/1.0\r\nHost: b\r\n\r\n")),
            ("GET https://b?x HTTP/1.0\r\n\r\n", Some("GET /?x HTTP/1.0\r\nHost: b\r\n\r\n")),
            ("OPTIONS http://b HTTP/1.0\r\n\r\n", Some("OPTIONS * HTTP/1.0\r\nHost: b\r\n\r\n")),
        ] {
            assert!(examine(raw.as_bytes()).is_ok(), "{raw:?}");
            let found = in_origin_form(raw.as_bytes()).map(|head| String::from_utf8(head).unwrap());
            assert_eq!(found.as_deref(), expected, "{raw:?}");
        }
    }
}

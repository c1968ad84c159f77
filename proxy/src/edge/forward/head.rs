//! The head of a request as its server gets it: made anew, line by line. Pure.
//!
//! Invariants: what belongs to one connection only goes no further (RFC 9110, section 7.6.1): the fields of that kind and
//! those that `Connection` names. `Connection` cannot name who asks: a client that could take `Authorization` away on its way
//! would be one caller to this edge and another to the server. How the body is framed is written from what is known of it, never copied, so both ends
//! agree on where it ends. The way of the request is told by us, whatever the client wrote.

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, Method};
use pingora_http::RequestHeader;

use crate::edge::client::{TOLD, Way, is_claim};

pub(super) const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
pub(super) const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Fields of one connection, beside those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 8] =
    [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// Room for what is added to the client's own fields.
const ADDED: usize = 512;

/// How the body goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// There is none, and nobody expects one.
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks: nobody knows how many.
    Chunks,
}

impl Body {
    /// Whether any byte of it is to come.
    pub(super) fn is_some(self) -> bool {
        !matches!(self, Body::None | Body::Length(0))
    }
}

/// What of a request goes out differently from how it came in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changes<'a> {
    /// Path and query, where they are others.
    pub(super) target: Option<&'a str>,
    /// Whether `Authorization` is not for the server.
    pub(super) without_login: bool,
    /// The body.
    pub(super) body: Body,
    /// Whether another protocol is wanted.
    pub(super) upgrade: bool,
    /// Whether the client waits for a 100 before it sends the body.
    pub(super) expects: bool,
    /// The request's name.
    pub(super) id: &'a str,
}

/// The head; `None` for a request that cannot be passed on.
pub(super) fn write(request: &RequestHeader, host: &str, way: &Way<'_>, changes: &Changes<'_>) -> Option<Bytes> {
    let headers = &request.headers;
    let size = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>();
    let mut head = Vec::with_capacity(size + request.raw_path().len() + ADDED);
    let target = match changes.target {
        Some(target) => target.as_bytes(),
        None => target(request)?,
    };
    if target.iter().any(|c| *c <= b' ' || *c == 0x7f) {
        return None;
    }
    for part in [request.method.as_str().as_bytes(), b" ", target, b" HTTP/1.1\r\n"] {
        head.extend_from_slice(part);
    }
    let mut number = itoa::Buffer::new();
    let mut line = |name: &str, value: &[u8]| {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            head.extend_from_slice(part);
        }
    };
    line("host", host.as_bytes());
    let dropped = Dropped::new(headers, way, changes);
    for (name, value) in headers {
        if !dropped.contains(name) {
            line(name.as_str(), value.as_bytes());
        }
    }
    // HTTP/2 cuts it into pieces, which HTTP/1 does not know (RFC 9113, section 8.2.3).
    let cookies: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(|value| value.as_bytes()).collect();
    if !cookies.is_empty() && !dropped.named(&COOKIE) {
        line("cookie", &cookies.join(&b"; "[..]));
    }
    line("x-forwarded-for", way.hops.as_bytes());
    line("x-forwarded-proto", way.scheme.as_bytes());
    if let Some(host) = way.host {
        line("x-forwarded-host", host.as_bytes());
    }
    line("x-forwarded-port", number.format(way.port).as_bytes());
    line("forwarded", way.forwarded.as_bytes());
    line("x-request-id", changes.id.as_bytes());
    match changes.body {
        Body::None => {}
        Body::Length(length) => line("content-length", number.format(length).as_bytes()),
        Body::Chunks => line("transfer-encoding", b"chunked"),
    }
    if changes.expects {
        line("expect", b"100-continue");
    }
    if changes.upgrade {
        line("connection", b"upgrade");
        for value in headers.get_all(UPGRADE) {
            line("upgrade", value.as_bytes());
        }
    }
    head.extend_from_slice(b"\r\n");
    Some(Bytes::from(head))
}

/// Path and query of a request; `None` when it has none, or wrote them in another way.
fn target(request: &RequestHeader) -> Option<&[u8]> {
    let raw = request.raw_path();
    // An absolute URL, as for a proxy, could name another host than `Host` does.
    (raw.starts_with(b"/") || raw == b"*" && request.method == Method::OPTIONS).then_some(raw)
}

/// Whether `Connection` names any field beyond those that go no further anyway. Hardly ever: it saves a look at the list for
/// each field.
pub(super) fn names_more(headers: &HeaderMap) -> bool {
    let usual = [&b"keep-alive"[..], b"close", b"upgrade", b"te"];
    headers.get_all(CONNECTION).iter().any(|value| {
        let mut words = value.as_bytes().split(|c| *c == b',');
        words.any(|word| !usual.iter().any(|usual| usual.eq_ignore_ascii_case(word.trim_ascii())))
    })
}

/// Fields that do not go further, or not as they came.
struct Dropped<'a> {
    headers: &'a HeaderMap,
    /// Whether `Connection` names any beyond those that are dropped anyway.
    names: bool,
    login: bool,
    /// Whether the client's word on its way here is believed.
    trusted: bool,
}

impl<'a> Dropped<'a> {
    fn new(headers: &'a HeaderMap, way: &Way<'_>, changes: &Changes<'_>) -> Dropped<'a> {
        Dropped { headers, names: names_more(headers), login: changes.without_login, trusted: way.trusted }
    }

    fn contains(&self, name: &HeaderName) -> bool {
        // Only what begins like one of these needs a closer look.
        let first = name.as_str().as_bytes().first().copied().unwrap_or_default();
        let listed = match first {
            b'c' => *name == CONTENT_LENGTH || *name == COOKIE || *name == CONNECTION,
            b'h' => *name == HOST,
            b'e' => *name == EXPECT,
            b'k' | b'p' | b'u' => HOP_BY_HOP.contains(name),
            b't' => HOP_BY_HOP.contains(name) || (!self.trusted && is_claim(name)),
            b'f' => TOLD.contains(name),
            b'x' => TOLD.contains(name) || (!self.trusted && is_claim(name)),
            b'a' => self.login && *name == AUTHORIZATION,
            _ => false,
        };
        listed || self.named(name)
    }

    /// Whether `Connection` names it as a field of one connection.
    fn named(&self, name: &HeaderName) -> bool {
        let tells_who_asks = *name == AUTHORIZATION || *name == COOKIE;
        self.names && !tells_who_asks && crate::pool::has_token(self.headers, &CONNECTION, name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::client::Hop;

    fn request(method: &str, path: &str, lines: &[(&str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build(method, path.as_bytes(), None).unwrap();
        for (name, value) in lines {
            request.append_header((*name).to_owned(), *value).unwrap();
        }
        request
    }

    const PLAIN: Changes<'_> =
        Changes { target: None, without_login: false, body: Body::None, upgrade: false, expects: false, id: "id1" };

    fn head(request: &RequestHeader, changes: &Changes<'_>) -> Option<String> {
        let hop = Hop { from: "192.0.2.1".parse().unwrap(), port: 80, secure: false, host: Some("a.example") };
        let way = Way::new(&hop, &request.headers, false);
        write(request, "a.example", &way, changes).map(|head| String::from_utf8(head.to_vec()).unwrap())
    }

    const TAIL: &str = "x-forwarded-for: 192.0.2.1\r\nx-forwarded-proto: http\r\nx-forwarded-host: a.example\r\n\
        x-forwarded-port: 80\r\nforwarded: for=192.0.2.1;host=a.example;proto=http\r\nx-request-id: id1\r\n";

    #[test]
    fn what_belongs_to_one_connection_goes_no_further() {
        let request = request(
            "GET",
            "/v2/?n=1",
            &[
                ("Host", "a.example"),
                ("Connection", "keep-alive, X-Mine, upgrade"),
                ("Keep-Alive", "timeout=5"),
                ("Proxy-Connection", "keep-alive"),
                ("Proxy-Authorization", "Basic eA=="),
                ("TE", "trailers"),
                ("Trailer", "X"),
                ("Transfer-Encoding", "chunked"),
                ("Upgrade", "h2c"),
                ("X-Mine", "1"),
                ("Accept", "a/b"),
                ("Authorization", "Basic eA=="),
                ("X-Forwarded-For", "127.0.0.1"),
                ("Forwarded", "for=127.0.0.1"),
                ("X-Request-Id", "other"),
                ("Expect", "100-continue"),
                ("Content-Length", "7"),
            ],
        );
        assert_eq!(
            head(&request, &PLAIN).unwrap(),
            format!(
                "GET /v2/?n=1 HTTP/1.1\r\nhost: a.example\r\naccept: a/b\r\nauthorization: Basic eA==\r\n{TAIL}\r\n"
            )
        );
        let changed = Changes { target: Some("/v2/"), without_login: true, body: Body::Length(7), ..PLAIN };
        assert_eq!(
            head(&request, &changed).unwrap(),
            format!("GET /v2/ HTTP/1.1\r\nhost: a.example\r\naccept: a/b\r\n{TAIL}content-length: 7\r\n\r\n")
        );
    }

    #[test]
    fn only_a_trusted_proxy_tells_more_of_the_way() {
        let claims = ["X-Real-IP", "X-Client-IP", "True-Client-IP", "X-Forwarded-User", "X-Forwarded-Client-Cert"];
        for (trusted, more) in
            [(false, &["X-Mine", "TLS"][..]), (true, &[&claims[..], &["X-Mine", "TLS"][..]].concat())]
        {
            let lines: Vec<_> = claims.iter().chain(&["X-Mine", "TLS"]).map(|name| (*name, "1")).collect();
            let request = request("GET", "/v2/", &lines);
            let hop = Hop { from: "192.0.2.1".parse().unwrap(), port: 80, secure: false, host: Some("a.example") };
            let way = Way::new(&hop, &request.headers, trusted);
            let head = String::from_utf8(write(&request, "a.example", &way, &PLAIN).unwrap().to_vec()).unwrap();
            let more: String = more.iter().map(|name| format!("{}: 1\r\n", name.to_lowercase())).collect();
            assert_eq!(head, format!("GET /v2/ HTTP/1.1\r\nhost: a.example\r\n{more}{TAIL}\r\n"), "{trusted}");
        }
    }

    #[test]
    fn a_connection_does_not_take_away_who_asks() {
        for (connection, expected) in [
            ("Authorization", "authorization: Basic eA==\r\nx-mine: 1\r\ncookie: a=1\r\n"),
            ("close, AUTHORIZATION, X-Mine, cookie", "authorization: Basic eA==\r\ncookie: a=1\r\n"),
            ("close", "authorization: Basic eA==\r\nx-mine: 1\r\ncookie: a=1\r\n"),
            ("x-forwarded-for, x-request-id, host", "authorization: Basic eA==\r\nx-mine: 1\r\ncookie: a=1\r\n"),
        ] {
            let request = request(
                "GET",
                "/v2/",
                &[("Connection", connection), ("Authorization", "Basic eA=="), ("X-Mine", "1"), ("Cookie", "a=1")],
            );
            let expected = format!("GET /v2/ HTTP/1.1\r\nhost: a.example\r\n{expected}{TAIL}\r\n");
            assert_eq!(head(&request, &PLAIN).unwrap(), expected, "{connection}");
        }
    }

    #[test]
    fn bodies_upgrades_and_cookies_are_written_anew() {
        let plain = request("PUT", "/x", &[("Cookie", "a=1"), ("Cookie", "b=2"), ("Upgrade", "websocket")]);
        let body = Changes { body: Body::Chunks, expects: true, ..PLAIN };
        assert_eq!(
            head(&plain, &body).unwrap(),
            format!(
                "PUT /x HTTP/1.1\r\nhost: a.example\r\ncookie: a=1; b=2\r\n{TAIL}transfer-encoding: chunked\r\n\
                 expect: 100-continue\r\n\r\n"
            )
        );
        let upgrade = Changes { upgrade: true, ..PLAIN };
        let written = head(&plain, &upgrade).unwrap();
        assert!(written.ends_with("connection: upgrade\r\nupgrade: websocket\r\n\r\n"), "{written}");
    }

    #[test]
    fn the_target_is_a_path() {
        for (method, path, expected) in [
            ("GET", "/v2/", Some("/v2/")),
            ("GET", "/%zz?a=%20b", Some("/%zz?a=%20b")),
            ("GET", "http://b.example/v2/?x", None),
            ("OPTIONS", "*", Some("*")),
            ("GET", "*", None),
            ("CONNECT", "a.example:443", None),
        ] {
            let written = head(&request(method, path, &[]), &PLAIN);
            let target = written.as_ref().map(|head| head.split(' ').nth(1).unwrap());
            assert_eq!(target, expected, "{method} {path}");
        }
    }
}

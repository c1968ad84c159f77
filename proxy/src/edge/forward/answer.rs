//! The header of a server's answer as the client gets it. Pure.
//!
//! Invariant: what belongs to the connection with the server goes no further, and how the body is framed is written from
//! how it came, so that the client finds the same end of it.

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, LOCATION, PROXY_AUTHENTICATE, STRICT_TRANSPORT_SECURITY, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use pingora_http::ResponseHeader;

use super::head::{KEEP_ALIVE, PROXY_CONNECTION, names_more};
use super::location::{Own, Public, repaired};
use crate::edge::client::REQUEST_ID;
use crate::edge::respond::{NO_GUESSING, SANDBOX};
use crate::pool::{Answer, Framing, has_token};

/// Fields of one connection, beside `Upgrade` and those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 7] =
    [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, TE, TRAILER, TRANSFER_ENCODING];

/// What of an answer depends on the client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// How it reached us.
    pub(super) public: Public<'a>,
    /// Whether it knows chunks.
    pub(super) chunks: bool,
    /// The request's name.
    pub(super) id: &'a str,
    /// Whether it is told to come by https only.
    pub(super) hsts: Option<&'a HeaderValue>,
    /// Whether it is about a repository's content: bytes of strangers, which no browser may guess at or run.
    pub(super) content: bool,
}

/// The header.
pub(super) fn header(answer: Answer, asked: &Asked<'_>, own: &Own<'_>) -> Box<ResponseHeader> {
    let Answer { status, mut headers, framing, .. } = answer;
    let upgraded = status == StatusCode::SWITCHING_PROTOCOLS;
    without_hop_by_hop(&mut headers, upgraded);
    if status.is_informational() && !upgraded {
        return build(status, headers);
    }
    if status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
    }
    if matches!(framing, Framing::Chunks | Framing::Close) && asked.chunks && !upgraded {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if let Some(better) = headers.get(LOCATION).and_then(|to| repaired(to.to_str().ok()?, &asked.public, own))
        && let Ok(better) = HeaderValue::from_str(&better)
    {
        headers.insert(LOCATION, better);
    }
    if let Ok(id) = HeaderValue::from_str(asked.id) {
        headers.insert(REQUEST_ID, id);
    }
    if let Some(hsts) = asked.hsts {
        headers.insert(STRICT_TRANSPORT_SECURITY, hsts.clone());
    }
    if asked.content {
        headers.insert(X_CONTENT_TYPE_OPTIONS, NO_GUESSING);
        headers.entry(CONTENT_SECURITY_POLICY).or_insert(SANDBOX);
    }
    build(status, headers)
}

fn without_hop_by_hop(headers: &mut HeaderMap, upgraded: bool) {
    let names = names_more(headers);
    let dropped = |name: &&HeaderName| match **name == UPGRADE {
        true => !upgraded,
        false => HOP_BY_HOP.contains(name) || names && has_token(headers, &CONNECTION, name.as_str()),
    };
    let dropped: Vec<HeaderName> = headers.keys().filter(dropped).cloned().collect();
    for name in dropped {
        headers.remove(name);
    }
    if upgraded {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

fn build(status: StatusCode, headers: HeaderMap) -> Box<ResponseHeader> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Box::new(ResponseHeader::from(response.into_parts().0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, lines: &[(&'static str, &str)], framing: Framing, chunks: bool) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        let hsts = HeaderValue::from_static("max-age=60");
        let asked = Asked {
            public: Public { scheme: "https", host: "reg.example" },
            chunks,
            id: "id1",
            hsts: (status == 201).then_some(&hsts),
            content: status == 206,
        };
        let own = Own { address: "10.0.0.7:5000".parse().unwrap(), name: "one", secure: false };
        let status = StatusCode::from_u16(status).unwrap();
        let header = header(Answer { status, headers, framing, reusable: true }, &asked, &own);
        assert_eq!(header.status, status);
        let mut lines: Vec<String> =
            header.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    #[test]
    fn headers_are_the_clients() {
        let hop = [("connection", "close, x-mine"), ("x-mine", "1"), ("keep-alive", "5"), ("upgrade", "h2c")];
        for (status, lines, framing, chunks, expected) in [
            (200, &hop[..], Framing::Length(1), true, &["x-request-id: id1"][..]),
            (
                200,
                &[("a", "1"), ("a", "2"), ("content-length", "5")],
                Framing::Length(5),
                true,
                &["a: 1", "a: 2", "content-length: 5", "x-request-id: id1"],
            ),
            (
                206,
                &[("content-type", "text/html")],
                Framing::Length(5),
                true,
                &[
                    "content-security-policy: sandbox",
                    "content-type: text/html",
                    "x-content-type-options: nosniff",
                    "x-request-id: id1",
                ],
            ),
            (
                200,
                &[("transfer-encoding", "chunked"), ("trailer", "x")],
                Framing::Chunks,
                true,
                &["transfer-encoding: chunked", "x-request-id: id1"],
            ),
            (200, &[], Framing::Close, true, &["transfer-encoding: chunked", "x-request-id: id1"]),
            (200, &[("transfer-encoding", "chunked")], Framing::Chunks, false, &["x-request-id: id1"]),
            (204, &[("content-length", "0")], Framing::Empty, true, &["x-request-id: id1"]),
            (
                304,
                &[("content-length", "9"), ("etag", "x")],
                Framing::Empty,
                true,
                &["content-length: 9", "etag: x", "x-request-id: id1"],
            ),
            (
                201,
                &[("location", "http://10.0.0.7:5000/v2/x"), ("x-request-id", "its")],
                Framing::Empty,
                true,
                &["location: https://reg.example/v2/x", "strict-transport-security: max-age=60", "x-request-id: id1"],
            ),
            (
                101,
                &[("connection", "Upgrade"), ("upgrade", "websocket")],
                Framing::Empty,
                true,
                &["connection: upgrade", "upgrade: websocket", "x-request-id: id1"],
            ),
            (103, &[("link", "</a>")], Framing::Empty, true, &["link: </a>"]),
        ] {
            assert_eq!(answered(status, lines, framing, chunks), expected, "{status} {lines:?}");
        }
    }
}

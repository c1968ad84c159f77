//! Conditional requests (RFC 9110, 13): whether what the client already holds is what it would get. Pure.
//!
//! An entity tag here is always strong and always the quoted digest, so comparing tags compares content.
//! There is no `Last-Modified`, and so no condition on dates.

use http::HeaderMap;
use http::header::{IF_MATCH, IF_NONE_MATCH, IF_RANGE};

/// What the conditions of a request come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answer as if there were none.
    Proceed,
    /// 304: the client has it.
    NotModified,
    /// 412: the client wants something else.
    Failed,
}

/// Evaluates `If-Match` and `If-None-Match` against an entity tag (with its quotes), for GET and HEAD.
pub fn evaluate(headers: &HeaderMap, etag: &str) -> Verdict {
    // The usual request has neither.
    if headers.contains_key(IF_MATCH) && !any(headers, IF_MATCH, etag, false) {
        return Verdict::Failed;
    }
    if headers.contains_key(IF_NONE_MATCH) && any(headers, IF_NONE_MATCH, etag, true) {
        return Verdict::NotModified;
    }
    Verdict::Proceed
}

/// Whether a `Range` is to be honoured: there is no `If-Range`, or it names this very content.
pub fn range_applies(headers: &HeaderMap, etag: &str) -> bool {
    headers.get(IF_RANGE).is_none_or(|value| value.as_bytes().trim_ascii() == etag.as_bytes())
}

fn any(headers: &HeaderMap, name: http::HeaderName, etag: &str, weak: bool) -> bool {
    headers.get_all(name).iter().any(|value| {
        // Tags that we make hold no comma, so splitting at each can only break up tags that are none of ours.
        value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).any(|tag| {
            let tag = if weak { tag.strip_prefix(b"W/").unwrap_or(tag) } else { tag };
            tag == b"*" || tag == etag.as_bytes()
        })
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::{Verdict, evaluate, range_applies};

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn verdicts() {
        for (lines, expected) in [
            (&[][..], Verdict::Proceed),
            (&[("if-none-match", "\"a\"")], Verdict::NotModified),
            (&[("if-none-match", "W/\"a\"")], Verdict::NotModified),
            (&[("if-none-match", "\"b\", \"a\"")], Verdict::NotModified),
            (&[("if-none-match", "*")], Verdict::NotModified),
            (&[("if-none-match", "\"b\"")], Verdict::Proceed),
            (&[("if-none-match", "a")], Verdict::Proceed),
            (&[("if-match", "\"a\"")], Verdict::Proceed),
            (&[("if-match", "*")], Verdict::Proceed),
            (&[("if-match", "W/\"a\"")], Verdict::Failed),
            (&[("if-match", "\"b\"")], Verdict::Failed),
            (&[("if-match", "\"b\""), ("if-none-match", "\"a\"")], Verdict::Failed),
            (&[("if-match", "\"a\""), ("if-none-match", "\"a\"")], Verdict::NotModified),
        ] {
            assert_eq!(evaluate(&headers(lines), "\"a\""), expected, "{lines:?}");
        }
    }

    #[test]
    fn ranges_only_of_the_same_content() {
        for (lines, expected) in [
            (&[][..], true),
            (&[("if-range", "\"a\"")], true),
            (&[("if-range", "\"b\"")], false),
            (&[("if-range", "W/\"a\"")], false),
            (&[("if-range", "Tue, 15 Nov 1994 08:12:31 GMT")], false),
        ] {
            assert_eq!(range_applies(&headers(lines), "\"a\""), expected, "{lines:?}");
        }
    }
}

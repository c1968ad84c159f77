//! What part of a blob an answer carries: `Content-Range` against what was asked for.
//!
//! Pure. A part must begin where it was asked for, or it would be written at the wrong offset. A length is a label: where
//! an answer has none, the end of its body is the end of the blob, and the digest decides whether it is.

use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap};

/// The part of a blob that a body holds: `start..end` of `total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// First byte.
    pub(super) start: u64,
    /// One past the last byte; `None`: the body's own end decides.
    pub(super) end: Option<u64>,
    /// Of the whole blob, where the answer tells it.
    pub(super) total: Option<u64>,
}

/// Why an answer is not the part asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RangeError {
    /// 206, and no `Content-Range: bytes a-b/total`.
    #[error("the answer has no valid Content-Range")]
    Shape,
    /// 206 of another part, or to a request for everything.
    #[error("the answer is another range than the one asked for")]
    Other,
    /// `multipart/byteranges`
    #[error("the answer is a multipart range")]
    Multipart,
    /// The asked range lies beyond the blob.
    #[error("the range asked for is beyond the blob")]
    Beyond,
    /// `Content-Length` and `Content-Range` contradict each other.
    #[error("Content-Length contradicts Content-Range")]
    Contradiction,
    /// Another length than another answer for the same blob.
    #[error("the length of the blob changed from {0} to {1}")]
    Changed(u64, u64),
}

/// `Range` for `start..end`, when one is needed.
pub(super) fn header(start: u64, end: Option<u64>) -> Option<String> {
    match end {
        None if start == 0 => None,
        None => Some(format!("bytes={start}-")),
        Some(end) => Some(format!("bytes={start}-{}", end.saturating_sub(1))),
    }
}

/// Checks an answer of status 200 or 206 to a request for `start..end`. A 200 is the whole blob, whatever was asked.
pub(super) fn check(
    status: StatusCode,
    headers: &HeaderMap,
    start: u64,
    end: Option<u64>,
) -> Result<Extent, RangeError> {
    if status != StatusCode::PARTIAL_CONTENT {
        let total = content_length(headers);
        return match total {
            Some(total) if start > total || (start == total && total > 0) => Err(RangeError::Beyond),
            _ => Ok(Extent { start: 0, end: total, total }),
        };
    }
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if content_type.trim_start().to_ascii_lowercase().starts_with("multipart/") {
        return Err(RangeError::Multipart);
    }
    let text = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).ok_or(RangeError::Shape)?;
    let (first, after, total) = parse(text).ok_or(RangeError::Shape)?;
    // A shorter part than the one asked for is legal, and what follows it is asked for next; of a longer one the rest is
    // passed over. One to a request for everything must be everything.
    if first != start || (start == 0 && end.is_none() && total != Some(after)) {
        return Err(RangeError::Other);
    }
    match content_length(headers) {
        Some(length) if length != after - first => Err(RangeError::Contradiction),
        _ => Ok(Extent { start, end: Some(after), total }),
    }
}

/// Who answered a request for a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    /// A mirror, after which others are asked.
    Mirror,
    /// The registry itself, the last of its addresses.
    Registry,
    /// The target of a redirect on another host.
    Target,
}

/// Whether an answer may say no more than that the server does not take this `Range`, so that the request is worth sending
/// again without one. `start` is the first byte asked for; `again`: a `Range` was not answered a moment ago either.
///
/// Clients ask for a blob without a range, so any no to a range proves nothing. The signature of a presigned URL, say, may cover
/// the header; in the middle of a blob it has more likely run out, and a new redirect is worth a try before.
pub(super) fn is_refused(status: StatusCode, headers: &HeaderMap, start: u64, speaker: Speaker, again: bool) -> bool {
    match status.as_u16() {
        // A shorter blob is a reason to refuse, and the answer says so.
        416 => unsatisfied(headers).is_none_or(|total| total > start),
        // Of the moment.
        408 | 421 | 425 | 429 => false,
        501 | 505 => true,
        // Its no sends the question on in any case.
        _ if speaker == Speaker::Mirror => false,
        401 | 403 if speaker == Speaker::Target => start == 0 || again,
        400..=499 => true,
        // Asking again costs the whole blob, so not in its middle: this may be a fault of the moment.
        500 => start == 0,
        _ => false,
    }
}

/// Length of the blob, as a 416 tells it: `Content-Range: bytes */10`.
pub(super) fn unsatisfied(headers: &HeaderMap) -> Option<u64> {
    let (unit, rest) = headers.get(CONTENT_RANGE)?.to_str().ok()?.trim().split_once(' ')?;
    let total = rest.trim().strip_prefix("*/")?;
    number(total).filter(|_| unit.eq_ignore_ascii_case("bytes"))
}

/// `Content-Length`, when it is a number.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    number(headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim())
}

/// `bytes <first>-<last>/<total>`: the first byte, the one after the last, and the total, which is `None` for `*`.
fn parse(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (unit, rest) = text.trim().split_once(' ')?;
    let (range, total) = rest.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let total = if total == "*" { None } else { Some(number(total)?) };
    let valid = unit.eq_ignore_ascii_case("bytes") && first <= last && total.is_none_or(|total| last < total);
    Some((first, last.checked_add(1)?, total)).filter(|_| valid)
}

/// Digits alone: `str::parse` would let a sign through.
fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;
    use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

    use super::{Extent, RangeError, check, header, is_refused, parse};

    fn headers(lines: &[(HeaderName, &'static str)]) -> HeaderMap {
        let lines = lines.iter().filter(|(_, value)| !value.is_empty());
        lines.map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn asks() {
        assert_eq!(header(0, None), None);
        assert_eq!(header(5, None).as_deref(), Some("bytes=5-"));
        assert_eq!(header(0, Some(10)).as_deref(), Some("bytes=0-9"));
        assert_eq!(header(5, Some(10)).as_deref(), Some("bytes=5-9"));
    }

    #[test]
    fn parses() {
        assert_eq!(parse("bytes 5-9/10"), Some((5, 10, Some(10))));
        assert_eq!(parse("bytes 5-9/*"), Some((5, 10, None)));
        for bad in [
            "bytes */10",
            "bytes 9-5/10",
            "bytes 5-10/10",
            "lines 5-9/10",
            "bytes +5-9/10",
            "bytes 0-18446744073709551615/*",
            "5-9/10",
            "",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn checks() {
        let part = |range: &'static str, length: &'static str| (206, range, length, "");
        for ((status, range, length, kind), start, end, expected) in [
            ((200, "", "10", ""), 0, None, Ok((0, Some(10), Some(10)))),
            ((200, "", "10", ""), 5, None, Ok((0, Some(10), Some(10)))),
            ((200, "", "0", ""), 0, None, Ok((0, Some(0), Some(0)))),
            ((200, "", "10", ""), 10, None, Err(RangeError::Beyond)),
            ((200, "", "", ""), 0, None, Ok((0, None, None))),
            ((200, "", "", ""), 7, Some(9), Ok((0, None, None))),
            (part("bytes 5-9/10", "5"), 5, None, Ok((5, Some(10), Some(10)))),
            (part("bytes 5-9/10", ""), 5, None, Ok((5, Some(10), Some(10)))),
            (part("bytes 5-6/10", "2"), 5, Some(7), Ok((5, Some(7), Some(10)))),
            (part("bytes 5-9/10", "5"), 5, Some(70), Ok((5, Some(10), Some(10)))),
            (part("bytes 0-9/10", "10"), 0, Some(10), Ok((0, Some(10), Some(10)))),
            (part("bytes 0-9/10", "10"), 0, None, Ok((0, Some(10), Some(10)))),
            (part("bytes 0-8/10", "9"), 0, None, Err(RangeError::Other)),
            (part("bytes 0-9/*", "10"), 0, None, Err(RangeError::Other)),
            (part("bytes 4-9/10", "6"), 5, None, Err(RangeError::Other)),
            (part("bytes 5-7/10", "3"), 5, Some(7), Ok((5, Some(8), Some(10)))),
            (part("bytes 5-8/10", "4"), 5, None, Ok((5, Some(9), Some(10)))),
            (part("bytes 5-9/10", "6"), 5, None, Err(RangeError::Contradiction)),
            (part("bytes 5-9/*", "5"), 5, None, Ok((5, Some(10), None))),
            (part("", "5"), 5, None, Err(RangeError::Shape)),
            ((206, "", "5", "multipart/byteranges; boundary=x"), 5, None, Err(RangeError::Multipart)),
        ] {
            let headers = headers(&[(CONTENT_RANGE, range), (CONTENT_LENGTH, length), (CONTENT_TYPE, kind)]);
            let expected = expected.map(|(start, end, total)| Extent { start, end, total });
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(check(status, &headers, start, end), expected, "{range} {length} for {start}-{end:?}");
        }
    }

    #[test]
    fn knows_who_takes_no_ranges() {
        use super::Speaker::{Mirror, Registry, Target};
        // status, `Content-Range`, first byte, who answers, whether once more, whether the range is what was refused
        for (status, range, start, speaker, again, expected) in [
            (400, "", 0, Registry, false, true),
            (405, "", 0, Registry, false, true),
            (412, "", 5, Registry, false, true),
            (416, "", 5, Registry, false, true),
            (416, "bytes */10", 5, Registry, false, true),
            (416, "bytes */10", 10, Registry, false, false),
            (416, "bytes */0", 0, Registry, false, false),
            (500, "", 0, Registry, false, true),
            (500, "", 5, Registry, false, false),
            (500, "", 5, Registry, true, false),
            (501, "", 5, Registry, false, true),
            (401, "", 0, Registry, false, true),
            (401, "", 5, Registry, false, true),
            (403, "", 0, Registry, false, true),
            (403, "", 5, Registry, false, true),
            (404, "", 0, Registry, false, true),
            (404, "", 5, Registry, false, true),
            (407, "", 0, Registry, false, true),
            (410, "", 5, Registry, false, true),
            (408, "", 0, Registry, false, false),
            (408, "", 5, Registry, false, false),
            (429, "", 0, Registry, false, false),
            (451, "", 5, Registry, false, true),
            (502, "", 0, Registry, false, false),
            (503, "", 0, Registry, true, false),
            (206, "", 0, Registry, false, false),
            (401, "", 0, Target, false, true),
            (403, "", 0, Target, false, true),
            (401, "", 5, Target, false, false),
            (403, "", 5, Target, false, false),
            (401, "", 5, Target, true, true),
            (403, "", 5, Target, true, true),
            (404, "", 5, Target, false, true),
            (400, "", 5, Target, false, true),
            (400, "", 0, Mirror, false, false),
            (404, "", 0, Mirror, false, false),
            (404, "", 5, Mirror, true, false),
            (403, "", 0, Mirror, false, false),
            (416, "", 0, Mirror, false, true),
            (500, "", 0, Mirror, false, false),
            (501, "", 0, Mirror, false, true),
        ] {
            let headers = headers(&[(CONTENT_RANGE, range)]);
            let status = StatusCode::from_u16(status).unwrap();
            let refused = is_refused(status, &headers, start, speaker, again);
            assert_eq!(refused, expected, "{status} {range} at {start} of {speaker:?}, again: {again}");
        }
    }
}

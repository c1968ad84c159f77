//! What part of a blob an answer carries: `Content-Range` against what was asked for.
//!
//! Pure, and strict: a part that is not exactly the one asked for would be written at the wrong offset.

use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap};

/// The part of a blob that a body holds: `start..end` of `total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// First byte.
    pub(super) start: u64,
    /// One past the last byte.
    pub(super) end: u64,
    /// Of the whole blob.
    pub(super) total: u64,
}

/// Why an answer is not the part asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RangeError {
    /// 200 or 206 without the length that it needs.
    #[error("the answer does not tell its length")]
    Length,
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
        let total = content_length(headers).ok_or(RangeError::Length)?;
        if start > total || (start == total && total > 0) {
            return Err(RangeError::Beyond);
        }
        return Ok(Extent { start: 0, end: total, total });
    }
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if content_type.trim_start().to_ascii_lowercase().starts_with("multipart/") {
        return Err(RangeError::Multipart);
    }
    if start == 0 && end.is_none() {
        return Err(RangeError::Other);
    }
    let text = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).ok_or(RangeError::Shape)?;
    let extent = parse(text).ok_or(RangeError::Shape)?;
    if extent.start != start || extent.end != end.map_or(extent.total, |end| end.min(extent.total)) {
        return Err(RangeError::Other);
    }
    match content_length(headers) {
        Some(length) if length != extent.end - extent.start => Err(RangeError::Contradiction),
        _ => Ok(extent),
    }
}

/// `Content-Length`, when it is a number.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    number(headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim())
}

/// `bytes <first>-<last>/<total>`; an unknown total (`*`) is of no use to us.
pub(super) fn parse(text: &str) -> Option<Extent> {
    let (unit, rest) = text.trim().split_once(' ')?;
    let (range, total) = rest.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (start, last, total) = (number(first)?, number(last)?, number(total)?);
    let valid = unit.eq_ignore_ascii_case("bytes") && start <= last && last < total;
    valid.then_some(Extent { start, end: last + 1, total })
}

/// Digits alone: `str::parse` would let a sign through.
fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;
    use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue};

    use super::{Extent, RangeError, check, header, parse};

    #[test]
    fn asks() {
        assert_eq!(header(0, None), None);
        assert_eq!(header(5, None).as_deref(), Some("bytes=5-"));
        assert_eq!(header(0, Some(10)).as_deref(), Some("bytes=0-9"));
        assert_eq!(header(5, Some(10)).as_deref(), Some("bytes=5-9"));
    }

    #[test]
    fn parses() {
        assert_eq!(parse("bytes 5-9/10"), Some(Extent { start: 5, end: 10, total: 10 }));
        for bad in [
            "bytes */10",
            "bytes 5-9/*",
            "bytes 9-5/10",
            "bytes 5-10/10",
            "lines 5-9/10",
            "bytes +5-9/10",
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
            ((200, "", "10", ""), 0, None, Ok((0, 10, 10))),
            ((200, "", "10", ""), 5, None, Ok((0, 10, 10))),
            ((200, "", "0", ""), 0, None, Ok((0, 0, 0))),
            ((200, "", "10", ""), 10, None, Err(RangeError::Beyond)),
            ((200, "", "", ""), 0, None, Err(RangeError::Length)),
            (part("bytes 5-9/10", "5"), 5, None, Ok((5, 10, 10))),
            (part("bytes 5-9/10", ""), 5, None, Ok((5, 10, 10))),
            (part("bytes 5-6/10", "2"), 5, Some(7), Ok((5, 7, 10))),
            (part("bytes 5-9/10", "5"), 5, Some(70), Ok((5, 10, 10))),
            (part("bytes 0-9/10", "10"), 0, Some(10), Ok((0, 10, 10))),
            (part("bytes 0-9/10", "10"), 0, None, Err(RangeError::Other)),
            (part("bytes 4-9/10", "6"), 5, None, Err(RangeError::Other)),
            (part("bytes 5-8/10", "4"), 5, None, Err(RangeError::Other)),
            (part("bytes 5-9/10", "6"), 5, None, Err(RangeError::Contradiction)),
            (part("bytes 5-9/*", "5"), 5, None, Err(RangeError::Shape)),
            (part("", "5"), 5, None, Err(RangeError::Shape)),
            ((206, "", "5", "multipart/byteranges; boundary=x"), 5, None, Err(RangeError::Multipart)),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [(CONTENT_RANGE, range), (CONTENT_LENGTH, length), (CONTENT_TYPE, kind)] {
                if !value.is_empty() {
                    headers.insert(name, HeaderValue::from_static(value));
                }
            }
            let expected = expected.map(|(start, end, total)| Extent { start, end, total });
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(check(status, &headers, start, end), expected, "{range} {length} for {start}-{end:?}");
        }
    }
}

//! Ranges (RFC 9110, 14): which bytes of a blob a request is about. Pure.
//!
//! What is not understood is ignored, as the RFC asks: the answer is then the whole blob, which every client takes.
//! Only a well-formed range that lies wholly past the end is an error; of nothing, any range is all of it, as Go's servers
//! have it. Ranges that overlap are an attack more often than a wish, and get the whole blob as well: so the parts of an
//! answer are never more than the blob. Clients that pull single files of a layer (zstd:chunked, SOCI, eStargz) ask for
//! hundreds of ranges at once.

use std::ops::Range;

/// Most ranges that are answered one by one. Podman asks for 1024 at most; each costs some 120 bytes of framing.
const RANGES: usize = 1024;
/// So many ranges are cheaper to serve from the whole blob than to fetch one by one.
const SCATTERED: usize = 32;

/// One range as written, before the size is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spec {
    /// `first-last`, `last` inclusive.
    Closed(u64, u64),
    /// `first-`
    From(u64),
    /// `-length`
    Suffix(u64),
}

/// What to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All of it, with 200.
    Full,
    /// One part, with 206.
    Single(Range<u64>),
    /// Several parts, with 206 and `multipart/byteranges`; in the order that was asked for.
    Multiple(Vec<Range<u64>>),
    /// Nothing, with 416.
    Unsatisfiable,
}

/// Reads a `Range` header; `None` when it is to be ignored.
pub fn parse(header: &[u8]) -> Option<Vec<Spec>> {
    let text = std::str::from_utf8(header).ok()?;
    let (unit, set) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut specs = Vec::new();
    for part in set.split(',') {
        let part = part.trim();
        if part.is_empty() {
            continue;
        }
        if specs.len() == RANGES {
            return None;
        }
        let (first, last) = part.split_once('-')?;
        specs.push(match (number(first)?, number(last)?) {
            (Some(first), Some(last)) if first <= last => Spec::Closed(first, last),
            (Some(first), None) => Spec::From(first),
            (None, Some(length)) => Spec::Suffix(length),
            _ => return None,
        });
    }
    (!specs.is_empty()).then_some(specs)
}

/// `None`: malformed. `Some(None)`: left out. A number that is too large to be true means "to the end".
fn number(text: &str) -> Option<Option<u64>> {
    if text.is_empty() {
        return Some(None);
    }
    text.bytes().all(|c| c.is_ascii_digit()).then(|| Some(text.parse().unwrap_or(u64::MAX)))
}

/// Applies ranges to a blob of `size` bytes.
pub fn select(specs: &[Spec], size: u64) -> Selection {
    let mut ranges: Vec<Range<u64>> = specs.iter().filter_map(|spec| resolve(*spec, size)).collect();
    match ranges.len() {
        0 if size == 0 => Selection::Full,
        0 => Selection::Unsatisfiable,
        1 => ranges.pop().map_or(Selection::Unsatisfiable, Selection::Single),
        _ if overlap(&ranges) => Selection::Full,
        _ => Selection::Multiple(ranges),
    }
}

fn resolve(spec: Spec, size: u64) -> Option<Range<u64>> {
    let range = match spec {
        Spec::Closed(first, last) => first..last.saturating_add(1).min(size),
        Spec::From(first) => first..size,
        Spec::Suffix(length) => size.saturating_sub(length)..size,
    };
    (range.start < range.end).then_some(range)
}

fn overlap(ranges: &[Range<u64>]) -> bool {
    let mut sorted: Vec<_> = ranges.iter().collect();
    sorted.sort_by_key(|range| range.start);
    sorted.windows(2).any(|pair| pair[1].start < pair[0].end)
}

/// Whether these ranges amount to the whole blob, or to so many parts of it that fetching it as one is no waste.
pub fn is_whole(specs: &[Spec], size: Option<u64>) -> bool {
    match specs {
        [Spec::From(0)] => true,
        [Spec::Closed(0, last)] => size.is_some_and(|size| last.saturating_add(1) >= size),
        [Spec::Suffix(length)] => size.is_some_and(|size| *length >= size),
        _ => specs.len() > SCATTERED,
    }
}

/// The frame around the parts of a `multipart/byteranges` body.
#[derive(Clone, Debug)]
pub struct Multipart {
    /// Each part's heading and range.
    pub parts: Vec<(String, Range<u64>)>,
    /// What ends the body.
    pub end: String,
    /// `Content-Type` of the whole.
    pub content_type: String,
    /// `Content-Length` of the whole.
    pub length: u64,
}

impl Multipart {
    /// Frames `ranges` of a blob of `size` bytes. The boundary must not occur in the content, so it is to be random.
    pub fn new(ranges: Vec<Range<u64>>, size: u64, boundary: &str) -> Multipart {
        let parts: Vec<_> = ranges
            .into_iter()
            .map(|range| {
                let heading = format!(
                    "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {}-{}/{size}\r\n\r\n",
                    range.start,
                    range.end - 1
                );
                (heading, range)
            })
            .collect();
        let end = format!("\r\n--{boundary}--\r\n");
        let bodies: u64 = parts.iter().map(|(heading, range)| heading.len() as u64 + (range.end - range.start)).sum();
        let content_type = format!("multipart/byteranges; boundary={boundary}");
        Multipart { length: bodies + end.len() as u64, parts, end, content_type }
    }
}

#[cfg(test)]
mod tests {
    use super::{Multipart, Selection, is_whole, parse, select};

    #[test]
    fn selects() {
        let many =
            format!("bytes={}", (0..1025).map(|n| format!("{}-{}", n * 10, n * 10)).collect::<Vec<_>>().join(","));
        for (header, size, expected) in [
            ("bytes=0-9", 100, Selection::Single(0..10)),
            ("bytes=90-", 100, Selection::Single(90..100)),
            ("bytes=-1", 100, Selection::Single(99..100)),
            ("bytes=-1000", 100, Selection::Single(0..100)),
            ("bytes=50-1000", 100, Selection::Single(50..100)),
            ("bytes=0-99999999999999999999999", 100, Selection::Single(0..100)),
            ("BYTES = 1-1", 100, Selection::Single(1..2)),
            ("bytes=100-", 100, Selection::Unsatisfiable),
            ("bytes=-0", 100, Selection::Unsatisfiable),
            ("bytes=0-", 0, Selection::Full),
            ("bytes=0-9,20-", 0, Selection::Full),
            ("bytes=-5", 0, Selection::Full),
            ("bytes=0-0, 200-300", 100, Selection::Single(0..1)),
            ("bytes=0-0,-1", 100, Selection::Multiple(vec![0..1, 99..100])),
            ("bytes=50-59,0-9", 100, Selection::Multiple(vec![50..60, 0..10])),
            ("bytes=0-9,10-19", 100, Selection::Multiple(vec![0..10, 10..20])),
            ("bytes=0-9,5-19", 100, Selection::Full),
        ] {
            assert_eq!(select(&parse(header.as_bytes()).unwrap(), size), expected, "{header}");
        }
        for header in ["", "bytes", "bytes=", "lines=1-2", "bytes=5-1", "bytes=a-b", "bytes=-", "bytes=+1-2", &many] {
            assert_eq!(parse(header.as_bytes()), None, "{header}");
        }
        assert_eq!(parse(b"bytes=\xff-1"), None);
    }

    #[test]
    fn answers_as_many_ranges_as_clients_ask_for() {
        let header = (0..1024).map(|n| format!("{}-{}", n * 10, n * 10 + 4)).collect::<Vec<_>>().join(",");
        let specs = parse(format!("bytes={header}").as_bytes()).unwrap();
        assert!(is_whole(&specs, Some(20_000)), "they start a fill of the whole blob");
        let Selection::Multiple(ranges) = select(&specs, 20_000) else { panic!("not one by one") };
        assert_eq!((ranges.len(), ranges[1023].clone()), (1024, 10_230..10_235));
    }

    #[test]
    fn knows_a_whole_blob_when_asked_for_it_in_ranges() {
        for (header, size, expected) in [
            ("bytes=0-", None, true),
            ("bytes=0-99", Some(100), true),
            ("bytes=0-98", Some(100), false),
            ("bytes=0-99", None, false),
            ("bytes=-100", Some(100), true),
            ("bytes=1-", Some(100), false),
            ("bytes=0-,0-", Some(100), false),
        ] {
            assert_eq!(is_whole(&parse(header.as_bytes()).unwrap(), size), expected, "{header}");
        }
    }

    #[test]
    fn multipart_announces_its_exact_length() {
        let content = b"0123456789";
        let multipart = Multipart::new(vec![0..2, 8..10], 10, "B");
        let mut body = Vec::new();
        for (heading, range) in &multipart.parts {
            body.extend_from_slice(heading.as_bytes());
            body.extend_from_slice(&content[range.start as usize..range.end as usize]);
        }
        body.extend_from_slice(multipart.end.as_bytes());
        assert_eq!(body.len() as u64, multipart.length);
        let text = String::from_utf8(body).unwrap();
        assert!(text.contains("Content-Range: bytes 8-9/10\r\n\r\n89\r\n--B--\r\n"), "{text}");
    }
}

//! Which bytes of a partial blob are on disk, and their checksums. Pure.
//!
//! A segment grows at its end as bytes arrive, up to [`SEGMENT`], and is then followed by the next. Its CRC-32 is
//! what makes a partial file trustworthy after a crash without syncing it while it grows: a segment that does not
//! match is forgotten and fetched again.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Most bytes in a segment: what is lost when one byte of it is.
pub(super) const SEGMENT: u64 = 16 << 20;

/// A set of segments, keyed by where they start. They never overlap; they may touch.
#[derive(Clone, Debug, Default)]
pub(super) struct Segments {
    by_start: BTreeMap<u64, Segment>,
}

#[derive(Clone, Debug)]
struct Segment {
    end: u64,
    crc: crc32fast::Hasher,
}

/// A segment as the map file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    /// First byte.
    pub(super) start: u64,
    /// Byte after the last.
    pub(super) end: u64,
    /// CRC-32 of what is between.
    pub(super) crc: u32,
}

impl Segments {
    /// Where the bytes that are here from `position` on end, looking no further than `limit`.
    pub(super) fn contiguous(&self, position: u64, limit: u64) -> u64 {
        let mut end = position;
        let first = self.by_start.range(..=position).next_back().map_or(position, |(start, _)| *start);
        for (start, segment) in self.by_start.range(first..) {
            if *start > end || end >= limit {
                break;
            }
            end = end.max(segment.end);
        }
        end.min(limit.max(position))
    }

    /// The parts of `range` that are not here, in order.
    pub(super) fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut position = range.start;
        while position < range.end {
            let here = self.contiguous(position, range.end);
            if here >= range.end {
                break;
            }
            let next = self.by_start.range(here..).next().map_or(range.end, |(start, _)| (*start).min(range.end));
            if next > here {
                gaps.push(here..next);
            }
            position = next;
        }
        gaps
    }

    /// Takes note of bytes that were written at `start`, none of which were here.
    pub(super) fn insert(&mut self, mut start: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let open = self
                .by_start
                .range_mut(..=start)
                .next_back()
                .filter(|(first, segment)| segment.end == start && segment.end - **first < SEGMENT);
            let room = open.as_ref().map_or(SEGMENT, |(first, segment)| SEGMENT - (segment.end - **first));
            let take = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
            let (now, later) = bytes.split_at(take);
            match open {
                Some((_, segment)) => {
                    segment.crc.update(now);
                    segment.end += now.len() as u64;
                }
                None => {
                    let mut crc = crc32fast::Hasher::new();
                    crc.update(now);
                    self.by_start.insert(start, Segment { end: start + now.len() as u64, crc });
                }
            }
            start += now.len() as u64;
            bytes = later;
        }
    }

    /// How many bytes are here.
    pub(super) fn bytes(&self) -> u64 {
        self.by_start.iter().map(|(start, segment)| segment.end - start).sum()
    }

    /// The segments as the map file has them.
    pub(super) fn claims(&self) -> Vec<Claim> {
        self.by_start
            .iter()
            .map(|(start, segment)| Claim { start: *start, end: segment.end, crc: segment.crc.clone().finalize() })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Claim, SEGMENT, Segments};

    #[test]
    fn grows_joins_and_shows_gaps() {
        let mut segments = Segments::default();
        segments.insert(10, b"abcde");
        segments.insert(15, b"fgh");
        segments.insert(0, b"01");
        segments.insert(18, b"i");
        assert_eq!(segments.contiguous(0, 100), 2);
        assert_eq!(segments.contiguous(2, 100), 2);
        assert_eq!(segments.contiguous(10, 100), 19);
        assert_eq!(segments.contiguous(12, 100), 19);
        assert_eq!(segments.contiguous(12, 14), 14);
        assert_eq!(segments.contiguous(30, 20), 30);
        assert_eq!(segments.gaps(0..30), [2..10, 19..30]);
        assert_eq!(segments.gaps(11..18), []);
        assert_eq!(segments.gaps(1..12).first(), Some(&(2..10)));
        assert_eq!(segments.bytes(), 11);
        let crc = crc32fast::hash(b"abcdefghi");
        assert_eq!(segments.claims()[1], Claim { start: 10, end: 19, crc });
    }

    #[test]
    fn a_segment_ends_at_its_limit() {
        let mut segments = Segments::default();
        let block = vec![7; 1 << 20];
        for i in 0..33 {
            segments.insert(i << 20, &block);
        }
        let claims = segments.claims();
        assert_eq!(claims.iter().map(|c| c.end - c.start).collect::<Vec<_>>(), [SEGMENT, SEGMENT, 1 << 20]);
        assert_eq!(segments.contiguous(5, u64::MAX), 33 << 20);
    }

    #[test]
    fn touching_segments_from_the_right() {
        let mut segments = Segments::default();
        segments.insert(5, b"xx");
        segments.insert(0, b"12345");
        assert_eq!(segments.contiguous(0, 100), 7);
        assert!(segments.gaps(0..7).is_empty());
        assert_eq!(segments.claims().len(), 2);
    }
}

//! In which stretches the ranges of one request are fetched. Pure.
//!
//! Invariant: a request with several ranges of a blob that is not here costs upstream two requests at most, unless the blob is so
//! large that it is fetched over several connections. A client would have sent one request. Where few requests do not bring the
//! ranges, one request for the whole does.

use std::ops::Range;

use super::fill::REACH;
use super::fill::download::READ_ON;

/// Most stretches that are fetched one by one.
const FEW: usize = 2;

/// What a reader reads, and how that is fetched.
pub(super) struct Aim {
    /// What is read.
    pub(super) range: Range<u64>,
    /// The stretch that it is fetched in.
    pub(super) fetched: Range<u64>,
    /// Whether the range is all of the blob: from its start to its end, which is [`super::ENDLESS`] for a reader that does not know it.
    pub(super) whole: bool,
    /// Whether the range, a part of the blob, waits for the whole to reach it.
    pub(super) patient: bool,
}

/// The ranges in order, those that lie near each other as one.
pub(crate) fn stretches(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted = ranges.to_vec();
    sorted.sort_by_key(|range| range.start);
    let mut wider: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match wider.last_mut() {
            // A reader waits so far for what is arriving before it.
            Some(last) if range.start <= last.end.saturating_add(REACH) => last.end = last.end.max(range.end),
            _ => wider.push(range),
        }
    }
    wider
}

/// Whether so few requests bring these stretches.
pub(crate) fn are_few(stretches: &[Range<u64>]) -> bool {
    stretches.len() <= FEW && stretches.iter().all(|stretch| stretch.end - stretch.start <= READ_ON)
}

/// What to fetch for ranges of a blob of `size` bytes. `above`: larger blobs are never fetched whole for parts; `whole`: a download of
/// the whole is running.
pub(super) fn gather(ranges: &[Range<u64>], size: u64, above: u64, whole: bool) -> Vec<Range<u64>> {
    let stretches = stretches(ranges);
    if ranges.len() > 1 && size <= above && (whole || !are_few(&stretches)) {
        return std::iter::once(0..size).collect();
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::gather;

    const MIB: u64 = 1 << 20;

    #[test]
    fn gathers() {
        let ranges = |pairs: &[(u64, u64)]| pairs.iter().map(|(start, end)| *start..*end).collect::<Vec<_>>();
        let (size, far) = (50 * MIB, 20 * MIB);
        for (asked, above, whole, expected) in [
            (&[(5, 10)][..], 64, false, &[(5, 10)][..]),
            (&[(5, 10)], 64, true, &[(5, 10)]),
            (&[(5, 10), (1000, 1010)], 64, false, &[(5, 1010)]),
            (&[(1000, 1010), (5, 10)], 64, false, &[(5, 1010)]),
            (&[(5, 10), (far, far + 5)], 64, false, &[(5, 10), (far, far + 5)]),
            (&[(5, 10), (far, far + 5)], 64, true, &[(0, size)]),
            (&[(5, 10), (far, far + 5), (2 * far, 2 * far + 5)], 64, false, &[(0, size)]),
            (&[(5, 10), (far, far + 9 * MIB)], 64, false, &[(0, size)]),
            // It is large.
            (
                &[(5, 10), (far, far + 5), (2 * far, 2 * far + 5)],
                1,
                true,
                &[(5, 10), (far, far + 5), (2 * far, 2 * far + 5)],
            ),
        ] {
            let gathered = gather(&ranges(asked), size, above * MIB, whole);
            assert_eq!(gathered, ranges(expected), "{asked:?}, above {above}, whole: {whole}");
        }
    }
}

//! The fill engine: one download of a blob, shared by all who want it.
//!
//! A [`Fill`] is a sparse file that grows and a map of what it holds. Whoever fetches ([`download`]) sends pieces to the
//! fill's one writer ([`writer`]), which writes, notes and hashes them; whoever reads ([`super::blob`]) waits until the map
//! covers its position. Nobody holds anybody up: a reader that leaves is a lease less, a slow reader reads the file behind.
//!
//! Invariants: bytes are readable only once they are in the file; the last [`TAIL`] bytes of a blob that is being filled
//! whole are readable only once its hash was checked; one fill a digest at a time ([`registry`]).
//!
//! What upstream refuses to one of those who share a fill ends it for no other ([`answers`]).
//!
//! Upstream need not tell the length of a blob. Then the fill learns it from the end of the body; until then the last
//! [`TAIL`] bytes of what is here are held back, for each of them may be the last of the blob.

mod answers;
pub(super) mod connections;
pub(super) mod download;
mod first;
pub(super) mod lease;
pub(super) mod registry;
mod resumption;
pub(super) mod writer;

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use parking_lot::Mutex;
use pierhead_registry::client::Repository;
use pierhead_registry::oci::Digest;
use tokio::sync::{Notify, mpsc, watch};

use self::answers::{Ends, Meaning};
use self::connections::Parties;
use super::BlobError;
use super::gather::Aim;
use super::segments::Segments;

/// What is held back until the hash of a blob was checked.
pub(super) const TAIL: u64 = 16 << 10;
/// A range that starts no further than this beyond what is arriving waits for it; one that does is fetched by itself.
pub(super) const REACH: u64 = 1 << 20;
/// A part of a blob up to this long is no client's whole blob, so its end need not wait for the hash.
const PART: u64 = 1 << 20;

/// The end of a blob of unknown length: no file is longer.
pub(crate) const ENDLESS: u64 = i64::MAX as u64;

/// Bytes for the writer.
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

/// One blob on its way into the store.
pub(super) struct Fill {
    pub(super) digest: Digest,
    /// The registry it comes from: whose share of the store it takes.
    pub(super) owner: Arc<str>,
    pub(super) file: Arc<File>,
    state: Mutex<State>,
    /// The clients that want it: connections to upstream are charged to them.
    parties: Parties,
    /// Ticks whenever the state changed.
    changed: watch::Sender<()>,
    pieces: mpsc::Sender<Piece>,
    /// Leases out; the writer retires the fill at zero.
    users: AtomicUsize,
    idle: Notify,
}

#[derive(Default)]
struct State {
    /// Length of the blob, once it is known.
    total: Option<u64>,
    segments: Segments,
    /// What an earlier process left is still being checked.
    checking: bool,
    verified: bool,
    /// Why the writer has ended: nothing more comes, for any reader.
    failed: Option<BlobError>,
    /// A download of the whole blob is running.
    whole: bool,
    /// Such a download has begun, perhaps in an earlier process ([`resumption`]).
    begun_whole: bool,
    /// How such downloads failed. The next one may succeed.
    ends: Ends,
    /// Upstream has answered it.
    answered: bool,
    /// What is being fetched at the moment.
    in_flight: Vec<Range<u64>>,
    /// Which of upstream's addresses bytes came from.
    endpoints: Vec<usize>,
    /// Upstream ignores ranges: whatever is wanted, all that lies before it comes first.
    unranged: bool,
    /// Upstream contradicts the length that an earlier process, or HEAD, was told: nothing of it is worth keeping.
    condemned: bool,
}

impl State {
    fn is_over(&self) -> bool {
        self.verified || self.failed.is_some()
    }

    /// The end of the blob, as far as it is known.
    fn bound(&self) -> u64 {
        self.total.unwrap_or(ENDLESS)
    }

    /// Whether all of the blob is here.
    fn is_whole(&self) -> bool {
        self.total.is_some_and(|total| self.segments.contiguous(0, total) == total)
    }

    /// The end of what may be read before the hash was checked.
    fn proven(&self) -> u64 {
        self.total.unwrap_or_else(|| self.segments.contiguous(0, ENDLESS)).saturating_sub(TAIL)
    }

    /// The first stretch that is neither here nor being fetched.
    fn next_free(&self) -> Option<Range<u64>> {
        bridged(self.segments.gaps(0..self.bound())).into_iter().find_map(|gap| first_free(gap, &self.in_flight))
    }
}

/// What a reader finds at its position.
#[derive(Debug)]
pub(super) enum Found {
    /// Readable up to here.
    Until(u64),
    /// The blob, which was checked, ends here.
    End,
    /// On its way.
    Wait,
    /// Nobody fetches it.
    Nobody,
    /// The download that would have brought it has ended, by upstream's answer to another party.
    Refused,
    /// It will not come.
    Failed(BlobError),
}

impl Fill {
    fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock());
        self.changed.send_replace(());
        result
    }

    /// Ticks whenever something changed.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Length of the blob, once it is known.
    pub(super) fn total(&self) -> Option<u64> {
        self.state.lock().total
    }

    /// The end of the blob, as far as it is known.
    fn bound(&self) -> u64 {
        self.state.lock().bound()
    }

    /// What a reader finds at `position`. `party`: in whose name it reads, `since` when ([`Ends::count`]).
    fn find(&self, position: u64, aim: &Aim, party: Option<&Repository>, since: u64) -> Found {
        let (range, whole) = (&aim.range, aim.whole);
        let state = self.state.lock();
        let asked = if range.end == ENDLESS { state.bound() } else { range.end };
        // The reader was told another length, by a manifest: it must not take this for that.
        if state.total.is_some_and(|total| if whole { asked != total } else { asked > total }) {
            return Found::Failed(BlobError::Mismatch { registry: Arc::clone(&self.owner), digest: self.digest });
        }
        let part = !whole && (!state.whole || range.end - range.start <= PART);
        let readable = if state.verified || part { state.bound() } else { state.proven() };
        let end = asked.min(readable);
        let here = state.segments.contiguous(position, end.min(position.saturating_add(REACH)));
        if here > position {
            return Found::Until(here);
        }
        if state.verified && state.total.is_some_and(|total| position >= total) {
            return Found::End;
        }
        if let Some(error) = &state.failed {
            return Found::Failed(error.clone());
        }
        let left = || match state.ends.since(since, party) {
            Some(Meaning::Own(error) | Meaning::Shared(error)) => Found::Failed(error),
            Some(Meaning::Strangers) => Found::Refused,
            None => Found::Nobody,
        };
        if state.checking || position >= end {
            // Past `end` only the hash is missing.
            return if state.checking || state.whole || state.is_whole() { Found::Wait } else { left() };
        }
        let arriving = state.in_flight.iter().any(|flight| {
            let front = state.segments.contiguous(flight.start, flight.end);
            flight.start <= position && position < flight.end && position - front.min(position) <= REACH
        });
        let next = state.whole && {
            let claimed = state.in_flight.iter().map(|flight| flight.end).max().unwrap_or(0);
            position >= claimed && position - claimed <= REACH
        };
        if arriving || next || (state.whole && (whole || aim.patient || state.unranged)) { Found::Wait } else { left() }
    }

    /// Bytes that are here.
    pub(super) fn bytes(&self) -> u64 {
        self.state.lock().segments.bytes()
    }

    /// Upstream tells another length than this fill began with. Unless bytes have come that agreed with it, it was
    /// wrong then and would be wrong for ever: the writer throws the fill away. True when it does.
    fn condemn(&self) -> bool {
        let condemned = self.update(|state| {
            state.condemned = state.endpoints.is_empty();
            state.condemned
        });
        self.idle.notify_one();
        condemned
    }

    /// Takes up the length of the blob, unless it is known; `false` when it is, as another one.
    fn know(&self, total: u64) -> bool {
        let agreed = self.update(|state| *state.total.get_or_insert(total) == total);
        // The writer may have all of it already.
        self.idle.notify_one();
        agreed
    }

    /// Whether upstream sends the whole of it.
    fn is_fetched(&self) -> bool {
        let state = self.state.lock();
        state.whole && state.answered && !state.is_over()
    }

    /// Upstream ignores ranges.
    fn unrange(&self) {
        self.update(|state| state.unranged = true);
    }

    fn is_unranged(&self) -> bool {
        self.state.lock().unranged
    }

    fn is_condemned(&self) -> bool {
        self.state.lock().condemned
    }

    /// Why the fill failed, if it did.
    fn failure(&self) -> Option<BlobError> {
        self.state.lock().failed.clone()
    }

    /// Marks the fill as failed, when its writer ends; everybody who waits for more learns of it.
    pub(super) fn fail(&self, error: BlobError) {
        self.update(|state| {
            state.failed.get_or_insert(error);
        });
    }

    /// Whether nothing more will come: verified or failed.
    fn over(&self) -> bool {
        self.state.lock().is_over()
    }

    /// Where the first stretch begins that is neither here nor being fetched.
    fn first_free(&self) -> Option<u64> {
        self.state.lock().next_free().map(|free| free.start)
    }

    /// Claims the first stretch that is neither here nor being fetched, at most `most` long.
    fn claim_next(self: &Arc<Self>, most: u64) -> Option<Claimed> {
        let range = self.update(|state| {
            let free = state.next_free()?;
            let range = free.start..free.end.min(free.start.saturating_add(most));
            state.in_flight.push(range.clone());
            Some(range)
        })?;
        Some(Claimed { fill: Arc::clone(self), range })
    }

    /// Claims a stretch, whoever else may be fetching it.
    fn claim(self: &Arc<Self>, range: Range<u64>) -> Claimed {
        self.update(|state| state.in_flight.push(range.clone()));
        Claimed { fill: Arc::clone(self), range }
    }

    /// The parts of a range that are not here.
    fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.state.lock().segments.gaps(range)
    }

    /// What to ask for, to have a range.
    fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        bridged(self.gaps(range))
    }

    /// Where what is here from `position` on ends.
    fn contiguous(&self, position: u64) -> u64 {
        let state = self.state.lock();
        state.segments.contiguous(position, state.bound())
    }

    /// Notes which of upstream's addresses sends.
    fn note_endpoint(&self, endpoint: usize) {
        let mut state = self.state.lock();
        if state.answered && state.endpoints.contains(&endpoint) {
            return;
        }
        state.answered = true;
        if !state.endpoints.contains(&endpoint) {
            state.endpoints.push(endpoint);
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// Whether all that was ever missing is here or on its way.
    pub(super) fn will_be_whole(&self) -> bool {
        let state = self.state.lock();
        state.whole || state.checking || state.is_whole()
    }

    /// Waits until what an earlier process left was checked.
    async fn checked(&self) {
        self.wait(|state| !state.checking).await;
    }

    async fn wait(&self, until: impl Fn(&State) -> bool) {
        let mut changes = self.changes();
        while !until(&self.state.lock()) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Gaps as they are asked for: across what is here between two of them, where that is less than a further request is worth.
fn bridged(gaps: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut wider: Vec<Range<u64>> = Vec::new();
    for gap in gaps {
        match wider.last_mut() {
            Some(last) if gap.start - last.end < download::CUT => last.end = gap.end,
            _ => wider.push(gap),
        }
    }
    wider
}

/// The first part of a gap that nobody fetches.
fn first_free(gap: Range<u64>, in_flight: &[Range<u64>]) -> Option<Range<u64>> {
    let mut start = gap.start;
    while let Some(flight) = in_flight.iter().find(|flight| flight.contains(&start)) {
        start = flight.end;
    }
    let end = in_flight.iter().map(|flight| flight.start).filter(|flight| *flight > start).min();
    let end = end.unwrap_or(gap.end).min(gap.end);
    (start < end).then_some(start..end)
}

/// A stretch that is being fetched, until this is dropped.
struct Claimed {
    fill: Arc<Fill>,
    range: Range<u64>,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.fill.update(|state| {
            if let Some(position) = state.in_flight.iter().position(|flight| *flight == self.range) {
                state.in_flight.swap_remove(position);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::download::CUT;
    use super::{bridged, first_free};

    #[test]
    fn what_is_here_is_bridged_where_it_is_small() {
        let ranges = |pairs: &[(u64, u64)]| pairs.iter().map(|(start, end)| *start..*end).collect::<Vec<_>>();
        for (gaps, expected) in [
            (&[][..], &[][..]),
            (&[(5, 10)], &[(5, 10)]),
            (&[(0, 900), (1000, 3000)], &[(0, 3000)]),
            (&[(0, 1), (2, 3), (4, 5)], &[(0, 5)]),
            (&[(0, 10), (10 + CUT, CUT + 20)], &[(0, 10), (10 + CUT, CUT + 20)]),
            (&[(0, 10), (9 + CUT, CUT + 20), (2 * CUT + 20, 3 * CUT)], &[(0, CUT + 20), (2 * CUT + 20, 3 * CUT)]),
        ] {
            assert_eq!(bridged(ranges(gaps)), ranges(expected), "{gaps:?}");
        }
    }

    #[test]
    fn the_next_stretch_nobody_fetches() {
        assert_eq!(first_free(0..100, &[]), Some(0..100));
        assert_eq!(first_free(0..100, &[0..10, 10..20, 50..60]), Some(20..50));
        assert_eq!(first_free(0..10, std::slice::from_ref(&(0..10))), None);
        assert_eq!(first_free(5..10, &[20..30, 0..6]), Some(6..10));
    }
}

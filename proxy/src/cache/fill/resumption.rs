//! A download of the whole blob that was broken off goes on with a client that resumes.
//!
//! The map of a partial lags behind its file ([`super::writer`]). After a kill, clients have bytes that the edge no longer knows.
//! A client resumes where it stands, so it never asks for the bytes before, and the blob would keep that gap.
//!
//! Rule: the map says whether a download of the whole blob has ever begun. After a client has read a range of such a blob up to the
//! blob's end, a download of the whole fetches the gaps that are left, in that client's name.
//!
//! Bounds:
//! - It begins after the client's last byte is here, so the client waits for nothing and sees no failure of it.
//! - It is a download of the whole like any other: one at a time, with connections in the turns of the fill's parties.
//! - Each range that is read to the end causes one attempt at most.
//! - A blob that was only asked for in parts keeps those parts alone.
//! - A range that ends before the blob does fetches nothing more: lazy snapshotters read parts and do not want the whole.

use std::sync::Arc;

use super::lease::Lease;
use super::registry::{Fills, Origin};
use super::{Fill, State};
use crate::cache::store::Store;

impl State {
    /// Whether a download of the whole is to fetch the gaps, after a client has read up to `end`.
    fn is_to_be_resumed(&self, end: u64) -> bool {
        let broken_off = self.begun_whole && !self.whole && !self.is_over();
        broken_off && end >= self.bound() && !self.is_whole()
    }
}

impl Fill {
    /// Whether a download of the whole blob has ever begun, in an earlier process as well.
    pub(super) fn has_begun_whole(&self) -> bool {
        self.state.lock().begun_whole
    }
}

impl Fills {
    /// Called when a client has read up to `end`. Without an origin upstream may not be asked, and nothing is fetched.
    pub(in crate::cache) fn resume_after(
        self: &Arc<Self>,
        store: &Arc<Store>,
        lease: &Lease,
        origin: Option<&Origin>,
        end: u64,
    ) {
        if let Some(origin) = origin
            && lease.fill().state.lock().is_to_be_resumed(end)
        {
            tracing::debug!(digest = %lease.digest, "the download of the whole goes on: it was broken off");
            self.ensure_whole(store, lease, origin, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::State;
    use crate::cache::fill::ENDLESS;

    #[test]
    fn what_was_broken_off_is_resumed_after_a_range_to_the_end() {
        const TOTAL: u64 = 1000;
        let bytes = [0; 1000];
        // What is here of a blob whose download of the whole was broken off; how far a client has read; whether the rest is fetched.
        for (here, end, expected) in [
            (&[(0, 400), (500, 1000)][..], TOTAL, true),
            (&[(500, 1000)], TOTAL, true),
            (&[(0, 100), (200, 400), (500, 600), (700, 1000)], TOTAL, true),
            (&[(0, 400), (500, 1000)], ENDLESS, true),
            (&[(0, 400), (500, 1000)], TOTAL - 1, false),
            (&[(0, 400), (500, 600)], 600, false),
            (&[(0, 1000)], TOTAL, false),
        ] {
            let state = || {
                let mut state = State { total: Some(TOTAL), begun_whole: true, ..State::default() };
                for (start, until) in here {
                    state.segments.insert(*start, &bytes[..usize::try_from(until - start).unwrap()]);
                }
                state
            };
            assert_eq!(state().is_to_be_resumed(end), expected, "{here:?}, read up to {end}");
            for (what, other) in [
                ("only parts were asked for", State { begun_whole: false, ..state() }),
                ("a download runs", State { whole: true, ..state() }),
                ("verified", State { verified: true, ..state() }),
                ("of unknown length", State { total: None, ..state() }),
            ] {
                let expected = other.total.is_none() && end == ENDLESS;
                assert_eq!(other.is_to_be_resumed(end), expected, "{here:?}, read up to {end}, {what}");
            }
        }
    }
}

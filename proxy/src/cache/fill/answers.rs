//! Which party each answer of upstream's about a fill is for.
//!
//! A fill is shared by all parties that ask for its digest: repositories, and callers with credentials of their own. Each
//! may have its own right to the blob.
//!
//! Rule: what upstream says to one party is an answer to that party alone. It ends no other party's download, is given to
//! no other party, and nothing is learnt from it about another. So a failure carries the party that asked ([`Failure`]). A party
//! that waited for a download takes its own answer, and a failure that is no party's own, as final. After a stranger's answer it asks in its
//! own name.
//!
//! Bound: a party that asks in its own name finds the answer among the [`Ends`] of the fill, as do all requests of the same
//! party that waited for it. So each party costs one attempt, however many requests wait.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use pierhead_registry::client::Repository;
use tokio::time::timeout;

use super::download::{self, Body};
use super::lease::Lease;
use super::registry::{Fills, Origin};
use super::{Fill, State};
use crate::cache::BlobError;
use crate::cache::store::Store;

/// How many answers to strangers a party waits through before it goes past the store.
const STRANGERS: usize = 16;
/// How many ended downloads a fill remembers. Forgetting one costs its party a further request.
const ENDS: usize = 256;
/// How long the answer to a client waits for the check of what an earlier process left, and so for upstream's answer after it.
const CHECKING: Duration = Duration::from_secs(5);

/// A failure, and whose question it answered.
#[derive(Clone)]
pub(super) struct Failure {
    error: BlobError,
    /// `None`: upstream was not to be asked.
    party: Option<Repository>,
}

/// What a failure means to a party.
#[derive(Clone, Debug)]
pub(super) enum Meaning {
    /// It is the party's own answer: final, also while others download.
    Own(BlobError),
    /// It is no party's own: final, unless another download has begun.
    Shared(BlobError),
    /// It answered another party. This one may ask in its own name.
    Strangers,
}

impl Failure {
    /// A failure of what was fetched from `origin`.
    pub(super) fn new(error: BlobError, origin: Option<&Origin>) -> Failure {
        Failure { error, party: origin.map(Origin::party).cloned() }
    }

    /// What it means to a party; to `None`, which may not ask upstream, no answer of upstream's is its own.
    pub(super) fn meaning(&self, party: Option<&Repository>) -> Meaning {
        let error = self.error.clone();
        match (&self.error, party) {
            (BlobError::Upstream(failure), Some(party)) if party.shares(failure, self.party.as_ref()) => {
                Meaning::Shared(error)
            }
            (BlobError::Upstream(_), Some(party)) if self.party.as_ref() == Some(party) => Meaning::Own(error),
            (BlobError::Upstream(_), _) => Meaning::Strangers,
            // That one party may not ask says nothing about one that may.
            (BlobError::Offline { .. }, Some(_)) => Meaning::Strangers,
            (BlobError::Offline { .. }, None) => Meaning::Own(error),
            (BlobError::Busy(_) | BlobError::Mismatch { .. } | BlobError::Storage { .. }, _) => Meaning::Shared(error),
        }
    }
}

/// The downloads of the whole blob that failed and may be tried again: the last one of each party.
#[derive(Default)]
pub(super) struct Ends {
    /// How many there were.
    count: u64,
    /// With the count after each, oldest first.
    last: VecDeque<(u64, Failure)>,
}

impl Ends {
    /// How many there were so far.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    fn note(&mut self, failure: Failure) {
        self.count += 1;
        self.last.retain(|(_, known)| known.party != failure.party);
        if self.last.len() == ENDS {
            self.last.pop_front();
        }
        self.last.push_back((self.count, failure));
    }

    /// What those after the first `since` mean to a party: its own answer before all others. `None`: there was none.
    pub(super) fn since(&self, since: u64, party: Option<&Repository>) -> Option<Meaning> {
        let mut found = None;
        for (_, failure) in self.last.iter().rev().take_while(|(number, _)| *number > since) {
            match (failure.meaning(party), &found) {
                (own @ Meaning::Own(_), _) => return Some(own),
                (shared @ Meaning::Shared(_), None | Some(Meaning::Strangers)) => found = Some(shared),
                (Meaning::Strangers, None) => found = Some(Meaning::Strangers),
                (Meaning::Shared(_) | Meaning::Strangers, _) => {}
            }
        }
        found
    }
}

impl State {
    /// Whether a party that waits for upstream's answer to the download of the whole has it; `None`: not yet. `Ok(false)`: a
    /// stranger has its answer, and the download is over.
    fn answer(&self, since: u64, party: Option<&Repository>) -> Option<Result<bool, BlobError>> {
        match &self.failed {
            // Readers go on past the store.
            Some(BlobError::Storage { .. }) => return Some(Ok(true)),
            Some(error) => return Some(Err(error.clone())),
            None => {}
        }
        match self.ends.since(since, party) {
            Some(Meaning::Own(error)) => Some(Err(error)),
            _ if self.verified || self.checking || (self.whole && self.answered) => Some(Ok(true)),
            _ if self.whole => None,
            Some(Meaning::Shared(error)) => Some(Err(error)),
            Some(Meaning::Strangers) => Some(Ok(false)),
            None => Some(Ok(true)),
        }
    }
}

impl Fill {
    /// How many downloads of the whole have failed.
    pub(super) fn ends(&self) -> u64 {
        self.state.lock().ends.count()
    }

    /// Becomes the one download of the whole blob, unless there is one or none is needed. How earlier ones failed is known to those who
    /// waited for them, and nothing to a new one; after a failure of the fill itself the writer has ended, and with it the fill.
    fn begin_whole(&self) -> bool {
        self.update(|state| {
            let begin = !state.whole && !state.is_over();
            if begin {
                state.whole = true;
                state.begun_whole = true;
                state.answered = false;
            }
            begin
        })
    }

    /// Ends the download of the whole, and says how it failed in the same moment: no other download may begin in between, whose party would
    /// take this failure for its own.
    pub(super) fn end_whole(&self, failed: Option<Failure>) {
        self.update(|state| {
            state.whole = false;
            match failed {
                None => {}
                Some(failure) if matches!(failure.error, BlobError::Upstream(_) | BlobError::Busy(_)) => {
                    state.ends.note(failure);
                }
                Some(failure) => drop(state.failed.get_or_insert(failure.error)),
            }
        });
    }
}

impl Lease {
    /// Waits until upstream has answered the download of the whole blob, or has failed to answer. Without the wait, a client whose blob
    /// is here in part would get that part, and only then learn that upstream is gone. False after an answer to a stranger.
    async fn answered(&self, party: Option<&Repository>) -> Result<bool, BlobError> {
        let _ = timeout(CHECKING, self.checked()).await;
        let mut changes = self.changes();
        loop {
            if let Some(answer) = self.state.lock().answer(self.since(), party) {
                return answer;
            }
            if changes.changed().await.is_err() {
                return Ok(true);
            }
        }
    }

    /// Waits until a byte of the blob may be read, or the download of the whole is over. A blob of at most [`super::TAIL`] bytes has been
    /// checked by then. Fails when the content was wrong; the client that waits has no byte of it.
    async fn begun(&self) -> Result<(), BlobError> {
        self.wait(|state| state.is_over() || !state.whole || state.proven() > 0).await;
        match self.failure() {
            Some(error @ BlobError::Mismatch { .. }) => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits until the length of the blob is known, or nothing comes that tells it. True when that is for an answer to a stranger.
    pub(in crate::cache) async fn settled(&self, party: Option<&Repository>) -> bool {
        let known = |state: &State| state.total.is_some() || state.is_over();
        self.wait(|state| known(state) || (!state.whole && state.ends.count() > self.since())).await;
        let state = self.state.lock();
        !known(&state) && matches!(state.ends.since(self.since(), party), Some(Meaning::Strangers))
    }

    /// Waits until a download of the whole blob has proven its length, or failed; at most for `patience`.
    pub(in crate::cache) async fn proven(
        &self,
        patience: Duration,
        party: Option<&Repository>,
    ) -> Result<(), BlobError> {
        let _ = timeout(patience, self.wait(|state| !state.whole || state.is_over())).await;
        let state = self.state.lock();
        match (&state.failed, state.ends.since(self.since(), party)) {
            (Some(error), _) => Err(error.clone()),
            (None, _) if state.whole || state.verified => Ok(()),
            (None, Some(Meaning::Own(error) | Meaning::Shared(error))) => Err(error),
            (None, Some(Meaning::Strangers) | None) => Ok(()),
        }
    }
}

impl Fills {
    /// Makes sure that the whole blob is being fetched, and waits for upstream's answer; of a small blob, until its hash was checked. If a
    /// stranger fetches it and is refused, the party of `origin` asks next. Without an origin, only what others fetch is waited for. False
    /// when too many strangers were refused.
    pub(in crate::cache) async fn answered(
        self: &Arc<Self>,
        store: &Arc<Store>,
        lease: &Lease,
        origin: Option<&Origin>,
    ) -> Result<bool, BlobError> {
        let offline = || BlobError::Offline { digest: lease.digest };
        for _ in 0..STRANGERS {
            match origin {
                Some(origin) => self.ensure_whole(store, lease, origin, None),
                None if lease.will_be_whole() => {}
                None => return Err(offline()),
            }
            if lease.answered(origin.map(Origin::party)).await? {
                return lease.begun().await.map(|()| true);
            }
        }
        origin.map(|_| false).ok_or_else(offline)
    }

    /// For a party whose download ended by an answer to a stranger: makes sure that the rest is being fetched.
    pub(in crate::cache) fn go_on(self: &Arc<Self>, store: &Arc<Store>, lease: &Lease, origin: &Origin) {
        self.ensure_whole(store, lease, origin, None);
    }

    /// Makes sure that the whole blob is being fetched. `body`: its beginning, where upstream sends that already.
    pub(super) fn ensure_whole(
        self: &Arc<Self>,
        store: &Arc<Store>,
        lease: &Lease,
        origin: &Origin,
        body: Option<Body>,
    ) {
        if lease.begin_whole() {
            let avoid = self.refused(&lease.digest);
            let (lease, store, origin) = (lease.clone(), Arc::clone(store), origin.clone());
            tokio::spawn(download::whole(lease, store, Arc::clone(self), origin, body, avoid));
        }
    }
}

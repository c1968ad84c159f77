//! How a collection works: one change after another, each at once; or, to see what it would come to, all in one that never happens.

use std::ops::Deref;

use tokio_util::sync::CancellationToken;

use crate::meta::{Change, Meta, MetaError, Turn};

/// A collection that is under way.
pub(super) enum Work<'a> {
    /// In earnest.
    Earnest { meta: &'a Meta, turn: Turn, stop: &'a CancellationToken },
    /// To see what it would come to, and to say it.
    Rehearsal { change: Change, tell: fn(&str) },
}

/// A step of it.
pub(super) enum Step<'a> {
    Own(Change),
    Shared(&'a Change),
}

impl Work<'_> {
    /// Whether to go on.
    pub(super) async fn goes_on(&self) -> Result<bool, MetaError> {
        match self {
            Work::Earnest { stop, .. } if stop.is_cancelled() => Ok(false),
            Work::Earnest { turn, .. } => turn.holds().await.map(|()| true),
            Work::Rehearsal { .. } => Ok(true),
        }
    }

    /// Begins a step.
    pub(super) async fn step(&self) -> Result<Step<'_>, MetaError> {
        match self {
            Work::Earnest { meta, .. } => Ok(Step::Own(meta.change().await?)),
            Work::Rehearsal { change, .. } => Ok(Step::Shared(change)),
        }
    }

    /// Whether this is for show.
    pub(super) fn is_rehearsal(&self) -> bool {
        matches!(self, Work::Rehearsal { .. })
    }

    /// Says what was taken away, or would be.
    pub(super) fn tell(&self, kind: &str, what: &str) {
        match self {
            Work::Earnest { .. } => tracing::debug!(kind, what, "garbage"),
            Work::Rehearsal { tell, .. } => tell(&format!("{kind} {what}")),
        }
    }
}

impl Step<'_> {
    /// Makes it so, unless it is for show.
    pub(super) async fn done(self) -> Result<(), MetaError> {
        match self {
            Step::Own(change) => change.commit().await,
            Step::Shared(_) => Ok(()),
        }
    }
}

impl Deref for Step<'_> {
    type Target = Change;

    fn deref(&self) -> &Change {
        match self {
            Step::Own(change) => change,
            Step::Shared(change) => change,
        }
    }
}

//! A look at the clock: tokens of a node whose clock is ahead are refused by the others, and who writes on an upload is told by time.

use crate::api::Origin;
use crate::auth::LEEWAY;

/// Tells of a clock that is too far from the database's, and so from those of other nodes.
pub(super) async fn look(origin: &Origin) {
    match origin.meta.clock_ahead().await {
        Ok(ahead) if ahead.unsigned_abs() > LEEWAY.unsigned_abs() => {
            tracing::warn!(database_ahead_ms = ahead, "the clocks of this node and of the database are far apart");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the database's clock was not looked at"),
    }
}

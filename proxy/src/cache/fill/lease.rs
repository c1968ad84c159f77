//! Keeps a fill registered, for as long as anybody reads from it or is about to.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Fill;

/// Keeps a fill registered.
pub(in crate::cache) struct Lease(Arc<Fill>);

impl Lease {
    /// One more.
    pub(super) fn new(fill: &Arc<Fill>) -> Lease {
        fill.users.fetch_add(1, Ordering::SeqCst);
        Lease(Arc::clone(fill))
    }

    /// The fill itself.
    pub(super) fn fill(&self) -> &Arc<Fill> {
        &self.0
    }
}

impl Clone for Lease {
    fn clone(&self) -> Lease {
        Lease::new(&self.0)
    }
}

impl Deref for Lease {
    type Target = Fill;

    fn deref(&self) -> &Fill {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.0.users.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.idle.notify_one();
        }
    }
}

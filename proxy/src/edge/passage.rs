//! A request that goes to the servers of a pool as it is, and what is to be learnt from its answer.
//!
//! Invariant: what a write makes out of date is forgotten before the writer hears of its success, so the next pull sees
//! what was pushed.

use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;
use pierhead_registry::oci::RepositoryName;

use super::form::TokenForm;
use super::forward::Errand;
use super::grant::Grant;
use super::ping::LonePing;
use super::scope::Upstream;
use super::served::{Refused, Served};
use super::written::{Change, Written};
use crate::cache::{Cache, Extent, RepositoryId};
use crate::pool::Pool;

/// A request on its way past the cache.
pub(crate) struct Passage {
    /// Whose servers.
    pub(crate) pool: Arc<Pool>,
    /// Path and query where they do not go out as they came in.
    pub(crate) target: Option<String>,
    /// Whether `Authorization` is a login at this edge, and so goes no further.
    pub(crate) own_login: bool,
    /// What the client gets when no server answers; `None`: just that.
    pub(crate) otherwise: Option<Otherwise>,
    /// What it writes, if it does.
    pub(crate) write: Option<Write>,
    /// The token that it asks for, if it does.
    pub(crate) grant: Option<Grant>,
}

/// What a client gets when no server answers.
pub(crate) enum Otherwise {
    /// What was found before.
    Found(Box<Result<Served, Refused>>),
    /// The edge's own answer to a ping.
    Ping(Box<LonePing>),
}

impl Errand for Passage {
    fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    fn own_login(&self) -> bool {
        self.own_login
    }

    fn is_for_a_registry(&self) -> bool {
        true
    }

    /// What a stranger wants to be changed, and hangs up, must not be taken for changed.
    fn outlives_its_client(&self) -> bool {
        self.write.is_some()
    }

    fn copied(&self) -> Option<&TokenForm> {
        self.grant.as_ref()?.form()
    }

    async fn answered(&self, status: Option<StatusCode>) {
        if let Some(write) = &self.write {
            write.answered(status).await;
        }
        if let Some(grant) = &self.grant
            && status == Some(StatusCode::OK)
        {
            grant.issued();
        }
    }
}

/// Something that is written to a registry.
pub(crate) struct Write {
    cache: Arc<Cache>,
    upstream: Arc<Upstream>,
    changes: Vec<Change>,
}

impl Write {
    /// If anything is changed.
    pub(crate) fn new(cache: &Arc<Cache>, upstream: &Arc<Upstream>, changes: Vec<Change>) -> Option<Write> {
        let (cache, upstream) = (Arc::clone(cache), Arc::clone(upstream));
        (!changes.is_empty()).then_some(Write { cache, upstream, changes })
    }

    /// Forgets what an answer to it makes out of date.
    pub(super) async fn answered(&self, status: Option<StatusCode>) {
        for change in self.changes.iter().filter(|change| change.is_done(status)) {
            // With one of those, a question that begins after this would bring the old answer.
            if change.concerns_rights() {
                self.upstream.forget_tokens();
            }
            // What comes back from questions that are under way is then known to be older than this.
            self.upstream.writes.begin(&change.extent()).await;
            match change {
                Change::Within(name, written) => self.forget(name, written).await,
                Change::Gone(extent) => self.gone(extent).await,
                // Where all see what the edge's account sees, they know no more than it may.
                Change::Rights(extent) if !self.upstream.is_passthrough() => self.gone(extent).await,
                Change::Rights(extent) => self.cache.forget_authorised(&self.upstream.name, extent).await,
                Change::Credentials => self.upstream.writes.doubt(SystemTime::now()),
                Change::Created => {}
            }
        }
    }

    async fn forget(&self, name: &RepositoryName, written: &Written) {
        let (cache, keep_deleted) = (&self.cache, self.upstream.config.keep_deleted);
        let repository = &RepositoryId { registry: Arc::clone(&self.upstream.name), name: name.clone() };
        match written {
            Written::Tag(tag) => cache.remove_tag(repository, tag).await,
            Written::Untagged(tag) if !keep_deleted => cache.remove_tag(repository, tag).await,
            Written::Deleted(digest) if !keep_deleted => cache.unlink(repository, digest).await,
            Written::Untagged(_) | Written::Deleted(_) | Written::Manifest | Written::Upload => {}
        }
        if *written != Written::Upload {
            cache.remove_lists(repository).await;
        }
    }

    async fn gone(&self, extent: &Extent) {
        if !self.upstream.config.keep_deleted {
            self.cache.forget_all(&self.upstream.name, extent).await;
        }
    }
}

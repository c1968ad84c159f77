//! What a registry does: pull, push, list, delete. Nothing here knows HTTP.
//!
//! Content goes to the store, what is known of it to the database; `../meta/blobs.rs` says how the two stay together. Who may do
//! something was decided before it comes here; what is decided here is whether it can be done.
//!
//! Invariants: nothing is acknowledged that is not safe; nothing is found under a digest that it does not hash to; whatever a node
//! began, another can go on with.

mod creation;
mod deletion;
mod error;
mod expiration;
mod full;
mod json_limits;
mod lists;
mod manifest;
mod manifest_shape;
mod publish;
mod pull;
mod referrers;
#[cfg(test)]
pub(crate) mod slow_store;
#[cfg(test)]
mod tests;
mod upload;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moka::sync::Cache;
use parking_lot::RwLock;
use pierhead_config::OriginConfig;
use pierhead_registry::oci::Digest;
use pierhead_registry::store::BlobStore;

use crate::meta::{Change, Meta, Millis, Repository, RepositoryState, now};
use crate::metrics::Metrics;

pub(crate) use error::RegistryError;
pub(crate) use lists::LONGEST_PAGE;
pub(crate) use publish::Pushed;
pub(crate) use referrers::ReferrersAsked;
pub(crate) use upload::{Finished, Piece, Standing, checkpoint};

/// Memory for manifests that are pulled often.
const REMEMBERED: u64 = 16 * 1024 * 1024;

/// What is taken, and how long it is held: keys by the names that they have in the configuration.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    max_layer_size: u64,
    max_manifest_size: u64,
    open_uploads: u32,
    /// How long a repository holds a blob that no manifest needs: the time to finish a push.
    blob_grace: Duration,
}

impl Bounds {
    fn of(config: &OriginConfig) -> Bounds {
        Bounds {
            max_layer_size: config.limits.max_layer_size,
            max_manifest_size: config.limits.max_manifest_size,
            open_uploads: config.limits.open_uploads,
            blob_grace: config.garbage_collection.blob_grace,
        }
    }
}

/// The registry. Shared by all requests.
pub(crate) struct Registry {
    pub(crate) meta: Meta,
    store: Arc<dyn BlobStore>,
    metrics: Arc<Metrics>,
    bounds: RwLock<Bounds>,
    /// Content by digest: it cannot change, so that it need not be forgotten.
    remembered: Cache<Digest, Bytes>,
}

impl Registry {
    /// Over a database and a store.
    pub(crate) fn new(meta: Meta, store: Arc<dyn BlobStore>, metrics: Arc<Metrics>, config: &OriginConfig) -> Registry {
        let weight = |_: &Digest, content: &Bytes| u32::try_from(content.len() + 128).unwrap_or(u32::MAX);
        Registry {
            meta,
            store,
            metrics,
            bounds: RwLock::new(Bounds::of(config)),
            remembered: Cache::builder().weigher(weight).max_capacity(REMEMBERED).build(),
        }
    }

    /// Other bounds, for what begins from now on.
    pub(crate) fn set_bounds(&self, config: &OriginConfig) {
        *self.bounds.write() = Bounds::of(config);
    }

    fn bounds(&self) -> Bounds {
        *self.bounds.read()
    }

    /// Largest manifest.
    pub(crate) fn max_manifest_size(&self) -> u64 {
        self.bounds().max_manifest_size
    }

    /// Until when a blob is held that was pushed now and that no manifest needs yet.
    fn held_until(&self) -> Millis {
        now().saturating_add(i64::try_from(self.bounds().blob_grace.as_millis()).unwrap_or(i64::MAX))
    }

    /// The repository of that name.
    async fn repository(&self, name: &str) -> Result<Repository, RegistryError> {
        self.meta.repository(name).await?.ok_or(RegistryError::NameUnknown)
    }

    /// The same, for a change: it stays as it is until the change ends.
    async fn writable(&self, change: &Change, id: i64) -> Result<Repository, RegistryError> {
        let repository = change.hold_repository(id).await?.ok_or(RegistryError::NameUnknown)?;
        if repository.state == RepositoryState::Normal { Ok(repository) } else { Err(RegistryError::ReadOnly) }
    }
}

//! What is known of repositories: their manifests, tags, lists and blobs, and who may read them. From memory where it is
//! there, else from the store.
//!
//! Invariant: what is forgotten is forgotten in the store, then in memory; who takes something from the store into memory
//! looks once more whether it is still there. So one of the two sees the other, and nothing that was forgotten comes back.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use pierhead_registry::client::EdgeId;
use pierhead_registry::oci::{Digest, Tag};

use super::records::RecordGroup;
use super::store::blocking;
use super::{Cache, CachedManifest, Extent, ListRecord, RepositoryId, TagRecord};

impl Cache {
    /// A manifest by digest, if this repository is known to hold it and its bytes are here. Counts as a use.
    pub(crate) async fn manifest(&self, repository: &RepositoryId, digest: &Digest) -> Option<Arc<CachedManifest>> {
        let now = SystemTime::now();
        if let Some(hot) = self.store.hot.manifest(repository, digest) {
            if hot.first_use(now) {
                self.store.ledger.committed(digest, now);
                self.store.ledger.use_records(&RecordGroup::names(repository), now);
            }
            return Some(hot.manifest);
        }
        let (store, id, digest) = (Arc::clone(&self.store), repository.clone(), *digest);
        let read = blocking(move || {
            let media_type = store.read_link(&id, &digest).filter(|media_type| !media_type.is_empty())?;
            store.ledger.committed(&digest, now)?;
            store.ledger.use_records(&RecordGroup::names(&id), now);
            let bytes = Bytes::from(store.read(&digest)?);
            let manifest = Arc::new(CachedManifest { digest, media_type: media_type.into(), bytes });
            store.hot.put_manifest(&id, Arc::clone(&manifest));
            // An eviction forgets the entry, then what is hot of it.
            if store.ledger.get(&digest).is_none() || store.read_link(&id, &digest).is_none() {
                store.hot.forget(&id, &digest);
            }
            Some(manifest)
        });
        read.await.ok().flatten()
    }

    /// Keeps a manifest, and that this repository holds it. A full disk is not the caller's problem: it is logged and
    /// counted, and the manifest stays in memory.
    pub(crate) async fn put_manifest(&self, repository: &RepositoryId, manifest: Arc<CachedManifest>, pinned: bool) {
        self.store.hot.put_manifest(repository, Arc::clone(&manifest));
        let (store, id) = (Arc::clone(&self.store), repository.clone());
        let stored = blocking(move || {
            if let Err(why) = store.put_manifest(&id, &manifest, pinned) {
                tracing::warn!(repository = %id, digest = %manifest.digest, %why, "manifest not stored");
            }
        });
        self.done(stored.await);
    }

    /// Whether the configuration pins a repository, or a tag of it.
    pub(crate) fn is_pinned(&self, repository: &RepositoryId, tag: Option<&Tag>) -> bool {
        self.store.pins.load().pinned(repository, tag)
    }

    /// What a tag was last known to mean.
    pub(crate) async fn tag(&self, repository: &RepositoryId, tag: &Tag) -> Option<TagRecord> {
        if let Some(record) = self.store.hot.tag(repository, tag) {
            return Some(record);
        }
        let (store, id, name) = (Arc::clone(&self.store), repository.clone(), tag.clone());
        let read = blocking(move || {
            let record = store.read_tag(&id, &name)?;
            store.hot.put_tag(&id, &name, record);
            if store.read_tag(&id, &name) != Some(record) {
                store.hot.forget_tag(&id, &name);
            }
            Some(record)
        });
        read.await.ok().flatten()
    }

    /// Keeps what a tag means.
    pub(crate) async fn put_tag(&self, repository: &RepositoryId, tag: &Tag, record: TagRecord) {
        let (store, id, name) = (Arc::clone(&self.store), repository.clone(), tag.clone());
        self.done(blocking(move || store.put_tag(&id, &name, record)).await);
        self.store.hot.put_tag(repository, tag, record);
    }

    /// Forgets a tag that upstream says is gone.
    pub(crate) async fn remove_tag(&self, repository: &RepositoryId, tag: &Tag) {
        let (store, id, tag) = (Arc::clone(&self.store), repository.clone(), tag.clone());
        self.done(blocking(move || store.remove_tag(&id, &tag)).await);
    }

    /// A list. `key` names it within the repository, query included.
    pub(crate) async fn list(&self, repository: &RepositoryId, key: &str) -> Option<Arc<ListRecord>> {
        let key: Arc<str> = key.into();
        self.store.ledger.use_records(&RecordGroup::lists(repository), SystemTime::now());
        if let Some(record) = self.store.hot.list(repository, &key) {
            return Some(record);
        }
        let (store, id, name) = (Arc::clone(&self.store), repository.clone(), Arc::clone(&key));
        let read = blocking(move || {
            let record = Arc::new(store.tree.read_list(&id, &name)?);
            store.hot.put_list(&id, &name, Arc::clone(&record));
            if !store.tree.has_list(&id, &name) {
                store.hot.forget_lists(&id);
            }
            Some(record)
        });
        read.await.ok().flatten()
    }

    /// Keeps a list.
    pub(crate) async fn put_list(&self, repository: &RepositoryId, key: &str, record: Arc<ListRecord>) {
        let key: Arc<str> = key.into();
        self.store.hot.put_list(repository, &key, Arc::clone(&record));
        let (store, id) = (Arc::clone(&self.store), repository.clone());
        self.done(blocking(move || store.put_list(&id, &key, &record)).await);
    }

    /// Forgets all lists of a repository: something was written to it.
    pub(crate) async fn remove_lists(&self, repository: &RepositoryId) {
        let (store, id) = (Arc::clone(&self.store), repository.clone());
        let removed = blocking(move || {
            if let Err(error) = store.remove_lists(&id) {
                store.failed("deleting lists", &error);
            }
        });
        self.done(removed.await);
    }

    /// When upstream last said yes to this caller (an opaque hash of its credential) for this repository.
    pub(crate) async fn authorised(&self, repository: &RepositoryId, caller: &[u8; 32]) -> Option<SystemTime> {
        if let Some(when) = self.store.hot.authorised(repository, caller) {
            return Some(when);
        }
        let (store, id, who) = (Arc::clone(&self.store), repository.clone(), *caller);
        let read = blocking(move || {
            let when = store.index.authorised(&id, &who)?;
            store.hot.put_authorised(&id, &who, Some(when));
            if store.index.authorised(&id, &who).is_none() {
                store.hot.put_authorised(&id, &who, None);
            }
            Some(when)
        });
        read.await.ok().flatten()
    }

    /// Calls `look` with each caller that a registry let in, in any repository, until `look` breaks. Returns what `look` has noted, or the
    /// default if there are too many callers.
    pub(crate) async fn callers<T: Default + Send + 'static>(
        &self,
        registry: &Arc<str>,
        look: impl Fn(&mut T, &[u8; 32]) -> ControlFlow<()> + Send + 'static,
    ) -> T {
        let (store, registry) = (Arc::clone(&self.store), Arc::clone(registry));
        let read = blocking(move || {
            let mut seen = T::default();
            store.index.callers(&registry, |caller| look(&mut seen, caller)).then_some(seen)
        });
        read.await.ok().flatten().unwrap_or_default()
    }

    /// Keeps upstream's yes (`Some(when)`) or forgets it (`None`); in memory only unless it is to be `lasting`.
    pub(crate) async fn put_authorised(
        &self,
        repository: &RepositoryId,
        caller: &[u8; 32],
        when: Option<SystemTime>,
        lasting: bool,
    ) {
        self.store.hot.put_authorised(repository, caller, when);
        if !lasting {
            return;
        }
        let (store, id, caller) = (Arc::clone(&self.store), repository.clone(), *caller);
        self.done(blocking(move || store.put_authorised(&id, &caller, when)).await);
    }

    /// A secret of this store, for hashing callers. Random, kept in the tree, readable by the owner only.
    pub(crate) fn caller_key(&self) -> &[u8; 32] {
        &self.caller_key
    }

    /// What the edge that owns this store is called among edges.
    pub(crate) fn edge_id(&self) -> &EdgeId {
        &self.edge_id
    }

    /// The public keys of a registry's tokens, as they were last kept.
    pub(crate) async fn keys(&self, registry: &Arc<str>) -> Option<Vec<u8>> {
        let (store, registry) = (Arc::clone(&self.store), Arc::clone(registry));
        blocking(move || store.tree.read_keys(&registry)).await.ok().flatten()
    }

    /// Keeps them.
    pub(crate) async fn put_keys(&self, registry: &Arc<str>, keys: Vec<u8>) {
        let (store, registry) = (Arc::clone(&self.store), Arc::clone(registry));
        let stored = blocking(move || {
            if let Err(error) = store.tree.write_keys(&registry, &keys) {
                store.failed("writing keys", &error);
            }
        });
        self.done(stored.await);
    }

    /// Whether this repository is known to hold this blob.
    pub(crate) async fn holds(&self, repository: &RepositoryId, digest: &Digest) -> bool {
        if self.store.hot.linked(repository, digest) {
            return true;
        }
        let (store, id, name) = (Arc::clone(&self.store), repository.clone(), *digest);
        let read = blocking(move || {
            if store.read_link(&id, &name).is_none() {
                return false;
            }
            store.ledger.use_records(&RecordGroup::names(&id), SystemTime::now());
            store.hot.put_link(&id, &name);
            if store.read_link(&id, &name).is_none() {
                store.hot.forget(&id, &name);
            }
            true
        });
        read.await.unwrap_or(false)
    }

    /// Keeps that this repository holds this blob, because upstream said so.
    pub(crate) async fn link(&self, repository: &RepositoryId, digest: &Digest) {
        self.store.hot.put_link(repository, digest);
        // Without its content a link is remembered in memory only: nothing would ever remove its record.
        if self.store.ledger.get(digest).is_none() {
            return;
        }
        let (store, id, digest) = (Arc::clone(&self.store), repository.clone(), *digest);
        let stored = blocking(move || {
            if let Err(why) = store.link(&id, &digest, "") {
                tracing::warn!(repository = %id, %digest, %why, "link not stored");
            }
        });
        self.done(stored.await);
    }

    /// Forgets that this repository holds this content, because upstream said so.
    pub(crate) async fn unlink(&self, repository: &RepositoryId, digest: &Digest) {
        let (store, id, digest) = (Arc::clone(&self.store), repository.clone(), *digest);
        self.done(blocking(move || store.unlink(&id, &digest)).await);
    }

    /// Whether anything may be known of a repository.
    pub(crate) async fn has_records(&self, repository: &RepositoryId) -> bool {
        let (store, id) = (Arc::clone(&self.store), repository.clone());
        blocking(move || store.tree.has_records(&id)).await.unwrap_or(true)
    }

    /// When a repository was made, by the newest that a token of its registry told; `None`: none did.
    pub(crate) async fn created(&self, repository: &RepositoryId) -> Option<i64> {
        if let Some(created) = self.store.hot.created(repository) {
            return created;
        }
        let (store, id) = (Arc::clone(&self.store), repository.clone());
        blocking(move || store.created(&id)).await.ok().flatten()
    }

    /// A repository was made then: all that is known of one that was there before is forgotten. Whether what is known from here on is
    /// of this one.
    pub(crate) async fn made(&self, repository: &RepositoryId, created: i64) -> bool {
        let (store, id) = (Arc::clone(&self.store), repository.clone());
        let made = blocking(move || store.made(&id, created)).await;
        made.unwrap_or_else(|error| {
            self.done(Err(error));
            false
        })
    }

    /// Forgets all that is known of a part of a registry, and whom it let in there.
    pub(crate) async fn forget_all(&self, registry: &Arc<str>, extent: &Extent) {
        let (store, registry, extent) = (Arc::clone(&self.store), Arc::clone(registry), extent.clone());
        self.done(blocking(move || store.forget_all(&registry, &extent)).await);
    }

    /// Forgets whom a registry let in to a part of it.
    pub(crate) async fn forget_authorised(&self, registry: &Arc<str>, extent: &Extent) {
        let (store, registry, extent) = (Arc::clone(&self.store), Arc::clone(registry), extent.clone());
        self.done(blocking(move || store.forget_authorised(&registry, &extent)).await);
    }
}

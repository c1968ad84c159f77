//! What is asked for again and again, in memory: manifests, tags, lists, links, authorisations, sizes, and when repositories were made.
//!
//! Each cache is bounded by the bytes it holds. What falls out is read from the store again; what is removed from the
//! store is removed here in the same step.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use moka::sync::Cache as Moka;
use pierhead_registry::oci::{Digest, Manifest, Tag};

use super::{CachedManifest, Extent, ListRecord, RepositoryId, TagRecord, ledger};

/// A manifest with when its use was last told to the ledger, so that a hot one does not take the ledger's lock each time.
#[derive(Clone)]
pub(super) struct HotManifest {
    pub(super) manifest: Arc<CachedManifest>,
    told: Arc<AtomicU64>,
}

impl HotManifest {
    /// Whether this use is the first in this second.
    pub(super) fn first_use(&self, now: SystemTime) -> bool {
        let now = ledger::milliseconds(now) / 1000;
        self.told.swap(now, Ordering::Relaxed) != now
    }
}

type RepositoryKey<T> = (RepositoryId, T);

/// The hot entries.
pub(super) struct Hot {
    manifests: Moka<RepositoryKey<Digest>, HotManifest>,
    tags: Moka<RepositoryKey<Tag>, TagRecord>,
    lists: Moka<RepositoryKey<Arc<str>>, Arc<ListRecord>>,
    /// Known to hold this blob.
    links: Moka<RepositoryKey<Digest>, ()>,
    authorised: Moka<RepositoryKey<[u8; 32]>, SystemTime>,
    /// When repositories were made; `None`: nobody has said.
    created: Moka<RepositoryId, Option<i64>>,
    /// Sizes of blobs as manifests tell them.
    sizes: Moka<Digest, u64>,
}

/// What an entry costs beside its bytes: keys, the cache's own nodes.
const OVERHEAD: u32 = 512;

fn weigh(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX).saturating_add(OVERHEAD)
}

impl Hot {
    /// Divides `memory` bytes among the kinds.
    pub(super) fn new(memory: u64) -> Hot {
        let small = memory / 16;
        Hot {
            manifests: Moka::builder()
                .max_capacity(memory / 2)
                .weigher(|_, hot: &HotManifest| weigh(hot.manifest.bytes.len()))
                .build(),
            lists: Moka::builder()
                .max_capacity(memory / 8)
                .weigher(|_, list: &Arc<ListRecord>| weigh(list.bytes.len()))
                .support_invalidation_closures()
                .build(),
            tags: Moka::builder().max_capacity(small).weigher(|_, _| weigh(0)).build(),
            links: Moka::builder().max_capacity(small).weigher(|_, ()| weigh(0)).build(),
            authorised: Moka::builder().max_capacity(small).weigher(|_, _| weigh(0)).build(),
            created: Moka::builder().max_capacity(small).weigher(|_, _| weigh(0)).build(),
            sizes: Moka::builder().max_capacity(small).weigher(|_, _| weigh(0) / 2).build(),
        }
    }

    pub(super) fn manifest(&self, id: &RepositoryId, digest: &Digest) -> Option<HotManifest> {
        self.manifests.get(&(id.clone(), *digest))
    }

    pub(super) fn put_manifest(&self, id: &RepositoryId, manifest: Arc<CachedManifest>) {
        if let Ok(parsed) = Manifest::parse(&manifest.bytes) {
            // A descriptor without a size tells none.
            for blob in parsed.blobs.into_iter().filter(|blob| blob.size > 0) {
                self.sizes.insert(blob.digest, blob.size);
            }
        }
        let key = (id.clone(), manifest.digest);
        self.manifests.insert(key, HotManifest { manifest, told: Arc::new(AtomicU64::new(0)) });
    }

    pub(super) fn tag(&self, id: &RepositoryId, tag: &Tag) -> Option<TagRecord> {
        self.tags.get(&(id.clone(), tag.clone()))
    }

    pub(super) fn put_tag(&self, id: &RepositoryId, tag: &Tag, record: TagRecord) {
        self.tags.insert((id.clone(), tag.clone()), record);
    }

    pub(super) fn forget_tag(&self, id: &RepositoryId, tag: &Tag) {
        self.tags.invalidate(&(id.clone(), tag.clone()));
    }

    pub(super) fn list(&self, id: &RepositoryId, key: &Arc<str>) -> Option<Arc<ListRecord>> {
        self.lists.get(&(id.clone(), Arc::clone(key)))
    }

    pub(super) fn put_list(&self, id: &RepositoryId, key: &Arc<str>, record: Arc<ListRecord>) {
        self.lists.insert((id.clone(), Arc::clone(key)), record);
    }

    /// Forgets all lists of a repository.
    pub(super) fn forget_lists(&self, id: &RepositoryId) {
        let id = id.clone();
        // It fails only where closures are not supported, and here they are.
        let _ = self.lists.invalidate_entries_if(move |(of, _), _| *of == id);
    }

    pub(super) fn linked(&self, id: &RepositoryId, digest: &Digest) -> bool {
        self.links.get(&(id.clone(), *digest)).is_some()
    }

    pub(super) fn put_link(&self, id: &RepositoryId, digest: &Digest) {
        self.links.insert((id.clone(), *digest), ());
    }

    /// Forgets that a repository holds content.
    pub(super) fn forget(&self, id: &RepositoryId, digest: &Digest) {
        let key = (id.clone(), *digest);
        self.manifests.invalidate(&key);
        self.links.invalidate(&key);
    }

    /// Forgets all that is known of a part of a registry.
    pub(super) fn forget_all(&self, registry: &Arc<str>, extent: &Extent) {
        let covers = covers(registry, extent);
        forget_where(&self.manifests, &covers);
        forget_where(&self.tags, &covers);
        forget_where(&self.links, &covers);
        // As for one repository.
        let _ = self.lists.invalidate_entries_if(move |(id, _), _| covers(id));
        self.forget_authorised(registry, extent);
    }

    /// Forgets all that is known of some repositories, but for their lists: those say when they were made.
    pub(super) fn forget_names(&self, repositories: &HashSet<RepositoryId>) {
        if repositories.is_empty() {
            return;
        }
        let covers = |id: &RepositoryId| repositories.contains(id);
        forget_where(&self.manifests, covers);
        forget_where(&self.tags, covers);
        forget_where(&self.links, covers);
        forget_where(&self.authorised, covers);
        repositories.iter().for_each(|id| self.created.invalidate(id));
    }

    /// Forgets whom upstream let in to a part of a registry.
    pub(super) fn forget_authorised(&self, registry: &Arc<str>, extent: &Extent) {
        forget_where(&self.authorised, covers(registry, extent));
    }

    pub(super) fn authorised(&self, id: &RepositoryId, caller: &[u8; 32]) -> Option<SystemTime> {
        self.authorised.get(&(id.clone(), *caller))
    }

    pub(super) fn put_authorised(&self, id: &RepositoryId, caller: &[u8; 32], when: Option<SystemTime>) {
        let key = (id.clone(), *caller);
        match when {
            Some(when) => self.authorised.insert(key, when),
            None => self.authorised.invalidate(&key),
        }
    }

    /// When a repository was made, if it is known whether that is known.
    pub(super) fn created(&self, id: &RepositoryId) -> Option<Option<i64>> {
        self.created.get(id)
    }

    pub(super) fn put_created(&self, id: &RepositoryId, created: Option<i64>) {
        self.created.insert(id.clone(), created);
    }

    /// The size of a blob that a manifest here names.
    pub(super) fn size(&self, digest: &Digest) -> Option<u64> {
        self.sizes.get(digest)
    }
}

fn covers(registry: &Arc<str>, extent: &Extent) -> impl Fn(&RepositoryId) -> bool + Send + Sync + 'static {
    let (registry, extent) = (Arc::clone(registry), extent.clone());
    move |id| id.registry == registry && extent.covers(&id.name)
}

/// Looks at every entry, so that those who only read need not look at what was forgotten.
fn forget_where<T, V>(entries: &Moka<RepositoryKey<T>, V>, covers: impl Fn(&RepositoryId) -> bool)
where
    RepositoryKey<T>: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    for (key, _) in entries.iter().filter(|(key, _)| covers(&key.0)) {
        entries.invalidate(&*key);
    }
}

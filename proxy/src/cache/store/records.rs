//! Manifests, and the records of repositories: which content they hold, and what their tags mean.
//!
//! Invariant: the index may forget, and the tree has what it forgot; what is pinned follows the tags. All of it blocks.

use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use pierhead_registry::oci::{Digest, Tag};

use super::{NotStored, Store};
use crate::cache::ledger::Kind;
use crate::cache::{CachedManifest, Extent, RepositoryId, TagRecord, index};

/// In seconds.
const DAY: u64 = 24 * 3600;

impl Store {
    /// Keeps a manifest and that the repository holds it. Blocks.
    pub(in crate::cache) fn put_manifest(
        &self,
        id: &RepositoryId,
        manifest: &CachedManifest,
        pinned: bool,
    ) -> Result<(), NotStored> {
        let digest = &manifest.digest;
        let size = manifest.bytes.len() as u64;
        {
            let _order = self.tree.order();
            if self.ledger.committed(digest, SystemTime::now()) == Some(size) {
                self.recognise(manifest);
                return self.link_manifest(id, manifest, pinned);
            }
        }
        self.reserve(&id.registry, digest, size)?;
        let _order = self.tree.order();
        let Some(_held) = self.tree.hold() else {
            self.ledger.remove(digest);
            return Err(NotStored::Released);
        };
        if let Err(error) = self.tree.write_blob(digest, &manifest.bytes) {
            self.ledger.remove(digest);
            self.failed("writing a manifest", &error);
            return Err(NotStored::Failing(error.to_string()));
        }
        self.committed(&id.registry, digest, size, index::children(&manifest.bytes));
        self.link_manifest(id, manifest, pinned)
    }

    /// A manifest may have come as a blob, of which nobody knew that it refers to anything.
    fn recognise(&self, manifest: &CachedManifest) {
        let Some(mut entry) = self.ledger.get(&manifest.digest) else { return };
        if entry.kind == (Kind::Committed { children: Box::default() }) {
            entry.kind = Kind::Committed { children: index::children(&manifest.bytes) };
            self.index.put_entry(&manifest.digest, &entry);
            self.ledger.set(&manifest.digest, entry);
        }
    }

    /// In the same order as the manifest itself, so that an eviction finds both or neither.
    fn link_manifest(&self, id: &RepositoryId, manifest: &CachedManifest, pinned: bool) -> Result<(), NotStored> {
        if pinned {
            self.ledger.pin(&manifest.digest);
        }
        self.link(id, &manifest.digest, &manifest.media_type)
    }

    /// Keeps that a repository holds content. Blocks.
    pub(in crate::cache) fn link(&self, id: &RepositoryId, digest: &Digest, media_type: &str) -> Result<(), NotStored> {
        if self.index.link(id, digest).is_some_and(|known| known == media_type || media_type.is_empty()) {
            return Ok(());
        }
        if let Err(error) = self.tree.write_link(id, digest, media_type) {
            self.failed("writing a link", &error);
            return Err(NotStored::Failing(error.to_string()));
        }
        self.index.put_link(id, digest, media_type);
        Ok(())
    }

    /// The media type of a link, from the index or, when that has lost it, from the tree. Blocks.
    pub(in crate::cache) fn read_link(&self, id: &RepositoryId, digest: &Digest) -> Option<String> {
        self.index.link(id, digest).or_else(|| {
            let media_type = self.tree.read_link(id, digest)?;
            self.index.put_link(id, digest, &media_type);
            // It may have been forgotten between the two.
            if self.tree.read_link(id, digest).is_none() {
                self.index.remove_link(id, digest);
                return None;
            }
            Some(media_type)
        })
    }

    /// Forgets that a repository holds content. Blocks.
    pub(in crate::cache) fn unlink(&self, id: &RepositoryId, digest: &Digest) {
        if let Err(error) = self.tree.remove_link(id, digest) {
            self.failed("removing a link", &error);
        }
        self.index.remove_link(id, digest);
        self.hot.forget(id, digest);
    }

    /// What a tag means. Blocks.
    pub(in crate::cache) fn read_tag(&self, id: &RepositoryId, tag: &Tag) -> Option<TagRecord> {
        self.index.tag(id, tag).or_else(|| self.tree.read_tag(id, tag))
    }

    /// Keeps what a tag means. The tree only hears of it when it moved: a time that is too old costs one question.
    /// Blocks.
    pub(in crate::cache) fn put_tag(&self, id: &RepositoryId, tag: &Tag, record: TagRecord) {
        let before = self.read_tag(id, tag).map(|before| before.digest);
        if before != Some(record.digest)
            && let Err(error) = self.tree.write_tag(id, tag, record)
        {
            self.failed("writing a tag", &error);
        }
        self.index.put_tag(id, tag, record);
        if before.is_some_and(|before| before != record.digest) && self.pins.load().any(&id.registry) {
            self.refresh_pins();
        } else if self.pins.load().pinned(id, Some(tag)) {
            self.ledger.pin(&record.digest);
        }
    }

    /// Forgets a tag. Blocks.
    pub(in crate::cache) fn remove_tag(&self, id: &RepositoryId, tag: &Tag) {
        if let Err(error) = self.tree.remove_tag(id, tag) {
            self.failed("removing a tag", &error);
        }
        self.index.remove_tag(id, tag);
        self.hot.forget_tag(id, tag);
    }

    /// Forgets all that is known of a part of a registry. The content stays, for others may hold it too. Blocks.
    pub(in crate::cache) fn forget_all(&self, registry: &Arc<str>, extent: &Extent) {
        if let Err(error) = self.try_forget_all(registry, extent) {
            self.failed("forgetting repositories", &error);
        }
    }

    pub(super) fn try_forget_all(&self, registry: &Arc<str>, extent: &Extent) -> io::Result<()> {
        let removed = self.remove_records(registry, extent);
        self.index.remove_tags(registry, extent);
        self.index.remove_authorised(registry, extent);
        self.hot.forget_all(registry, extent);
        if self.pins.load().any(registry) {
            self.refresh_pins();
        }
        removed
    }

    /// When a repository was made, if that is known. Blocks.
    pub(in crate::cache) fn created(&self, id: &RepositoryId) -> Option<i64> {
        let _alone = self.making.lock();
        let created = self.tree.read_created(id);
        self.hot.put_created(id, created);
        created
    }

    /// A repository was made then. What is known of another of that name, which was there before, is forgotten first, also for after
    /// a crash. Whether what is known now is of this one: not if it is older than another, nor where forgetting fails. Blocks.
    pub(in crate::cache) fn made(&self, id: &RepositoryId, created: i64) -> bool {
        let _alone = self.making.lock();
        let Some(_held) = self.tree.hold() else { return false };
        let known = self.tree.read_created(id);
        if known.is_some_and(|known| known >= created) {
            return known == Some(created);
        }
        let forgotten = (self.try_forget_all(&id.registry, &Extent::Repository(id.name.clone())))
            .and_then(|()| self.index.flush().map_err(io::Error::other))
            .and_then(|()| self.tree.write_created(id, created));
        match &forgotten {
            Ok(()) => self.hot.put_created(id, Some(created)),
            Err(error) => self.failed("forgetting a repository", error),
        }
        forgotten.is_ok()
    }

    /// Keeps upstream's yes to a caller (`Some`), or forgets it (`None`). The tree hears of a yes once a day: its time only tells
    /// when it is too old to count at all. Blocks.
    pub(in crate::cache) fn put_authorised(&self, id: &RepositoryId, caller: &[u8; 32], when: Option<SystemTime>) {
        let day = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / DAY);
        let known = || self.index.authorised(id, caller).map(day);
        if when.is_none_or(|when| known() != Some(day(when)))
            && let Err(error) = self.tree.write_caller(id, caller, when)
        {
            self.failed("writing a permission", &error);
        }
        self.index.put_authorised(id, caller, when);
    }

    fn remove_records(&self, registry: &Arc<str>, extent: &Extent) -> io::Result<()> {
        for id in self.tree.repositories(registry, extent)? {
            let links = self.tree.links(&id)?;
            self.tree.remove_records(&id)?;
            links.iter().for_each(|digest| self.index.remove_link(&id, digest));
        }
        Ok(())
    }

    /// Forgets whom upstream let in to a part of a registry. Blocks.
    pub(in crate::cache) fn forget_authorised(&self, registry: &Arc<str>, extent: &Extent) {
        let ids = self.tree.repositories(registry, extent);
        if let Err(error) = ids.and_then(|ids| ids.iter().try_for_each(|id| self.tree.remove_callers(id))) {
            self.failed("removing permissions", &error);
        }
        self.index.remove_authorised(registry, extent);
        self.hot.forget_authorised(registry, extent);
    }

    /// Pins what the configuration pins now, and nothing else.
    pub(super) fn refresh_pins(&self) {
        let pins = self.pins.load();
        let by_tag = self.index.tagged(|id, tag| pins.pinned(id, Some(tag)));
        let by_repository = self.index.manifests(|id| pins.pinned(id, None));
        let pinned = by_tag.into_iter().chain(by_repository).collect();
        self.ledger.set_pins(&pinned);
    }
}

//! Manifests, and the records of repositories: which content they hold, and what their tags mean.
//!
//! Invariant: the index may forget, and the tree has what it forgot; what is pinned follows the tags. All of it blocks.

use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use pierhead_registry::oci::{Digest, Tag};

use super::{NotStored, Store};
use crate::cache::ledger::{Kind, RecordRoom};
use crate::cache::records::{BLOCK, RecordGroup};
use crate::cache::tree::Tree;
use crate::cache::{CachedManifest, Extent, ListRecord, RepositoryId, TagRecord, index};

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
        let room = self.room_for_link(id, digest, &manifest.media_type)?;
        {
            let _order = self.tree.order();
            if self.ledger.committed(digest, SystemTime::now()) == Some(size) {
                self.recognise(manifest);
                return self.link_manifest(id, manifest, room, pinned);
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
        self.link_manifest(id, manifest, room, pinned)
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
    fn link_manifest(
        &self,
        id: &RepositoryId,
        manifest: &CachedManifest,
        room: Option<RecordRoom<'_>>,
        pinned: bool,
    ) -> Result<(), NotStored> {
        if pinned {
            self.ledger.pin(&manifest.digest);
        }
        self.write_link(id, &manifest.digest, &manifest.media_type, room)
    }

    /// Keeps that a repository holds content. Blocks.
    pub(in crate::cache) fn link(&self, id: &RepositoryId, digest: &Digest, media_type: &str) -> Result<(), NotStored> {
        let room = self.room_for_link(id, digest, media_type)?;
        self.write_link(id, digest, media_type, room)
    }

    /// Room for a link; `None` when it is there.
    fn room_for_link(
        &self,
        id: &RepositoryId,
        digest: &Digest,
        media_type: &str,
    ) -> Result<Option<RecordRoom<'_>>, NotStored> {
        if self.index.link(id, digest).is_some_and(|known| known == media_type || media_type.is_empty()) {
            return Ok(None);
        }
        self.reserve_record(&RecordGroup::names(id), BLOCK).map(Some)
    }

    fn write_link(
        &self,
        id: &RepositoryId,
        digest: &Digest,
        media_type: &str,
        room: Option<RecordRoom<'_>>,
    ) -> Result<(), NotStored> {
        let Some(room) = room else { return Ok(()) };
        match self.tree.write_link(id, digest, media_type) {
            Ok(written) => room.settle(written),
            Err(error) => {
                self.failed("writing a link", &error);
                return Err(NotStored::Failing(error.to_string()));
            }
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
        match self.tree.remove_link(id, digest) {
            Ok(freed) => self.ledger.free_records(&RecordGroup::names(id), freed),
            Err(error) => self.failed("removing a link", &error),
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
        if before != Some(record.digest) {
            let room = self.reserve_record(&RecordGroup::names(id), BLOCK);
            match room.map(|room| (self.tree.write_tag(id, tag, record), room)) {
                Ok((Ok(written), room)) => room.settle(written),
                Ok((Err(error), _)) => self.failed("writing a tag", &error),
                // A tag that is new stays in memory only: the index has what the tree has.
                Err(_) if before.is_none() => return,
                Err(why) => tracing::debug!(repository = %id, %tag, %why, "tag not stored"),
            }
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
        match self.tree.remove_tag(id, tag) {
            Ok(freed) => self.ledger.free_records(&RecordGroup::names(id), freed),
            Err(error) => self.failed("removing a tag", &error),
        }
        self.index.remove_tag(id, tag);
        self.hot.forget_tag(id, tag);
    }

    /// Keeps a list, where there is room for it. Blocks.
    pub(in crate::cache) fn put_list(&self, id: &RepositoryId, key: &str, record: &ListRecord) {
        let written = Tree::list_size(record).map(|size| {
            let room = self.reserve_record(&RecordGroup::lists(id), size)?;
            Ok((self.tree.write_list(id, key, record), room))
        });
        match written {
            Ok(Ok((Ok(written), room))) => room.settle(written),
            Ok(Err::<_, NotStored>(why)) => tracing::debug!(repository = %id, %why, "list not stored"),
            Ok(Ok((Err(error), _))) | Err(error) => self.failed("writing a list", &error),
        }
    }

    /// Forgets all lists of a repository. Blocks.
    pub(in crate::cache) fn remove_lists(&self, id: &RepositoryId) -> io::Result<()> {
        let freed = self.tree.remove_lists(id);
        self.hot.forget_lists(id);
        self.ledger.free_records(&RecordGroup::lists(id), freed?);
        Ok(())
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
            .and_then(|()| self.write_created(id, created));
        match &forgotten {
            Ok(()) => self.hot.put_created(id, Some(created)),
            Err(error) => self.failed("forgetting a repository", error),
        }
        forgotten.is_ok()
    }

    fn write_created(&self, id: &RepositoryId, created: i64) -> io::Result<()> {
        let room = self.reserve_record(&RecordGroup::names(id), BLOCK).map_err(io::Error::other)?;
        room.settle(self.tree.write_created(id, created)?);
        Ok(())
    }

    /// Keeps upstream's yes to a caller (`Some`), or forgets it (`None`). The tree hears of a yes once a day: its time only tells
    /// when it is too old to count at all. Blocks.
    pub(in crate::cache) fn put_authorised(&self, id: &RepositoryId, caller: &[u8; 32], when: Option<SystemTime>) {
        let day = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / DAY);
        let known = || self.index.authorised(id, caller).map(day);
        if when.is_none_or(|when| known() != Some(day(when))) {
            let group = RecordGroup::names(id);
            // The file of a repository's callers grows by one line at most.
            let room = when.map(|_| self.reserve_record(&group, BLOCK)).transpose();
            match room.map(|room| (self.tree.write_caller(id, caller, when), room)) {
                Ok((Ok((written, dropped)), room)) => {
                    match room {
                        Some(room) => room.settle(written),
                        None => self.ledger.free_records(&group, written.before.saturating_sub(written.after)),
                    }
                    // The index has no more callers than the tree.
                    dropped.iter().for_each(|caller| self.index.put_authorised(id, caller, None));
                }
                Ok((Err(error), _)) => self.failed("writing a permission", &error),
                Err(why) => {
                    tracing::debug!(repository = %id, %why, "permission not stored");
                    // Of a repository that is known, the index keeps it: what is known must not outlive a refusal.
                    if self.ledger.records(&group).is_none() {
                        return;
                    }
                }
            }
        }
        self.index.put_authorised(id, caller, when);
    }

    fn remove_records(&self, registry: &Arc<str>, extent: &Extent) -> io::Result<()> {
        for id in self.tree.repositories(registry, extent)? {
            let links = self.tree.links(&id)?;
            self.remove_lists(&id)?;
            self.ledger.free_records(&RecordGroup::names(&id), self.tree.remove_names(&id)?);
            links.iter().for_each(|digest| self.index.remove_link(&id, digest));
        }
        Ok(())
    }

    /// Forgets whom upstream let in to a part of a registry. Blocks.
    pub(in crate::cache) fn forget_authorised(&self, registry: &Arc<str>, extent: &Extent) {
        let ids = self.tree.repositories(registry, extent);
        let remove = |id: &RepositoryId| {
            self.ledger.free_records(&RecordGroup::names(id), self.tree.remove_callers(id)?);
            Ok(())
        };
        if let Err(error) = ids.and_then(|ids| ids.iter().try_for_each(remove)) {
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

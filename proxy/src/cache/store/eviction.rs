//! Eviction: deletes content, with the records of it, and the records of whole repositories. The least recently used goes first. All of it blocks.
//!
//! Invariant: a tag that is pinned, and what it names, stays known whatever else is evicted of its repository.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use pierhead_registry::oci::Digest;

use super::fault::{Fault, fault};
use super::{NotStored, Store};
use crate::cache::evict::Victim;
use crate::cache::ledger::Victims;
use crate::cache::records::{RecordGroup, RecordKind};
use crate::cache::{Extent, RepositoryId, room};

impl Store {
    /// What a registry may evict to get `need` more bytes: of its own content when it would take more than its share; else first of the
    /// registries that took more than theirs while room was free, and then of all.
    pub(super) fn victims(&self, registry: &Arc<str>, need: u64) -> Option<Victims<'_>> {
        let (limit, limits) = (self.ledger.limit(), self.limits.load());
        let share = |registry: &str| room::share(limit, limits.share(registry));
        if self.ledger.taken_by(registry).saturating_add(need) > share(registry) {
            return self.ledger.choose(need, Some(&[Arc::clone(registry)]));
        }
        self.victims_of_all(need)
    }

    /// What to evict where no registry asks for the room: first of the registries beyond their share, then of all.
    fn victims_of_all(&self, need: u64) -> Option<Victims<'_>> {
        let (limit, limits) = (self.ledger.limit(), self.limits.load());
        let beyond = self.ledger.beyond(|registry| room::share(limit, limits.share(registry)));
        let theirs = if beyond.is_empty() { None } else { self.ledger.choose(need, Some(&beyond)) };
        theirs.or_else(|| self.ledger.choose(need, None))
    }

    /// Evicts what is here beyond `max_size`.
    pub(in crate::cache) fn shrink(&self, excess: u64) {
        if excess > 0
            && let Err(why) = self.evict(excess, self.victims_of_all(excess))
        {
            tracing::warn!(excess, %why, "the cache is larger than its max_size");
        }
    }

    /// Evicts what was chosen to give back `need` bytes.
    pub(super) fn evict(&self, need: u64, victims: Option<Victims<'_>>) -> Result<(), NotStored> {
        let victims = victims.ok_or(NotStored::Full { need })?;
        tracing::debug!(entries = victims.victims.len(), need, "evicting");
        let mut forgotten = HashSet::new();
        let mut evicted = Ok(());
        for victim in &victims.victims {
            let _order = self.tree.order();
            evicted = match victim {
                Victim::Content(digest) => self.evict_content(digest),
                Victim::Records(group) => self.evict_records(group, &mut forgotten),
            };
            if evicted.is_err() {
                break;
            }
        }
        self.hot.forget_names(&forgotten);
        evicted
    }

    fn evict_content(&self, digest: &Digest) -> Result<(), NotStored> {
        if !self.ledger.is_victim(digest) {
            return Ok(());
        }
        let Some(_held) = self.tree.hold() else { return Err(NotStored::Released) };
        match self.tree.remove_content(digest) {
            Ok(()) => self.ledger.evicted(digest),
            Err(error) => {
                self.cannot_evict(&error)?;
                // What cannot be deleted is not the store's: a directory in the place of a file, for one.
                self.ledger.remove(digest);
            }
        }
        self.forget(digest);
        Ok(())
    }

    fn evict_records(&self, group: &RecordGroup, forgotten: &mut HashSet<RepositoryId>) -> Result<(), NotStored> {
        let Some(_held) = self.tree.hold() else { return Err(NotStored::Released) };
        let id = &group.repository;
        let freed = match group.kind {
            RecordKind::Lists => self.tree.remove_lists(id),
            RecordKind::Names => {
                forgotten.insert(id.clone());
                self.remove_unpinned(id)
            }
        };
        let freed = freed.or_else(|error| self.cannot_evict(&error).map(|()| 0))?;
        self.tree.remove_directories(id);
        self.ledger.evicted_records(group, freed);
        Ok(())
    }

    fn cannot_evict(&self, error: &io::Error) -> Result<(), NotStored> {
        self.failed("evicting", error);
        match fault(error) {
            Fault::Disk => Err(NotStored::Failing(error.to_string())),
            Fault::Blob => Ok(()),
        }
    }

    /// Forgets what is known of a repository, but for what is pinned. Returns what it took.
    fn remove_unpinned(&self, id: &RepositoryId) -> io::Result<u64> {
        let pins = self.pins.load();
        if pins.pinned(id, None) {
            return Ok(0);
        }
        let (tags, links) = (self.tree.tags(id)?, self.tree.links(id)?);
        let is_pinned = |tag: &_| pins.any(&id.registry) && pins.pinned(id, Some(tag));
        let (pinned, tags): (Vec<_>, Vec<_>) = tags.into_iter().partition(is_pinned);
        let needed = self.closure(pinned.iter().filter_map(|tag| Some(self.read_tag(id, tag)?.digest)));
        let mut freed = 0;
        // First who may read it.
        if pinned.is_empty() {
            freed += self.tree.remove_callers(id)?;
            self.index.remove_authorised(&id.registry, &Extent::Repository(id.name.clone()));
        }
        for tag in tags {
            freed += self.tree.remove_tag(id, &tag)?;
            self.index.remove_tag(id, &tag);
        }
        for digest in links.iter().filter(|digest| !needed.contains(digest)) {
            freed += self.tree.remove_link(id, digest)?;
            self.index.remove_link(id, digest);
        }
        // Last when it was made: until then it tells what is left from what belongs to a later repository of the name.
        if pinned.is_empty() {
            freed += self.tree.remove_created(id)?;
        }
        Ok(freed)
    }

    /// Removes every record of content that is gone.
    fn forget(&self, digest: &Digest) {
        for repository in self.index.remove_content(digest) {
            self.hot.forget(&repository, digest);
            for tag in self.index.tags_of(&repository, digest) {
                self.remove_tag(&repository, &tag);
            }
            match self.tree.remove_link(&repository, digest) {
                Ok(freed) => self.ledger.free_records(&RecordGroup::names(&repository), freed),
                Err(error) => tracing::warn!(%error, %repository, "removing a link"),
            }
        }
    }
}

//! Looks into the store for operators, and purges on their behalf. All of it blocks.
//!
//! Invariant: a purge forgets records first, then deletes content that no record names any more; so content that another
//! repository holds, or that comes to hold it meanwhile, stays.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use pierhead_registry::oci::{Digest, Reference, Tag};

use super::Store;
use crate::cache::contents::{Facts, Holding, Image, Presence, Purged, Selection};
use crate::cache::ledger::{Entry, Kind};
use crate::cache::{Extent, RepositoryId};

/// Content that is looked at for one image: far more than any has.
const LARGEST_IMAGE: usize = 100_000;

impl Store {
    /// The repositories that hold something here.
    pub(in crate::cache) fn holdings(&self, registry: Option<&Arc<str>>) -> io::Result<Vec<Holding>> {
        let repositories = match registry {
            Some(registry) => self.tree.repositories(registry, &Extent::Registry)?,
            None => self.tree.all_repositories()?,
        };
        let mut holdings = Vec::new();
        for repository in repositories {
            let entries: Vec<Entry> =
                self.tree.links(&repository)?.iter().filter_map(|digest| self.committed_entry(digest)).collect();
            let tags = self.tree.tags(&repository)?.len();
            if entries.is_empty() && tags == 0 {
                continue;
            }
            holdings.push(Holding {
                tags,
                contents: entries.len(),
                bytes: entries.iter().map(|entry| entry.size).sum(),
                used: entries.iter().map(|entry| entry.used).max().map(|used| UNIX_EPOCH + Duration::from_millis(used)),
                repository,
            });
        }
        Ok(holdings)
    }

    /// The tags of a repository.
    pub(in crate::cache) fn images(&self, id: &RepositoryId) -> io::Result<Vec<Image>> {
        let pins = self.pins.load();
        let mut images = Vec::new();
        for tag in self.tree.tags(id)? {
            let Some(record) = self.read_tag(id, &tag) else { continue };
            let pinned = pins.by(id, Some(&tag));
            images.push(Image { presence: self.presence(&record.digest), pinned, record, tag });
        }
        Ok(images)
    }

    /// What is known of an image or a piece of content.
    pub(in crate::cache) fn facts(&self, id: &RepositoryId, reference: &Reference) -> Facts {
        let (tag, name) = match reference {
            Reference::Tag(name) => (self.read_tag(id, name), Some(name)),
            Reference::Digest(_) => (None, None),
        };
        let digest = match reference {
            Reference::Tag(_) => tag.map(|tag| tag.digest),
            Reference::Digest(digest) => Some(*digest),
        };
        let entry = digest.as_ref().and_then(|digest| self.committed_entry(digest));
        Facts {
            tag,
            digest,
            held: digest.as_ref().is_some_and(|digest| self.read_link(id, digest).is_some()),
            presence: digest.as_ref().map(|digest| self.presence(digest)).unwrap_or_default(),
            pinned: self.pins.load().by(id, name),
            evicted_before: entry.map_or(0, |entry| self.ledger.bytes_used_before(entry.used)),
        }
    }

    /// Keeps an image from eviction, or no longer; whether that is news.
    pub(in crate::cache) fn pin_by_operator(
        &self,
        id: &RepositoryId,
        tag: Option<&Tag>,
        pinned: bool,
    ) -> io::Result<bool> {
        let _alone = self.making.lock();
        let before = self.pins.load_full();
        let Some(after) = before.changed(id, tag, pinned) else { return Ok(false) };
        self.tree.write_pins(after.of_operators())?;
        self.pins.store(Arc::new(after));
        self.refresh_pins();
        Ok(true)
    }

    /// Forgets a part of the cache, and deletes what no other part holds.
    pub(in crate::cache) fn purge(&self, selection: &Selection) -> io::Result<Purged> {
        let mut purged = Purged::default();
        let doomed = match selection {
            Selection::Registry(registry) => self.purge_records(registry, &Extent::Registry, &mut purged)?,
            Selection::Repository(id) => {
                self.purge_records(&id.registry, &Extent::Repository(id.name.clone()), &mut purged)?
            }
            Selection::Content(id, reference) => self.purge_reference(id, reference, &mut purged)?,
        };
        for digest in doomed {
            if let Some(entry) = self.delete_unheld(&digest)? {
                purged.contents += 1;
                purged.bytes += entry.size;
            }
        }
        Ok(purged)
    }

    /// Forgets all records of a part of a registry; what they named.
    fn purge_records(&self, registry: &Arc<str>, extent: &Extent, purged: &mut Purged) -> io::Result<HashSet<Digest>> {
        let mut named = HashSet::new();
        for id in self.tree.repositories(registry, extent)? {
            let (links, tags) = (self.tree.links(&id)?, self.tree.tags(&id)?);
            purged.repositories += u64::from(!links.is_empty() || !tags.is_empty());
            purged.tags += tags.len() as u64;
            named.extend(links);
        }
        self.try_forget_all(registry, extent)?;
        Ok(named)
    }

    /// Forgets an image or a piece of content of a repository, but for what other tags of the repository need of it; returns
    /// what was forgotten.
    fn purge_reference(
        &self,
        id: &RepositoryId,
        reference: &Reference,
        purged: &mut Purged,
    ) -> io::Result<HashSet<Digest>> {
        let (digest, tags) = match reference {
            Reference::Digest(digest) => (*digest, self.index.tags_of(id, digest)),
            Reference::Tag(tag) => match self.read_tag(id, tag) {
                Some(record) => (record.digest, vec![tag.clone()]),
                None => return Ok(HashSet::new()),
            },
        };
        purged.tags = tags.len() as u64;
        purged.repositories = u64::from(!tags.is_empty() || self.tree.links(id)?.contains(&digest));
        for tag in &tags {
            self.remove_tag(id, tag);
        }
        let others = self.tree.tags(id)?;
        let others = others.iter().filter_map(|tag| Some(self.read_tag(id, tag)?.digest));
        let needed = self.closure(others);
        let mut doomed: HashSet<Digest> = self.closure([digest]).difference(&needed).copied().collect();
        // What was named itself goes in any case: an image that needs it fetches it again.
        if matches!(reference, Reference::Digest(_)) {
            doomed.insert(digest);
        }
        doomed.iter().for_each(|digest| self.unlink(id, digest));
        self.remove_lists(id)?;
        Ok(doomed)
    }

    /// Deletes committed content that no repository holds.
    fn delete_unheld(&self, digest: &Digest) -> io::Result<Option<Entry>> {
        let _order = self.tree.order();
        let Some(_held) = self.tree.hold() else { return Err(io::ErrorKind::ReadOnlyFilesystem.into()) };
        let Some(entry) = self.committed_entry(digest).filter(|_| !self.index.is_held(digest)) else { return Ok(None) };
        self.tree.remove_content(digest)?;
        self.ledger.remove(digest);
        self.index.remove_entry(digest);
        Ok(Some(entry))
    }

    fn committed_entry(&self, digest: &Digest) -> Option<Entry> {
        self.ledger.get(digest).filter(|entry| matches!(entry.kind, Kind::Committed { .. }))
    }

    /// What is here of a manifest, or of a blob.
    fn presence(&self, digest: &Digest) -> Presence {
        let mut presence = Presence::default();
        for part in self.closure([*digest]) {
            match self.committed_entry(&part) {
                Some(entry) => {
                    presence.contents += 1;
                    presence.bytes += entry.size;
                }
                None => presence.missing.push(part),
            }
        }
        presence.missing.sort_unstable();
        let used = self.committed_entry(digest).map(|entry| entry.used);
        presence.used = used.map(|used| UNIX_EPOCH + Duration::from_millis(used));
        presence
    }

    /// Manifests, and all that they refer to as far as that is known here.
    pub(super) fn closure(&self, roots: impl IntoIterator<Item = Digest>) -> HashSet<Digest> {
        let (mut known, mut work) = (HashSet::new(), roots.into_iter().collect::<Vec<_>>());
        while let Some(digest) = work.pop() {
            if known.len() < LARGEST_IMAGE
                && known.insert(digest)
                && let Some(Entry { kind: Kind::Committed { children }, .. }) = self.ledger.get(&digest)
            {
                work.extend(children);
            }
        }
        known
    }
}

//! The index: what the tree holds, quickly. The one place that knows sled.
//!
//! Invariant: disposable. Every record is also in the tree (or worth nothing), is written there first, and is looked up
//! there when it is missing here. A missing or corrupt index is made anew by [`rebuild`]; after a crash, when its last
//! half second may be lost, the entries are reconciled with the tree.

mod rebuild;
mod record;

pub(super) use rebuild::children;

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use pierhead_registry::oci::{Digest, Tag};

use super::ledger::{Entry, RecordEntry};
use super::records::RecordGroup;
use super::tree::{Tree, permissions};
use super::{Extent, RepositoryId, TagRecord};

/// How long upstream's yes to a caller is remembered at all.
const AUTHORISATION_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// Most callers that are looked at when one is sought in a whole registry.
const LOOKED_AT: usize = 10_000;
/// Present while a process has the index open; found at start, it tells of a crash.
const OPEN_MARK: &[u8] = b"open";
/// Present once the records of the tree were counted, which earlier versions did not do.
const COUNTED: &[u8] = b"records counted";
/// When the last scrub ended.
const SCRUBBED: &[u8] = b"scrubbed";

/// The index. Once it was released it knows nothing and keeps nothing.
pub(super) struct Index {
    open: RwLock<Option<Database>>,
}

/// What the index knows at start of what lies in the tree.
#[derive(Default)]
pub(super) struct Known {
    pub(super) entries: HashMap<Digest, Entry>,
    pub(super) records: HashMap<RecordGroup, RecordEntry>,
}

/// sled, open.
struct Database {
    db: sled::Db,
    entries: sled::Tree,
    links: sled::Tree,
    tags: sled::Tree,
    authorised: sled::Tree,
    records: sled::Tree,
}

/// Why the index cannot be used even after it was made anew.
#[derive(Debug, thiserror::Error)]
pub(super) enum IndexError {
    /// sled.
    #[error("index: {0}")]
    Sled(#[from] sled::Error),
    /// The tree that it is made from.
    #[error("index: {0}")]
    Io(#[from] io::Error),
    /// sled panicked.
    #[error("index: corrupt")]
    Corrupt,
}

impl Index {
    /// Opens the index and returns it with all entries. What cannot be read is thrown away and made anew.
    pub(super) fn open(tree: &Tree) -> Result<(Index, Known), IndexError> {
        let path = tree.layout.index();
        let fresh = !path.exists();
        // sled panics on some kinds of damage; to us they are all the same.
        let opened = catch_unwind(AssertUnwindSafe(|| Index::read(&path))).unwrap_or(Err(IndexError::Corrupt));
        match opened {
            Ok((index, mut known, false)) if !fresh => {
                if index.with(|open| note(open.db.get(COUNTED))).flatten().is_none() {
                    known.records = rebuild::count(&index, tree, &known.records)?;
                }
                Ok((index, known))
            }
            Ok((index, known, _)) => {
                if !fresh {
                    tracing::info!("the last run ended unexpectedly: reconciling the index with the cache");
                }
                let known = rebuild::rebuild(&index, tree, known)?;
                Ok((index, known))
            }
            Err(error) => {
                tracing::warn!(%error, "the cache index is unusable: making it anew");
                std::fs::remove_dir_all(&path)?;
                let (index, known, _) = Index::read(&path)?;
                let known = rebuild::rebuild(&index, tree, known)?;
                Ok((index, known))
            }
        }
    }

    /// Opens, and reads every entry; the last value tells whether the last run ended without closing.
    fn read(path: &Path) -> Result<(Index, Known, bool), IndexError> {
        permissions::make_index(path)?;
        let db = sled::Config::new()
            .path(path)
            .cache_capacity(16 << 20)
            .flush_every_ms(Some(500))
            .mode(sled::Mode::HighThroughput)
            .open()?;
        let database = Database {
            entries: db.open_tree("entries")?,
            links: db.open_tree("links")?,
            tags: db.open_tree("tags")?,
            authorised: db.open_tree("authorised")?,
            records: db.open_tree("records")?,
            db,
        };
        let mut known = Known::default();
        for pair in &database.entries {
            let (key, value) = pair?;
            let (digest, entry) = record::read_entry(&key, &value).ok_or(IndexError::Corrupt)?;
            known.entries.insert(digest, entry);
        }
        for pair in &database.records {
            let (key, value) = pair?;
            let read = record::read_group(&key).zip(record::read_group_value(&value));
            known.records.extend([read.ok_or(IndexError::Corrupt)?]);
        }
        let crashed = database.db.insert(OPEN_MARK, &[])?.is_some();
        database.db.flush()?;
        Ok((Index { open: RwLock::new(Some(database)) }, known, crashed))
    }

    fn with<T: Default>(&self, work: impl FnOnce(&Database) -> T) -> T {
        self.open.read().as_ref().map(work).unwrap_or_default()
    }

    /// Writes everything out.
    pub(super) fn flush(&self) -> Result<(), sled::Error> {
        self.open.read().as_ref().map_or(Ok(0), |open| open.db.flush()).map(drop)
    }

    /// Writes everything out and takes the mark away.
    pub(super) fn close(&self) {
        self.with(Database::close);
    }

    /// Closes it for good, so that another process may open it.
    pub(super) fn release(&self) {
        let Some(database) = self.open.write().take() else { return };
        database.close();
    }

    /// Keeps an entry.
    pub(super) fn put_entry(&self, digest: &Digest, entry: &Entry) {
        self.with(|open| note(open.entries.insert(record::digest(digest), record::entry(entry))));
    }

    /// Forgets an entry; its links stay.
    pub(super) fn remove_entry(&self, digest: &Digest) {
        self.with(|open| note(open.entries.remove(record::digest(digest))));
    }

    /// Forgets an entry and its links, and returns the repositories that they were of.
    pub(super) fn remove_content(&self, digest: &Digest) -> Vec<RepositoryId> {
        self.remove_entry(digest);
        self.with(|open| {
            let mut repositories = Vec::new();
            for pair in open.links.scan_prefix(record::digest(digest)) {
                let Some((key, _)) = note(pair) else { break };
                repositories.extend(record::read_link_key(&key).map(|(id, _)| id));
                note(open.links.remove(key));
            }
            repositories
        })
    }

    /// Whether any repository is known to hold content.
    pub(super) fn is_held(&self, digest: &Digest) -> bool {
        self.with(|open| open.links.scan_prefix(record::digest(digest)).map_while(note).next().is_some())
    }

    /// The media type of a link (empty for a blob), if the repository is known to hold the content.
    pub(super) fn link(&self, id: &RepositoryId, digest: &Digest) -> Option<String> {
        let value = self.with(|open| note(open.links.get(record::link(id, digest)))).flatten()?;
        String::from_utf8(value.to_vec()).ok()
    }

    /// Keeps a link.
    pub(super) fn put_link(&self, id: &RepositoryId, digest: &Digest, media_type: &str) {
        self.with(|open| note(open.links.insert(record::link(id, digest), media_type.as_bytes())));
    }

    /// Forgets a link.
    pub(super) fn remove_link(&self, id: &RepositoryId, digest: &Digest) {
        self.with(|open| note(open.links.remove(record::link(id, digest))));
    }

    /// What a tag means.
    pub(super) fn tag(&self, id: &RepositoryId, tag: &Tag) -> Option<TagRecord> {
        record::read_tag(&self.with(|open| note(open.tags.get(record::tag(id, tag)))).flatten()?)
    }

    /// Keeps what a tag means.
    pub(super) fn put_tag(&self, id: &RepositoryId, tag: &Tag, value: TagRecord) {
        self.with(|open| note(open.tags.insert(record::tag(id, tag), record::tag_value(value))));
    }

    /// Forgets a tag.
    pub(super) fn remove_tag(&self, id: &RepositoryId, tag: &Tag) {
        self.with(|open| note(open.tags.remove(record::tag(id, tag))));
    }

    /// Forgets what the tags of a part of a registry mean.
    pub(super) fn remove_tags(&self, registry: &str, extent: &Extent) {
        self.with(|open| remove_all(&open.tags, registry, extent));
    }

    /// The tags of a repository that mean this manifest.
    pub(super) fn tags_of(&self, id: &RepositoryId, digest: &Digest) -> Vec<Tag> {
        let prefix = record::tag_prefix(id);
        self.with(|open| {
            let pairs = open.tags.scan_prefix(&prefix).map_while(note);
            let matching = pairs.filter(|(_, value)| record::read_tag(value).is_some_and(|tag| tag.digest == *digest));
            matching.filter_map(|(key, _)| std::str::from_utf8(key.get(prefix.len()..)?).ok()?.parse().ok()).collect()
        })
    }

    /// What all tags mean that are wanted.
    pub(super) fn tagged(&self, wanted: impl Fn(&RepositoryId, &Tag) -> bool) -> Vec<Digest> {
        self.with(|open| {
            let tags = open.tags.iter().map_while(note).filter_map(|(key, value)| {
                let (id, tag) = record::read_tag_key(&key)?;
                wanted(&id, &tag).then(|| record::read_tag(&value)).flatten()
            });
            tags.map(|tag| tag.digest).collect()
        })
    }

    /// All manifests of the repositories that are wanted.
    pub(super) fn manifests(&self, wanted: impl Fn(&RepositoryId) -> bool) -> Vec<Digest> {
        self.with(|open| {
            let manifests = open.links.iter().map_while(note).filter(|(_, media_type)| !media_type.is_empty());
            let named = manifests.filter_map(|(key, _)| record::read_link_key(&key));
            named.filter(|(id, _)| wanted(id)).map(|(_, digest)| digest).collect()
        })
    }

    /// When upstream last said yes to a caller.
    pub(super) fn authorised(&self, id: &RepositoryId, caller: &[u8; 32]) -> Option<SystemTime> {
        let value = self.with(|open| note(open.authorised.get(record::authorisation(id, caller)))).flatten()?;
        record::read_time(&value)
    }

    /// Calls `look` with each caller that a registry let in, in any repository, until `look` breaks. False if there are too many callers to
    /// look at all of them.
    pub(super) fn callers(&self, registry: &str, mut look: impl FnMut(&[u8; 32]) -> ControlFlow<()>) -> bool {
        let shown = self.with(|open| {
            let keys = open.authorised.scan_prefix(record::prefix(registry, &Extent::Registry)).keys().map_while(note);
            for (count, key) in keys.enumerate() {
                if count >= LOOKED_AT {
                    return None;
                }
                if key.last_chunk().is_some_and(|caller| look(caller).is_break()) {
                    break;
                }
            }
            Some(())
        });
        shown.is_some()
    }

    /// Keeps, or forgets, upstream's yes.
    pub(super) fn put_authorised(&self, id: &RepositoryId, caller: &[u8; 32], when: Option<SystemTime>) {
        let key = record::authorisation(id, caller);
        self.with(|open| match when {
            Some(when) => note(open.authorised.insert(key, record::time(when).to_vec())),
            None => note(open.authorised.remove(key)),
        });
    }

    /// Forgets every yes: the tree has those that count.
    fn clear_authorised(&self) {
        self.with(|open| note(open.authorised.clear()));
    }

    /// Forgets upstream's yes to anybody about a part of a registry.
    pub(super) fn remove_authorised(&self, registry: &str, extent: &Extent) {
        self.with(|open| remove_all(&open.authorised, registry, extent));
    }

    /// Keeps what is counted of records; `None`: there are none any more.
    pub(super) fn put_records(&self, group: &RecordGroup, entry: Option<RecordEntry>) {
        self.with(|open| match entry {
            Some(entry) => note(open.records.insert(record::group(group), record::group_value(entry).to_vec())),
            None => note(open.records.remove(record::group(group))),
        });
    }

    /// Keeps what is counted of all records.
    fn set_records(&self, counted: &HashMap<RecordGroup, RecordEntry>) {
        self.with(|open| note(open.records.clear()));
        counted.iter().for_each(|(group, entry)| self.put_records(group, Some(*entry)));
        self.with(|open| note(open.db.insert(COUNTED, &[])));
    }

    /// As an earlier version leaves it.
    #[cfg(test)]
    pub(super) fn forget_records(&self) {
        self.with(|open| note(open.records.clear()));
        self.with(|open| note(open.db.remove(COUNTED)));
    }

    /// When the last scrub ended.
    pub(super) fn scrubbed(&self) -> Option<SystemTime> {
        record::read_time(&self.with(|open| note(open.db.get(SCRUBBED))).flatten()?)
    }

    /// Keeps when the last scrub ended.
    pub(super) fn set_scrubbed(&self, when: SystemTime) {
        self.with(|open| note(open.db.insert(SCRUBBED, record::time(when).to_vec())));
    }

    /// Forgets what upstream said to callers long ago.
    pub(super) fn prune(&self, now: SystemTime) {
        self.with(|open| {
            for (key, value) in open.authorised.iter().map_while(note) {
                let when = record::read_time(&value);
                if when.and_then(|when| now.duration_since(when).ok()).is_none_or(|age| age > AUTHORISATION_LIFE) {
                    note(open.authorised.remove(key));
                }
            }
        });
    }
}

impl Database {
    fn close(&self) {
        let closed = self.db.flush().and_then(|_| self.db.remove(OPEN_MARK)).and_then(|_| self.db.flush());
        if let Err(error) = closed {
            tracing::warn!(%error, "the cache index could not be closed; it will be reconciled at the next start");
        }
    }
}

/// Removes the records of a part of a registry from a tree whose keys begin with a repository.
fn remove_all(records: &sled::Tree, registry: &str, extent: &Extent) {
    for (key, _) in records.scan_prefix(record::prefix(registry, extent)).map_while(note) {
        if record::read_repository(&key).is_some_and(|id| extent.covers(&id.name)) {
            note(records.remove(key));
        }
    }
}

/// A failing index costs speed, not correctness: what it cannot say is looked up in the tree.
fn note<T>(result: Result<T, sled::Error>) -> Option<T> {
    result.inspect_err(|error| tracing::warn!(%error, "cache index")).ok()
}

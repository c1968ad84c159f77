//! The small files of a repository: when it was made, which content it holds, what its tags mean, and lists as upstream gave them.
//!
//! Invariants: the lists of a repository are bounded in number and in bytes, for a list is named by its query, and a query
//! can be anything. Each function that writes or deletes a record returns the space that its file took before and takes now. From
//! that the ledger counts all records together.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pierhead_registry::oci::{Digest, Tag};

use super::{Tree, modified, read_small};
use crate::cache::records::{RecordGroup, RecordKind, Written, record_size};
use crate::cache::{Extent, ListRecord, RepositoryId, TagRecord, layout};

/// Most lists of one repository, and most bytes of them.
const LISTS: usize = 1000;
const LIST_BYTES: u64 = 32 << 20;

impl Tree {
    /// Writes a record whole, or not at all.
    pub(super) fn write_record(&self, path: &Path, parts: &[&[u8]]) -> io::Result<Written> {
        let length = parts.iter().map(|part| part.len() as u64).sum();
        self.write_and(parts, false, |tmp| {
            let _alone = self.records.lock();
            let before = fs::symlink_metadata(path).map_or(0, |metadata| record_size(metadata.len()));
            self.rename(tmp, path, false)?;
            Ok(Written { before, after: record_size(length) })
        })
    }

    /// Deletes a record, if it is there. Returns what it took.
    pub(super) fn remove_record(&self, path: &Path) -> io::Result<u64> {
        let Some(_held) = self.hold() else { return Ok(0) };
        let _alone = self.records.lock();
        let removed = fs::symlink_metadata(path).and_then(|metadata| fs::remove_file(path).map(|()| metadata.len()));
        match removed {
            Ok(length) => Ok(record_size(length)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Deletes the records in a directory. The directory stays, because another thread may be about to write into it.
    fn empty(&self, directory: &Path) -> io::Result<u64> {
        let mut freed = 0;
        for name in entries(directory)? {
            freed += self.remove_record(&directory.join(name))?;
        }
        Ok(freed)
    }

    /// Deletes the directories of a repository that are empty, and those above it.
    pub(in crate::cache) fn remove_directories(&self, id: &RepositoryId) {
        let Some(_held) = self.hold() else { return };
        let _alone = self.records.lock();
        let links = self.layout.links(id);
        for directory in [self.layout.lists(id), self.layout.tags(id), links.clone()] {
            let _ = fs::remove_dir(directory);
        }
        let registry = self.layout.registry(&id.registry);
        for above in links.ancestors().skip(1).take_while(|above| **above != registry) {
            match fs::remove_dir(above) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return,
                _ => {}
            }
        }
    }

    /// What the records of every repository take, and when they were last written, in milliseconds.
    pub(in crate::cache) fn count_records(&self) -> io::Result<Vec<(RecordGroup, u64, SystemTime)>> {
        let mut counted = Vec::new();
        for id in self.all_repositories()? {
            for kind in RecordKind::ALL {
                let (files, directories) = match kind {
                    RecordKind::Names => (
                        vec![self.layout.callers(&id), self.layout.created(&id)],
                        vec![self.layout.links(&id), self.layout.tags(&id)],
                    ),
                    RecordKind::Lists => (Vec::new(), vec![self.layout.lists(&id)]),
                };
                let inside = directories.iter().map(|directory| Ok((directory, entries(directory)?)));
                let inside: Vec<_> = inside.collect::<io::Result<_>>()?;
                let inside = inside.iter().flat_map(|(directory, names)| names.iter().map(|name| directory.join(name)));
                let sizes = files.into_iter().chain(inside).filter_map(|path| {
                    let metadata = fs::symlink_metadata(path).ok()?;
                    Some(record_size(metadata.len()))
                });
                let size: u64 = sizes.sum();
                let there = directories.iter().filter_map(|directory| fs::symlink_metadata(directory).ok());
                let last = there.map(|metadata| modified(&metadata)).max();
                if size > 0 || last.is_some() {
                    let group = RecordGroup { repository: id.clone(), kind };
                    let size = size + group.directories();
                    counted.push((group, size, last.unwrap_or(UNIX_EPOCH)));
                }
            }
        }
        Ok(counted)
    }
}

impl Tree {
    /// Keeps that a repository holds content.
    pub(in crate::cache) fn write_link(
        &self,
        id: &RepositoryId,
        digest: &Digest,
        media_type: &str,
    ) -> io::Result<Written> {
        self.write_record(&self.layout.link(id, digest), &[media_type.as_bytes()])
    }

    /// The media type in a link; empty for a blob.
    pub(in crate::cache) fn read_link(&self, id: &RepositoryId, digest: &Digest) -> Option<String> {
        String::from_utf8(read_small(&self.layout.link(id, digest)).ok()?).ok()
    }

    /// Forgets that a repository holds content.
    pub(in crate::cache) fn remove_link(&self, id: &RepositoryId, digest: &Digest) -> io::Result<u64> {
        self.remove_record(&self.layout.link(id, digest))
    }

    /// Keeps what a tag means.
    pub(in crate::cache) fn write_tag(&self, id: &RepositoryId, tag: &Tag, record: TagRecord) -> io::Result<Written> {
        let checked = record.checked.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.write_record(&self.layout.tag(id, tag), &[format!("{} {checked}\n", record.digest).as_bytes()])
    }

    /// What a tag means.
    pub(in crate::cache) fn read_tag(&self, id: &RepositoryId, tag: &Tag) -> Option<TagRecord> {
        let text = String::from_utf8(read_small(&self.layout.tag(id, tag)).ok()?).ok()?;
        let (digest, checked) = text.trim_end().split_once(' ')?;
        let checked = UNIX_EPOCH.checked_add(Duration::from_secs(checked.parse().ok()?))?;
        Some(TagRecord { digest: digest.parse().ok()?, checked })
    }

    /// Forgets a tag.
    pub(in crate::cache) fn remove_tag(&self, id: &RepositoryId, tag: &Tag) -> io::Result<u64> {
        self.remove_record(&self.layout.tag(id, tag))
    }

    /// What the file of a list takes, at most.
    pub(in crate::cache) fn list_size(record: &ListRecord) -> io::Result<u64> {
        Ok(record_size(record.bytes.len() as u64 + Tree::list_head(record)?.len() as u64))
    }

    /// Keeps a list: one line of JSON about it, then its body. Lists of the repository that are too many go, and count as before.
    pub(in crate::cache) fn write_list(
        &self,
        id: &RepositoryId,
        key: &str,
        record: &ListRecord,
    ) -> io::Result<Written> {
        let path = self.layout.list(id, key);
        let mut written = self.write_record(&path, &[&Tree::list_head(record)?, &record.bytes])?;
        written.before += path.parent().map_or(Ok(0), |lists| self.prune_lists(lists))?;
        Ok(written)
    }

    fn list_head(record: &ListRecord) -> io::Result<Vec<u8>> {
        let head = ListHead {
            media_type: record.media_type.clone(),
            link: record.link.clone(),
            filters_applied: record.filters_applied.clone(),
            checked: record.checked.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        };
        let mut head = serde_json::to_vec(&head)?;
        head.push(b'\n');
        Ok(head)
    }

    /// Deletes the oldest lists in a directory, until what is left is within bounds. Returns what they took.
    fn prune_lists(&self, directory: &Path) -> io::Result<u64> {
        let mut lists = Vec::new();
        for name in entries(directory)? {
            let path = directory.join(name);
            // Another thread may have deleted it.
            if let Ok(metadata) = fs::symlink_metadata(&path) {
                lists.push((modified(&metadata), record_size(metadata.len()), path));
            }
        }
        lists.sort_unstable_by(|one, other| other.cmp(one));
        let (mut bytes, mut freed) = (0, 0);
        for (newer, (_, size, path)) in lists.into_iter().enumerate() {
            bytes += size;
            if newer >= LISTS || (newer > 0 && bytes > LIST_BYTES) {
                freed += self.remove_record(&path)?;
            }
        }
        Ok(freed)
    }

    /// Deletes all lists of a repository. Returns what they took.
    pub(in crate::cache) fn remove_lists(&self, id: &RepositoryId) -> io::Result<u64> {
        self.empty(&self.layout.lists(id))
    }

    /// Whether a list is kept.
    pub(in crate::cache) fn has_list(&self, id: &RepositoryId, key: &str) -> bool {
        self.layout.list(id, key).exists()
    }

    /// A kept list.
    pub(in crate::cache) fn read_list(&self, id: &RepositoryId, key: &str) -> Option<ListRecord> {
        let bytes = bytes::Bytes::from(read_small(&self.layout.list(id, key)).ok()?);
        let line = bytes.iter().position(|byte| *byte == b'\n')?;
        let head: ListHead = serde_json::from_slice(&bytes[..line]).ok()?;
        Some(ListRecord {
            media_type: head.media_type,
            link: head.link,
            filters_applied: head.filters_applied,
            checked: UNIX_EPOCH.checked_add(Duration::from_secs(head.checked))?,
            bytes: bytes.slice(line + 1..),
        })
    }
}

impl Tree {
    /// The repositories of a part of a registry that may have records here.
    pub(in crate::cache) fn repositories(&self, registry: &Arc<str>, extent: &Extent) -> io::Result<Vec<RepositoryId>> {
        match extent {
            Extent::Registry => self.repositories_below(self.layout.registry(registry)),
            Extent::Namespace(namespace) => self.repositories_below(self.layout.registry(registry).join(&**namespace)),
            Extent::Repository(name) => Ok(vec![RepositoryId { registry: Arc::clone(registry), name: name.clone() }]),
        }
    }

    /// All repositories that may have records.
    pub(in crate::cache) fn all_repositories(&self) -> io::Result<Vec<RepositoryId>> {
        self.repositories_below(self.layout.repositories())
    }

    /// Directories whose names begin with `_` hold records; all others are parts of names.
    fn repositories_below(&self, directory: PathBuf) -> io::Result<Vec<RepositoryId>> {
        let (mut found, mut work) = (Vec::new(), vec![directory]);
        while let Some(directory) = work.pop() {
            for name in entries(&directory)?.iter().filter(|name| !name.as_encoded_bytes().starts_with(b"_")) {
                let path = directory.join(name);
                // A link may lead out of the tree, or in a circle.
                if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
                    work.push(path);
                }
            }
            found.extend(self.layout.repository_of(&directory));
        }
        Ok(found)
    }

    /// What a repository holds.
    pub(in crate::cache) fn links(&self, id: &RepositoryId) -> io::Result<Vec<Digest>> {
        let names = entries(&self.layout.links(id))?;
        Ok(names.iter().filter_map(|name| layout::digest_of(name.to_str()?)).collect())
    }

    /// The tags of a repository.
    pub(in crate::cache) fn tags(&self, id: &RepositoryId) -> io::Result<Vec<Tag>> {
        let names = entries(&self.layout.tags(id))?;
        Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
    }

    /// Whether a repository may have records: tags, lists or content.
    pub(in crate::cache) fn has_records(&self, id: &RepositoryId) -> bool {
        [self.layout.tags(id), self.layout.lists(id), self.layout.links(id)].iter().any(|path| path.exists())
    }

    /// Deletes the records of a repository but for its lists and when it was made, and first who may read it. Returns what
    /// they took.
    pub(in crate::cache) fn remove_names(&self, id: &RepositoryId) -> io::Result<u64> {
        Ok(self.remove_callers(id)? + self.empty(&self.layout.tags(id))? + self.empty(&self.layout.links(id))?)
    }

    /// Forgets when a repository was made.
    pub(in crate::cache) fn remove_created(&self, id: &RepositoryId) -> io::Result<u64> {
        self.remove_record(&self.layout.created(id))
    }

    /// Keeps when a repository was made.
    pub(in crate::cache) fn write_created(&self, id: &RepositoryId, created: i64) -> io::Result<Written> {
        self.write_record(&self.layout.created(id), &[format!("{created}\n").as_bytes()])
    }

    /// When a repository was made, if that is kept.
    pub(in crate::cache) fn read_created(&self, id: &RepositoryId) -> Option<i64> {
        std::str::from_utf8(&read_small(&self.layout.created(id)).ok()?).ok()?.trim_end().parse().ok()
    }

    /// Keeps what operators pinned.
    pub(in crate::cache) fn write_pins<'p>(&self, pins: impl IntoIterator<Item = &'p String>) -> io::Result<()> {
        let lines: String = pins.into_iter().flat_map(|pin| [pin, "\n"]).collect();
        self.write(&self.layout.pins(), &[lines.as_bytes()], self.fsync)
    }

    /// What operators pinned.
    pub(in crate::cache) fn read_pins(&self) -> Vec<String> {
        let text = read_small(&self.layout.pins()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        text.unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Keeps the public keys of a registry's tokens.
    pub(in crate::cache) fn write_keys(&self, registry: &str, keys: &[u8]) -> io::Result<()> {
        self.write(&self.layout.keys(registry), &[keys], false)
    }

    /// The keys that were kept.
    pub(in crate::cache) fn read_keys(&self, registry: &str) -> Option<Vec<u8>> {
        read_small(&self.layout.keys(registry)).ok()
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct ListHead {
    media_type: String,
    link: Option<String>,
    filters_applied: Option<String>,
    checked: u64,
}

/// What lies in a directory, if there is one.
fn entries(directory: &Path) -> io::Result<Vec<OsString>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

//! The small files of a repository: which content it holds, what its tags mean, and lists as upstream gave them.
//!
//! Invariant: the lists of a repository are bounded in number and in bytes, for a list is named by its query, and a query
//! can be anything.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use pierhead_registry::oci::{Digest, Tag};

use super::{Tree, modified, read_small, remove_if_there};
use crate::cache::{ListRecord, RepositoryId, TagRecord};

/// Most lists of one repository, and most bytes of them.
const LISTS: usize = 1000;
const LIST_BYTES: u64 = 32 << 20;
/// What a small file takes.
const BLOCK: u64 = 4096;

impl Tree {
    /// Keeps that a repository holds content.
    pub(in crate::cache) fn write_link(&self, id: &RepositoryId, digest: &Digest, media_type: &str) -> io::Result<()> {
        self.write(&self.layout.link(id, digest), &[media_type.as_bytes()], false)
    }

    /// The media type in a link; empty for a blob.
    pub(in crate::cache) fn read_link(&self, id: &RepositoryId, digest: &Digest) -> Option<String> {
        String::from_utf8(read_small(&self.layout.link(id, digest)).ok()?).ok()
    }

    /// Forgets that a repository holds content.
    pub(in crate::cache) fn remove_link(&self, id: &RepositoryId, digest: &Digest) -> io::Result<()> {
        self.change(|| remove_if_there(&self.layout.link(id, digest)))
    }

    /// Keeps what a tag means.
    pub(in crate::cache) fn write_tag(&self, id: &RepositoryId, tag: &Tag, record: TagRecord) -> io::Result<()> {
        let checked = record.checked.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.write(&self.layout.tag(id, tag), &[format!("{} {checked}\n", record.digest).as_bytes()], false)
    }

    /// What a tag means.
    pub(in crate::cache) fn read_tag(&self, id: &RepositoryId, tag: &Tag) -> Option<TagRecord> {
        let text = String::from_utf8(read_small(&self.layout.tag(id, tag)).ok()?).ok()?;
        let (digest, checked) = text.trim_end().split_once(' ')?;
        let checked = UNIX_EPOCH.checked_add(Duration::from_secs(checked.parse().ok()?))?;
        Some(TagRecord { digest: digest.parse().ok()?, checked })
    }

    /// Forgets a tag.
    pub(in crate::cache) fn remove_tag(&self, id: &RepositoryId, tag: &Tag) -> io::Result<()> {
        self.change(|| remove_if_there(&self.layout.tag(id, tag)))
    }

    /// Keeps a list: one line of JSON about it, then its body.
    pub(in crate::cache) fn write_list(&self, id: &RepositoryId, key: &str, record: &ListRecord) -> io::Result<()> {
        let head = ListHead {
            media_type: record.media_type.clone(),
            link: record.link.clone(),
            filters_applied: record.filters_applied.clone(),
            checked: record.checked.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        };
        let mut head = serde_json::to_vec(&head)?;
        head.push(b'\n');
        let path = self.layout.list(id, key);
        self.write(&path, &[&head, &record.bytes], false)?;
        self.change(|| path.parent().map_or(Ok(()), prune_lists))
    }

    /// Deletes all lists of a repository.
    pub(in crate::cache) fn remove_lists(&self, id: &RepositoryId) -> io::Result<()> {
        match self.layout.list(id, "").parent().map_or(Ok(()), std::fs::remove_dir_all) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
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

/// Deletes the oldest lists in a directory, until what is left is within bounds.
fn prune_lists(directory: &Path) -> io::Result<()> {
    let mut lists = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // Another thread may have deleted it.
        if let Ok(metadata) = entry.metadata() {
            lists.push((modified(&metadata), metadata.len().next_multiple_of(BLOCK), entry.path()));
        }
    }
    lists.sort_unstable_by(|one, other| other.cmp(one));
    let mut bytes = 0;
    for (newer, (_, size, path)) in lists.into_iter().enumerate() {
        bytes += size;
        if newer >= LISTS || (newer > 0 && bytes > LIST_BYTES) {
            remove_if_there(&path)?;
        }
    }
    Ok(())
}

//! Making the index anew from the tree, or setting it right after a crash.
//!
//! The tree is walked once: committed content becomes entries, links and tags become records, and a link that names a
//! media type tells that its content is a manifest, whose children are read from its body. Permissions are the tree's alone,
//! for the index may still have one that was taken back just before a crash. What the index did not know, or
//! knew with another length, is hashed before it is served for the first time: hashing it all here would take hours.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use pierhead_registry::oci::{Digest, Manifest};

use super::{Index, IndexError, Known};
use crate::cache::ledger::{self, Entry, Kind, RecordEntry};
use crate::cache::records::RecordGroup;
use crate::cache::tree::{self, Tree};
use crate::cache::{RepositoryId, layout};

/// Walks the tree; `known` are the entries the index had, whose recency is kept.
pub(super) fn rebuild(index: &Index, tree: &Tree, known: Known) -> Result<Known, IndexError> {
    let Known { entries: mut known, records } = known;
    let mut entries = HashMap::new();
    for algorithm in directories(&tree.layout.blobs())? {
        for shard in directories(&algorithm)? {
            for file in fs::read_dir(shard)? {
                let file = file?;
                let metadata = file.metadata()?;
                let name = format!("{}-{}", name_of(&algorithm), file.file_name().to_string_lossy());
                let Some(digest) = layout::digest_of(&name).filter(|_| metadata.is_file()) else {
                    tracing::warn!(path = %file.path().display(), "not a blob: left alone");
                    continue;
                };
                let entry = known.remove(&digest).filter(|entry| entry.size == metadata.len());
                let entry = entry.unwrap_or_else(|| Entry {
                    owner: None,
                    size: metadata.len(),
                    used: ledger::milliseconds(tree::modified(&metadata)),
                    pinned: false,
                    suspect: true,
                    kind: Kind::Committed { children: Box::default() },
                });
                entries.insert(digest, entry);
            }
        }
    }
    for gone in known.keys() {
        index.remove_content(gone);
    }
    index.clear_authorised();
    for id in tree.all_repositories()? {
        for (caller, when) in tree.callers(&id) {
            index.put_authorised(&id, &caller, Some(when));
        }
        read_links(index, tree, &id, &mut entries)?;
        for tag in tree.tags(&id)? {
            if let Some(record) = tree.read_tag(&id, &tag) {
                index.put_tag(&id, &tag, record);
            }
        }
    }
    for (digest, entry) in &entries {
        index.put_entry(digest, entry);
    }
    let records = count(index, tree, &records)?;
    index.flush()?;
    tracing::info!(entries = entries.len(), records = records.len(), "cache index made from the tree");
    Ok(Known { entries, records })
}

/// Counts what records take. Where it is not known when they were last used, it counts when they were last written.
pub(super) fn count(
    index: &Index,
    tree: &Tree,
    known: &HashMap<RecordGroup, RecordEntry>,
) -> Result<HashMap<RecordGroup, RecordEntry>, IndexError> {
    let mut counted = HashMap::new();
    for (group, size, written) in tree.count_records()? {
        let used = known.get(&group).map_or(ledger::milliseconds(written), |known| known.used);
        counted.insert(group, RecordEntry { size, used, kept: false });
    }
    index.set_records(&counted);
    Ok(counted)
}

fn read_links(index: &Index, tree: &Tree, id: &RepositoryId, entries: &mut HashMap<Digest, Entry>) -> io::Result<()> {
    for digest in tree.links(id)? {
        let Some(media_type) = tree.read_link(id, &digest) else { continue };
        if let Some(entry) = entries.get_mut(&digest) {
            entry.owner.get_or_insert_with(|| id.registry.clone());
        }
        match entries.get_mut(&digest) {
            Some(entry) if !media_type.is_empty() && entry.kind == (Kind::Committed { children: Box::default() }) => {
                entry.kind = Kind::Committed { children: children(&tree.read_blob(&digest)?) };
            }
            Some(_) => {}
            None if tree.layout.partial(&digest).exists() => {}
            None => {
                // The content is gone: a crash came between its eviction and this.
                tree.remove_link(id, &digest)?;
                continue;
            }
        }
        index.put_link(id, &digest, &media_type);
    }
    Ok(())
}

/// What a manifest's bytes refer to.
pub(in crate::cache) fn children(bytes: &[u8]) -> Box<[Digest]> {
    Manifest::parse(bytes)
        .map(|manifest| manifest.manifests.iter().chain(&manifest.blobs).map(|descriptor| descriptor.digest).collect())
        .unwrap_or_default()
}

fn directories(path: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

//! How records are spelled in sled: keys that sort by what is scanned, values of fixed layout. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pierhead_registry::oci::{Algorithm, Digest, Tag};

use crate::cache::ledger::{Entry, Kind, RecordEntry};
use crate::cache::records::{RecordGroup, RecordKind};
use crate::cache::{Extent, RepositoryId, TagRecord};

/// Set when nobody vouches for an entry.
const SUSPECT: u8 = 1;
/// Set when the entry's owner follows: a byte for its length, then its name.
const OWNED: u8 = 2;

/// A digest: a byte for the algorithm, then the hash.
pub(super) fn digest(digest: &Digest) -> Vec<u8> {
    let mut key = Vec::with_capacity(65);
    push_digest(&mut key, digest);
    key
}

fn push_digest(key: &mut Vec<u8>, digest: &Digest) {
    key.push(match digest.algorithm() {
        Algorithm::Sha256 => 1,
        Algorithm::Sha512 => 2,
    });
    key.extend_from_slice(digest.as_bytes());
}

/// Takes a digest off the front.
fn read_digest<'a>(bytes: &mut &'a [u8]) -> Option<Digest> {
    let (algorithm, length) = match bytes.first()? {
        1 => (Algorithm::Sha256, 32),
        2 => (Algorithm::Sha512, 64),
        _ => return None,
    };
    let hash: &'a [u8] = bytes.get(1..=length)?;
    *bytes = &bytes[1 + length..];
    Digest::from_bytes(algorithm, hash)
}

pub(super) fn entry(entry: &Entry) -> Vec<u8> {
    let mut value = Vec::with_capacity(17);
    value.extend_from_slice(&entry.size.to_le_bytes());
    value.extend_from_slice(&entry.used.to_le_bytes());
    let owner = entry.owner.as_ref().and_then(|owner| Some((u8::try_from(owner.len()).ok()?, owner)));
    value.push(if entry.suspect { SUSPECT } else { 0 } | if owner.is_some() { OWNED } else { 0 });
    if let Some((length, owner)) = owner {
        value.push(length);
        value.extend_from_slice(owner.as_bytes());
    }
    if let Kind::Committed { children } = &entry.kind {
        children.iter().for_each(|child| push_digest(&mut value, child));
    }
    value
}

pub(super) fn read_entry(mut key: &[u8], value: &[u8]) -> Option<(Digest, Entry)> {
    let digest = read_digest(&mut key)?;
    let size = u64::from_le_bytes(value.get(..8)?.try_into().ok()?);
    let used = u64::from_le_bytes(value.get(8..16)?.try_into().ok()?);
    let flags = value.get(16)?;
    let suspect = flags & SUSPECT != 0;
    let mut rest = value.get(17..)?;
    let mut owner = None;
    if flags & OWNED != 0 {
        let (length, after) = rest.split_first()?;
        let (name, after) = after.split_at_checked(usize::from(*length))?;
        (owner, rest) = (Some(std::str::from_utf8(name).ok()?.into()), after);
    }
    let mut children = Vec::new();
    while !rest.is_empty() {
        children.push(read_digest(&mut rest)?);
    }
    let kind = Kind::Committed { children: children.into() };
    Some((digest, Entry { owner, size, used, pinned: false, suspect, kind }))
}

/// By digest first: an eviction looks for all repositories of one digest.
pub(super) fn link(id: &RepositoryId, content: &Digest) -> Vec<u8> {
    let mut key = digest(content);
    key.extend_from_slice(id.registry.as_bytes());
    key.push(0);
    key.extend_from_slice(id.name.as_str().as_bytes());
    key
}

pub(super) fn read_link_key(mut key: &[u8]) -> Option<(RepositoryId, Digest)> {
    let digest = read_digest(&mut key)?;
    let (registry, name) = std::str::from_utf8(key).ok()?.split_once('\0')?;
    Some((RepositoryId { registry: registry.into(), name: name.parse().ok()? }, digest))
}

/// What all tags of a repository start with.
pub(super) fn tag_prefix(id: &RepositoryId) -> Vec<u8> {
    let mut key = Vec::with_capacity(64);
    key.extend_from_slice(id.registry.as_bytes());
    key.push(0);
    key.extend_from_slice(id.name.as_str().as_bytes());
    key.push(0);
    key
}

/// What the keys of a part of a registry start with, and those of few others.
pub(super) fn prefix(registry: &str, extent: &Extent) -> Vec<u8> {
    let name = match extent {
        Extent::Registry => "",
        Extent::Namespace(namespace) => namespace,
        Extent::Repository(name) => name.as_str(),
    };
    [registry.as_bytes(), &[0], name.as_bytes()].concat()
}

/// Of a key that starts as [`tag_prefix`] has it.
pub(super) fn read_repository(key: &[u8]) -> Option<RepositoryId> {
    let mut parts = key.splitn(3, |byte| *byte == 0).map(std::str::from_utf8);
    Some(RepositoryId { registry: parts.next()?.ok()?.into(), name: parts.next()?.ok()?.parse().ok()? })
}

pub(super) fn tag(id: &RepositoryId, tag: &Tag) -> Vec<u8> {
    let mut key = tag_prefix(id);
    key.extend_from_slice(tag.as_str().as_bytes());
    key
}

pub(super) fn read_tag_key(key: &[u8]) -> Option<(RepositoryId, Tag)> {
    let tag = key.splitn(3, |byte| *byte == 0).nth(2)?;
    Some((read_repository(key)?, std::str::from_utf8(tag).ok()?.parse().ok()?))
}

pub(super) fn tag_value(record: TagRecord) -> Vec<u8> {
    let mut value = digest(&record.digest);
    value.extend_from_slice(&time(record.checked));
    value
}

pub(super) fn read_tag(mut value: &[u8]) -> Option<TagRecord> {
    let digest = read_digest(&mut value)?;
    Some(TagRecord { digest, checked: read_time(value)? })
}

pub(super) fn authorisation(id: &RepositoryId, caller: &[u8; 32]) -> Vec<u8> {
    let mut key = tag_prefix(id);
    key.extend_from_slice(caller);
    key
}

/// A byte for the kind follows the repository.
pub(super) fn group(group: &RecordGroup) -> Vec<u8> {
    let mut key = tag_prefix(&group.repository);
    key.push(match group.kind {
        RecordKind::Names => 1,
        RecordKind::Lists => 2,
    });
    key
}

pub(super) fn read_group(key: &[u8]) -> Option<RecordGroup> {
    let kind = match key.last()? {
        1 => RecordKind::Names,
        2 => RecordKind::Lists,
        _ => return None,
    };
    Some(RecordGroup { repository: read_repository(key)?, kind })
}

pub(super) fn group_value(entry: RecordEntry) -> [u8; 16] {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&entry.size.to_le_bytes());
    value[8..].copy_from_slice(&entry.used.to_le_bytes());
    value
}

pub(super) fn read_group_value(value: &[u8]) -> Option<RecordEntry> {
    let (size, used) = value.split_at_checked(8)?;
    let (size, used) = (size.try_into().ok()?, used.try_into().ok()?);
    Some(RecordEntry { size: u64::from_le_bytes(size), used: u64::from_le_bytes(used), kept: false })
}

/// Milliseconds since 1970.
pub(super) fn time(time: SystemTime) -> [u8; 8] {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX).to_le_bytes()
}

pub(super) fn read_time(value: &[u8]) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(u64::from_le_bytes(value.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::{Entry, Kind, RecordEntry, RecordGroup, RecordKind, RepositoryId, TagRecord};
    use pierhead_registry::oci::{Algorithm, Digest};
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn what_is_written_is_read() {
        let (a, b) = (Digest::of(Algorithm::Sha256, b"a"), Digest::of(Algorithm::Sha512, b"b"));
        let kind = Kind::Committed { children: [b, a].into() };
        for owner in [None, Some("r:1".into()), Some("r".repeat(255).as_str().into())] {
            let entry = Entry { owner, size: 7, used: 8, pinned: false, suspect: true, kind: kind.clone() };
            assert_eq!(super::read_entry(&super::digest(&a), &super::entry(&entry)), Some((a, entry)));
        }
        assert_eq!(super::read_entry(&super::digest(&a), b"short"), None);
        let id = RepositoryId { registry: "r:1".into(), name: "a/b".parse().unwrap() };
        assert_eq!(super::read_link_key(&super::link(&id, &b)), Some((id.clone(), b)));
        let tag: pierhead_registry::oci::Tag = "v1".parse().unwrap();
        assert_eq!(super::read_tag_key(&super::tag(&id, &tag)), Some((id.clone(), tag)));
        assert_eq!(super::read_repository(&super::authorisation(&id, &[0xff; 32])), Some(id.clone()));
        for kind in RecordKind::ALL {
            let group = RecordGroup { repository: id.clone(), kind };
            assert_eq!(super::read_group(&super::group(&group)), Some(group));
        }
        let counted = RecordEntry { size: 1 << 40, used: 9, kept: false };
        assert_eq!(super::read_group_value(&super::group_value(counted)), Some(counted));
        assert_eq!(super::read_group_value(&[0; 15]), None);
        let record = TagRecord { digest: b, checked: UNIX_EPOCH + Duration::from_millis(1234) };
        assert_eq!(super::read_tag(&super::tag_value(record)), Some(record));
    }
}

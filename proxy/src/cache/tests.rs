//! What the store does about content that goes wrong on disk, and about what would fill the disk.

mod records;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use pierhead_registry::oci::{Algorithm, Digest, Tag};

use super::ledger::Kind;
use super::store::{NotStored, Store};
use super::{CachedManifest, Changing, Extent, ListRecord, Pins, RepositoryId, Settings, TagRecord};
use crate::admin::metrics::Metrics;

fn repository() -> RepositoryId {
    RepositoryId { registry: "r.example.com".into(), name: "team/app".parse().unwrap() }
}

fn owner() -> Arc<str> {
    repository().registry
}

fn settings(folder: &tempfile::TempDir) -> Settings {
    Settings {
        path: folder.path().to_owned(),
        fsync: false,
        verify_on_read: false,
        scrub_interval: None,
        memory: 1 << 20,
        changing: Changing {
            max_size: 1 << 30,
            min_free: None,
            shares: HashMap::new(),
            pins: Pins::default(),
            parallel: HashMap::new(),
        },
    }
}

/// A store that holds one manifest.
fn store(folder: &tempfile::TempDir) -> (Store, Digest, &'static [u8]) {
    let (store, _) = super::open(settings(folder), Arc::new(Metrics::new().unwrap())).unwrap();
    let id = repository();
    let bytes: &[u8] = b"{\"layers\":[]}";
    let digest = Digest::of(Algorithm::Sha256, bytes);
    let manifest = CachedManifest { digest, media_type: "a/b".into(), bytes: Bytes::from_static(bytes) };
    store.put_manifest(&id, &manifest, false).unwrap();
    (store, digest, bytes)
}

#[test]
fn what_was_damaged_and_is_fetched_again_is_not_removed_by_those_who_find_out_late() {
    let folder = tempfile::tempdir().unwrap();
    let (store, digest, bytes) = store(&folder);
    store.tree.write_blob(&digest, b"something wrong").unwrap();
    let (wrong, _) = store.tree.open_blob(&digest).unwrap();
    store.tree.write_blob(&digest, bytes).unwrap();
    store.damaged(&digest, Some(&wrong), "does not hash to its digest");
    store.damaged(&digest, None, "is missing");
    assert!(store.open(&digest, true).is_some());
    // Once it has been evicted, what there is of it is a partial.
    store.ledger.remove(&digest);
    store.tree.open_partial(&digest).unwrap();
    store.damaged(&digest, Some(&wrong), "does not hash to its digest");
    assert!(store.tree.layout.partial(&digest).exists());
}

#[test]
fn what_cannot_be_opened_just_now_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (store, digest, _) = store(&folder);
    let path = store.tree.layout.blob(&digest);
    let aside = folder.path().join("aside");
    std::fs::rename(&path, &aside).unwrap();
    // Like a lack of descriptors, a directory in its place says nothing about the content.
    std::fs::create_dir(&path).unwrap();
    assert_eq!(store.read(&digest), None);
    assert!(store.writable(), "nor about the disk");
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    assert!(store.read(&digest).is_some());
    std::fs::write(&path, "something wrong").unwrap();
    assert_eq!(store.read(&digest), None);
    assert!(!path.exists());
}

#[test]
fn lists_do_not_fill_the_disk_whatever_is_asked_for() {
    for (size, count, most) in [(10, 1100, 1000), (4 << 20, 10, 8)] {
        let folder = tempfile::tempdir().unwrap();
        let (store, ..) = store(&folder);
        let record = ListRecord {
            media_type: "application/json".into(),
            link: None,
            filters_applied: None,
            bytes: Bytes::from(vec![b' '; size]),
            checked: UNIX_EPOCH,
        };
        let write = |key: &str| store.tree.write_list(&repository(), key, &record).unwrap();
        write("first");
        let lists = store.tree.layout.list(&repository(), "first").parent().unwrap().to_owned();
        for number in 0..count {
            std::fs::write(lists.join(number.to_string()), &record.bytes).unwrap();
        }
        write("last");
        let kept = std::fs::read_dir(&lists).unwrap().count();
        assert!(kept <= most, "{kept} of {count}");
        assert!(store.tree.read_list(&repository(), "last").is_some());
    }
}

#[test]
fn a_part_of_a_registry_is_forgotten_and_its_content_stays() {
    let names = ["team/app", "team/app/sub", "team/app2", "team", "teams/app"];
    let caller = [0xff; 32];
    for (extent, gone) in [
        (Extent::Repository("team/app".parse().unwrap()), &[0][..]),
        (Extent::Namespace("team".into()), &[0, 1, 2, 3]),
        (Extent::Namespace("other".into()), &[]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (store, digest, bytes) = store(&folder);
        let id = |registry: &str, name: &str| RepositoryId { registry: registry.into(), name: name.parse().unwrap() };
        let all = names.map(|name| ("r.example.com", name)).into_iter().chain([("other.example.com", names[0])]);
        let all: Vec<RepositoryId> = all.map(|(registry, name)| id(registry, name)).collect();
        let (tag, now) = ("v1".parse().unwrap(), SystemTime::now());
        let manifest = CachedManifest { digest, media_type: "a/b".into(), bytes: Bytes::from_static(bytes) };
        let list = ListRecord {
            media_type: "application/json".into(),
            link: None,
            filters_applied: None,
            bytes: Bytes::new(),
            checked: UNIX_EPOCH,
        };
        let (key, record) = (Arc::from("tags/list"), TagRecord { digest, checked: now });
        for id in &all {
            store.put_manifest(id, &manifest, false).unwrap();
            store.put_tag(id, &tag, record);
            store.tree.write_list(id, &key, &list).unwrap();
            store.index.put_authorised(id, &caller, Some(now));
            store.hot.put_manifest(id, Arc::new(manifest.clone()));
            store.hot.put_tag(id, &tag, record);
            store.hot.put_list(id, &key, Arc::new(list.clone()));
            store.hot.put_link(id, &digest);
            store.hot.put_authorised(id, &caller, Some(now));
        }
        let yes = |id: &RepositoryId| {
            [store.hot.authorised(id, &caller), store.index.authorised(id, &caller)].map(|yes| yes.is_some())
        };
        let known = |id: &RepositoryId| {
            let hot = [
                store.hot.manifest(id, &digest).is_some(),
                store.hot.tag(id, &tag).is_some(),
                store.hot.list(id, &key).is_some(),
                store.hot.linked(id, &digest),
            ];
            let stored = [
                store.read_link(id, &digest).is_some(),
                store.tree.read_link(id, &digest).is_some(),
                store.read_tag(id, &tag).is_some(),
                store.tree.read_list(id, &key).is_some(),
            ];
            (hot, stored)
        };
        let registry = &all[0].registry;
        store.forget_authorised(registry, &extent);
        for (place, id) in all.iter().enumerate() {
            assert_eq!(yes(id), [!gone.contains(&place); 2], "{extent:?} {id}");
            assert_eq!(known(id), ([true; 4], [true; 4]), "{extent:?} {id}");
            store.index.put_authorised(id, &caller, Some(now));
        }
        store.forget_all(registry, &extent);
        for (place, id) in all.iter().enumerate() {
            let stays = !gone.contains(&place);
            assert_eq!(known(id), ([stays; 4], [stays; 4]), "{extent:?} {id}");
            assert_eq!(store.index.authorised(id, &caller).is_some(), stays, "{extent:?} {id}");
        }
        assert_eq!(store.read(&digest).as_deref(), Some(bytes));
    }
}

#[test]
fn what_is_known_of_a_repository_goes_when_another_is_made_under_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let (store, digest, bytes) = store(&folder);
    let (id, tag): (_, Tag) = (repository(), "v1".parse().unwrap());
    let bystander = RepositoryId { name: "team/app/more".parse().unwrap(), ..id.clone() };
    let record = TagRecord { digest, checked: UNIX_EPOCH };
    let know = |store: &Store| {
        for id in [&id, &bystander] {
            store.link(id, &digest, "a/b").unwrap();
            store.hot.put_link(id, &digest);
            store.put_tag(id, &tag, record);
        }
    };
    let known = |store: &Store| {
        [&id, &bystander].map(|id| {
            let linked = store.read_link(id, &digest).is_some();
            assert_eq!(store.read_tag(id, &tag).is_some(), linked);
            linked
        })
    };
    assert_eq!(store.created(&id), None);
    for (created, meant, forgets) in
        [(5, true, true), (5, true, false), (4, false, false), (9, true, true), (5, false, false)]
    {
        know(&store);
        assert_eq!((store.made(&id, created), known(&store)), (meant, [!forgets, true]), "{created}");
        assert_eq!(store.hot.linked(&id, &digest), !forgets, "{created}");
    }
    assert_eq!((store.created(&id), store.hot.created(&id)), (Some(9), Some(Some(9))));
    // Deleted, it is still not one of those before it.
    store.forget_all(&id.registry, &Extent::Registry);
    assert_eq!(store.created(&id), Some(9));
    assert_eq!(store.read(&digest).as_deref(), Some(bytes));
    // Who has given the store away can forget nothing in it, and says so.
    know(&store);
    store.release().unwrap();
    assert!(!store.made(&id, 10));
    let (after, _) = super::open(settings(&folder), Arc::new(Metrics::new().unwrap())).unwrap();
    assert_eq!((after.hot.created(&id), after.created(&id), known(&after)), (None, Some(9), [true; 2]));
    // Where forgetting fails, the repository is not taken for the newer one.
    let links = after.tree.layout.link(&id, &digest);
    std::fs::remove_file(&links).unwrap();
    std::fs::create_dir(&links).unwrap();
    assert!(!after.made(&id, 10));
    assert_eq!(after.created(&id), Some(9));
}

#[test]
fn a_manifest_that_came_as_a_blob_is_known_for_what_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let (store, child, _) = store(&folder);
    let bytes = format!("{{\"manifests\":[{{\"digest\":\"{child}\"}}]}}");
    let digest = Digest::of(Algorithm::Sha256, bytes.as_bytes());
    let file = store.tree.open_partial(&digest).unwrap();
    std::fs::write(store.tree.layout.partial(&digest), &bytes).unwrap();
    store.reserve(&owner(), &digest, bytes.len() as u64).unwrap();
    store.commit(&owner(), &digest, bytes.len() as u64, &file).unwrap();
    let manifest = CachedManifest { digest, media_type: "a/b".into(), bytes: bytes.into() };
    store.put_manifest(&repository(), &manifest, false).unwrap();
    assert_eq!(store.ledger.get(&digest).unwrap().kind, Kind::Committed { children: [child].into() });
}

#[test]
fn what_was_released_can_be_read_and_changes_no_more_and_another_may_have_it() {
    let folder = tempfile::tempdir().unwrap();
    let (before, digest, bytes) = store(&folder);
    let unfinished = Digest::of(Algorithm::Sha256, b"unfinished");
    before.reserve(&owner(), &unfinished, 10).unwrap();
    let file = before.tree.open_partial(&unfinished).unwrap();
    before.release().unwrap();
    // Nothing is in its way, and there is nothing to be set right.
    let settings = settings(&folder);
    let (after, _) = super::open(settings, Arc::new(Metrics::new().unwrap())).unwrap();
    assert!(after.ledger.get(&digest).is_some_and(|entry| !entry.suspect), "the index was closed in order");
    assert_eq!(after.ledger.get(&unfinished), None);
    assert!(!after.tree.layout.partial(&unfinished).exists());
    // The one before still reads, and does no harm.
    assert_eq!(before.read(&digest).unwrap(), bytes);
    assert_eq!(before.read_link(&repository(), &digest).as_deref(), Some("a/b"));
    before.damaged(&digest, None, "is missing");
    assert!(before.commit(&owner(), &unfinished, 10, &file).is_ok());
    assert!(matches!(before.reserve(&owner(), &unfinished, 10), Err(NotStored::Released)));
    before.unlink(&repository(), &digest);
    before.tree.remove_content(&digest).unwrap();
    assert!(before.tree.open_partial(&unfinished).is_err());
    assert_eq!(after.read(&digest).unwrap(), bytes);
    assert_eq!(after.read_link(&repository(), &digest).as_deref(), Some("a/b"));
    assert!(!after.tree.layout.blob(&unfinished).exists());
}

/// A link in the tree is not followed, whatever it leads to: what it leads to is neither served, nor written to, nor deleted.
#[test]
fn links_in_the_tree_are_not_followed() {
    use std::os::unix::fs::symlink;
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, digest, bytes) = store(&folder);
    let secret = outside.path().join("secret");
    let path = store.tree.layout.blob(&digest);
    // Of the right length, and even of the right content: it is not the cache's.
    for content in [vec![b'x'; bytes.len()], bytes.to_vec()] {
        std::fs::write(&secret, &content).unwrap();
        std::fs::remove_file(&path).unwrap();
        symlink(&secret, &path).unwrap();
        assert!(store.open(&digest, false).is_none());
        assert!(!path.is_symlink(), "it is taken away, so that the content can be fetched again");
        assert_eq!(std::fs::read(&secret).unwrap(), content);
        let manifest = CachedManifest { digest, media_type: "a/b".into(), bytes: Bytes::copy_from_slice(bytes) };
        store.put_manifest(&repository(), &manifest, false).unwrap();
        assert!(store.open(&digest, true).is_some());
    }
    // One in the place of a manifest, as manifests are read.
    std::fs::remove_file(&path).unwrap();
    symlink(&secret, &path).unwrap();
    assert_eq!(store.read(&digest), None);
    assert!(!path.is_symlink());
    // A partial is not written through one.
    let other = Digest::of(Algorithm::Sha256, b"other");
    symlink(&secret, store.tree.layout.partial(&other)).unwrap();
    let file = store.tree.open_partial(&other).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"overwritten", 0).unwrap();
    assert_eq!(std::fs::read(&secret).unwrap(), bytes);
    // Records are not read through one, and a directory is not walked into.
    let id = repository();
    let tag: Tag = "v1".parse().unwrap();
    store.tree.write_tag(&id, &tag, TagRecord { digest, checked: UNIX_EPOCH }).unwrap();
    let record = store.tree.layout.tag(&id, &tag);
    std::fs::rename(&record, outside.path().join("tag")).unwrap();
    symlink(outside.path().join("tag"), &record).unwrap();
    assert_eq!(store.tree.read_tag(&id, &tag), None);
    let repositories = store.tree.layout.tags(&id).parent().unwrap().to_owned();
    symlink(outside.path(), repositories.join("elsewhere")).unwrap();
    symlink(&repositories, repositories.join("circle")).unwrap();
    assert!(store.tree.all_repositories().unwrap().iter().all(|found| !found.name.as_str().contains("circle")));
    // Nor does it keep the index from being made anew.
    drop(store);
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    symlink(&secret, &path).unwrap();
    let (again, _) = super::open(settings(&folder), Arc::new(Metrics::new().unwrap())).unwrap();
    assert_eq!(again.ledger.get(&digest), None);
    assert!(secret.exists());
}

fn sized(store: &Store, registry: &str, seed: u8, size: usize) -> Digest {
    let bytes = vec![seed; size];
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    let registry = registry.into();
    store.reserve(&registry, &digest, size as u64).unwrap();
    let file = store.tree.open_partial(&digest).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    store.commit(&registry, &digest, size as u64, &file).unwrap();
    digest
}

/// A registry evicts what came from others up to its share, and beyond that only what came from itself.
#[test]
fn no_registry_evicts_all_that_came_from_others() {
    const MIB: usize = 1 << 20;
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&folder);
    settings.changing.max_size = 10 * MIB as u64;
    settings.changing.shares = HashMap::from([("greedy".into(), 50)]);
    let (store, _) = super::open(settings, Arc::new(Metrics::new().unwrap())).unwrap();
    let good: Vec<Digest> = (0..10).map(|seed| sized(&store, "good", seed, MIB)).collect();
    let greedy: Vec<Digest> = (100..130).map(|seed| sized(&store, "greedy", seed, MIB)).collect();
    let left = |all: &[Digest]| all.iter().filter(|digest| store.ledger.get(digest).is_some()).count();
    // One more than its share: an eviction makes a little room to spare.
    assert!((4..=6).contains(&left(&greedy)), "{}", left(&greedy));
    assert!(left(&good) >= 4, "{}", left(&good));
    assert_eq!(left(&greedy[29..]), 1, "the newest is there");
    // What is larger than its share is stored where there is room for it, and evicts nothing of the others.
    let before = left(&good);
    let large = Digest::of(Algorithm::Sha256, b"large");
    assert!(matches!(store.reserve(&"greedy".into(), &large, 9 * MIB as u64), Err(NotStored::Full { .. })));
    assert_eq!(left(&good), before);
    // The others are not kept from anything.
    for seed in 10..18 {
        sized(&store, "good", seed, MIB);
    }
}

/// A claim makes no room, and one that cannot be true costs the blob its place and no other blob anything.
#[test]
fn claims_are_not_taken_for_faults_of_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (store, digest, _) = store(&folder);
    for claimed in [(1 << 30) + 1, 1 << 62, u64::MAX] {
        let other = Digest::of(Algorithm::Sha256, b"other");
        assert!(matches!(store.admit(&"r".into(), &other, claimed), Err(NotStored::TooLarge { .. })), "{claimed}");
        assert!(store.writable());
    }
    store.failed("writing a blob", &std::io::Error::from(rustix::io::Errno::FBIG));
    assert!(store.writable());
    assert!(store.admit(&"r".into(), &digest, 10).is_ok());
    // One good write ends what was one.
    store.failed("writing a blob", &std::io::Error::from(rustix::io::Errno::IO));
    assert!(!store.writable());
    assert!(matches!(store.admit(&"r".into(), &digest, 10), Err(NotStored::Failing(_))));
    store.worked();
    assert!(store.writable());
    assert!(store.admit(&"r".into(), &digest, 10).is_ok());
}

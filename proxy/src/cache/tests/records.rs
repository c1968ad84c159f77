//! Records are bounded as content is, whatever upstreams and strangers make the edge write.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use pierhead_config::Globs;
use pierhead_registry::oci::{Algorithm, Digest};

use super::{settings, sized};
use crate::admin::metrics::Metrics;
use crate::cache::ledger::RecordEntry;
use crate::cache::records::{RecordGroup, RecordKind};
use crate::cache::store::Store;
use crate::cache::{CachedManifest, Extent, ListRecord, Pins, RepositoryId, Selection, Settings, TagRecord};

const MIB: u64 = 1 << 20;

fn small(folder: &tempfile::TempDir, max_size: u64) -> Settings {
    let mut settings = settings(folder);
    settings.changing.max_size = max_size;
    settings.changing.shares = HashMap::from([("hostile".into(), 50)]);
    settings
}

fn open(settings: Settings) -> Store {
    crate::cache::open(settings, Arc::new(Metrics::new().unwrap())).unwrap().0
}

/// Ends with a store. The index's library lets go of its file a little later.
fn end(store: Store) {
    let path = store.tree.layout.index().join("db");
    drop(store);
    let file = std::fs::File::open(path).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
}

fn repository(registry: &str, name: &str) -> RepositoryId {
    RepositoryId { registry: registry.into(), name: name.parse().unwrap() }
}

fn list(size: u64) -> ListRecord {
    ListRecord {
        media_type: "application/json".into(),
        link: None,
        filters_applied: None,
        bytes: Bytes::from(vec![b' '; usize::try_from(size).unwrap()]),
        checked: UNIX_EPOCH,
    }
}

fn manifest(text: &str) -> CachedManifest {
    let bytes = Bytes::from(format!("{{\"layers\":[],\"annotations\":{{\"a\":\"{text}\"}}}}"));
    CachedManifest { digest: Digest::of(Algorithm::Sha256, &bytes), media_type: "a/b".into(), bytes }
}

/// What lies below a directory: each file and each directory in whole blocks, at least one.
fn taken(directory: &Path) -> u64 {
    let inside = std::fs::read_dir(directory).into_iter().flatten().map(|entry| {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => 4096 + taken(&entry.path()),
            false => entry.metadata().unwrap().len().div_ceil(4096).max(1) * 4096,
        }
    });
    inside.sum()
}

/// The ledger counts what the tree has.
fn assert_counted(store: &Store, what: &str) {
    let sizes = |all: Vec<(RecordGroup, u64)>| {
        let mut all = all;
        all.sort();
        all
    };
    let counted = store.ledger.all_records().into_iter().map(|(group, entry)| (group, entry.size)).collect();
    let there = store.tree.count_records().unwrap().into_iter().map(|(group, size, _)| (group, size)).collect();
    assert_eq!(sizes(counted), sizes(there), "{what}");
}

#[test]
fn records_of_any_number_of_repositories_stay_within_the_share_and_evict_nothing_of_others() {
    type Write = fn(&Store, &RepositoryId, u64);
    let writes: [(&str, Write); 6] = [
        ("lists", |store, id, number| store.put_list(id, &format!("tags/list?n={number}"), &list(MIB))),
        ("small lists", |store, id, number| store.put_list(id, &format!("tags/list?n={number}"), &list(2))),
        ("links", |store, id, _| drop(store.put_manifest(id, &manifest("one"), false))),
        ("tags", |store, id, number| {
            let tag = format!("v{number}").parse().unwrap();
            store.put_tag(id, &tag, TagRecord { digest: manifest("one").digest, checked: UNIX_EPOCH });
        }),
        ("permissions", |store, id, number| {
            let mut caller = [0; 32];
            caller[..8].copy_from_slice(&number.to_be_bytes());
            store.put_authorised(id, &caller, Some(SystemTime::now()));
        }),
        ("times", |store, id, _| assert!(store.made(id, 5))),
    ];
    for (what, write) in writes {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(small(&folder, 8 * MIB));
        let good: Vec<Digest> = (0..3).map(|seed| sized(&store, "good", seed, MIB as usize)).collect();
        for number in 0..400 {
            let id = repository("hostile", &format!("fill/a/b/c/{number}"));
            write(&store, &id, number);
            // Nor does the bound forget over a restart, in order or after a crash.
            if number % 199 == 100 {
                store.tidy(SystemTime::now());
                if number == 100 {
                    store.index.close();
                }
                end(store);
                store = open(small(&folder, 8 * MIB));
            }
        }
        assert!(store.ledger.bytes() <= 8 * MIB, "{what}: {}", store.ledger.bytes());
        // What is on the disk: three mebibytes are others' content.
        assert!(taken(folder.path()) - taken(&store.tree.layout.index()) <= 8 * MIB, "{what}");
        assert!(good.iter().all(|digest| store.open(digest, true).is_some()), "{what}");
        assert!(store.writable());
        assert_counted(&store, what);
        let newest = repository("hostile", "fill/a/b/c/399");
        let kept = RecordKind::ALL.map(|kind| RecordGroup { repository: newest.clone(), kind });
        assert!(kept.iter().any(|group| store.ledger.records(group).is_some()), "{what}: the newest is there");
        // Beside others that want room it has no more than its share.
        for seed in 10..18 {
            sized(&store, "good", seed, MIB as usize);
        }
        assert!(store.ledger.taken_by("hostile") <= 4 * MIB, "{what}");
        assert_counted(&store, what);
    }
}

#[test]
fn records_are_counted_as_they_are_written_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(small(&folder, 64 * MIB));
    let (id, other) = (repository("r", "team/app"), repository("r", "team/other"));
    let (one, two) = (manifest("one"), manifest("two"));
    let tag = |name: &str| name.parse().unwrap();
    let record = |manifest: &CachedManifest| TagRecord { digest: manifest.digest, checked: UNIX_EPOCH };
    let know = |store: &Store| {
        for id in [&id, &other] {
            for manifest in [&one, &two, &one] {
                store.put_manifest(id, manifest, false).unwrap();
            }
            for (name, manifest) in [("v1", &one), ("v2", &two), ("v1", &two), ("v1", &one)] {
                store.put_tag(id, &tag(name), record(manifest));
            }
            for size in [2, 5000, 100_000, 0] {
                store.put_list(id, "tags/list", &list(size));
                store.put_list(id, &size.to_string(), &list(size));
            }
            for caller in 0..200 {
                store.put_authorised(id, &[caller; 32], Some(SystemTime::now()));
            }
            store.put_authorised(id, &[7; 32], None);
        }
        assert_counted(store, "written");
    };
    know(&store);
    assert!(store.made(&id, 5));
    assert_counted(&store, "another repository");
    know(&store);
    store.remove_tag(&id, &tag("v1"));
    store.unlink(&id, &two.digest);
    store.unlink(&id, &two.digest);
    store.remove_lists(&id).unwrap();
    (0..200).for_each(|caller| store.put_authorised(&id, &[caller; 32], None));
    assert_counted(&store, "deleted");
    know(&store);
    store.forget_authorised(&id.registry, &Extent::Registry);
    assert_counted(&store, "no permissions");
    know(&store);
    store
        .purge(&Selection::Content(id.clone(), "v1".parse().map(pierhead_registry::oci::Reference::Tag).unwrap()))
        .unwrap();
    store.purge(&Selection::Repository(other.clone())).unwrap();
    assert_counted(&store, "purged");
    know(&store);
    // Lists beyond those that a repository may have.
    (0..12).for_each(|number| store.put_list(&id, &number.to_string(), &list(4 * MIB)));
    assert_counted(&store, "many lists");
    // Nothing is left of what is evicted, not even its directories.
    store.shrink(store.ledger.bytes());
    assert_eq!(store.ledger.all_records(), HashMap::new());
    assert_counted(&store, "evicted");
    assert_eq!(std::fs::read_dir(store.tree.layout.registry("r")).map_or(0, Iterator::count), 0);
    assert_eq!((store.read_tag(&id, &tag("v1")), store.read_link(&id, &one.digest)), (None, None));
    assert_eq!((store.created(&id), store.index.authorised(&id, &[9; 32])), (None, None));
    know(&store);
}

#[test]
fn what_is_pinned_stays_known() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = small(&folder, MIB);
    settings.changing.pins = Pins::new([("r".into(), Globs::new(vec!["team/app:v1".into(), "all/*".into()]).unwrap())]);
    let store = open(settings);
    let (app, all) = (repository("r", "team/app"), repository("r", "all/of-it"));
    let pinned = manifest("pinned");
    let record = TagRecord { digest: pinned.digest, checked: UNIX_EPOCH };
    for id in [&app, &all] {
        store.put_manifest(id, &pinned, true).unwrap();
        store.put_tag(id, &"v1".parse().unwrap(), record);
        store.put_authorised(id, &[1; 32], Some(SystemTime::now()));
        store.put_list(id, "tags/list", &list(10));
    }
    // Any number of tags may mean what is pinned: these are not.
    for number in 0..1000 {
        store.put_tag(&app, &format!("other-{number}").parse().unwrap(), record);
    }
    for number in 0..300 {
        store.put_list(&repository("r", &format!("fill/{number}")), "tags/list", &list(10));
    }
    for id in [&app, &all] {
        assert_eq!(store.read_tag(id, &"v1".parse().unwrap()), Some(record), "{id}");
        assert_eq!(store.tree.read_link(id, &pinned.digest).as_deref(), Some("a/b"), "{id}");
        assert!(store.index.authorised(id, &[1; 32]).is_some(), "{id}");
        assert!(!store.tree.has_list(id, "tags/list"), "{id}");
    }
    assert!(store.tree.tags(&app).unwrap().len() < 300);
    assert!(store.read(&pinned.digest).is_some());
    assert!(store.ledger.bytes() <= MIB);
    assert_counted(&store, "pinned");
    // Where nothing else can go, a record is not stored, and nothing fails.
    for number in 0..1000 {
        store.put_tag(&all, &format!("other-{number}").parse().unwrap(), record);
    }
    assert!(store.ledger.bytes() <= MIB && store.writable());
    assert_counted(&store, "full");
}

#[test]
fn what_was_used_last_stays_also_over_a_restart() {
    for crash in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let store = open(small(&folder, 8 * MIB));
        let ids = [0, 1, 2].map(|number| repository("r", &format!("list/{number}")));
        ids.iter().for_each(|id| store.put_list(id, "tags/list", &list(2 * MIB)));
        let later = |seconds| SystemTime::now() + Duration::from_secs(seconds);
        for (seconds, place) in [(10, 1), (20, 0), (30, 2)] {
            store.ledger.use_records(&RecordGroup::lists(&ids[place]), later(seconds));
        }
        let before = store.ledger.all_records();
        store.tidy(SystemTime::now());
        if crash {
            store.index.flush().unwrap();
        } else {
            store.index.close();
        }
        end(store);
        let store = open(small(&folder, 8 * MIB));
        assert_eq!(store.ledger.all_records(), before, "{crash}");
        store.put_list(&repository("r", "list/3"), "tags/list", &list(3 * MIB));
        let left = ids.map(|id| store.tree.has_list(&id, "tags/list"));
        assert_eq!(left, [true, false, true], "{crash}");
        // So does the index of an earlier version, which counted nothing, and one that is made anew.
        let sizes = |records: HashMap<RecordGroup, RecordEntry>| -> HashMap<RecordGroup, u64> {
            records.into_iter().map(|(group, entry)| (group, entry.size)).collect()
        };
        let before = sizes(store.ledger.all_records());
        store.index.forget_records();
        store.index.close();
        end(store);
        let store = open(small(&folder, 8 * MIB));
        assert_eq!(sizes(store.ledger.all_records()), before, "{crash}");
        end(store);
        std::fs::remove_dir_all(folder.path().join("index")).unwrap();
        assert_eq!(sizes(open(small(&folder, 8 * MIB)).ledger.all_records()), before, "{crash}");
    }
}

/// What failed once is found to work again without content that is stored.
#[test]
fn a_disk_that_works_again_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(small(&folder, 8 * MIB));
    store.failed("writing a list", &std::io::Error::from(rustix::io::Errno::NOSPC));
    store.tidy(SystemTime::now());
    assert!(!store.writable(), "it is left alone for a while");
    store.forgive();
    let tmp = store.tree.layout.tmp();
    std::fs::remove_dir(&tmp).unwrap();
    store.tidy(SystemTime::now());
    assert!(!store.writable(), "nothing can be written yet");
    std::fs::create_dir(&tmp).unwrap();
    store.tidy(SystemTime::now());
    assert!(store.writable());
}

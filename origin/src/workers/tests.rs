//! What a collection takes away, and what it does not, on a database and files of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pierhead_registry::oci::{Algorithm, Digest};
use pierhead_registry::store::{BlobStore, FileSystem, Proof, UploadId};
use pierhead_tests::eventually;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::collector::{Collected, Collector, LEAVING, Windows};
use crate::meta::scratch::{on_both, time_passes};
use crate::meta::{
    AccountKind, Arrival, Meta, Millis, NewAccount, NewManifest, Performer, Put, Repository, UnheldBlob, View,
    Visibility, now,
};
use crate::metrics::Metrics;
use crate::registry::slow_store::SlowStore;

on_both!(
    what_something_needs_stays_and_the_rest_goes,
    what_was_left_half_way_goes,
    nothing_waits_for_a_store_that_is_slow,
    a_rehearsal_waits_for_nobody,
    a_rehearsal_tells_what_a_collection_does,
    deleted_repositories_and_abandoned_uploads_leave_nothing,
    a_collection_that_is_told_to_stop_does_nothing_more
);

const LONG: Millis = 3_600_000;

struct Scratch {
    meta: Meta,
    store: Arc<dyn BlobStore>,
    _database: crate::meta::scratch::Scratch,
}

impl Scratch {
    async fn new(database: crate::meta::scratch::Scratch) -> Scratch {
        let store = Arc::new(FileSystem::open(database.directory().join("blobs")).await.unwrap());
        Scratch { meta: database.open().await, store, _database: database }
    }

    async fn repository(&self, name: &str) -> Repository {
        let change = self.meta.change().await.unwrap();
        let namespace = name.split('/').next().unwrap();
        let owner = change.create_account(NewAccount::new(namespace, AccountKind::Organization), now()).await.unwrap();
        let made = change.insert_repository(owner.id, name, Visibility::Private, "").await.unwrap();
        change.commit().await.unwrap();
        made
    }

    /// A blob, held for so long from now on.
    async fn blob(&self, repository: &Repository, content: &'static [u8], held: Millis) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, content);
        let change = self.meta.change().await.unwrap();
        let size = content.len() as u64;
        let arrival = change.blob_arrives(repository.id, &digest, size, now() + held).await.unwrap();
        change.commit().await.unwrap();
        if let Arrival::New(_) = arrival {
            let mut upload = self.store.begin(&UploadId::random()).await.unwrap();
            upload.write(Bytes::from_static(content)).await.unwrap();
            upload.commit(&digest, Proof::Hashed).await.unwrap();
        }
        let (Arrival::New(id) | Arrival::Known(id)) = arrival else { panic!("it leaves") };
        let change = self.meta.change().await.unwrap();
        assert!(change.blob_arrived(id, size).await.unwrap());
        change.commit().await.unwrap();
        digest
    }

    async fn manifest(
        &self,
        repository: &Repository,
        content: &'static [u8],
        tag: Option<&str>,
        needs: (&[Digest], &[Digest], Option<Digest>),
    ) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, content);
        let (blobs, children, subject) = needs;
        let new = NewManifest {
            repository_id: repository.id,
            digest,
            media_type: "application/vnd.oci.image.manifest.v1+json",
            content,
            artifact_type: None,
            subject,
            blobs: blobs.to_vec(),
            foreign: Vec::new(),
            children: children.to_vec(),
            sizes: Vec::new(),
            at: now(),
        };
        let change = self.meta.change().await.unwrap();
        let Put::Done { id, .. } = change.put_manifest(&new).await.unwrap() else { panic!("not put") };
        if let Some(tag) = tag {
            change.set_tag(repository.id, tag, id, now(), false).await.unwrap();
        }
        change.commit().await.unwrap();
        digest
    }

    fn collector(&self, window: Duration) -> Collector {
        let windows = Windows { tags: window, blobs: window, uploads: window, actions: window };
        Collector::new(self.meta.clone(), Arc::clone(&self.store), windows, Arc::new(Metrics::new().unwrap()))
    }

    async fn collect(&self, window: Duration) -> Collected {
        time_goes_on().await;
        self.collector(window).run(&CancellationToken::new()).await.unwrap().unwrap()
    }

    async fn has_manifest(&self, name: &str, digest: &Digest) -> bool {
        let reference = digest.to_string().parse().unwrap();
        self.meta.manifest(name, &reference).await.unwrap().is_some()
    }

    async fn stored(&self, digest: &Digest) -> bool {
        self.store.stat(digest).await.unwrap().is_some()
    }
}

/// What is to be collected lies before now.
async fn time_goes_on() {
    let begun = now();
    eventually("time goes on", Duration::from_secs(1), async || (now() > begun).then_some(())).await;
}

async fn what_something_needs_stays_and_the_rest_goes(database: crate::meta::scratch::Scratch) {
    let scratch = Scratch::new(database).await;
    let repository = scratch.repository("team/app").await;
    let [kept, lost, expired, fresh] = [
        scratch.blob(&repository, b"kept", 0).await,
        scratch.blob(&repository, b"lost", 0).await,
        scratch.blob(&repository, b"expired", 0).await,
        scratch.blob(&repository, b"fresh", LONG).await,
    ];
    // A hold that has expired is good enough while a push names it; so these two are held for a moment more.
    for content in [&b"kept"[..], b"lost"] {
        scratch.blob(&repository, content, 2000).await;
    }
    let child = scratch.manifest(&repository, b"{child}", None, (&[kept], &[], None)).await;
    let index = scratch.manifest(&repository, b"{index}", Some("latest"), (&[], &[child], None)).await;
    let about = scratch.manifest(&repository, b"{about}", None, (&[], &[], Some(index))).await;
    let untagged = scratch.manifest(&repository, b"{untagged}", None, (&[lost, kept], &[], None)).await;
    let orphan = scratch.manifest(&repository, b"{orphan}", None, (&[], &[], Some(untagged))).await;

    // Within the window only what no manifest ever needed goes.
    let collected = scratch.collect(Duration::from_secs(3600)).await;
    assert_eq!((collected.manifests, collected.blobs, collected.bytes), (0, 1, 7));
    assert!(!scratch.stored(&expired).await);

    let told = scratch.collector(Duration::ZERO).rehearse(|_| ()).await.unwrap();
    assert_eq!((told.manifests, told.blobs), (2, 0));
    assert!(scratch.has_manifest("team/app", &untagged).await, "only told");
    let collected = scratch.collect(Duration::ZERO).await;
    assert_eq!((collected.manifests, collected.blobs), (2, 0), "an untagged one, and what is about it");
    for manifest in [&child, &index, &about] {
        assert!(scratch.has_manifest("team/app", manifest).await);
    }
    for manifest in [&untagged, &orphan] {
        assert!(!scratch.has_manifest("team/app", manifest).await);
    }
    let gone = async || Some(scratch.collect(Duration::ZERO).await).filter(|collected| collected.blobs > 0);
    assert_eq!(eventually("the holds expire", Duration::from_secs(10), gone).await.blobs, 1);
    for (blob, expected) in [(&kept, true), (&lost, false), (&fresh, true)] {
        assert_eq!(scratch.stored(blob).await, expected, "{blob}");
    }
    assert!(scratch.collect(Duration::ZERO).await.is_nothing());

    // A tag that ended is history, which keeps its manifest until the window is over; then everything goes.
    let change = scratch.meta.change().await.unwrap();
    assert!(change.end_tag(repository.id, "latest", now()).await.unwrap());
    change.commit().await.unwrap();
    assert!(scratch.collect(Duration::from_secs(3600)).await.is_nothing());
    let collected = scratch.collect(Duration::ZERO).await;
    assert_eq!((collected.tags, collected.manifests, collected.blobs), (1, 3, 1));
    assert!(!scratch.stored(&kept).await);
}

/// Step 1 of a leave, by a node that is killed then.
async fn leave_half_way(scratch: &Scratch) -> usize {
    let holds = scratch.meta.unneeded_holds(now(), (0, 0)).await.unwrap();
    let change = scratch.meta.change().await.unwrap();
    change.take_holds(&holds.rows, now()).await.unwrap();
    change.commit().await.unwrap();
    let blobs = scratch.meta.unheld_blobs(View::Now, (0, 0), 0).await.unwrap().rows;
    let change = scratch.meta.change().await.unwrap();
    let leave = change.blobs_leave(&blobs, LEAVING).await.unwrap();
    change.commit().await.unwrap();
    leave.blobs.len()
}

async fn what_was_left_half_way_goes(database: crate::meta::scratch::Scratch) {
    let scratch = Scratch::new(database).await;
    let repository = scratch.repository("team/app").await;
    let back = scratch.blob(&repository, b"back", 0).await;
    let gone = scratch.blob(&repository, b"gone", 0).await;
    time_goes_on().await;
    assert_eq!(leave_half_way(&scratch).await, 2);
    assert!(scratch.meta.blob("team/app", &back).await.unwrap().is_none());
    assert_eq!(scratch.collect(Duration::ZERO).await.blobs, 0, "the other may still be at it");
    assert!(scratch.stored(&back).await && scratch.stored(&gone).await);

    time_passes(&scratch.meta, LEAVING).await;
    scratch.blob(&repository, b"back", LONG).await;
    assert!(scratch.meta.blob("team/app", &back).await.unwrap().is_some());
    assert_eq!(scratch.collect(Duration::ZERO).await.blobs, 1);
    assert!(scratch.stored(&back).await && !scratch.stored(&gone).await);
    let change = scratch.meta.change().await.unwrap();
    let arrival = change.blob_arrives(repository.id, &gone, 4, now() + LONG).await.unwrap();
    assert!(matches!(arrival, Arrival::New(_)), "it was forgotten altogether");
}

async fn nothing_waits_for_a_store_that_is_slow(database: crate::meta::scratch::Scratch) {
    let mut scratch = Scratch::new(database).await;
    let files = Arc::clone(&scratch.store);
    let slow = Arc::new(SlowStore::new(files));
    slow.writes.add_permits(10);
    scratch.store = Arc::clone(&slow) as Arc<dyn BlobStore>;
    let repository = scratch.repository("team/app").await;
    let gone = scratch.blob(&repository, b"gone", 0).await;
    time_goes_on().await;
    let collector = scratch.collector(Duration::from_secs(3600));
    let collection = tokio::spawn(async move { collector.run(&CancellationToken::new()).await.unwrap().unwrap() });
    let arrives = async || {
        let change = scratch.meta.change().await.unwrap();
        change.blob_arrives(repository.id, &gone, 4, now() + LONG).await.unwrap()
    };
    eventually("it leaves", Duration::from_secs(5), async || (arrives().await == Arrival::Leaving).then_some(())).await;
    // Another push is done meanwhile, and this one goes on as soon as the store has answered.
    let other = scratch.blob(&repository, b"other", LONG).await;
    assert!(scratch.stored(&other).await && !collection.is_finished());
    slow.deletions.add_permits(1);
    assert_eq!(collection.await.unwrap().blobs, 1);
    assert!(matches!(arrives().await, Arrival::New(_)) && !scratch.stored(&gone).await);

    // What cannot be done in time is not begun, and leaves another time.
    let late = UnheldBlob { id: 0, digest: other.to_string(), size: 5 };
    assert!(!scratch.collector(Duration::ZERO).is_deleted(&late, Instant::now()).await);
    assert!(scratch.stored(&other).await);
}

async fn a_rehearsal_waits_for_nobody(database: crate::meta::scratch::Scratch) {
    let scratch = Scratch::new(database).await;
    let repository = scratch.repository("team/app").await;
    let blob = scratch.blob(&repository, b"expired", 0).await;
    time_goes_on().await;
    // On SQLite nobody else could write now, on PostgreSQL nobody else could lock this.
    let change = scratch.meta.change().await.unwrap();
    change.blob_arrives(repository.id, &blob, 7, now() + LONG).await.unwrap();
    let begun = std::time::Instant::now();
    let told = scratch.collector(Duration::from_secs(3600)).rehearse(|_| ()).await.unwrap();
    assert_eq!((told.blobs, told.bytes), (1, 7));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    change.commit().await.unwrap();
    assert!(scratch.collector(Duration::from_secs(3600)).rehearse(|_| ()).await.unwrap().is_nothing());
}

async fn deleted_repositories_and_abandoned_uploads_leave_nothing(database: crate::meta::scratch::Scratch) {
    let scratch = Scratch::new(database).await;
    let (gone, other) = (scratch.repository("gone/app").await, scratch.repository("other/app").await);
    let shared = scratch.blob(&gone, b"shared", LONG).await;
    scratch.blob(&other, b"shared", LONG).await;
    let own = scratch.blob(&gone, b"own", LONG).await;
    let child = scratch.manifest(&gone, b"{child}", None, (&[shared, own], &[], None)).await;
    scratch.manifest(&gone, b"{index}", Some("latest"), (&[], &[child], None)).await;
    let ids = [UploadId::random(), UploadId::random()];
    let change = scratch.meta.change().await.unwrap();
    change.insert_upload(&ids[0], gone.id, "sha256", Vec::new()).await.unwrap();
    change.insert_upload(&ids[1], other.id, "sha256", Vec::new()).await.unwrap();
    assert!(change.delete_repository(gone.id).await.unwrap());
    change.commit().await.unwrap();

    let collected = scratch.collect(Duration::from_secs(3600)).await;
    assert_eq!((collected.repositories, collected.blobs, collected.uploads), (1, 1, 1));
    assert!(scratch.stored(&shared).await && !scratch.stored(&own).await);
    assert!(scratch.meta.upload("other/app", &ids[1]).await.unwrap().is_some());
    // One that somebody writes stays, however long ago it was touched.
    let change = scratch.meta.change().await.unwrap();
    change.claim_upload("other/app", &ids[1], "somebody", now() + LONG).await.unwrap();
    change.commit().await.unwrap();
    assert_eq!(scratch.collect(Duration::ZERO).await.uploads, 0);
    let change = scratch.meta.change().await.unwrap();
    change.let_go_of_upload(&ids[1], "somebody").await.unwrap();
    change
        .log(
            &Performer::default(),
            crate::meta::Action { kind: "x", namespace: None, repository: None, metadata: serde_json::Value::Null },
            now(),
        )
        .await
        .unwrap();
    let cells = [7, 1 << 20];
    change.login_failed(&cells, 0, now() - 2 * LONG).await.unwrap();
    change.commit().await.unwrap();
    let collected = scratch.collect(Duration::ZERO).await;
    assert_eq!((collected.uploads, collected.actions), (1, 1));
    assert_eq!(scratch.meta.login_cells(cells).await.unwrap().map(|cell| cell.failures), [0, 0]);
    assert!(scratch.meta.upload("other/app", &ids[1]).await.unwrap().is_none());
}

async fn a_collection_that_is_told_to_stop_does_nothing_more(database: crate::meta::scratch::Scratch) {
    let scratch = Scratch::new(database).await;
    let repository = scratch.repository("team/app").await;
    scratch.blob(&repository, b"expired", 0).await;
    let stop = CancellationToken::new();
    stop.cancel();
    let collected = scratch.collector(Duration::ZERO).run(&stop).await.unwrap().unwrap();
    assert!(collected.is_nothing());
}

/// A registry whose people do this and that.
struct Bustle<'a> {
    scratch: &'a Scratch,
    random: StdRng,
    repositories: Vec<Repository>,
    /// Manifests that were pushed: where, which, and whether another may be about it or name it.
    manifests: Vec<(usize, Digest, bool)>,
    pushed: u32,
}

impl Bustle<'_> {
    async fn something(&mut self) {
        let at = self.random.random_range(0..self.repositories.len());
        let (id, meta) = (self.repositories[at].id, &self.scratch.meta);
        let there: Vec<_> = self.manifests.iter().filter(|(repository, ..)| *repository == at).copied().collect();
        let some = (!there.is_empty()).then(|| there[self.random.random_range(0..there.len())]);
        match (self.random.random_range(0..12), some) {
            (0..5, some) => self.push(at, some).await,
            (5..7, Some((_, digest, _))) => {
                let change = meta.change().await.unwrap();
                change.delete_manifest(id, &digest, now()).await.unwrap();
                change.commit().await.unwrap();
            }
            (7, _) => {
                let change = meta.change().await.unwrap();
                let tag = format!("tag{}", self.random.random_range(0..3));
                if self.random.random() {
                    change.end_tag(id, &tag, now()).await.unwrap();
                } else {
                    change.set_expiration(id, &tag, Some(now() + LONG / 2), now()).await.unwrap();
                }
                change.commit().await.unwrap();
            }
            (8, _) => {
                let change = meta.change().await.unwrap();
                let blob = self.random.random_range(0..40);
                if change.manifest_that_needs(id, blob).await.unwrap().is_none() {
                    change.release_blob(id, blob).await.unwrap();
                }
                change.commit().await.unwrap();
            }
            (9, _) => {
                let change = meta.change().await.unwrap();
                change.insert_upload(&UploadId::random(), id, "sha256", Vec::new()).await.unwrap();
                if self.random.random_bool(0.2) && self.repositories.len() > 1 {
                    change.delete_repository(id).await.unwrap();
                    self.repositories.remove(at);
                    self.manifests.clear();
                }
                change.commit().await.unwrap();
            }
            _ => time_passes(meta, Duration::from_secs(60 * self.random.random_range(5..40))).await,
        }
    }

    /// An image; or an index of another, or something about it.
    async fn push(&mut self, at: usize, other: Option<(usize, Digest, bool)>) {
        let repository = &self.repositories[at];
        let mut blobs = Vec::new();
        for _ in 0..self.random.random_range(1..3) {
            let content: &'static [u8] = format!("blob {}", self.random.random_range(0..40)).into_bytes().leak();
            blobs.push(self.scratch.blob(repository, content, LONG).await);
        }
        self.pushed += 1;
        let content: &'static [u8] = format!("{{{}}}", self.pushed).into_bytes().leak();
        let tag = format!("tag{}", self.random.random_range(0..3));
        let tag = self.random.random_bool(0.5).then_some(tag.as_str());
        let reference = |digest: &Digest| digest.to_string().parse().unwrap();
        let plain = match other {
            Some((_, digest, true))
                if self.random.random_bool(0.6)
                    && self.scratch.meta.manifest(&repository.name, &reference(&digest)).await.unwrap().is_some() =>
            {
                let (children, subject) =
                    if self.random.random() { (vec![digest], None) } else { (vec![], Some(digest)) };
                self.scratch.manifest(repository, content, tag, (&blobs, &children, subject)).await;
                false
            }
            _ => {
                self.scratch.manifest(repository, content, tag, (&blobs, &[], None)).await;
                true
            }
        };
        self.manifests.push((at, Digest::of(Algorithm::Sha256, content), plain));
    }
}

async fn a_rehearsal_tells_what_a_collection_does(database: crate::meta::scratch::Scratch) {
    let scratch = Scratch::new(database).await;
    let mut repositories = Vec::new();
    for name in ["a/app", "b/app", "c/app"] {
        repositories.push(scratch.repository(name).await);
    }
    let random = StdRng::seed_from_u64(7);
    let mut bustle = Bustle { scratch: &scratch, random, repositories, manifests: Vec::new(), pushed: 0 };
    let collector = scratch.collector(Duration::from_secs(3600));
    let mut sum = Collected::default();
    for turn in 0..25 {
        for _ in 0..12 {
            bustle.something().await;
        }
        let told = collector.rehearse(|_| ()).await.unwrap();
        let collected = collector.run(&CancellationToken::new()).await.unwrap().unwrap();
        assert_eq!(told, collected, "turn {turn}");
        sum.repositories += collected.repositories;
        sum.manifests += collected.manifests;
        sum.blobs += collected.blobs;
        sum.tags += collected.tags;
        sum.expired += collected.expired;
        sum.uploads += collected.uploads;
    }
    let enough = sum.repositories > 0
        && sum.manifests > 20
        && sum.blobs > 20
        && sum.tags > 10
        && sum.uploads > 5
        && sum.expired > 0;
    assert!(enough, "{sum}");
}

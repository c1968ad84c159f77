//! What a collection takes away, and what it does not, on a database and files of its own.

mod grace;
mod rehearsal;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use pierhead_registry::oci::{Algorithm, Digest};
use pierhead_registry::store::{BlobStore, FileSystem, Proof, UploadId};
use pierhead_tests::eventually;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::collector::{Collected, Collector, LEAVING, Windows};
use crate::meta::scratch::{on_both, time_passes};
use crate::meta::{
    AccountKind, Arrival, Before, Meta, Millis, NewAccount, NewManifest, Performer, Put, Repository, UnheldBlob, View,
    Visibility, now,
};
use crate::metrics::Metrics;
use crate::registry::slow_store::SlowStore;

on_both!(
    what_something_needs_stays_and_the_rest_goes,
    what_was_left_half_way_goes,
    nothing_waits_for_a_store_that_is_slow,
    a_rehearsal_waits_for_nobody,
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
            entries: Vec::new(),
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
    let blobs = scratch.meta.unheld_blobs(View::Now, (Before::default(), 0), 0).await.unwrap().rows;
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
    // A look that locks the row would keep it from leaving.
    let asked = async || (slow.asked.load(Ordering::Relaxed) == 1).then_some(());
    eventually("the store is asked", Duration::from_secs(5), asked).await;
    assert_eq!(arrives().await, Arrival::Leaving);
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
    change.insert_upload(&ids[0], gone.id, "sha256", Vec::new(), None).await.unwrap();
    change.insert_upload(&ids[1], other.id, "sha256", Vec::new(), None).await.unwrap();
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

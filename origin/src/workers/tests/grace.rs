//! What a push has half done, and what an index names that is no manifest, beside collections.

use super::*;
use crate::meta::scratch::Scratch as Database;

on_both!(
    a_child_that_waits_for_its_index_has_the_time_of_a_push,
    blobs_that_an_index_names_stay_as_long_as_it_does,
    an_index_names_what_the_repository_has
);

/// The time machine keeps nothing; what was pushed has an hour.
fn no_time_machine(scratch: &Scratch) -> Collector {
    let (nothing, hour) = (Duration::ZERO, Duration::from_secs(3600));
    let windows = Windows { tags: nothing, blobs: hour, uploads: hour, actions: hour };
    Collector::new(scratch.meta.clone(), Arc::clone(&scratch.store), windows, Arc::new(Metrics::new().unwrap()))
}

/// A registry without a time machine collects between the push of a child, by its digest, and of the index that names it.
async fn a_child_that_waits_for_its_index_has_the_time_of_a_push(database: Database) {
    let scratch = Scratch::new(database).await;
    let repository = scratch.repository("team/app").await;
    let layer = scratch.blob(&repository, b"layer", LONG).await;
    let child = scratch.manifest(&repository, b"{child}", None, (&[layer], &[], None)).await;
    let doomed = scratch.manifest(&repository, b"{doomed}", None, (&[layer], &[], None)).await;
    let change = scratch.meta.change().await.unwrap();
    assert!(change.delete_manifest(repository.id, &doomed, now()).await.unwrap().is_some());
    change.commit().await.unwrap();
    time_goes_on().await;
    let collector = no_time_machine(&scratch);
    // The rehearsal sees what the collection does.
    let told = collector.rehearse(|_| ()).await.unwrap();
    let collected = collector.run(&CancellationToken::new()).await.unwrap().unwrap();
    assert_eq!((told.manifests, told.blobs), (1, 0));
    assert_eq!((collected.manifests, collected.blobs), (1, 0), "what was deleted needs no time");
    assert!(scratch.has_manifest("team/app", &child).await);
    let index = scratch.manifest(&repository, b"{index}", Some("latest"), (&[], &[child], None)).await;
    time_goes_on().await;
    assert!(collector.run(&CancellationToken::new()).await.unwrap().unwrap().is_nothing());
    assert!(scratch.has_manifest("team/app", &index).await && scratch.stored(&layer).await);
}

async fn put(scratch: &Scratch, repository: &Repository, content: &'static [u8], entries: &[Digest]) -> Put {
    let new = NewManifest {
        repository_id: repository.id,
        digest: Digest::of(Algorithm::Sha256, content),
        media_type: "application/vnd.oci.image.index.v1+json",
        content,
        artifact_type: None,
        subject: None,
        blobs: Vec::new(),
        foreign: Vec::new(),
        children: Vec::new(),
        entries: entries.to_vec(),
        sizes: Vec::new(),
        at: now(),
    };
    let change = scratch.meta.change().await.unwrap();
    let put = change.put_manifest(&new).await.unwrap();
    if let Put::Done { id, .. } = put {
        change.set_tag(repository.id, "cache", id, now(), false).await.unwrap();
    }
    change.commit().await.unwrap();
    put
}

/// BuildKit's cache: an index whose entries are layers and a configuration.
async fn blobs_that_an_index_names_stay_as_long_as_it_does(database: Database) {
    let scratch = Scratch::new(database).await;
    let repository = scratch.repository("team/app").await;
    let [layer, config] =
        [scratch.blob(&repository, b"layer", 3000).await, scratch.blob(&repository, b"config", 3000).await];
    let Put::Done { layers_size, .. } = put(&scratch, &repository, b"{cache}", &[layer, config]).await else {
        panic!("not put")
    };
    assert_eq!(layers_size, 11);
    // The holds expire, and the index needs the blobs.
    let expired = now() + 3000;
    eventually("the holds expire", Duration::from_secs(10), async || (now() > expired).then_some(())).await;
    assert!(scratch.collect(Duration::ZERO).await.is_nothing());
    for blob in [&layer, &config] {
        let held = scratch.meta.blob("team/app", blob).await.unwrap().unwrap();
        let change = scratch.meta.change().await.unwrap();
        let needed = change.manifest_that_needs(repository.id, held.id).await.unwrap();
        assert!(needed.is_some() && scratch.stored(blob).await, "{blob}");
    }
    let change = scratch.meta.change().await.unwrap();
    assert!(change.end_tag(repository.id, "cache", now()).await.unwrap());
    change.commit().await.unwrap();
    let collected = scratch.collect(Duration::ZERO).await;
    assert_eq!((collected.manifests, collected.blobs), (1, 2));
    assert!(!scratch.stored(&layer).await && !scratch.stored(&config).await);
}

async fn an_index_names_what_the_repository_has(database: Database) {
    let scratch = Scratch::new(database).await;
    let [repository, other] = [scratch.repository("team/app").await, scratch.repository("rest/app").await];
    let [own, foreign] = [scratch.blob(&repository, b"own", LONG).await, scratch.blob(&other, b"foreign", LONG).await];
    let child = scratch.manifest(&repository, b"{child}", None, (&[own], &[], None)).await;
    let absent = Digest::of(Algorithm::Sha256, b"absent");
    let missing = put(&scratch, &repository, b"{lacks}", &[own, foreign, absent, child]).await;
    assert_eq!(missing, Put::Missing(vec![foreign, absent]));
    // A digest that is a manifest and a blob is the manifest.
    let both = scratch.blob(&repository, b"{child}", LONG).await;
    assert_eq!(both, child);
    let Put::Done { layers_size, .. } = put(&scratch, &repository, b"{mixed}", &[own, child]).await else {
        panic!("not put")
    };
    assert_eq!(layers_size, 3);
}

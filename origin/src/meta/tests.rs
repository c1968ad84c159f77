//! What every database must do alike: each test runs on SQLite and on PostgreSQL.

use std::time::Duration;

use pierhead_registry::oci::{Algorithm, Digest, Reference};

use super::garbage::Leave;
use super::scratch::{Scratch, on_both, time_passes};
use super::*;

on_both!(
    an_image_is_pushed_tagged_moved_and_deleted,
    what_comes_back_can_be_pulled,
    a_catalog_lists_what_several_teams_have_once,
    a_blob_that_leaves_is_waited_for_and_never_comes_back,
    who_takes_a_blob_away_too_late_drops_nothing
);

/// A namespace and a repository in it.
async fn repository(meta: &Meta, name: &str) -> Repository {
    let namespace = name.split('/').next().unwrap();
    let insert = "INSERT INTO account (name, kind, description, superuser, enabled, created) \
                  VALUES ($1, 1, '', 0, $2, 0) ON CONFLICT (name) DO UPDATE SET enabled = $2 RETURNING *";
    let account: Option<entity::accounts::account::Model> =
        sql::one(&meta.connections, insert, [namespace.into(), true.into()]).await.unwrap();
    let change = meta.change().await.unwrap();
    let made = change.insert_repository(account.unwrap().id, name, Visibility::Private, "").await.unwrap();
    change.commit().await.unwrap();
    made
}

async fn push_blob(meta: &Meta, repository: &Repository, content: &[u8]) -> (Digest, Arrival) {
    let digest = Digest::of(Algorithm::Sha256, content);
    let change = meta.change().await.unwrap();
    let arrival = change.blob_arrives(repository.id, &digest, content.len() as u64, now() + MINUTE).await.unwrap();
    change.commit().await.unwrap();
    if let Arrival::Known(id) | Arrival::New(id) = arrival {
        let change = meta.change().await.unwrap();
        assert!(change.blob_arrived(id, content.len() as u64).await.unwrap());
        change.commit().await.unwrap();
    }
    (digest, arrival)
}

const MINUTE: Millis = 60_000;

/// A blob that nothing holds any more.
async fn unheld_blob(meta: &Meta, repository: &Repository, content: &[u8]) -> (Digest, UnheldBlob) {
    let (digest, _) = push_blob(meta, repository, content).await;
    time_passes(meta, Duration::from_millis(MINUTE.unsigned_abs())).await;
    let holds = meta.unneeded_holds(now(), (0, 0)).await.unwrap().rows;
    let change = meta.change().await.unwrap();
    change.take_holds(&holds, now()).await.unwrap();
    change.commit().await.unwrap();
    let [blob] = meta.unheld_blobs(View::Now, (Before::default(), 0), 0).await.unwrap().rows.try_into().unwrap();
    (digest, blob)
}

/// Step 1 of a leave. The blobs, and what step 3 needs.
async fn leave(meta: &Meta, blob: &UnheldBlob, time: Duration) -> Leave {
    let change = meta.change().await.unwrap();
    let leave = change.blobs_leave(std::slice::from_ref(blob), time).await.unwrap();
    change.commit().await.unwrap();
    leave
}

async fn left(meta: &Meta, leave: &Leave, blob: &UnheldBlob) -> u64 {
    let change = meta.change().await.unwrap();
    let left = change.blobs_left(leave, &[blob.id]).await.unwrap();
    change.commit().await.unwrap();
    left
}

fn manifest<'a>(repository: &Repository, content: &'a [u8], blobs: &[Digest]) -> NewManifest<'a> {
    NewManifest {
        repository_id: repository.id,
        digest: Digest::of(Algorithm::Sha256, content),
        media_type: "application/vnd.oci.image.manifest.v1+json",
        content,
        artifact_type: None,
        subject: None,
        blobs: blobs.to_vec(),
        foreign: Vec::new(),
        children: Vec::new(),
        entries: Vec::new(),
        sizes: Vec::new(),
        at: now(),
    }
}

async fn an_image_is_pushed_tagged_moved_and_deleted(scratch: Scratch) {
    let meta = &scratch.open().await;
    let (one, two) = (repository(meta, "a/one").await, repository(meta, "b/two").await);

    let (digest, arrival) = push_blob(meta, &one, b"layer").await;
    assert!(matches!(arrival, Arrival::New(_)));
    assert_eq!(meta.blob("a/one", &digest).await.unwrap().unwrap().size(), 5);
    // The other repository learns nothing of it, and pushes it in vain.
    assert!(meta.blob("b/two", &digest).await.unwrap().is_none());
    assert!(matches!(push_blob(meta, &two, b"layer").await.1, Arrival::Known(_)));

    let absent = Digest::of(Algorithm::Sha256, b"absent");
    let change = meta.change().await.unwrap();
    change.hold_repository(one.id).await.unwrap().unwrap();
    let lacking = change.put_manifest(&manifest(&one, b"{1}", &[digest, absent])).await.unwrap();
    assert_eq!(lacking, Put::Missing(vec![absent]));
    let lying = NewManifest { sizes: vec![(digest, 6)], ..manifest(&one, b"{1}", &[digest]) };
    assert_eq!(change.put_manifest(&lying).await.unwrap(), Put::OtherSize { digest, said: 6, has: 5 });
    let mut ids = Vec::new();
    for content in [&b"{1}"[..], b"{2}"] {
        let Put::Done { id, layers_size } = change.put_manifest(&manifest(&one, content, &[digest])).await.unwrap()
        else {
            panic!("not put")
        };
        assert_eq!(layers_size, 5);
        ids.push(id);
    }
    for (id, moved) in [(ids[0], TagMove::Created), (ids[0], TagMove::Unchanged), (ids[1], TagMove::Moved)] {
        assert_eq!(change.set_tag(one.id, "latest", id, now(), false).await.unwrap(), moved);
    }
    change.commit().await.unwrap();

    let latest: Reference = "latest".parse().unwrap();
    let found = meta.manifest("a/one", &latest).await.unwrap().unwrap();
    assert_eq!(found.digest().unwrap(), Digest::of(Algorithm::Sha256, b"{2}"));
    assert_eq!(meta.manifest_content(found.id).await.unwrap().unwrap(), b"{2}");
    assert_eq!(meta.tag_names(one.id, "", 10).await.unwrap(), ["latest"]);
    assert!(meta.manifest("b/two", &latest).await.unwrap().is_none());

    let change = meta.change().await.unwrap();
    let tags = change.delete_manifest(one.id, &found.digest().unwrap(), now()).await.unwrap();
    assert_eq!(tags, Some(vec!["latest".to_owned()]));
    change.commit().await.unwrap();
    assert!(meta.manifest("a/one", &latest).await.unwrap().is_none());
    assert!(meta.tag_names(one.id, "", 10).await.unwrap().is_empty());
    assert_eq!(meta.catalog(Viewer::Everything, "", 10).await.unwrap(), ["a/one", "b/two"]);
    assert!(meta.catalog(Viewer::Anonymous, "", 10).await.unwrap().is_empty());
    assert_eq!(meta.catalog(Viewer::Account(one.namespace_id), "", 10).await.unwrap(), ["a/one"]);
}

async fn what_comes_back_can_be_pulled(scratch: Scratch) {
    let meta = &scratch.open().await;
    let one = repository(meta, "a/one").await;
    let (digest, _) = push_blob(meta, &one, b"layer").await;
    let blob = meta.blob("a/one", &digest).await.unwrap().unwrap();
    let change = meta.change().await.unwrap();
    let new = manifest(&one, b"{}", &[digest]);
    change.put_manifest(&new).await.unwrap();
    assert!(change.manifest_that_needs(one.id, blob.id).await.unwrap().is_some());
    change.lock_hold(one.id, blob.id).await.unwrap();
    change.delete_manifest(one.id, &new.digest, now()).await.unwrap();
    assert!(change.manifest_that_needs(one.id, blob.id).await.unwrap().is_none());
    change.release_blob(one.id, blob.id).await.unwrap();
    change.commit().await.unwrap();
    assert!(meta.blob("a/one", &digest).await.unwrap().is_none());

    let change = meta.change().await.unwrap();
    assert!(change.revive_manifest(one.id, &new.digest.to_string()).await.unwrap().is_some());
    change.commit().await.unwrap();
    assert!(meta.blob("a/one", &digest).await.unwrap().is_some());
    assert!(meta.manifest("a/one", &Reference::Digest(new.digest)).await.unwrap().is_some());
}

async fn a_catalog_lists_what_several_teams_have_once(scratch: Scratch) {
    let meta = &scratch.open().await;
    let somebody = repository(meta, "somebody/own").await.namespace_id;
    let shared = ["a/1", "a/2", "a/3", "a/4", "a/5"];
    let mut repositories = Vec::new();
    for name in shared {
        repositories.push(repository(meta, name).await);
    }
    repository(meta, "a/hidden").await;
    for team in ["blue", "red"] {
        let insert = "INSERT INTO team (organization_id, name, role, description) VALUES ($1, $2, 0, '')";
        let organization = repositories[0].namespace_id;
        sql::execute(&meta.connections, insert, [organization.into(), team.into()]).await.unwrap();
    }
    let join = "INSERT INTO team_member (team_id, account_id) SELECT id, $1 FROM team";
    sql::execute(&meta.connections, join, [somebody.into()]).await.unwrap();
    let give = "INSERT INTO repository_permission (repository_id, team_id, role) SELECT $1, id, 0 FROM team";
    for repository in &repositories {
        sql::execute(&meta.connections, give, [repository.id.into()]).await.unwrap();
    }
    let viewer = Viewer::Account(somebody);
    assert_eq!(meta.catalog(viewer, "", 3).await.unwrap(), ["a/1", "a/2", "a/3"]);
    assert_eq!(meta.catalog(viewer, "a/3", 3).await.unwrap(), ["a/4", "a/5", "somebody/own"]);
}

async fn a_blob_that_leaves_is_waited_for_and_never_comes_back(scratch: Scratch) {
    let meta = &scratch.open().await;
    let (one, two) = (repository(meta, "a/one").await, repository(meta, "b/two").await);
    let (digest, blob) = unheld_blob(meta, &one, b"layer").await;
    let time = Duration::from_secs(30);
    let going = leave(meta, &blob, time).await;
    assert_eq!(going.blobs.len(), 1);
    // Nobody counts on it, and nobody else takes it away.
    for repository in [&one, &two] {
        assert_eq!(push_blob(meta, repository, b"layer").await.1, Arrival::Leaving);
        assert!(meta.blob(&repository.name, &digest).await.unwrap().is_none());
    }
    assert!(leave(meta, &blob, time).await.blobs.is_empty());
    let change = meta.change().await.unwrap();
    assert!(change.mount("a/one", two.id, &digest, now() + MINUTE).await.unwrap().is_none());
    assert!(!change.blob_arrived(blob.id, 5).await.unwrap(), "a push that took too long has lost its row");
    drop(change);

    // Whoever took it away was killed: it is made anew, and its old row is nobody's.
    time_passes(meta, time).await;
    let (_, arrival) = push_blob(meta, &one, b"layer").await;
    assert!(matches!(arrival, Arrival::New(id) if id != blob.id), "{arrival:?}");
    assert_eq!(left(meta, &going, &blob).await, 0);
    assert!(meta.blob("a/one", &digest).await.unwrap().is_some());
}

async fn who_takes_a_blob_away_too_late_drops_nothing(scratch: Scratch) {
    let meta = &scratch.open().await;
    let one = repository(meta, "a/one").await;
    let (digest, blob) = unheld_blob(meta, &one, b"layer").await;
    let late = leave(meta, &blob, Duration::ZERO).await;
    // Another goes on with what the first seems to have left.
    let going = leave(meta, &blob, Duration::from_secs(30)).await;
    assert_eq!((late.blobs.len(), going.blobs.len()), (1, 1));
    assert_eq!(left(meta, &late, &blob).await, 0, "the other is deleting it now");
    assert_eq!(push_blob(meta, &one, b"layer").await.1, Arrival::Leaving);
    assert_eq!(left(meta, &going, &blob).await, 1);
    assert!(matches!(push_blob(meta, &one, b"layer").await.1, Arrival::New(_)));
    assert!(meta.blob("a/one", &digest).await.unwrap().is_some());
}

//! What a registry does beside others who do something to the same at the same moment.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use pierhead_config::OriginConfig;
use pierhead_registry::oci::{Algorithm, Digest, Reference, media_type};
use pierhead_registry::store::{BlobStore, FileSystem, StoreError, UploadId};
use pierhead_tests::eventually;

use super::slow_store::SlowStore;
use super::upload::Piece;
use super::{Pushed, Registry, RegistryError};
use crate::meta::scratch::{Scratch, on_both};
use crate::meta::{
    AccountKind, MetaError, NewAccount, Performer, Repository, RepositoryEdit, RepositoryState, Visibility, now,
};
use crate::metrics::Metrics;

on_both!(
    a_blob_is_not_deleted_while_a_manifest_that_needs_it_is_put,
    a_blob_that_the_store_has_lost_is_mended_by_the_next_push,
    a_blob_is_not_lost_while_the_store_is_away,
    what_is_known_is_written_as_what_is_not,
    a_repository_that_takes_no_changes_any_more_takes_no_bytes,
    a_writer_that_waits_for_the_store_is_there_all_the_same
);

const NAME: &str = "team/app";

struct House {
    registry: Arc<Registry>,
    repository: Repository,
    slow: Arc<SlowStore>,
    database: Scratch,
}

impl House {
    async fn new(database: Scratch) -> House {
        let meta = database.open().await;
        let store = Arc::new(FileSystem::open(database.directory().join("blobs")).await.unwrap());
        let slow = Arc::new(SlowStore::new(store));
        let file = database.directory().join("origin.yaml");
        let config = "{ hostname: registry.test, listener: { bind: \"127.0.0.1:0\" }, \
                      storage: { file_system: { path: /unused } }, database: { sqlite: /unused } }";
        fs::write(&file, config).unwrap();
        let config = OriginConfig::load(&file).unwrap();
        let change = meta.change().await.unwrap();
        let owner = change.create_account(NewAccount::new("team", AccountKind::Organization), now()).await.unwrap();
        let repository = change.insert_repository(owner.id, NAME, Visibility::Private, "").await.unwrap();
        change.commit().await.unwrap();
        let (store, metrics) = (Arc::clone(&slow) as Arc<dyn BlobStore>, Arc::new(Metrics::new().unwrap()));
        House { registry: Arc::new(Registry::new(meta, store, metrics, &config)), repository, slow, database }
    }

    async fn begin(&self) -> UploadId {
        self.registry.begin_upload(self.repository.id, Algorithm::Sha256, None).await.unwrap()
    }

    async fn push_blob(&self, content: &'static [u8]) -> Digest {
        let (id, digest) = (self.begin().await, Digest::of(Algorithm::Sha256, content));
        self.slow.writes.add_permits(1);
        self.registry.finish(NAME, &id, piece(content), digest).await.unwrap();
        digest
    }

    /// Where a blob lies.
    fn file(&self, blob: &Digest) -> PathBuf {
        self.database.directory().join("blobs/sha256").join(&blob.hex()[..2]).join(blob.hex())
    }

    async fn pull(&self, blob: &Digest) -> Result<(), RegistryError> {
        let held = self.registry.blob(NAME, blob).await?;
        self.registry.open_blob(&held, blob, 0..held.size()).await.map(drop)
    }

    async fn publish(&self, content: &[u8]) -> Result<Digest, RegistryError> {
        let pushed = Pushed {
            repository: self.repository.id,
            name: NAME,
            reference: &"latest".parse().unwrap(),
            tags: &[],
            content_type: media_type::OCI_MANIFEST,
            content,
            performer: &Performer::default(),
        };
        self.registry.publish(pushed).await.map(|published| published.digest)
    }
}

fn piece(content: &'static [u8]) -> Piece {
    let body = stream::iter([Ok(Bytes::from_static(content))]).boxed();
    Piece { start: None, length: Some(content.len() as u64), body }
}

/// A manifest that needs a blob.
fn image(blob: &Digest) -> Vec<u8> {
    format!(r#"{{"config":{{"digest":"{blob}"}},"layers":[{{"digest":"{blob}"}}]}}"#).into_bytes()
}

async fn a_blob_is_not_deleted_while_a_manifest_that_needs_it_is_put(database: Scratch) {
    let house = House::new(database).await;
    let (meta, registry) = (&house.registry.meta, Arc::clone(&house.registry));
    let blob = house.push_blob(b"layer").await;
    let content = image(&blob);
    let putting = meta.change().await.unwrap();
    putting.hold_repository(house.repository.id).await.unwrap().unwrap();
    let new = crate::meta::NewManifest {
        repository_id: house.repository.id,
        digest: Digest::of(Algorithm::Sha256, &content),
        media_type: media_type::OCI_MANIFEST,
        content: &content,
        artifact_type: None,
        subject: None,
        blobs: vec![blob],
        foreign: Vec::new(),
        children: Vec::new(),
        entries: Vec::new(),
        sizes: Vec::new(),
        at: now(),
    };
    putting.put_manifest(&new).await.unwrap();
    let deleting = tokio::spawn(async move { registry.delete_blob(NAME, &blob, &Performer::default()).await });
    house.database.somebody_waits(meta).await;
    putting.commit().await.unwrap();
    let refused = deleting.await.unwrap();
    assert!(matches!(refused, Err(RegistryError::Needed(_))), "{refused:?}");
    assert_eq!(house.registry.blob(NAME, &blob).await.unwrap().size(), 5);
}

async fn a_blob_that_the_store_has_lost_is_mended_by_the_next_push(database: Scratch) {
    let house = House::new(database).await;
    let blob = house.push_blob(b"layer").await;
    let (image, file) = (image(&blob), house.file(&blob));
    house.publish(&image).await.unwrap();
    let lose: [fn(&PathBuf); 2] = [|file| fs::remove_file(file).unwrap(), |file| fs::write(file, b"lay").unwrap()];
    for (losses, lose) in (1..).zip(lose) {
        lose(&file);
        for _ in 0..2 {
            assert!(matches!(house.pull(&blob).await, Err(RegistryError::BlobUnknown)));
            assert_eq!(house.registry.metrics.blobs_lost.get(), losses);
        }
        let refused = house.publish(&image).await;
        assert!(matches!(&refused, Err(RegistryError::Missing(missing)) if *missing == [blob]), "{refused:?}");
        assert!(!house.registry.mount(NAME, house.repository.id, &blob).await.unwrap());
        house.registry.manifest(NAME, &"latest".parse().unwrap()).await.unwrap();
        house.push_blob(b"layer").await;
        house.pull(&blob).await.unwrap();
        house.publish(&image).await.unwrap();
    }
}

async fn a_blob_is_not_lost_while_the_store_is_away(database: Scratch) {
    let house = House::new(database).await;
    let blob = house.push_blob(b"layer").await;
    let (there, away) = (house.database.directory().join("blobs"), house.database.directory().join("away"));
    fs::rename(&there, &away).unwrap();
    let refused = house.pull(&blob).await;
    assert!(matches!(refused, Err(RegistryError::Store(StoreError::Unavailable(_)))), "{refused:?}");
    fs::rename(&away, &there).unwrap();
    house.pull(&blob).await.unwrap();
    // A blob that is put back is there again, without a push.
    let (file, kept) = (house.file(&blob), house.database.directory().join("kept"));
    fs::rename(&file, &kept).unwrap();
    assert!(matches!(house.pull(&blob).await, Err(RegistryError::BlobUnknown)));
    fs::rename(&kept, &file).unwrap();
    house.pull(&blob).await.unwrap();
    house.publish(&image(&blob)).await.unwrap();
}

/// Else the time of a push would tell what others have.
async fn what_is_known_is_written_as_what_is_not(database: Scratch) {
    let house = House::new(database).await;
    let blob = house.push_blob(b"layer").await;
    let first = fs::metadata(house.file(&blob)).unwrap().ino();
    // While it is open its number is nobody else's.
    let held = fs::File::open(house.file(&blob)).unwrap();
    house.push_blob(b"layer").await;
    assert_ne!(fs::metadata(house.file(&blob)).unwrap().ino(), first);
    drop(held);
}

#[tokio::test]
async fn a_push_that_met_another_change_is_tried_again() {
    let house = House::new(Scratch::postgres().await).await;
    let (meta, house) = (house.registry.meta.clone(), Arc::new(house));
    let blob = house.push_blob(b"layer").await;
    let first = house.publish(&image(&blob)).await.unwrap();
    let row = meta.manifest(NAME, &Reference::Digest(first)).await.unwrap().unwrap().id;
    for number in 0..5 {
        // The push has the blob and waits for the tag; then this, which has the tag, waits for the blob.
        let other = meta.change().await.unwrap();
        let at = now();
        other.set_tag(house.repository.id, "latest", row, at, false).await.unwrap();
        let pushing = tokio::spawn({
            let (house, content) =
                (Arc::clone(&house), format!(r#"{{"config":{{"digest":"{blob}"}},"layers":[],"n":{number}}}"#));
            async move { house.publish(content.as_bytes()).await }
        });
        house.database.somebody_waits(&meta).await;
        let id = meta.blob(NAME, &blob).await.unwrap().unwrap().id;
        let met = other.blob_arrived(id, 5).await;
        match met {
            // The push was ended, and goes on when the tag is free.
            Ok(_) => {
                other.commit().await.unwrap();
                pushing.await.unwrap().unwrap();
                return;
            }
            // The database has ended this one: it was too slow to wait in time.
            Err(MetaError::Conflict) => drop(other),
            Err(error) => panic!("{error}"),
        }
        pushing.await.unwrap().unwrap();
    }
    panic!("the push never met the other change");
}

async fn a_repository_that_takes_no_changes_any_more_takes_no_bytes(database: Scratch) {
    let house = House::new(database).await;
    let (registry, digest) = (&house.registry, Digest::of(Algorithm::Sha256, b"layer"));
    house.slow.writes.add_permits(10);
    let id = house.begin().await;
    registry.append(NAME, &id, piece(b"lay")).await.unwrap();
    let change = registry.meta.change().await.unwrap();
    let edit = RepositoryEdit { state: Some(RepositoryState::ReadOnly), ..RepositoryEdit::default() };
    change.edit_repository(house.repository.id, edit).await.unwrap();
    change.commit().await.unwrap();
    let refused = registry.append(NAME, &id, piece(b"er")).await;
    assert!(matches!(refused, Err(RegistryError::ReadOnly)), "{refused:?}");
    let refused = registry.finish(NAME, &id, piece(b"er"), digest).await;
    assert!(matches!(refused, Err(RegistryError::ReadOnly)), "{refused:?}");
    assert_eq!(registry.upload(NAME, &id).await.unwrap().length, 3);
    registry.cancel_upload(NAME, &id).await.unwrap();
    assert!(matches!(registry.upload(NAME, &id).await, Err(RegistryError::UploadUnknown)));
}

async fn a_writer_that_waits_for_the_store_is_there_all_the_same(database: Scratch) {
    let house = House::new(database).await;
    let (id, meta, registry) = (house.begin().await, &house.registry.meta, Arc::clone(&house.registry));
    let writing = tokio::spawn({
        let id = id.clone();
        async move { registry.append(NAME, &id, piece(b"layer")).await }
    });
    let claimed = async || meta.upload(NAME, &id).await.unwrap().map(|row| row.writer_until).filter(|until| *until > 0);
    let first = eventually("it is claimed", Duration::from_secs(5), claimed).await;
    let later = async || claimed().await.filter(|until| *until > first);
    eventually("the writer says that it is there", Duration::from_secs(9), later).await;
    let change = meta.change().await.unwrap();
    assert!(change.take_upload(now()).await.unwrap().is_none(), "it is no garbage");
    drop(change);
    house.slow.writes.add_permits(1);
    assert_eq!(writing.await.unwrap().unwrap().length, 5);
}

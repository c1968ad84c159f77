//! What is the file system's own: the tree, locks, files that changed behind a checkpoint. The rest is the suite of all drivers.

use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::oci::Algorithm;
use crate::store::Proof;

async fn store() -> (TempDir, FileSystem) {
    let dir = tempfile::tempdir().unwrap();
    let store = FileSystem::open(dir.path().join("blobs")).await.unwrap();
    (dir, store)
}

/// An upload of these bytes, checkpointed and dropped.
async fn uploaded(store: &FileSystem, bytes: &'static [u8]) -> (UploadId, Checkpoint) {
    let id = UploadId::random();
    let mut upload = store.begin(&id).await.unwrap();
    upload.write(Bytes::from_static(bytes)).await.unwrap();
    (id, upload.checkpoint().await.unwrap())
}

#[tokio::test]
async fn blobs_lie_where_quay_puts_them() {
    let (dir, store) = store().await;
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let digest = Digest::of(algorithm, b"content");
        let (id, checkpoint) = uploaded(&store, b"content").await;
        assert_eq!(fs::read(dir.path().join("blobs/uploads/pierhead").join(id.as_str())).unwrap(), b"content");
        store.resume(&id, &checkpoint).await.unwrap().commit(&digest, Proof::Hashed).await.unwrap();
        let hex = digest.hex();
        let path = dir.path().join("blobs").join(algorithm.as_str()).join(&hex[..2]).join(&hex);
        assert_eq!(fs::read(path).unwrap(), b"content");
    }
    assert_eq!(fs::read_dir(dir.path().join("blobs/uploads/pierhead")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_file_shorter_than_its_checkpoint_is_lost_and_a_longer_one_is_cut() {
    let (dir, store) = store().await;
    let (id, checkpoint) = uploaded(&store, b"0123456789").await;
    let path = dir.path().join("blobs/uploads/pierhead").join(id.as_str());
    fs::write(&path, b"0123456789 and what was written after it").unwrap();
    let upload = store.resume(&id, &checkpoint).await.unwrap();
    assert_eq!(upload.length(), 10);
    assert_eq!(fs::read(&path).unwrap(), b"0123456789");
    drop(upload);
    fs::write(&path, b"01234").unwrap();
    assert!(matches!(store.resume(&id, &checkpoint).await, Err(StoreError::Lost)));
    fs::remove_file(&path).unwrap();
    assert!(matches!(store.resume(&id, &checkpoint).await, Err(StoreError::Lost)));
}

#[tokio::test]
async fn who_waits_for_a_writer_that_commits_never_touches_the_blob() {
    let (_dir, store) = store().await;
    let store = Arc::new(store);
    let digest = Digest::of(Algorithm::Sha256, b"content");
    let (id, checkpoint) = uploaded(&store, b"content").await;
    let first = store.resume(&id, &checkpoint).await.unwrap();
    let early = Checkpoint { length: 3, ..checkpoint };
    let second = tokio::spawn({
        let (store, id) = (Arc::clone(&store), id.clone());
        async move { store.resume(&id, &early).await.map(|upload| upload.length()) }
    });
    // It may not have come to the lock yet: then this shows less, and fails no less rightly.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!second.is_finished(), "two writers of one upload");
    first.commit(&digest, Proof::Hashed).await.unwrap();
    assert!(matches!(second.await.unwrap(), Err(StoreError::Lost)));
    assert_eq!(store.stat(&digest).await.unwrap(), Some(7));
}

#[tokio::test]
async fn a_tree_that_is_not_mounted_is_no_empty_one() {
    let (dir, store) = store().await;
    let digest = Digest::of(Algorithm::Sha256, b"content");
    assert_eq!(store.stat(&digest).await.unwrap(), None);
    store.verify().await.unwrap();
    fs::rename(dir.path().join("blobs"), dir.path().join("away")).unwrap();
    fs::create_dir(dir.path().join("blobs")).unwrap();
    assert!(matches!(store.stat(&digest).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.open(&digest, 0..1).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.verify().await, Err(StoreError::Unavailable(_))));
    let begun = store.begin(&UploadId::random()).await;
    assert!(matches!(begun, Err(StoreError::Unavailable(_))));
    fs::remove_dir(dir.path().join("blobs")).unwrap();
    fs::rename(dir.path().join("away"), dir.path().join("blobs")).unwrap();
    assert_eq!(store.stat(&digest).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_not_ours_is_not_swept() {
    let (dir, store) = store().await;
    let (id, _) = uploaded(&store, b"content").await;
    let uploads = dir.path().join("blobs/uploads/pierhead");
    fs::write(uploads.join("README"), b"somebody's").unwrap();
    // Where Quay has its own, under such names too.
    let quays = dir.path().join("blobs/uploads").join(UploadId::random().as_str());
    fs::write(&quays, b"Quay's").unwrap();
    let later = SystemTime::now() + Duration::from_secs(60);
    assert_eq!(store.sweep(later).await.unwrap(), 1);
    assert!(!uploads.join(id.as_str()).exists());
    assert!(uploads.join("README").exists() && quays.exists());
}

#[test]
fn an_error_of_the_file_system_is_somebodys_fault() {
    for (errno, kind) in [
        (Errno::NOSPC, "full"),
        (Errno::DQUOT, "full"),
        (Errno::ACCESS, "refuses"),
        (Errno::ROFS, "available"),
        (Errno::IO, "available"),
        (Errno::STALE, "available"),
    ] {
        let text = fault("cannot write", Path::new("/x"), &errno.into()).to_string();
        assert!(text.contains(kind), "{errno:?}: {text}");
    }
}

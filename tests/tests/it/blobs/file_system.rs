//! The suite on files, and a disk that is full.

use std::sync::Arc;

use bytes::Bytes;
use pierhead_registry::oci::{Algorithm, Digest};
use pierhead_registry::store::{BlobStore, FileSystem, Proof, StoreError, Upload, UploadId};
use pierhead_tests::image::noise;
use tempfile::TempDir;

use super::conformance::{Subject, all, read};
use crate::disk::SmallDisk;

struct Files(TempDir);

impl Subject for Files {
    const PART: usize = 1 << 20;
    const PRESIGNS: bool = false;

    async fn instance(&self) -> Arc<dyn BlobStore> {
        Arc::new(FileSystem::open(self.0.path().to_owned()).await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_conform() {
    all(&Files(tempfile::tempdir().unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_to_be_full_and_uploads_go_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path().join("disk"), "8m").await else {
        eprintln!("skipped: mounting a tmpfs is not permitted here");
        return;
    };
    let store = FileSystem::open(dir.path().join("disk")).await.unwrap();
    let bytes = Bytes::from(noise(1, 12 << 20));
    let (id, start) = (UploadId::random(), 4 << 20);
    let mut upload = store.begin(&id).await.unwrap();
    upload.write(bytes.slice(..start)).await.unwrap();
    let checkpoint = upload.checkpoint().await.unwrap();
    let full = write(upload.as_mut(), &bytes.slice(start..)).await;
    assert!(matches!(full, Err(StoreError::Full(_))), "{full:?}");
    // What failed once is not taken for good later.
    assert!(upload.checkpoint().await.is_err());
    drop(upload);
    disk.remount("size=64m").await;
    let mut upload = store.resume(&id, &checkpoint).await.unwrap();
    write(upload.as_mut(), &bytes.slice(start..)).await.unwrap();
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    upload.commit(&digest, Proof::Hashed).await.unwrap();
    assert!(read(&store, &digest, 0..bytes.len() as u64).await.unwrap() == bytes);
}

/// In small pieces, all of it to the disk.
async fn write(upload: &mut dyn Upload, bytes: &Bytes) -> Result<(), StoreError> {
    for piece in bytes.chunks(64 << 10) {
        upload.write(Bytes::copy_from_slice(piece)).await?;
    }
    upload.checkpoint().await.map(drop)
}

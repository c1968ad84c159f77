//! What every driver must do, whatever it stores to. Each case uses several instances over one store, as several nodes would,
//! and leaves nothing behind: a sweep into the future finds none of its uploads.

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use pierhead_registry::oci::{Algorithm, Digest};
use pierhead_registry::store::{BlobStore, Checkpoint, Content, Proof, StoreError, Upload, UploadId};
use pierhead_tests::image::noise;

const HOUR: Duration = Duration::from_secs(3600);

/// A store and the driver that is examined.
pub(super) trait Subject {
    /// In how large pieces it stores an upload: sizes around it are of interest.
    const PART: usize;
    /// Whether it hands out URLs.
    const PRESIGNS: bool;

    /// A driver of its own over the same store, as another node has.
    async fn instance(&self) -> Arc<dyn BlobStore>;
}

/// All of it.
pub(super) async fn all<S: Subject>(subject: &S) {
    let cases = Cases { node: subject.instance().await, other: subject.instance().await, part: S::PART };
    cases.what_is_written_can_be_read().await;
    cases.what_is_not_there_is_not_there().await;
    cases.pieces_of_any_size_make_a_blob().await;
    cases.another_node_goes_on_at_a_checkpoint().await;
    cases.a_checkpoint_can_be_committed_as_it_is().await;
    cases.what_was_written_past_a_checkpoint_is_gone().await;
    cases.bytes_that_nobody_hashed_are_read_back().await;
    cases.a_discarded_upload_is_lost().await;
    cases.a_committed_upload_is_lost_and_its_blob_is_there().await;
    cases.a_writer_that_is_dropped_leaves_nothing_for_long().await;
    cases.a_sweep_spares_what_was_touched().await;
    cases.a_blob_can_be_deleted_twice().await;
    cases.one_digest_can_be_committed_by_many_at_once().await;
    cases.uploads_do_not_meet().await;
    cases.presigned::<S>().await;
    cases.node.verify().await.unwrap();
}

struct Cases {
    node: Arc<dyn BlobStore>,
    other: Arc<dyn BlobStore>,
    part: usize,
}

impl Cases {
    async fn what_is_written_can_be_read(&self) {
        for size in [0, 1, 1000, self.part - 1, self.part, self.part + 1, 3 * self.part + 4567] {
            let (bytes, digest) = content(size);
            let mut upload = self.begin().await.1;
            for piece in bytes.chunks(77_777) {
                upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            assert_eq!(upload.length(), size as u64);
            assert_eq!(self.node.stat(&digest).await.unwrap(), None, "{size} bytes, before the commit");
            upload.commit(&digest, Proof::Hashed).await.unwrap();
            self.expect(&digest, &bytes).await;
            for range in ranges(size, self.part) {
                let wanted = bytes.slice(range.start as usize..range.end as usize);
                let got = read(&*self.other, &digest, range.clone()).await.unwrap();
                assert!(got == wanted, "{range:?} of {size} bytes: {} bytes that differ", got.len());
            }
            self.nothing_is_left().await;
        }
    }

    async fn what_is_not_there_is_not_there(&self) {
        let (_, digest) = content(10);
        assert_eq!(self.node.stat(&digest).await.unwrap(), None);
        assert!(self.node.open(&digest, 0..10).await.unwrap().is_none());
        assert!(self.node.open(&digest, 0..0).await.unwrap().is_none());
    }

    async fn pieces_of_any_size_make_a_blob(&self) {
        for piece in [1, 3 * self.part + 1] {
            let (bytes, digest) = content(if piece == 1 { 5000 } else { 7 * self.part });
            let mut upload = self.begin().await.1;
            upload.write(Bytes::new()).await.unwrap();
            for at in (0..bytes.len()).step_by(piece) {
                upload.write(bytes.slice(at..bytes.len().min(at + piece))).await.unwrap();
            }
            upload.commit(&digest, Proof::Hashed).await.unwrap();
            self.expect(&digest, &bytes).await;
        }
        self.nothing_is_left().await;
    }

    async fn another_node_goes_on_at_a_checkpoint(&self) {
        let part = self.part;
        let (bytes, digest) = content(4 * part + 99);
        let (id, mut upload) = self.begin().await;
        let mut checkpoint = upload.checkpoint().await.unwrap();
        // Before, at and after the ends of parts; twice at one place; many within a part.
        let ends = [10, 20, 20, part - 1, part, part + 1, part + 2, 2 * part + part / 2, 4 * part, bytes.len()];
        let mut at = 0;
        for (number, end) in ends.into_iter().enumerate() {
            if number % 2 == 1 {
                let node = if number % 4 == 1 { &self.other } else { &self.node };
                drop(upload);
                upload = node.resume(&id, &checkpoint).await.unwrap();
            }
            assert_eq!(upload.length(), at as u64);
            for piece in bytes[at..end].chunks(300_000) {
                upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            checkpoint = upload.checkpoint().await.unwrap();
            assert_eq!(checkpoint.length, end as u64);
            at = end;
        }
        upload.commit(&digest, Proof::Hashed).await.unwrap();
        self.expect(&digest, &bytes).await;
        self.nothing_is_left().await;
    }

    async fn a_checkpoint_can_be_committed_as_it_is(&self) {
        for size in [0, 1, self.part, self.part + 1, 2 * self.part] {
            let (bytes, digest) = content(size);
            let (id, checkpoint) = self.uploaded(&bytes).await;
            self.other.resume(&id, &checkpoint).await.unwrap().commit(&digest, Proof::Hashed).await.unwrap();
            self.expect(&digest, &bytes).await;
            self.nothing_is_left().await;
        }
    }

    async fn what_was_written_past_a_checkpoint_is_gone(&self) {
        for size in [100, self.part + 100] {
            let (bytes, digest) = content(size + 2 * self.part);
            let (id, checkpoint) = self.uploaded(&bytes.slice(..size)).await;
            for _ in 0..2 {
                let mut wrong = self.node.resume(&id, &checkpoint).await.unwrap();
                wrong.write(noise(5, 2 * self.part + 10).into()).await.unwrap();
                drop(wrong);
            }
            let mut upload = self.other.resume(&id, &checkpoint).await.unwrap();
            upload.write(bytes.slice(size..)).await.unwrap();
            upload.commit(&digest, Proof::Hashed).await.unwrap();
            self.expect(&digest, &bytes).await;
            // What a dropped writer began after the checkpoint, no checkpoint knows of.
            self.node.sweep(SystemTime::now() + HOUR).await.unwrap();
            self.nothing_is_left().await;
        }
    }

    async fn bytes_that_nobody_hashed_are_read_back(&self) {
        for size in [0, 10, 2 * self.part + 10] {
            for checkpointed in [false, true] {
                let (bytes, _) = content(size);
                let digest = Digest::of(Algorithm::Sha512, &bytes);
                for (named, right) in [(Digest::of(Algorithm::Sha512, b"other"), false), (digest, true)] {
                    let (id, mut upload) = self.begin().await;
                    upload.write(bytes.clone()).await.unwrap();
                    if checkpointed {
                        let checkpoint = upload.checkpoint().await.unwrap();
                        drop(upload);
                        upload = self.other.resume(&id, &checkpoint).await.unwrap();
                    }
                    let done = upload.commit(&named, Proof::ReadBack).await;
                    assert_eq!(done.is_ok(), right, "{size} bytes: {done:?}");
                    if !right {
                        assert!(matches!(done, Err(StoreError::Mismatch)), "{done:?}");
                        assert_eq!(self.node.stat(&named).await.unwrap(), None);
                        self.node.discard(&id, None).await.unwrap();
                    }
                }
                self.expect(&digest, &bytes).await;
                self.node.delete(&digest).await.unwrap();
                self.nothing_is_left().await;
            }
        }
    }

    async fn a_discarded_upload_is_lost(&self) {
        for size in [10, self.part + 10] {
            for knowing in [true, false] {
                let (bytes, digest) = content(size);
                let (id, checkpoint) = self.uploaded(&bytes).await;
                for _ in 0..2 {
                    self.other.discard(&id, knowing.then_some(&checkpoint)).await.unwrap();
                }
                self.nothing_is_left().await;
                self.expect_lost(&id, &checkpoint, &digest).await;
                assert_eq!(self.node.stat(&digest).await.unwrap(), None);
            }
        }
        self.node.discard(&UploadId::random(), None).await.unwrap();
        self.nothing_is_left().await;
    }

    async fn a_committed_upload_is_lost_and_its_blob_is_there(&self) {
        for size in [10, self.part + 10] {
            let (bytes, digest) = content(size);
            let (id, checkpoint) = self.uploaded(&bytes).await;
            self.node.resume(&id, &checkpoint).await.unwrap().commit(&digest, Proof::Hashed).await.unwrap();
            self.expect_lost(&id, &checkpoint, &digest).await;
            self.expect(&digest, &bytes).await;
            self.nothing_is_left().await;
        }
    }

    async fn a_writer_that_is_dropped_leaves_nothing_for_long(&self) {
        let mut upload = self.begin().await.1;
        upload.write(noise(7, 2 * self.part + 1).into()).await.unwrap();
        drop(upload);
        self.node.sweep(SystemTime::now() + HOUR).await.unwrap();
        self.nothing_is_left().await;
    }

    async fn a_sweep_spares_what_was_touched(&self) {
        for size in [10, self.part + 10] {
            let (bytes, digest) = content(size);
            let (id, checkpoint) = self.uploaded(&bytes).await;
            assert_eq!(self.other.sweep(SystemTime::now() - HOUR).await.unwrap(), 0);
            self.node.resume(&id, &checkpoint).await.unwrap().commit(&digest, Proof::Hashed).await.unwrap();
            let (id, checkpoint) = self.uploaded(&bytes).await;
            assert_eq!(self.other.sweep(SystemTime::now() + HOUR).await.unwrap(), 1);
            self.expect_lost(&id, &checkpoint, &digest).await;
            // It never touches blobs.
            self.expect(&digest, &bytes).await;
        }
    }

    async fn a_blob_can_be_deleted_twice(&self) {
        let (bytes, digest) = content(1000);
        self.commit(&bytes, &digest).await;
        for _ in 0..2 {
            self.other.delete(&digest).await.unwrap();
            assert_eq!(self.node.stat(&digest).await.unwrap(), None);
            assert!(self.node.open(&digest, 0..1000).await.unwrap().is_none());
        }
        self.commit(&bytes, &digest).await;
        self.expect(&digest, &bytes).await;
    }

    async fn one_digest_can_be_committed_by_many_at_once(&self) {
        for size in [1000, self.part + 1000] {
            let (bytes, digest) = content(size);
            let reader = async {
                // What a reader sees meanwhile is nothing, or all of it.
                for _ in 0..20 {
                    if let Some(length) = self.node.stat(&digest).await.unwrap() {
                        assert_eq!(length, size as u64);
                        let got = read(&*self.node, &digest, 0..length).await.unwrap();
                        assert!(got == bytes, "a reader met a half blob");
                    }
                }
            };
            let writers = join_all((0..6).map(|_| self.commit(&bytes, &digest)));
            futures_util::future::join(writers, reader).await;
            self.expect(&digest, &bytes).await;
            self.nothing_is_left().await;
        }
    }

    async fn uploads_do_not_meet(&self) {
        let contents: Vec<_> = (0..8).map(|number| content(number * self.part / 3)).collect();
        join_all(contents.iter().map(|(bytes, digest)| self.commit(bytes, digest))).await;
        for (bytes, digest) in &contents {
            self.expect(digest, bytes).await;
        }
        self.nothing_is_left().await;
    }

    async fn presigned<S: Subject>(&self) {
        let (bytes, digest) = content(100_000);
        self.commit(&bytes, &digest).await;
        let url = self.node.presign(&digest, Duration::from_secs(60)).await.unwrap();
        assert_eq!(url.is_some(), S::PRESIGNS);
        let Some(url) = url else { return };
        let client = reqwest::Client::new();
        let whole = client.get(url.as_str()).send().await.unwrap().error_for_status().unwrap();
        assert_eq!(whole.bytes().await.unwrap(), bytes);
        let part = client.get(url.as_str()).header("range", "bytes=5-9").send().await.unwrap();
        assert_eq!(part.status(), 206);
        assert_eq!(part.bytes().await.unwrap(), bytes.slice(5..10));
        let forged = url.as_str().replace("X-Amz-Expires=60", "X-Amz-Expires=600");
        assert_ne!(forged, url.as_str());
        assert_eq!(client.get(forged).send().await.unwrap().status(), 403);
    }

    async fn begin(&self) -> (UploadId, Box<dyn Upload>) {
        let id = UploadId::random();
        let upload = self.node.begin(&id).await.unwrap();
        assert_eq!(upload.length(), 0);
        (id, upload)
    }

    /// An upload of these bytes, dropped at its checkpoint.
    async fn uploaded(&self, bytes: &Bytes) -> (UploadId, Checkpoint) {
        let (id, mut upload) = self.begin().await;
        upload.write(bytes.clone()).await.unwrap();
        let checkpoint = upload.checkpoint().await.unwrap();
        assert_eq!(checkpoint.length, bytes.len() as u64);
        (id, checkpoint)
    }

    async fn commit(&self, bytes: &Bytes, digest: &Digest) {
        let mut upload = self.begin().await.1;
        upload.write(bytes.clone()).await.unwrap();
        upload.commit(digest, Proof::Hashed).await.unwrap();
    }

    async fn expect(&self, digest: &Digest, bytes: &Bytes) {
        for node in [&self.node, &self.other] {
            assert_eq!(node.stat(digest).await.unwrap(), Some(bytes.len() as u64), "the size of {digest}");
            let got = read(&**node, digest, 0..bytes.len() as u64).await.unwrap();
            assert!(got == *bytes, "{digest}: {} bytes that differ", got.len());
        }
    }

    /// That is found when it is resumed, or else by what is done with it first.
    async fn expect_lost(&self, id: &UploadId, checkpoint: &Checkpoint, digest: &Digest) {
        let lost = match self.other.resume(id, checkpoint).await {
            Ok(upload) => upload.commit(digest, Proof::Hashed).await,
            Err(error) => Err(error),
        };
        assert!(matches!(lost, Err(StoreError::Lost)), "{lost:?}");
    }

    async fn nothing_is_left(&self) {
        assert_eq!(self.node.sweep(SystemTime::now() + HOUR).await.unwrap(), 0, "uploads that were left behind");
    }
}

/// Bytes that no other case has, and their digest.
fn content(size: usize) -> (Bytes, Digest) {
    let bytes = Bytes::from(noise(rand::random(), size));
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    (bytes, digest)
}

fn ranges(size: usize, part: usize) -> Vec<Range<u64>> {
    let all =
        [0..0, 0..1, 3..10, part - 1..part + 1, size.saturating_sub(1)..size, size..size, 0..size, size / 2..size];
    let inside = all.into_iter().filter(|range| range.start <= range.end && range.end <= size);
    inside.map(|range| range.start as u64..range.end as u64).collect()
}

/// The bytes of a blob that must be there.
pub(super) async fn read(store: &dyn BlobStore, digest: &Digest, range: Range<u64>) -> Result<Bytes, StoreError> {
    let length = (range.end - range.start) as usize;
    match store.open(digest, range).await?.expect("the blob") {
        Content::File(mut file, range) => {
            let mut bytes = Vec::with_capacity(length);
            file.seek(SeekFrom::Start(range.start)).unwrap();
            file.take(range.end - range.start).read_to_end(&mut bytes).unwrap();
            Ok(bytes.into())
        }
        Content::Stream(stream) => {
            let pieces: Vec<Bytes> = stream.try_collect().await?;
            Ok(pieces.concat().into())
        }
    }
}

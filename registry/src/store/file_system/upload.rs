//! An upload as a file: written in big pieces on blocking threads, while the next piece comes in.
//!
//! Invariants: one writer at a time has the file, by a lock that ends with its last piece of work, so that what a dropped
//! writer had under way never lands in another's bytes; whoever gets the lock makes sure that the file is still an upload,
//! for it may have become a blob meanwhile. After a failed write or sync nothing of this writer counts any more.
//!
//! What was written is synced in the background as it grows: the disk works while the client sends, and the sync that a
//! commit waits for is a short one.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::JoinHandle;

use super::{Tree, blocking, fault, open_to_write, sync_folder};
use crate::oci::{Digest, Hasher};
use crate::store::{Checkpoint, Proof, StoreError, Upload, UploadId};

/// How many bytes are written at once. A second such piece comes in meanwhile: that is all the memory an upload takes, and the same
/// memory to its end. Who sends them has its buffers back at once.
const PIECE: usize = 128 << 10;
/// How much is written between two syncs in the background.
const SYNC: u64 = 32 << 20;
/// How much may wait for the disk before an upload does.
const UNSYNCED: u64 = 4 * SYNC;
/// How much is written between two checkpoints, which wait for the disk.
pub(super) const STRIDE: u64 = 256 << 20;
/// How long a writer waits for another that was dropped to end its work.
const PATIENCE: Duration = Duration::from_secs(10);

/// An upload that is being written.
pub(super) struct FileUpload {
    tree: Arc<Tree>,
    place: Arc<Place>,
    /// How many bytes it has, those in memory too.
    length: u64,
    /// The piece that comes in.
    filling: Vec<u8>,
    /// Memory for the next one.
    spare: Vec<u8>,
    /// A piece that is being written.
    writing: Option<JoinHandle<Result<Vec<u8>, StoreError>>>,
    /// A sync under way, and up to where it reaches.
    syncing: Option<(u64, JoinHandle<Result<(), StoreError>>)>,
    /// Up to where it is on the disk.
    synced: u64,
    /// Whether something went wrong.
    failed: bool,
}

/// The file of an upload, locked.
struct Place {
    file: File,
    path: PathBuf,
}

impl FileUpload {
    pub(super) async fn begin(tree: &Arc<Tree>, id: &UploadId) -> Result<FileUpload, StoreError> {
        let place = Place::lock(tree.upload(id), true).await?;
        FileUpload::from(tree, place, 0).await
    }

    pub(super) async fn resume(tree: &Arc<Tree>, id: &UploadId, length: u64) -> Result<FileUpload, StoreError> {
        let place = Place::lock(tree.upload(id), false).await?;
        FileUpload::from(tree, place, length).await
    }

    /// Cuts off what lies past its length.
    async fn from(tree: &Arc<Tree>, place: Place, length: u64) -> Result<FileUpload, StoreError> {
        let place = Arc::new(place);
        let cut = Arc::clone(&place);
        blocking(move || {
            let has = cut.file.metadata().map_err(|error| cut.fault("cannot look at", &error))?.len();
            match has.cmp(&length) {
                std::cmp::Ordering::Less => Err(StoreError::Lost),
                std::cmp::Ordering::Equal => Ok(()),
                std::cmp::Ordering::Greater => {
                    cut.file.set_len(length).map_err(|error| cut.fault("cannot cut", &error))
                }
            }
        })
        .await?;
        Ok(FileUpload {
            tree: Arc::clone(tree),
            place,
            length,
            filling: Vec::new(),
            spare: Vec::new(),
            writing: None,
            syncing: None,
            synced: length,
            failed: false,
        })
    }

    /// Up to where it was handed to the file system.
    fn written(&self) -> u64 {
        self.length - self.filling.len() as u64
    }

    /// Starts to write what came in, after what is being written.
    async fn flush(&mut self) -> Result<(), StoreError> {
        self.written_out().await?;
        if !self.filling.is_empty() {
            let offset = self.written();
            let mut piece = std::mem::replace(&mut self.filling, std::mem::take(&mut self.spare));
            let place = Arc::clone(&self.place);
            self.writing = Some(tokio::task::spawn_blocking(move || {
                place.file.write_all_at(&piece, offset).map_err(|error| place.fault("cannot write", &error))?;
                piece.clear();
                Ok(piece)
            }));
        }
        Ok(())
    }

    /// Waits until nothing is being written.
    async fn written_out(&mut self) -> Result<(), StoreError> {
        if let Some(task) = &mut self.writing {
            let done = ended(task.await);
            self.writing = None;
            self.spare = self.note(done)?;
        }
        Ok(())
    }

    /// Has the disk catch up, and waits for it only when it is far behind.
    async fn sync_along(&mut self) -> Result<(), StoreError> {
        if self.written() < self.synced + SYNC {
            return Ok(());
        }
        let behind = self.written() >= self.synced + UNSYNCED;
        if self.syncing.as_ref().is_some_and(|(_, task)| behind || task.is_finished()) {
            self.sync_ended().await?;
        }
        if self.syncing.is_none() && self.written() >= self.synced + SYNC {
            self.written_out().await?;
            let place = Arc::clone(&self.place);
            let task = tokio::task::spawn_blocking(move || place.sync());
            self.syncing = Some((self.written(), task));
        }
        Ok(())
    }

    /// Waits until nothing is being synced.
    async fn sync_ended(&mut self) -> Result<(), StoreError> {
        if let Some((until, task)) = &mut self.syncing {
            let (until, done) = (*until, ended(task.await));
            self.syncing = None;
            self.note(done)?;
            self.synced = until;
        }
        Ok(())
    }

    /// After a failure the file may lack what later syncs no longer know of: nothing of this writer counts.
    fn note<T>(&mut self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        self.failed |= done.is_err();
        done
    }

    /// Everything written, and nothing under way.
    async fn settle(&mut self) -> Result<(), StoreError> {
        self.usable()?;
        self.flush().await?;
        self.written_out().await?;
        self.sync_ended().await
    }

    fn usable(&self) -> Result<(), StoreError> {
        if self.failed { Err(StoreError::Unavailable("a write to this upload has failed".to_owned())) } else { Ok(()) }
    }
}

#[async_trait]
impl Upload for FileUpload {
    fn length(&self) -> u64 {
        self.length
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.usable()?;
        let mut rest = bytes.as_ref();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(PIECE - self.filling.len()));
            self.filling.extend_from_slice(piece);
            self.length += piece.len() as u64;
            rest = after;
            if self.filling.len() == PIECE {
                self.flush().await?;
                self.sync_along().await?;
            }
        }
        Ok(())
    }

    async fn checkpoint(&mut self) -> Result<Checkpoint, StoreError> {
        self.settle().await?;
        if self.synced < self.length {
            let place = Arc::clone(&self.place);
            let done = blocking(move || place.sync()).await;
            self.note(done)?;
            self.synced = self.length;
        }
        Ok(Checkpoint { length: self.length, state: "{}".to_owned() })
    }

    fn commits_at_once(&self) -> bool {
        true
    }

    async fn commit(mut self: Box<Self>, digest: &Digest, proof: Proof) -> Result<(), StoreError> {
        self.settle().await?;
        let (tree, place, digest) = (Arc::clone(&self.tree), Arc::clone(&self.place), *digest);
        let sync = self.synced < self.length;
        // One step for all: who goes away in the middle of it does not stop it.
        blocking(move || {
            if sync {
                place.sync()?;
            }
            if proof == Proof::ReadBack {
                place.read_back(&digest)?;
            }
            place.rename(&tree, &digest)
        })
        .await
    }
}

impl Place {
    /// Opens and locks the file of an upload.
    async fn lock(path: PathBuf, create: bool) -> Result<Place, StoreError> {
        let until = Instant::now() + PATIENCE;
        loop {
            let tried = path.clone();
            if let Some(place) = blocking(move || Place::try_lock(tried, create)).await? {
                return Ok(place);
            }
            if Instant::now() >= until {
                return Err(StoreError::Unavailable(format!("{} is being written by another", path.display())));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn try_lock(path: PathBuf, create: bool) -> Result<Option<Place>, StoreError> {
        let file = match open_to_write(&path, create) {
            Ok(file) => file,
            // Without its folder, the whole tree is away.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && !create && path.parent().is_some_and(Path::exists) =>
            {
                return Err(StoreError::Lost);
            }
            Err(error) => return Err(fault("cannot open", &path, &error)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(fault("cannot lock", &path, &error)),
        }
        let place = Place { file, path };
        // It may have become a blob, or have been discarded, before the lock was ours.
        if place.is_there()? {
            Ok(Some(place))
        } else if create {
            Ok(None)
        } else {
            Err(StoreError::Lost)
        }
    }

    /// Whether the file still has its name.
    fn is_there(&self) -> Result<bool, StoreError> {
        let opened = self.file.metadata().map_err(|error| self.fault("cannot look at", &error))?;
        match fs::metadata(&self.path) {
            Ok(named) => Ok((named.dev(), named.ino()) == (opened.dev(), opened.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.fault("cannot look at", &error)),
        }
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(|error| self.fault("cannot sync", &error))
    }

    fn read_back(&self, digest: &Digest) -> Result<(), StoreError> {
        let failed = |error: io::Error| self.fault("cannot read", &error);
        let mut file = File::open(&self.path).map_err(failed)?;
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; PIECE];
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            }
        }
        if hasher.finish() == *digest { Ok(()) } else { Err(StoreError::Mismatch) }
    }

    /// Makes it a blob.
    fn rename(&self, tree: &Tree, digest: &Digest) -> Result<(), StoreError> {
        if !self.is_there()? {
            return Err(StoreError::Lost);
        }
        let blob = tree.blob(digest);
        let folder = blob.parent().unwrap_or(&tree.root);
        tree.make_folder(folder)?;
        match fs::rename(&self.path, &blob) {
            Ok(()) => sync_folder(folder),
            // Discarded just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::Lost),
            Err(error) => Err(fault("cannot rename to", &blob, &error)),
        }
    }

    fn fault(&self, what: &str, error: &io::Error) -> StoreError {
        fault(what, &self.path, error)
    }
}

/// What a task has said, or that it said nothing.
fn ended<T>(done: Result<Result<T, StoreError>, tokio::task::JoinError>) -> Result<T, StoreError> {
    done.unwrap_or_else(|error| Err(StoreError::Broken(format!("work of the store has died: {error}"))))
}

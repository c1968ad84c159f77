//! Blobs as files below one directory, which several nodes may share.
//!
//! ```text
//! <root>/sha256/ab/<hex>        a blob
//! <root>/uploads/pierhead/<id>  an upload, as far as it was written
//! <root>/_verify                what health checks write
//! ```
//!
//! Invariant: a file below `sha256/` is whole, on the disk, and never written again. It got there by one rename of an upload
//! that had been synced before. A crash before the rename leaves the upload, and what its checkpoint says is in it; a crash
//! after it leaves the blob, and the upload is lost. Nothing lies between.
//!
//! The file system blocks, so all of it happens on blocking threads, and in big pieces. Readers get the file itself.

mod upload;

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use rustix::io::Errno;
use url::Url;

use super::{BlobStore, Checkpoint, Content, StoreError, Upload, UploadId};
use crate::oci::Digest;
use upload::FileUpload;

/// What Quay's health check writes, too.
const VERIFY: &[u8] = b"testing 123";

/// Blobs below a directory.
pub struct FileSystem {
    tree: Arc<Tree>,
}

/// Where everything lies.
struct Tree {
    root: PathBuf,
    /// Folders of blobs whose names are known to survive a power failure: 512 at most.
    folders: Mutex<HashSet<PathBuf>>,
}

impl FileSystem {
    /// Opens the tree at this directory and makes what is missing of it.
    pub async fn open(root: PathBuf) -> Result<FileSystem, StoreError> {
        blocking(move || {
            let tree = Tree { root, folders: Mutex::default() };
            let uploads = tree.uploads();
            fs::create_dir_all(&uploads).map_err(|error| fault("cannot make", &uploads, &error))?;
            Ok(FileSystem { tree: Arc::new(tree) })
        })
        .await
    }

    async fn on_tree<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tree) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let tree = Arc::clone(&self.tree);
        blocking(move || work(&tree)).await
    }
}

#[async_trait]
impl BlobStore for FileSystem {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let digest = *digest;
        self.on_tree(move |tree| {
            let path = tree.blob(&digest);
            match fs::metadata(&path) {
                Ok(found) => Ok(Some(found.len())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => tree.miss(),
                Err(error) => Err(fault("cannot look at", &path, &error)),
            }
        })
        .await
    }

    async fn open(&self, digest: &Digest, range: Range<u64>) -> Result<Option<Content>, StoreError> {
        let digest = *digest;
        self.on_tree(move |tree| {
            let path = tree.blob(&digest);
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return tree.miss(),
                Err(error) => return Err(fault("cannot open", &path, &error)),
            };
            let length = file.metadata().map_err(|error| fault("cannot look at", &path, &error))?.len();
            if range.end > length {
                return Err(StoreError::Broken(format!("{digest} has {length} bytes, asked for {range:?}")));
            }
            Ok(Some(Content::File(file, range)))
        })
        .await
    }

    async fn presign(&self, _: &Digest, _: Duration) -> Result<Option<Url>, StoreError> {
        Ok(None)
    }

    async fn delete(&self, digest: &Digest) -> Result<(), StoreError> {
        let digest = *digest;
        self.on_tree(move |tree| {
            let path = tree.blob(&digest);
            remove(&path)?;
            match path.parent() {
                Some(folder) if folder.exists() => sync_folder(folder),
                _ => Ok(()),
            }
        })
        .await
    }

    async fn begin(&self, id: &UploadId) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(FileUpload::begin(&self.tree, id).await?))
    }

    async fn resume(&self, id: &UploadId, checkpoint: &Checkpoint) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(FileUpload::resume(&self.tree, id, checkpoint.length).await?))
    }

    async fn discard(&self, id: &UploadId, _: Option<&Checkpoint>) -> Result<(), StoreError> {
        let id = id.clone();
        self.on_tree(move |tree| remove(&tree.upload(&id)).map(drop)).await
    }

    async fn sweep(&self, untouched_since: SystemTime) -> Result<u64, StoreError> {
        self.on_tree(move |tree| {
            let uploads = tree.uploads();
            let failed = |error: io::Error| fault("cannot list", &uploads, &error);
            let mut swept = 0;
            for entry in fs::read_dir(&uploads).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                // What has another name is not ours.
                let ours = entry.file_name().to_str().is_some_and(|name| UploadId::parse(name).is_some());
                // One that is gone by now was committed, or discarded.
                let touched = entry.metadata().and_then(|found| found.modified()).ok();
                if ours && touched.is_some_and(|touched| touched < untouched_since) {
                    swept += u64::from(remove(&entry.path())?);
                }
            }
            Ok(swept)
        })
        .await
    }

    async fn verify(&self) -> Result<(), StoreError> {
        self.on_tree(|tree| {
            let path = tree.root.join("_verify");
            // Without its directory the tree is not there, but for example not mounted: nothing may be written in its place.
            tree.miss::<()>()?;
            fs::write(&path, VERIFY).map_err(|error| fault("cannot write", &path, &error))?;
            fs::metadata(&path).map(drop).map_err(|error| fault("cannot look at", &path, &error))
        })
        .await
    }

    fn stride(&self) -> u64 {
        upload::STRIDE
    }
}

impl Tree {
    fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let mut path = self.root.join(digest.algorithm().as_str());
        path.push(&hex[..2]);
        path.push(hex);
        path
    }

    fn uploads(&self) -> PathBuf {
        self.root.join("uploads/pierhead")
    }

    fn upload(&self, id: &UploadId) -> PathBuf {
        self.uploads().join(id.as_str())
    }

    /// What it means that a file is not there: that there is none, unless the whole tree is gone.
    fn miss<T>(&self) -> Result<Option<T>, StoreError> {
        let uploads = self.uploads();
        match fs::metadata(&uploads) {
            Ok(_) => Ok(None),
            Err(error) => Err(StoreError::Unavailable(format!("{}: {error}: is it mounted?", uploads.display()))),
        }
    }

    /// Makes the folder of a blob that is about to appear, durably. That it is there does not say so: another node may have
    /// made it just now.
    fn make_folder(&self, folder: &Path) -> Result<(), StoreError> {
        if self.folders.lock().unwrap_or_else(PoisonError::into_inner).contains(folder) {
            return Ok(());
        }
        fs::create_dir_all(folder).map_err(|error| fault("cannot make", folder, &error))?;
        folder.ancestors().skip(1).take_while(|above| above.starts_with(&self.root)).try_for_each(sync_folder)?;
        self.folders.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned());
        Ok(())
    }
}

/// Opens a file to write to it, or makes it.
fn open_to_write(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(create).truncate(false).open(path)
}

/// Deletes a file; whether it was there.
fn remove(path: &Path) -> Result<bool, StoreError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(fault("cannot delete", path, &error)),
    }
}

/// Makes the names in a folder survive a power failure.
fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|opened| opened.sync_all()).map_err(|error| fault("cannot sync", folder, &error))
}

/// Whose fault an error of the file system is.
fn fault(what: &str, path: &Path, error: &io::Error) -> StoreError {
    let text = format!("{what} {}: {error}", path.display());
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => StoreError::Full(text),
        Some(Errno::ACCESS | Errno::PERM | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => {
            StoreError::Refused(text)
        }
        _ => StoreError::Unavailable(text),
    }
}

/// Does what blocks where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(StoreError::Broken(format!("work of the store has died: {error}"))))
}

#[cfg(test)]
mod tests;

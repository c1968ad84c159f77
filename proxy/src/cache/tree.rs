//! The files of the tree: made, read, renamed and deleted. All of it blocks; callers run it on blocking threads.
//!
//! Invariants: a file appears under its final name complete or not at all (written under `tmp/`, then renamed); nothing
//! changes in a tree that was released; a symbolic link in the place of a file or of a repository's directory is nobody's,
//! and is never followed. The root and the directories right below it may be links, for that is how a disk is moved.

mod callers;
pub(super) mod permissions;
mod records;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard};
use pierhead_registry::oci::{Digest, Hasher, schema1};

use super::OpenError;
use super::layout::{self, Layout};
use super::segments::Claim;

/// Largest record file that is read back: lists are limited upstream, everything else is small.
const RECORD_LIMIT: u64 = 64 << 20;

/// Largest signed manifest.
const SIGNED_LIMIT: u64 = 4 << 20;

/// The files below one root.
pub(super) struct Tree {
    pub(super) layout: Layout,
    /// Whether a commit must survive a power failure.
    fsync: bool,
    /// Names for files in `tmp/`.
    counter: AtomicU64,
    /// Held while committed files appear or vanish, so that an eviction and a commit of one digest cannot cross.
    order: Mutex<()>,
    /// Held shared while anything changes; true once the tree was given away.
    released: RwLock<bool>,
    /// Held while records appear and vanish, so that each is counted once, and their directories vanish only empty.
    records: Mutex<()>,
    /// Held while the file of a repository's callers is read and written again.
    callers: Mutex<()>,
    /// The lock on the tree, given up when this closes.
    lock: File,
}

/// A partial's map file.
#[derive(serde::Serialize, serde::Deserialize)]
pub(super) struct PartialMap {
    /// Length of the whole blob, where it is known.
    pub(super) total: Option<u64>,
    /// What is here of it.
    pub(super) claims: Vec<Claim>,
    /// Whether a download of the whole blob has begun. Maps of earlier versions do not say so.
    #[serde(default)]
    pub(super) begun_whole: bool,
}

impl PartialMap {
    /// How many bytes are here.
    pub(super) fn bytes(&self) -> u64 {
        self.claims.iter().map(|claim| claim.end.saturating_sub(claim.start)).sum()
    }
}

impl Tree {
    /// Makes what is missing and takes the lock.
    pub(super) fn open(layout: Layout, fsync: bool) -> Result<Tree, OpenError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        if let Some(above) = layout.root().parent() {
            fs::create_dir_all(above).map_err(at(above))?;
        }
        for directory in [layout.root(), &layout.blobs(), &layout.partials(), &layout.repositories()] {
            permissions::make(directory).map_err(at(directory))?;
        }
        let lock_path = layout.lock();
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
        let lock = lock.map_err(at(&lock_path))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::InUse(layout.root().to_owned())),
            Err(error) => return Err(at(&lock_path)(error.into())),
        }
        // Whatever a crash left half written was never named by anything.
        let tmp = layout.tmp();
        if tmp.exists() {
            fs::remove_dir_all(&tmp).map_err(at(&tmp))?;
        }
        permissions::make(&tmp).map_err(at(&tmp))?;
        permissions::restrict(&layout).map_err(at(layout.root()))?;
        Ok(Tree {
            layout,
            fsync,
            counter: AtomicU64::new(0),
            order: Mutex::new(()),
            records: Mutex::new(()),
            callers: Mutex::new(()),
            released: RwLock::new(false),
            lock,
        })
    }

    /// Waits for changes that are under way; none is made from here on. What is being written to loses its name: whoever
    /// owns the tree next must never meet this process in a file.
    pub(super) fn release(&self, busy: &[Digest]) -> io::Result<()> {
        let mut released = self.released.write();
        *released = true;
        for digest in busy {
            remove_if_there(&self.layout.partial_map(digest))?;
            remove_if_there(&self.layout.partial(digest))?;
        }
        Ok(())
    }

    /// Lets another process have the tree.
    pub(super) fn unlock(&self) -> io::Result<()> {
        Ok(rustix::fs::flock(&self.lock, rustix::fs::FlockOperation::Unlock)?)
    }

    /// Whether the tree was given away.
    pub(super) fn is_released(&self) -> bool {
        *self.released.read_recursive()
    }

    /// Keeps the tree while several changes belong together; `None` once it was given away.
    pub(super) fn hold(&self) -> Option<RwLockReadGuard<'_, bool>> {
        Some(self.released.read_recursive()).filter(|released| !**released)
    }

    /// Makes a change, unless the tree was given away: then nobody misses it.
    fn change(&self, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.hold().map_or(Ok(()), |_held| work())
    }

    /// Has the index's files read by their owner only: the library that writes them does not see to that.
    pub(super) fn restrict_index(&self) -> io::Result<()> {
        permissions::restrict_index(&self.layout)
    }

    /// The order in which committed files appear and vanish.
    pub(super) fn order(&self) -> MutexGuard<'_, ()> {
        self.order.lock()
    }

    /// The secret for hashing callers, made at first use.
    pub(super) fn caller_key(&self) -> io::Result<[u8; 32]> {
        let path = self.layout.caller_key();
        let mut key = [0; 32];
        match File::open(&path) {
            Ok(mut file) => file.read_exact(&mut key).map(|()| key),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                aws_lc_rs::rand::fill(&mut key).map_err(|_| io::Error::other("no randomness"))?;
                self.write(&path, &[&key], self.fsync)?;
                Ok(key)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes a file whole, or not at all. Readable by the owner only: content may be private.
    fn write(&self, path: &Path, parts: &[&[u8]], sync: bool) -> io::Result<()> {
        self.write_and(parts, sync, |tmp| self.rename(tmp, path, sync))
    }

    /// Writes a temporary file whole, and does with it what gives it its name.
    fn write_and<T: Default>(
        &self,
        parts: &[&[u8]],
        sync: bool,
        name: impl FnOnce(&Path) -> io::Result<T>,
    ) -> io::Result<T> {
        let Some(_held) = self.hold() else { return Ok(T::default()) };
        let tmp = self.layout.tmp().join(self.counter.fetch_add(1, Ordering::Relaxed).to_string());
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&tmp)?;
            for part in parts {
                file.write_all(part)?;
            }
            if sync {
                file.sync_data()?;
            }
            name(&tmp)
        })();
        if written.is_err() {
            let _ = fs::remove_file(&tmp);
        }
        written
    }

    /// Finds out whether something can be written.
    pub(super) fn probe(&self) -> io::Result<()> {
        self.write_and(&[&[0; 64 << 10]], self.fsync, |tmp| fs::remove_file(tmp))
    }

    fn rename(&self, from: &Path, to: &Path, sync: bool) -> io::Result<()> {
        match fs::rename(from, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(parent) = to.parent() {
                    permissions::make(parent)?;
                }
                fs::rename(from, to)?;
            }
            other => other?,
        }
        if sync && let Some(parent) = to.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    }

    // --- content

    /// Opens committed content for reading; the second value is its length.
    pub(super) fn open_blob(&self, digest: &Digest) -> io::Result<(File, u64)> {
        let file = open_file(&self.layout.blob(digest))?;
        let length = file.metadata()?.len();
        Ok((file, length))
    }

    /// Whether `file` is what committed content is at the moment; `None`: that there is none, or a link.
    pub(super) fn is_blob(&self, digest: &Digest, file: Option<&File>) -> bool {
        use std::os::unix::fs::MetadataExt;
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        match (fs::symlink_metadata(self.layout.blob(digest)), file) {
            (Ok(now), Some(file)) => file.metadata().map(identity).is_ok_and(|then| then == identity(now)),
            (Ok(now), None) => now.is_symlink(),
            (Err(error), None) => error.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// Reads small committed content (a manifest) whole.
    pub(super) fn read_blob(&self, digest: &Digest) -> io::Result<Vec<u8>> {
        read_small(&self.layout.blob(digest))
    }

    /// Writes small committed content.
    pub(super) fn write_blob(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        self.write(&self.layout.blob(digest), &[bytes], self.fsync)
    }

    /// Makes a file survive a power failure, if that is wanted.
    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        if self.fsync { file.sync_data() } else { Ok(()) }
    }

    /// Turns a complete, verified, synced partial into committed content.
    pub(super) fn commit_partial(&self, digest: &Digest) -> io::Result<()> {
        self.change(|| {
            self.rename(&self.layout.partial(digest), &self.layout.blob(digest), self.fsync)?;
            remove_if_there(&self.layout.partial_map(digest))
        })
    }

    /// Deletes committed content and what there is of a partial.
    pub(super) fn remove_content(&self, digest: &Digest) -> io::Result<()> {
        self.change(|| {
            remove_if_there(&self.layout.blob(digest))?;
            self.remove_partial(digest)
        })
    }

    /// Whether a digest names what a file holds: its hash, or that of what was signed of it.
    pub(super) fn hashes_to(file: &File, digest: &Digest) -> io::Result<bool> {
        use std::os::unix::fs::FileExt;
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; 256 << 10];
        let mut position = 0;
        loop {
            let read = file.read_at(&mut buffer, position)?;
            if read == 0 {
                let signed = position <= SIGNED_LIMIT;
                return Ok(hasher.finish() == *digest || (signed && is_signed(file, position, digest)?));
            }
            hasher.update(&buffer[..read]);
            position += read as u64;
        }
    }

    // --- partials

    /// Opens, or makes, the sparse file of a partial.
    pub(super) fn open_partial(&self, digest: &Digest) -> io::Result<File> {
        let Some(_held) = self.hold() else { return Err(io::ErrorKind::ReadOnlyFilesystem.into()) };
        let path = self.layout.partial(digest);
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(no_links());
            options.open(&path)
        };
        match open() {
            Err(error) if is_link(&error) => {
                fs::remove_file(&path)?;
                open()
            }
            opened => opened,
        }
    }

    /// What the map of a partial claims; `None` when there is none or it cannot be read.
    pub(super) fn partial_map(&self, digest: &Digest) -> Option<PartialMap> {
        serde_json::from_slice(&read_small(&self.layout.partial_map(digest)).ok()?).ok()
    }

    /// Writes the map of a partial.
    pub(super) fn write_partial_map(&self, digest: &Digest, map: &PartialMap) -> io::Result<()> {
        self.write(&self.layout.partial_map(digest), &[&serde_json::to_vec(map)?], false)
    }

    /// Deletes a partial.
    pub(super) fn remove_partial(&self, digest: &Digest) -> io::Result<()> {
        self.change(|| {
            remove_if_there(&self.layout.partial_map(digest))?;
            remove_if_there(&self.layout.partial(digest))
        })
    }

    /// All partials with what they hold; files without a usable map are deleted.
    pub(super) fn partials(&self) -> io::Result<Vec<(Digest, u64)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.layout.partials())? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(digest) = name.to_str().and_then(|name| layout::digest_of(name.trim_end_matches(".map"))) else {
                remove_if_there(&entry.path())?;
                continue;
            };
            let partial = fs::symlink_metadata(self.layout.partial(&digest));
            let map = self.partial_map(&digest).filter(|_| partial.is_ok_and(|partial| partial.is_file()));
            match map {
                Some(map) if !name.as_encoded_bytes().ends_with(b".map") => {
                    found.push((digest, map.bytes()));
                }
                Some(_) => {}
                None => self.remove_partial(&digest)?,
            }
        }
        Ok(found)
    }
}

/// When a file was last written: the recency of content whose index was lost.
pub(super) fn modified(metadata: &fs::Metadata) -> SystemTime {
    metadata.modified().unwrap_or(UNIX_EPOCH)
}

fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    read_limited(&open_file(path)?)
}

/// Opens a file for reading, which a link is not.
fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(no_links()).open(path)
}

/// The flag that refuses a link in the place of a file.
fn no_links() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()
}

/// Whether opening failed because there is a link.
pub(super) fn is_link(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::LOOP)
}

/// Whether a file of this length is a signed manifest that the digest names.
fn is_signed(file: &File, length: u64, digest: &Digest) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(schema1::is_named_by(&bytes, digest))
}

/// Reads a small file whole.
pub(super) fn read_limited(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(file.metadata()?.len().min(RECORD_LIMIT)).unwrap_or(0));
    file.take(RECORD_LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

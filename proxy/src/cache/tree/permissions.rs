//! Who may read the tree: its owner, and for the names in it the owner's group.
//!
//! Invariant: once a tree is open no directory of it gives more than `0750`, its index's no more than `0700`, and no file of
//! its index more than `0600`. Names tell what a site pulls, and the index has its callers. A tree that an
//! earlier version made is put right when it is opened: its root last, so that a walk that is interrupted is begun again.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use super::Layout;

/// Of directories.
const DIRECTORY: u32 = 0o750;
/// Of the index's directory.
const INDEX_DIRECTORY: u32 = 0o700;
/// Of the index's files.
const INDEX_FILE: u32 = 0o600;

/// Makes a directory, and those above it, where they are missing.
pub(super) fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY).create(directory)
}

/// Makes the index's directory, if it is missing.
pub(in crate::cache) fn make_index(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(INDEX_DIRECTORY).create(directory)
}

/// Takes from a tree that was there what gives more than it should.
pub(super) fn restrict(layout: &Layout) -> io::Result<()> {
    let (root, index) = (layout.root(), layout.index());
    if fs::metadata(root)?.mode() & 0o7777 & !DIRECTORY == 0 {
        return Ok(());
    }
    let mut work = vec![root.to_owned()];
    while let Some(directory) = work.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            // Not a link to one: what it leads to is not ours.
            if entry.file_type()?.is_dir() && entry.path() != index {
                take(&entry.path(), DIRECTORY)?;
                work.push(entry.path());
            }
        }
    }
    match take(root, DIRECTORY) {
        // A mount point may belong to root.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            tracing::warn!(path = %root.display(), "others may list the cache's directory, which belongs to another user");
            Ok(())
        }
        taken => taken,
    }
}

/// Takes from the index what gives more than it should. Its files come and go.
pub(super) fn restrict_index(layout: &Layout) -> io::Result<()> {
    take(&layout.index(), INDEX_DIRECTORY)?;
    let mut work = vec![layout.index()];
    while let Some(directory) = work.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let taken = match entry.file_type()? {
                kind if kind.is_dir() => {
                    work.push(entry.path());
                    take(&entry.path(), INDEX_DIRECTORY)
                }
                kind if kind.is_file() => take(&entry.path(), INDEX_FILE),
                _ => Ok(()),
            };
            match taken {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                taken => taken?,
            }
        }
    }
    Ok(())
}

/// Leaves no more than `most`.
fn take(path: &Path, most: u32) -> io::Result<()> {
    let mode = fs::metadata(path)?.mode() & 0o7777;
    if mode & !most == 0 { Ok(()) } else { fs::set_permissions(path, Permissions::from_mode(mode & most)) }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_tree_of_before_is_put_right() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("cache");
        let layout = Layout::new(root.clone());
        let elsewhere = folder.path().join("elsewhere");
        let inner: Vec<PathBuf> =
            ["blobs/sha256/ab", "repositories/docker.io/library/alpine/_tags", "keys", "index/blobs"]
                .iter()
                .map(|path| root.join(path))
                .collect();
        for directory in inner.iter().chain([&elsewhere]) {
            fs::create_dir_all(directory).unwrap();
            fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
        }
        for file in ["index/db", "index/blobs/1"] {
            fs::write(root.join(file), "x").unwrap();
            fs::set_permissions(root.join(file), Permissions::from_mode(0o644)).unwrap();
        }
        fs::set_permissions(&root, Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(&elsewhere, root.join("link")).unwrap();
        restrict(&layout).unwrap();
        restrict_index(&layout).unwrap();
        assert_eq!(mode(&root), 0o750);
        for directory in &inner[..3] {
            assert_eq!(mode(directory), 0o750, "{}", directory.display());
        }
        assert_eq!((mode(&root.join("index")), mode(&root.join("index/blobs"))), (0o700, 0o700));
        assert_eq!((mode(&root.join("index/db")), mode(&root.join("index/blobs/1"))), (0o600, 0o600));
        assert_eq!(mode(&elsewhere), 0o755, "what a link leads to is left alone");
        // A stricter one stays as it is.
        fs::set_permissions(&root, Permissions::from_mode(0o700)).unwrap();
        restrict(&layout).unwrap();
        assert_eq!(mode(&root), 0o700);
    }
}

//! Whose the files are that this program makes and needs.
//!
//! An account is often made by root, before the service runs as its own user. Invariant: what root makes in a directory of another
//! user belongs to that user. And where this process may not write, the error names the file, its owner and the remedy.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::process::{getegid, geteuid};

/// Makes a directory and those above it, as their owner who has the nearest one that is there.
pub(crate) fn make_directory(directory: &Path) -> std::io::Result<()> {
    let missing: Vec<&Path> = directory.ancestors().take_while(|path| !path.exists()).collect();
    std::fs::create_dir_all(directory)?;
    missing.into_iter().rev().for_each(adopt);
    Ok(())
}

/// Gives a file or directory that root made, and that is there, to the owner of the directory that it is in.
pub(crate) fn adopt(path: &Path) {
    if !geteuid().is_root() {
        return;
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (Ok(own), Ok(above)) = (std::fs::symlink_metadata(path), std::fs::metadata(parent)) else { return };
    if own.uid() != 0 || above.uid() == 0 || own.is_symlink() {
        return;
    }
    if let Err(error) = chown(path, Some(above.uid()), Some(above.gid())) {
        tracing::warn!(path = %path.display(), %error, "cannot give the file to the owner of its directory");
    }
}

/// The files of SQLite's database.
pub(crate) fn files_of(database: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|suffix| {
        let mut name = database.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    })
}

/// Why this process cannot write a file or directory that is there, and what to do; `None`: it can, or there is none.
pub(crate) fn objection(path: &Path) -> Option<String> {
    let found = std::fs::metadata(path).ok()?;
    let needed = match found.is_dir() {
        true => Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK,
        false => Access::READ_OK | Access::WRITE_OK,
    };
    access(path, needed).err()?;
    let (me, group) = (geteuid().as_raw(), getegid().as_raw());
    let shown = path.display();
    if found.uid() == me {
        return Some(format!(
            "{shown}: is not writable, though it belongs to this user (uid {me}): look at its mode and at its file system"
        ));
    }
    Some(format!(
        "{shown}: belongs to {}, and this process runs as {}: `chown {me}:{group} {shown}` as root, or run this command as that user",
        user(found.uid()),
        user(me)
    ))
}

/// The first objection to the files of a database, or to the directory that they are in.
pub(crate) fn objection_to(database: &Path) -> Option<String> {
    files_of(database).iter().map(PathBuf::as_path).chain(database.parent()).find_map(objection)
}

fn user(uid: u32) -> String {
    if uid == 0 { "root".to_owned() } else { format!("uid {uid}") }
}

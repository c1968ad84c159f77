//! Why a file cannot be used: whose it is, and what its owner can do. For every file and directory that a configuration names.

use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Why a file cannot be read, without its name.
pub(crate) fn cannot_be_read(path: &Path, error: &Error) -> String {
    format!("cannot be read: {error}{}", denied(path, error))
}

/// Where an error is a matter of rights: whose the file is, or the nearest directory above it that can be looked at, and the remedy.
/// Else nothing.
pub fn denied(path: &Path, error: &Error) -> String {
    if error.kind() != ErrorKind::PermissionDenied {
        return String::new();
    }
    let found = path.ancestors().find_map(|near| std::fs::metadata(near).ok().map(|found| (near, found)));
    let Some((near, found)) = found else { return String::new() };
    let what = if near == path { "it".to_owned() } else { near.display().to_string() };
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    format!("; {what} belongs to uid {owner}, with mode {mode:o}: give the user of this process the right to use it")
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::{cannot_be_read, denied};

    #[test]
    fn a_matter_of_rights_says_whose_the_file_is() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        std::fs::write(&file, "").unwrap();
        let refused = Error::from(ErrorKind::PermissionDenied);
        let said = cannot_be_read(&file, &refused);
        assert!(said.starts_with("cannot be read: permission denied; it belongs to uid "), "{said}");
        assert!(said.contains(", with mode ") && said.ends_with("the right to use it"), "{said}");
        // What cannot be looked at itself.
        let said = denied(&directory.path().join("a/b"), &refused);
        assert!(said.contains(&format!("; {} belongs to uid ", directory.path().display())), "{said}");
        assert_eq!(denied(&file, &Error::from(ErrorKind::NotFound)), "");
    }
}

//! Where this program lies, so that the one that lies there later can be started in its place.
//!
//! It must be found out at the start: what the system says of a program whose file was replaced names a file that is gone,
//! and a link that it was started through may lead elsewhere by then, which is the point.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// As it was called, where that leads to it; else where it is.
pub(super) fn own_path() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    if let Some(called) = std::env::args_os().next().map(PathBuf::from)
        && called.components().count() > 1
        && let Ok(called) = std::path::absolute(called)
        && is_same(&called, &program)
    {
        return Ok(called);
    }
    Ok(undeleted(program))
}

fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

/// Linux says so of a program whose file was removed or replaced.
fn undeleted(path: PathBuf) -> PathBuf {
    path.to_str().and_then(|path| path.strip_suffix(" (deleted)")).map(PathBuf::from).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_replaced_is_looked_for_where_it_was() {
        for (said, meant) in [("/usr/bin/pierhead (deleted)", "/usr/bin/pierhead"), ("/opt/p", "/opt/p")] {
            assert_eq!(undeleted(said.into()), Path::new(meant));
        }
    }
}

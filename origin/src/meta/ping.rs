//! Whether the database answers, and is still the one that was opened.
//!
//! A file that is deleted or replaced while it is open goes on taking what is written, and all of that is gone with the process. Nothing
//! but a look at its name tells.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Meta, MetaError};

/// Why the database cannot be relied on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PingError {
    /// It does not answer.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// Its file is another now, or none.
    #[error(
        "{0}: was taken away or replaced while it was open: what is written from then on is lost when this process ends"
    )]
    Replaced(PathBuf),
}

/// The file of a database, as it was when it was opened.
#[derive(Debug)]
pub(super) struct OpenFile {
    path: PathBuf,
    is: (u64, u64),
}

impl OpenFile {
    /// The file of this name.
    pub(super) fn of(path: &Path) -> io::Result<OpenFile> {
        let metadata = std::fs::metadata(path)?;
        Ok(OpenFile { path: path.to_owned(), is: (metadata.dev(), metadata.ino()) })
    }

    async fn is_there(&self) -> bool {
        let found = tokio::fs::metadata(&self.path).await;
        found.is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.is)
    }
}

impl Meta {
    /// Asks for nothing, over a connection like all others.
    pub(crate) async fn ping(&self) -> Result<(), PingError> {
        self.connections.ping().await.map_err(MetaError::from)?;
        match &self.file {
            Some(file) if !file.is_there().await => Err(PingError::Replaced(file.path.clone())),
            _ => Ok(()),
        }
    }
}

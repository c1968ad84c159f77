//! The files that a listener's TLS is made of, read whole.
//!
//! Invariant: what is checked is what is used: files are read once, and everything is made from those bytes. So a file
//! that changes in the middle is seen with the next look and not half.

use std::io::Read;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use pierhead_config::Tls;

use super::TlsError;

/// Largest file.
const FILE_LIMIT: u64 = 1024 * 1024;

/// Most certificates of a directory.
const DIRECTORY_LIMIT: usize = 4096;

/// A file and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
}

/// A certificate chain and its key; the key may be in the same file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) cert: File,
    pub(crate) key: Option<File>,
}

/// All files of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Material {
    /// Those that are named first, then those of the directory in the order of their names.
    pub(crate) pairs: Vec<Pair>,
    /// Of mutual TLS.
    pub(crate) client_ca: Option<File>,
}

impl Material {
    /// Reads them.
    pub(crate) fn read(settings: &Tls) -> Result<Material, TlsError> {
        let mut pairs = Vec::new();
        for files in &settings.certificates {
            pairs.push(Pair { cert: File::read(&files.cert)?, key: Some(File::read(&files.key)?) });
        }
        if let Some(directory) = &settings.directory {
            for cert in certificates_in(directory)? {
                let key = match File::read(&cert.with_extension("key")) {
                    Ok(key) => Some(key),
                    Err(TlsError::File { kind: Some(std::io::ErrorKind::NotFound), .. }) => None,
                    Err(error) => return Err(error),
                };
                pairs.push(Pair { cert: File::read(&cert)?, key });
            }
        }
        let client_ca = settings.client_ca.as_ref().map(|authority| File::read(&authority.file)).transpose()?;
        Ok(Material { pairs, client_ca })
    }
}

impl File {
    pub(crate) fn read(path: &Path) -> Result<File, TlsError> {
        let read = || {
            let mut bytes = Vec::new();
            std::fs::File::open(path)?.take(FILE_LIMIT + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|error| TlsError::unreadable(path, &error))?;
        match bytes.len() as u64 {
            0..=FILE_LIMIT => Ok(File { path: path.to_owned(), bytes }),
            _ => Err(TlsError::file(path, "is too large")),
        }
    }

    /// What tells its contents from others.
    pub(crate) fn digest(&self) -> digest::Digest {
        digest::digest(&digest::SHA256, &self.bytes)
    }
}

/// What looks like a certificate: `NAME.crt`, `NAME.pem`, by name. Links are followed, which is how others replace many
/// at once.
fn certificates_in(directory: &Path) -> Result<Vec<PathBuf>, TlsError> {
    let unreadable = |error| TlsError::unreadable(directory, &error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let named = path.extension().is_some_and(|extension| extension == "crt" || extension == "pem");
        if named && !hidden && path.is_file() {
            found.push(path);
        }
    }
    if found.len() > DIRECTORY_LIMIT {
        return Err(TlsError::file(directory, "holds too many certificates"));
    }
    found.sort();
    Ok(found)
}

//! TLS that ends at a listener: its certificates, how they are replaced, and what is told of them.
//!
//! Invariants: what is served was checked whole: files were readable, chains parse, keys match. A set that is broken
//! changes nothing; the one before serves on. Replacing certificates ends no connection, and sessions go on across it
//! ([`policy`]).
//!
//! The configuration is our own because Pingora's settings fix the versions, keep 256 sessions, and panic on a bad
//! certificate.

mod certificate;
mod choice;
mod expiry;
#[cfg(test)]
mod handshakes;
mod material;
mod policy;
#[cfg(test)]
mod tests;
mod watch;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use pierhead_config::Tls;
use rustls::ServerConfig;

use self::certificate::Usable;
pub(crate) use self::certificate::{Certificate, subject};
use self::material::Material;
use self::policy::Sessions;
pub(crate) use self::watch::Watch;

/// Why a listener's TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file is unreadable, or not the PEM it should be.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
        /// Where the system says so.
        kind: Option<io::ErrorKind>,
    },
    /// The key is not the certificate's.
    #[error("{key}: is not the key of {cert}: {source}")]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What the library says.
        source: rustls::Error,
    },
    /// It is a key, and of no kind that can be used.
    #[error(
        "{key}: cannot be used; a key must be RSA of at least 2048 bits, ECDSA (P-256, P-384, P-521) or Ed25519: {source}"
    )]
    Key {
        /// The key's file.
        key: PathBuf,
        /// What the library says.
        source: rustls::Error,
    },
    /// Clients would not believe it, and they believe the one in use.
    #[error("{path}: {doubt}: the one in use stays, for {left} more days")]
    Worse {
        /// The new certificate's file.
        path: PathBuf,
        /// What is wrong with it.
        doubt: String,
        /// How long the one in use is still valid.
        left: i64,
    },
    /// A directory without any, and none beside it.
    #[error("{0}: holds no certificate with a key")]
    Empty(PathBuf),
    /// The library refuses.
    #[error("tls: {0}")]
    Rustls(#[from] rustls::Error),
}

impl TlsError {
    fn file(path: &Path, reason: &str) -> TlsError {
        TlsError::File { path: path.to_owned(), reason: reason.to_owned(), kind: None }
    }

    fn unreadable(path: &Path, error: &io::Error) -> TlsError {
        TlsError::File { path: path.to_owned(), reason: error.to_string(), kind: Some(error.kind()) }
    }
}

/// TLS of one listener.
pub(crate) struct Termination {
    settings: Tls,
    current: ArcSwap<Loaded>,
    /// Why the files as they are now cannot be used; nothing where they are in use.
    refused: ArcSwapOption<String>,
}

/// What was made of the files at one time.
struct Loaded {
    material: Material,
    config: Arc<ServerConfig>,
    sessions: Sessions,
    certificates: Arc<[Certificate]>,
}

impl Termination {
    /// Reads and checks everything. Sessions of the one before, whose place this takes, go on.
    pub(crate) fn new(settings: &Tls, before: Option<&Termination>) -> Result<Termination, TlsError> {
        let before = before.map(|before| before.current.load_full());
        let loaded = Loaded::new(settings, Material::read(settings)?, before.as_deref())?;
        let current = ArcSwap::from_pointee(loaded);
        Ok(Termination { settings: settings.clone(), current, refused: ArcSwapOption::empty() })
    }

    /// For the next connection.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().config)
    }

    /// What is served just now, the default first.
    pub(crate) fn certificates(&self) -> Arc<[Certificate]> {
        Arc::clone(&self.current.load().certificates)
    }

    /// Why the newest files were refused, while the ones before serve on.
    pub(crate) fn refused(&self) -> Option<String> {
        self.refused.load().as_deref().cloned()
    }

    /// Looks at the files again; whether anything is new. An error changes nothing.
    fn renew(&self) -> Result<bool, TlsError> {
        let material = Material::read(&self.settings)?;
        let before = self.current.load_full();
        if material == before.material {
            return Ok(false);
        }
        self.current.store(Arc::new(Loaded::new(&self.settings, material, Some(&before))?));
        Ok(true)
    }
}

impl Loaded {
    fn new(settings: &Tls, material: Material, before: Option<&Loaded>) -> Result<Loaded, TlsError> {
        let provider = policy::provider();
        let mut certificates = Vec::with_capacity(material.pairs.len());
        for pair in &material.pairs {
            certificates.extend(Usable::new(pair, &provider)?);
        }
        if certificates.is_empty() {
            return Err(TlsError::Empty(settings.directory.clone().unwrap_or_default()));
        }
        let sessions = before.map(|before| &before.sessions);
        let (config, sessions) = policy::server_config(settings, &material, &certificates, sessions)?;
        let certificates: Arc<[_]> = certificates.into_iter().map(|certificate| certificate.about).collect();
        if let Some(before) = before {
            refuse_worse(&before.certificates, &certificates, expiry::seconds(SystemTime::now()))?;
        }
        Ok(Loaded { material, config, sessions, certificates })
    }
}

/// No certificate takes the place of one that clients believe while they do not believe it itself. Where none is believed,
/// nothing is better without the new one: some clients do not look.
fn refuse_worse(before: &[Certificate], after: &[Certificate], now: i64) -> Result<(), TlsError> {
    let is_replaced = |new: &Certificate, old: &Certificate| {
        old.file == new.file || old.names.iter().any(|name| new.names.contains(name))
    };
    for new in after.iter().filter(|new| !expiry::is_valid(new, now)) {
        let old = before.iter().find(|old| expiry::is_valid(old, now) && is_replaced(new, old));
        let still = after.iter().any(|other| expiry::is_valid(other, now) && is_replaced(new, other));
        if let (Some(old), false, Some(doubt)) = (old, still, expiry::doubt(new, now)) {
            let until = old.not_after;
            return Err(TlsError::Worse {
                path: new.file.clone(),
                doubt,
                left: until.saturating_sub(now) / (24 * 3600),
            });
        }
    }
    Ok(())
}

/// Doubts about the time of a client certificate that this edge shows to servers.
pub(crate) fn client_certificate_doubt(path: &Path, now: SystemTime) -> Option<String> {
    let certificate = certificate::describe_file(path).ok()?;
    let doubt = expiry::doubt(&certificate, expiry::seconds(now))?;
    Some(format!("{}: {doubt}", path.display()))
}

/// Whether the configuration of a listener could be built.
/// What works all the same, and will not please clients, is returned.
pub(crate) fn check(settings: &Tls, now: SystemTime) -> Result<Vec<String>, TlsError> {
    let (termination, now) = (Termination::new(settings, None)?, expiry::seconds(now));
    let doubts = termination.certificates();
    let doubts = doubts.iter().filter_map(|one| Some(format!("{}: {}", one.file.display(), expiry::doubt(one, now)?)));
    Ok(doubts.collect())
}

//! HTTPS: a certificate and its key, read at the start and again when told to.
//!
//! Invariant: what is shown works: a pair that cannot be used never takes the place of one that can.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use pierhead_config::CertificateFiles;
use rustls::ServerConfig;
use rustls_pki_types::pem::{Error as PemError, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// What is spoken in TLS, the best first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why a pair cannot be used: the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// No PEM of the kind in it, or no file.
    #[error("{0}: {1}")]
    File(PathBuf, PemError),
    /// The file has no certificate.
    #[error("{0}: holds no certificate")]
    Empty(PathBuf),
    /// The two are no pair.
    #[error("{0} and {1}: {2}")]
    Pair(PathBuf, PathBuf, rustls::Error),
}

/// What clients are shown.
pub(crate) struct Tls {
    files: CertificateFiles,
    current: ArcSwap<ServerConfig>,
}

impl Tls {
    /// Reads the files.
    pub(crate) fn new(files: &CertificateFiles) -> Result<Tls, TlsError> {
        Ok(Tls { files: files.clone(), current: ArcSwap::new(Arc::new(read(files)?)) })
    }

    /// Reads them again; after an error the pair before stays.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        self.current.store(Arc::new(read(&self.files)?));
        Ok(())
    }

    /// For the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }
}

fn read(files: &CertificateFiles) -> Result<ServerConfig, TlsError> {
    let of = |path: &Path| {
        let path = path.to_owned();
        move |error| TlsError::File(path, error)
    };
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(of(&files.cert))?;
    if chain.is_empty() {
        return Err(TlsError::Empty(files.cert.clone()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(of(&files.key))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| TlsError::Pair(files.cert.clone(), files.key.clone(), error))?;
    config.alpn_protocols = PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

//! HTTPS: a certificate and its key, read at the start and again when told to.
//!
//! Invariant: what is shown works: a pair that cannot be used never takes the place of one that can.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use pierhead_config::CertificateFiles;
use rustls::ServerConfig;
use rustls_pki_types::pem::{Error as PemError, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

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
    /// The two are no pair, or the key is of no kind that can be used: RSA of less than 2048 bits.
    #[error(
        "{0} and {1}: {2}; a key must be RSA of at least 2048 bits, ECDSA (P-256, P-384, P-521) or Ed25519, and the certificate's"
    )]
    Pair(PathBuf, PathBuf, rustls::Error),
}

/// Why clients will not believe a certificate that works. It is served nevertheless: some do not look, and nothing is better without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Doubt {
    /// No longer.
    #[error("the certificate has expired")]
    Expired,
    /// Not yet.
    #[error("the certificate is not yet valid")]
    NotYet,
}

/// What clients are shown.
pub(crate) struct Tls {
    files: ArcSwap<CertificateFiles>,
    current: ArcSwap<Pair>,
}

struct Pair {
    config: Arc<ServerConfig>,
    valid: Validity,
}

/// From when to when, in seconds since the epoch.
#[derive(Clone, Copy, Debug)]
struct Validity {
    from: i64,
    to: i64,
}

impl Validity {
    /// What stands in a certificate. One in which nothing of it can be read is for clients to judge.
    fn of(der: &[u8]) -> Validity {
        match X509Certificate::from_der(der) {
            Ok((_, parsed)) => {
                let validity = parsed.validity();
                Validity { from: validity.not_before.timestamp(), to: validity.not_after.timestamp() }
            }
            Err(_) => Validity { from: i64::MIN, to: i64::MAX },
        }
    }

    fn doubt(self, now: i64) -> Option<Doubt> {
        if self.to < now {
            Some(Doubt::Expired)
        } else if self.from > now {
            Some(Doubt::NotYet)
        } else {
            None
        }
    }
}

impl Tls {
    /// Reads the files.
    pub(crate) fn new(files: &CertificateFiles) -> Result<Tls, TlsError> {
        Ok(Tls { files: ArcSwap::from_pointee(files.clone()), current: ArcSwap::from_pointee(read(files)?) })
    }

    /// Reads them again, or others; after an error the pair before stays.
    pub(crate) fn reload(&self, files: &CertificateFiles) -> Result<(), TlsError> {
        self.current.store(Arc::new(read(files)?));
        self.files.store(Arc::new(files.clone()));
        Ok(())
    }

    /// For the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.load().config))
    }

    /// Whether clients will believe it at this time; its file, and why not.
    pub(crate) fn doubt(&self, now: SystemTime) -> Option<(PathBuf, Doubt)> {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let doubt = self.current.load().valid.doubt(i64::try_from(now).unwrap_or(i64::MAX))?;
        Some((self.files.load().cert.clone(), doubt))
    }
}

fn read(files: &CertificateFiles) -> Result<Pair, TlsError> {
    let of = |path: &Path| {
        let path = path.to_owned();
        move |error| TlsError::File(path, error)
    };
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(of(&files.cert))?;
    let Some(own) = chain.first() else { return Err(TlsError::Empty(files.cert.clone())) };
    let valid = Validity::of(own);
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(of(&files.key))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| TlsError::Pair(files.cert.clone(), files.key.clone(), error))?;
    config.alpn_protocols = PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Pair { config: Arc::new(config), valid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_has_its_time() {
        let valid = Validity { from: 100, to: 200 };
        for (now, expected) in [(99, Some(Doubt::NotYet)), (100, None), (200, None), (201, Some(Doubt::Expired))] {
            assert_eq!(valid.doubt(now), expected, "{now}");
        }
        assert_eq!(Validity::of(b"nothing that can be read").doubt(0), None);
    }
}

//! One certificate with its key, and what is to be told of it.
//!
//! Invariant: what is made here works: the chain parses, and the key is the certificate's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use pierhead_registry::tls;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem};
use webpki::EndEntityCert;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::TlsError;
use super::material::{File, Pair};

/// What is told of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Certificate {
    /// The file.
    pub(crate) file: PathBuf,
    /// The hosts that it is for.
    pub(crate) names: Vec<String>,
    /// Who it is for, and who says so.
    pub(crate) subject: String,
    /// See there.
    pub(crate) issuer: String,
    /// As the authority counts, hexadecimal.
    pub(crate) serial: String,
    /// Of the whole certificate, SHA-256, hexadecimal.
    pub(crate) fingerprint: String,
    /// Seconds since 1970.
    pub(crate) not_before: i64,
    /// Seconds since 1970.
    pub(crate) not_after: i64,
}

/// A certificate that can be shown.
#[derive(Clone, Debug)]
pub(crate) struct Usable {
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) about: Certificate,
}

impl Usable {
    /// Makes one from its files. `None`: a certificate of a directory that has no key, such as that of an authority.
    pub(crate) fn new(pair: &Pair, provider: &CryptoProvider) -> Result<Option<Usable>, TlsError> {
        let chain = chain(&pair.cert)?;
        let Some(first) = chain.first() else {
            return Err(TlsError::file(&pair.cert.path, "holds no certificate"));
        };
        let about = describe(&pair.cert.path, first)?;
        let key_file = pair.key.as_ref().unwrap_or(&pair.cert);
        let key = match PrivateKeyDer::from_pem_slice(&key_file.bytes) {
            Ok(key) => key,
            Err(pem::Error::NoItemsFound) if pair.key.is_none() => return Ok(None),
            Err(error) => return Err(unusable(key_file, &error, "holds no private key")),
        };
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|source| {
            let (cert, key) = (pair.cert.path.clone(), key_file.path.clone());
            match source {
                rustls::Error::InconsistentKeys(_) => TlsError::Mismatch { cert, key, source },
                source => TlsError::Key { key, source },
            }
        })?;
        Ok(Some(Usable { key: Arc::new(key), about }))
    }
}

/// Facts of the first certificate of a file.
pub(crate) fn describe_file(path: &Path) -> Result<Certificate, TlsError> {
    let file = File::read(path)?;
    match chain(&file)?.first() {
        Some(first) => describe(path, first),
        None => Err(TlsError::file(path, "holds no certificate")),
    }
}

/// The certificates of a file.
pub(crate) fn chain(file: &File) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(&file.bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(file, &error, "holds no certificate"))
}

/// Whom a certificate is for, as operators see it; `None`: it cannot be read.
pub(crate) fn subject(der: &[u8]) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    Some(parsed.subject().to_string())
}

fn unusable(file: &File, error: &pem::Error, absent: &str) -> TlsError {
    match error {
        pem::Error::NoItemsFound => TlsError::file(&file.path, absent),
        other => TlsError::file(&file.path, &format!("not PEM: {other}")),
    }
}

fn describe(path: &Path, der: &CertificateDer<'static>) -> Result<Certificate, TlsError> {
    let broken = |reason: &dyn std::fmt::Display| TlsError::file(path, &format!("not a usable certificate: {reason}"));
    let usable = EndEntityCert::try_from(der).map_err(|error| broken(&tls::certificate(&error)))?;
    let (_, parsed) = X509Certificate::from_der(der).map_err(|error| broken(&error))?;
    let mut names: Vec<String> = usable.valid_dns_names().map(str::to_ascii_lowercase).collect();
    if names.is_empty() {
        // Old ones have their host there only.
        let common = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        names.extend(common.map(str::to_ascii_lowercase));
    }
    Ok(Certificate {
        file: path.to_owned(),
        names,
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        serial: parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        fingerprint: digest::digest(&digest::SHA256, der).as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
    })
}

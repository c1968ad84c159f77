//! TLS of a listener: certificates, the choice among them by SNI, protocol versions, resumption.
//!
//! Invariant: what is built here works: files were readable, keys match their certificates. The configuration is our
//! own because Pingora's settings fix the versions, keep 256 sessions, and panic on a bad certificate.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pierhead_config::{CertificateFiles, Tls, TlsVersion};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::server::{ClientHello, ResolvesServerCert, ServerSessionMemoryCache};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use webpki::EndEntityCert;

/// Sessions of TLS 1.2 clients that do not take tickets.
const SESSIONS: usize = 10_000;

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
    /// The library refuses.
    #[error("tls: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Builds the configuration of a listener.
pub(crate) fn server_config(settings: &Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(default_provider());
    let versions: &[_] = match settings.min_version {
        TlsVersion::Tls12 => &[&TLS13, &TLS12],
        TlsVersion::Tls13 => &[&TLS13],
    };
    let certificates = Certificates::load(&settings.certificates, &provider)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    config.ticketer = Ticketer::new()?;
    Ok(Arc::new(config))
}

/// Whether the configuration of a listener could be built.
pub(crate) fn check(settings: &Tls) -> Result<(), TlsError> {
    server_config(settings).map(drop)
}

/// The certificates of a listener.
#[derive(Debug)]
struct Certificates {
    keys: Vec<Arc<CertifiedKey>>,
    names: Names,
}

impl Certificates {
    fn load(files: &[CertificateFiles], provider: &CryptoProvider) -> Result<Certificates, TlsError> {
        let mut certificates = Certificates { keys: Vec::new(), names: Names::default() };
        for pair in files {
            let chain = read_chain(&pair.cert)?;
            certificates.names.add(&subject_names(&pair.cert, &chain)?, certificates.keys.len());
            let key = PrivateKeyDer::from_pem_file(&pair.key).map_err(|error| unusable(&pair.key, error))?;
            let key = CertifiedKey::from_der(chain, key, provider).map_err(|source| TlsError::Mismatch {
                cert: pair.cert.clone(),
                key: pair.key.clone(),
                source,
            })?;
            certificates.keys.push(Arc::new(key));
        }
        Ok(certificates)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.keys.get(self.names.choose(hello.server_name())).cloned()
    }
}

/// Which certificate speaks for which name. Pure.
#[derive(Debug, Default)]
struct Names {
    exact: HashMap<String, usize>,
    /// By what stands after `*.`.
    wildcard: HashMap<String, usize>,
}

impl Names {
    /// Where several certificates name the same host, the first keeps it.
    fn add(&mut self, names: &[String], certificate: usize) {
        for name in names {
            let name = name.to_ascii_lowercase();
            match name.strip_prefix("*.") {
                Some(parent) => self.wildcard.entry(parent.to_owned()).or_insert(certificate),
                None => self.exact.entry(name).or_insert(certificate),
            };
        }
    }

    /// The certificate for a name: one that names it, else one whose wildcard covers it, else the first. A client that
    /// named somebody else is not refused: it may check by fingerprint or not at all, and else it says so itself.
    fn choose(&self, server_name: Option<&str>) -> usize {
        let Some(name) = server_name.map(str::to_ascii_lowercase) else { return 0 };
        let covered = || name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
        self.exact.get(&name).or_else(covered).copied().unwrap_or_default()
    }
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| unusable(path, error))?;
    if chain.is_empty() {
        return Err(TlsError::File { path: path.to_owned(), reason: "holds no certificate".to_owned() });
    }
    Ok(chain)
}

/// The host names of the first certificate of a chain.
fn subject_names(path: &Path, chain: &[CertificateDer<'static>]) -> Result<Vec<String>, TlsError> {
    let Some(first) = chain.first() else { return Ok(Vec::new()) };
    let certificate = EndEntityCert::try_from(first).map_err(|error| TlsError::File {
        path: path.to_owned(),
        reason: format!("not a usable certificate: {error}"),
    })?;
    Ok(certificate.valid_dns_names().map(str::to_owned).collect())
}

fn unusable(path: &Path, error: rustls_pki_types::pem::Error) -> TlsError {
    let reason = match error {
        rustls_pki_types::pem::Error::NoItemsFound => "holds no private key".to_owned(),
        rustls_pki_types::pem::Error::Io(error) => error.to_string(),
        other => format!("not PEM: {other}"),
    };
    TlsError::File { path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use rcgen::generate_simple_self_signed;

    use super::*;

    #[test]
    fn names_choose_the_certificate() {
        let mut names = Names::default();
        names.add(&["default.example".to_owned()], 0);
        names.add(&["*.example.com".to_owned(), "Upper.example.com".to_owned()], 1);
        names.add(&["exact.example.com".to_owned(), "default.example".to_owned()], 2);
        for (name, expected) in [
            (None, 0),
            (Some("default.example"), 0),
            (Some("unknown.example"), 0),
            (Some("any.example.com"), 1),
            (Some("ANY.example.com"), 1),
            (Some("upper.example.com"), 1),
            (Some("exact.example.com"), 2),
            (Some("example.com"), 0),
            (Some("two.labels.example.com"), 0),
        ] {
            assert_eq!(names.choose(name), expected, "{name:?}");
        }
    }

    fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn pair(folder: &Path, host: &str) -> CertificateFiles {
        let made = generate_simple_self_signed(vec![host.to_owned()]).unwrap();
        CertificateFiles {
            cert: write(folder, &format!("{host}.crt"), &made.cert.pem()),
            key: write(folder, &format!("{host}.key"), &made.signing_key.serialize_pem()),
        }
    }

    #[test]
    fn certificates_are_found_by_their_own_names() {
        let folder = tempfile::tempdir().unwrap();
        let files = [pair(folder.path(), "a.example"), pair(folder.path(), "*.b.example")];
        let loaded = Certificates::load(&files, &default_provider()).unwrap();
        assert_eq!(loaded.names.choose(Some("a.example")), 0);
        assert_eq!(loaded.names.choose(Some("x.b.example")), 1);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (pair(folder.path(), "one"), pair(folder.path(), "two"));
        let text = write(folder.path(), "text.pem", "not PEM at all");
        let broken =
            write(folder.path(), "broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        let absent = folder.path().join("absent.pem");
        for (cert, key, expected) in [
            (&one.cert, &two.key, format!("{}: is not the key of {}", two.key.display(), one.cert.display())),
            (&text, &one.key, format!("{}: holds no certificate", text.display())),
            (&broken, &one.key, format!("{}: not a usable certificate", broken.display())),
            (&absent, &one.key, format!("{}: No such file", absent.display())),
            (&one.cert, &text, format!("{}: holds no private key", text.display())),
            (&one.cert, &absent, format!("{}: No such file", absent.display())),
        ] {
            let files = [CertificateFiles { cert: cert.clone(), key: key.clone() }];
            let error = Certificates::load(&files, &default_provider()).unwrap_err().to_string();
            assert!(error.starts_with(&expected), "{error} instead of {expected}");
        }
    }
}

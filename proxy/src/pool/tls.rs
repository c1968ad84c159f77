//! TLS to servers: whose certificates are believed, and what is shown to them.
//!
//! Invariant: what is built here works: files were readable, the key matches its certificate, and unless a pool says
//! `verify: false` there is somebody to believe.

use std::path::Path;
use std::sync::Arc;

use pierhead_config::{CertificateFiles, Pool, ServerTls, TlsVersion};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use twox_hash::XxHash3_64;

/// What is wrong with the files that a pool names, by the section of the pool that names them.
pub(crate) fn check_tls(pool: &Pool) -> Vec<(&'static str, String)> {
    let own = pool.health.as_ref().and_then(|health| health.tls.as_ref()).filter(|tls| pool.tls.as_ref() != Some(tls));
    let sections = [("tls", pool.tls.as_ref()), ("health.tls", own)];
    let wrong = |(section, tls): (&'static str, Option<&ServerTls>)| Some((section, client_config(tls?).err()?));
    sections.into_iter().filter_map(wrong).collect()
}

/// The configuration of a pool's connections; the text says what is wrong with it.
pub(crate) fn client_config(settings: &ServerTls) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(default_provider());
    let versions: &[_] = match settings.min_version {
        TlsVersion::Tls12 => &[&TLS13, &TLS12],
        TlsVersion::Tls13 => &[&TLS13],
    };
    let verifier: Arc<dyn ServerCertVerifier> = if settings.verify {
        let roots = Arc::new(roots(settings.ca.as_deref())?);
        WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| format!("no certificate authority to verify servers with: {error}"))?
    } else {
        Arc::new(Unverified(Arc::clone(&provider)))
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match &settings.client_certificate {
        None => builder.with_no_client_auth(),
        Some(CertificateFiles { cert, key }) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| format!("{}: {error}", key.display()))?;
            builder
                .with_client_auth_cert(certificates(cert)?, private)
                .map_err(|error| format!("{}: {error}", key.display()))?
        }
    };
    Ok(Arc::new(config))
}

/// A number that is another when the content of a file that a pool's TLS is made from is.
pub(super) fn fingerprint(settings: &Pool) -> u64 {
    let health = settings.health.as_ref().and_then(|health| health.tls.as_ref());
    let files = settings.tls.iter().chain(health).flat_map(|tls| {
        let pair = tls.client_certificate.iter().flat_map(|pair| [&pair.cert, &pair.key]);
        tls.ca.iter().chain(pair)
    });
    // One that cannot be read is found out when it is used.
    files.fold(0, |before, file| XxHash3_64::oneshot_with_seed(before, &std::fs::read(file).unwrap_or_default()))
}

/// The system's authorities and the pool's own.
fn roots(own: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    // Old systems have some that the library cannot use; those that it can are enough.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = own {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    if found.is_empty() { Err(format!("{}: holds no certificate", path.display())) } else { Ok(found) }
}

/// Believes any certificate (`verify: false`), and still wants to see that the server has its key.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

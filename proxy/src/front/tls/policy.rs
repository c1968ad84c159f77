//! What of TLS a listener speaks: versions, suites, whose certificates it wants to see, which sessions it takes up again.
//!
//! Invariant: a session is only taken up by who would let its client in anew. Sessions remember the client's certificate,
//! so they end when those who may have issued it change; and no two listeners share any.

use std::sync::Arc;

use pierhead_config::{Ciphers, Tls, TlsVersion};
use pierhead_registry::tls;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::server::{
    NoClientAuth, ProducesTickets, ServerSessionMemoryCache, StoresServerSessions, WebPkiClientVerifier,
    danger::ClientCertVerifier,
};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::TlsError;
use super::certificate::{Usable, chain};
use super::choice::Choice;
use super::material::{File, Material};

/// Sessions of TLS 1.2 clients that do not take tickets.
const SESSIONS: usize = 10_000;

/// Sessions that may be taken up again.
#[derive(Clone, Debug)]
pub(crate) struct Sessions {
    storage: Arc<dyn StoresServerSessions>,
    ticketer: Arc<dyn ProducesTickets>,
    /// Who may issue the certificates of clients, and whether there must be one.
    authority: Option<(bool, Vec<u8>)>,
}

impl Sessions {
    /// Those of before, if their clients would be let in again.
    fn new(settings: &Tls, material: &Material, before: Option<&Sessions>) -> Result<Sessions, TlsError> {
        let required = settings.client_ca.as_ref().is_some_and(|authority| authority.required);
        let authority = material.client_ca.as_ref().map(|file| (required, file.digest().as_ref().to_vec()));
        match before {
            Some(before) if before.authority == authority => Ok(before.clone()),
            _ => {
                Ok(Sessions { storage: ServerSessionMemoryCache::new(SESSIONS), ticketer: Ticketer::new()?, authority })
            }
        }
    }
}

/// Builds the configuration, and the sessions that it shares with the next.
pub(crate) fn server_config(
    settings: &Tls,
    material: &Material,
    certificates: &[Usable],
    before: Option<&Sessions>,
) -> Result<(Arc<ServerConfig>, Sessions), TlsError> {
    let provider = Arc::new(provider());
    let sessions = Sessions::new(settings, material, before)?;
    let verifier = match &material.client_ca {
        Some(file) => client_verifier(settings, file, &provider)?,
        None => Arc::new(NoClientAuth),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(settings))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(Choice::new(certificates, settings.strict_sni)));
    // Ours, so that what is negotiated does not depend on how careless a client is.
    config.ignore_client_order = true;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::clone(&sessions.storage);
    config.ticketer = Arc::clone(&sessions.ticketer);
    Ok((Arc::new(config), sessions))
}

/// The provider of everything here, with its suites in the order of Mozilla's lists: strong enough and fast, first.
pub(crate) fn provider() -> CryptoProvider {
    let mut provider = default_provider();
    provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => 0,
        CipherSuite::TLS13_AES_256_GCM_SHA384 => 1,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => 2,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => 3,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 4,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => 5,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => 6,
        _ => 7,
    });
    provider
}

/// The library's suites of TLS 1.2 are those of Mozilla's intermediate list: forward secret, authenticated, no CBC.
fn versions(settings: &Tls) -> &'static [&'static SupportedProtocolVersion] {
    const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
    match (settings.ciphers, settings.min_version) {
        (Ciphers::Intermediate, TlsVersion::Tls12) => BOTH,
        (Ciphers::Modern, _) | (_, TlsVersion::Tls13) => &BOTH[..1],
    }
}

fn client_verifier(
    settings: &Tls,
    file: &File,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(file)? {
        webpki::anchor_from_trusted_cert(&certificate)
            .map_err(|error| TlsError::file(&file.path, &tls::certificate(&error)))?;
        roots.add(certificate).map_err(|error| TlsError::file(&file.path, &error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let required = settings.client_ca.as_ref().is_some_and(|authority| authority.required);
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| TlsError::file(&file.path, &error.to_string()))
}

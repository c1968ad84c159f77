//! Handshakes with a client of the same library, without a network.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use pierhead_config::{CertificateFiles, Ciphers, ClientAuthority, TlsVersion};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, RootCertStore, ServerConnection,
    SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::Termination;
use super::certificate::chain;
use super::policy::provider;
use super::tests::{pair, settings, write};

/// A certificate that a client shows, and its key.
type Shown = (CertificateDer<'static>, PrivateKeyDer<'static>);

/// What came of a handshake.
#[derive(Debug)]
struct Shaken {
    kind: HandshakeKind,
    suite: CipherSuite,
    /// Whom the server knows the client as.
    client: bool,
    certificate: Vec<u8>,
}

fn shake(config: &Arc<ClientConfig>, name: &str, termination: &Termination) -> Result<Shaken, rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut server = ServerConnection::new(termination.config()).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() || server.wants_write() {
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        while !bytes.is_empty() {
            let read = server.read_tls(&mut bytes.as_slice()).unwrap();
            bytes.drain(..read);
            server.process_new_packets()?;
        }
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        while !bytes.is_empty() {
            let read = client.read_tls(&mut bytes.as_slice()).unwrap();
            bytes.drain(..read);
            client.process_new_packets()?;
        }
    }
    Ok(Shaken {
        kind: server.handshake_kind().unwrap(),
        suite: server.negotiated_cipher_suite().unwrap().suite(),
        client: server.peer_certificates().is_some(),
        certificate: client.peer_certificates().unwrap()[0].to_vec(),
    })
}

/// Believes what is served, and shows what it is given.
fn client(
    termination: &Termination,
    versions: &[&'static SupportedProtocolVersion],
    shown: Option<Shown>,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for pair in &termination.current.load().material.pairs {
        for certificate in chain(&pair.cert).unwrap() {
            roots.add(certificate).unwrap();
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shown {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::in_memory_sessions(8);
    Arc::new(config)
}

/// An authority in a file, and a certificate of it.
fn authority(folder: &Path, name: &str) -> (PathBuf, Shown) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["client".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let file = write(folder, &format!("{name}.pem"), &issuer.pem());
    (file, (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap()))
}

fn again(shown: &Shown) -> Option<Shown> {
    Some((shown.0.clone(), shown.1.clone_key()))
}

#[test]
fn sessions_go_on_with_new_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let both = [pair(folder.path(), "one.example"), pair(folder.path(), "two.example")];
    let settings = settings(both.to_vec(), None);
    for version in [&TLS12, &TLS13] {
        let termination = Termination::new(&settings, None).unwrap();
        let config = client(&termination, &[version], None);
        let first = shake(&config, "one.example", &termination).unwrap();
        assert_eq!(first.kind, HandshakeKind::Full, "{version:?}");
        pair(folder.path(), "one.example");
        assert!(termination.renew().unwrap());
        let resumed = shake(&config, "one.example", &termination).unwrap();
        assert_eq!(resumed.kind, HandshakeKind::Resumed, "{version:?}");
        let reloaded = Termination::new(&settings, Some(&termination)).unwrap();
        assert_eq!(shake(&config, "one.example", &reloaded).unwrap().kind, HandshakeKind::Resumed, "{version:?}");
        let elsewhere = Termination::new(&settings, None).unwrap();
        let config = client(&elsewhere, &[version], None);
        let renewed = shake(&config, "one.example", &elsewhere).unwrap();
        assert_eq!(renewed.kind, HandshakeKind::Full, "no other listener's sessions");
        assert_ne!(renewed.certificate, first.certificate);
    }
}

#[test]
fn who_shows_a_certificate_must_show_one_of_the_right_authority() {
    let folder = tempfile::tempdir().unwrap();
    let (file, good) = authority(folder.path(), "good");
    let (_, bad) = authority(folder.path(), "bad");
    for version in [&TLS12, &TLS13] {
        for (required, shown, accepted) in [
            (true, None, false),
            (true, again(&good), true),
            (true, again(&bad), false),
            (false, None, true),
            (false, again(&good), true),
            (false, again(&bad), false),
        ] {
            let mut settings = settings(vec![pair(folder.path(), "a.example")], None);
            settings.client_ca = Some(ClientAuthority { file: file.clone(), required });
            let termination = Termination::new(&settings, None).unwrap();
            let showing = shown.is_some();
            let shaken = shake(&client(&termination, &[version], shown), "a.example", &termination);
            assert_eq!(shaken.is_ok(), accepted, "{version:?} {required} {shaken:?}");
            assert!(shaken.is_err() || shaken.unwrap().client == showing);
        }
    }
}

/// A session remembers that its client was believed. It must not be a way in for those who are believed no longer.
#[test]
fn sessions_end_when_the_authority_changes() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(vec![pair(folder.path(), "a.example")], None);
    for version in [&TLS12, &TLS13] {
        let (file, good) = authority(folder.path(), "authority");
        settings.client_ca = Some(ClientAuthority { file, required: true });
        let termination = Termination::new(&settings, None).unwrap();
        let config = client(&termination, &[version], Some(good));
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let shaken = shake(&config, "a.example", &termination).unwrap();
            assert!(shaken.client && shaken.kind == expected, "{version:?} {shaken:?}");
        }
        authority(folder.path(), "authority");
        assert!(termination.renew().unwrap());
        assert!(shake(&config, "a.example", &termination).is_err(), "{version:?}");
    }
}

/// A client that one listener let in shows its session to another, which wants another certificate of it, or any.
#[test]
fn a_session_of_one_listener_is_worth_nothing_at_another() {
    let folder = tempfile::tempdir().unwrap();
    let files = vec![pair(folder.path(), "a.example")];
    let ((one, of_one), (two, _)) = (authority(folder.path(), "one"), authority(folder.path(), "two"));
    let wants = |file: Option<&PathBuf>| {
        let mut settings = settings(files.clone(), None);
        settings.client_ca = file.map(|file| ClientAuthority { file: file.clone(), required: true });
        Termination::new(&settings, None).unwrap()
    };
    for version in [&TLS12, &TLS13] {
        for (first, shown) in [(None, None), (Some(&one), again(&of_one))] {
            let (first, second) = (wants(first), wants(Some(&two)));
            let config = client(&first, &[version], shown);
            assert_eq!(shake(&config, "a.example", &first).unwrap().kind, HandshakeKind::Full, "{version:?}");
            assert_eq!(shake(&config, "a.example", &first).unwrap().kind, HandshakeKind::Resumed, "{version:?}");
            assert!(shake(&config, "a.example", &second).is_err(), "{version:?}");
        }
    }
}

#[test]
fn names_are_wanted_where_they_are_strict() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(vec![pair(folder.path(), "*.a.example"), pair(folder.path(), "b.example")], None);
    for strict in [false, true] {
        settings.strict_sni = strict;
        let termination = Termination::new(&settings, None).unwrap();
        let config = client(&termination, &[&TLS13], None);
        for (name, right) in [("x.a.example", true), ("b.example", true), ("c.example", false), ("192.0.2.1", false)] {
            let error = shake(&config, name, &termination).err().map(|error| error.to_string());
            // Where it is not strict, it is the client who refuses what it gets.
            let refused = error.as_ref().is_some_and(|error| error.contains("no server certificate chain resolved"));
            assert_eq!(error.is_none(), right, "{strict} {name} {error:?}");
            assert_eq!(refused, strict && !right, "{strict} {name} {error:?}");
        }
    }
}

#[test]
fn versions_are_those_of_the_policy() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(vec![pair(folder.path(), "a.example")], None);
    for (min_version, ciphers, tls12) in [
        (TlsVersion::Tls12, Ciphers::Intermediate, true),
        (TlsVersion::Tls13, Ciphers::Intermediate, false),
        (TlsVersion::Tls12, Ciphers::Modern, false),
    ] {
        (settings.min_version, settings.ciphers) = (min_version, ciphers);
        let termination = Termination::new(&settings, None).unwrap();
        assert!(shake(&client(&termination, &[&TLS13], None), "a.example", &termination).is_ok());
        let old = shake(&client(&termination, &[&TLS12], None), "a.example", &termination);
        assert_eq!(old.is_ok(), tls12, "{min_version:?} {ciphers:?}");
    }
}

#[test]
fn suites_are_in_our_order() {
    let folder = tempfile::tempdir().unwrap();
    let termination = Termination::new(&settings(vec![pair(folder.path(), "a.example")], None), None).unwrap();
    for (version, expected) in [
        (&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256),
        (&TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ] {
        let mut provider = provider();
        provider.cipher_suites.reverse();
        let builder =
            ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[version]).unwrap();
        let config = builder.dangerous().with_custom_certificate_verifier(Arc::new(OnlyEcdsa)).with_no_client_auth();
        assert_eq!(shake(&Arc::new(config), "a.example", &termination).unwrap().suite, expected);
    }
}

/// Clients that cannot check one kind of certificate get another for the same name.
#[test]
fn a_name_may_have_certificates_of_several_kinds() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (kind, algorithm) in [("ed25519", &rcgen::PKCS_ED25519), ("p256", &rcgen::PKCS_ECDSA_P256_SHA256)] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let made = CertificateParams::new(vec!["a.example".to_owned()]).unwrap().self_signed(&key).unwrap();
        files.push(CertificateFiles {
            cert: write(folder.path(), &format!("{kind}.crt"), &made.pem()),
            key: write(folder.path(), &format!("{kind}.key"), &key.serialize_pem()),
        });
    }
    let termination = Termination::new(&settings(files, None), None).unwrap();
    let certificates = termination.certificates();
    let mut config = Arc::unwrap_or_clone(client(&termination, &[&TLS13], None));
    let shaken = shake(&Arc::new(config.clone()), "a.example", &termination).unwrap();
    assert_eq!(fingerprint(&shaken.certificate), certificates[0].fingerprint);
    config.dangerous().set_certificate_verifier(Arc::new(OnlyEcdsa));
    let shaken = shake(&Arc::new(config), "a.example", &termination).unwrap();
    assert_eq!(fingerprint(&shaken.certificate), certificates[1].fingerprint);
}

fn fingerprint(der: &[u8]) -> String {
    digest::digest(&digest::SHA256, der).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Believes everything, as long as it is signed with ECDSA.
#[derive(Debug)]
struct OnlyEcdsa;

impl ServerCertVerifier for OnlyEcdsa {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

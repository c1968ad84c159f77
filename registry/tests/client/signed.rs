//! Targets whose spelling counts, over TLS: with the roots of the others, and with a client certificate where that belongs.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use pierhead_registry::client::ClientError;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use url::Url;

use crate::{client, digest, drain, settings, team};

/// An authority, with a certificate for this machine and one for a client.
struct Authority {
    directory: TempDir,
}

impl Authority {
    fn new() -> Authority {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        std::fs::write(directory.path().join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(params, key);
        for name in ["server", "client"] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap().pem();
            std::fs::write(directory.path().join(format!("{name}.crt")), certificate).unwrap();
            std::fs::write(directory.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Authority { directory }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// What a server was asked for, and whether with a client certificate.
type Seen = Arc<Mutex<Vec<(String, bool)>>>;

/// A server with TLS that answers each target as `script` says, and asks for a client certificate without need of one.
fn serve(authority: &Authority, script: impl Fn(&str) -> String + Send + 'static) -> (u16, Seen) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let certificates = |name: &str| -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_file_iter(authority.file(name)).unwrap().map(Result::unwrap).collect()
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates("ca.crt"));
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_client_cert_verifier(clients.allow_unauthenticated().build().unwrap());
    let key = PrivateKeyDer::from_pem_file(authority.file("server.key")).unwrap();
    let config = Arc::new(config.with_single_cert(certificates("server.crt"), key).unwrap());
    let seen = Seen::default();
    let all = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream.unwrap());
            let mut head = Vec::new();
            let mut byte = [0];
            // One that trusts another authority goes away.
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let Some(target) = head.split(' ').nth(1) else { continue };
            all.lock().unwrap().push((target.to_owned(), stream.conn.peer_certificates().is_some()));
            let _ = stream.write_all(script(target).as_bytes());
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    (port, seen)
}

fn answer(status: &str, line: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\n{line}Content-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_client_certificate_is_the_registrys_alone() {
    let authority = Authority::new();
    let (store, stored) = serve(&authority, |_| answer("200 OK", "", "1234567"));
    for (location, foreign) in [
        ("/b?q='a'".to_owned(), false),
        ("/b?q=a".to_owned(), false),
        (format!("https://127.0.0.1:{store}/b?q='a'"), true),
        (format!("https://127.0.0.1:{store}/b?q=a"), true),
    ] {
        let line = format!("Location: {location}\r\n");
        let (port, seen) = serve(&authority, move |target| match target.starts_with("/v2/") {
            true => answer("307 Temporary Redirect", &line, ""),
            false => answer("200 OK", "", "1234567"),
        });
        let mut own = settings(&[Url::parse(&format!("https://localhost:{port}")).unwrap()]);
        own.endpoints[0].ca = Some(authority.file("ca.crt"));
        own.endpoints[0].client_certificate = Some((authority.file("client.crt"), authority.file("client.key")));
        own.redirects_to =
            vec![pierhead_registry::client::RedirectTarget::Host { host: "127.0.0.1".into(), port: None }];
        let mut body = team(&client(own.clone())).get_blob(&digest(b"1234567"), 0, None, &[]).await.unwrap();
        assert_eq!(drain(&mut body).await.unwrap(), b"1234567", "{location}");
        let asked = if foreign { stored.lock().unwrap().pop() } else { seen.lock().unwrap().pop() };
        let (target, certified) = asked.unwrap();
        assert!(location.ends_with(&target), "{location} {target}");
        assert_eq!(certified, !foreign, "{location}");
        assert!(seen.lock().unwrap()[0].1, "the registry itself asks for it");

        // The roots are the endpoint's, too.
        own.endpoints[0].ca = None;
        let refused = team(&client(own)).get_blob(&digest(b"1234567"), 0, None, &[]).await;
        assert!(matches!(refused, Err(ClientError::Unavailable { .. })), "{location}");
    }
}

/// Another authority than the endpoint's is refused on the way to a target of an unusual spelling, too.
#[tokio::test]
async fn a_targets_certificate_is_checked() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (store, stored) = serve(&other, |_| answer("200 OK", "", "1234567"));
    for query in ["?q='a'", "?q=a"] {
        let line = format!("Location: https://127.0.0.1:{store}/b{query}\r\n");
        let (port, _) = serve(&authority, move |_| answer("307 Temporary Redirect", &line, ""));
        let mut own = settings(&[Url::parse(&format!("https://localhost:{port}")).unwrap()]);
        own.endpoints[0].ca = Some(authority.file("ca.crt"));
        own.redirects_to =
            vec![pierhead_registry::client::RedirectTarget::Host { host: "127.0.0.1".into(), port: None }];
        let error = team(&client(own)).get_blob(&digest(b"1234567"), 0, None, &[]).await.unwrap_err();
        assert!(matches!(&error, ClientError::Unavailable { reason, .. } if reason.contains("certificate")), "{error}");
        assert!(stored.lock().unwrap().is_empty(), "{query}");
    }
}

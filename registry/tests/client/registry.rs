//! What a real registry serves.

use std::process::Command;

use pierhead_registry::client::{BlobHead, BuildError, ClientError, ListKind};
use pierhead_registry::oci::{Reference, media_type};

use crate::real::Registry;
use crate::{as_account, client, configured, content, digest, drain, login, repository, settings, team};

#[tokio::test]
async fn blobs_whole_in_part_and_their_size() {
    let registry = Registry::plain();
    let bytes = content(1_000_000);
    let digest = registry.push_blob(&bytes, None).await;
    let repository = repository(&[registry.url("http")]);
    assert_eq!(repository.head_blob(&digest, None).await.unwrap(), BlobHead::Size(Some(1_000_000)));
    for (start, end) in
        [(0, None), (1, None), (0, Some(1)), (500_000, Some(500_010)), (999_999, None), (10, Some(9_999_999))]
    {
        let mut body = repository.get_blob(&digest, start, end, &[]).await.unwrap();
        assert_eq!((body.total(), body.start(), body.endpoint(), body.ranges()), (Some(1_000_000), start, 0, true));
        let end = end.unwrap_or(u64::MAX).min(1_000_000) as usize;
        assert!(drain(&mut body).await.unwrap() == bytes[start as usize..end], "{start}-{end}");
        assert!(body.chunk().await.unwrap().is_none());
    }
    assert!(matches!(repository.get_blob(&digest, 1_000_000, None, &[]).await, Err(ClientError::Invalid { .. })));
    assert!(matches!(repository.get_blob(&digest, 7, Some(7), &[]).await, Err(ClientError::Invalid { .. })));
}

#[tokio::test]
async fn an_empty_blob() {
    let registry = Registry::plain();
    let digest = registry.push_blob(b"", None).await;
    let repository = repository(&[registry.url("http")]);
    assert_eq!(repository.head_blob(&digest, None).await.unwrap(), BlobHead::Size(Some(0)));
    let mut body = repository.get_blob(&digest, 0, None, &[]).await.unwrap();
    assert_eq!((body.total(), drain(&mut body).await.unwrap().len()), (Some(0), 0));
}

#[tokio::test]
async fn manifests_and_tags() {
    let registry = Registry::plain();
    let config = registry.push_blob(b"{}", None).await;
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{0}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},"layers":[]}}"#,
        media_type::OCI_MANIFEST
    );
    let digest = registry.push_manifest("v1", media_type::OCI_MANIFEST, manifest.as_bytes()).await;
    let repository = repository(&[registry.url("http")]);
    for reference in ["v1".to_owned(), digest.to_string()] {
        let reference: Reference = reference.parse().unwrap();
        let info = repository.head_manifest(&reference, &[], None).await.unwrap();
        assert_eq!((info.digest(), info.size()), (digest, manifest.len() as u64));
        assert_eq!(info.media_type(), media_type::OCI_MANIFEST);
        let fetched = repository.get_manifest(&reference, &[]).await.unwrap();
        assert_eq!((fetched.digest, fetched.media_type.as_str()), (digest, media_type::OCI_MANIFEST));
        assert_eq!(fetched.bytes, manifest.as_bytes());
    }
    let tags = repository.get_list(&ListKind::Tags, Some("n=5")).await.unwrap();
    assert_eq!(tags.media_type, "application/json");
    assert_eq!(std::str::from_utf8(&tags.bytes).unwrap().trim(), r#"{"name":"team/app","tags":["v1"]}"#);
}

#[tokio::test]
async fn what_is_not_there() {
    let registry = Registry::plain();
    let repository = repository(&[registry.url("http")]);
    let missing = digest(b"missing");
    let latest = "latest".parse().unwrap();
    let is_not_found = |error: ClientError| matches!(error, ClientError::NotFound { .. });
    assert!(is_not_found(repository.head_manifest(&latest, &[], None).await.unwrap_err()));
    assert!(is_not_found(repository.get_manifest(&latest, &[]).await.unwrap_err()));
    assert!(is_not_found(repository.get_manifest(&Reference::Digest(missing), &[]).await.unwrap_err()));
    let head = repository.head_blob(&missing, None).await;
    assert!(matches!(head, Err(ClientError::Unconfirmed { status: 404, .. })), "a HEAD alone proves nothing");
    assert!(is_not_found(repository.get_blob(&missing, 0, None, &[]).await.unwrap_err()));
    assert!(is_not_found(repository.get_list(&ListKind::Tags, None).await.unwrap_err()));
}

#[tokio::test]
async fn basic_authentication() {
    let registry = Registry::start("", "auth: { htpasswd: { realm: test, path: @DIR@/users } }", |directory| {
        let users = Command::new("htpasswd").args(["-Bbn", "alice", "s3cret"]).output().unwrap().stdout;
        std::fs::write(directory.path().join("users"), users).unwrap();
    });
    let digest = registry.push_blob(b"private", Some(("alice", "s3cret"))).await;
    let anonymous = client(settings(&[registry.url("http")]));
    assert!(matches!(team(&anonymous).head_blob(&digest, None).await, Err(ClientError::Unauthorized { .. })));

    // A caller's credential counts for that caller alone.
    let name = "team/app".parse().unwrap();
    let alice = login("alice", "s3cret");
    assert_eq!(
        anonymous.repository(&name, Some(&as_account(alice.clone()))).head_blob(&digest, None).await.unwrap(),
        BlobHead::Size(Some(7))
    );
    let wrong = anonymous.repository(&name, Some(&as_account(login("alice", "guess")))).head_blob(&digest, None).await;
    assert!(matches!(wrong, Err(ClientError::Unauthorized { .. })));
    assert!(matches!(team(&anonymous).head_blob(&digest, None).await, Err(ClientError::Unauthorized { .. })));

    let mut own = settings(&[registry.url("http")]);
    own.endpoints[0].account = Some(configured(alice));
    let mut body = team(&client(own)).get_blob(&digest, 0, None, &[]).await.unwrap();
    assert_eq!(drain(&mut body).await.unwrap(), b"private");
}

#[tokio::test]
async fn tls_with_own_authority_and_client_certificate() {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let http = "  tls: { certificate: @DIR@/server.crt, key: @DIR@/server.key, clientcas: [ @DIR@/ca.crt ] }";
    let registry = Registry::start(http, "", |directory| {
        std::fs::write(directory.path().join("ca.crt"), &authority_pem).unwrap();
        for name in ["server", "client"] {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap().pem();
            std::fs::write(directory.path().join(format!("{name}.crt")), certificate).unwrap();
            std::fs::write(directory.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
    });
    let file = |name: &str| registry.directory.path().join(name);
    let missing = digest(b"missing");

    let mut whole = settings(&[registry.url("https")]);
    whole.endpoints[0].ca = Some(file("ca.crt"));
    whole.endpoints[0].client_certificate = Some((file("client.crt"), file("client.key")));
    let repository = team(&client(whole.clone()));
    assert!(matches!(repository.head_blob(&missing, None).await, Err(ClientError::Unconfirmed { .. })));
    assert!(matches!(repository.get_blob(&missing, 0, None, &[]).await, Err(ClientError::NotFound { .. })));
    // A blob has a connection of its own, everything else shares one.
    registry.logged("\"HEAD /v2/team/app/blobs/", "HTTP/2.0").await;
    registry.logged("\"GET /v2/team/app/blobs/", "HTTP/1.1").await;

    let mut nameless = whole.clone();
    nameless.endpoints[0].client_certificate = None;
    assert!(matches!(team(&client(nameless)).head_blob(&missing, None).await, Err(ClientError::Unavailable { .. })));

    let mut distrustful = whole.clone();
    distrustful.endpoints[0].ca = None;
    assert!(matches!(team(&client(distrustful)).head_blob(&missing, None).await, Err(ClientError::Unavailable { .. })));

    for path in ["absent", "config.yml"] {
        let mut broken = whole.clone();
        broken.endpoints[0].ca = Some(file(path));
        let made = pierhead_registry::client::Client::new(broken, std::sync::Arc::new(crate::Watch::default()));
        assert!(matches!(made.err(), Some(BuildError::File { path: named, .. }) if named.ends_with(path)));
    }
}

//! Manifests and lists that are not what they should be.

use std::io::Write;
use std::time::Duration;

use pierhead_registry::client::{ClientError, ListKind};
use pierhead_registry::oci::{Algorithm, Digest, Reference, media_type};

use crate::fake::{Fake, Step, answer, head};
use crate::{client, digest, repository, settings, team};

#[tokio::test]
async fn a_manifest_is_what_it_hashes_to() {
    let fake = Fake::start(|_, _| answer(200, &[], b"{}")).await;
    let repository_of = repository(&[fake.url()]);
    let wrong = Reference::Digest(digest(b"something else"));
    assert!(matches!(repository_of.get_manifest(&wrong, &[]).await, Err(ClientError::Invalid { .. })));
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let right = Digest::of(algorithm, b"{}");
        let fetched = repository_of.get_manifest(&Reference::Digest(right), &[]).await.unwrap();
        assert_eq!((fetched.digest, fetched.media_type.as_str()), (right, media_type::OCI_MANIFEST));
    }

    let liar = format!("Docker-Content-Digest: {}", digest(b"something else"));
    let fake = Fake::start(move |_, _| answer(200, &[&liar], b"{}")).await;
    let repository_of = repository(&[fake.url()]);
    let latest = "latest".parse().unwrap();
    // What a header says of the digest refuses nothing.
    for reference in [latest, Reference::Digest(digest(b"{}"))] {
        assert_eq!(repository_of.get_manifest(&reference, &[]).await.unwrap().digest, digest(b"{}"));
        assert_eq!(repository_of.head_manifest(&reference, &[], None).await.unwrap().digest(), digest(b"{}"));
    }
}

#[tokio::test]
async fn a_wrong_manifest_is_asked_for_elsewhere() {
    let liar = Fake::start(|_, _| answer(200, &[], b"[]")).await;
    let good = Fake::start(|_, _| answer(200, &["Content-Type: application/vnd.x+json; charset=utf-8"], b"{}")).await;
    let reference = Reference::Digest(digest(b"{}"));
    let fetched = repository(&[liar.url(), good.url()]).get_manifest(&reference, &[]).await.unwrap();
    assert_eq!((fetched.media_type.as_str(), &fetched.bytes[..]), ("application/vnd.x+json", &b"{}"[..]));
    assert_eq!(liar.seen().len(), 1);
}

#[tokio::test]
async fn where_head_is_not_allowed_get_is_asked() {
    let fake = Fake::start(|seen, _| match seen.method.as_str() {
        "HEAD" => vec![head(405, &[])],
        _ => answer(200, &["Content-Type: application/vnd.x+json"], b"{}"),
    })
    .await;
    let info =
        repository(&[fake.url()]).head_manifest(&"latest".parse().unwrap(), &["a/b".to_owned()], None).await.unwrap();
    assert_eq!((info.digest(), info.size()), (digest(b"{}"), 2));
    assert_eq!(info.media_type(), "application/vnd.x+json");
    assert_eq!(fake.seen()[1].header("accept"), Some("a/b"));
}

/// Where GETs are sent in the place of HEADs, a refusal of one is no more than a HEAD's: a GET after it is asked, as a client would.
#[tokio::test]
async fn a_refusal_of_a_get_in_a_heads_place_is_asked_about_once_more() {
    for (status, refusals, more, found) in
        [(403, 1, 2, true), (401, 1, 2, true), (403, 9, 2, false), (404, 1, 1, false)]
    {
        let fake = Fake::start(move |seen, number| match seen.method.as_str() {
            "HEAD" => vec![head(405, &[])],
            // The first HEAD and its GET come before.
            _ if (2..2 + refusals).contains(&number) => answer(status, &[], b"{}"),
            _ => answer(200, &[], b"{}"),
        })
        .await;
        let (repository, latest) = (repository(&[fake.url()]), "latest".parse().unwrap());
        repository.head_manifest(&latest, &[], None).await.unwrap();
        let again = repository.head_manifest(&latest, &[], None).await;
        assert_eq!((again.is_ok(), fake.questions()), (found, 2 + more), "{status} {refusals} times");
    }
}

/// HEADs that name another digest than GETs bring are followed by a GET each. Once that was seen, GETs come at once.
#[tokio::test]
async fn heads_that_name_a_wrong_digest_are_left_out() {
    let wrong = format!("Docker-Content-Digest: {}", digest(b"wrong"));
    let fake = Fake::start(move |seen, _| match seen.method.as_str() {
        "HEAD" => vec![head(200, &[&wrong, "Content-Type: a/b", "Content-Length: 2"])],
        _ => answer(200, &["Content-Type: a/b"], b"{}"),
    })
    .await;
    let (repository, latest, known) = (repository(&[fake.url()]), "latest".parse().unwrap(), digest(b"{}"));
    let asked = async || repository.head_manifest(&latest, &[], Some(&known)).await.unwrap().digest();
    assert_eq!(asked().await, digest(b"wrong"));
    repository.doubt_heads(&latest, false);
    for _ in 0..2 {
        assert_eq!(asked().await, known);
    }
    let methods: Vec<_> = fake.seen().iter().map(|seen| seen.method.clone()).collect();
    assert_eq!(methods, ["HEAD", "GET", "GET"]);
}

/// A tag is asked for by HEAD, unless the HEADs of this registry do not tell what its GETs do: then by GET, for one request each.
#[tokio::test]
async fn heads_that_tell_too_little_are_not_repeated() {
    let told = format!("Docker-Content-Digest: {}", digest(b"{}"));
    let enough = ["HEAD", "HEAD", "HEAD"];
    let too_little = ["HEAD", "GET", "GET", "GET"];
    for (status, label, expected) in [
        (200, told.as_str(), &enough[..]),
        (200, "Docker-Content-Digest: sha256:none", &too_little[..]),
        (200, "X: no digest", &too_little[..]),
        (405, "X: no HEAD", &too_little[..]),
        (404, "X: absent", &too_little[..]),
        (401, "X: no challenge", &too_little[..]),
        // Of the moment.
        (503, "X: fails", &["HEAD", "GET", "HEAD", "GET", "HEAD", "GET"][..]),
    ] {
        let lines = format!("Content-Length: 2\r\nContent-Type: a/b\r\n{label}");
        let fake = Fake::start(move |seen, _| match seen.method.as_str() {
            "HEAD" => vec![head(status, &[&lines])],
            _ => answer(200, &["Content-Type: application/vnd.x+json"], b"{}"),
        })
        .await;
        let (repository, latest) = (repository(&[fake.url()]), "latest".parse().unwrap());
        let known = digest(b"{}");
        for known in [Some(&known), Some(&known), None] {
            assert_eq!(repository.head_manifest(&latest, &[], known).await.unwrap().digest(), digest(b"{}"));
        }
        let asked: Vec<_> = fake.seen().iter().map(|seen| seen.method.clone()).collect();
        assert_eq!(asked, expected, "{status} {label}");
    }
}

/// Where a GET fails without an answer about the manifest, a client's HEAD gets what a HEAD says: also of an endpoint that is asked by
/// GET first.
#[tokio::test]
async fn a_head_counts_where_the_get_fails() {
    let told = format!("Docker-Content-Digest: {}", digest(b"{}"));
    let wrong = format!("Docker-Content-Digest: {}", digest(b"[]"));
    let (tag, by_digest) = ("latest".parse::<Reference>().unwrap(), Reference::Digest(digest(b"{}")));
    // What the HEAD says beside the length 2; whether that is enough of the tag, and of the digest.
    for (told, kind, of_tag, of_digest) in [
        (told.as_str(), "Content-Type: application/octet-stream", true, true),
        (told.as_str(), "X: no type", true, true),
        (wrong.as_str(), "Content-Type: a/b", true, true),
        // A page.
        ("X: no digest", "Content-Type: text/html", false, false),
    ] {
        for (reference, expected) in [(&tag, of_tag), (&by_digest, of_digest)] {
            for status in [400, 401, 403, 404, 429, 501] {
                let lines = format!("Content-Length: 2\r\n{kind}\r\n{told}");
                // The first GET is answered.
                let fake = Fake::start(move |seen, number| match (seen.method.as_str(), number) {
                    ("HEAD", _) => vec![head(200, &[&lines])],
                    (_, 1) => answer(200, &[], b"{}"),
                    _ => answer(status, &["Retry-After: 100"], b"no"),
                })
                .await;
                let (repository, case) = (repository(&[fake.url()]), format!("{told} {kind} {reference} {status}"));
                repository.head_manifest(reference, &[], None).await.unwrap();
                let again = repository.head_manifest(reference, &[], None).await;
                // A GET's 404 or refusal is the answer to a HEAD, too.
                let affirmed = told == wrong && reference == &tag || expected && ![401, 403, 404].contains(&status);
                assert_eq!(again.is_ok(), affirmed, "{case}: {again:?}");
            }
        }
    }
}

#[tokio::test]
async fn large_answers_are_not_read_to_the_end() {
    let too_long = |error| matches!(error, ClientError::Invalid { reason, .. } if reason.contains("longer than"));
    let announced = Fake::start(|_, _| vec![head(200, &["Content-Length: 999999999"]), Step::Hang]).await;
    let endless = Fake::start(|_, _| vec![head(200, &[]), Step::Endless(vec![b' '; 4096])]).await;
    for fake in [announced, endless] {
        let repository = repository(&[fake.url()]);
        let manifest = repository.get_manifest(&"latest".parse().unwrap(), &[]).await;
        assert!(too_long(manifest.unwrap_err()));
        let list = repository.get_list(&ListKind::Tags, None).await;
        assert!(too_long(list.unwrap_err()));
    }
}

#[tokio::test]
async fn a_dripping_manifest_is_given_up() {
    let pause = Duration::from_millis(20);
    let fake =
        Fake::start(move |_, _| vec![head(200, &["Content-Length: 9999"]), Step::Drip(vec![b' '; 9999], pause)]).await;
    let mut impatient = settings(&[fake.url()]);
    (impatient.first_byte_timeout, impatient.idle_timeout) = (Duration::from_millis(50), Duration::from_millis(50));
    impatient.retries = 0;
    let error = team(&client(impatient)).get_manifest(&"latest".parse().unwrap(), &[]).await.unwrap_err();
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Identity is asked for. Clients in Go decode gzip all the same, and read what only claims to be encoded.
#[tokio::test]
async fn documents_that_are_encoded_or_say_so() {
    let plain = br#"{"schemaVersion":2}"#.to_vec();
    for (label, body, expected) in [
        ("gzip", gzip(&plain), Some(&plain)),
        ("X-GZIP", gzip(&plain), Some(&plain)),
        ("gzip", plain.clone(), Some(&plain)),
        ("aws-chunked", plain.clone(), Some(&plain)),
        ("identity", plain.clone(), Some(&plain)),
        ("gzip", b"\x1f\x8bnot at all".to_vec(), None),
        ("br", gzip(&plain), None),
        ("gzip", gzip(&vec![b' '; 1 << 20]), None),
    ] {
        let label = format!("Content-Encoding: {label}");
        let (line, sent) = (label.clone(), body.clone());
        let fake = Fake::start(move |_, _| answer(200, &[&line], &sent)).await;
        let repository = repository(&[fake.url()]);
        let found = repository.get_manifest(&Reference::Digest(digest(&plain)), &[]).await;
        assert_eq!(found.as_ref().ok().map(|found| &found.bytes[..]), expected.map(|bytes| &bytes[..]), "{label}");
        assert_eq!(fake.seen()[0].header("accept-encoding"), Some("identity"));
        let found = repository.get_manifest(&"latest".parse().unwrap(), &[]).await;
        assert_eq!(found.is_ok(), expected.is_some(), "{label}: {found:?}");
        if let Err(error) = found {
            assert!(matches!(error, ClientError::Invalid { .. }), "{error}");
        }
    }
}

#[tokio::test]
async fn lists_keep_their_paging() {
    let lines = [
        "Content-Type: application/vnd.oci.image.index.v1+json",
        "Link: </v2/x?n=1>; rel=\"next\"",
        "OCI-Filters-Applied: artifactType",
    ];
    let fake = Fake::start(move |_, _| answer(200, &lines, b"{}")).await;
    let kind = ListKind::Referrers(digest(b"x"));
    let list = repository(&[fake.url()]).get_list(&kind, Some("artifactType=a%2Fb&n=2")).await.unwrap();
    assert_eq!(list.link.as_deref(), Some("</v2/x?n=1>; rel=\"next\""));
    assert_eq!(list.filters_applied.as_deref(), Some("artifactType"));
    assert_eq!(list.media_type, media_type::OCI_INDEX);
    let target = format!("/v2/team/app/referrers/{}?artifactType=a%2Fb&n=2", digest(b"x"));
    assert_eq!(fake.seen()[0].target, target);
}

#[tokio::test]
async fn a_base_path_is_kept() {
    let fake = Fake::start(|_, _| answer(404, &[], b"")).await;
    let base = fake.url().join("/artifactory/docker/").unwrap();
    assert!(repository(&[base]).head_manifest(&"v1".parse().unwrap(), &[], None).await.is_err());
    assert_eq!(fake.seen()[0].target, "/artifactory/docker/v2/team/app/manifests/v1");
    assert!(fake.seen()[0].header("accept").unwrap().contains(media_type::DOCKER_LIST));
}

#[tokio::test]
async fn pages_and_fragments_are_no_manifests() {
    let fragment = &b"{\"schemaVersion\":2,\"lay"[..];
    for (kind, body) in [("text/html", &b"<html>log in</html>"[..]), (media_type::OCI_MANIFEST, fragment), ("a/b", b"")]
    {
        let line = format!("Content-Type: {kind}");
        let fake = Fake::start(move |_, _| vec![head(200, &[&line]), Step::Send(body.to_vec())]).await;
        let repository = repository(&[fake.url()]);
        let manifest = repository.get_manifest(&"latest".parse().unwrap(), &[]).await;
        assert!(matches!(manifest, Err(ClientError::Invalid { .. })), "{kind}");
        let list = repository.get_list(&ListKind::Tags, None).await;
        assert!(matches!(list, Err(ClientError::Invalid { .. })), "{kind}");
    }
}

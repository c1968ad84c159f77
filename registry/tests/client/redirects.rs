//! Where redirects may lead, and what goes along.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pierhead_registry::client::{BlobHead, ClientError};
use pierhead_registry::oci::Reference;

use crate::fake::{Fake, Step, answer, blob, head};
use crate::{client, configured, content, digest, drain, login, repository, settings, silent_about, team};

#[tokio::test]
async fn another_host_sees_no_credential() {
    let bytes = content(1000);
    let body = bytes.clone();
    let store = Fake::start(move |seen, _| blob(seen, &body, usize::MAX)).await;
    let target = store.on("localhost").join("/bucket/object?X-Amz-Signature=presigned").unwrap();
    let location = format!("Location: {target}");
    let fake = Fake::start(move |seen, _| match seen.header("authorization") {
        None => answer(401, &["WWW-Authenticate: Basic realm=\"x\""], b""),
        Some(_) => answer(307, &[&location], b"go there"),
    })
    .await;
    let mut own = settings(&[fake.url()]);
    own.endpoints[0].account = Some(configured(login("alice", "s3cret")));
    let mut body = team(&client(own)).get_blob(&digest(&bytes), 10, None, &[]).await.unwrap();
    assert_eq!(body.start(), 10);
    assert!(drain(&mut body).await.unwrap() == bytes[10..]);
    let seen = store.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].target, "/bucket/object?X-Amz-Signature=presigned");
    assert_eq!(seen[0].header("authorization"), None);
    assert_eq!(seen[0].header("range"), Some("bytes=10-"));
    assert_eq!(seen[0].header("accept-encoding"), Some("identity"));
    assert!(seen[0].header("user-agent").unwrap().starts_with("pierhead/"));
    assert_eq!(fake.seen()[1].header("authorization"), Some("Basic YWxpY2U6czNjcmV0"));
}

#[tokio::test]
async fn the_way_back_from_another_host_brings_no_credential_back() {
    let there = Arc::new(std::sync::OnceLock::<String>::new());
    let (to, back) = (Arc::clone(&there), Arc::new(std::sync::OnceLock::<String>::new()));
    let home = Arc::clone(&back);
    let store = Fake::start(move |_, _| answer(302, &[&format!("Location: {}", home.get().unwrap())], b"")).await;
    let fake = Fake::start(move |seen, number| match (seen.target.as_str(), number) {
        ("/elsewhere", _) => answer(200, &[], b"1234567"),
        (_, 0) => answer(401, &["WWW-Authenticate: Basic realm=\"x\""], b""),
        _ => answer(302, &[&format!("Location: {}", to.get().unwrap())], b""),
    })
    .await;
    there.set(store.on("localhost").to_string()).unwrap();
    back.set(fake.url().join("/elsewhere").unwrap().to_string()).unwrap();
    let mut own = settings(&[fake.url()]);
    own.endpoints[0].account = Some(configured(login("alice", "s3cret")));
    let mut body = team(&client(own)).get_blob(&digest(b"1234567"), 0, None, &[]).await.unwrap();
    assert_eq!(drain(&mut body).await.unwrap(), b"1234567");
    assert_eq!(fake.seen()[2].header("authorization"), None);
}

#[tokio::test]
async fn on_the_same_host_it_goes_along() {
    let fake = Fake::start(|seen, _| match (seen.header("authorization"), seen.target.as_str()) {
        (None, _) => answer(401, &["WWW-Authenticate: Basic realm=\"x\""], b""),
        (_, "/moved") => answer(200, &[], b"1234567"),
        _ => answer(301, &["Location: /moved"], b""),
    })
    .await;
    let mut own = settings(&[fake.url()]);
    own.endpoints[0].account = Some(configured(login("alice", "s3cret")));
    let mut body = team(&client(own)).get_blob(&digest(b"1234567"), 0, None, &[]).await.unwrap();
    assert_eq!(drain(&mut body).await.unwrap(), b"1234567");
    assert_eq!(fake.seen().len(), 3);
}

/// A signed URL may be signed as text: what `Location` says is what its server is asked for, byte for byte.
#[tokio::test]
async fn a_target_is_asked_for_as_it_is_written() {
    let bytes = content(1000);
    for query in ["?q='a'&r=(b)", "?f*=UTF-8''x&sig=a%2Fb%3D", "?x=%27y%27+z", "?u=http://x/'#fragment", ""] {
        for elsewhere in [true, false] {
            let path = "/a%2e%2e/b";
            let body = bytes.clone();
            let store = Fake::start(move |seen, _| blob(seen, &body, usize::MAX)).await;
            let base = if elsewhere { store.on("localhost").to_string() } else { String::new() };
            let location = format!("Location: {}{path}{query}", base.trim_end_matches('/'));
            let body = bytes.clone();
            let fake =
                Fake::start(move |seen, _| match (seen.header("authorization"), seen.target.starts_with("/v2/")) {
                    (None, _) => answer(401, &["WWW-Authenticate: Basic realm=\"x\""], b""),
                    (_, true) => answer(307, &[&location], b""),
                    (_, false) => blob(seen, &body, usize::MAX),
                })
                .await;
            let mut own = settings(&[fake.url()]);
            own.endpoints[0].account = Some(configured(login("alice", "s3cret")));
            let repository = team(&client(own));
            let mut body = repository.get_blob(&digest(&bytes), 10, None, &[]).await.unwrap();
            assert!(drain(&mut body).await.unwrap() == bytes[10..]);
            assert_eq!(repository.head_blob(&digest(&bytes), None).await.unwrap(), BlobHead::Size(Some(1000)));
            let manifest = Reference::Digest(digest(&bytes));
            assert!(repository.get_manifest(&manifest, &[]).await.unwrap().bytes == bytes);
            let seen = if elsewhere { store.seen() } else { fake.seen() };
            let asked: Vec<_> = seen.iter().filter(|seen| !seen.target.starts_with("/v2/")).collect();
            assert_eq!(asked.len(), 3, "{query}");
            let written = format!("{path}{}", query.split('#').next().unwrap());
            for seen in asked {
                assert_eq!(seen.target, written);
                assert_eq!(seen.header("authorization").is_some(), !elsewhere, "{query}");
                assert!(seen.header("user-agent").unwrap().starts_with("pierhead/"));
                assert_eq!(seen.header("accept-encoding"), Some("identity"));
            }
        }
    }
}

#[tokio::test]
async fn loops_and_long_ways_end() {
    let circle = Fake::start(|_, _| answer(307, &["Location: /v2/team/app/manifests/latest?secret=1"], b"")).await;
    let error = repository(&[circle.url()]).get_manifest(&"latest".parse().unwrap(), &[]).await.unwrap_err();
    assert!(matches!(&error, ClientError::Invalid { reason, .. } if reason.contains("loop")), "{error}");
    silent_about(&error, &["secret"]);
    assert_eq!(circle.seen().len(), 2);
    let circle = Fake::start(|_, _| answer(307, &["Location: /here?secret='1'"], b"")).await;
    let error = repository(&[circle.url()]).get_manifest(&"latest".parse().unwrap(), &[]).await.unwrap_err();
    assert!(matches!(&error, ClientError::Invalid { reason, .. } if reason.contains("loop")), "{error}");
    silent_about(&error, &["secret"]);
    assert_eq!(circle.seen().len(), 2);

    let maze = Fake::start(|_, number| answer(307, &[&format!("Location: /{number}")], b"")).await;
    let error = repository(&[maze.url()]).get_manifest(&"latest".parse().unwrap(), &[]).await.unwrap_err();
    assert!(matches!(error, ClientError::Invalid { .. }), "{error}");
    assert_eq!(maze.seen().len(), 11);

    // As long as Go's clients follow.
    let long = Fake::start(|_, number| match number {
        0..9 => answer(307, &[&format!("Location: /{number}")], b""),
        _ => answer(200, &[], b"{}"),
    })
    .await;
    assert!(repository(&[long.url()]).get_manifest(&"latest".parse().unwrap(), &[]).await.is_ok());
}

#[tokio::test]
async fn an_object_store_that_refuses_head_is_asked_by_get() {
    let bytes = content(1000);
    let store = Fake::start(move |seen, _| match seen.method.as_str() {
        "GET" => answer(206, &["Content-Range: bytes 0-0/1000"], &bytes[..1]),
        _ => vec![head(403, &[])],
    })
    .await;
    let location = format!("Location: {}", store.on("localhost"));
    let fake = Fake::start(move |_, _| vec![head(307, &[&location])]).await;
    assert_eq!(repository(&[fake.url()]).head_blob(&digest(b"x"), None).await.unwrap(), BlobHead::Size(Some(1000)));
    assert_eq!(store.seen()[1].header("range"), Some("bytes=0-0"));
}

#[tokio::test]
async fn an_expired_target_is_asked_for_anew() {
    let bytes = content(1000);
    let body = bytes.clone();
    let store = Fake::start(move |seen, _| match seen.target.as_str() {
        "/?fresh=0" => answer(403, &[], b"expired"),
        _ => blob(seen, &body, usize::MAX),
    })
    .await;
    let (target, given) = (store.on("localhost"), AtomicUsize::new(0));
    let fake = Fake::start(move |_, _| {
        let fresh = given.fetch_add(1, Ordering::SeqCst);
        answer(307, &[&format!("Location: {target}?fresh={fresh}")], b"")
    })
    .await;
    let mut body = repository(&[fake.url()]).get_blob(&digest(&bytes), 0, None, &[]).await.unwrap();
    assert!(drain(&mut body).await.unwrap() == bytes);
    assert_eq!(fake.seen().len(), 2);
}

#[tokio::test]
async fn a_target_that_is_not_there() {
    let store = Fake::start(|_, _| vec![Step::Hang]).await;
    let gone = store.on("localhost");
    drop(store);
    let location = format!("Location: {gone}?secret=1");
    let fake = Fake::start(move |_, _| answer(307, &[&location], b"")).await;
    let client = client(settings(&[fake.url()]));
    let error = team(&client).get_blob(&digest(b"x"), 0, None, &[]).await.unwrap_err();
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");
    silent_about(&error, &["secret"]);
    assert_eq!(fake.seen().len(), 1, "the same target again would be no better");
    assert!(client.available(), "the registry itself is fine");
}

#[tokio::test]
async fn a_target_of_an_unusual_spelling_that_is_not_there() {
    let store = Fake::start(|_, _| vec![Step::Hang]).await;
    let gone = store.on("localhost");
    drop(store);
    let location = format!("Location: {gone}?secret='1'");
    let fake = Fake::start(move |_, _| answer(307, &[&location], b"")).await;
    let client = client(settings(&[fake.url()]));
    let error = team(&client).get_blob(&digest(b"x"), 0, None, &[]).await.unwrap_err();
    assert!(matches!(&error, ClientError::Unavailable { reason, .. } if reason.contains("refused")), "{error}");
    silent_about(&error, &["secret"]);
    assert_eq!(fake.seen().len(), 1);
    assert!(client.available(), "the registry itself is fine");
}

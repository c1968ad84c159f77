//! Several addresses: mirrors that have only a part, refuse, or want a pause, before the registry itself.

use std::time::Duration;

use pierhead_registry::client::{BlobHead, ClientError, ListKind};
use pierhead_registry::oci::Reference;
use url::Url;

use crate::fake::{Fake, Seen, Step, answer, blob, head};
use crate::{client, configured, content, digest, drain, login, repository, settings, team};

/// A mirror that answers everything with one status.
async fn mirror(status: u16) -> Fake {
    Fake::start(move |seen, _| match (seen.method.as_str(), status) {
        ("HEAD", _) => vec![head(status, &[])],
        (_, 401) => answer(401, &["WWW-Authenticate: Basic realm=\"mirror\""], b""),
        (_, 429) => answer(429, &["Retry-After: 3600"], b""),
        _ => answer(status, &[], b"no"),
    })
    .await
}

/// A registry with one manifest, under any name, and one blob.
async fn registry(bytes: Vec<u8>) -> Fake {
    Fake::start(move |seen, _| match (seen.method.as_str(), seen.target.contains("/blobs/")) {
        ("HEAD", true) => vec![head(200, &[&format!("Content-Length: {}", bytes.len())])],
        ("HEAD", false) => {
            let digest = format!("Docker-Content-Digest: {}", digest(b"{}"));
            vec![head(200, &["Content-Type: a/b", "Content-Length: 2", &digest])]
        }
        (_, true) => answer(200, &[], &bytes),
        _ => answer(200, &["Content-Type: a/b"], b"{}"),
    })
    .await
}

/// A mirror's no to a HEAD is none to the GET that it could not be asked for any more.
#[tokio::test]
async fn a_mirrors_no_to_a_head_proves_nothing_where_its_get_was_not_sent() {
    let mirror = mirror(404).await;
    let registry = Fake::start(|seen, _| match seen.method.as_str() {
        "HEAD" => {
            vec![Step::Drip(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n".to_vec(), Duration::from_millis(20))]
        }
        _ => answer(404, &[], b"{}"),
    })
    .await;
    let mut settings = settings(&[mirror.url(), registry.url()]);
    settings.retries = 0;
    let repository = team(&client(settings));
    let checking = {
        let repository = repository.clone();
        tokio::spawn(async move { repository.head_manifest(&"kept".parse().unwrap(), &[], Some(&digest(b"{}"))).await })
    };
    while registry.seen().is_empty() {
        tokio::task::yield_now().await;
    }
    drop(mirror);
    // Others find it dead, and leave it alone.
    for _ in 0..3 {
        assert!(repository.get_manifest(&"other".parse().unwrap(), &[]).await.is_err());
    }
    let error = checking.await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Unconfirmed { .. }), "{error}");
}

/// A mirror that goes on answering and sends nothing, or nothing new, is not asked for ever: the registry sends the blob.
#[tokio::test]
async fn a_blob_that_a_mirror_never_finishes_comes_from_the_registry() {
    let bytes = content(3_000_000);
    type Script = fn(&Seen, &[u8]) -> Vec<Step>;
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n";
    let scripts: [(&str, Script); 5] = [
        ("the same half", |seen, bytes| blob(seen, bytes, bytes.len() / 2 - seen.from().min(bytes.len() / 2))),
        ("ten bytes, then silence", |seen, bytes| {
            let mut steps = blob(seen, bytes, 10);
            steps.push(Step::Hang);
            steps
        }),
        ("nothing", |_, _| answer(200, &[], b"")),
        ("nothing, chunked", |_, _| vec![Step::Send(CHUNKED.to_vec())]),
        ("a header", |_, bytes| vec![head(200, &[&format!("Content-Length: {}", bytes.len())])]),
    ];
    for (what, script) in scripts {
        let (held, whole) = (bytes.clone(), bytes.clone());
        let mirror = Fake::start(move |seen, _| script(seen, &held)).await;
        let registry = Fake::start(move |seen, _| blob(seen, &whole, usize::MAX)).await;
        let mut settings = settings(&[mirror.url(), registry.url()]);
        settings.idle_timeout = Duration::from_millis(300);
        let mut body = team(&client(settings)).get_blob(&digest(&bytes), 0, None, &[]).await.expect(what);
        assert!(drain(&mut body).await.expect(what) == bytes, "{what}");
        assert!(mirror.seen().len() <= 3, "{what}: {} requests", mirror.seen().len());
    }
    // Where no other address is left, it is no blob.
    let registry = Fake::start(|_, _| vec![Step::Send(CHUNKED.to_vec())]).await;
    let mut body = repository(&[registry.url()]).get_blob(&digest(&bytes), 0, None, &[]).await.unwrap();
    assert!(matches!(drain(&mut body).await, Err(ClientError::Invalid { .. })));
    assert_eq!(registry.seen().len(), 1);
    let mut empty = repository(&[registry.url()]).get_blob(&digest(b""), 0, None, &[]).await.unwrap();
    assert!(drain(&mut empty).await.unwrap().is_empty());
}

/// buildbuddy#1861: a mirror's no is not the registry's.
#[tokio::test]
async fn what_a_mirror_does_not_give_the_registry_is_asked_for() {
    let (latest, bytes) = ("latest".parse::<Reference>().unwrap(), content(1000));
    let blob = digest(&bytes);
    for status in [400, 401, 403, 404, 405, 410, 418, 429, 451, 500, 501, 503] {
        let (mirror, registry) = (mirror(status).await, registry(bytes.clone()).await);
        let repository = repository(&[mirror.url(), registry.url()]);
        assert!(repository.get_manifest(&latest, &[]).await.is_ok(), "{status}");
        assert!(repository.head_manifest(&latest, &[], None).await.is_ok(), "{status}");
        assert!(repository.get_manifest(&Reference::Digest(digest(b"{}")), &[]).await.is_ok(), "{status}");
        let before = mirror.seen().len();
        assert_eq!(repository.head_blob(&blob, None).await.unwrap(), BlobHead::Size(Some(1000)), "{status}");
        assert_eq!(repository.find_blob(&blob, None).await.unwrap(), BlobHead::Size(Some(1000)), "{status}");
        let mut body = repository.get_blob(&blob, 0, None, &[]).await.unwrap();
        assert!(drain(&mut body).await.unwrap() == bytes, "{status}");
        // A request that fails costs the mirror one; one that wants a range may cost one more where that is refused.
        let cost = if matches!(status, 400 | 405 | 418 | 451 | 501) { 4 } else { 3 };
        assert!(mirror.seen().len() - before <= cost, "{status}: {:?}", mirror.seen());
        assert!(repository.get_list(&ListKind::Tags, None).await.is_ok(), "{status}");
        assert!(!mirror.seen().is_empty(), "{status}");
        // No HEAD, no manifest and no list cost the registry more than one request.
        assert_eq!(registry.seen().len(), 7, "{status}");
    }
}

/// A cursor means something to its issuer only, so the mirror that has no list is not asked again for each page.
#[tokio::test]
async fn a_list_goes_on_at_the_address_where_it_began() {
    let mirror = mirror(400).await;
    let registry = Fake::start(|seen, _| match seen.target.contains("last=b") {
        false => answer(200, &["Link: </v2/team/app/tags/list?last=b&n=2>; rel=\"next\""], b"{}"),
        true => answer(200, &[], b"{}"),
    })
    .await;
    let repository = repository(&[mirror.url(), registry.url()]);
    for query in [None, Some("last=b&n=2"), Some("last=b&n=2")] {
        assert!(repository.get_list(&ListKind::Tags, query).await.is_ok(), "{query:?}");
    }
    assert_eq!((mirror.seen().len(), registry.seen().len()), (1, 3));
}

#[tokio::test]
async fn a_no_counts_when_the_last_has_said_it_and_none_failed() {
    type Check = fn(&ClientError) -> bool;
    let not_found: Check = |error| matches!(error, ClientError::NotFound { .. });
    let unconfirmed: Check = |error| matches!(error, ClientError::Unconfirmed { status: 404, .. });
    let forbidden: Check = |error| matches!(error, ClientError::Forbidden { .. });
    let unavailable: Check = |error| matches!(error, ClientError::Unavailable { .. });
    let limited: Check = |error| matches!(error, ClientError::RateLimited { .. });
    for (first, last, expected) in [
        (404, 404, not_found),
        (403, 404, not_found),
        (401, 410, not_found),
        (404, 403, forbidden),
        (503, 403, forbidden),
        (503, 404, unconfirmed),
        (429, 404, unconfirmed),
        (404, 503, unavailable),
        (404, 429, limited),
    ] {
        let (mirror, registry) = (mirror(first).await, mirror(last).await);
        let mut settings = settings(&[mirror.url(), registry.url()]);
        settings.retries = 0;
        let error = team(&client(settings)).get_manifest(&"latest".parse().unwrap(), &[]).await.unwrap_err();
        assert!(expected(&error), "{first} {last}: {error}");
    }
}

/// moby#52532: a mirror that challenges is not shown the registry's account.
#[tokio::test]
async fn an_account_is_shown_to_its_own_address_only() {
    let wants_basic = |_: &Seen, _| answer(401, &["WWW-Authenticate: Basic realm=\"mirror\""], b"");
    let wants_token = |seen: &Seen, _| {
        let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{}/token\"", seen.header("host").unwrap());
        if seen.target.starts_with("/token") { answer(403, &[], b"") } else { answer(401, &[&challenge], b"") }
    };
    let mirrors = [Fake::start(wants_basic).await, Fake::start(wants_token).await];
    for mirror in mirrors {
        let registry = Fake::start(|seen, _| match seen.header("authorization") {
            Some("Basic YWxpY2U6czNjcmV0") => answer(200, &[], b"{}"),
            _ => answer(401, &["WWW-Authenticate: Basic realm=\"registry\""], b""),
        })
        .await;
        let mut settings = settings(&[mirror.url(), registry.url()]);
        settings.endpoints[1].account = Some(configured(login("alice", "s3cret")));
        let client = client(settings);
        let caller = crate::as_account(login("alice", "s3cret"));
        let latest = "latest".parse().unwrap();
        assert!(team(&client).get_manifest(&latest, &[]).await.is_ok());
        let repository = client.repository(&"team/app".parse().unwrap(), Some(&caller));
        assert!(repository.get_manifest(&latest, &[]).await.is_ok());
        assert!(mirror.seen().iter().all(|seen| seen.header("authorization").is_none()));
    }
}

#[tokio::test]
async fn a_mirror_may_have_an_account_of_its_own() {
    let mirror = Fake::start(|seen, _| match seen.header("authorization") {
        Some("Basic ZWRnZTpteQ==") => answer(200, &[], b"{}"),
        _ => answer(401, &["WWW-Authenticate: Basic realm=\"mirror\""], b""),
    })
    .await;
    let registry = registry(Vec::new()).await;
    let mut settings = settings(&[mirror.url(), registry.url()]);
    settings.endpoints[0].account = Some(configured(login("edge", "my")));
    settings.endpoints[1].account = Some(configured(login("alice", "s3cret")));
    assert!(team(&client(settings)).get_manifest(&"latest".parse().unwrap(), &[]).await.is_ok());
    assert!(registry.seen().is_empty());
}

/// moby#47144: names stand below a project, at that address only, and tokens are for the name there.
#[tokio::test]
async fn names_may_stand_below_a_prefix() {
    let mirror = Fake::start(|seen, _| match seen.header("authorization") {
        _ if seen.target.starts_with("/token") => answer(200, &[], br#"{"token":"t"}"#),
        Some("Bearer t") => answer(404, &[], b""),
        _ => {
            let host = seen.header("host").unwrap();
            answer(401, &[&format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\"")], b"")
        }
    })
    .await;
    let registry = registry(Vec::new()).await;
    let mut settings = settings(&[mirror.url(), registry.url()]);
    settings.endpoints[0].repository_prefix = Some("mirror-project".to_owned());
    assert!(team(&client(settings)).get_manifest(&"latest".parse().unwrap(), &[]).await.is_ok());
    let targets: Vec<_> = mirror.seen().into_iter().map(|seen| seen.target).collect();
    let manifest = "/v2/mirror-project/team/app/manifests/latest";
    let token = "/token?scope=repository%3Amirror-project%2Fteam%2Fapp%3Apull";
    assert_eq!(targets, [manifest, token, manifest]);
    assert_eq!(registry.seen()[0].target, "/v2/team/app/manifests/latest");
}

#[tokio::test]
async fn a_refusal_costs_one_request_and_no_pause() {
    for status in [400, 403, 404, 405, 406, 409, 410, 416, 418, 422, 451, 501, 505] {
        let fake = Fake::start(move |_, _| answer(status, &["Content-Type: text/plain"], b"why")).await;
        let url: Url = fake.url();
        let repository = repository(&[url]);
        let error = repository.get_manifest(&"latest".parse().unwrap(), &[]).await.unwrap_err();
        let expected = match status {
            403 => matches!(error, ClientError::Forbidden { .. }),
            404 | 410 => matches!(error, ClientError::NotFound { .. }),
            501 | 505 => matches!(error, ClientError::Invalid { status: Some(told), .. } if told == status),
            _ => matches!(&error, ClientError::Rejected { status: told, content_type: Some(kind), body, .. }
                if *told == status && kind == "text/plain" && &body[..] == b"why"),
        };
        assert!(expected, "{status}: {error:?}");
        assert_eq!(fake.seen().len(), 1, "{status}");
        assert!(repository.get_list(&ListKind::Referrers(digest(b"x")), None).await.is_err());
        assert_eq!(fake.seen().len(), 2, "{status}");
    }
}

/// What has another length than the manifest says, or is labelled as a page, is not the blob: the next address is asked, at once and not
/// after the whole has come or stopped coming.
#[tokio::test]
async fn a_mirror_with_something_else_in_the_blobs_place_is_passed() {
    let bytes = content(1000);
    let page = || vec![head(200, &["Content-Type: text/html", "Content-Length: 5"]), Step::Send(b"<html".to_vec())];
    let in_chunks = || {
        let header = head(200, &["Content-Type: text/html; charset=utf-8", "Transfer-Encoding: chunked"]);
        vec![header, Step::Send(b"5\r\n<html\r\n0\r\n\r\n".to_vec())]
    };
    let stalls = || vec![head(200, &["Content-Length: 1005"]), Step::Send(content(500)), Step::Hang];
    let part = || vec![head(206, &["Content-Range: bytes 0-499/995", "Content-Length: 500"]), Step::Send(content(500))];
    for (what, wrong) in [("a page", page()), ("a page in chunks", in_chunks()), ("half", stalls()), ("a part", part())]
    {
        for end in [None, Some(500)] {
            let wrong = wrong.clone();
            let mirror = Fake::start(move |_, _| wrong.clone()).await;
            let registry = registry(bytes.clone()).await;
            let repository = repository(&[mirror.url(), registry.url()]);
            let mut body = repository.get_blob_of(&digest(&bytes), Some(1000), 0, end, &[]).await.expect(what);
            assert!(drain(&mut body).await.unwrap() == bytes[..end.unwrap_or(1000) as usize], "{what} {end:?}");
            assert_eq!((body.total(), body.endpoint()), (Some(1000), 1), "{what} {end:?}");
            assert!(mirror.seen().len() <= 2, "{what} {end:?}");
        }
    }
    // The registry itself is believed: the manifest may be wrong.
    let registry = registry(bytes.clone()).await;
    let mut body = repository(&[registry.url()]).get_blob_of(&digest(&bytes), Some(999), 0, None, &[]).await.unwrap();
    assert!(drain(&mut body).await.unwrap() == bytes);
}

//! Whether a blob is there, and how large it is, of registries that answer HEADs in their own way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pierhead_registry::client::{BlobHead, ClientError, Credential};

use crate::fake::{Fake, answer, head};
use crate::{client, content, digest, login, repository, settings};

/// Where a HEAD and a GET differ, a client that sends a GET gets what a GET gives: for as few requests as it would take.
#[tokio::test]
async fn a_head_may_say_yes_and_only_a_get_no() {
    let bytes = content(1000);
    let limited = "Retry-After: 3600";
    // HEAD's status and GET's; what a client that sends HEAD learns, and one that sends GET; requests of the first two.
    for (head_status, get_status, by_head, by_get, requests) in [
        (200, 200, true, true, 2),
        (404, 200, false, true, 3),
        (401, 200, true, true, 3),
        (403, 200, true, true, 3),
        (405, 200, true, true, 3),
        (429, 200, true, true, 3),
        (500, 200, true, true, 3),
        (404, 404, false, false, 3),
        (403, 403, false, false, 4),
        (404, 403, false, false, 3),
    ] {
        let body = bytes.clone();
        let fake = Fake::start(move |seen, _| match (seen.method.as_str(), head_status, get_status) {
            ("HEAD", 200, _) => vec![head(200, &["Content-Length: 1000"])],
            ("HEAD", status, _) => vec![head(status, &[limited])],
            (_, _, 200) => {
                let range = seen.header("range").is_some();
                let lines: &[&str] = if range { &["Content-Range: bytes 0-0/1000"] } else { &[] };
                answer(if range { 206 } else { 200 }, lines, if range { &body[..1] } else { &body })
            }
            (_, _, status) => answer(status, &[], b"no"),
        })
        .await;
        let case = format!("{head_status} {get_status}");
        let repository = repository(&[fake.url()]);
        assert_eq!(repository.head_blob(&digest(&bytes), None).await.is_ok(), by_head, "{case}");
        assert_eq!(repository.find_blob(&digest(&bytes), None).await.is_ok(), by_get, "{case}");
        assert_eq!(fake.seen().len(), requests, "{case}: {:?}", fake.seen());
        // A limit of HEADs stops no GET.
        let body = repository.get_blob(&digest(&bytes), 0, None, &[]).await;
        assert_eq!(body.is_ok(), get_status == 200, "{case}");
    }
}

/// A HEAD that says 0 of what is longer has said that it is there. A GET tells the length, from then on without the HEAD.
#[tokio::test]
async fn a_length_of_0_from_a_head_is_looked_up_by_a_get() {
    let bytes = content(1000);
    for (get_status, expected, methods) in [
        (206, Some(1000), vec!["HEAD", "GET", "GET"]),
        (404, None, vec!["HEAD", "GET", "GET", "HEAD", "GET", "GET"]),
        (403, None, vec!["HEAD", "GET", "GET", "HEAD", "GET", "GET"]),
        (503, None, vec!["HEAD", "GET", "HEAD", "GET"]),
    ] {
        let fake = Fake::start(move |seen, _| match (seen.method.as_str(), get_status) {
            ("HEAD", _) => vec![head(200, &["Content-Length: 0"])],
            (_, 206) => answer(206, &["Content-Range: bytes 0-0/1000"], b"x"),
            (_, status) => answer(status, &[], b"no"),
        })
        .await;
        let repository = repository(&[fake.url()]);
        for _ in 0..2 {
            match repository.head_blob(&digest(&bytes), None).await.unwrap() {
                BlobHead::Unopened(_) => assert_eq!(expected, None, "{get_status}"),
                BlobHead::Size(size) => assert_eq!(size, expected, "{get_status}"),
                other => panic!("{get_status}: {other:?}"),
            }
        }
        let asked: Vec<_> = fake.seen().iter().map(|seen| seen.method.clone()).collect();
        assert_eq!(asked, methods, "{get_status}");
        // Whether a blob may be had is for a GET to say.
        assert_eq!(repository.find_blob(&digest(&bytes), None).await.is_ok(), expected.is_some(), "{get_status}");
    }
}

/// A blob that failed with all tries is asked for once by each request of the next while, until it comes.
#[tokio::test]
async fn a_blob_that_failed_lately_costs_one_try() {
    let bytes = content(1000);
    for (status, first) in [(500, 3), (503, 3), (501, 1), (404, 1)] {
        let (body, fails) = (bytes.clone(), Arc::new(AtomicBool::new(true)));
        let failing = Arc::clone(&fails);
        let fake = Fake::start(move |_, _| match failing.load(Ordering::SeqCst) {
            true => answer(status, &[], b"no"),
            false => answer(200, &[], &body),
        })
        .await;
        let repository = repository(&[fake.url()]);
        let cost = async || {
            let before = fake.seen().len();
            let body = repository.get_blob(&digest(&bytes), 0, None, &[]).await;
            (body.is_ok(), fake.seen().len() - before)
        };
        assert_eq!(cost().await, (false, first), "{status}");
        assert_eq!(cost().await, (false, 1), "{status}");
        // Also for who asks whether it is there, by HEAD or not: HEADs have not failed yet.
        let before = fake.seen().len();
        assert!(repository.find_blob(&digest(&bytes), None).await.is_err(), "{status}");
        assert!(fake.seen().len() - before <= 2, "{status}");
        fails.store(false, Ordering::SeqCst);
        assert_eq!(cost().await, (true, 1), "{status}");
        fails.store(true, Ordering::SeqCst);
        assert_eq!(cost().await, (false, first), "{status}: all tries again");
    }
}

/// What fails for one account, or for a range beyond the end, makes nothing fail for others, or cost them more.
#[tokio::test]
async fn a_failure_of_one_is_no_failure_of_all() {
    let bytes = content(1000);
    let body = bytes.clone();
    let fake = Fake::start(move |seen, _| {
        let basic = |user: &str| Some(format!("Basic {}", STANDARD.encode(format!("{user}:x"))));
        match (seen.header("authorization").map(str::to_owned), seen.header("range")) {
            (shown, _) if shown == basic("evil") => answer(500, &[], b"no"),
            (None, _) => answer(401, &["WWW-Authenticate: Basic realm=\"r\""], b""),
            (_, Some("bytes=0-0")) => answer(206, &["Content-Range: bytes 0-0/1000"], &body[..1]),
            (_, Some("bytes=1000-")) => answer(416, &["Content-Range: bytes */1000"], b""),
            _ => answer(200, &[], &body),
        }
    })
    .await;
    let client = client(settings(&[fake.url()]));
    let of = |user: &str| client.repository(&"team/app".parse().unwrap(), Some(&Credential::Account(login(user, "x"))));
    let methods = |from: usize| -> Vec<_> {
        let asked = fake.seen().into_iter().skip(from);
        asked.map(|seen| format!("{} {}", seen.method, seen.header("range").unwrap_or_default())).collect()
    };
    for _ in 0..2 {
        assert!(of("evil").get_blob(&digest(&bytes), 0, None, &[]).await.is_err());
        assert!(of("good").get_blob(&digest(&bytes), 1000, None, &[]).await.is_err());
        let before = fake.seen().len();
        assert_eq!(of("good").probe_blob(&digest(&bytes), None, false).await.unwrap().size, Some(1000));
        assert_eq!(methods(before), ["GET bytes=0-0"]);
    }
}

#[tokio::test]
async fn a_length_that_head_does_not_tell_is_no_error() {
    let fake = Fake::start(|_, _| vec![head(200, &["Transfer-Encoding: chunked"])]).await;
    let repository = repository(&[fake.url()]);
    assert_eq!(repository.head_blob(&digest(b"x"), None).await.unwrap(), BlobHead::Size(None));
    assert_eq!(fake.seen().len(), 1, "it costs one request");
    assert_eq!(repository.probe_blob(&digest(b"x"), None, false).await.unwrap().size, None);
}

/// Where both fail, a question costs one HEAD: further tries are by GET, without a range once one was refused.
#[tokio::test]
async fn a_size_that_cannot_be_had_costs_one_head() {
    for (status, gets) in [(500, 3), (502, 3)] {
        let fake = Fake::start(move |seen, _| match seen.method.as_str() {
            "HEAD" => vec![head(status, &[])],
            _ => answer(status, &[], b"no"),
        })
        .await;
        let error = repository(&[fake.url()]).head_blob(&digest(b"x"), None).await.unwrap_err();
        assert!(matches!(error, ClientError::Unavailable { .. }), "{status}: {error}");
        let asked: Vec<_> =
            fake.seen().iter().map(|seen| (seen.method.clone(), seen.header("range").is_some())).collect();
        let mut expected = vec![("HEAD".to_owned(), false)];
        expected.extend((0..gets).map(|number| ("GET".to_owned(), number == 0)));
        assert_eq!(asked, expected, "{status}");
    }
}

/// What a HEAD and a range are refused with says nothing of the whole.
#[tokio::test]
async fn a_head_and_a_range_that_are_refused_alike_are_no_answer() {
    let bytes = content(1000);
    for status in [400, 401, 403, 404, 405, 410, 451] {
        let body = bytes.clone();
        let fake = Fake::start(move |seen, _| match seen.method.as_str() {
            "HEAD" => vec![head(status, &[])],
            _ if seen.header("range").is_some() => answer(status, &[], b"no"),
            _ => answer(200, &[], &body),
        })
        .await;
        let repository = repository(&[fake.url()]);
        assert_eq!(repository.find_blob(&digest(&bytes), None).await.unwrap(), BlobHead::Size(Some(1000)), "{status}");
        let absent = [404, 410].contains(&status);
        assert_eq!(repository.head_blob(&digest(&bytes), None).await.is_err(), absent, "{status}");
    }
}

/// A 200 about something else is no yes to a blob that is here: a login page, an application's, another length. The GET decides.
#[tokio::test]
async fn a_page_in_place_of_a_blob_is_no_yes() {
    let bytes = content(1000);
    let named = format!("Docker-Content-Digest: {}", digest(&bytes));
    // What a HEAD and a GET are labelled with, how long the page is, and what comes of it where 1000 bytes are known.
    for (head, get, length, yes) in [
        ("Content-Type: text/html", "Content-Type: text/html; charset=utf-8", 39, false),
        ("Content-Type: application/octet-stream", "Content-Type: application/octet-stream", 39, false),
        ("Content-Type: application/json", "Content-Type: application/json", 39, false),
        // Labels alone refuse nothing.
        ("Content-Type: text/html", "Content-Type: text/html", 1000, true),
        (named.as_str(), "Content-Type: application/json", 39, true),
    ] {
        let (body, case) = (content(length), format!("{head}, {get}, {length}"));
        let (head, get) = (head.to_owned(), get.to_owned());
        let fake =
            Fake::start(move |seen, _| answer(200, &[if seen.method == "HEAD" { &head } else { &get }], &body)).await;
        let repository = repository(&[fake.url()]);
        assert_eq!(repository.head_blob(&digest(&bytes), Some(1000)).await.is_ok(), yes, "{case}");
        assert_eq!(repository.find_blob(&digest(&bytes), Some(1000)).await.is_ok(), yes, "{case}");
    }
}

/// What a mirror says is told from what the registry says.
#[tokio::test]
async fn a_mirrors_yes_is_named() {
    let has = || Fake::start(|_, _| answer(200, &[], &content(1000)));
    let lacks = || Fake::start(|_, _| answer(404, &[], b"{}"));
    for (mirror, registry, expected) in [
        (has().await, lacks().await, BlobHead::Mirrored(Some(1000))),
        (lacks().await, has().await, BlobHead::Size(Some(1000))),
    ] {
        let repository = repository(&[mirror.url(), registry.url()]);
        for known in [None, Some(1000)] {
            assert_eq!(repository.head_blob(&digest(b"x"), known).await.unwrap(), expected);
            assert_eq!(repository.find_blob(&digest(b"x"), known).await.unwrap(), expected);
        }
    }
}

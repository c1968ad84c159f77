//! Blobs of which some is here, at registries that send the whole and not the rest; and redirects whose target refuses them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pierhead_tests::eventually;
use pierhead_tests::http::{Answer, Request, Server, Step};
use pierhead_tests::image::{Blob, Image};
use pierhead_tests::pierhead::{Pierhead, Setup};
use serde_json::json;

use super::layer4::LONG;

const SIZE: usize = 300_000;

fn answer(blob: &Blob) -> Answer {
    Answer::new(200, &[("Accept-Ranges", "bytes")], blob.bytes.clone())
}

/// The half of a blob, and then the end of the connection.
fn broken(blob: &Blob) -> Answer {
    let length = blob.bytes.len().to_string();
    let headers = [("Content-Length", length.as_str()), ("Accept-Ranges", "bytes")];
    Answer::head(200, &headers).then(Step::Send(blob.bytes.slice(..SIZE / 2)))
}

async fn edge_of(upstream: &Server) -> Pierhead {
    let keys = json!({
        "default": true, "retries": 1, "cool_down": "50ms", "resume_for": "200ms", "negative_ttl": "1h", "idle_timeout": "1s",
        "first_byte_timeout": "1s", "redirects_to": ["127.0.0.2"],
    });
    Setup::new().registry_with("up.test", upstream.url(), keys).start().await
}

/// However the rest is refused: a blob that broke off once comes whole the next time, as it does from the registry itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_broke_off_comes_within_the_whole() {
    type Rest = fn() -> Answer;
    let rests: [(&str, Rest); 12] = [
        ("400", || Answer::new(400, &[], "no")),
        ("403", || Answer::new(403, &[], "no")),
        ("404", || Answer::new(404, &[], "no")),
        ("408", || Answer::new(408, &[], "no")),
        ("416", || Answer::new(416, &[("Content-Range", "bytes */7")], "no")),
        ("429", || Answer::new(429, &[("Retry-After", "1")], "no")),
        ("500", || Answer::new(500, &[], "no")),
        ("503", || Answer::new(503, &[], "no")),
        ("a page", || Answer::new(200, &[("Content-Type", "text/html")], "<html>Please log in</html>")),
        ("no content", || Answer::new(204, &[], "")),
        ("a redirect loop", || Answer::new(307, &[("Location", "?")], "")),
        ("the end of the connection", Answer::default),
    ];
    for (what, rest) in rests {
        let blob = Blob::random(1, SIZE);
        let (held, first) = (blob.clone(), AtomicBool::new(true));
        let upstream = Server::start(Ipv4Addr::LOCALHOST, move |request: &Request| match request.range() {
            Some(_) => rest(),
            None if first.swap(false, Ordering::SeqCst) => broken(&held),
            None => answer(&held),
        })
        .await;
        let edge = edge_of(&upstream).await;
        let path = format!("/v2/team/app/blobs/{}", blob.digest);
        let mut pulls = 0;
        // Clients ask again when a body breaks, and after a 429 when `Retry-After` has passed.
        eventually(what, LONG, async || {
            pulls += 1;
            edge.client().blob("team/app", &blob.digest).await.ok()
        })
        .await;
        if what != "429" {
            assert!(pulls <= 3, "{what}: {pulls} pulls");
        }
        let known = upstream.count(|_| true);
        assert_eq!(edge.client().get(&path).await.body, blob.bytes, "{what}");
        assert_eq!(upstream.count(|_| true), known, "{what}: from the cache");
    }
}

/// A redirect's target that refuses what it was redirected for is asked for by a new redirect once, and its refusal is passed on:
/// clients do not repeat it, and nothing is remembered of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_refuses_is_a_refusal_of_the_moment() {
    for status in [401, 403] {
        let blob = Blob::random(1, SIZE);
        let (held, refuses) = (blob.clone(), Arc::new(AtomicBool::new(true)));
        let refusing = Arc::clone(&refuses);
        let target =
            Server::start(Ipv4Addr::new(127, 0, 0, 2), move |_: &Request| match refusing.load(Ordering::SeqCst) {
                true => Answer::new(status, &[], "<Error>AccessDenied</Error>"),
                false => answer(&held),
            })
            .await;
        let location = format!("{}/store?signature=secret", target.url());
        let redirect = move |_: &Request| Answer::new(307, &[("Location", &location)], "");
        let upstream = Server::start(Ipv4Addr::LOCALHOST, redirect).await;
        let edge = edge_of(&upstream).await;
        let path = format!("/v2/team/app/blobs/{}", blob.digest);
        let refused = edge.client().get(&path).await;
        let body = String::from_utf8_lossy(&refused.body);
        assert_eq!(refused.status, 403, "{body}");
        assert!(body.contains("DENIED") && body.contains("up.test") && body.contains(&status.to_string()), "{body}");
        assert!(!body.contains("secret"), "{body}");
        assert_eq!(target.count(|_| true), 2, "{status}: once, and by a new redirect");
        refuses.store(false, Ordering::SeqCst);
        assert_eq!(edge.client().get(&path).await.body, blob.bytes);
    }
}

/// The right to a blob that is here is for a GET to say where a HEAD says a length of 0: also to a stranger who asks by HEAD before.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_a_length_opens_nothing_to_a_stranger() {
    for status in [401, 403, 404, 410, 429, 451, 500, 503] {
        let blob = Blob::random(1, SIZE);
        let held = blob.clone();
        let upstream = Server::start(Ipv4Addr::LOCALHOST, move |request: &Request| {
            let challenge = [("WWW-Authenticate", "Basic realm=\"x\"")];
            match (request.method.as_str(), request.basic()) {
                ("HEAD", _) => Answer::head(200, &[("Content-Length", "0")]),
                (_, None) => Answer::new(401, &challenge, "{}"),
                (_, Some((user, _))) if user == "alice" => answer(&held),
                _ => Answer::new(status, &challenge, "{}"),
            }
        })
        .await;
        let keys = json!({ "default": true, "auth": "passthrough", "retries": 1, "negative_ttl": "1ms" });
        let edge = Setup::new().registry_with("up.test", upstream.url(), keys).start().await;
        let path = format!("/v2/team/app/blobs/{}", blob.digest);
        let alice = edge.client().login("alice", "secret");
        assert_eq!(alice.get(&path).await.body, blob.bytes, "{status}");
        edge.committed(&blob.digest).await;
        for stranger in [edge.client().login("mallory", "secret"), edge.client()] {
            for _ in 0..2 {
                let refused = stranger.get(&path).await;
                assert!(refused.status >= 400, "{status}: {} and {} bytes", refused.status, refused.body.len());
                stranger.head(&path).await;
            }
        }
        assert_eq!(alice.get(&path).await.body, blob.bytes, "{status}: afterwards");
    }
}

/// A blob of which some is here, and which the cache no longer takes, is asked about for each repository: that nothing is stored is no yes.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_here_gives_no_right_to_a_blob() {
    let image = Image::new(7, &[1000]);
    let secret = Blob::random(1, 8 << 20);
    let (held, manifest) = (secret.clone(), image.manifest.clone());
    let upstream = Server::start(Ipv4Addr::LOCALHOST, move |request: &Request| {
        let Some((user, _)) = request.basic() else {
            return Answer::new(401, &[("WWW-Authenticate", "Basic realm=\"x\"")], "{}");
        };
        match (user.as_str(), request.path.as_str()) {
            ("mallory", path) if path.starts_with("/v2/own/app/manifests/") => {
                Answer::new(200, &[("Content-Type", &manifest.media_type)], manifest.blob.bytes.clone())
            }
            ("alice", path) if path.starts_with("/v2/team/secret/blobs/") => match request.range() {
                Some((from, to)) => {
                    let end = to.map_or(held.bytes.len(), |to| usize::try_from(to).unwrap() + 1).min(held.bytes.len());
                    let range = format!("bytes {from}-{}/{}", end - 1, held.bytes.len());
                    Answer::new(
                        206,
                        &[("Content-Range", &range)],
                        held.bytes.slice(usize::try_from(from).unwrap()..end),
                    )
                }
                None => answer(&held),
            },
            _ => Answer::new(404, &[], r#"{"errors":[]}"#),
        }
    })
    .await;
    let keys = json!({ "default": true, "auth": "passthrough", "retries": 1, "negative_ttl": "1ms" });
    let mut edge = Setup::new().registry_with("up.test", upstream.url(), keys).start().await;
    let resized = async |edge: &mut Pierhead, size: &str| {
        edge.stop().await;
        edge.rewrite(|config| config["cache"]["max_size"] = json!(size));
        edge.start_again().await;
    };
    let [alice, mallory] = ["alice", "mallory"].map(|user| move |edge: &Pierhead| edge.client().login(user, "secret"));
    let part = alice(&edge).range("team/secret", &secret.digest, "bytes=0-99").await;
    assert_eq!((part.status, part.body), (206, secret.bytes.slice(..100)));
    resized(&mut edge, "4MiB").await;
    assert_eq!(mallory(&edge).get("/v2/own/app/manifests/latest").await.status, 200);
    let path = format!("/v2/own/app/blobs/{}", secret.digest);
    assert_eq!(mallory(&edge).get(&path).await.status, 404);
    resized(&mut edge, "64MiB").await;
    alice(&edge).blob("team/secret", &secret.digest).await.unwrap();
    edge.committed(&secret.digest).await;
    assert_eq!(mallory(&edge).get("/v2/own/app/manifests/latest").await.status, 200);
    assert_eq!(mallory(&edge).get(&path).await.status, 404);
}

/// A registry that stopped sending parts costs one download of the whole, however many gaps there are.
#[tokio::test(flavor = "multi_thread")]
async fn many_gaps_are_filled_from_one_download() {
    let blob = Blob::random(1, 8 << 20);
    let (held, parts) = (blob.clone(), Arc::new(AtomicBool::new(true)));
    let sends_parts = Arc::clone(&parts);
    let upstream = Server::start(Ipv4Addr::LOCALHOST, move |request: &Request| match request.range() {
        Some((from, Some(to))) if sends_parts.load(Ordering::SeqCst) => {
            let range = format!("bytes {from}-{to}/{}", held.bytes.len());
            let part = held.bytes.slice(usize::try_from(from).unwrap()..=usize::try_from(to).unwrap());
            Answer::new(206, &[("Content-Range", &range)], part)
        }
        Some(_) => Answer::new(500, &[], "no"),
        None => answer(&held),
    })
    .await;
    let edge = edge_of(&upstream).await;
    for number in 0..8 {
        let from = (number << 20) + 100;
        let part = edge.client().range("team/app", &blob.digest, &format!("bytes={from}-{}", from + 999)).await;
        assert_eq!(part.status, 206);
    }
    parts.store(false, Ordering::SeqCst);
    let asked = |whole: bool| upstream.count(|request| request.range().is_none() == whole);
    eventually("the whole", LONG, async || edge.client().blob("team/app", &blob.digest).await.ok()).await;
    assert_eq!(asked(true), 1, "one download of the whole");
}

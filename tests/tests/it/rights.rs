//! Who may have what is in the cache: only whom the registry itself lets pull it, and nobody by a yes to something else. And what is said
//! to be there, to somebody who pushes.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pierhead_tests::http::{Answer, Request, Server, Step};
use pierhead_tests::image::Image;
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::pull::Client;
use reqwest::Method;
use serde_json::{Value, json};

use super::origin::setup as edge_before;

const PASSWORD: &str = "password";

/// What a repository holds, as a registry without a deviation answers.
fn held(image: &Image, request: &Request) -> Answer {
    let Some((_, rest)) = request.path.split_once("/team/app/") else { return Answer::new(200, &[], "{}") };
    let (kind, name) = rest.split_once('/').unwrap();
    let manifest = &image.manifest.blob;
    match kind {
        "manifests" if name == "v1" || name == manifest.digest.to_string() => {
            let digest = manifest.digest.to_string();
            let headers = [("Content-Type", image.manifest.media_type.as_str()), ("Docker-Content-Digest", &digest)];
            Answer::new(200, &headers, manifest.bytes.clone())
        }
        "blobs" => match image.blobs().find(|blob| blob.digest.to_string() == name) {
            Some(blob) => Answer::new(200, &[], blob.bytes.clone()),
            None => Answer::new(404, &[], "{}"),
        },
        "tags" => Answer::new(200, &[], r#"{"name":"team/app","tags":["v1"]}"#),
        "referrers" => {
            let body = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
            Answer::new(200, &[("Content-Type", "application/vnd.oci.image.index.v1+json")], body)
        }
        _ => Answer::new(404, &[], "{}"),
    }
}

fn refused(status: u16) -> Answer {
    let challenge = [("WWW-Authenticate", "Basic realm=\"r\"")];
    Answer::new(status, if status == 401 { &challenge } else { &[] }, r#"{"errors":[]}"#)
}

fn is_content(request: &Request) -> bool {
    ["/manifests/", "/blobs/"].iter().any(|kind| request.path.contains(kind))
}

fn is_of(request: &Request, user: &str) -> bool {
    request.basic().is_some_and(|(name, _)| name == user)
}

async fn edge_of(upstream: Value, keys: Value) -> Pierhead {
    let mut registry = json!({ "name": "up.test", "upstream": upstream, "insecure": true, "default": true });
    registry.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    Setup::new().with("registries", registry).start().await
}

fn passthrough() -> Value {
    json!({ "auth": "passthrough", "negative_ttl": "0s", "retries": 0 })
}

fn shared() -> Value {
    json!({ "negative_ttl": "0s", "retries": 0, "tag_ttl": "1d" })
}

/// The statuses of the tag, of the manifest and of a blob.
async fn looks(client: &Client, image: &Image) -> [u16; 3] {
    let blob = image.blobs().next().unwrap().digest;
    let mut statuses = [0; 3];
    for (at, path) in
        [format!("blobs/{blob}"), format!("manifests/{}", image.digest()), "manifests/v1".to_owned()].iter().enumerate()
    {
        statuses[2 - at] = client.get(&format!("/v2/team/app/{path}")).await.status;
    }
    statuses
}

fn none_of(statuses: [u16; 3]) -> bool {
    statuses.iter().all(|status| *status >= 400)
}

/// Some registries show lists to accounts that may not pull, and refuse them to accounts that may.
#[tokio::test(flavor = "multi_thread")]
async fn lists_say_nothing_about_the_right_to_pull() {
    let image = Image::new(1, &[1000]);
    let lists = ["tags/list".to_owned(), format!("referrers/{}", image.digest())];
    for status in [401, 403] {
        let content = image.clone();
        let upstream = Server::start(Ipv4Addr::LOCALHOST, move |request: &Request| {
            match is_content(request) && !is_of(request, "ann") {
                // Nobody shows an account that is not asked for.
                true => refused(if request.basic().is_none() { 401 } else { status }),
                false => held(&content, request),
            }
        })
        .await;
        let edge = edge_of(json!(upstream.url()), passthrough()).await;
        let [ann, bob] = ["ann", "bob"].map(|name| edge.client().login(name, PASSWORD));
        ann.pull("team/app", "v1").await.unwrap();
        for list in &lists {
            assert_eq!(bob.get(&format!("/v2/team/app/{list}")).await.status, 200, "{list}");
            assert!(none_of(looks(&bob, &image).await), "{status} after {list}");
        }
        // The other way round.
        let (content, closed) = (image.clone(), Arc::new(AtomicBool::new(false)));
        let is_closed = Arc::clone(&closed);
        let upstream = Server::start(Ipv4Addr::LOCALHOST, move |request: &Request| {
            match is_content(request) == is_closed.load(Ordering::SeqCst) {
                true => refused(status),
                false => held(&content, request),
            }
        })
        .await;
        let edge = edge_of(json!(upstream.url()), shared()).await;
        let client = edge.client();
        client.pull("team/app", "v1").await.unwrap();
        for list in &lists {
            assert!(client.get(&format!("/v2/team/app/{list}")).await.status >= 400, "{list}");
            assert_eq!(looks(&client, &image).await, [200; 3], "{status} after {list}");
        }
        closed.store(true, Ordering::SeqCst);
        // The repository is refused, and hidden from now on.
        let absent = format!("manifests/sha256:{}", "0".repeat(64));
        assert!(client.get(&format!("/v2/team/app/{absent}")).await.status >= 400);
        for list in &lists {
            assert_eq!(client.get(&format!("/v2/team/app/{list}")).await.status, 200, "{list}");
            assert!(none_of(looks(&client, &image).await), "{status} after {list}");
        }
    }
}

/// A login page, or an application's, is sent with 200 for any path.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_lets_nobody_in() {
    const PAGE: &str = "<!DOCTYPE html><html>Please log in</html>";
    const ERROR: &str = r#"{"error":"please log in"}"#;
    let image = Image::new(2, &[200_000]);
    fn without_a_length(media_type: &str, body: &'static str) -> Answer {
        Answer::head(200, &[("Content-Type", media_type)]).then(Step::Send(body.into()))
    }
    let pages: [fn() -> Answer; 6] = [
        || Answer::new(200, &[("Content-Type", "text/html; charset=utf-8")], PAGE),
        || Answer::new(200, &[], PAGE),
        || Answer::new(200, &[("Content-Type", "application/json")], ERROR),
        || without_a_length("application/json", ERROR),
        || without_a_length("text/plain", ERROR),
        || without_a_length("text/html", PAGE),
    ];
    for (at, page) in pages.into_iter().enumerate() {
        let content = image.clone();
        let upstream = Server::start(Ipv4Addr::LOCALHOST, move |request: &Request| match request.basic() {
            None => refused(401),
            Some((user, _)) if user == "ann" => held(&content, request),
            Some(_) => page(),
        })
        .await;
        let edge = edge_of(json!(upstream.url()), passthrough()).await;
        let ann = edge.client().login("ann", PASSWORD);
        ann.pull("team/app", "v1").await.unwrap();
        for stranger in [edge.client(), edge.client().login("mallory", PASSWORD)] {
            for _ in 0..2 {
                // By tag it is what upstream answers, and nothing follows from it.
                for tag in ["v1", "anything"] {
                    let answer = stranger.get(&format!("/v2/team/app/manifests/{tag}")).await;
                    assert_ne!(answer.body, image.manifest.blob.bytes, "page {at}");
                }
                let head = stranger.request(Method::HEAD, "/v2/team/app/manifests/v1").send().await.unwrap();
                let named = head.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
                assert_ne!(named, Some(image.digest().to_string().as_str()), "page {at}");
                let digest = format!("/v2/team/app/manifests/{}", image.digest());
                assert!(stranger.get(&digest).await.status >= 400, "page {at}");
                for blob in image.blobs() {
                    let answer = stranger.get(&format!("/v2/team/app/blobs/{}", blob.digest)).await;
                    assert!(answer.status >= 400, "page {at}: a blob of {} bytes", blob.bytes.len());
                }
            }
        }
        assert_eq!(ann.get("/v2/team/app/manifests/v1").await.body, image.manifest.blob.bytes, "page {at}");
    }
}

/// A mirror says by HEAD that it has a blob, and never sends it. That lets no caller have what the registry sent to another.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirrors_word_lets_nobody_have_what_the_registry_sent() {
    let image = Image::new(7, &[1000, 200_000]);
    // How the mirror answers ranges.
    for says in [206, 200] {
        let content = image.clone();
        let mirror = Server::start(Ipv4Addr::LOCALHOST, move |request: &Request| {
            let Some(blob) = content.blobs().find(|blob| request.path.ends_with(&blob.digest.to_string())) else {
                let digest = content.digest().to_string();
                let headers =
                    [("Content-Type", content.manifest.media_type.as_str()), ("Docker-Content-Digest", &digest)];
                return match request.method.as_str() {
                    "HEAD" => Answer::head(200, &[&headers[..], &[("Content-Length", "500")]].concat()),
                    _ => Answer::new(404, &[], "{}"),
                };
            };
            let length = blob.bytes.len();
            let digest = blob.digest.to_string();
            match (request.method.as_str(), request.range().is_some()) {
                ("GET", false) => Answer::new(404, &[], "{}"),
                ("GET", _) if says == 206 => {
                    Answer::new(206, &[("Content-Range", &format!("bytes 0-0/{length}"))], blob.bytes.slice(..1))
                }
                _ => Answer::head(200, &[("Content-Length", &length.to_string()), ("Docker-Content-Digest", &digest)]),
            }
        })
        .await;
        let content = image.clone();
        let registry = Server::start(Ipv4Addr::LOCALHOST, move |request: &Request| match is_of(request, "ann") {
            true => held(&content, request),
            false => refused(401),
        })
        .await;
        let edge = edge_of(json!([mirror.url(), registry.url()]), passthrough()).await;
        let ann = edge.client().login("ann", PASSWORD);
        let path = |repository: &str, kind: &str, name: &str| format!("/v2/{repository}/{kind}/{name}");
        let digest = image.digest().to_string();
        assert_eq!(ann.get(&path("team/app", "manifests", &digest)).await.status, 200, "{says}");
        for blob in image.blobs() {
            ann.blob("team/app", &blob.digest).await.unwrap();
        }
        for stranger in [edge.client(), edge.client().login("mallory", PASSWORD)] {
            for repository in ["team/app", "mallory/other"] {
                for (kind, name) in image.blobs().map(|blob| ("blobs", blob.digest.to_string())).chain([
                    ("manifests", digest.clone()),
                    ("manifests", "v1".to_owned()),
                    ("manifests", "anything".to_owned()),
                ]) {
                    let answer = stranger.get(&path(repository, kind, &name)).await;
                    assert!(answer.status >= 400, "{says}: {repository} {kind} {name} {}", answer.status);
                }
            }
        }
    }
}

/// What a mirror gives to anybody says nothing of what the registry gives.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirrors_yes_is_good_for_what_it_came_with() {
    let (image, public) = (Image::new(3, &[1000]), Image::new(4, &[1000]));
    let pub_digest = format!("/v2/team/app/manifests/{}", public.digest());
    for keys in [passthrough(), shared()] {
        let open = public.clone();
        let mirror = Server::start(Ipv4Addr::LOCALHOST, move |request: &Request| held(&open, request)).await;
        let (content, closed) = (image.clone(), Arc::new(AtomicBool::new(false)));
        let is_closed = Arc::clone(&closed);
        let registry = Server::start(Ipv4Addr::LOCALHOST, move |request: &Request| {
            match is_closed.load(Ordering::SeqCst) && !is_of(request, "ann") {
                true => refused(403),
                false => held(&content, request),
            }
        })
        .await;
        let edge = edge_of(json!([mirror.url(), registry.url()]), keys).await;
        let ann = edge.client().login("ann", PASSWORD);
        let digest = format!("/v2/team/app/manifests/{}", image.digest());
        assert_eq!(ann.get(&digest).await.status, 200);
        for blob in image.blobs() {
            ann.blob("team/app", &blob.digest).await.unwrap();
        }
        closed.store(true, Ordering::SeqCst);
        let absent = format!("/v2/team/app/manifests/sha256:{}", "0".repeat(64));
        // With a shared account nobody is ann.
        let bob = edge.client().login("bob", PASSWORD);
        assert!(bob.get(&absent).await.status >= 400);
        assert_eq!(bob.get(&pub_digest).await.status, 200);
        assert!(bob.get(&digest).await.status >= 400);
        for blob in image.blobs() {
            assert!(bob.get(&format!("/v2/team/app/blobs/{}", blob.digest)).await.status >= 400);
        }
        assert_eq!(bob.get(&pub_digest).await.status, 200);
    }
}

/// By HEAD of their digests, clients that push an index ask which of its manifests are there already: the origin says so, and the cache only
/// while it is away.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_origin_lost_is_not_said_to_be_there() {
    let (image, lost) = (Image::new(5, &[1000]), Arc::new(AtomicBool::new(false)));
    let (content, is_lost) = (image.clone(), Arc::clone(&lost));
    let origin = Server::start(Ipv4Addr::LOCALHOST, move |request: &Request| {
        match is_content(request) && is_lost.load(Ordering::SeqCst) {
            true => Answer::new(404, &[], "{}"),
            false => held(&content, request),
        }
    })
    .await;
    let more = json!({ "hosts": ["registry.test"], "tag_ttl": "1h", "authorization_ttl": "1h", "negative_ttl": "0s" });
    let edge = edge_before([origin.address].into_iter(), more).start().await;
    let client = edge.client();
    client.pull("team/app", "v1").await.unwrap();
    let path = format!("/v2/team/app/manifests/{}", image.digest());
    let head = async || client.request(Method::HEAD, &path).send().await.unwrap().status().as_u16();
    assert_eq!(head().await, 200);
    lost.store(true, Ordering::SeqCst);
    assert_eq!(head().await, 404);
    lost.store(false, Ordering::SeqCst);
    client.pull("team/app", "v1").await.unwrap();
    drop(origin);
    assert_eq!(head().await, 200, "the origin is away");
}

/// A server of the pool that hangs keeps nobody waiting for what is known.
#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_hangs_keeps_no_head_waiting() {
    let (image, hangs) = (Image::new(6, &[1000]), Arc::new(AtomicBool::new(false)));
    let (content, is_hanging) = (image.clone(), Arc::clone(&hangs));
    let origin = Server::start(Ipv4Addr::LOCALHOST, move |request: &Request| {
        match is_content(request) && is_hanging.load(Ordering::SeqCst) {
            true => Answer { prelude: Some(Step::Silence), steps: Vec::new() },
            false => held(&content, request),
        }
    })
    .await;
    let more = json!({ "hosts": ["registry.test"], "tag_ttl": "1h", "authorization_ttl": "1h" });
    let edge = edge_before([origin.address].into_iter(), more).start().await;
    let client = edge.client();
    client.pull("team/app", "v1").await.unwrap();
    hangs.store(true, Ordering::SeqCst);
    let path = format!("/v2/team/app/manifests/{}", image.digest());
    let head = async { client.request(Method::HEAD, &path).send().await.unwrap().status().as_u16() };
    // A server has 30 s for its header.
    let status = tokio::time::timeout(Duration::from_secs(15), head).await.expect("an answer in time");
    assert_eq!(status, 200);
}

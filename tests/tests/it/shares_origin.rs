//! A thousand hostile connections to the origin, beside clients that push, pull and log in: none of theirs fails.

use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use pierhead_tests::clients::Skopeo;
use pierhead_tests::eventually;
use pierhead_tests::hostile::{Attack, Then};
use pierhead_tests::image::{Blob, Image};
use pierhead_tests::origin::{Origin, Setup};
use pierhead_tests::pull::{Client, reply};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Hostile connections of each kind.
const MANY: usize = 1000;
/// Where the attacks come from that are one network's.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Where the others are, and attacks that are one account's.
const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

const PULL_AND_PUSH: &str = "pull,push";

/// An origin with two accounts: ann, who works, and mallory.
struct Stage {
    origin: Origin,
    /// A token of mallory's, for her own repository.
    mallory: String,
    /// A large blob that everybody may read.
    large: Blob,
}

async fn stage(setup: Setup) -> Stage {
    for name in ["ann", "mallory"] {
        setup.user(name, &format!("password of {name}"), &[]).await;
    }
    let origin = setup.start().await;
    let ann = login(&origin, "ann").await;
    let image = Image::new(1, &[1000, 100_000]);
    push(&ann, "first", &image).await;
    let large = Blob::random(7, 8 << 20);
    ann.push_blob("ann/image", &large.digest, large.bytes.clone()).await;
    let public = ann_api(&origin).request(Method::POST, "/api/v1/repository/ann/image/changevisibility");
    let public = reply(public.json(&json!({ "visibility": "public" }))).await.unwrap();
    assert_eq!(public.status, 200, "{}", String::from_utf8_lossy(&public.body));
    let mallory = origin.token("mallory", "password of mallory", &["repository:mallory/image:pull,push"]).await;
    Stage { origin, mallory, large }
}

async fn login(origin: &Origin, name: &str) -> Client {
    let scope = format!("repository:{name}/image:{PULL_AND_PUSH}");
    origin.login(name, &format!("password of {name}"), &[&scope]).await
}

fn ann_api(origin: &Origin) -> Client {
    origin.client().login("ann", "password of ann")
}

async fn push(client: &Client, tag: &str, image: &Image) {
    for blob in image.blobs() {
        client.push_blob("ann/image", &blob.digest, blob.bytes.clone()).await;
    }
    client.push_manifest("ann/image", tag, &image.manifest.media_type, image.manifest.blob.bytes.clone()).await;
}

impl Stage {
    /// All that clients do, several times. Every answer must be the right one.
    async fn work(&self, seed: u64) {
        let anonymous = self.origin.client();
        // A login with a password that was not checked before needs a hash. More than a few wrong ones would have to wait.
        let wrong =
            self.origin.client().login("ann", &format!("not it {seed}")).get("/v2/auth?service=registry.test").await;
        assert_eq!(wrong.status, 401);
        for round in 0..3 {
            let ann = login(&self.origin, "ann").await;
            push(&ann, "next", &Image::new(100 * seed + round, &[5000, 200_000])).await;
            assert!(ann.pull("ann/image", "next").await.unwrap() > 0);
            assert_eq!(ann_api(&self.origin).get("/api/v1/user/").await.status, 200);
            // Without an account.
            let token = anonymous.get("/v2/auth?service=registry.test&scope=repository:ann/image:pull").await;
            let token: Value = serde_json::from_slice(&token.body).unwrap();
            let anonymous = anonymous.clone().bearer(token["token"].as_str().unwrap().to_owned());
            assert!(anonymous.pull("ann/image", "first").await.unwrap() > 0);
        }
        let image = format!("{}/ann/image:first", self.origin.registry);
        Skopeo::new().copy(&image, &["--src-creds", "ann:password of ann"]).await.expect_success();
    }

    async fn attacked(&self, from: Ipv4Addr, first: impl Fn(usize) -> String, then: Then, seed: u64) -> Attack {
        let attack = Attack::begin(MANY, from, self.origin.registry, |number| first(number).into_bytes(), then).await;
        assert_eq!(attack.begun(), MANY);
        self.work(seed).await;
        attack
    }

    fn request(&self, line: &str, length: usize, more: &str) -> String {
        format!(
            "{line} HTTP/1.1\r\nHost: registry.test\r\nAuthorization: Bearer {}\r\nContent-Length: {length}\r\n{more}\r\n",
            self.mallory
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_manifests_that_never_come_keep_none_from_pushing() {
    let stage = stage(Setup::new()).await;
    let more = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n";
    let first = |number| stage.request(&format!("PUT /v2/mallory/image/manifests/t{number}"), 4 << 20, more) + "{";
    drop(stage.attacked(HERE, first, Then::Drip(Duration::from_secs(20)), 1).await);
    drop(stage.attacked(ELSEWHERE, first, Then::Nothing, 2).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_uploads_that_drip_keep_none_from_pushing() {
    let stage = stage(Setup::new()).await;
    let mallory = stage.origin.client().bearer(stage.mallory.clone());
    let mut uploads = Vec::new();
    for _ in 0..100 {
        let begun = reply(mallory.request(Method::POST, "/v2/mallory/image/blobs/uploads/")).await.unwrap();
        assert_eq!(begun.status, 202);
        let location = begun.header("location");
        uploads.push(location.strip_prefix(&mallory.base).unwrap_or(location).to_owned());
    }
    let first = |number: usize| stage.request(&format!("PATCH {}", uploads[number % uploads.len()]), 1 << 20, "") + "a";
    drop(stage.attacked(HERE, first, Then::Drip(Duration::from_secs(20)), 1).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_slow_readers_keep_none_from_reading() {
    let stage = stage(Setup::new()).await;
    let token = stage.origin.client().get("/v2/auth?service=registry.test&scope=repository:ann/image:pull").await;
    let token: Value = serde_json::from_slice(&token.body).unwrap();
    let request = format!(
        "GET /v2/ann/image/blobs/{} HTTP/1.1\r\nHost: registry.test\r\nAuthorization: Bearer {}\r\n\r\n",
        stage.large.digest,
        token["token"].as_str().unwrap()
    );
    for (from, seed) in [(ELSEWHERE, 1), (HERE, 2)] {
        drop(stage.attacked(from, |_| request.clone(), Then::Sip(Duration::from_secs(1)), seed).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_half_sent_requests_keep_none_from_logging_in() {
    let stage = stage(Setup::new()).await;
    let form = "POST /v2/auth HTTP/1.1\r\nHost: registry.test\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                Content-Length: 60000\r\n\r\ngrant_type=password&username=ann";
    let api = "POST /api/v1/organization/ HTTP/1.1\r\nHost: registry.test\r\nContent-Type: application/json\r\n\
               Content-Length: 60000\r\n\r\n{";
    for (from, first, seed) in
        [(HERE, form, 1), (ELSEWHERE, form, 2), (ELSEWHERE, api, 3), (ELSEWHERE, "GET /v2/auth HTTP/1.1\r\nHost", 4)]
    {
        drop(stage.attacked(from, |_| first.to_owned(), Then::Drip(Duration::from_secs(5)), seed).await);
    }
}

/// With fewer places than hostile connections, one network still gets at most four fifths of them, and idle ones give way.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_idle_connections_leave_places_for_others() {
    let stage = stage(Setup::new().set("/limits/max_connections", 500)).await;
    let _attack = stage.attacked(ELSEWHERE, |_| String::new(), Then::Nothing, 1).await;
    let labels = [("kind", "connection")];
    let open = stage.origin.metric("pierhead_origin_requests_running", &labels).await;
    assert!((200.0..450.0).contains(&open), "{open}");
}

/// Few places, all of which slow readers of one network would take: they are cut, and others are served.
#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_lose_their_places_to_those_that_wait() {
    let setup = Setup::new()
        .set("/limits/downloads", json!({ "running": 2, "queued": 20, "wait": "30s" }))
        .set("/limits/lowest_rate", json!({ "bytes_per_second": "1KiB", "grace": "500ms" }));
    let stage = stage(setup).await;
    let token = stage.origin.token("ann", "password of ann", &["repository:ann/image:pull"]).await;
    let request = format!(
        "GET /v2/ann/image/blobs/{} HTTP/1.1\r\nHost: registry.test\r\nAuthorization: Bearer {token}\r\n\r\n",
        stage.large.digest
    );
    let _attack = Attack::begin(4, HERE, stage.origin.registry, |_| request.clone().into_bytes(), Then::Nothing).await;
    let ann = stage.origin.client().bearer(token.clone());
    for _ in 0..3 {
        assert_eq!(ann.blob("ann/image", &stage.large.digest).await.unwrap().size, 8 << 20);
    }
    let slow = [("kind", "download"), ("reason", "slow")];
    assert!(stage.origin.metric("pierhead_origin_refusals_total", &slow).await >= 1.0);
    stage.origin.says(0, "closing slow clients: others wait for room").await;
}

/// An account may have so many uploads open in a repository; another account, and another repository, have their own.
#[tokio::test(flavor = "multi_thread")]
async fn open_uploads_are_bounded() {
    let setup = Setup::new().set("/limits/open_uploads", 3);
    for name in ["ann", "mallory"] {
        setup.user(name, &format!("password of {name}"), &[]).await;
    }
    let origin = setup.start().await;
    let scopes = ["repository:mallory/image:pull,push", "repository:mallory/other:pull,push"];
    let mallory = origin.login("mallory", "password of mallory", &scopes).await;
    let begin = async |client: &Client, repository: &str| {
        reply(client.request(Method::POST, &format!("/v2/{repository}/blobs/uploads/"))).await.unwrap()
    };
    let mut begun = Vec::new();
    for _ in 0..3 {
        let reply = begin(&mallory, "mallory/image").await;
        assert_eq!(reply.status, 202);
        let location = reply.header("location");
        begun.push(location.strip_prefix(&mallory.base).unwrap_or(location).to_owned());
    }
    let refused = begin(&mallory, "mallory/image").await;
    let body: Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!((refused.status, &body["errors"][0]["code"]), (429, &json!("TOOMANYREQUESTS")));
    assert!(body["errors"][0]["message"].as_str().unwrap().contains("3 uploads open"), "{body}");
    assert_ne!(refused.header("retry-after"), "");
    assert_eq!(begin(&mallory, "mallory/other").await.status, 202);
    assert_eq!(begin(&login(&origin, "ann").await, "ann/image").await.status, 202);
    // One that is cancelled makes room for another, and so does one that is finished.
    assert_eq!(reply(mallory.request(Method::DELETE, &begun[0])).await.unwrap().status, 204);
    assert_eq!(begin(&mallory, "mallory/image").await.status, 202);
    assert_eq!(begin(&mallory, "mallory/image").await.status, 429);
    let blob = Blob::new(Bytes::from_static(b"a blob"));
    let separator = if begun[1].contains('?') { '&' } else { '?' };
    let put = mallory.request(Method::PUT, &format!("{}{separator}digest={}", begun[1], blob.digest));
    assert_eq!(reply(put.body(blob.bytes.clone())).await.unwrap().status, 201);
    assert_eq!(begin(&mallory, "mallory/image").await.status, 202);
}

/// A blob that is pushed in one request, and fails: its sender cannot go on with it, so it does not count among the open uploads.
#[tokio::test(flavor = "multi_thread")]
async fn pushes_in_one_request_that_fail_leave_nothing_open() {
    let setup = Setup::new().set("/limits/open_uploads", 3);
    setup.user("mallory", "password of mallory", &[]).await;
    let origin = setup.start().await;
    let scopes = ["repository:mallory/image:pull,push"];
    let token = origin.token("mallory", "password of mallory", &scopes).await;
    let client = origin.client().bearer(token.clone());
    let path = format!("/v2/mallory/image/blobs/uploads/?digest={}", Blob::random(1, 1000).digest);
    for _ in 0..5 {
        let broken = format!(
            "POST {path} HTTP/1.1\r\nHost: registry.test\r\nAuthorization: Bearer {token}\r\nContent-Length: 1000\r\n\r\nabc"
        );
        let mut tcp = TcpStream::connect(origin.registry).await.unwrap();
        tcp.write_all(broken.as_bytes()).await.unwrap();
        tcp.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // It may be closed without an answer.
        let _closed = tcp.read_to_end(&mut answer).await;
        let other = client.request(Method::POST, &path).body("other bytes");
        assert_eq!(reply(other).await.unwrap().status, 400);
        let range = client.request(Method::POST, &path).header("Content-Range", "nonsense").body("other bytes");
        assert!((400..417).contains(&reply(range).await.unwrap().status));
    }
    let begin = async || {
        let begun = reply(client.request(Method::POST, "/v2/mallory/image/blobs/uploads/")).await.unwrap();
        begun.status
    };
    for _ in 0..3 {
        eventually("room for an upload", Duration::from_secs(30), async || (begin().await == 202).then_some(())).await;
    }
}

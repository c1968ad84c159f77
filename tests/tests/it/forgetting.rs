//! What the origin's own API changes, through an edge or past it, and what the edge then knows: nothing of it any more.

use std::time::Duration;

use pierhead_registry::oci::Digest;
use pierhead_tests::eventually;
use pierhead_tests::image::Image;
use pierhead_tests::origin::Origin;
use pierhead_tests::pierhead::Pierhead;
use pierhead_tests::pull::Client;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::origin::setup as edge_before;
use super::origin_acme::{Caller, PASSWORD, acme, caller, origin_with};

/// Of the organisation, and public.
const REPOSITORY: &str = "acme/open";
/// Of the organisation, and private.
const PRIVATE: &str = "acme/app";

/// The organisation with an image in its public repository, and an edge before the origin that believes for an hour what
/// it hears.
async fn behind_an_edge() -> (Origin, Pierhead, Image) {
    let origin = origin_with(&["ann", "bob", "eve", "joe"]).await;
    acme(&origin).await;
    let image = Image::new(1, &[100_000, 1000]);
    push(&origin, "ann", "v1", &image).await;
    let more = json!({
        "hosts": ["registry.test"], "retries": 0,
        "tag_ttl": "1h", "authorization_ttl": "1h", "negative_ttl": "1h",
    });
    let edge = edge_before([origin.registry].into_iter(), more).start().await;
    (origin, edge, image)
}

/// Pushes to the repository, past any edge.
async fn push(origin: &Origin, who: &str, tag: &str, image: &Image) {
    let client = origin.login(who, PASSWORD, &[&format!("repository:{REPOSITORY}:pull,push")]).await;
    push_as(&client, REPOSITORY, tag, image).await;
}

async fn push_as(client: &Client, repository: &str, tag: &str, image: &Image) {
    for blob in image.blobs() {
        client.push_blob(repository, &blob.digest, blob.bytes.clone()).await;
    }
    let manifest = &image.manifest;
    client.push_manifest(repository, tag, &manifest.media_type, manifest.blob.bytes.clone()).await;
}

/// Somebody who pulls from a repository through the edge.
struct Puller(Client, &'static str);

impl Puller {
    /// What a tag means; `None`: there is none for this caller.
    async fn tag(&self, tag: &str) -> Option<Digest> {
        let reply = self.0.manifest(self.1, tag).await.ok()?;
        Some(reply.header("docker-content-digest").parse().unwrap())
    }

    /// Whether the manifest and a layer of an image can be had by their digests.
    async fn has(&self, image: &Image) -> [bool; 2] {
        let manifest = self.0.manifest(self.1, &image.digest().to_string()).await;
        [manifest.is_ok(), self.0.blob(self.1, &image.layers[0].digest).await.is_ok()]
    }

    async fn tags(&self) -> Value {
        let reply = self.0.get(&format!("/v2/{}/tags/list", self.1)).await;
        serde_json::from_slice::<Value>(&reply.body).unwrap()["tags"].take()
    }
}

/// `ann` at the API, and `joe` who pulls, both through the edge.
fn through(edge: &Pierhead) -> (Caller, Puller) {
    let login = |user: &str| edge.client().login(user, PASSWORD);
    (Caller(login("ann")), Puller(login("joe"), REPOSITORY))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_the_api_moves_is_seen_by_the_next_pull() {
    let (mut origin, edge, first) = behind_an_edge().await;
    let second = Image::new(2, &[1000]);
    push(&origin, "ann", "v2", &second).await;
    let (ann, joe) = through(&edge);
    assert_eq!((joe.tag("v1").await, joe.tags().await), (Some(first.digest()), json!(["v1", "v2"])));
    assert_eq!(joe.has(&first).await, [true; 2]);
    let tag = format!("/repository/{REPOSITORY}/tag/v1");
    let meaning = |image: &Image| json!({ "manifest_digest": image.digest().to_string() });
    assert_eq!(ann.put(&tag, meaning(&second)).await.0, 201);
    assert_eq!(joe.tag("v1").await, Some(second.digest()));
    assert_eq!(ann.delete(&tag).await, 204);
    assert_eq!((joe.tag("v1").await, joe.tags().await), (None, json!(["v2"])));
    assert_eq!(ann.post(&format!("{tag}/restore"), meaning(&first)).await.0, 200);
    assert_eq!((joe.tag("v1").await, joe.tags().await), (Some(first.digest()), json!(["v1", "v2"])));
    // What else was known of the repository still is.
    origin.kill().await;
    assert_eq!((joe.tag("v1").await, joe.has(&first).await), (Some(first.digest()), [true; 2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_pull_no_more_is_refused_by_the_next_pull() {
    let (_origin, edge, image) = behind_an_edge().await;
    let (ann, joe) = through(&edge);
    let may = async |may: bool, what: &str| {
        assert_eq!((joe.has(&image).await, joe.tag("v1").await.is_some()), ([may; 2], may), "{what}");
    };
    may(true, "public").await;
    let of = |what: &str| format!("/repository/{REPOSITORY}/{what}");
    assert_eq!(ann.post(&of("changevisibility"), json!({ "visibility": "private" })).await.0, 200);
    may(false, "private").await;
    assert_eq!(ann.put(&of("permissions/user/joe"), json!({ "role": "read" })).await.0, 200);
    may(true, "with a permission").await;
    assert_eq!(ann.delete(&of("permissions/user/joe")).await, 204);
    may(false, "without it").await;
    assert_eq!(ann.put(&of("permissions/team/readers"), json!({ "role": "read" })).await.0, 200);
    may(false, "not of the team").await;
    assert_eq!(ann.put("/organization/acme/team/readers/members/joe", json!({})).await.0, 200);
    may(true, "of the team").await;
    assert_eq!(ann.delete("/organization/acme/team/readers/members/joe").await, 204);
    may(false, "of the team no more").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_deleted_and_made_by_another_is_another() {
    let (origin, edge, old) = behind_an_edge().await;
    let (ann, joe) = through(&edge);
    assert_eq!((joe.tag("v1").await, joe.has(&old).await), (Some(old.digest()), [true; 2]));
    assert_eq!(ann.delete(&format!("/repository/{REPOSITORY}")).await, 204);
    let again = json!({ "namespace": "acme", "repository": "open", "visibility": "public", "description": "" });
    assert_eq!(caller(&origin, "bob").post("/repository", again).await.0, 201);
    let new = Image::new(3, &[2000]);
    push(&origin, "bob", "v1", &new).await;
    assert_eq!((joe.tag("v1").await, joe.has(&new).await), (Some(new.digest()), [true; 2]));
    assert_eq!(joe.has(&old).await, [false; 2]);
    assert!(edge.path_of(&old.layers[0].digest).exists(), "its bytes are gone");
    assert_eq!(ann.delete("/organization/acme").await, 204);
    assert_eq!((joe.tag("v1").await, joe.has(&new).await), (None, [false; 2]));
}

/// Somebody with a token for the private repository, as it is issued just now, at an edge.
async fn with_token(origin: &Origin, edge: &Pierhead, who: &str, actions: &str) -> Puller {
    let token = origin.token(who, PASSWORD, &[&format!("repository:{PRIVATE}:{actions}")]).await;
    Puller(edge.client().bearer(token), PRIVATE)
}

/// The organisation, gone past all edges and made anew by eve.
async fn hand_over(origin: &Origin) {
    assert_eq!(caller(origin, "ann").delete("/organization/acme").await, 204);
    let again = json!({ "name": "acme", "email": "e@acme.test" });
    assert_eq!(caller(origin, "eve").post("/organization/", again).await.0, 201);
}

/// The first token of a new repository makes the edge forget what it knew under its name, but not who may pull there.
#[tokio::test(flavor = "multi_thread")]
async fn who_pushed_and_pulled_once_is_known_when_the_origin_is_away() {
    let mut origin = origin_with(&["ann", "bob"]).await;
    let more = json!({
        "hosts": ["registry.test"], "retries": 0, "offline_policy": "allow_known", "tag_ttl": "1ms",
        "token_keys": { "path": "/keys/services/pierhead/keys", "issuer": "pierhead", "audience": "registry.test" },
    });
    let edge = edge_before([origin.registry].into_iter(), more).start().await;
    edge.metric_until("pierhead_token_keys", &[], |keys| keys >= 1.0).await;
    let image = Image::new(1, &[10_000]);
    // As clients do it: each token by way of the edge, and no second pull.
    let token = async |actions: &str| {
        let ask = format!("/v2/auth?service=registry.test&scope=repository:ann/new:{actions}");
        let reply = edge.client().login("ann", PASSWORD).get(&ask).await;
        let token: Value = serde_json::from_slice(&reply.body).unwrap();
        edge.client().bearer(token["token"].as_str().unwrap().to_owned())
    };
    push_as(&token("pull,push").await, "ann/new", "v1", &image).await;
    token("pull").await.pull("ann/new", "v1").await.unwrap();
    let callers = edge.cache().join("repositories/origin.test/ann/new/_callers");
    eventually("the yes to ann is kept", Duration::from_secs(20), async || callers.exists().then_some(())).await;
    origin.kill().await;
    edge.client().login("ann", PASSWORD).pull("ann/new", "v1").await.unwrap();
    for stranger in [edge.client().login("bob", PASSWORD), edge.client().login("ann", "wrong"), edge.client()] {
        assert!(stranger.manifest("ann/new", "v1").await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_namespace_held_is_not_for_whoever_gets_it_next_though_the_edge_heard_of_nothing() {
    let mut origin = origin_with(&["ann", "bob", "eve"]).await;
    acme(&origin).await;
    let old = Image::new(1, &[100_000, 1000]);
    let pushes = origin.login("ann", PASSWORD, &[&format!("repository:{PRIVATE}:pull,push")]).await;
    push_as(&pushes, PRIVATE, "v1", &old).await;
    let more = json!({
        "hosts": ["registry.test"], "retries": 0,
        "tag_ttl": "1h", "authorization_ttl": "1h", "negative_ttl": "1h",
        "token_keys": { "path": "/keys/services/pierhead/keys", "issuer": "pierhead", "audience": "registry.test" },
    });
    let mut edge = edge_before([origin.registry].into_iter(), more).start().await;
    edge.metric_until("pierhead_token_keys", &[], |keys| keys >= 1.0).await;
    let ann = with_token(&origin, &edge, "ann", "pull").await;
    for _ in 0..2 {
        assert_eq!((ann.tag("v1").await, ann.has(&old).await), (Some(old.digest()), [true; 2]));
    }
    edge.logged("a hit", |line| line["token"] == "granted" && line["outcome"] == "hit").await;

    hand_over(&origin).await;
    // What is known is now known from the disk alone.
    edge.stop().await;
    edge.start_again().await;
    edge.metric_until("pierhead_token_keys", &[], |keys| keys >= 1.0).await;
    // There is no such repository when this token is issued; it makes one.
    let maker = with_token(&origin, &edge, "eve", "pull,push").await;
    assert_eq!((maker.tag("v1").await, maker.has(&old).await), (None, [false; 2]));
    let new = Image::new(2, &[50_000]);
    push_as(&maker.0, PRIVATE, "v2", &new).await;
    assert_eq!((maker.tag("v2").await, maker.has(&new).await), (Some(new.digest()), [true; 2]));
    assert_eq!((maker.tag("v1").await, maker.has(&old).await), (None, [false; 2]));
    edge.logged("not believed", |line| line["token"] == "other_repository").await;

    // One that means what was made is believed by itself, and has what is there.
    let eve = with_token(&origin, &edge, "eve", "pull").await;
    let again = with_token(&origin, &edge, "eve", "pull").await;
    let (at_once, beside, _) = tokio::join!(eve.has(&old), again.has(&old), ann.has(&old));
    assert_eq!((at_once, beside), ([false; 2], [false; 2]));
    assert_eq!((eve.tag("v1").await, eve.has(&old).await), (None, [false; 2]));
    for _ in 0..2 {
        assert_eq!((eve.tag("v2").await, eve.has(&new).await), (Some(new.digest()), [true; 2]));
    }
    // The old one is good for nothing, and takes nothing away from those who may.
    assert_eq!((ann.tag("v2").await, ann.has(&new).await, ann.has(&old).await), (None, [false; 2], [false; 2]));
    assert!(edge.path_of(&old.layers[0].digest).exists(), "its bytes are gone");
    origin.kill().await;
    for restarted in [false, true] {
        if restarted {
            edge.stop().await;
            edge.start_again().await;
            edge.metric_until("pierhead_token_keys", &[], |keys| keys >= 1.0).await;
        }
        assert_eq!((ann.tag("v2").await, ann.has(&new).await, ann.has(&old).await), (None, [false; 2], [false; 2]));
        assert_eq!((eve.tag("v2").await, eve.has(&new).await), (Some(new.digest()), [true; 2]), "{restarted}");
        assert_eq!((eve.tag("v1").await, eve.has(&old).await), (None, [false; 2]), "{restarted}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stranger_asks_and_hangs_up_on_is_not_done() {
    let (mut origin, edge, image) = behind_an_edge().await;
    let (_, joe) = through(&edge);
    assert_eq!((joe.tag("v1").await, joe.has(&image).await), (Some(image.digest()), [true; 2]));
    for (method, path, rest) in [
        ("DELETE", "/api/v1/organization/acme", ""),
        ("DELETE", "/api/v1/repository/acme/open", "content-length: 9\r\n"),
        ("POST", "/api/v1/repository/acme/open/changevisibility", "content-length: 9\r\n"),
        ("DELETE", "/v2/acme/open/manifests/v1", ""),
    ] {
        let mut tcp = TcpStream::connect(edge.registry).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: registry.test\r\n{rest}\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        drop(tcp);
        edge.logged(path, |line| line["method"] == method && (line["path"] == path || line["reference"] == "v1")).await;
    }
    origin.kill().await;
    assert_eq!((joe.tag("v1").await, joe.has(&image).await), (Some(image.digest()), [true; 2]));
}

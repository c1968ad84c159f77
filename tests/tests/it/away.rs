//! What the edge knows of callers while its origin is away, with `offline_policy: allow_known`.

use std::time::Duration;

use pierhead_tests::clients::{Containerd, assert_hashes};
use pierhead_tests::eventually;
use pierhead_tests::image::Image;
use pierhead_tests::origin::Origin;
use pierhead_tests::pierhead::Pierhead;
use pierhead_tests::pull::{Client, reply};
use reqwest::Method;
use serde_json::json;

use super::origin::setup;
use super::origin_acme::{PASSWORD, origin_with};

const LONG: Duration = Duration::from_secs(20);
/// The line by which an origin tells that the edge asked it whether a caller may read.
const QUESTION: &str = "/tags/list";

/// An origin with the private `ann/app`, and an edge before it.
async fn behind_edge(image: &Image) -> (Origin, Pierhead) {
    let origin = origin_with(&["ann"]).await;
    push(&origin, "ann/app", image).await;
    let keys = json!({
        "hosts": ["registry.test"], "offline_policy": "allow_known", "authorization_ttl": "1ms", "tag_ttl": "1ms", "negative_ttl": "1ms", "retries": 0,
    });
    let edge = setup([origin.registry].into_iter(), keys).start().await;
    (origin, edge)
}

async fn push(origin: &Origin, repository: &str, image: &Image) {
    let client = origin.login("ann", PASSWORD, &[&format!("repository:{repository}:pull,push")]).await;
    for blob in image.blobs() {
        client.push_blob(repository, &blob.digest, blob.bytes.clone()).await;
    }
    let manifest = &image.manifest;
    client.push_manifest(repository, "latest", &manifest.media_type, manifest.blob.bytes.clone()).await;
}

/// Waits until the edge has asked the origin whether a caller may read a repository, and heard yes.
async fn learnt(origin: &Origin, repository: &str) {
    let path = format!("/v2/{repository}{QUESTION}");
    origin.logged("the edge's question", |line| line["path"] == path && line["status"] == 200).await;
}

/// Waits until the edge knows that the origin is away.
async fn away(origin: &mut Origin, edge: &Pierhead) {
    origin.kill().await;
    eventually("the origin is away", LONG, async || {
        (edge.client().get("/v2/").await.header("www-authenticate").starts_with("Basic")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_got_its_token_by_a_form_is_known() {
    let image = Image::new(1, &[100_000, 1000]);
    let (mut origin, mut edge) = behind_edge(&image).await;
    let containerd = Containerd::start(edge.registry, &["registry.test"]).await;
    let (name, account) = ("registry.test/ann/app:latest", format!("ann:{PASSWORD}"));
    containerd.pull(name, &["--user", &account]).await.expect_success();
    assert_hashes(&containerd.blobs(), image.blobs());
    edge.logged("a form", |line| line["method"] == "POST" && line["path"] == "/v2/auth").await;
    learnt(&origin, "ann/app").await;
    away(&mut origin, &edge).await;
    edge.stop().await;
    edge.start_again().await;
    for stranger in ["ann:wrong", "eve:x"] {
        containerd.forget(name).await;
        containerd.pull(name, &["--user", stranger]).await.expect_failure();
    }
    containerd.pull(name, &["--user", &account]).await.expect_success();
    for secret in [PASSWORD, "correct+horse", "correct%20horse", "YW5uOm"] {
        assert_eq!(edge.log().count(|line| line.contains(secret)), 0, "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_comes_to_the_origin_as_it_is() {
    let (origin, edge) = behind_edge(&Image::new(1, &[1000])).await;
    let form =
        "grant_type=password&service=registry.test&username=ann&password=correct+horse&scope=repository:ann/app:pull";
    let post = async |client: &Client, body: String| {
        let request = client.request(Method::POST, "/v2/auth");
        reply(request.header("content-type", "application/x-www-form-urlencoded").body(body)).await.unwrap()
    };
    // A form that is too large to be copied still works, as far as the origin takes it.
    for body in [form.to_owned(), format!("{form}&x={}", "y".repeat(65_000)), form.replace("horse", "cow")] {
        let [direct, through] = [post(&origin.client(), body.clone()).await, post(&edge.client(), body).await];
        assert_eq!(through.status, direct.status);
        assert_eq!(through.header("content-type"), direct.header("content-type"));
    }
    learnt(&origin, "ann/app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_account_is_challenged_as_none_is() {
    let image = Image::new(1, &[1000]);
    let (mut origin, edge) = behind_edge(&image).await;
    edge.client().login("ann", PASSWORD).pull("ann/app", "latest").await.unwrap();
    away(&mut origin, &edge).await;
    for client in [edge.client(), edge.client().login("", "")] {
        for (path, status) in [("manifests/latest", 401), ("manifests/never-seen", 503)] {
            let reply = client.get(&format!("/v2/ann/app/{path}")).await;
            assert_eq!(reply.status, status, "{path}");
            assert_eq!(reply.header("www-authenticate").starts_with("Basic"), status == 401, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_cannot_be_forwarded_names_the_pool() {
    let (mut origin, edge) = behind_edge(&Image::new(1, &[1000])).await;
    away(&mut origin, &edge).await;
    for (method, path) in [
        (Method::POST, "/v2/ann/app/blobs/uploads/"),
        (Method::GET, "/v2/auth?service=registry.test"),
        (Method::GET, "/api/v1/discovery"),
    ] {
        let reply = reply(edge.client().request(method, path)).await.unwrap();
        let said = String::from_utf8_lossy(&reply.body).into_owned();
        assert_eq!(reply.status, 503, "{path}: {said}");
        assert!(said.contains("the pool origin cannot be reached or fails: no server "), "{path}: {said}");
        assert!(!said.contains(&origin.registry.port().to_string()), "{path}: {said}");
    }
}

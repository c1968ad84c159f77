//! What the edge knows of callers while its origin is away, with `offline_policy: allow_known`.

use std::time::Duration;

use pierhead_tests::clients::{Containerd, Skopeo, assert_hashes};
use pierhead_tests::docker::Docker;
use pierhead_tests::eventually;
use pierhead_tests::image::Image;
use pierhead_tests::origin::Origin;
use pierhead_tests::pierhead::Pierhead;
use pierhead_tests::pull::{Client, reply};
use reqwest::Method;
use serde_json::{Value, json};

use super::origin::{podman, setup};
use super::origin_acme::{PASSWORD, caller, origin_with};

const LONG: Duration = Duration::from_secs(20);
/// The line by which an origin tells that the edge asked it whether a caller may read.
const QUESTION: &str = "/tags/list";
/// Podman and skopeo send this with a ping, and go on without an account when they are challenged.
const VERSION: (&str, &str) = ("docker-distribution-api-version", "registry/2.0");

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
        let ping = edge.client().get_with("/v2/", &[VERSION]).await;
        (ping.header("www-authenticate").starts_with("Basic")).then_some(())
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

/// Makes a repository of ann's public or private, past any edge.
async fn make(origin: &Origin, repository: &str, visibility: &str) {
    let path = format!("/repository/{repository}/changevisibility");
    assert_eq!(caller(origin, "ann").post(&path, json!({ "visibility": visibility })).await.0, 200);
}

/// The same client with a token from the edge for a scope.
async fn with_token(client: &Client, edge: &Pierhead, scope: &str) -> Client {
    let answer = client.get(&format!("/v2/auth?service=registry.test&scope={scope}")).await;
    assert_eq!(answer.status, 200, "{scope}");
    let answer: Value = serde_json::from_slice(&answer.body).unwrap();
    edge.client().bearer(answer["token"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_repository_needs_no_account() {
    let image = Image::new(1, &[100_000, 1000]);
    let (mut origin, mut edge) = behind_edge(&image).await;
    push(&origin, "ann/open", &image).await;
    make(&origin, "ann/open", "public").await;
    let at = |repository: &str| format!("{}/{repository}:latest", edge.registry);
    let (open, private) = (at("ann/open"), at("ann/app"));
    let skopeo = Skopeo::new();
    skopeo.copy(&open, &[]).await.expect_success();
    skopeo.copy(&private, &[]).await.expect_failure();
    learnt(&origin, "ann/open").await;
    away(&mut origin, &edge).await;
    edge.stop().await;
    edge.start_again().await;
    // No account could log in here, so Docker, which gives up at a challenge, gets none.
    let docker = Docker::start(&[]).await;
    docker.pull(&open).await.expect_success();
    assert_eq!(docker.id(&open).await, image.config.digest.to_string());
    podman(&edge).pull(&open).await.expect_success();
    skopeo.copy(&open, &[]).await.expect_success();
    assert_hashes(&skopeo.blobs(), image.blobs());
    let containerd = Containerd::start(edge.registry, &["registry.test"]).await;
    containerd.pull("registry.test/ann/open:latest", &[]).await.expect_success();
    assert_hashes(&containerd.blobs(), image.blobs());
    for client in [edge.client(), edge.client().login("", "")] {
        client.pull("ann/open", "latest").await.unwrap();
        assert!(client.pull("ann/app", "latest").await.is_err());
    }
    skopeo.copy(&private, &[]).await.expect_failure();
    containerd.pull("registry.test/ann/app:latest", &[]).await.expect_failure();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_everybody_makes_nothing_public() {
    let image = Image::new(1, &[1000]);
    let (mut origin, edge) = behind_edge(&image).await;
    push(&origin, "ann/open", &image).await;
    make(&origin, "ann/open", "public").await;
    edge.client().login("ann", PASSWORD).pull("ann/app", "latest").await.unwrap();
    // The service issues such a token to everybody. For the private repository it grants nothing.
    for scope in
        ["repository:ann/app:pull", "repository:public:pull", "repository:ann/open:pull%20repository:ann/app:pull"]
    {
        let client = with_token(&edge.client(), &edge, scope).await;
        assert!(client.pull("ann/app", "latest").await.is_err(), "{scope}");
    }
    for scope in ["repository:ann/*:pull", "repository:*:pull"] {
        assert_eq!(edge.client().get(&format!("/v2/auth?service=registry.test&scope={scope}")).await.status, 400);
    }
    let form = "service=registry.test&scope=repository:ann/app:pull&grant_type=password&username=&password=";
    let request = edge.client().request(Method::POST, "/v2/auth").body(form);
    reply(request.header("content-type", "application/x-www-form-urlencoded")).await.unwrap();
    with_token(&edge.client(), &edge, "repository:ann/open:pull").await.pull("ann/open", "latest").await.unwrap();
    learnt(&origin, "ann/open").await;
    away(&mut origin, &edge).await;
    let accounts = [("public", ""), ("", "x"), ("ann", ""), ("anonymous", "anonymous"), ("", "")];
    let strangers = accounts.map(|(user, password)| edge.client().login(user, password));
    for stranger in strangers.iter().chain([&edge.client()]) {
        for path in ["manifests/latest".to_owned(), format!("blobs/{}", image.config.digest), "tags/list".to_owned()] {
            let reply = stranger.get(&format!("/v2/ann/app/{path}")).await;
            assert!(matches!(reply.status, 401 | 503), "{path}: {}", reply.status);
        }
    }
    edge.client().pull("ann/open", "latest").await.unwrap();
    // An account is known, whose client needs the challenge.
    assert_eq!(edge.client().get("/v2/").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_private_is_not_public_any_more() {
    let scope = "repository:ann/app:pull";
    for way in ["a token", "no token", "an account's token"] {
        let (mut origin, edge) = behind_edge(&Image::new(1, &[1000])).await;
        make(&origin, "ann/app", "public").await;
        with_token(&edge.client(), &edge, scope).await.pull("ann/app", "latest").await.unwrap();
        learnt(&origin, "ann/app").await;
        make(&origin, "ann/app", "private").await;
        let path = format!("/v2/ann/app{QUESTION}");
        let refusals = || origin.log().count(|line| line.contains(&path) && line.contains("401"));
        let before = refusals();
        let refused = match way {
            "a token" => Some(with_token(&edge.client(), &edge, scope).await),
            "no token" => Some(edge.client()),
            _ => {
                with_token(&edge.client().login("ann", PASSWORD), &edge, scope).await;
                None
            }
        };
        if let Some(client) = refused {
            assert_eq!(client.get("/v2/ann/app/manifests/latest").await.status, 401, "{way}");
        }
        eventually("the edge's question", LONG, async || (refusals() > before).then_some(())).await;
        away(&mut origin, &edge).await;
        let reply = edge.client().get("/v2/ann/app/manifests/latest").await;
        assert!(matches!(reply.status, 401 | 503), "{way}: {}", reply.status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_with_a_wrong_password_fails() {
    let (mut origin, mut edge) = behind_edge(&Image::new(1, &[1000])).await;
    edge.client().login("ann", PASSWORD).pull("ann/app", "latest").await.unwrap();
    away(&mut origin, &edge).await;
    edge.stop().await;
    edge.start_again().await;
    // Of joe nothing is known.
    for (user, password, expected) in
        [("ann", PASSWORD, 200), ("ann", "wrong", 401), ("ann", "", 401), ("joe", "x", 200), ("", "x", 200)]
    {
        let ping = edge.client().login(user, password).get("/v2/").await;
        assert_eq!(ping.status, expected, "{user}:{password}");
        assert_eq!(ping.header("www-authenticate").starts_with("Basic"), expected == 401, "{user}:{password}");
    }
    let podman = podman(&edge);
    let login = async |password: &str| {
        let address = edge.registry.to_string();
        podman.run(&["login", "--tls-verify=false", "-u", "ann", "-p", password, &address]).await
    };
    login("wrong").await.expect_failure();
    login(PASSWORD).await.expect_success();
}

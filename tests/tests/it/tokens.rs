//! Tokens of an origin that the edge verifies by itself: what a hit costs then, and what counts while nobody can be asked.

use std::time::Duration;

use pierhead_tests::clients::Podman;
use pierhead_tests::eventually;
use pierhead_tests::image::{Format, Image};
use pierhead_tests::origin::Setup as OriginSetup;
use pierhead_tests::pierhead::Pierhead;
use pierhead_tests::pull::Client;
use pierhead_tests::registry::DockerRegistry;
use pierhead_tests::token::{ISSUER, Policy, SERVICE, TokenService};
use serde_json::{Value, json};

use super::origin::{front_door, podman, setup as setup_of, stop};

const LONG: Duration = Duration::from_secs(20);
const REPOSITORY: &str = "team/app";

/// Two nodes that want tokens, an edge before them that has the keys, and an image.
async fn behind_keys(more: Value) -> (TokenService, Vec<DockerRegistry>, Pierhead, Image) {
    let policy = Policy::default().user("alice", "alice-password", &[REPOSITORY, "team/new"]).pushes("alice").user(
        "bob",
        "bob-password",
        &["bob/app"],
    );
    let tokens = TokenService::start(policy).await;
    let one = DockerRegistry::with_tokens(&tokens).await;
    let two = one.sibling().await;
    let image = Image::of(Format::Docker, "amd64", 7, &[200_000, 1000]);
    one.push_as(&one.client().bearer(tokens.push_token(REPOSITORY)), REPOSITORY, "latest", &image).await;
    one.push_as(&one.client().bearer(tokens.push_token("bob/app")), "bob/app", "latest", &Image::new(8, &[500])).await;
    let nodes = vec![one, two];
    let mut keys = json!({
        "realms": ["127.0.0.1"], "retries": 0, "negative_ttl": "1ms", "authorization_ttl": "1ms",
        "token_keys": { "url": tokens.keys(), "insecure": true, "issuer": ISSUER, "audience": SERVICE },
    });
    keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let edge = front_door(&nodes, keys).await;
    edge.metric_until("pierhead_token_keys", &[("registry", "origin.test")], |keys| keys == 1.0).await;
    (tokens, nodes, edge, image)
}

async fn asked(nodes: &[DockerRegistry]) -> usize {
    let mut sum = 0;
    for node in nodes {
        sum += node.asked().await;
    }
    sum
}

fn with(edge: &Pierhead, token: String) -> Client {
    edge.client().bearer(token)
}

/// The statuses of all that can be asked about the image.
async fn statuses(client: &Client, image: &Image) -> Vec<u16> {
    let mut statuses = Vec::new();
    for what in [
        "manifests/latest".to_owned(),
        format!("manifests/{}", image.digest()),
        format!("blobs/{}", image.layers[0].digest),
        format!("blobs/{}", image.config.digest),
    ] {
        let reply = client.get_with(&format!("/v2/{REPOSITORY}/{what}"), &[("Accept", "*/*")]).await;
        if reply.status == 401 {
            assert_ne!(reply.header("www-authenticate"), "", "{what}");
        }
        statuses.push(reply.status);
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_that_a_token_grants_asks_the_origin_nothing() {
    let (tokens, mut nodes, mut edge, image) = behind_keys(json!({ "tag_ttl": "1h" })).await;
    with(&edge, tokens.pull_token(REPOSITORY, 300)).pull(REPOSITORY, "latest").await.unwrap();
    let before = asked(&nodes).await;
    // Each token is another caller, whom the origin has never seen.
    for left in 301..306 {
        let client = with(&edge, tokens.pull_token(REPOSITORY, left));
        client.pull(REPOSITORY, "latest").await.unwrap();
        assert_eq!(statuses(&client, &image).await, [200; 4]);
    }
    assert_eq!(asked(&nodes).await, before);
    let line = edge.logged("granted", |line| line["token"] == "granted" && line["outcome"] == "hit").await;
    assert_eq!(line["user"], "puller");
    assert!(edge.metric("pierhead_tokens_total", &[("result", "granted")]).await > 20.0);

    // A token for something else, and none, are asked about, and refused by the origin itself.
    for stranger in
        [with(&edge, tokens.pull_token("bob/app", 300)), edge.client(), with(&edge, "e30.e30.e30".to_owned())]
    {
        assert_eq!(statuses(&stranger, &image).await, [401; 4]);
    }
    assert!(asked(&nodes).await > before);
    edge.metric_until("pierhead_tokens_total", &[("result", "not_granted")], |count| count >= 4.0).await;
    edge.metric_until("pierhead_tokens_total", &[("result", "unverified")], |count| count >= 4.0).await;

    // Nor does it matter whether there is an origin, or a token service, or was one since this edge started.
    stop(&mut nodes).await;
    let (granted, other) = (tokens.pull_token(REPOSITORY, 300), tokens.pull_token("bob/app", 300));
    let expired = tokens.pull_token(REPOSITORY, -60);
    for restarted in [false, true] {
        if restarted {
            edge.stop().await;
            edge.start_again().await;
        }
        with(&edge, granted.clone()).pull(REPOSITORY, "latest").await.unwrap();
        assert_eq!(statuses(&with(&edge, granted.clone()), &image).await, [200; 4]);
        for stranger in [with(&edge, other.clone()), edge.client(), with(&edge, "e30.e30.e30".to_owned())] {
            assert_eq!(statuses(&stranger, &image).await, [503; 4]);
        }
        assert_eq!(statuses(&with(&edge, expired.clone()), &image).await, [401; 4]);
    }
    edge.logged("expired", |line| line["token"] == "expired" && line["status"] == 401).await;
    assert_eq!(edge.log().count(|line| line.contains("eyJ")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_worth_what_its_registry_says() {
    let (tokens, mut nodes, edge, image) = behind_keys(json!({ "tag_ttl": "1ms" })).await;
    // Docker-registry does not know the second key: that it pulls shows who verified its token, and an expired tag that it
    // is the origin whose word counts.
    with(&edge, tokens.pull_token(REPOSITORY, 300)).pull(REPOSITORY, "latest").await.unwrap();
    tokens.rotate();
    let rotated = with(&edge, tokens.pull_token(REPOSITORY, 300));
    let layer = format!("/v2/{REPOSITORY}/blobs/{}", image.layers[0].digest);
    assert_eq!(rotated.get(&layer).await.status, 401, "the key was known before it was made");
    eventually("the key of a token is fetched", LONG, async || {
        let fresh = with(&edge, tokens.pull_token(REPOSITORY, 300));
        (fresh.get(&layer).await.status == 200).then_some(())
    })
    .await;
    let other = with(&edge, tokens.pull_token(REPOSITORY, 310));
    assert_eq!(other.get(&layer).await.status, 200);
    let tag = format!("/v2/{REPOSITORY}/manifests/latest");
    assert_eq!(other.get(&tag).await.status, 401);
    // It was refused once; so it has nothing here that the origin does not give it.
    assert_eq!(other.get(&layer).await.status, 401);

    // While the origin is away, an expired tag is served stale to those whose token is good, as to everybody.
    let good = with(&edge, tokens.pull_token(REPOSITORY, 320));
    edge.logged("the tag is known again or not", |line| line["status"] == 401).await;
    stop(&mut nodes).await;
    assert_eq!(good.get(&layer).await.status, 200);
    // A key that is withdrawn takes its tokens with it.
    let withdrawn = tokens.pull_token(REPOSITORY, 330);
    assert_eq!(with(&edge, withdrawn.clone()).get(&layer).await.status, 200);
    tokens.rotate();
    tokens.withdraw();
    eventually("the new key is fetched, and the old one is forgotten", LONG, async || {
        let fresh = with(&edge, tokens.pull_token(REPOSITORY, 340)).get(&layer).await.status;
        (fresh == 200).then_some(())
    })
    .await;
    assert_eq!(with(&edge, withdrawn).get(&layer).await.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_pulls_what_is_known_without_the_origin_hearing_of_it() {
    let (_tokens, nodes, edge, _image) = behind_keys(json!({ "tag_ttl": "1h" })).await;
    let podman: Podman = podman(&edge);
    podman.login(edge.registry, "alice:alice-password");
    let name = format!("{}/{REPOSITORY}:latest", edge.registry);
    podman.pull(&name).await.expect_success();
    podman.forget().await;
    let (before, pings) = (asked(&nodes).await, pings(&nodes).await);
    podman.pull(&name).await.expect_success();
    // It asks whether there is a registry, and that is all.
    assert_eq!(asked(&nodes).await - before, self::pings(&nodes).await - pings);
    podman.login(edge.registry, "bob:bob-password");
    podman.forget().await;
    podman.pull(&name).await.expect_failure();
}

async fn pings(nodes: &[DockerRegistry]) -> usize {
    let mut sum = 0;
    for node in nodes {
        sum += node.requests("GET", "/v2/").await;
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_origin_publishes_what_its_tokens_are_verified_by() {
    let setup = OriginSetup::new();
    for (user, password) in [("alice", "password of alice"), ("bob", "password of bob")] {
        setup.user(user, password, &[]).await;
    }
    let mut origin = setup.start().await;
    let image = Image::new(9, &[100_000]);
    let pushes = origin.login("alice", "password of alice", &["repository:alice/app:pull,push"]).await;
    for blob in image.blobs() {
        pushes.push_blob("alice/app", &blob.digest, blob.bytes.clone()).await;
    }
    let manifest = &image.manifest;
    pushes.push_manifest("alice/app", "latest", &manifest.media_type, manifest.blob.bytes.clone()).await;
    let keys = json!({ "path": "/keys/services/pierhead/keys", "issuer": "pierhead", "audience": "registry.test" });
    let more = json!({ "tag_ttl": "1h", "retries": 0, "token_keys": keys });
    let edge = setup_of([origin.registry].into_iter(), more).start().await;
    edge.metric_until("pierhead_token_keys", &[], |keys| keys >= 1.0).await;
    let mut first = origin.login("alice", "password of alice", &["repository:alice/app:pull"]).await;
    first.base = edge.url();
    first.pull("alice/app", "latest").await.unwrap();
    let pulls = origin.metric("quay_registry_image_pulls_total", &[]).await;
    let mut second = origin.login("alice", "password of alice", &["repository:alice/app:pull"]).await;
    let mut bob = origin.login("bob", "password of bob", &["repository:alice/app:pull"]).await;
    for client in [&mut second, &mut bob] {
        client.base = edge.url();
    }
    second.pull("alice/app", "latest").await.unwrap();
    assert_eq!(origin.metric("quay_registry_image_pulls_total", &[]).await, pulls);
    assert!(bob.pull("alice/app", "latest").await.is_err());
    origin.kill().await;
    second.pull("alice/app", "latest").await.unwrap();
    assert!(bob.pull("alice/app", "latest").await.is_err());
    edge.logged("a hit", |line| line["token"] == "granted" && line["user"] == "alice" && line["outcome"] == "hit")
        .await;
}

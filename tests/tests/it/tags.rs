//! Tags: fresh, revalidated, moved, stale, deleted.

use std::time::{Duration, Instant};

use pierhead_tests::eventually;
use pierhead_tests::image::Image;
use pierhead_tests::misbehaving::{Misbehaviour, Upstream};
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::pull::Reply;
use pierhead_tests::registry::DockerRegistry;
use serde_json::{Value, json};

const PATH: &str = "/v2/team/app/manifests/latest";

async fn edge_of(upstream: String, more: Value) -> Pierhead {
    let mut keys = json!({ "default": true, "retries": 0, "cool_down": "50ms" });
    keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Setup::new().registry_with("up.test", upstream, keys).start().await
}

async fn get(edge: &Pierhead) -> Reply {
    edge.client().get_with(PATH, &[("Accept", "*/*")]).await
}

/// Asks until the answer has this outcome: a tag's time to live runs on the edge's clock.
async fn get_until(edge: &Pierhead, outcome: &str) -> Reply {
    eventually(&format!("outcome {outcome}"), Duration::from_secs(10), async || {
        let reply = get(edge).await;
        (edge.outcome_of(&reply).await == outcome).then_some(reply)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_tag_is_a_hit() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[1000]);
    registry.push("team/app", "latest", &image).await;
    let edge = edge_of(registry.url(), json!({ "tag_ttl": "1h" })).await;
    let first = get(&edge).await;
    assert_eq!(edge.outcome_of(&first).await, "miss");
    for _ in 0..3 {
        let reply = get(&edge).await;
        assert_eq!(edge.outcome_of(&reply).await, "hit");
        assert_eq!(reply.body, image.manifest.blob.bytes);
        assert_eq!(reply.header("content-type"), image.manifest.media_type);
    }
    assert_eq!(registry.requests("GET", PATH).await, 1);
    assert_eq!(registry.requests("HEAD", PATH).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_tag_is_revalidated_without_its_body() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[1000]);
    registry.push("team/app", "latest", &image).await;
    let edge = edge_of(registry.url(), json!({ "tag_ttl": "1ms" })).await;
    get(&edge).await;
    let reply = get_until(&edge, "revalidated").await;
    assert_eq!((reply.status, reply.header("warning")), (200, ""));
    assert_eq!(reply.body, image.manifest.blob.bytes);
    assert_eq!(registry.requests("GET", PATH).await, 1);
    assert!(registry.requests("HEAD", PATH).await >= 1);

    // Moved: fetched.
    let moved = Image::new(2, &[1000]);
    registry.push("team/app", "latest", &moved).await;
    let reply = get_until(&edge, "miss").await;
    assert_eq!(reply.body, moved.manifest.blob.bytes);
    // What it meant before is still there by its digest.
    assert_eq!(edge.client().manifest("team/app", &image.digest().to_string()).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_upstream_leaves_stale_tags() {
    let mut registry = DockerRegistry::start().await;
    let image = Image::new(1, &[1000]);
    registry.push("team/app", "latest", &image).await;
    let edge = edge_of(registry.url(), json!({ "tag_ttl": "1ms" })).await;
    edge.client().pull("team/app", "latest").await.unwrap();
    registry.stop().await;
    let reply = get_until(&edge, "stale").await;
    assert_eq!((reply.status, &reply.body), (200, &image.manifest.blob.bytes));
    assert!(reply.header("warning").starts_with("110"), "{:?}", reply.headers);
    edge.metric_until("pierhead_requests_total", &[("outcome", "stale"), ("kind", "manifest")], |n| n >= 1.0).await;
    let head = edge.client().head(PATH).await;
    assert_eq!((head.status, head.header("docker-content-digest")), (200, image.digest().to_string().as_str()));
    // All of the image.
    edge.client().pull("team/app", "latest").await.unwrap();
    // What is not here fails, and soon.
    let begun = Instant::now();
    let unknown = edge.client().get("/v2/team/app/manifests/unknown").await;
    assert!(
        unknown.status >= 400 && begun.elapsed() < Duration::from_secs(5),
        "{} {:?}",
        unknown.status,
        begun.elapsed()
    );

    registry.restart().await;
    let back = get_until(&edge, "revalidated").await;
    assert_eq!(back.header("warning"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_tags_can_be_forbidden() {
    let mut registry = DockerRegistry::start().await;
    registry.push("team/app", "latest", &Image::new(1, &[1000])).await;
    let edge = edge_of(registry.url(), json!({ "tag_ttl": "1ms", "stale_if_error": false })).await;
    get(&edge).await;
    registry.stop().await;
    let status = eventually("a failure", Duration::from_secs(10), async || {
        let reply = get(&edge).await;
        (reply.status != 200).then_some(reply.status)
    })
    .await;
    assert!(status >= 500, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_upstream_is_no_answer_and_a_404_is_one() {
    let upstream = Upstream::start().await;
    let image = Image::new(1, &[1000]);
    upstream.hold("team/app", "latest", &image);
    let edge = edge_of(upstream.url(), json!({ "tag_ttl": "1ms", "negative_ttl": "1ms" })).await;
    get(&edge).await;
    for status in [500, 502, 503] {
        upstream.misbehave(Misbehaviour::Failing(status));
        assert_eq!(get_until(&edge, "stale").await.status, 200, "{status}");
    }
    upstream.misbehave(Misbehaviour::None);
    get_until(&edge, "revalidated").await;
    for status in [403, 404] {
        upstream.misbehave(Misbehaviour::Failing(status));
        eventually("refused", Duration::from_secs(10), async || (get(&edge).await.status != 200).then_some(())).await;
        // It stays so when upstream then fails: the answer was an answer.
        upstream.misbehave(Misbehaviour::Failing(500));
        assert_ne!(get(&edge).await.status, 200, "{status}");
        upstream.misbehave(Misbehaviour::None);
        eventually("back", Duration::from_secs(10), async || (get(&edge).await.status == 200).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_tag_is_not_served() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[1000]);
    registry.push("team/app", "latest", &image).await;
    let edge = edge_of(registry.url(), json!({ "tag_ttl": "1ms" })).await;
    let keeping = edge_of(registry.url(), json!({ "tag_ttl": "1ms", "keep_deleted": true })).await;
    assert_eq!((get(&edge).await.status, get(&keeping).await.status), (200, 200));
    registry.delete("team/app", &image.manifest).await;
    eventually("gone", Duration::from_secs(10), async || (get(&edge).await.status == 404).then_some(())).await;
    assert_eq!(edge.client().head(PATH).await.status, 404);
    let kept = get_until(&keeping, "stale").await;
    assert_eq!((kept.status, &kept.body), (200, &image.manifest.blob.bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn immutable_tags_and_digests_are_never_asked_for_again() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[1000]);
    registry.push("team/app", "v1.2.3", &image).await;
    let edge = edge_of(registry.url(), json!({ "tag_ttl": "1ms", "immutable_tags": ["v*.*.*"] })).await;
    let digest = image.digest().to_string();
    for _ in 0..5 {
        edge.client().manifest("team/app", "v1.2.3").await.unwrap();
        edge.client().manifest("team/app", &digest).await.unwrap();
        assert_eq!(edge.client().head("/v2/team/app/manifests/v1.2.3").await.status, 200);
    }
    let tagged = "/v2/team/app/manifests/v1.2.3";
    assert_eq!((registry.requests("GET", tagged).await, registry.requests("HEAD", tagged).await), (1, 0));
    // Known from the tag, so not even fetched once.
    assert_eq!(registry.requests("GET", &format!("/v2/team/app/manifests/{digest}")).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_check_goes_on_behind_the_known_answer() {
    let upstream = Upstream::start().await;
    let (image, moved) = (Image::new(1, &[1000]), Image::new(2, &[1000]));
    upstream.hold("team/app", "latest", &image);
    let edge = edge_of(upstream.url(), json!({ "tag_ttl": "1ms", "revalidate_budget": "100ms" })).await;
    get(&edge).await;
    upstream.hold("team/app", "latest", &moved);
    upstream.misbehave(Misbehaviour::Late(Duration::from_millis(1500)));
    let begun = Instant::now();
    let reply = get(&edge).await;
    assert!(begun.elapsed() < Duration::from_millis(1200), "{:?}", begun.elapsed());
    assert_eq!(reply.body, image.manifest.blob.bytes);
    assert!(reply.header("warning").starts_with("110"), "{:?}", reply.headers);
    assert_eq!(edge.line_of(&reply).await["reason"], "revalidating");
    eventually("the check's answer", Duration::from_secs(20), async || {
        (get(&edge).await.body == moved.manifest.blob.bytes).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_misses_are_one_request() {
    let upstream = Upstream::start().await;
    let image = Image::new(1, &[1000]);
    upstream.hold("team/app", "latest", &image);
    upstream.misbehave(Misbehaviour::Late(Duration::from_millis(500)));
    let edge = edge_of(upstream.url(), json!({})).await;
    let client = edge.client();
    let pulls = (0..30).map(|_| client.manifest("team/app", "latest"));
    for reply in futures_util::future::join_all(pulls).await {
        assert_eq!(reply.unwrap().body, image.manifest.blob.bytes);
    }
    assert_eq!((upstream.count("GET", "/manifests/"), upstream.count("HEAD", "/manifests/")), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_tag_is_asked_for_once() {
    let upstream = Upstream::start().await;
    let edge = edge_of(upstream.url(), json!({ "negative_ttl": "1h" })).await;
    for _ in 0..5 {
        let reply = get(&edge).await;
        assert_eq!(reply.status, 404);
        assert!(String::from_utf8_lossy(&reply.body).contains("MANIFEST_UNKNOWN"));
    }
    assert_eq!(upstream.server.requests().len(), 1);
    // Forgotten after its time.
    let edge = edge_of(upstream.url(), json!({ "negative_ttl": "1ms" })).await;
    assert_eq!(get(&edge).await.status, 404);
    upstream.hold("team/app", "latest", &Image::new(1, &[1000]));
    eventually("found", Duration::from_secs(10), async || (get(&edge).await.status == 200).then_some(())).await;
}

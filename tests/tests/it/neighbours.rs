//! What one client, one repository or one upstream does wrong is not felt by the others, nor for ever.

use std::time::Duration;

use futures_util::StreamExt;
use pierhead_registry::oci::media_type::OCI_MANIFEST;
use pierhead_tests::eventually;
use pierhead_tests::image::{Blob, Image, Manifest};
use pierhead_tests::misbehaving::{Misbehaviour, Upstream};
use pierhead_tests::pierhead::{Pierhead, Setup};
use serde_json::{Value, json};

fn hasty() -> Value {
    json!({
        "default": true, "retries": 0, "cool_down": "50ms", "first_byte_timeout": "5s", "idle_timeout": "500ms",
        "connect_timeout": "1s", "resume_for": "100ms", "negative_ttl": "1m",
    })
}

async fn scene() -> (Upstream, Pierhead) {
    let upstream = Upstream::start().await;
    let setup = Setup::new().registry_with("up.test", upstream.url(), hasty()).set("/cache/max_size", "64MiB");
    (upstream, setup.start().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_lies_about_sizes_evicts_nothing() {
    let (upstream, edge) = scene().await;
    let client = edge.client();
    let kept = Image::new(1, &[8 << 20, 8 << 20]);
    upstream.hold("team/app", "latest", &kept);
    client.pull("team/app", "latest").await.unwrap();

    let blob = Blob::random(2, 1000);
    upstream.hold_blob("evil/app", &blob.digest.to_string(), blob.bytes.clone());
    for size in [60_u64 << 20, i64::MAX as u64] {
        let lie = json!({ "layers": [{ "digest": blob.digest.to_string(), "size": size, "mediaType": "x" }] });
        upstream.hold_manifest("evil/app", "lie", &Manifest::new(OCI_MANIFEST, &lie));
        client.manifest("evil/app", "lie").await.unwrap();
        upstream.forget("evil/app", "lie");
    }
    client.blob("evil/app", &blob.digest).await.unwrap();
    assert_eq!(edge.metric("pierhead_cache_evictions_total", &[]).await, 0.0);
    // Nor does the lie keep the blob out of the cache.
    edge.committed(&blob.digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_to_one_repository_is_none_to_another() {
    let (upstream, edge) = scene().await;
    let blob = Blob::random(1, 100_000);
    upstream.hold_blob("team/app", &blob.digest.to_string(), blob.bytes.clone());
    upstream.misbehave(Misbehaviour::Late(Duration::from_secs(1)));
    let path = format!("/v2/team/other/blobs/{}", blob.digest);
    let (client, other) = (edge.client(), edge.client());
    let stranger = tokio::spawn(async move { other.get(&path).await.status });
    eventually("the first question", Duration::from_secs(10), async || {
        (upstream.count("GET", "team/other") > 0).then_some(())
    })
    .await;
    client.blob("team/app", &blob.digest).await.unwrap();
    assert_eq!(stranger.await.unwrap(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_was_wrong_once_is_forgotten() {
    let (upstream, edge) = scene().await;
    let client = edge.client();
    let blob = Blob::random(1, 3 << 20);
    upstream.hold_blob("team/app", &blob.digest.to_string(), blob.bytes.clone());
    upstream.misbehave(Misbehaviour::WrongLength);
    assert_eq!(client.range("team/app", &blob.digest, "bytes=0-99").await.status, 206);
    upstream.misbehave(Misbehaviour::None);
    eventually("the right blob", Duration::from_secs(10), async || client.blob("team/app", &blob.digest).await.ok())
        .await;
    edge.committed(&blob.digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_had_although_a_download_failed_that_somebody_still_reads() {
    let (upstream, edge) = scene().await;
    let client = edge.client();
    let blob = Blob::random(1, 40 << 20);
    upstream.hold_blob("team/app", &blob.digest.to_string(), blob.bytes.clone());
    upstream.misbehave(Misbehaviour::Stall);
    // One who takes the beginning, and then his time.
    let slow = client.open_blob("team/app", &blob.digest).await.unwrap();
    let mut slow = slow.bytes_stream();
    slow.next().await.unwrap().unwrap();
    eventually("the failure", Duration::from_secs(20), async || {
        edge.log().find(0, |line| line.contains("fill stopped").then_some(()))
    })
    .await;
    upstream.misbehave(Misbehaviour::None);
    let part = client.range("team/app", &blob.digest, "bytes=37000000-37000099").await;
    assert_eq!((part.status, part.body.as_ref()), (206, &blob.bytes[37_000_000..37_000_100]));
    drop(slow);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_costs_no_more_than_the_whole_where_ranges_are_ignored() {
    let (upstream, edge) = scene().await;
    let blob = Blob::random(1, 32 << 20);
    upstream.hold_blob("team/app", &blob.digest.to_string(), blob.bytes.clone());
    upstream.misbehave(Misbehaviour::NoRanges);
    let part = edge.client().range("team/app", &blob.digest, "bytes=1-").await;
    assert!(part.status == 206 && part.body == blob.bytes.slice(1..));
    let asked = upstream.count("GET", "/blobs/");
    assert!(asked <= 2, "{asked} downloads for one part");
    edge.committed(&blob.digest).await;
}

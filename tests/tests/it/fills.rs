//! Fills: one for all who want it, behind whoever reads, durable.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use pierhead_tests::eventually;
use pierhead_tests::image::{Blob, Image};
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::pull::PullError;
use pierhead_tests::registry::DockerRegistry;
use pierhead_tests::wire::{Mode, Wire};
use reqwest::Method;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// A registry that holds one blob in `team/app`, a wire before it, and an edge before that.
struct Scene {
    registry: DockerRegistry,
    wire: Wire,
    edge: Pierhead,
    blob: Blob,
}

impl Scene {
    async fn new(size: u64, more: Value) -> Scene {
        let registry = DockerRegistry::start().await;
        let blob = Blob::random(size, usize::try_from(size).unwrap());
        registry.client().push_blob("team/app", &blob.digest, blob.bytes.clone()).await;
        let wire = Wire::to(registry.address).await;
        let mut keys = json!({ "default": true, "cool_down": "100ms" });
        keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let edge = Setup::new().registry_with("up.test", wire.url(), keys).start().await;
        Scene { registry, wire, edge, blob }
    }

    fn size(&self) -> u64 {
        self.blob.bytes.len() as u64
    }

    /// Starts a pull of the blob in the background.
    fn pull(&self) -> tokio::task::JoinHandle<Result<(), PullError>> {
        let (client, digest) = (self.edge.client(), self.blob.digest);
        tokio::spawn(async move { client.blob("team/app", &digest).await.map(|_| ()) })
    }

    async fn until_carried(&self, bytes: u64) {
        eventually("upstream's bytes", Duration::from_secs(30), async || (self.wire.carried() >= bytes).then_some(()))
            .await;
    }

    /// Asserts that upstream sent each byte once, give or take `slack`.
    fn assert_sent_once(&self, slack: u64) {
        let carried = self.wire.carried();
        assert!(carried <= self.size() + slack, "upstream sent {carried} bytes of {}", self.size());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_cold_clients_are_one_download() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[3 << 20, 2 << 20]);
    registry.push("team/app", "latest", &image).await;
    let wire = Wire::to(registry.address).await;
    wire.limit(5 * MIB);
    let edge = Setup::new().registry_with("up.test", wire.url(), json!({ "default": true })).start().await;
    let client = edge.client();
    let readers = edge.metric_until("pierhead_fill_readers", &[], |readers| readers >= 25.0);
    let fills = edge.metric_until("pierhead_fills_in_progress", &[], |fills| fills >= 1.0);
    let (pulls, ..) = tokio::join!(join_all((0..50).map(|_| client.pull("team/app", "latest"))), readers, fills);
    for blobs in pulls {
        assert_eq!(blobs.unwrap(), 3);
    }
    for blob in image.blobs() {
        assert_eq!(registry.blob_gets("team/app", blob).await, 1);
    }
    assert_eq!(registry.requests("GET", "/v2/team/app/manifests/latest").await, 1);
    assert!(wire.carried() < image.size() + 64 * 1024, "{} of {}", wire.carried(), image.size());
    edge.metric_until("pierhead_fills_in_progress", &[], |fills| fills == 0.0).await;
    assert_eq!(edge.metric("pierhead_fill_readers", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_flow_while_the_fill_runs() {
    let scene = Scene::new(4 * MIB, json!({})).await;
    scene.wire.limit(2 * MIB);
    let first = scene.pull();
    scene.until_carried(2 * MIB).await;
    // Who joins now gets what is here at once, and the rest as it comes.
    let begun = Instant::now();
    let mut half = None;
    let received = scene
        .edge
        .client()
        .blob_watched("team/app", &scene.blob.digest, |size| {
            if size >= 3 * MIB / 2 {
                half.get_or_insert_with(|| begun.elapsed());
            }
        })
        .await
        .unwrap();
    assert!(received.first_byte < Duration::from_millis(500), "{received:?}");
    assert!(half.unwrap() < Duration::from_millis(500), "{half:?}");
    assert!(received.total > Duration::from_millis(500), "{received:?}");
    first.await.unwrap().unwrap();
    scene.assert_sent_once(64 * 1024);
    assert_eq!(scene.registry.blob_gets("team/app", &scene.blob).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_does_not_stop_the_fill() {
    let mut scene = Scene::new(4 * MIB, json!({})).await;
    scene.wire.limit(4 * MIB);
    let mut body = scene.edge.client().open_blob("team/app", &scene.blob.digest).await.unwrap().bytes_stream();
    body.next().await.unwrap().unwrap();
    drop(body);
    scene.edge.committed(&scene.blob.digest).await;
    scene.registry.stop().await;
    scene.wire.set(Mode::Closed).await;
    scene.pull().await.unwrap().unwrap();
    scene.assert_sent_once(64 * 1024);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_slows_nobody() {
    let scene = Scene::new(24 * MIB, json!({})).await;
    // The first caller, who starts the fill, reads nothing.
    let stuck = scene.edge.client().open_blob("team/app", &scene.blob.digest).await.unwrap();
    let received = scene.edge.client().blob("team/app", &scene.blob.digest).await.unwrap();
    assert!(received.total < Duration::from_secs(10), "{received:?}");
    scene.edge.metric_until("pierhead_fills_in_progress", &[], |fills| fills == 0.0).await;
    // It still gets all of it, later.
    assert_eq!(stuck.bytes().await.unwrap(), scene.blob.bytes);
    assert_eq!(scene.registry.blob_gets("team/app", &scene.blob).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_killed_at_half_is_resumed() {
    let mut scene = Scene::new(24 * MIB, json!({})).await;
    scene.wire.limit(16 * MIB);
    let pull = scene.pull();
    scene.until_carried(12 * MIB).await;
    scene.registry.stop().await;
    scene.registry.restart().await;
    pull.await.unwrap().unwrap();
    assert!(scene.wire.accepted() >= 2, "the upstream was not killed in time");
    // It logs what it ended by itself: not the answer that the kill cut.
    assert_eq!(scene.registry.blob_gets("team/app", &scene.blob).await, 1);
    scene.assert_sent_once(64 * 1024);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_resumed_again_and_again() {
    let scene = Scene::new(8 * MIB, json!({})).await;
    scene.wire.limit(16 * MIB);
    let pull = scene.pull();
    for part in 1..=5 {
        scene.until_carried(part * MIB).await;
        scene.wire.cut();
    }
    pull.await.unwrap().unwrap();
    // What was in the kernel's buffers when the connection was reset is sent once more.
    scene.assert_sent_once(5 * 512 * 1024);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_killed_resumes_its_fill() {
    const RATE: u64 = 4 * MIB;
    let mut scene = Scene::new(12 * MIB, json!({})).await;
    scene.wire.limit(RATE);
    for part in [6, 10] {
        let pull = scene.pull();
        scene.until_carried(part * MIB).await;
        scene.edge.kill().await;
        assert!(matches!(pull.await.unwrap(), Err(PullError::Broken(_))));
        scene.edge.start_again().await;
    }
    scene.wire.limit(0);
    scene.pull().await.unwrap().unwrap();
    // What came in the last moment before a kill may not have been noted.
    scene.assert_sent_once(2 * RATE * 5 / 4);
    // Killed after the commit: nothing is asked for again.
    let asked = scene.registry.blob_gets("team/app", &scene.blob).await;
    scene.edge.kill().await;
    scene.edge.start_again().await;
    scene.pull().await.unwrap().unwrap();
    assert_eq!(scene.registry.blob_gets("team/app", &scene.blob).await, asked);
}

/// Docker resumes its pull with an open-ended range. What a kill lost before the range's start is fetched as well, without a request.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_killed_fills_what_a_resumed_pull_leaves_out() {
    let mut scene = Scene::new(16 * MIB, json!({})).await;
    scene.wire.limit(4 * MIB);
    let path = format!("/v2/team/app/blobs/{}", scene.blob.digest);
    // Two kills, each of which loses something. Clients are ahead of what was noted of the blob by chance: a MiB makes sure of a gap.
    let mut body = scene.edge.client().open_blob("team/app", &scene.blob.digest).await.unwrap().bytes_stream();
    let mut position = 0;
    for part in [4 * MIB, 8 * MIB] {
        while position < part {
            position += body.next().await.unwrap().unwrap().len() as u64;
        }
        scene.edge.kill().await;
        scene.edge.start_again().await;
        position += MIB;
        let range = format!("bytes={position}-");
        let response = scene.edge.client().request(Method::GET, &path).header("Range", range).send().await.unwrap();
        assert_eq!(response.status(), 206);
        body = response.bytes_stream();
    }
    let mut rest = Vec::new();
    while let Some(bytes) = body.next().await {
        rest.extend_from_slice(&bytes.unwrap());
    }
    assert!(rest == scene.blob.bytes[usize::try_from(position).unwrap()..], "wrong bytes after {position}");
    scene.edge.committed(&scene.blob.digest).await;
    // What was on its way when the edge was killed is sent once more, and so is what was not noted.
    scene.assert_sent_once(6 * MIB);
    scene.registry.stop().await;
    scene.wire.set(Mode::Closed).await;
    scene.pull().await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_stopped_keeps_what_it_had() {
    let mut scene = Scene::new(16 * MIB, json!({})).await;
    scene.edge.reconfigure("/drain_timeout", "100ms");
    scene.edge.stop().await;
    scene.edge.start_again().await;
    scene.wire.limit(8 * MIB);
    let pull = scene.pull();
    scene.until_carried(8 * MIB).await;
    scene.edge.terminate();
    scene.edge.wait(Duration::from_secs(10)).await;
    assert!(pull.await.unwrap().is_err());
    scene.wire.limit(0);
    scene.edge.start_again().await;
    scene.pull().await.unwrap().unwrap();
    scene.assert_sent_once(2 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_during_many_fills_leave_nothing_wrong() {
    let registry = DockerRegistry::start().await;
    let images: Vec<Image> = (1..=4).map(|seed| Image::new(seed, &[1 << 20, 700_000, 50_000])).collect();
    for (number, image) in images.iter().enumerate() {
        registry.push("team/app", &format!("v{number}"), image).await;
    }
    let wire = Wire::to(registry.address).await;
    wire.limit(6 * MIB);
    let mut edge = Setup::new().registry_with("up.test", wire.url(), json!({ "default": true })).start().await;
    for round in 1..=6 {
        let client = edge.client();
        let pulls: Vec<_> = (0..images.len())
            .map(|number| {
                let client = client.clone();
                // A wrong blob ends the test; a broken one is what a kill makes.
                tokio::spawn(async move { client.pull("team/app", &format!("v{number}")).await.is_ok() })
            })
            .collect();
        let target = wire.carried() + round * 150_000;
        eventually("some bytes, or all of them", Duration::from_secs(20), async || {
            (wire.carried() >= target || pulls.iter().all(tokio::task::JoinHandle::is_finished)).then_some(())
        })
        .await;
        edge.kill().await;
        for pull in pulls {
            pull.await.unwrap();
        }
        edge.start_again().await;
    }
    wire.limit(0);
    for number in 0..images.len() {
        edge.client().pull("team/app", &format!("v{number}")).await.unwrap();
    }
    let all: u64 = images.iter().map(Image::size).sum();
    assert!(wire.carried() < all * 2, "{} of {all}", wire.carried());
    // Partials do not stay behind.
    eventually("no partials", Duration::from_secs(10), async || {
        let partials = std::fs::read_dir(edge.cache().join("partial")).map_or(0, Iterator::count);
        (partials == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_is_filled_over_several_connections() {
    let scene = Scene::new(40 * MIB, json!({ "parallel_above": "1MiB", "connections_per_upstream": 3 })).await;
    // One that no manifest announced comes over one connection, for that is open before its size is known.
    scene.wire.limit(80 * MIB);
    scene.pull().await.unwrap().unwrap();
    assert_eq!(scene.registry.blob_gets("team/app", &scene.blob).await, 1);
    scene.assert_sent_once(64 * 1024);
    let image = Image::new(9, &[40 << 20]);
    scene.registry.push("team/app", "latest", &image).await;
    scene.edge.client().manifest("team/app", "latest").await.unwrap();
    // The connection that the manifest came over is none of the blob's.
    scene.wire.cut();
    let scene = Scene { blob: image.layers[0].clone(), ..scene };
    let before = scene.wire.carried();
    scene.wire.limit(40 * MIB);
    scene.pull().await.unwrap().unwrap();
    let gets = scene.registry.blob_gets("team/app", &scene.blob).await;
    assert!(gets >= 2, "{gets} requests");
    assert!((2..=3).contains(&scene.wire.most()), "{} connections at a time", scene.wire.most());
    let carried = scene.wire.carried() - before;
    assert!(carried <= scene.size() + MIB, "upstream sent {carried} bytes of {}", scene.size());
    // The same is whole after a kill in the middle.
    let other = Blob::random(77, 40 << 20);
    scene.registry.client().push_blob("team/app", &other.digest, other.bytes.clone()).await;
    let mut scene = Scene { blob: other, ..scene };
    let before = scene.wire.carried();
    let pull = scene.pull();
    scene.wire.limit(12 * MIB);
    scene.until_carried(before + 20 * MIB).await;
    scene.edge.kill().await;
    assert!(pull.await.unwrap().is_err());
    scene.edge.start_again().await;
    scene.wire.limit(0);
    scene.pull().await.unwrap().unwrap();
    let carried = scene.wire.carried() - before;
    assert!(carried <= scene.size() + 15 * MIB, "upstream sent {carried} bytes of {}", scene.size());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_address_takes_over() {
    let image = Image::new(1, &[6 << 20]);
    let (mut first, second) = (DockerRegistry::start().await, DockerRegistry::start().await);
    for registry in [&first, &second] {
        registry.push("team/app", "latest", &image).await;
    }
    let (mut one, two) = (Wire::to(first.address).await, Wire::to(second.address).await);
    one.limit(6 * MIB);
    let keys = json!({
        "default": true, "insecure": true, "cool_down": "1h", "connect_timeout": "1s",
        "upstream": [one.url(), two.url()],
    });
    let edge = Setup::new().registry_with("up.test", "", keys).start().await;
    let (client, digest) = (edge.client(), image.layers[0].digest);
    edge.client().manifest("team/app", "latest").await.unwrap();
    let pull = tokio::spawn(async move { client.blob("team/app", &digest).await });
    eventually("half", Duration::from_secs(20), async || (one.carried() > 3 * MIB).then_some(())).await;
    first.stop().await;
    one.set(Mode::Closed).await;
    one.cut();
    pull.await.unwrap().unwrap();
    let sum = one.carried() + two.carried();
    assert!(two.carried() > MIB && sum < image.size() + MIB, "{} and {}", one.carried(), two.carried());
    // The dead one is left alone from now on.
    let errors = edge.metric("pierhead_upstream_errors_total", &[]).await;
    for seed in 10..15 {
        let blob = Blob::random(seed, 1000);
        second.client().push_blob("team/app", &blob.digest, blob.bytes).await;
        edge.client().blob("team/app", &blob.digest).await.unwrap();
    }
    let more = edge.metric("pierhead_upstream_errors_total", &[]).await - errors;
    assert!(more <= 1.0, "{more} further attempts at a dead address");
}

//! The store: what it keeps, what it forgets, and what it survives.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use pierhead_registry::oci::{Algorithm, Digest};
use pierhead_tests::eventually;
use pierhead_tests::image::{Blob, Format, Image, Index};
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::pull::PullError;
use pierhead_tests::registry::DockerRegistry;
use serde_json::json;

/// The size of a cache that is too small.
const LIMIT: u64 = 12 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn everything_still_pulls_without_its_index_and_without_upstream() {
    let mut registry = DockerRegistry::start().await;
    let image = Image::new(1, &[200_000, 1000]);
    let (oci, docker) = (Index::new(Format::Oci, 2, 50_000), Index::new(Format::Docker, 3, 50_000));
    registry.push("team/app", "latest", &image).await;
    registry.push("team/app", "v1", &Image::of(Format::Docker, "amd64", 4, &[1000])).await;
    registry.push_index("multi/oci", "latest", &oci).await;
    registry.push_index("multi/docker", "latest", &docker).await;
    let keys = json!({ "default": true, "retries": 0, "tag_ttl": "1ms" });
    let mut edge = Setup::new().registry_with("up.test", registry.url(), keys).start().await;
    let pulls = [
        ("team/app", "latest".to_owned()),
        ("team/app", "v1".to_owned()),
        ("team/app", image.digest().to_string()),
        ("multi/oci", "latest".to_owned()),
        ("multi/docker", docker.digest().to_string()),
    ];
    for (repository, reference) in &pulls {
        edge.client().pull(repository, reference).await.unwrap();
    }
    assert_eq!(edge.client().get("/v2/team/app/tags/list").await.status, 200);
    let blob = Blob::random(9, 10_000);
    registry.client().push_blob("other/app", &blob.digest, blob.bytes.clone()).await;
    edge.client().blob("other/app", &blob.digest).await.unwrap();
    registry.stop().await;
    let entries = edge.metric("pierhead_cache_entries", &[]).await;
    let bytes = edge.metric("pierhead_cache_bytes", &[]).await;
    for how in ["whole", "index deleted", "index corrupt", "index deleted after a kill"] {
        if how == "index deleted after a kill" {
            edge.kill().await;
        } else {
            edge.stop().await;
        }
        let index = edge.cache().join("index");
        match how {
            "whole" => {}
            "index corrupt" => overwrite_all(&index),
            _ => std::fs::remove_dir_all(&index).unwrap(),
        }
        edge.start_again().await;
        for (repository, reference) in &pulls {
            let pulled = edge.client().pull(repository, reference).await;
            assert!(pulled.is_ok(), "{how}: {repository} {reference}: {pulled:?}");
        }
        edge.client().blob("other/app", &blob.digest).await.unwrap();
        assert_eq!(edge.client().get("/v2/team/app/tags/list").await.status, 200, "{how}");
        assert_eq!(edge.metric("pierhead_cache_entries", &[]).await, entries, "{how}");
        assert_eq!(edge.metric("pierhead_cache_bytes", &[]).await, bytes, "{how}");
        // What belongs to one repository did not come to belong to all.
        let foreign = format!("/v2/team/app/blobs/{}", blob.digest);
        assert_ne!(edge.client().get(&foreign).await.status, 200, "{how}");
    }
}

fn overwrite_all(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        if entry.metadata().unwrap().is_dir() {
            overwrite_all(&entry.path());
        } else {
            let length = usize::try_from(entry.metadata().unwrap().len()).unwrap();
            std::fs::write(entry.path(), vec![0xa5; length]).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_eviction_under_load_never_breaks_a_pull() {
    let mut registry = DockerRegistry::start().await;
    let images = crowd(&registry).await;
    let pinned = Image::new(500, &[700_000]);
    registry.push("team/pinned", "keep", &pinned).await;
    registry.push("team/reading", "latest", &Image::new(501, &[3 << 20])).await;
    let reading = Image::new(501, &[3 << 20]).layers[0].clone();
    let keys = json!({ "default": true, "retries": 0, "pin": ["team/pinned:keep"], "cool_down": "50ms" });
    let edge = Setup::new().registry_with("up.test", registry.url(), keys).set("/cache/max_size", LIMIT).start().await;
    edge.client().pull("team/pinned", "keep").await.unwrap();
    // A reader that takes its time while everything around it is evicted.
    edge.client().pull("team/reading", "latest").await.unwrap();
    let slow = edge.client().open_blob("team/reading", &reading.digest).await.unwrap();

    let (most, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let sampler = {
        let (cache, most, over) = (edge.cache(), Arc::clone(&most), Arc::clone(&over));
        tokio::task::spawn_blocking(move || {
            while !over.load(Ordering::SeqCst) {
                most.fetch_max(at_once(&cache), Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(2));
            }
        })
    };
    pull_in_turns(&edge, images.len()).await;
    assert_eq!(slow.bytes().await.unwrap(), reading.bytes);
    over.store(true, Ordering::SeqCst);
    sampler.await.unwrap();
    let most = most.load(Ordering::SeqCst);
    assert!(most <= LIMIT + LIMIT / 100, "{most} bytes on disk, {LIMIT} allowed");
    assert!(most > LIMIT / 2, "{most} bytes on disk: the cache was hardly used");
    assert!(edge.metric("pierhead_cache_evictions_total", &[]).await >= 10.0);
    let counted = edge.metric("pierhead_cache_bytes", &[]).await;
    let found = contents(&edge.cache()) as f64;
    assert!((counted - found).abs() <= 0.02 * found, "counted {counted}, found {found}");

    // With upstream gone, what was pinned is here.
    registry.stop().await;
    edge.client().pull("team/pinned", "keep").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_eviction_leaves_whole_images() {
    let mut registry = DockerRegistry::start().await;
    let images = crowd(&registry).await;
    let keys = json!({ "default": true, "retries": 0, "cool_down": "50ms" });
    let edge = Setup::new().registry_with("up.test", registry.url(), keys).set("/cache/max_size", LIMIT).start().await;
    pull_in_turns(&edge, images.len()).await;
    registry.stop().await;
    let mut whole = 0;
    for (number, image) in images.iter().enumerate() {
        match edge.client().pull("team/app", &format!("v{number}")).await {
            Ok(_) => whole += 1,
            Err(error) => {
                assert!(matches!(error, PullError::Status(_)), "{error:?}");
                let path = format!("/v2/team/app/manifests/v{number}");
                let manifest = edge.client().get_with(&path, &[("Accept", "*/*")]).await;
                assert_ne!(manifest.status, 200, "v{number} outlived its blobs: {}", what_is_here(&edge, image));
            }
        }
    }
    assert!(whole >= 3, "{whole} images are left");
}

/// Which parts of an image are committed, for the message of a failure.
fn what_is_here(edge: &Pierhead, image: &Image) -> String {
    let parts = std::iter::once(&image.manifest.blob).chain(image.blobs());
    let here: Vec<String> =
        parts.map(|part| format!("{} {}", part.digest, edge.path_of(&part.digest).exists())).collect();
    here.join(", ")
}

/// More images than [`LIMIT`] holds, which share a layer.
async fn crowd(registry: &DockerRegistry) -> Vec<Image> {
    let shared = Blob::layer(999, 600_000);
    let images: Vec<Image> = (1..=16)
        .map(|seed| {
            let layers = vec![shared.clone(), Blob::layer(seed, 900_000), Blob::layer(seed + 100, 300_000)];
            Image::from_layers(Format::Oci, "amd64", layers)
        })
        .collect();
    for (number, image) in images.iter().enumerate() {
        registry.push("team/app", &format!("v{number}"), image).await;
    }
    images
}

/// Pulls all of them several times, four at a time.
async fn pull_in_turns(edge: &Pierhead, images: usize) {
    let next = AtomicUsize::new(0);
    let worker = async || {
        loop {
            let number = next.fetch_add(1, Ordering::SeqCst);
            if number >= 96 {
                return;
            }
            // Coprime steps visit all of them, never in an order that a cache likes.
            let tag = format!("v{}", number * 7 % images);
            edge.client().pull("team/app", &tag).await.unwrap_or_else(|error| panic!("{tag}: {error:?}"));
        }
    };
    tokio::join!(worker(), worker(), worker(), worker());
}

/// Bytes of blobs, manifests and partials on disk at one moment, while files come and go: the end of a look around. What was found on the way counts once, by
/// whatever names it was met, and only if it still has one at the end, so that it never counts beside what took its place.
fn at_once(cache: &Path) -> u64 {
    let mut found = HashMap::new();
    PARTS.iter().for_each(|part| look_around(&cache.join(part), &mut found));
    let left = found.into_values().filter(|(file, _)| file.metadata().unwrap().nlink() > 0);
    left.map(|(_, bytes)| bytes).sum()
}

/// Opens the files below a directory, by their numbers. A number is not given again for as long as its file is open.
fn look_around(dir: &Path, found: &mut HashMap<u64, (File, u64)>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        // It may have gone by now.
        let Ok(file) = File::open(&path) else { continue };
        let about = file.metadata().unwrap();
        if about.is_dir() {
            look_around(&path, found);
        } else {
            found.entry(about.ino()).or_insert((file, about.len().min(about.blocks() * 512)));
        }
    }
}

/// Where blobs, manifests and partials lie.
const PARTS: [&str; 3] = ["blobs", "partial", "tmp"];

/// Bytes of blobs, manifests and partials on disk, while nothing moves.
fn contents(cache: &Path) -> u64 {
    PARTS.iter().map(|part| pierhead_tests::pierhead::usage(&cache.join(part))).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_the_cache_is_passed_through() {
    let registry = DockerRegistry::start().await;
    let (small, large) = (Image::new(1, &[100_000]), Image::new(2, &[6 << 20]));
    registry.push("team/app", "small", &small).await;
    registry.push("team/app", "large", &large).await;
    let edge = Setup::new()
        .registry_with("up.test", registry.url(), json!({ "default": true }))
        .set("/cache/max_size", "2MiB")
        .start()
        .await;
    edge.client().pull("team/app", "small").await.unwrap();
    edge.client().pull("team/app", "large").await.unwrap();
    edge.logged("a bypass", |line| line["outcome"] == "bypass" && line["kind"] == "blob").await;
    assert!(contents(&edge.cache()) <= (2 << 20) + (2 << 20) / 100, "{}", contents(&edge.cache()));
    // It evicted nothing for nothing.
    edge.client().pull("team/app", "small").await.unwrap();
    assert_eq!(registry.blob_gets("team/app", &small.layers[0]).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_blob_is_fetched_again() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[300_000]);
    registry.push("team/app", "latest", &image).await;
    let edge = Setup::new()
        .registry_with("up.test", registry.url(), json!({ "default": true }))
        .set("/cache/verify_on_read", true)
        .start()
        .await;
    let layer = &image.layers[0];
    let client = edge.client();
    client.pull("team/app", "latest").await.unwrap();
    let file = edge.committed(&layer.digest).await;
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[200_000] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    // A wrong blob ends the test in here; a pull that breaks off at the last moment may be tried again.
    eventually("a good pull", Duration::from_secs(20), async || client.blob("team/app", &layer.digest).await.ok())
        .await;
    client.blob("team/app", &layer.digest).await.unwrap();
    assert!(edge.metric("pierhead_verification_failures_total", &[("where", "disk")]).await >= 1.0);
    assert_eq!(registry.blob_gets("team/app", layer).await, 2);
    assert_eq!(pierhead_tests::pull::hash_file(&edge.committed(&layer.digest).await), layer.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_short_blob_is_fetched_again() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[300_000, 200_000]);
    registry.push("team/app", "latest", &image).await;
    let mut edge = Setup::new().registry_with("up.test", registry.url(), json!({ "default": true })).start().await;
    edge.client().pull("team/app", "latest").await.unwrap();
    std::fs::remove_file(edge.committed(&image.layers[0].digest).await).unwrap();
    shorten(&edge.committed(&image.layers[1].digest).await);
    edge.client().pull("team/app", "latest").await.unwrap();
    for layer in &image.layers {
        assert_eq!(registry.blob_gets("team/app", layer).await, 2);
        edge.committed(&layer.digest).await;
    }
    // A manifest too.
    std::fs::remove_file(edge.committed(&image.digest()).await).unwrap();
    edge.kill().await;
    edge.start_again().await;
    edge.client().pull("team/app", "latest").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_lost_its_end_in_a_crash_is_fetched_again() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[200_000]);
    registry.push("team/app", "latest", &image).await;
    let mut edge = Setup::new().registry_with("up.test", registry.url(), json!({ "default": true })).start().await;
    for index_lost in [false, true] {
        edge.client().pull("team/app", "latest").await.unwrap();
        let file = edge.committed(&image.layers[0].digest).await;
        edge.kill().await;
        shorten(&file);
        if index_lost {
            std::fs::remove_dir_all(edge.cache().join("index")).unwrap();
        }
        edge.start_again().await;
        // What is served whole and wrong ends the test in here.
        edge.client().pull("team/app", "latest").await.unwrap();
    }
}

/// What a crash may leave of a file that was not synced.
fn shorten(file: &Path) {
    std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(100_000).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_finds_what_has_rotted() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[300_000]);
    registry.push("team/app", "latest", &image).await;
    let mut edge = Setup::new().registry_with("up.test", registry.url(), json!({ "default": true })).start().await;
    edge.client().pull("team/app", "latest").await.unwrap();
    let layer = &image.layers[0];
    let file = edge.committed(&layer.digest).await;
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    edge.stop().await;
    edge.reconfigure("/cache/scrub_interval", "1s");
    edge.start_again().await;
    edge.metric_until("pierhead_verification_failures_total", &[("where", "disk")], |failures| failures >= 1.0).await;
    edge.client().pull("team/app", "latest").await.unwrap();
    assert_eq!(registry.blob_gets("team/app", layer).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn sha512_is_as_good_as_sha256() {
    let mut registry = DockerRegistry::start().await;
    let bytes = Blob::random(1, 300_000).bytes;
    let digest = Digest::of(Algorithm::Sha512, &bytes);
    registry.client().push_blob("team/app", &digest, bytes.clone()).await;
    let mut edge = Setup::new().registry_with("up.test", registry.url(), json!({ "default": true })).start().await;
    edge.client().blob("team/app", &digest).await.unwrap();
    edge.committed(&digest).await;
    registry.stop().await;
    edge.kill().await;
    edge.start_again().await;
    edge.client().blob("team/app", &digest).await.unwrap();
    let part = edge.client().range("team/app", &digest, "bytes=5-9").await;
    assert_eq!((part.status, &part.body[..]), (206, &bytes[5..10]));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_never_share_a_cache() {
    let registry = DockerRegistry::start().await;
    let edge = Setup::new().registry("up.test", registry.url()).start().await;
    let second = Setup::new().registry("up.test", registry.url()).set("/cache/path", edge.cache().to_str().unwrap());
    let output = second.command(&["serve"]).await;
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert!(output.stderr.contains("in use"), "{}", output.stderr);
}

//! Garbage collection beside everything else: what was pushed stays, whatever is collected at the same moment, and what nobody needs
//! goes, all of it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pierhead_tests::eventually;
use pierhead_tests::image::{Blob, Format, Image};
use pierhead_tests::origin::{Origin, Setup};
use pierhead_tests::postgres::Postgres;
use pierhead_tests::pull::{Client, reply};
use pierhead_tests::s3::S3Server;
use reqwest::Method;
use serde_json::json;

const LONG: Duration = Duration::from_secs(60);
/// Who push, each to a repository of its own.
const PUSHERS: u64 = 4;
/// How long they do.
const WHILE: Duration = Duration::from_secs(12);

/// Nothing is kept for much longer than a push takes, or not as long, and somebody always collects.
fn hasty(setup: Setup) -> Setup {
    setup
        .set("/tag_expiration", "0s")
        .set("/garbage_collection", json!({ "interval": "20ms", "blob_grace": "300ms", "upload_expiration": "30s" }))
}

/// Images of two layers each, of a few that they share.
fn images() -> Vec<Image> {
    let layers: Vec<Blob> = (0..12).map(|seed| Blob::layer(7000 + seed, 20_000)).collect();
    let pairs = (0..12).flat_map(|one| (0..one).map(move |other| (one, other)));
    pairs
        .map(|(one, other)| Image::from_layers(Format::Oci, "amd64", vec![layers[one].clone(), layers[other].clone()]))
        .collect()
}

/// Pushes an image as clients do. Whether it was accepted: a registry may say that something is gone in the meantime.
async fn push(client: &Client, repository: &str, tag: &str, image: &Image) -> bool {
    for blob in image.blobs() {
        let path = format!("/v2/{repository}/blobs/{}", blob.digest);
        if client.head(&path).await.status == 200 {
            continue;
        }
        let begun = reply(client.request(Method::POST, &format!("/v2/{repository}/blobs/uploads/"))).await.unwrap();
        assert_eq!(begun.status, 202);
        let location = begun.header("location").to_owned();
        let separator = if location.contains('?') { '&' } else { '?' };
        let path = location.strip_prefix(&client.base).unwrap_or(&location);
        let path = format!("{path}{separator}digest={}", blob.digest);
        let done = reply(client.request(Method::PUT, &path).body(blob.bytes.clone())).await.unwrap();
        assert!(matches!(done.status, 201 | 503), "{}: {:?}", done.status, done.body);
        if done.status != 201 {
            return false;
        }
    }
    let path = format!("/v2/{repository}/manifests/{tag}");
    let request = client.request(Method::PUT, &path).header("Content-Type", &image.manifest.media_type);
    let done = reply(request.body(image.manifest.blob.bytes.clone())).await.unwrap();
    assert!(matches!(done.status, 201 | 400 | 404 | 503), "{}: {:?}", done.status, done.body);
    done.status == 201
}

/// Pushes, pulls by another node, deletes, and again. How many pushes were accepted.
async fn pusher(number: u64, nodes: Arc<Vec<Client>>, images: Arc<Vec<Image>>) -> usize {
    let repository = format!("alice/app{number}");
    let (begun, mut accepted, mut turn) = (Instant::now(), 0, number as usize);
    while begun.elapsed() < WHILE {
        turn += 1;
        let (here, there) = (&nodes[turn % nodes.len()], &nodes[(turn + 1) % nodes.len()]);
        let image = &images[(turn * 7 + number as usize) % images.len()];
        if !push(here, &repository, "latest", image).await {
            continue;
        }
        accepted += 1;
        // The client hashes all that comes.
        let pulled = there.pull(&repository, "latest").await;
        assert!(pulled.is_ok(), "what was accepted is not there: {pulled:?}");
        if turn.is_multiple_of(3) {
            continue;
        }
        let path = format!("/v2/{repository}/manifests/{}", image.digest());
        assert_eq!(reply(here.request(Method::DELETE, &path)).await.unwrap().status, 202);
    }
    let last = format!("/v2/{repository}/manifests/latest");
    assert!(matches!(reply(nodes[0].request(Method::DELETE, &last)).await.unwrap().status, 202 | 404));
    accepted
}

/// Kills a node in the middle of whatever it collects, and starts it again, for as long as there are pushes.
async fn killer(mut node: Origin) -> Origin {
    let begun = Instant::now();
    let mut pause = 300;
    while begun.elapsed() < WHILE {
        pause = (pause * 7 + 131) % 900;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        node.kill().await;
        node.start_again().await;
    }
    node
}

async fn break_it(setup: &Setup, nodes: &[Origin]) {
    let scopes: Vec<String> =
        (0..PUSHERS).map(|number| format!("repository:alice/app{number}:pull,push,delete")).collect();
    let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
    let mut clients = Vec::new();
    for node in nodes {
        clients.push(node.login("alice", "password of alice", &scopes).await);
    }
    let (clients, images) = (Arc::new(clients), Arc::new(images()));
    let pushers: Vec<_> =
        (0..PUSHERS).map(|number| tokio::spawn(pusher(number, Arc::clone(&clients), Arc::clone(&images)))).collect();
    let mut accepted = 0;
    for pusher in pushers {
        accepted += pusher.await.unwrap();
    }
    assert!(accepted > 20, "{accepted} pushes were accepted");
    let mut gone = 0.0;
    for node in nodes {
        gone += node.metric("quay_gc_storage_blobs_deleted_total", &[]).await;
    }
    assert!(gone > 5.0, "{gone} blobs were taken away meanwhile");
    // All was deleted. What is left over is nothing.
    eventually("there is no garbage left", LONG, async || {
        let told = setup.command(&["gc", "--dry-run"]).await.expect_success().stdout;
        let sum = told.lines().last().unwrap().to_owned();
        sum.contains(" 0 ended tags, 0 manifests, 0 blobs of 0 bytes, 0 uploads").then_some(())
    })
    .await;
}

/// Files below a directory.
fn files(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_garbage_is_collected_beside_pushes_on_one_node() {
    let setup = hasty(Setup::new());
    setup.user("alice", "password of alice", &[]).await;
    let node = setup.start().await;
    break_it(&setup, std::slice::from_ref(&node)).await;
    let blobs = node.dir().join("blobs/sha256");
    eventually("the store is empty", LONG, async || (files(&blobs) == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_garbage_is_collected_beside_pushes_on_two_nodes() {
    let (postgres, store) = (Postgres::start().await, S3Server::start().await);
    let setup = hasty(Setup::new().database(postgres.section()).storage(store.storage()));
    setup.user("alice", "password of alice", &[]).await;
    let nodes = [setup.start().await, setup.start().await];
    break_it(&setup, &nodes).await;
    eventually("the store is empty", LONG, async || {
        let left = store.keys().into_iter().filter(|key| key.contains("/sha256/")).count();
        (left == 0 && store.uploads() == 0).then_some(())
    })
    .await;
    let left = postgres.query("SELECT (SELECT count(*) FROM blob) + (SELECT count(*) FROM manifest)").await;
    assert_eq!(left.trim(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_garbage_is_collected_by_nodes_that_are_killed_and_from_a_slow_store() {
    let (postgres, store) = (Postgres::start().await, S3Server::start().await);
    store.slow_deletions(Duration::from_millis(100));
    let setup = hasty(Setup::new().database(postgres.section()).storage(store.storage()));
    setup.user("alice", "password of alice", &[]).await;
    let nodes = [setup.start().await, setup.start().await];
    let (one, other) = (setup.start().await, setup.start().await);
    let _alive = tokio::join!(killer(one), killer(other), break_it(&setup, &nodes));
    eventually("the store is empty", LONG, async || {
        let left = store.keys().into_iter().filter(|key| key.contains("/sha256/")).count();
        (left == 0).then_some(())
    })
    .await;
    let left = postgres.query("SELECT (SELECT count(*) FROM blob) + (SELECT count(*) FROM manifest)").await;
    assert_eq!(left.trim(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_collects_once_and_tells_before() {
    let setup = Setup::new()
        .set("/tag_expiration", "0s")
        .set("/garbage_collection", json!({ "interval": "never", "blob_grace": "1ms" }));
    setup.user("alice", "password of alice", &[]).await;
    let node = setup.start().await;
    let client = node.login("alice", "password of alice", &["repository:alice/app:pull,push,delete"]).await;
    let blob = Blob::random(1, 1000);
    client.push_blob("alice/app", &blob.digest, blob.bytes.clone()).await;
    let file = node.dir().join("blobs/sha256");
    for (arguments, left) in [(&["gc", "--dry-run"][..], 1), (&["gc"], 0), (&["gc"], 0)] {
        let told = setup.command(arguments).await.expect_success().stdout;
        assert_eq!(told.contains(&format!("blob {}", blob.digest)), arguments.contains(&"--dry-run"), "{told}");
        assert_eq!(files(&file), left, "{arguments:?}");
    }
}

//! Several nodes over one database and one store: whatever one began, another goes on with, and no node is needed for anything.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pierhead_registry::oci::Digest;
use pierhead_tests::image::{Blob, Format, Image};
use pierhead_tests::origin::{Origin, Setup};
use pierhead_tests::postgres::Postgres;
use pierhead_tests::pull::{Client, Reply, reply};
use pierhead_tests::s3::S3Server;
use reqwest::Method;
use serde_json::json;

const PASSWORD: &str = "password of org";

/// A database and a store, and how nodes are started over them.
struct Site {
    postgres: Postgres,
    store: S3Server,
    setup: Setup,
}

impl Site {
    async fn start() -> Site {
        let postgres = Postgres::start().await;
        let store = S3Server::start().await;
        let setup = Setup::new().database(postgres.section()).storage(store.storage());
        setup.user("org", PASSWORD, &[]).await;
        Site { postgres, store, setup }
    }
}

/// A request that may fail, as requests to a node that is killed do.
async fn attempt(client: &Client, method: Method, path: &str, content_type: &str, body: Bytes) -> Option<Reply> {
    let path = path.strip_prefix(&client.base).unwrap_or(path);
    let request = client.request(method, path).header("content-type", content_type).timeout(Duration::from_secs(60));
    reply(request.body(body)).await.ok()
}

/// Pushes a blob unless it is there. `None`: it has to be tried again.
async fn push_blob(client: &Client, repository: &str, blob: &Blob) -> Option<()> {
    const OCTETS: &str = "application/octet-stream";
    let head = format!("/v2/{repository}/blobs/{}", blob.digest);
    if attempt(client, Method::HEAD, &head, OCTETS, Bytes::new()).await?.status == 200 {
        return Some(());
    }
    let begun = format!("/v2/{repository}/blobs/uploads/");
    let begun = attempt(client, Method::POST, &begun, OCTETS, Bytes::new()).await?;
    if begun.status != 202 {
        return None;
    }
    let half = blob.bytes.len() / 2;
    let taken = attempt(client, Method::PATCH, begun.header("location"), OCTETS, blob.bytes.slice(..half)).await?;
    if taken.status != 202 {
        return None;
    }
    let end = format!("{}?digest={}", taken.header("location"), blob.digest);
    let ended = attempt(client, Method::PUT, &end, OCTETS, blob.bytes.slice(half..)).await?;
    (ended.status == 201).then_some(())
}

async fn push_image(client: &Client, repository: &str, image: &Image) -> Option<()> {
    for blob in image.blobs() {
        push_blob(client, repository, blob).await?;
    }
    let manifest = &image.manifest;
    let path = format!("/v2/{repository}/manifests/latest");
    let made = attempt(client, Method::PUT, &path, &manifest.media_type, manifest.blob.bytes.clone()).await?;
    (made.status == 201).then_some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_nodes_are_killed_while_thirty_push_and_garbage_is_collected() {
    const PUSHES: usize = 30;
    let site = Site::start().await;
    let collected = json!({ "interval": "1s", "blob_grace": "1m", "upload_expiration": "1m" });
    let setup = site.setup.clone().set("/garbage_collection", collected);
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(setup.start().await);
    }
    let addresses: Vec<String> = nodes.iter().map(Origin::url).collect();
    let scopes: Vec<String> = (0..PUSHES).map(|push| format!("repository:org/image{push}:pull,push")).collect();
    let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
    let token = nodes[0].token("org", PASSWORD, &scopes).await;
    // Every image shares two layers with others, and has one of its own.
    let shared: Vec<Blob> = (0..5).map(|seed| Blob::layer(1000 + seed, 400_000)).collect();
    let images: Vec<Image> = (0..PUSHES)
        .map(|push| {
            let own = Blob::layer(push as u64, 300_000);
            let layers = vec![shared[push % 5].clone(), shared[(push + 1) % 5].clone(), own];
            Image::from_layers(Format::Oci, "amd64", layers)
        })
        .collect();
    let (pushed, failures) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let push = async |push: usize| {
        let deadline = Instant::now() + Duration::from_secs(240);
        for attempt in push.. {
            let client = Client::new(addresses[attempt % 3].clone()).bearer(token.clone());
            if push_image(&client, &format!("org/image{push}"), &images[push]).await.is_some() {
                pushed.fetch_add(1, Ordering::Relaxed);
                return;
            }
            failures.fetch_add(1, Ordering::Relaxed);
            assert!(Instant::now() < deadline, "push {push} came to nothing");
        }
    };
    // One node after the other is killed, each time as soon as another push was done.
    let kill = async {
        let mut kills = 0;
        while pushed.load(Ordering::Relaxed) < PUSHES {
            let before = pushed.load(Ordering::Relaxed);
            nodes[kills % 3].kill().await;
            nodes[kills % 3].start_again().await;
            kills += 1;
            pierhead_tests::eventually("another push is done", Duration::from_secs(240), async || {
                (pushed.load(Ordering::Relaxed) > before).then_some(())
            })
            .await;
        }
        kills
    };
    let (_, kills) = tokio::join!(futures_util::future::join_all((0..PUSHES).map(push)), kill);
    assert!(kills >= 3, "{kills} kills are no test");
    // Byte for byte, from every node: the client hashes what it gets.
    for address in &addresses {
        let client = Client::new(address.clone()).bearer(token.clone());
        for push in 0..PUSHES {
            assert_eq!(client.pull(&format!("org/image{push}"), "latest").await.unwrap(), 4, "image {push}");
        }
    }
    println!("{kills} kills, {} failed attempts", failures.load(Ordering::Relaxed));
}

#[tokio::test]
async fn an_upload_begun_on_one_node_ends_on_another() {
    let site = Site::start().await;
    let (first, second) = (site.setup.start().await, site.setup.start().await);
    let token = first.token("org", PASSWORD, &["repository:org/image:pull,push"]).await;
    let (one, two) = (first.client().bearer(token.clone()), second.client().bearer(token));
    let blob = Blob::random(1, 40 << 20);
    let begun = one.request(Method::POST, "/v2/org/image/blobs/uploads/").send().await.unwrap();
    let location = begun.headers()["location"].to_str().unwrap().to_owned();
    let path = location.strip_prefix(&one.base).unwrap().to_owned();
    let mut at = 0;
    for (number, size) in [1, 7 << 20, 5 << 20, 3, 20 << 20].into_iter().enumerate() {
        let client = if number % 2 == 0 { &one } else { &two };
        let request = client.request(Method::PATCH, &path).header("content-range", format!("{at}-{}", at + size - 1));
        let taken = reply(request.body(blob.bytes.slice(at..at + size))).await.unwrap();
        at += size;
        assert_eq!((taken.status, taken.header("range")), (202, format!("0-{}", at - 1).as_str()));
    }
    let request = two.request(Method::PUT, &format!("{path}?digest={}", blob.digest));
    assert_eq!(reply(request.body(blob.bytes.slice(at..))).await.unwrap().status, 201);
    one.blob("org/image", &blob.digest).await.unwrap();
}

#[tokio::test]
async fn heavy_an_upload_goes_on_after_the_node_that_wrote_it_was_killed() {
    let site = Site::start().await;
    let (mut first, second) = (site.setup.start().await, site.setup.start().await);
    let token = first.token("org", PASSWORD, &["repository:org/image:pull,push"]).await;
    let (one, two) = (first.client().bearer(token.clone()), second.client().bearer(token));
    let blob = Blob::random(1, 64 << 20);
    let begun = one.request(Method::POST, "/v2/org/image/blobs/uploads/").send().await.unwrap();
    let path = begun.headers()["location"].to_str().unwrap().strip_prefix(&one.base).unwrap().to_owned();
    // It sends most of it, and then nothing more.
    let sent = blob.bytes.slice(..48 << 20);
    let parts =
        sent.chunks(1 << 20).map(|part| Ok::<_, std::io::Error>(Bytes::copy_from_slice(part))).collect::<Vec<_>>();
    let body = futures_util::StreamExt::chain(futures_util::stream::iter(parts), futures_util::stream::pending());
    let request = one.request(Method::PATCH, &path).body(reqwest::Body::wrap_stream(body));
    let sending = tokio::spawn(request.send());
    let stands = async || {
        let standing = two.get(&path).await;
        let last: usize = standing.header("range").strip_prefix("0-").unwrap().parse().unwrap();
        (last > 0).then_some(last + 1)
    };
    pierhead_tests::eventually("something is safe", Duration::from_secs(60), stands).await;
    first.kill().await;
    drop(sending.await);
    let stands = stands().await.unwrap();
    assert!(stands <= 48 << 20, "{stands}");
    let request = two.request(Method::PUT, &format!("{path}?digest={}", blob.digest));
    let request = request.header("content-range", format!("{stands}-{}", blob.bytes.len() - 1));
    let ended = reply(request.body(blob.bytes.slice(stands..))).await.unwrap();
    assert_eq!(ended.status, 201, "{:?}", ended.body);
    two.blob("org/image", &blob.digest).await.unwrap();
}

/// What is told while something is away, and that all of it works again afterwards.
async fn is_away(client: &Client, path: &str) {
    pierhead_tests::eventually("an error that says so", Duration::from_secs(30), async || {
        let told = client.get(path).await;
        if told.status == 200 {
            return None;
        }
        assert_eq!(told.status, 503, "{:?}", told.body);
        assert!(!told.header("retry-after").is_empty());
        assert!(String::from_utf8_lossy(&told.body).contains("UNAVAILABLE"), "{:?}", told.body);
        Some(())
    })
    .await;
}

#[tokio::test]
async fn heavy_the_database_and_the_store_go_away_and_come_back() {
    let mut site = Site::start().await;
    let node = site.setup.start().await;
    let token = node.token("org", PASSWORD, &["repository:org/image:pull,push"]).await;
    let client = node.client().bearer(token);
    let image = Image::new(1, &[300_000]);
    push_image(&client, "org/image", &image).await.unwrap();
    let layer: Digest = image.layers[0].digest;

    // An upload is under way while each of them is away for ten seconds.
    let blob = Blob::random(9, 12 << 20);
    let begun = client.request(Method::POST, "/v2/org/image/blobs/uploads/").send().await.unwrap();
    let path = begun.headers()["location"].to_str().unwrap().strip_prefix(&client.base).unwrap().to_owned();
    let taken = reply(client.request(Method::PATCH, &path).body(blob.bytes.slice(..6 << 20))).await.unwrap();
    assert_eq!(taken.status, 202);

    let begun = Instant::now();
    site.postgres.stop().await;
    is_away(&client, "/v2/org/image/manifests/latest").await;
    assert_eq!(node.operator().get("/health/endtoend").await.status, 503);
    while begun.elapsed() < Duration::from_secs(10) {
        is_away(&client, &format!("/v2/org/image/blobs/{layer}")).await;
    }
    site.postgres.restart().await;
    let back = async || (client.get("/v2/org/image/manifests/latest").await.status == 200).then_some(());
    pierhead_tests::eventually("the database is back", Duration::from_secs(30), back).await;

    let begun = Instant::now();
    site.store.stop().await;
    // Manifests need no store.
    assert_eq!(client.get("/v2/org/image/manifests/latest").await.status, 200);
    while begun.elapsed() < Duration::from_secs(10) {
        is_away(&client, &format!("/v2/org/image/blobs/{layer}")).await;
    }
    site.store.start_again().await;
    let back = async || client.blob("org/image", &layer).await.ok();
    pierhead_tests::eventually("the store is back", Duration::from_secs(30), back).await;

    let request = client.request(Method::PUT, &format!("{path}?digest={}", blob.digest));
    assert_eq!(reply(request.body(blob.bytes.slice(6 << 20..))).await.unwrap().status, 201);
    client.blob("org/image", &blob.digest).await.unwrap();
    assert_eq!(client.pull("org/image", "latest").await.unwrap(), 2);
}

//! The origin over an object store: pushed to and pulled from by real clients, begun on one node and finished on another, while
//! the store goes away and comes back.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use pierhead_registry::oci::{Algorithm, Digest, Hasher};
use pierhead_tests::clients::{Podman, Skopeo, assert_hashes};
use pierhead_tests::eventually;
use pierhead_tests::image::{Blob, Format, Image, noise};
use pierhead_tests::origin::{Origin, Setup};
use pierhead_tests::postgres::Postgres;
use pierhead_tests::process::run;
use pierhead_tests::pull::{Client, Reply, reply};
use pierhead_tests::s3::{ACCESS_KEY, S3Server, SECRET_KEY};
use reqwest::{Body, Method};
use serde_json::Value;
use tokio::process::Command;

const PASSWORD: &str = "password of org";
const MIB: usize = 1 << 20;

async fn client(origin: &Origin) -> Client {
    origin.login("org", PASSWORD, &["repository:org/image:pull,push"]).await
}

/// A setup over this store with an account.
async fn setup(server: &S3Server) -> Setup {
    let setup = Setup::new().storage(server.storage());
    setup.user("org", PASSWORD, &[]).await;
    setup
}

async fn push(client: &Client, repository: &str, tag: &str, image: &Image) {
    for blob in image.blobs() {
        client.push_blob(repository, &blob.digest, blob.bytes.clone()).await;
    }
    let manifest = &image.manifest;
    client.push_manifest(repository, tag, &manifest.media_type, manifest.blob.bytes.clone()).await;
}

/// A request to an upload, at whichever node the client talks to; the answer, and where the upload is next.
async fn piece(client: &Client, method: Method, path: &str, body: impl Into<Body>) -> (Reply, String) {
    let answer = reply(client.request(method, path).body(body)).await.unwrap();
    let next = answer.header("location").split_once("/v2/").map(|(_, rest)| format!("/v2/{rest}")).unwrap_or_default();
    (answer, next)
}

async fn begin(client: &Client) -> String {
    let (begun, path) = piece(client, Method::POST, "/v2/org/image/blobs/uploads/", "").await;
    assert_eq!(begun.status, 202, "{:?}", begun.body);
    path
}

fn with_digest(path: &str, digest: &Digest) -> String {
    format!("{path}{}digest={digest}", if path.contains('?') { '&' } else { '?' })
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_and_skopeo_push_and_pull_over_s3() {
    for (pulls, status) in [("stream", 200), ("redirect", 307)] {
        let server = S3Server::start().await;
        let origin = setup(&server).await.set("/pulls", pulls).start().await;
        // One layer is of several parts, one of less than one.
        let image = Image::of(Format::Docker, "amd64", 7, &[12 * MIB, 100_000]);
        push(&client(&origin).await, "org/image", "first", &image).await;

        let address = origin.registry;
        let podman = Podman::with_registries(&format!("[[registry]]\nlocation = \"{address}\"\ninsecure = true\n"));
        podman.login(address, &format!("org:{PASSWORD}"));
        let (first, second) = (format!("{address}/org/image:first"), format!("{address}/org/new:second"));
        podman.pull(&first).await.expect_success();
        podman.push(&first, &second).await.expect_success();
        podman.forget().await;
        podman.pull(&second).await.expect_success();
        assert!(!podman.unpacked("layer-7000").is_empty() && !podman.unpacked("layer-7001").is_empty(), "{pulls}");

        let account = format!("org:{PASSWORD}");
        let mut copy = Command::new("skopeo");
        copy.args(["--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"])
            .args(["--src-creds", &account, "--dest-creds", &account])
            .args([format!("docker://{first}"), format!("docker://{address}/org/copied:third")]);
        run(copy, Duration::from_secs(60)).await.expect_success();
        let skopeo = Skopeo::new();
        let third = format!("{address}/org/copied:third");
        skopeo.copy(&third, &["--src-creds", &account]).await.expect_success();
        assert_hashes(&skopeo.blobs(), image.blobs());

        origin
            .logged("a pull of a blob", |line| {
                line["method"] == "GET"
                    && line["path"].as_str().is_some_and(|path| path.contains("/blobs/sha256:"))
                    && line["status"] == status
            })
            .await;
        let keys = server.keys();
        for blob in image.blobs() {
            let hex = blob.digest.hex();
            assert!(keys.contains(&format!("datastorage/registry/sha256/{}/{hex}", &hex[..2])), "{keys:?}");
        }
        assert!(!keys.iter().any(|key| key.contains("/uploads/")) && server.uploads() == 0, "{keys:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_the_store_has_lost_is_pushed_again() {
    for (pulls, asked) in [("stream", Method::GET), ("redirect", Method::HEAD)] {
        let server = S3Server::start().await;
        let origin = setup(&server).await.set("/pulls", pulls).start().await;
        let client = client(&origin).await;
        let image = Image::of(Format::Oci, "amd64", 3, &[50_000]);
        push(&client, "org/image", "latest", &image).await;
        let lost = &image.layers[0];
        let (hex, path) = (lost.digest.hex(), format!("/v2/org/image/blobs/{}", lost.digest));
        server.lose(&format!("datastorage/registry/sha256/{}/{hex}", &hex[..2]));
        let missed = reply(client.request(asked, &path)).await.unwrap();
        assert_eq!((missed.status, client.head(&path).await.status), (404, 404), "{pulls}");
        assert_eq!(origin.metric("pierhead_origin_blobs_lost_total", &[]).await, 1.0);
        push(&client, "org/image", "latest", &image).await;
        assert_eq!(client.head(&path).await.status, 200, "{pulls}");
        assert!([200, 307].contains(&client.get(&path).await.status), "{pulls}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_told_clearly_and_nothing_is_lost() {
    let mut server = S3Server::start().await;
    let origin = setup(&server).await.start().await;
    let client = client(&origin).await;
    let there = Blob::random(1, 6 * MIB);
    client.push_blob("org/image", &there.digest, there.bytes.clone()).await;
    let pushed = Blob::random(2, 16 * MIB);
    let path = begin(&client).await;
    let (taken, path) = piece(&client, Method::PATCH, &path, pushed.bytes.slice(..8 * MIB)).await;
    assert_eq!((taken.status, taken.header("range")), (202, format!("0-{}", 8 * MIB - 1).as_str()));

    server.stop().await;
    let blob = format!("/v2/org/image/blobs/{}", there.digest);
    let small = Blob::random(6, 1000);
    let single = format!("/v2/org/image/blobs/uploads/?digest={}", small.digest);
    for refused in [
        client.get(&blob).await,
        piece(&client, Method::PATCH, &path, pushed.bytes.slice(8 * MIB..)).await.0,
        piece(&client, Method::POST, &single, small.bytes.clone()).await.0,
    ] {
        let body: Value = serde_json::from_slice(&refused.body).unwrap();
        assert_eq!(refused.status, 503, "{body}");
        assert!(!refused.header("retry-after").is_empty(), "{:?}", refused.headers);
        assert!(body["errors"][0]["code"].is_string(), "{body}");
    }
    let services = async || {
        let health = origin.client().get("/health/endtoend").await;
        let body: Value = serde_json::from_slice(&health.body).unwrap();
        body["data"]["services"]["storage"].as_bool().unwrap()
    };
    eventually("the store is missed", Duration::from_secs(20), async || (!services().await).then_some(())).await;

    server.start_again().await;
    eventually("the store is back", Duration::from_secs(20), async || services().await.then_some(())).await;
    assert!(client.get(&blob).await.body == there.bytes);
    assert_eq!(piece(&client, Method::POST, &single, small.bytes.clone()).await.0.status, 201);
    let (standing, _) = piece(&client, Method::GET, &path, "").await;
    assert_eq!((standing.status, standing.header("range")), (204, format!("0-{}", 8 * MIB - 1).as_str()));
    let (taken, path) = piece(&client, Method::PATCH, &path, pushed.bytes.slice(8 * MIB..)).await;
    assert_eq!(taken.status, 202, "{:?}", taken.body);
    assert_eq!(piece(&client, Method::PUT, &with_digest(&path, &pushed.digest), "").await.0.status, 201);
    client.blob("org/image", &pushed.digest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_from_the_environment_where_the_file_names_none() {
    let server = S3Server::start().await;
    let mut storage = server.storage();
    let section = storage["s3"].as_object_mut().unwrap();
    section.remove("access_key_id");
    section.remove("secret_access_key");
    let setup = setup(&server).await.storage(storage);
    let origin = setup.variable("AWS_ACCESS_KEY_ID", ACCESS_KEY).variable("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    let origin = origin.start().await;
    let blob = Blob::random(7, 1000);
    client(&origin).await.push_blob("org/image", &blob.digest, blob.bytes.clone()).await;
    assert_eq!(server.keys().iter().filter(|key| key.ends_with(&blob.digest.hex())).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_begun_on_one_node_is_finished_on_another() {
    let (server, postgres) = (S3Server::start().await, Postgres::start().await);
    let setup = Setup::new().storage(server.storage()).database(postgres.section());
    setup.user("org", PASSWORD, &[]).await;
    let (mut one, two) = (setup.start().await, setup.start().await);
    let (at_one, at_two) = (client(&one).await, client(&two).await);
    let pushed = Blob::random(3, 23 * MIB + 5);
    let path = begin(&at_one).await;
    // Within a part, over several, and all that is left.
    let ends = [3 * MIB, 3 * MIB + 1, 14 * MIB, pushed.bytes.len()];
    let (mut path, mut start) = (path, 0);
    for (number, end) in ends.into_iter().enumerate() {
        let node = if number % 2 == 0 { &at_one } else { &at_two };
        let (taken, next) = piece(node, Method::PATCH, &path, pushed.bytes.slice(start..end)).await;
        assert_eq!((taken.status, taken.header("range")), (202, format!("0-{}", end - 1).as_str()));
        (path, start) = (next, end);
    }
    one.kill().await;
    assert_eq!(piece(&at_two, Method::PUT, &with_digest(&path, &pushed.digest), "").await.0.status, 201);
    at_two.blob("org/image", &pushed.digest).await.unwrap();
    one.start_again().await;
    at_one.blob("org/image", &pushed.digest).await.unwrap();
    assert_eq!((server.keys().iter().filter(|key| key.contains("uploads/")).count(), server.uploads()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_an_upload_whose_node_is_killed_goes_on_at_another_where_it_was_written_down() {
    let (server, postgres) = (S3Server::start().await, Postgres::start().await);
    let setup = Setup::new().storage(server.storage()).database(postgres.section());
    setup.user("org", PASSWORD, &[]).await;
    let (mut one, two) = (setup.start().await, setup.start().await);
    let (at_one, at_two) = (client(&one).await, client(&two).await);
    let pushed = Blob::random(4, 50 * MIB);
    let path = begin(&at_one).await;
    // A client that sends most of it and then neither goes on nor goes away.
    let most: Vec<_> = pushed.bytes.slice(..45 * MIB).chunks(64 << 10).map(Bytes::copy_from_slice).collect();
    let body = stream::iter(most.into_iter().map(Ok::<_, std::io::Error>));
    let body = futures_util::StreamExt::chain(body, stream::pending());
    let request = at_one.request(Method::PATCH, &path).body(Body::wrap_stream(body));
    let stuck = tokio::spawn(async move { reply(request).await.is_ok() });
    let written = async || {
        let (standing, _) = piece(&at_two, Method::GET, &path, "").await;
        standing.header("range").strip_prefix("0-")?.parse::<usize>().ok().filter(|last| *last >= 40 * MIB - 1)
    };
    eventually("most of it is written down", Duration::from_secs(60), written).await;
    one.kill().await;
    let _ = stuck.await;
    let start = written().await.unwrap() + 1;
    let (taken, path) = piece(&at_two, Method::PATCH, &path, pushed.bytes.slice(start..)).await;
    assert_eq!(taken.status, 202, "{:?}", taken.body);
    assert_eq!(piece(&at_two, Method::PUT, &with_digest(&path, &pushed.digest), "").await.0.status, 201);
    at_two.blob("org/image", &pushed.digest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_gibibyte_passes_through_little_memory() {
    let server = S3Server::start().await;
    let origin = setup(&server).await.start().await;
    let client = client(&origin).await;
    let mebibyte = Bytes::from(noise(5, MIB));
    let mut hasher = Hasher::new(Algorithm::Sha256);
    (0..1024).for_each(|_| hasher.update(&mebibyte));
    let digest = hasher.finish();
    let path = begin(&client).await;
    let body = stream::iter((0..1024).map(move |_| Ok::<_, std::io::Error>(mebibyte.clone())));
    let (taken, path) = piece(&client, Method::PATCH, &path, Body::wrap_stream(body)).await;
    assert_eq!(taken.status, 202, "{:?}", taken.body);
    assert_eq!(piece(&client, Method::PUT, &with_digest(&path, &digest), "").await.0.status, 201);
    assert_eq!(client.blob("org/image", &digest).await.unwrap().size, 1 << 30);
    let peak = origin.peak_memory() / MIB as u64;
    assert!(peak < 100, "{peak} MiB");
}

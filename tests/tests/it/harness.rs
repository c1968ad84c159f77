//! The harness itself: what the other tests stand on, without an edge in between.

use pierhead_tests::clients::{Containerd, Podman, Skopeo, assert_hashes};
use pierhead_tests::image::{Blob, Format, Image, Index};
use pierhead_tests::pierhead::tells_of_panic;
use pierhead_tests::pull::{Client, PullError};
use pierhead_tests::registry::DockerRegistry;
use pierhead_tests::token::{Policy, TokenService};
use pierhead_tests::wire::Wire;

#[test]
fn a_panic_of_the_edge_is_seen() {
    for (line, panic) in [
        (r#"{"level":"ERROR","fields":{"message":"panic","place":"a.rs:1:2","cause":"b"}}"#, true),
        ("thread 'main' panicked at a.rs:1:2:", true),
        (r#"{"level":"ERROR","fields":{"message":"no panic"}}"#, false),
        (r#"{"outcome":"hit","status":200}"#, false),
        ("", false),
    ] {
        assert_eq!(tells_of_panic(line), panic, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_counts_its_requests() {
    let mut registry = DockerRegistry::start().await;
    let image = Image::new(1, &[10_000, 20_000]);
    registry.push("a/b", "latest", &image).await;
    assert_eq!(registry.client().pull("a/b", "latest").await.unwrap(), 3);
    assert_eq!(registry.blob_gets("a/b", &image.layers[0]).await, 1);
    registry.restart().await;
    assert_eq!(registry.client().pull("a/b", "latest").await.unwrap(), 3);
    assert_eq!(registry.blob_gets("a/b", &image.layers[0]).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_and_tokens_are_asked_for() {
    let image = Image::new(2, &[10_000]);
    let registry = DockerRegistry::with_account("user", "secret").await;
    registry.push("a", "latest", &image).await;
    assert!(matches!(Client::new(registry.url()).pull("a", "latest").await, Err(PullError::Status(401))));

    let tokens = TokenService::start(Policy::default().user("user", "secret", &["a"])).await;
    let registry = DockerRegistry::with_tokens(&tokens).await;
    let pusher = registry.client().bearer(tokens.push_token("a"));
    registry.push_as(&pusher, "a", "latest", &image).await;
    assert!(pusher.pull("a", "latest").await.is_ok());
    assert!(matches!(registry.client().pull("a", "latest").await, Err(PullError::Status(401))));
}

#[tokio::test(flavor = "multi_thread")]
async fn sha512_blobs_can_be_had_from_docker_registry() {
    use pierhead_registry::oci::{Algorithm, Digest};
    let registry = DockerRegistry::start().await;
    let bytes = Blob::random(3, 10_000).bytes;
    let digest = Digest::of(Algorithm::Sha512, &bytes);
    registry.client().push_blob("a", &digest, bytes).await;
    registry.client().blob("a", &digest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wire_cuts_and_counts() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(4, &[1 << 20]);
    registry.push("a", "latest", &image).await;
    let wire = Wire::to(registry.address).await;
    let client = Client::new(wire.url());
    client.pull("a", "latest").await.unwrap();
    assert!(wire.carried() > 1 << 20);
    wire.cut_after(500_000);
    assert!(matches!(client.blob("a", &image.layers[0].digest).await, Err(PullError::Broken(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_pull_from_docker_registry() {
    let registry = DockerRegistry::start().await;
    let image = Image::of(Format::Docker, "amd64", 5, &[50_000, 20_000]);
    registry.push("up.test/a", "latest", &image).await;
    let podman = Podman::new(registry.address, &["up.test"]);
    podman.pull("up.test/a:latest").await.expect_success();
    assert_eq!(podman.unpacked("layer-5000").len(), 2);

    let skopeo = Skopeo::new();
    skopeo.copy(&format!("{}/up.test/a:latest", registry.address), &[]).await.expect_success();
    assert_hashes(&skopeo.blobs(), image.blobs());

    let index = Index::new(Format::Oci, 6, 30_000);
    registry.push_index("b", "latest", &index).await;
    let containerd = Containerd::start(registry.address, &["up.test"]).await;
    containerd.pull("up.test/b:latest", &["--platform", "linux/amd64"]).await.expect_success();
    assert_hashes(&containerd.blobs(), index.images[0].blobs());
}

//! Pulls by the clients that people use: podman, skopeo and containerd.

use std::time::Duration;

use pierhead_tests::clients::{Containerd, Podman, Skopeo, assert_hashes};
use pierhead_tests::image::{Format, Image, Index};
use pierhead_tests::pierhead::Setup;
use pierhead_tests::process::run;
use pierhead_tests::pull::hash_file;
use pierhead_tests::registry::DockerRegistry;
use serde_json::json;
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn podman_pulls_cold_warm_and_with_upstream_gone() {
    let mut registry = DockerRegistry::start().await;
    let image = Image::of(Format::Docker, "amd64", 7, &[300_000, 100_000]);
    let index = Index::new(Format::Oci, 8, 50_000);
    registry.push("team/app", "latest", &image).await;
    registry.push_index("team/multi", "latest", &index).await;
    let keys = json!({ "tag_ttl": "1ms", "retries": 0 });
    let edge = Setup::new().registry_with("up.test", registry.url(), keys).start().await;
    let podman = Podman::new(edge.registry, &["up.test"]);
    for uplink in ["cold", "warm", "dead"] {
        if uplink == "dead" {
            registry.stop().await;
        }
        for name in ["up.test/team/app:latest", "up.test/team/multi:latest"] {
            podman.pull(name).await.expect_success();
        }
        // Each layer is a file; the second layer's directory holds that of the first as well.
        for (layer, blob) in [("layer-7000", &image.layers[0]), ("layer-7001", &image.layers[1])] {
            let files = podman.unpacked(layer);
            assert!(!files.is_empty(), "{uplink}: {layer}");
            for file in files {
                assert_eq!(
                    std::fs::read(file).unwrap(),
                    blob.bytes[512..512 + blob_file_size(blob)],
                    "{uplink}: {layer}"
                );
            }
        }
        podman.forget().await;
    }
    edge.logged("podman's blobs as hits", |line| line["kind"] == "blob" && line["outcome"] == "hit").await;
}

/// The size of the one file in a layer, from its tar header.
fn blob_file_size(layer: &pierhead_tests::image::Blob) -> usize {
    usize::from_str_radix(std::str::from_utf8(&layer.bytes[124..135]).unwrap(), 8).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_every_platform() {
    let mut registry = DockerRegistry::start().await;
    let (docker, oci) = (Index::new(Format::Docker, 1, 100_000), Index::new(Format::Oci, 2, 100_000));
    registry.push_index("team/docker", "latest", &docker).await;
    registry.push_index("team/oci", "latest", &oci).await;
    let edge = Setup::new().registry("up.test", registry.url()).start().await;
    let skopeo = Skopeo::new();
    for _ in 0..2 {
        for (repository, index) in [("team/docker", &docker), ("team/oci", &oci)] {
            let source = format!("{}/up.test/{repository}:latest", edge.registry);
            skopeo.copy(&source, &["--all", "--preserve-digests"]).await.expect_success();
            assert_hashes(&skopeo.blobs(), index.images.iter().flat_map(Image::blobs));
            skopeo.copy(&source, &[]).await.expect_success();
            assert_hashes(&skopeo.blobs(), index.images[0].blobs());
        }
        registry.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_pulls_by_ns() {
    let mut registry = DockerRegistry::start().await;
    let image = Image::of(Format::Docker, "amd64", 1, &[200_000, 1000]);
    let index = Index::new(Format::Oci, 2, 100_000);
    registry.push("library/app", "latest", &image).await;
    registry.push_index("team/multi", "latest", &index).await;
    let edge =
        Setup::new().registry("up.test:5000", registry.url()).registry("docker.io", registry.url()).start().await;
    let containerd = Containerd::start(edge.registry, &["up.test:5000", "docker.io"]).await;
    let (one, multi) = ("docker.io/library/app:latest", "up.test:5000/team/multi:latest");
    for uplink in ["cold", "warm", "dead"] {
        if uplink == "dead" {
            registry.stop().await;
        }
        containerd.pull(one, &["--platform", "linux/amd64"]).await.expect_success();
        containerd.pull(multi, &["--all-platforms"]).await.expect_success();
        assert_hashes(&containerd.blobs(), image.blobs().chain(index.images.iter().flat_map(Image::blobs)));
        containerd.forget(one).await;
        containerd.forget(multi).await;
    }
    edge.logged("a registry named by ns", |line| line["registry"] == "up.test:5000").await;
    edge.logged("containerd", |line| line["user_agent"].as_str().is_some_and(|agent| agent.contains("containerd")))
        .await;
    for blob in image.blobs() {
        assert_eq!(registry_gets(&edge, &blob.digest.to_string()), 1);
    }
}

/// How many answers of the edge came from upstream for this reference.
fn registry_gets(edge: &pierhead_tests::pierhead::Pierhead, reference: &str) -> usize {
    edge.access_log().iter().filter(|line| line["reference"] == reference && line["outcome"] == "miss").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_client_configurations_work() {
    let registry = DockerRegistry::start().await;
    let image = Image::of(Format::Docker, "amd64", 7, &[100_000]);
    registry.push("team/app", "latest", &image).await;
    let setup = Setup::new().registry_with("up.test", registry.url(), json!({ "default": true }));
    let edge = setup.start().await;
    let mut command = Command::new(pierhead_tests::pierhead::binary());
    let config = edge.dir().join("pierhead.yaml");
    command.args(["client-config", "podman", "--address", &edge.registry.to_string(), "--config"]).arg(config);
    let conf = run(command, Duration::from_secs(10)).await.expect_success().stdout;
    let podman = Podman::with_registries(&conf);
    podman.pull("up.test/team/app:latest").await.expect_success();
    edge.logged("podman's pull", |line| line["registry"] == "up.test" && line["kind"] == "blob").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_podman_pulls_a_layer_of_one_gibibyte() {
    let registry = DockerRegistry::start().await;
    let image = Image::of(Format::Docker, "amd64", 3, &[1 << 30]);
    registry.push("team/large", "latest", &image).await;
    let edge = Setup::new().registry("up.test", registry.url()).start().await;
    let podman = Podman::new(edge.registry, &["up.test"]);
    podman.pull("up.test/team/large:latest").await.expect_success();
    let [file] = &podman.unpacked("layer-3000")[..] else { panic!("one layer") };
    let content = &image.layers[0].bytes[512..512 + (1 << 30)];
    let expected = pierhead_registry::oci::Digest::of(pierhead_registry::oci::Algorithm::Sha256, content);
    assert_eq!(hash_file(file), expected);
    let received = edge.client().blob("up.test/team/large", &image.layers[0].digest).await.unwrap();
    assert_eq!(received.size, image.layers[0].bytes.len() as u64);
    edge.logged("a hit", |line| line["kind"] == "blob" && line["outcome"] == "hit").await;
    // Memory does not grow with the size of a blob.
    assert!(edge.peak_memory() < 200 << 20, "{} bytes", edge.peak_memory());
}

//! What is pushed by the programs that are in use, in the shapes that they have, and what no program may be made to read.

use bytes::Bytes;
use pierhead_registry::oci::media_type::{
    DOCKER_LIST, DOCKER_MANIFEST, DOCKER_SCHEMA1, OCI_ARTIFACT, OCI_INDEX, OCI_MANIFEST,
};
use pierhead_tests::image::{Blob, Image};
use pierhead_tests::pierhead::Setup as EdgeSetup;
use pierhead_tests::pull::Client;
use serde_json::{Value, json};

use super::{REPOSITORY, code, json_of, origin, push_image, send};

const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

fn descriptor(media_type: &str, blob: &Blob) -> Value {
    json!({ "mediaType": media_type, "digest": blob.digest.to_string(), "size": blob.bytes.len() })
}

async fn put(client: &Client, tag: &str, media_type: &str, manifest: &Value) -> (u16, String) {
    let path = format!("/v2/{REPOSITORY}/manifests/{tag}");
    let answer = send(client, "PUT", &path, &[("content-type", media_type)], manifest.to_string()).await;
    let why = if answer.status == 201 { String::new() } else { code(&answer) };
    (answer.status, why)
}

/// Each as the program writes it, apart from its content.
fn real_shapes(empty: &Blob, layer: &Blob, image: &Image) -> Vec<(&'static str, &'static str, Value)> {
    let config = |kind: &str| descriptor(kind, empty);
    let image_entry = json!({
        "mediaType": OCI_MANIFEST, "digest": image.digest().to_string(), "size": image.manifest.blob.bytes.len(),
        "platform": { "architecture": "amd64", "os": "linux" },
    });
    let attestation = json!({
        "mediaType": OCI_MANIFEST, "digest": image.digest().to_string(), "size": image.manifest.blob.bytes.len(),
        "platform": { "architecture": "unknown", "os": "unknown" },
        "annotations": { "vnd.docker.reference.type": "attestation-manifest" },
    });
    let subject = json!({ "mediaType": OCI_MANIFEST, "digest": image.digest().to_string(), "size": 7 });
    vec![
        (
            "docker",
            DOCKER_MANIFEST,
            json!({
                "schemaVersion": 2, "mediaType": DOCKER_MANIFEST,
                "config": config("application/vnd.docker.container.image.v1+json"),
                "layers": [descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", layer)],
            }),
        ),
        (
            "docker-from-scratch",
            DOCKER_MANIFEST,
            json!({
                "schemaVersion": 2, "mediaType": DOCKER_MANIFEST,
                "config": config("application/vnd.docker.container.image.v1+json"), "layers": null,
            }),
        ),
        (
            "docker-plugin",
            DOCKER_MANIFEST,
            json!({
                "schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config("application/vnd.docker.plugin.v1+json"),
                "layers": [descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", layer)],
            }),
        ),
        (
            "docker-windows",
            DOCKER_MANIFEST,
            json!({
                "schemaVersion": 2, "mediaType": DOCKER_MANIFEST,
                "config": config("application/vnd.docker.container.image.v1+json"),
                "layers": [{
                    "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "size": 5,
                    "digest": Blob::random(99, 5).digest.to_string(), "urls": ["https://mcr.example/layer"],
                }],
            }),
        ),
        (
            "docker-list",
            DOCKER_LIST,
            json!({
                "schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [image_entry],
            }),
        ),
        (
            "oci-without-media-type",
            OCI_MANIFEST,
            json!({
                "schemaVersion": 2, "config": config(CONFIG), "layers": [descriptor(LAYER, layer)],
            }),
        ),
        (
            "buildx-with-attestation",
            OCI_INDEX,
            json!({
                "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [image_entry, attestation],
            }),
        ),
        ("empty-list-of-buildah", OCI_INDEX, json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": null })),
        (
            "helm",
            OCI_MANIFEST,
            json!({
                "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config("application/vnd.cncf.helm.config.v1+json"),
                "layers": [descriptor("application/vnd.cncf.helm.chart.content.v1.tar+gzip", layer)],
                "annotations": { "org.opencontainers.image.title": "chart" },
            }),
        ),
        (
            "cosign",
            OCI_MANIFEST,
            json!({
                "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config(CONFIG),
                "layers": [{
                    "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": layer.digest.to_string(),
                    "size": layer.bytes.len(), "annotations": { "dev.cosignproject.cosign/signature": "MEUC" },
                }],
            }),
        ),
        (
            "sigstore-bundle",
            OCI_MANIFEST,
            json!({
                "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/vnd.dev.sigstore.bundle.v0.3+json",
                "config": { "mediaType": EMPTY, "digest": empty.digest.to_string(), "size": 2, "data": "e30=" },
                "layers": [descriptor("application/vnd.dev.sigstore.bundle.v0.3+json", layer)], "subject": subject,
            }),
        ),
        (
            "notation",
            OCI_MANIFEST,
            json!({
                "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config("application/vnd.cncf.notary.signature"),
                "layers": [descriptor("application/jose+json", layer)], "subject": subject,
                "annotations": { "io.cncf.notary.x509chain.thumbprint#S256": "[\"aa\"]" },
            }),
        ),
        (
            "oras",
            OCI_MANIFEST,
            json!({
                "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/vnd.example.sbom",
                "config": config(EMPTY), "layers": [descriptor(EMPTY, empty)], "subject": subject,
            }),
        ),
        (
            "artifact-manifest",
            OCI_ARTIFACT,
            json!({
                "mediaType": OCI_ARTIFACT, "artifactType": "application/vnd.example.sbom",
                "blobs": [descriptor("application/json", layer)], "subject": subject,
            }),
        ),
        (
            "oras-artifact",
            "application/vnd.cncf.oras.artifact.manifest.v1+json",
            json!({
                "mediaType": "application/vnd.cncf.oras.artifact.manifest.v1+json", "artifactType": "signature/example",
                "blobs": [descriptor("application/json", layer)], "subject": subject,
            }),
        ),
        (
            "wasm",
            OCI_MANIFEST,
            json!({
                "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config("application/vnd.wasm.config.v0+json"),
                "layers": [descriptor("application/wasm", layer)],
            }),
        ),
        (
            "singularity",
            OCI_MANIFEST,
            json!({
                "schemaVersion": 2, "config": config("application/vnd.sylabs.sif.config.v1+json"),
                "layers": [descriptor("application/vnd.sylabs.sif.layer.v1.sif", layer)],
            }),
        ),
        (
            "buildkit-cache-as-image",
            OCI_MANIFEST,
            json!({
                "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config("application/vnd.buildkit.cacheconfig.v0"),
                "layers": [descriptor(LAYER, layer)],
            }),
        ),
        ("buildkit-cache", OCI_INDEX, buildkit_cache(OCI_INDEX, LAYER, layer, empty)),
        (
            "buildkit-cache-of-docker",
            DOCKER_LIST,
            buildkit_cache(DOCKER_LIST, "application/vnd.docker.image.rootfs.diff.tar.gzip", layer, empty),
        ),
        ("any-other", "application/vnd.example.index+json", json!({ "anything": [1, 2, { "manifests": 3 }] })),
    ]
}

/// What `--cache-to type=registry` writes by default: an index whose entries are layers and a configuration.
fn buildkit_cache(media_type: &str, layer_type: &str, layer: &Blob, config: &Blob) -> Value {
    let mut entry = descriptor(layer_type, layer);
    entry["annotations"] = json!({ "buildkit/createdat": "2026-01-01T00:00:00Z", "containerd.io/uncompressed": "x" });
    json!({
        "schemaVersion": 2, "mediaType": media_type,
        "manifests": [entry, descriptor("application/vnd.buildkit.cacheconfig.v0", config)],
    })
}

#[tokio::test]
async fn what_real_programs_push_is_taken_and_served_as_it_came() {
    let (_origin, client) = origin().await;
    let (empty, layer, image) = (Blob::new(&b"{}"[..]), Blob::random(1, 500), Image::new(1, &[1000]));
    push_image(&client, REPOSITORY, "image", &image).await;
    for blob in [&empty, &layer] {
        client.push_blob(REPOSITORY, &blob.digest, blob.bytes.clone()).await;
    }
    for (name, media_type, manifest) in real_shapes(&empty, &layer, &image) {
        assert_eq!(put(&client, name, media_type, &manifest).await, (201, String::new()), "{name}");
        let got = client.get(&format!("/v2/{REPOSITORY}/manifests/{name}")).await;
        assert_eq!((got.status, got.header("content-type")), (200, media_type), "{name}");
        assert_eq!(json_of(&got), manifest, "{name}");
    }
    // Schema 1 stays refused, in any letters.
    for kind in [DOCKER_SCHEMA1[0], DOCKER_SCHEMA1[1], "Application/Vnd.Docker.Distribution.Manifest.V1+Json"] {
        let schema1 = json!({ "schemaVersion": 1, "name": "a", "tag": "b", "fsLayers": [], "history": [] });
        assert_eq!(put(&client, "old", kind, &schema1).await, (400, "MANIFEST_INVALID".to_owned()), "{kind}");
    }
}

/// gitea#28973, pulp_container#1587: what BuildKit pushes as its cache is pulled again, by it and through an edge, and stays while its
/// index does.
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_of_buildkit_goes_and_comes() {
    let (origin, client) = origin().await;
    let pool = json!({ "name": "origin", "servers": [origin.registry.to_string()], "health": { "kind": "tcp" } });
    let registry = json!({ "name": "origin.test", "pool": "origin", "default": true });
    let edge = EdgeSetup::new().pool(pool).with("registries", registry).start().await;
    let token = origin.token("org", "password of org", &["repository:org/image:pull,push,delete"]).await;
    let through = edge.client().bearer(token);
    for (name, writer) in [("direct", &client), ("through", &through)] {
        let (layer, config) = (Blob::random(1, 100_000), Blob::new(&br#"{"layers":[{"blob":"x"}],"records":[]}"#[..]));
        let cache = buildkit_cache(OCI_INDEX, LAYER, &layer, &config);
        if name == "direct" {
            // An entry that is there neither as a manifest nor as a blob.
            assert_eq!(put(writer, name, OCI_INDEX, &cache).await, (400, "MANIFEST_BLOB_UNKNOWN".to_owned()));
        }
        for blob in [&layer, &config] {
            writer.push_blob(REPOSITORY, &blob.digest, blob.bytes.clone()).await;
        }
        assert_eq!(put(writer, name, OCI_INDEX, &cache).await, (201, String::new()), "{name}");
        for reader in [&client, &through] {
            let manifest = reader.manifest(REPOSITORY, name).await.unwrap();
            assert_eq!(json_of(&manifest), cache);
            for blob in [&layer, &config] {
                reader.blob(REPOSITORY, &blob.digest).await.unwrap();
            }
        }
        let path = format!("/v2/{REPOSITORY}/blobs/{}", layer.digest);
        let needed = send(writer, "DELETE", &path, &[], "").await;
        assert_eq!((needed.status, code(&needed).as_str()), (405, "UNSUPPORTED"), "{name}");
    }
    // A manifest that is only there as a blob is none: nobody could pull it.
    let image = Image::new(5, &[10]);
    client.push_blob(REPOSITORY, &image.digest(), image.manifest.blob.bytes.clone()).await;
    for kind in [Some(OCI_MANIFEST), Some("Application/Vnd.OCI.Image.Manifest.V1+Json"), None] {
        let mut entry = json!({ "digest": image.digest().to_string(), "size": image.manifest.blob.bytes.len() });
        if let Some(kind) = kind {
            entry["mediaType"] = json!(kind);
        }
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        assert_eq!(put(&client, "x", OCI_INDEX, &index).await, (400, "MANIFEST_BLOB_UNKNOWN".to_owned()), "{kind:?}");
    }
}

#[tokio::test]
async fn media_types_have_no_case_and_no_parameters() {
    let (_origin, client) = origin().await;
    let image = Image::new(1, &[1000]);
    push_image(&client, REPOSITORY, "as-ever", &image).await;
    for (number, kind) in [
        "Application/VND.OCI.Image.Manifest.V1+JSON",
        "APPLICATION/VND.OCI.IMAGE.MANIFEST.V1+JSON; charset=utf-8",
        "application/vnd.oci.image.manifest.v1+json;q=\"a;b\"",
        "\tapplication/vnd.oci.image.manifest.v1+json ",
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/v2/{REPOSITORY}/manifests/v{number}");
        let body = image.manifest.blob.bytes.clone();
        let made = send(&client, "PUT", &path, &[("content-type", kind)], body).await;
        assert_eq!(made.status, 201, "{kind}: {:?}", made.body);
        // Clients compare it letter by letter.
        assert_eq!(client.get(&path).await.header("content-type"), OCI_MANIFEST, "{kind}");
    }
}

/// A browser that is sent to what a stranger pushed runs nothing of it.
#[tokio::test]
async fn nothing_that_a_browser_runs_is_taken_or_served() {
    let (origin, client) = origin().await;
    for kind in ["text/html", "Text/HTML; charset=utf-8", "application/xhtml+xml", "image/svg+xml", "text/javascript"] {
        let script = json!({ "mediaType": kind, "x": "<script>alert(1)</script>" });
        assert_eq!(put(&client, "x", kind, &script).await, (400, "MANIFEST_INVALID".to_owned()), "{kind}");
        assert_eq!(put(&client, "x", "application/json", &script).await.0, 400, "{kind}");
    }
    let several = "application/vnd.oci.image.index.v1+json, text/html";
    assert_eq!(put(&client, "x", several, &json!({ "manifests": [] })).await.0, 400);
    let path = format!("/v2/{REPOSITORY}/manifests/x");
    let twice = [("content-type", OCI_INDEX), ("content-type", "text/html")];
    assert_eq!(send(&client, "PUT", &path, &twice, r#"{"manifests":[]}"#).await.status, 400);
    let blob = Blob::new(&b"<script>alert(1)</script>"[..]);
    client.push_blob(REPOSITORY, &blob.digest, blob.bytes.clone()).await;
    let got = client.get(&format!("/v2/{REPOSITORY}/blobs/{}", blob.digest)).await;
    assert_eq!(got.header("content-type"), "application/octet-stream");
    for path in [
        "/v2/",
        "/v2/auth",
        "/keys/services/pierhead/keys",
        "/api/v1/discovery",
        "/api/v1/nothing",
        "/health/instance",
        "/nowhere",
        "/v2/org/image/blobs/x",
        &format!("/v2/{REPOSITORY}/blobs/{}", blob.digest),
    ] {
        for client in [&client, &origin.client()] {
            let answer = client.get(path).await;
            let headers = ["x-content-type-options", "content-security-policy"].map(|name| answer.header(name));
            assert_eq!(headers, ["nosniff", "sandbox"], "{path}: {}", answer.status);
        }
    }
}

/// What would tire those who read it, or could be read as two different things, is refused.
#[tokio::test]
async fn what_is_no_manifest_of_its_kind_is_refused() {
    let (_origin, client) = origin().await;
    let empty = Blob::new(&b"{}"[..]);
    client.push_blob(REPOSITORY, &empty.digest, empty.bytes.clone()).await;
    let config = descriptor(EMPTY, &empty);
    let annotations = |count: usize| {
        let all: serde_json::Map<String, Value> = (0..count).map(|number| (number.to_string(), json!(""))).collect();
        json!({ "schemaVersion": 2, "config": config, "layers": [], "annotations": all }).to_string()
    };
    let nested = |depth: usize| format!(r#"{{"manifests":[],"x":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1));
    let arrays = format!(r#"{{"manifests":[],"x":[{}]}}"#, vec!["[]"; 300_000].join(","));
    let both = json!({ "schemaVersion": 2, "config": config, "layers": [], "manifests": [] }).to_string();
    for (name, kind, content, status) in [
        ("64 deep", OCI_INDEX, nested(64), 201),
        ("65 deep", OCI_INDEX, nested(65), 400),
        ("100 000 deep", OCI_INDEX, nested(100_000), 400),
        ("300 000 arrays", OCI_INDEX, arrays, 400),
        ("1 000 annotations", OCI_MANIFEST, annotations(1000), 201),
        ("1 001 annotations", OCI_MANIFEST, annotations(1001), 400),
        ("100 000 annotations", OCI_MANIFEST, annotations(100_000), 400),
        ("an image without a configuration", OCI_MANIFEST, r#"{"schemaVersion":2,"layers":[]}"#.to_owned(), 400),
        ("nothing at all", DOCKER_MANIFEST, "{}".to_owned(), 400),
        ("an index without entries", OCI_INDEX, r#"{"schemaVersion":2}"#.to_owned(), 400),
        ("an image that is an index as well", OCI_MANIFEST, both.clone(), 400),
        ("an index that is an image as well", OCI_INDEX, both, 400),
        ("any other type has any shape", "application/x.y", r#"{"layers":[],"manifests":[]}"#.to_owned(), 201),
    ] {
        let path = format!("/v2/{REPOSITORY}/manifests/x");
        let answer = send(&client, "PUT", &path, &[("content-type", kind)], Bytes::from(content)).await;
        assert_eq!(answer.status, status, "{name}: {:.300?}", answer.body);
        if status == 400 {
            assert_eq!(code(&answer), "MANIFEST_INVALID", "{name}");
        }
    }
}

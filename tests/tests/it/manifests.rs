//! Manifests beyond their tags: HEAD, conditions, negotiation, limits, lists, referrers.

use std::time::Duration;

use pierhead_registry::oci::media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use pierhead_tests::eventually;
use pierhead_tests::image::{Blob, Format, Image, Index, Manifest};
use pierhead_tests::misbehaving::{Misbehaviour, Upstream};
use pierhead_tests::pierhead::Setup;
use pierhead_tests::registry::DockerRegistry;
use serde_json::json;

const PATH: &str = "/v2/team/app/manifests/latest";

#[tokio::test(flavor = "multi_thread")]
async fn head_tells_what_get_brings() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[1000]);
    registry.push("team/app", "latest", &image).await;
    let edge = Setup::new().registry_with("up.test", registry.url(), json!({ "default": true })).start().await;
    let client = edge.client();
    let digest = image.digest().to_string();
    // The first HEAD comes from upstream's HEAD: a GET would count against a rate limit.
    for known in [false, true] {
        for path in [PATH.to_owned(), format!("/v2/team/app/manifests/{digest}")] {
            let head = client.head(&path).await;
            assert_eq!(head.status, 200, "{path}");
            assert_eq!(head.header("docker-content-digest"), digest);
            assert_eq!(head.header("content-length"), image.manifest.blob.bytes.len().to_string());
            assert_eq!(head.header("content-type"), image.manifest.media_type);
            assert!(head.body.is_empty());
        }
        if !known {
            assert_eq!(registry.requests("GET", PATH).await, 0);
            client.manifest("team/app", "latest").await.unwrap();
        }
    }
    let get = client.get(PATH).await;
    assert_eq!(get.header("etag"), format!("\"{digest}\""));
    for (name, value, status) in [
        ("If-None-Match", format!("\"{digest}\""), 304),
        ("If-None-Match", format!("\"x\", W/\"{digest}\""), 304),
        ("If-None-Match", "*".to_owned(), 304),
        ("If-None-Match", "\"x\"".to_owned(), 200),
    ] {
        let reply = client.get_with(PATH, &[(name, &value)]).await;
        assert_eq!(reply.status, status, "{name}: {value}");
        assert_eq!(reply.body.is_empty(), status == 304);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_get_what_they_accept() {
    let registry = DockerRegistry::start().await;
    let (docker, oci) = (Index::new(Format::Docker, 1, 1000), Index::new(Format::Oci, 2, 1000));
    registry.push_index("docker", "latest", &docker).await;
    registry.push_index("oci", "latest", &oci).await;
    let edge = Setup::new().registry_with("up.test", registry.url(), json!({ "default": true })).start().await;
    for (repository, accept, expected) in [
        ("docker", DOCKER_LIST, Some(&docker.manifest)),
        ("docker", "*/*", Some(&docker.manifest)),
        // What distribution does for clients that know no lists.
        ("docker", DOCKER_MANIFEST, Some(&docker.images[0].manifest)),
        ("oci", OCI_INDEX, Some(&oci.manifest)),
        ("oci", &format!("{OCI_MANIFEST};q=0.5, {OCI_INDEX}"), Some(&oci.manifest)),
        ("oci", DOCKER_MANIFEST, None),
    ] {
        let path = format!("/v2/{repository}/manifests/latest");
        // Cold and known.
        for _ in 0..2 {
            let reply = edge.client().get_with(&path, &[("Accept", accept)]).await;
            match expected {
                Some(manifest) => {
                    assert_eq!((reply.status, &reply.body), (200, &manifest.blob.bytes), "{repository} {accept}");
                    assert_eq!(reply.header("docker-content-digest"), manifest.blob.digest.to_string());
                    assert_eq!(reply.header("content-type"), manifest.media_type);
                }
                None => assert_eq!(reply.status, 404, "{repository} {accept}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_media_type_is_kept_byte_for_byte() {
    let upstream = Upstream::start().await;
    let odd = Manifest {
        blob: Blob::new(&b"{\n  \"schemaVersion\" : 2,\"x\":[ ]\n}\n\n"[..]),
        media_type: "application/vnd.example.thing+json".to_owned(),
    };
    upstream.hold_manifest("team/app", "latest", &odd);
    let edge = Setup::new().registry_with("up.test", upstream.url(), json!({ "default": true })).start().await;
    for _ in 0..2 {
        let reply = edge.client().get_with(PATH, &[("Accept", "*/*")]).await;
        assert_eq!((reply.status, &reply.body), (200, &odd.blob.bytes));
        assert_eq!(reply.header("content-type"), odd.media_type);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_beyond_the_limit_is_refused() {
    let upstream = Upstream::start().await;
    let large = Manifest::new(OCI_MANIFEST, &json!({ "annotations": { "x": "y".repeat(5000) } }));
    let small = Manifest::new(OCI_MANIFEST, &json!({ "annotations": {} }));
    upstream.hold_manifest("team/app", "large", &large);
    upstream.hold_manifest("team/app", "small", &small);
    let keys = json!({ "default": true, "max_manifest_size": "4KiB", "retries": 0 });
    let edge = Setup::new().registry_with("up.test", upstream.url(), keys).start().await;
    assert_eq!(edge.client().get("/v2/team/app/manifests/small").await.status, 200);
    let status = edge.client().get("/v2/team/app/manifests/large").await.status;
    assert!(status >= 500, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_cached_and_survive_upstream() {
    let mut registry = DockerRegistry::start().await;
    let image = Image::new(1, &[1000]);
    registry.push("team/app", "one", &image).await;
    registry.push("team/app", "two", &image).await;
    let keys = json!({ "default": true, "tag_ttl": "1s", "retries": 0, "cool_down": "50ms" });
    let edge = Setup::new().registry_with("up.test", registry.url(), keys).start().await;
    let path = "/v2/team/app/tags/list";
    let tags = async || -> Vec<String> {
        let reply = edge.client().get(path).await;
        assert_eq!(reply.status, 200);
        let list: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        let mut tags: Vec<String> = serde_json::from_value(list["tags"].clone()).unwrap();
        tags.sort();
        tags
    };
    assert_eq!(tags().await, ["one", "two"]);
    assert_eq!(tags().await, ["one", "two"]);
    assert_eq!(registry.requests("GET", path).await, 1);
    registry.push("team/app", "three", &image).await;
    eventually("the new tag", Duration::from_secs(10), async || (tags().await.len() == 3).then_some(())).await;
    registry.stop().await;
    eventually("stale", Duration::from_secs(10), async || {
        assert_eq!(tags().await.len(), 3);
        (edge.metric("pierhead_requests_total", &[("kind", "list"), ("outcome", "stale")]).await > 0.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_verify_offline() {
    let upstream = Upstream::start().await;
    let image = Image::new(1, &[1000]);
    upstream.hold("team/app", "latest", &image);
    let digest = image.digest().to_string();
    // By the referrers API …
    let referrers = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] }).to_string();
    let path = format!("/v2/team/app/referrers/{digest}");
    let headers = [("Content-Type", OCI_INDEX), ("OCI-Filters-Applied", "artifactType")];
    upstream.hold_other(&path, &headers, referrers.clone());
    // … and by the tag scheme.
    let signature = Manifest::new(OCI_MANIFEST, &json!({ "schemaVersion": 2, "layers": [] }));
    let tag = digest.replace(':', "-");
    upstream.hold_manifest("team/app", &tag, &signature);
    let keys = json!({ "default": true, "tag_ttl": "1ms", "retries": 0, "cool_down": "50ms" });
    let edge = Setup::new().registry_with("up.test", upstream.url(), keys).start().await;
    let asked = format!("{path}?artifactType=application%2Fx");
    for failing in [false, true] {
        let reply = edge.client().get(&asked).await;
        assert_eq!((reply.status, &reply.body[..]), (200, referrers.as_bytes()), "failing: {failing}");
        assert_eq!(reply.header("content-type"), OCI_INDEX);
        assert_eq!(reply.header("oci-filters-applied"), "artifactType");
        assert_eq!(edge.client().manifest("team/app", &tag).await.unwrap().body, signature.blob.bytes);
        upstream.misbehave(Misbehaviour::Failing(503));
    }
    assert!(upstream.server.count(|request| request.query.contains("artifactType=application")) >= 1);
    // Nothing is made up for an image that nobody asked about.
    let other = format!("/v2/team/app/referrers/{}", Blob::random(9, 10).digest);
    assert_ne!(edge.client().get(&other).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_list_lead_back_through_the_edge() {
    let upstream = Upstream::start().await;
    let link = "</v2/team/app/tags/list?last=b&n=2>; rel=\"next\"";
    upstream.hold_other(
        "/v2/team/app/tags/list",
        &[("Content-Type", "application/json"), ("Link", link)],
        r#"{"name":"team/app","tags":["a","b"]}"#,
    );
    let edge = Setup::new().registry("up.test", upstream.url()).start().await;
    for path in ["/v2/up.test/team/app/tags/list?n=2", "/v2/team/app/tags/list?n=2&ns=up.test"] {
        let reply = edge.client().get(path).await;
        assert_eq!(reply.status, 200, "{path}");
        let target = reply.header("link").trim_start_matches('<').split('>').next().unwrap().to_owned();
        assert!(target.contains("last=b") && target.contains("n=2"), "{target}");
        let target = target.strip_prefix(&edge.url()).unwrap_or(&target).to_owned();
        assert_eq!(edge.client().get(&target).await.status, 200, "{target}");
        assert!(upstream.server.count(|request| request.query.contains("last=b")) >= 1);
    }
}

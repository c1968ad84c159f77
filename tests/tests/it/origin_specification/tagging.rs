//! A manifest that is pushed by its digest gets its tags in the same request (OCI distribution specification, after 1.1).

use bytes::Bytes;
use pierhead_registry::oci::media_type::OCI_INDEX;
use pierhead_registry::oci::{Algorithm, Digest};
use pierhead_tests::image::Image;
use pierhead_tests::pierhead::Setup as EdgeSetup;
use pierhead_tests::pull::Reply;
use serde_json::json;

use super::{REPOSITORY, code, json_of, origin, push_image, send};

const INDEX: [(&str, &str); 1] = [("content-type", OCI_INDEX)];

fn tags_of(reply: &Reply) -> Vec<&str> {
    reply.headers.get_all("oci-tag").iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn a_push_by_digest_sets_tags() {
    let (_origin, client) = origin().await;
    let index = Bytes::from_static(br#"{"schemaVersion":2,"manifests":[]}"#);
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let digest = Digest::of(algorithm, &index);
        let path = format!("/v2/{REPOSITORY}/manifests/{digest}");
        let plain = send(&client, "PUT", &path, &INDEX, index.clone()).await;
        assert_eq!((plain.status, tags_of(&plain)), (201, vec![]));
        for _ in 0..2 {
            let made = send(&client, "PUT", &format!("{path}?tag=b&tag=a&tag=b"), &INDEX, index.clone()).await;
            assert_eq!((made.status, tags_of(&made)), (201, vec!["a", "b"]));
            assert_eq!(made.header("docker-content-digest"), digest.to_string());
        }
        for tag in ["a", "b"] {
            let got = client.get(&format!("/v2/{REPOSITORY}/manifests/{tag}")).await;
            assert_eq!((got.status, got.header("docker-content-digest")), (200, digest.to_string().as_str()));
        }
        assert_eq!(json_of(&client.get(&format!("/v2/{REPOSITORY}/tags/list")).await)["tags"], json!(["a", "b"]));
    }
    let path = format!("/v2/{REPOSITORY}/manifests/{}", Digest::of(Algorithm::Sha256, &index));
    let many: String = (0..51).map(|number| format!("&tag=t{number}")).collect();
    for (path, status) in [
        (format!("{path}?x=y{many}"), 414),
        (format!("{path}?tag=c&tag=.bad"), 400),
        (format!("{path}?tag="), 400),
        (format!("/v2/{REPOSITORY}/manifests/c?tag=d"), 400),
    ] {
        let refused = send(&client, "PUT", &path, &INDEX, index.clone()).await;
        assert_eq!((refused.status, code(&refused).as_str()), (status, "TAG_INVALID"), "{path:.200}");
    }
    // What is refused has set none.
    assert_eq!(json_of(&client.get(&format!("/v2/{REPOSITORY}/tags/list")).await)["tags"], json!(["a", "b"]));
    let most: String = (0..50).map(|number| format!("&tag=t{number}")).collect();
    let made = send(&client, "PUT", &format!("{path}?x=y{most}"), &INDEX, index.clone()).await;
    assert_eq!((made.status, tags_of(&made).len()), (201, 50));
}

/// A tag that moves in this way is seen at once by those who pull through an edge.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_forgets_the_tags_that_a_push_by_digest_sets() {
    let (origin, direct) = origin().await;
    let pool = json!({ "name": "origin", "servers": [origin.registry.to_string()], "health": { "kind": "tcp" } });
    let registry = json!({ "name": "origin.test", "pool": "origin", "default": true, "tag_ttl": "1h" });
    let edge = EdgeSetup::new().pool(pool).with("registries", registry).start().await;
    let token = origin.token("org", "password of org", &["repository:org/image:pull,push"]).await;
    let client = edge.client().bearer(token);
    let images = [Image::new(1, &[1000]), Image::new(2, &[1000])];
    for image in &images {
        push_image(&direct, REPOSITORY, &image.digest().to_string(), image).await;
        let path = format!("/v2/{REPOSITORY}/manifests/{}?tag=latest&tag=stable", image.digest());
        let headers = [("content-type", image.manifest.media_type.as_str())];
        let made = send(&client, "PUT", &path, &headers, image.manifest.blob.bytes.clone()).await;
        assert_eq!((made.status, tags_of(&made)), (201, vec!["latest", "stable"]));
        for tag in ["latest", "stable"] {
            for _ in 0..2 {
                let seen = client.manifest(REPOSITORY, tag).await.unwrap();
                assert_eq!(seen.header("docker-content-digest"), image.digest().to_string(), "{tag}");
            }
        }
    }
}

//! Lists and their pages: referrers, tags, the catalog.

use bytes::Bytes;
use pierhead_registry::oci::Digest;
use pierhead_registry::oci::media_type::{OCI_INDEX, OCI_MANIFEST};
use pierhead_tests::image::{Blob, Image, Manifest};
use serde_json::json;

use super::{REPOSITORY, code, json_of, origin, push_image, send};

#[tokio::test]
async fn referrers_are_listed_filtered_and_paged() {
    let (_origin, client) = origin().await;
    let image = Image::new(1, &[1000]);
    push_image(&client, REPOSITORY, "latest", &image).await;
    let empty = Blob::new(&b"{}"[..]);
    client.push_blob(REPOSITORY, &empty.digest, empty.bytes.clone()).await;
    let referrer = |subject: &Digest, kind: &str, number: usize| {
        Manifest::new(
            OCI_MANIFEST,
            &json!({
                "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": kind,
                "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": empty.digest.to_string(), "size": 2 },
                "layers": [], "subject": { "mediaType": OCI_MANIFEST, "digest": subject.to_string(), "size": 1 },
                "annotations": { "number": number.to_string() },
            }),
        )
    };
    // What is about something need not wait for it.
    let missing = Blob::random(7, 7).digest;
    for (subject, kind, count) in [
        (image.digest(), "application/signature", 120),
        (image.digest(), "application/sbom", 1),
        (missing, "application/signature", 1),
    ] {
        for number in 0..count {
            let manifest = referrer(&subject, kind, number);
            let path = format!("/v2/{REPOSITORY}/manifests/{}", manifest.blob.digest);
            let made = send(&client, "PUT", &path, &[("content-type", OCI_MANIFEST)], manifest.blob.bytes).await;
            assert_eq!((made.status, made.header("oci-subject")), (201, subject.to_string().as_str()));
        }
    }
    let list = async |path: String| {
        let (mut path, mut found) = (path, Vec::new());
        loop {
            let page = client.get(&path).await;
            assert_eq!((page.status, page.header("content-type")), (200, OCI_INDEX));
            let body = json_of(&page);
            assert_eq!(body["schemaVersion"], 2);
            found.extend(body["manifests"].as_array().unwrap().clone());
            let link = page.header("link");
            let Some(next) = link.strip_prefix('<').and_then(|link| link.split_once('>')) else {
                return (found, page);
            };
            path = next.0.to_owned();
        }
    };
    let (all, _) = list(format!("/v2/{REPOSITORY}/referrers/{}", image.digest())).await;
    assert_eq!(all.len(), 121);
    assert_eq!(all[7]["annotations"]["number"], "7");
    assert_eq!(all[7]["artifactType"], "application/signature");
    let (filtered, page) =
        list(format!("/v2/{REPOSITORY}/referrers/{}?artifactType=application/sbom", image.digest())).await;
    assert_eq!((filtered.len(), page.header("oci-filters-applied")), (1, "artifactType"));
    assert_eq!(list(format!("/v2/{REPOSITORY}/referrers/{missing}")).await.0.len(), 1);
    assert_eq!(list(format!("/v2/{REPOSITORY}/referrers/{}", Blob::random(8, 8).digest)).await.0.len(), 0);
    assert_eq!(client.get(&format!("/v2/org/other/referrers/{missing}")).await.status, 404);
}

#[tokio::test]
async fn lists_go_on_where_they_ended() {
    let (_origin, client) = origin().await;
    let manifest = Bytes::from_static(b"{}");
    for tag in ["b", "a", "C", "_d", "a.1", "a-1"] {
        client.push_manifest(REPOSITORY, tag, "application/x.y", manifest.clone()).await;
    }
    client.push_manifest("org/other", "a", "application/x.y", manifest).await;
    let sorted = ["C", "_d", "a", "a-1", "a.1", "b"];
    let all = json_of(&client.get(&format!("/v2/{REPOSITORY}/tags/list")).await);
    assert_eq!(all, json!({ "name": REPOSITORY, "tags": sorted }));
    let (mut path, mut found) = (format!("/v2/{REPOSITORY}/tags/list?n=2"), Vec::new());
    loop {
        let page = client.get(&path).await;
        let tags = json_of(&page)["tags"].as_array().unwrap().clone();
        assert!(tags.len() <= 2);
        found.extend(tags);
        let Some(next) = page.header("link").strip_prefix('<').and_then(|link| link.split_once('>')) else { break };
        assert_eq!(next.1, "; rel=\"next\"");
        path = next.0.to_owned();
    }
    assert_eq!(found, sorted);
    assert_eq!(json_of(&client.get(&format!("/v2/{REPOSITORY}/tags/list?n=0")).await)["tags"], json!([]));
    assert_eq!(json_of(&client.get(&format!("/v2/{REPOSITORY}/tags/list?last=a.1")).await)["tags"], json!(["b"]));
    let refused = client.get(&format!("/v2/{REPOSITORY}/tags/list?n=x")).await;
    assert_eq!((refused.status, code(&refused).as_str()), (400, "PAGINATION_NUMBER_INVALID"));
    for path in [format!("/v2/{REPOSITORY}/tags/list?last=a%00"), "/v2/_catalog?last=%00".to_owned()] {
        let refused = client.get(&path).await;
        assert_eq!((refused.status, code(&refused).as_str()), (400, "UNSUPPORTED"), "{path}");
    }
    let first = client.get("/v2/_catalog?n=1").await;
    assert_eq!(json_of(&first), json!({ "repositories": ["org/image"] }));
    assert_eq!(first.header("link"), "</v2/_catalog?n=1&last=org%2Fimage>; rel=\"next\"");
    assert_eq!(json_of(&client.get("/v2/_catalog?last=org/image").await), json!({ "repositories": ["org/other"] }));
    assert_eq!(client.get("/v2/org/nowhere/tags/list").await.status, 401);
}

//! What can be had of it, and how it goes: blobs, manifests, deletions.

use bytes::Bytes;
use pierhead_registry::oci::media_type::{OCI_INDEX, OCI_MANIFEST};
use pierhead_tests::image::{Blob, Image, Index};
use serde_json::json;

use super::{REPOSITORY, code, json_of, origin, push_image, send};

#[tokio::test]
async fn blobs_are_pulled_whole_in_part_and_only_when_wanted() {
    let (_origin, client) = origin().await;
    let blob = Blob::random(1, 1_000_000);
    client.push_blob(REPOSITORY, &blob.digest, blob.bytes.clone()).await;
    let path = format!("/v2/{REPOSITORY}/blobs/{}", blob.digest);
    let head = client.head(&path).await;
    assert_eq!((head.status, head.header("content-length")), (200, "1000000"));
    assert_eq!(head.header("docker-content-digest"), blob.digest.to_string());
    assert_eq!(head.header("accept-ranges"), "bytes");
    for (range, status, part, said) in [
        ("bytes=0-9", 206, 0..10, "bytes 0-9/1000000"),
        ("bytes=999990-", 206, 999_990..1_000_000, "bytes 999990-999999/1000000"),
        ("bytes=-5", 206, 999_995..1_000_000, "bytes 999995-999999/1000000"),
        ("bytes=500000-9999999", 206, 500_000..1_000_000, "bytes 500000-999999/1000000"),
        ("lines=1-2", 200, 0..1_000_000, ""),
        ("bytes=0-1,5-6", 200, 0..1_000_000, ""),
    ] {
        let got = client.get_with(&path, &[("range", range)]).await;
        assert_eq!((got.status, got.header("content-range")), (status, said), "{range}");
        assert!(got.body == blob.bytes.slice(part), "{range}");
    }
    let past = client.get_with(&path, &[("range", "bytes=1000000-")]).await;
    assert_eq!((past.status, past.header("content-range")), (416, "bytes */1000000"));
    assert_eq!(code(&past), "RANGE_INVALID");
    let etag = head.header("etag").to_owned();
    assert_eq!(client.get_with(&path, &[("if-none-match", &etag)]).await.status, 304);
    let unchanged = send(&client, "HEAD", &path, &[("if-none-match", &etag)], Bytes::new()).await;
    assert_eq!((unchanged.status, unchanged.header("content-length")), (304, "1000000"));
    assert_eq!(client.get_with(&path, &[("if-match", "\"other\"")]).await.status, 412);
    assert_eq!(client.get_with(&path, &[("if-range", "\"other\""), ("range", "bytes=0-0")]).await.status, 200);
    let unknown = client.get(&format!("/v2/{REPOSITORY}/blobs/{}", Blob::random(9, 9).digest)).await;
    assert_eq!((unknown.status, code(&unknown).as_str()), (404, "BLOB_UNKNOWN"));
}

#[tokio::test]
async fn manifests_are_kept_as_they_came() {
    let (_origin, client) = origin().await;
    let index = Index::new(pierhead_tests::image::Format::Oci, 1, 30_000);
    for image in &index.images {
        push_image(&client, REPOSITORY, &image.digest().to_string(), image).await;
    }
    let bytes = index.manifest.blob.bytes.clone();
    let path = format!("/v2/{REPOSITORY}/manifests/latest");
    let made = send(&client, "PUT", &path, &[("content-type", OCI_INDEX)], bytes.clone()).await;
    assert_eq!((made.status, made.header("docker-content-digest")), (201, index.digest().to_string().as_str()));
    assert!(made.header("location").ends_with(&format!("/manifests/{}", index.digest())));
    for path in [path.clone(), format!("/v2/{REPOSITORY}/manifests/{}", index.digest())] {
        let got = client.get(&path).await;
        assert_eq!((got.status, got.header("content-type"), &got.body), (200, OCI_INDEX, &bytes));
        let head = client.head(&path).await;
        assert_eq!(head.header("content-length"), bytes.len().to_string());
        assert_eq!(head.header("docker-content-digest"), index.digest().to_string());
        assert_eq!(client.get_with(&path, &[("if-none-match", head.header("etag"))]).await.status, 304);
        let unchanged = send(&client, "HEAD", &path, &[("if-none-match", head.header("etag"))], Bytes::new()).await;
        assert_eq!((unchanged.status, unchanged.header("content-length")), (304, bytes.len().to_string().as_str()));
    }
    assert_eq!(client.pull(REPOSITORY, "latest").await.unwrap(), 2 * index.images.len());

    // Any media type, and any artifact.
    let artifact = Bytes::from_static(br#"{"mediaType":"application/vnd.example+json","anything":[1,2]}"#);
    client.push_manifest(REPOSITORY, "artifact", "application/vnd.example+json", artifact.clone()).await;
    assert_eq!(client.get(&format!("/v2/{REPOSITORY}/manifests/artifact")).await.body, artifact);

    let absent = Blob::random(99, 10).digest;
    let lacking = json!({ "config": { "digest": absent.to_string(), "size": 10 }, "layers": [] }).to_string();
    for (reference, content_type, body, status, expected) in [
        ("x", OCI_MANIFEST, lacking.as_str(), 400, "MANIFEST_BLOB_UNKNOWN"),
        ("x", OCI_MANIFEST, "not json", 400, "MANIFEST_INVALID"),
        ("x", "", "{}", 400, "MANIFEST_INVALID"),
        ("x", OCI_MANIFEST, r#"{"mediaType":"application/x"}"#, 400, "MANIFEST_INVALID"),
        (&absent.to_string(), OCI_MANIFEST, "{}", 400, "DIGEST_INVALID"),
        ("-x", OCI_MANIFEST, "{}", 400, "TAG_INVALID"),
    ] {
        let path = format!("/v2/{REPOSITORY}/manifests/{reference}");
        let refused = send(&client, "PUT", &path, &[("content-type", content_type)], body.to_owned()).await;
        assert_eq!((refused.status, code(&refused).as_str()), (status, expected), "{reference} {body}");
    }
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(4 * 1024 * 1024));
    let refused = send(&client, "PUT", &path, &[("content-type", OCI_MANIFEST)], large).await;
    assert_eq!((refused.status, code(&refused).as_str()), (413, "SIZE_INVALID"));
    for (path, expected) in
        [("/v2/org/image/manifests/none", "MANIFEST_UNKNOWN"), ("/v2/org/other/manifests/none", "NAME_UNKNOWN")]
    {
        let unknown = client.get(path).await;
        assert_eq!((unknown.status, code(&unknown).as_str()), (404, expected));
    }
}

#[tokio::test]
async fn what_is_deleted_is_gone() {
    let (_origin, client) = origin().await;
    let image = Image::new(1, &[1000]);
    push_image(&client, REPOSITORY, "one", &image).await;
    push_image(&client, REPOSITORY, "two", &image).await;
    let layer = image.layers[0].digest;
    let blob = format!("/v2/{REPOSITORY}/blobs/{layer}");
    let needed = send(&client, "DELETE", &blob, &[], "").await;
    assert_eq!((needed.status, code(&needed).as_str()), (405, "UNSUPPORTED"));

    assert_eq!(send(&client, "DELETE", &format!("/v2/{REPOSITORY}/manifests/one"), &[], "").await.status, 202);
    assert_eq!(client.get(&format!("/v2/{REPOSITORY}/manifests/one")).await.status, 404);
    assert_eq!(client.pull(REPOSITORY, "two").await.unwrap(), 2);
    let manifest = format!("/v2/{REPOSITORY}/manifests/{}", image.digest());
    assert_eq!(send(&client, "DELETE", &manifest, &[], "").await.status, 202);
    for path in [manifest.clone(), format!("/v2/{REPOSITORY}/manifests/two")] {
        let gone = client.get(&path).await;
        assert_eq!((gone.status, code(&gone).as_str()), (404, "MANIFEST_UNKNOWN"));
    }
    assert_eq!(json_of(&client.get(&format!("/v2/{REPOSITORY}/tags/list")).await)["tags"], json!([]));
    assert_eq!(send(&client, "DELETE", &manifest, &[], "").await.status, 404);
    assert_eq!(send(&client, "DELETE", &blob, &[], "").await.status, 202);
    assert_eq!(client.head(&blob).await.status, 404);
    let gone = send(&client, "DELETE", &blob, &[], "").await;
    assert_eq!((gone.status, code(&gone).as_str()), (404, "BLOB_UNKNOWN"));
    // And can be pushed again.
    push_image(&client, REPOSITORY, "one", &image).await;
    assert_eq!(client.pull(REPOSITORY, "one").await.unwrap(), 2);
}

//! A client whose answer was lost asks once more. Whatever it asks, it does not do it twice, and it hears what it would have heard.

use bytes::Bytes;
use pierhead_registry::oci::{Algorithm, Digest};
use pierhead_tests::image::{Blob, Image, noise};

use super::{REPOSITORY, begin, code, origin, push_image, send, with_digest};

#[tokio::test]
async fn the_end_of_an_upload_can_be_asked_for_again() {
    let (origin, client) = origin().await;
    let large = Bytes::from(noise(3, 3_000_000));
    let sha512 = Digest::of(Algorithm::Sha512, &large);
    for (name, digest, first, last) in [
        ("the last piece in the PUT", Blob::new(large.clone()).digest, large.slice(..0), large.clone()),
        ("all of it in a PATCH", Blob::new(large.slice(1..)).digest, large.slice(1..), Bytes::new()),
        ("by SHA-512", sha512, large.slice(..1_000_000), large.slice(1_000_000..)),
    ] {
        let location = begin(&client, REPOSITORY).await;
        if !first.is_empty() {
            assert_eq!(send(&client, "PATCH", &location, &[], first).await.status, 202, "{name}");
        }
        let end = with_digest(&location, &digest);
        let mut answers = Vec::new();
        for _ in 0..3 {
            let made = send(&client, "PUT", &end, &[], last.clone()).await;
            let headers = ["location", "docker-content-digest"].map(|name| made.header(name).to_owned());
            answers.push((made.status, headers));
        }
        assert_eq!(answers[0].0, 201, "{name}");
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{name}: {answers:?}");
        client.blob(REPOSITORY, &digest).await.unwrap();
        // The upload itself is over, for everything else.
        for method in ["GET", "HEAD", "PATCH", "DELETE"] {
            assert_eq!(send(&client, method, &location, &[], "").await.status, 404, "{name}: {method}");
        }
        // In a repository that does not hold the blob, nothing was finished.
        let elsewhere = send(&client, "PUT", &end.replace("org/image", "org/other"), &[], "").await;
        assert_eq!((elsewhere.status, code(&elsewhere).as_str()), (404, "BLOB_UPLOAD_UNKNOWN"), "{name}");
    }
    // Nor is another blob than the one that is there.
    let location = begin(&client, REPOSITORY).await;
    assert_eq!(send(&client, "DELETE", &location, &[], "").await.status, 204);
    let absent = Blob::random(9, 9);
    let unknown = send(&client, "PUT", &with_digest(&location, &absent.digest), &[], absent.bytes.clone()).await;
    assert_eq!((unknown.status, code(&unknown).as_str()), (404, "BLOB_UPLOAD_UNKNOWN"));
    assert_eq!(client.head(&format!("/v2/{REPOSITORY}/blobs/{}", absent.digest)).await.status, 404);
    // One blob was pushed for each upload that was finished.
    assert_eq!(origin.metric("quay_multipart_uploads_completed_total", &[]).await, 3.0);
}

#[tokio::test]
async fn a_piece_that_comes_again_is_not_taken_twice() {
    let (_origin, client) = origin().await;
    let blob = Blob::random(1, 50_000);
    let location = begin(&client, REPOSITORY).await;
    let (first, second) = (blob.bytes.slice(..20_000), blob.bytes.slice(20_000..));
    let range = [("content-range", "0-19999")];
    assert_eq!(send(&client, "PATCH", &location, &range, first.clone()).await.status, 202);
    let again = send(&client, "PATCH", &location, &range, first).await;
    assert_eq!((again.status, again.header("range")), (416, "0-19999"));
    let rest = [("content-range", "20000-49999")];
    assert_eq!(send(&client, "PATCH", &location, &rest, second).await.status, 202);
    assert_eq!(send(&client, "PUT", &with_digest(&location, &blob.digest), &[], "").await.status, 201);
    client.blob(REPOSITORY, &blob.digest).await.unwrap();
}

#[tokio::test]
async fn manifests_mounts_and_deletions_come_again() {
    let (_origin, client) = origin().await;
    let image = Image::new(1, &[1000]);
    push_image(&client, REPOSITORY, "latest", &image).await;
    push_image(&client, REPOSITORY, "latest", &image).await;
    let layer = image.layers[0].digest;
    let mount = format!("/v2/org/other/blobs/uploads/?mount={layer}&from={REPOSITORY}");
    for _ in 0..2 {
        let mounted = send(&client, "POST", &mount, &[], "").await;
        assert_eq!((mounted.status, mounted.header("docker-content-digest")), (201, layer.to_string().as_str()));
    }
    // A deletion says the second time that there is nothing any more, as the specification wants.
    for path in [
        format!("/v2/org/other/blobs/{layer}"),
        format!("/v2/{REPOSITORY}/manifests/latest"),
        format!("/v2/{REPOSITORY}/manifests/{}", image.digest()),
    ] {
        let statuses = [
            send(&client, "DELETE", &path, &[], "").await.status,
            send(&client, "DELETE", &path, &[], "").await.status,
        ];
        assert_eq!(statuses, [202, 404], "{path}");
    }
}

//! How content comes in: blobs and their mounts, in every way and in wrong ones.

use bytes::Bytes;
use pierhead_registry::oci::media_type::OCI_MANIFEST;
use pierhead_registry::oci::{Algorithm, Digest};
use pierhead_tests::image::{Blob, noise};
use pierhead_tests::pull::reply;
use reqwest::Method;
use serde_json::json;

use super::{REPOSITORY, SCOPES, begin, code, json_of, origin, send, with_digest};

#[tokio::test]
async fn blobs_are_pushed_in_every_way() {
    let (_origin, client) = origin().await;
    let path = format!("/v2/{REPOSITORY}/blobs/uploads/");
    let octets = ("content-type", "application/octet-stream");

    // In one piece, with the second request.
    let whole = Blob::random(1, 100_000);
    let location = begin(&client, REPOSITORY).await;
    let made = send(&client, "PUT", &with_digest(&location, &whole.digest), &[octets], whole.bytes.clone()).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    assert_eq!(made.header("docker-content-digest"), whole.digest.to_string());
    let blob = made.header("location").strip_prefix(&client.base).unwrap().to_owned();
    assert_eq!(client.get(&blob).await.body, whole.bytes);

    // In one request.
    let single = Blob::random(2, 70_000);
    let made =
        send(&client, "POST", &format!("{path}?digest={}", single.digest), &[octets], single.bytes.clone()).await;
    assert_eq!(made.status, 201);
    client.blob(REPOSITORY, &single.digest).await.unwrap();

    // In pieces that say where they belong.
    let pieces = Blob::random(3, 90_000);
    let mut location = begin(&client, REPOSITORY).await;
    for (first, last) in [(0, 29_999), (30_000, 30_000), (30_001, 89_998)] {
        let range = format!("{first}-{last}");
        let piece = pieces.bytes.slice(first..=last);
        let taken = send(&client, "PATCH", &location, &[("content-range", &range), octets], piece).await;
        assert_eq!((taken.status, taken.header("range")), (202, format!("0-{last}").as_str()));
        location = taken.header("location").to_owned();
        let standing = send(&client, "GET", &location, &[], "").await;
        assert_eq!((standing.status, standing.header("range")), (204, format!("0-{last}").as_str()));
    }
    for (range, status) in [("0-9", 416), ("89998-89998", 416), ("90000-90000", 416), ("89999-89998", 400), ("x", 400)]
    {
        let refused = send(&client, "PATCH", &location, &[("content-range", range)], "x").await;
        assert!(refused.status == status || refused.status == 400, "{range}: {}", refused.status);
        if refused.status == 416 {
            assert_eq!(refused.header("range"), "0-89998");
        }
    }
    // The last one comes with the end.
    let made =
        send(&client, "PUT", &with_digest(&location, &pieces.digest), &[octets], pieces.bytes.slice(89_999..)).await;
    assert_eq!(made.status, 201);
    client.blob(REPOSITORY, &pieces.digest).await.unwrap();
    assert_eq!(send(&client, "GET", &location, &[], "").await.status, 404);

    // As one stream of a length that nobody knows.
    let stream = Blob::random(4, 1_000_000);
    let location = begin(&client, REPOSITORY).await;
    let parts: Vec<Result<Bytes, std::io::Error>> =
        stream.bytes.chunks(7919).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(parts));
    let request = client.request(Method::PATCH, location.strip_prefix(&client.base).unwrap()).body(body);
    assert_eq!(reply(request).await.unwrap().header("range"), "0-999999");
    let made = send(&client, "PUT", &with_digest(&location, &stream.digest), &[], "").await;
    assert_eq!(made.status, 201);
    client.blob(REPOSITORY, &stream.digest).await.unwrap();

    // Nothing at all is a blob too.
    let nothing = Blob::new(Bytes::new());
    let location = begin(&client, REPOSITORY).await;
    assert_eq!(send(&client, "PUT", &with_digest(&location, &nothing.digest), &[], "").await.status, 201);
    client.blob(REPOSITORY, &nothing.digest).await.unwrap();
}

#[tokio::test]
async fn sha512_with_and_without_notice() {
    let (_origin, client) = origin().await;
    for (seed, query) in [(1, "?digest-algorithm=sha512"), (2, "")] {
        let bytes = Bytes::from(noise(seed, 300_000));
        let digest = Digest::of(Algorithm::Sha512, &bytes);
        let begun = send(&client, "POST", &format!("/v2/{REPOSITORY}/blobs/uploads/{query}"), &[], "").await;
        let location = begun.header("location").to_owned();
        assert_eq!(send(&client, "PATCH", &location, &[], bytes.slice(..100_000)).await.status, 202);
        let made = send(&client, "PUT", &with_digest(&location, &digest), &[], bytes.slice(100_000..)).await;
        assert_eq!(made.status, 201, "{query}");
        assert_eq!(client.get(&format!("/v2/{REPOSITORY}/blobs/{digest}")).await.body, bytes);

        let location = begin(&client, REPOSITORY).await;
        assert_eq!(send(&client, "PATCH", &location, &[], "something else").await.status, 202);
        let refused = send(&client, "PUT", &with_digest(&location, &digest), &[], "").await;
        assert_eq!((refused.status, code(&refused).as_str()), (400, "DIGEST_INVALID"));
    }
    // A manifest as well, by its digest.
    let manifest = Bytes::from_static(br#"{"schemaVersion":2}"#);
    let digest = Digest::of(Algorithm::Sha512, &manifest);
    client.push_manifest(REPOSITORY, &digest.to_string(), "application/x.y", manifest.clone()).await;
    let pulled = client.get(&format!("/v2/{REPOSITORY}/manifests/{digest}")).await;
    assert_eq!(
        (pulled.body, pulled.headers["docker-content-digest"].to_str().unwrap().to_owned()),
        (manifest, digest.to_string())
    );
}

#[tokio::test]
async fn who_only_knows_a_digest_gets_nothing_by_it() {
    let (origin, client) = origin().await;
    let secret = Blob::random(1, 100_000);
    client.push_blob(REPOSITORY, &secret.digest, secret.bytes.clone()).await;
    origin.setup().user("stranger", "password of stranger", &[]).await;
    let scopes = ["repository:stranger/own:pull,push"];
    let stranger = origin.login("stranger", "password of stranger", &scopes).await;
    // Something else is hashed as SHA-512, and then said to be the secret: nobody but the store can tell.
    let path = "/v2/stranger/own/blobs/uploads/?digest-algorithm=sha512";
    let begun = send(&stranger, "POST", path, &[], "").await;
    assert_eq!(send(&stranger, "PATCH", begun.header("location"), &[], "x").await.status, 202);
    let end = with_digest(begun.header("location"), &secret.digest);
    let refused = send(&stranger, "PUT", &end, &[], "").await;
    assert_eq!((refused.status, code(&refused).as_str()), (400, "DIGEST_INVALID"));
    let blob = format!("/v2/stranger/own/blobs/{}", secret.digest);
    assert_eq!(stranger.head(&blob).await.status, 404);
    client.blob(REPOSITORY, &secret.digest).await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_with_a_push_is_told_and_leaves_nothing() {
    let (_origin, client) = origin().await;
    let (right, wrong) = (Blob::random(1, 1000), Blob::random(2, 1000));
    let location = begin(&client, REPOSITORY).await;
    let refused = send(&client, "PUT", &with_digest(&location, &wrong.digest), &[], right.bytes.clone()).await;
    assert_eq!((refused.status, code(&refused).as_str()), (400, "DIGEST_INVALID"));
    assert_eq!(send(&client, "GET", &location, &[], "").await.status, 404);

    let location = begin(&client, REPOSITORY).await;
    for (query, expected) in
        [("", "DIGEST_INVALID"), ("?digest=latest", "DIGEST_INVALID"), ("?digest=md5:0", "DIGEST_INVALID")]
    {
        let refused = send(&client, "PUT", &format!("{location}{query}"), &[], "").await;
        assert_eq!((refused.status, code(&refused).as_str()), (400, expected), "{query}");
    }
    assert_eq!(send(&client, "DELETE", &location, &[], "").await.status, 204);
    for method in ["GET", "PATCH", "DELETE"] {
        let gone = send(&client, method, &location, &[], "").await;
        assert_eq!((gone.status, code(&gone).as_str()), (404, "BLOB_UPLOAD_UNKNOWN"), "{method}");
    }
    // A manifest says what it is about.
    client.push_blob(REPOSITORY, &right.digest, right.bytes.clone()).await;
    let config = json!({ "mediaType": "x/y", "digest": right.digest.to_string(), "size": 1000 });
    let path = format!("/v2/{REPOSITORY}/manifests/lies");
    for (size, status) in [(999, 400), (1000, 201), (0, 201)] {
        let layers = json!([{ "mediaType": "x/y", "digest": right.digest.to_string(), "size": size }]);
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers }).to_string();
        let answer = send(&client, "PUT", &path, &[("Content-Type", OCI_MANIFEST)], manifest).await;
        assert_eq!(answer.status, status, "{size}: {:?}", answer.body);
        if status == 400 {
            assert_eq!(code(&answer), "MANIFEST_INVALID");
            let told = json_of(&answer)["errors"][0]["message"].as_str().unwrap().to_owned();
            assert!([&right.digest.to_string(), "999", "1000"].iter().all(|part| told.contains(*part)), "{told}");
        }
    }
    // An upload belongs to its repository.
    let location = begin(&client, REPOSITORY).await;
    let moved = location.replace("/org/image/", "/org/other/");
    assert_eq!(send(&client, "PATCH", &moved, &[], "x").await.status, 404);
    for (path, status, expected) in [
        ("/v2/UPPER/x/blobs/uploads/".to_owned(), 400, "NAME_INVALID"),
        ("/v2/alone/blobs/uploads/".to_owned(), 400, "NAME_INVALID"),
        (format!("/v2/{REPOSITORY}/blobs/uploads/?mount=x"), 400, "DIGEST_INVALID"),
        (format!("/v2/{REPOSITORY}/blobs/uploads/?digest-algorithm=md5"), 400, "DIGEST_INVALID"),
        ("/v2/org/nothing/here".to_owned(), 404, "UNSUPPORTED"),
    ] {
        let refused = send(&client, "POST", &path, &[], "").await;
        assert_eq!((refused.status, code(&refused).as_str()), (status, expected), "{path}");
    }
    let refused = send(&client, "PUT", &format!("/v2/{REPOSITORY}/tags/list"), &[], "").await;
    assert_eq!((refused.status, refused.header("allow")), (405, "GET, HEAD"));
}

#[tokio::test]
async fn blobs_are_mounted_from_where_the_caller_may_pull() {
    let (origin, client) = origin().await;
    let blob = Blob::random(1, 50_000);
    client.push_blob(REPOSITORY, &blob.digest, blob.bytes.clone()).await;
    let path = format!("/v2/org/other/blobs/uploads/?mount={}", blob.digest);
    assert_eq!(client.head(&format!("/v2/org/other/blobs/{}", blob.digest)).await.status, 404);
    for query in ["&from=org/image", ""] {
        let mounted = send(&client, "POST", &format!("{path}{query}"), &[], "").await;
        assert_eq!(mounted.status, 201, "{query}");
        assert_eq!(mounted.header("docker-content-digest"), blob.digest.to_string());
        client.blob("org/other", &blob.digest).await.unwrap();
        assert_eq!(send(&client, "DELETE", &format!("/v2/org/other/blobs/{}", blob.digest), &[], "").await.status, 202);
        assert_eq!(client.head(&format!("/v2/org/other/blobs/{}", blob.digest)).await.status, 404);
    }
    // What is not there, or cannot be, becomes an ordinary upload.
    let everywhere = [SCOPES[0], SCOPES[1], "repository:org/nowhere:pull", "repository:stranger/own:pull"];
    let everywhere = origin.login("org", "password of org", &everywhere).await;
    for query in ["&from=org/nowhere", "&from=org/other", "&from=Bad//Name", "&from="] {
        assert_eq!(send(&everywhere, "POST", &format!("{path}{query}"), &[], "").await.status, 202, "{query}");
    }
    // A token that was not asked for in the other repository: the client is told to ask. When it has asked and may not, it is not told
    // again, for that would end its push.
    let from_stranger = format!("{path}&from=stranger/own");
    let challenged = send(&client, "POST", &from_stranger, &[], "").await;
    assert_eq!(challenged.status, 401);
    let scope = "scope=\"repository:org/other:pull,push repository:stranger/own:pull\",error=\"insufficient_scope\"";
    assert!(challenged.header("www-authenticate").ends_with(scope), "{:?}", challenged.headers);
    assert_eq!(send(&everywhere, "POST", &from_stranger, &[], "").await.status, 202);
    // A token that names one repository mounts from no other.
    let narrow = origin.login("org", "password of org", &["repository:org/other:pull,push"]).await;
    assert_eq!(send(&narrow, "POST", &path, &[], "").await.status, 202);
    // What the challenge says is what the mount needs.
    let named = format!("{path}&from=org/image");
    let challenged = send(&narrow, "POST", &named, &[], "").await;
    assert_eq!(challenged.status, 401);
    let (_, scope) = challenged.header("www-authenticate").split_once(",scope=\"").unwrap();
    let scopes: Vec<&str> = scope.split('"').next().unwrap().split(' ').collect();
    let wide = origin.login("org", "password of org", &scopes).await;
    assert_eq!(send(&wide, "POST", &named, &[], "").await.status, 201);
    assert_eq!(send(&wide, "DELETE", &format!("/v2/org/other/blobs/{}", blob.digest), &[], "").await.status, 401);
    // Another tenant learns nothing of it.
    origin.setup().user("stranger", "password of stranger", &[]).await;
    let scopes = ["repository:stranger/own:pull,push", "repository:org/image:pull"];
    let stranger = origin.login("stranger", "password of stranger", &scopes).await;
    for query in ["&from=org/image", ""] {
        let path = format!("/v2/stranger/own/blobs/uploads/?mount={}{query}", blob.digest);
        assert_eq!(send(&stranger, "POST", &path, &[], "").await.status, 202, "{query}");
    }
    assert_eq!(stranger.head(&format!("/v2/stranger/own/blobs/{}", blob.digest)).await.status, 404);
    stranger.push_blob("stranger/own", &blob.digest, blob.bytes.clone()).await;
    stranger.blob("stranger/own", &blob.digest).await.unwrap();
}

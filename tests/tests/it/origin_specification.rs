//! The origin does what the OCI distribution specification 1.1 says, one behaviour after the other.

use bytes::Bytes;
use pierhead_registry::oci::media_type::{OCI_INDEX, OCI_MANIFEST};
use pierhead_registry::oci::{Algorithm, Digest};
use pierhead_tests::image::{Blob, Image, Index, Manifest, noise};
use pierhead_tests::origin::{Origin, Setup};
use pierhead_tests::pull::{Client, Reply, reply};
use reqwest::Method;
use serde_json::{Value, json};

const REPOSITORY: &str = "org/image";
const SCOPES: [&str; 3] =
    ["repository:org/image:pull,push,delete", "repository:org/other:pull,push,delete", "registry:catalog:*"];

/// An origin, and a client that may do everything in two repositories of it.
async fn origin() -> (Origin, Client) {
    let setup = Setup::new();
    setup.user("org", "password of org", &[]).await;
    let origin = setup.start().await;
    let client = origin.login("org", "password of org", &SCOPES).await;
    (origin, client)
}

/// A request with header lines and a body.
async fn send(client: &Client, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let path = path.strip_prefix(&client.base).unwrap_or(path);
    let mut request = client.request(method, path).body(body.into());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    reply(request).await.unwrap()
}

fn code(reply: &Reply) -> String {
    let body: Value = serde_json::from_slice(&reply.body).unwrap();
    body["errors"][0]["code"].as_str().unwrap().to_owned()
}

fn json_of(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap()
}

/// Where the next piece of an upload goes, with the digest at the end of the query.
fn with_digest(location: &str, digest: &Digest) -> String {
    let separator = if location.contains('?') { '&' } else { '?' };
    format!("{location}{separator}digest={digest}")
}

async fn begin(client: &Client, repository: &str) -> String {
    let begun = send(client, "POST", &format!("/v2/{repository}/blobs/uploads/"), &[], "").await;
    assert_eq!(begun.status, 202);
    let location = begun.header("location").to_owned();
    assert!(location.starts_with(&client.base), "{location}");
    assert!(location.ends_with(begun.header("docker-upload-uuid")));
    location
}

async fn push_image(client: &Client, repository: &str, tag: &str, image: &Image) {
    for blob in image.blobs() {
        client.push_blob(repository, &blob.digest, blob.bytes.clone()).await;
    }
    let manifest = &image.manifest;
    client.push_manifest(repository, tag, &manifest.media_type, manifest.blob.bytes.clone()).await;
}

#[tokio::test]
async fn who_comes_without_a_token_is_told_where_to_get_one() {
    let (origin, client) = origin().await;
    let digest = Blob::random(1, 1).digest;
    for (method, path, scope) in [
        ("GET", "/v2/".to_owned(), ""),
        ("GET", "/v2/_catalog".to_owned(), ",scope=\"registry:catalog:*\""),
        ("GET", "/v2/org/image/manifests/a".to_owned(), ",scope=\"repository:org/image:pull\""),
        ("HEAD", format!("/v2/org/image/blobs/{digest}"), ",scope=\"repository:org/image:pull\""),
        ("POST", "/v2/org/image/blobs/uploads/".to_owned(), ",scope=\"repository:org/image:pull,push\""),
        ("DELETE", "/v2/org/image/manifests/a".to_owned(), ",scope=\"repository:org/image:delete\""),
    ] {
        let refused = send(&origin.client(), method, &path, &[], "").await;
        assert_eq!(refused.status, 401, "{method} {path}");
        let expected = format!("Bearer realm=\"{}/v2/auth\",service=\"registry.test\"{scope}", origin.url());
        assert_eq!(refused.header("www-authenticate"), expected);
        assert_eq!(refused.header("docker-distribution-api-version"), "registry/2.0");
        assert_eq!(refused.header("x-content-type-options"), "nosniff");
        if method != "HEAD" {
            assert_eq!(code(&refused), "UNAUTHORIZED");
        }
    }
    assert_eq!(client.get("/v2/").await.status, 200);
    let elsewhere = send(&client, "POST", "/v2/org/third/blobs/uploads/", &[], "").await;
    assert_eq!(elsewhere.status, 401);
    assert!(elsewhere.header("www-authenticate").contains("error=\"insufficient_scope\""));
}

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
    let path = format!("/v2/{REPOSITORY}/manifests/lies");
    for (size, status) in [(999, 400), (1000, 201), (0, 201)] {
        let layers = json!([{ "mediaType": "x/y", "digest": right.digest.to_string(), "size": size }]);
        let manifest = json!({ "schemaVersion": 2, "layers": layers }).to_string();
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
    assert_eq!(client.get_with(&path, &[("if-match", "\"other\"")]).await.status, 412);
    assert_eq!(client.get_with(&path, &[("if-range", "\"other\""), ("range", "bytes=0-0")]).await.status, 200);
    let unknown = client.get(&format!("/v2/{REPOSITORY}/blobs/{}", Blob::random(9, 9).digest)).await;
    assert_eq!((unknown.status, code(&unknown).as_str()), (404, "BLOB_UNKNOWN"));
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
    // What is not there, or not in the token, becomes an ordinary upload.
    for query in ["&from=org/nowhere", "&from=org/other"] {
        assert_eq!(send(&client, "POST", &format!("{path}{query}"), &[], "").await.status, 202, "{query}");
    }
    // A token that names one repository mounts from no other.
    let narrow = origin.login("org", "password of org", &["repository:org/other:pull,push"]).await;
    assert_eq!(send(&narrow, "POST", &path, &[], "").await.status, 202);
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
    }
    assert_eq!(client.pull(REPOSITORY, "latest").await.unwrap(), 2 * index.images.len());

    // Any media type, and any artifact.
    let artifact = Bytes::from_static(br#"{"mediaType":"application/vnd.example+json","anything":[1,2]}"#);
    client.push_manifest(REPOSITORY, "artifact", "application/vnd.example+json", artifact.clone()).await;
    assert_eq!(client.get(&format!("/v2/{REPOSITORY}/manifests/artifact")).await.body, artifact);

    let absent = Blob::random(99, 10).digest;
    let lacking = json!({ "layers": [{ "digest": absent.to_string(), "size": 10 }] }).to_string();
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

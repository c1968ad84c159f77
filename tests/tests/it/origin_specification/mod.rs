//! The origin does what the OCI distribution specification 1.1 says, one behaviour after the other.

mod content;
mod lists;
mod pushes;
mod repeats;
mod shapes;
mod tagging;

use bytes::Bytes;
use pierhead_registry::oci::Digest;
use pierhead_tests::image::{Blob, Image};
use pierhead_tests::origin::{Origin, Setup};
use pierhead_tests::pull::{Client, Reply, reply};
use reqwest::Method;
use serde_json::Value;

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
        (
            "POST",
            format!("/v2/org/image/blobs/uploads/?mount={digest}&from=org/other"),
            ",scope=\"repository:org/image:pull,push repository:org/other:pull\"",
        ),
        // What cannot be the name of a repository here cannot be asked for.
        (
            "POST",
            format!("/v2/org/image/blobs/uploads/?mount={digest}&from=Bad//Name"),
            ",scope=\"repository:org/image:pull,push\"",
        ),
        ("GET", format!("/v2/org/nowhere/referrers/{digest}"), ",scope=\"repository:org/nowhere:pull\""),
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

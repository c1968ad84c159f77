//! Two tenants of one origin, with real clients: each has its own, and learns nothing of the other's.

use std::time::Duration;

use pierhead_registry::oci::Digest;
use pierhead_tests::clients::{Containerd, Podman, Skopeo, assert_hashes};
use pierhead_tests::image::{Format, Image, Index};
use pierhead_tests::origin::{Origin, Setup};
use pierhead_tests::process::run;
use pierhead_tests::pull::{Client, reply};
use pierhead_tests::registry::DockerRegistry;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;

const PASSWORD: &str = "correct horse";

async fn origin() -> Origin {
    let setup = Setup::new();
    for name in ["ann", "bob"] {
        setup.user(name, PASSWORD, &[]).await;
    }
    setup.start().await
}

async fn push(client: &Client, repository: &str, tag: &str, image: &Image) {
    for blob in image.blobs() {
        client.push_blob(repository, &blob.digest, blob.bytes.clone()).await;
    }
    let manifest = &image.manifest;
    client.push_manifest(repository, tag, &manifest.media_type, manifest.blob.bytes.clone()).await;
}

async fn head(client: &Client, repository: &str, digest: &Digest) -> u16 {
    client.head(&format!("/v2/{repository}/blobs/{digest}")).await.status
}

async fn api(client: &Client, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let mut request = client.request(method, &format!("/api/v1{path}"));
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    let answer = reply(request).await.unwrap();
    (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_layer_of_two_tenants_tells_neither_of_the_other() {
    let origin = origin().await;
    let image = Image::new(1, &[10_000]);
    let layer = image.layers[0].digest;
    let ann = origin.login("ann", PASSWORD, &["repository:ann/app:pull,push"]).await;
    push(&ann, "ann/app", "v1", &image).await;
    // Bob asks for a token for both, and gets his own half.
    let bob = origin.login("bob", PASSWORD, &["repository:bob/app:pull,push", "repository:ann/app:pull"]).await;
    assert_eq!(head(&bob, "ann/app", &layer).await, 401);
    let mount = format!("/v2/bob/app/blobs/uploads/?mount={layer}&from=ann/app");
    assert_eq!(reply(bob.request(Method::POST, &mount)).await.unwrap().status, 202);
    assert_eq!(head(&bob, "bob/app", &layer).await, 404);
    push(&bob, "bob/app", "v1", &image).await;
    assert_eq!(bob.pull("bob/app", "v1").await.unwrap(), ann.pull("ann/app", "v1").await.unwrap());
    // What one takes away stays with the other.
    let account = origin.client().login("ann", PASSWORD);
    assert_eq!(api(&account, Method::DELETE, "/repository/ann/app", None).await.0, 204);
    assert!(ann.pull("ann/app", "v1").await.is_err());
    bob.pull("bob/app", "v1").await.unwrap();
    let catalog: Value = serde_json::from_slice(
        &origin.login("bob", PASSWORD, &["registry:catalog:*"]).await.get("/v2/_catalog").await.body,
    )
    .unwrap();
    assert_eq!(catalog["repositories"], json!(["bob/app"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_skopeo_and_containerd_log_in_and_are_refused_where_they_may_not() {
    let origin = origin().await;
    let image = Image::new(2, &[10_000, 5_000]);
    let ann = origin.login("ann", PASSWORD, &["repository:ann/app:pull,push"]).await;
    push(&ann, "ann/app", "v1", &image).await;
    let name = |repository: &str| format!("{}/{repository}", origin.registry);
    let conf = format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", origin.registry);
    let podman = Podman::with_registries(&conf);
    let login = async |user: &str, password: &str| {
        let address = origin.registry.to_string();
        podman.run(&["login", "--tls-verify=false", "--username", user, "--password", password, &address]).await
    };
    podman.pull(&name("ann/app:v1")).await.expect_failure();
    login("ann", "wrong").await.expect_failure();
    login("bob", PASSWORD).await.expect_success();
    podman.pull(&name("ann/app:v1")).await.expect_failure();
    login("ann", PASSWORD).await.expect_success();
    podman.pull(&name("ann/app:v1")).await.expect_success();
    podman.push(&name("ann/app:v1"), &name("ann/other:v2")).await.expect_success();
    podman.push(&name("ann/app:v1"), &name("bob/app:v1")).await.expect_failure();
    // A robot, which may push where it was told, and an application.
    let account = origin.client().login("ann", PASSWORD);
    let (_, robot) = api(&account, Method::PUT, "/user/robots/ci", None).await;
    let given = json!({ "role": "write" });
    let path = "/repository/ann/app/permissions/user/ann+ci";
    assert_eq!(api(&account, Method::PUT, path, Some(given)).await.0, 200);
    login("ann+ci", robot["token"].as_str().unwrap()).await.expect_success();
    podman.push(&name("ann/app:v1"), &name("ann/app:v3")).await.expect_success();
    podman.push(&name("ann/app:v1"), &name("ann/other:v3")).await.expect_failure();
    let (_, token) = api(&account, Method::POST, "/user/apptoken", Some(json!({ "title": "skopeo" }))).await;
    let credentials = format!("$app:{}", token["token"]["token_code"].as_str().unwrap());
    let skopeo = Skopeo::new();
    skopeo.copy(&name("ann/app:v3"), &[]).await.expect_failure();
    skopeo.copy(&name("ann/app:v3"), &["--src-creds", &credentials]).await.expect_success();
    assert_hashes(&skopeo.blobs(), []);
    let containerd = Containerd::start(origin.registry, &["registry.test"]).await;
    containerd.pull("registry.test/ann/app:v1", &[]).await.expect_failure();
    containerd.pull("registry.test/ann/app:v1", &["--user", "ann:wrong"]).await.expect_failure();
    containerd.pull("registry.test/ann/app:v1", &["--user", &format!("ann:{PASSWORD}")]).await.expect_success();
    assert_hashes(&containerd.blobs(), image.blobs());
    for kind in ["create_repo", "push_repo"] {
        let (_, logs) = api(&account, Method::GET, "/user/logs", None).await;
        let lines: Vec<_> = logs["logs"].as_array().unwrap().iter().filter(|line| line["kind"] == kind).collect();
        let named = |line: &&Value| line["metadata"]["namespace"] == "ann" && line["metadata"]["repo"].is_string();
        assert!(!lines.is_empty() && lines.iter().all(named), "{kind}: {logs}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_go_back_in_time() {
    let origin = origin().await;
    let images = [Image::new(3, &[1_000]), Image::new(4, &[2_000])];
    let client = origin.login("ann", PASSWORD, &["repository:ann/app:pull,push,delete"]).await;
    for image in &images {
        push(&client, "ann/app", "latest", image).await;
    }
    let account = origin.client().login("ann", PASSWORD);
    let [first, second] = images.each_ref().map(|image| image.digest().to_string());
    let history =
        async |query: &str| api(&account, Method::GET, &format!("/repository/ann/app/tag/?{query}"), None).await.1;
    let digests = |list: &Value| -> Vec<String> {
        list["tags"].as_array().unwrap().iter().map(|tag| tag["manifest_digest"].as_str().unwrap().to_owned()).collect()
    };
    let all = history("").await;
    assert_eq!(digests(&all), [second.clone(), first.clone()]);
    assert!(all["tags"][0].get("end_ts").is_none() && all["tags"][1]["end_ts"].is_i64());
    assert_eq!((&all["page"], &all["has_additional"]), (&json!(1), &json!(false)));
    assert_eq!(history("limit=1").await["has_additional"], true);
    assert_eq!(digests(&history("limit=1&page=2").await), std::slice::from_ref(&first));
    let to = |digest: &str| Some(json!({ "manifest_digest": digest }));
    // Back, deleted, and back again; each with its line.
    let restore = "/repository/ann/app/tag/latest/restore";
    assert_eq!(api(&account, Method::POST, restore, to(&first)).await.0, 200);
    assert_eq!(client.manifest("ann/app", "latest").await.unwrap().header("docker-content-digest"), first);
    assert_eq!(history("onlyActiveTags=true").await["tags"][0]["reversion"], true);
    assert_eq!(
        reply(client.request(Method::DELETE, &format!("/v2/ann/app/manifests/{first}"))).await.unwrap().status,
        202
    );
    assert!(client.manifest("ann/app", &first).await.is_err());
    assert_eq!(digests(&history("onlyActiveTags=true").await), Vec::<String>::new());
    assert_eq!(api(&account, Method::PUT, "/repository/ann/app/tag/v1", to(&first)).await.0, 404);
    assert_eq!(api(&account, Method::POST, restore, to(&first)).await.0, 200);
    client.pull("ann/app", "latest").await.unwrap();
    // Another tag was never there.
    assert_eq!(api(&account, Method::POST, "/repository/ann/app/tag/v1/restore", to(&first)).await.0, 404);
    assert_eq!(api(&account, Method::PUT, "/repository/ann/app/tag/v1", to(&second)).await.0, 201);
    assert_eq!(api(&account, Method::PUT, "/repository/ann/app/tag/-x", to(&second)).await.0, 400);
    assert_eq!(api(&account, Method::PUT, "/repository/ann/app/tag/v2", to("sha256:0")).await.0, 400);
    assert_eq!(digests(&history("filter_tag_name=eq:v1").await), std::slice::from_ref(&second));
    assert_eq!(digests(&history("specificTag=v1").await), std::slice::from_ref(&second));
    assert_eq!(digests(&history("filter_tag_name=like:V&onlyActiveTags=1").await), Vec::<String>::new());
    assert_eq!(api(&account, Method::DELETE, "/repository/ann/app/tag/v1", None).await.0, 204);
    assert_eq!(api(&account, Method::DELETE, "/repository/ann/app/tag/v1", None).await.0, 404);
    let bob = origin.client().login("bob", PASSWORD);
    assert_eq!(api(&bob, Method::DELETE, "/repository/ann/app/tag/latest", None).await.0, 403);
    let (_, logs) = api(&account, Method::GET, "/repository/ann/app/logs", None).await;
    let kinds: Vec<&str> = logs["logs"].as_array().unwrap().iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds[..3], ["delete_tag", "create_tag", "revert_tag"]);
    let (_, view) = api(&account, Method::GET, "/repository/ann/app", None).await;
    let held: usize = images.iter().flat_map(Image::blobs).map(|blob| blob.bytes.len()).sum();
    assert_eq!(view["quota_report"]["quota_bytes"].as_u64().unwrap(), held as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_move_in_from_docker_registry_and_out_again() {
    let (from, to, origin) = (DockerRegistry::start().await, DockerRegistry::start().await, origin().await);
    for format in [Format::Oci, Format::Docker] {
        let index = Index::new(format, 3, 50_000);
        from.push_index("team/app", "v1", &index).await;
        let (there, here, out) = (from.address, origin.registry, to.address);
        for (source, target) in [
            (format!("{there}/team/app:v1"), format!("{here}/ann/app:v1")),
            (format!("{here}/ann/app:v1"), format!("{out}/team/app:v1")),
        ] {
            let mut copy = Command::new("skopeo");
            copy.args([
                "--insecure-policy",
                "copy",
                "--all",
                "--preserve-digests",
                "--src-tls-verify=false",
                "--dest-tls-verify=false",
            ]);
            let login = if target.starts_with(&here.to_string()) { "--dest-creds" } else { "--src-creds" };
            copy.args([login, &format!("ann:{PASSWORD}")]);
            copy.args([format!("docker://{source}"), format!("docker://{target}")]);
            run(copy, Duration::from_secs(60)).await.expect_success();
        }
        let digest = index.digest().to_string();
        for client in [from.client(), to.client()] {
            assert_eq!(client.manifest("team/app", "v1").await.unwrap().header("docker-content-digest"), digest);
        }
        let skopeo = Skopeo::new();
        skopeo.copy(&format!("{out}/team/app:v1"), &["--all"]).await.expect_success();
        assert_hashes(&skopeo.blobs(), index.images.iter().flat_map(Image::blobs));
    }
}

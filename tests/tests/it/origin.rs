//! An edge as the front door of a registry of one's own: nodes of docker-registry over one store, behind a pool.

use std::net::SocketAddr;

use pierhead_tests::clients::{Containerd, Podman, assert_hashes};
use pierhead_tests::image::{Format, Image};
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::pull;
use pierhead_tests::pull::{ACCEPT, Client, PullError, Reply};
use pierhead_tests::registry::DockerRegistry;
use pierhead_tests::server::Server;
use reqwest::Method;
use serde_json::{Value, json};

/// An edge before these nodes. `more` are keys of the registry.
pub(crate) async fn front_door(nodes: &[DockerRegistry], more: Value) -> Pierhead {
    setup(nodes.iter().map(|node| node.address), more).start().await
}

pub(crate) fn setup(servers: impl Iterator<Item = SocketAddr>, more: Value) -> Setup {
    let servers: Vec<String> = servers.map(|server| server.to_string()).collect();
    let check = json!({
        "kind": "tcp", "interval": "200ms", "fast_interval": "50ms", "timeout": "1s", "rise": 1, "fall": 2,
    });
    let mut registry = json!({ "name": "origin.test", "pool": "origin", "default": true });
    registry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Setup::new().pool(json!({ "name": "origin", "servers": servers, "health": check })).with("registries", registry)
}

/// Two nodes over one store, whom everybody may ask for everything.
pub(crate) async fn open_nodes() -> Vec<DockerRegistry> {
    let one = DockerRegistry::start().await;
    let two = one.sibling().await;
    vec![one, two]
}

/// A podman that knows the edge by its address.
pub(crate) fn podman(edge: &Pierhead) -> Podman {
    Podman::with_registries(&format!(
        "unqualified-search-registries = []\n[[registry]]\nlocation = \"{}\"\ninsecure = true\n",
        edge.registry
    ))
}

pub(crate) async fn stop(nodes: &mut [DockerRegistry]) {
    for node in nodes {
        node.stop().await;
    }
}

/// A request with a JSON body or none.
pub(crate) async fn send(client: &Client, method: Method, path: &str) -> Reply {
    pull::reply(client.request(method, path)).await.unwrap()
}

/// How many requests of a kind the nodes have answered together.
async fn requests(nodes: &[DockerRegistry], method: &str, path: &str) -> usize {
    let mut sum = 0;
    for node in nodes {
        sum += node.requests(method, path).await;
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_pushes_and_pulls_and_pulls_on_when_all_servers_are_gone() {
    let mut nodes = open_nodes().await;
    let image = Image::of(Format::Docker, "amd64", 7, &[300_000, 100_000]);
    nodes[0].push("team/app", "v1", &image).await;
    let edge = front_door(&nodes, json!({ "tag_ttl": "1ms", "retries": 0 })).await;
    let podman = podman(&edge);
    let (pulled, pushed) = (format!("{}/team/app:v1", edge.registry), format!("{}/team/copy:v1", edge.registry));
    podman.pull(&pulled).await.expect_success();
    podman.push(&pulled, &pushed).await.expect_success();
    podman.forget().await;
    podman.pull(&pushed).await.expect_success();
    podman.forget().await;
    stop(&mut nodes).await;
    for name in [&pulled, &pushed] {
        podman.pull(name).await.expect_success();
        podman.forget().await;
    }
    podman.pull(&pulled).await.expect_success();
    podman.push(&pulled, &format!("{}/team/third:v1", edge.registry)).await.expect_failure();
    let refused = send(&edge.client(), Method::POST, "/v2/team/third/blobs/uploads/").await;
    assert_eq!(refused.status, 503);
    assert!(String::from_utf8_lossy(&refused.body).contains("UNAVAILABLE"), "{refused:?}");
    edge.logged("a push", |line| line["method"] == "PUT" && line["reason"] == "forwarded").await;
    edge.logged("a blob as a hit", |line| line["kind"] == "blob" && line["outcome"] == "hit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_blob_is_fetched_once_from_whichever_node() {
    let mut nodes = open_nodes().await;
    let image = Image::new(1, &[200_000, 1000]);
    nodes[0].push("team/app", "latest", &image).await;
    let edge = front_door(&nodes, json!({})).await;
    let client = edge.client();
    for pulled in futures_util::future::join_all((0..20).map(|_| client.pull("team/app", "latest"))).await {
        pulled.unwrap();
    }
    for blob in image.blobs() {
        let path = format!("/v2/team/app/blobs/{}", blob.digest);
        assert_eq!(requests(&nodes, "GET", &path).await, 1, "{path}");
    }
    // One node after the other: no pull of what is not cached fails.
    for gone in 0..2 {
        nodes[gone].stop().await;
        let other = Image::new(10 + gone as u64, &[50_000]);
        nodes[1 - gone].push("team/other", "latest", &other).await;
        client.pull("team/other", &other.digest().to_string()).await.unwrap();
        nodes[gone].restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_pushed_or_deleted_is_seen_at_once() {
    let nodes = open_nodes().await;
    let (one, two) = (Image::new(1, &[10_000]), Image::new(2, &[10_000]));
    let edge = front_door(&nodes, json!({ "tag_ttl": "1h", "negative_ttl": "1h", "revalidate_budget": "1ms" })).await;
    let client = edge.client();
    let digest = async || client.manifest("team/app", "latest").await.map(|reply| reply.header(DIGEST).to_owned());
    let push = async |image: &Image| {
        for blob in image.blobs() {
            // Known not to be there, and remembered as that.
            let asked = client.get(&format!("/v2/team/app/blobs/{}", blob.digest)).await;
            assert_eq!(asked.status, 404);
            client.push_blob("team/app", &blob.digest, blob.bytes.clone()).await;
            assert_eq!(client.head(&format!("/v2/team/app/blobs/{}", blob.digest)).await.status, 200);
            client.blob("team/app", &blob.digest).await.unwrap();
        }
        let manifest = &image.manifest;
        client.push_manifest("team/app", "latest", &manifest.media_type, manifest.blob.bytes.clone()).await;
    };
    assert!(matches!(digest().await, Err(PullError::Status(404))));
    for (number, image) in [&one, &two, &one].into_iter().enumerate() {
        if number < 2 {
            push(image).await;
        } else {
            let manifest = &image.manifest;
            client.push_manifest("team/app", "latest", &manifest.media_type, manifest.blob.bytes.clone()).await;
        }
        for _ in 0..3 {
            assert_eq!(digest().await.unwrap(), image.digest().to_string());
        }
        let head = client.head("/v2/team/app/manifests/latest").await;
        assert_eq!(head.header(DIGEST), image.digest().to_string());
    }
    edge.logged("the tag as a hit", |line| line["reference"] == "latest" && line["outcome"] == "hit").await;
    // Lists follow as well.
    let tags = async || {
        let list: Value = serde_json::from_slice(&client.get("/v2/team/app/tags/list").await.body).unwrap();
        list["tags"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(tags().await, 1);
    let manifest = &two.manifest;
    client.push_manifest("team/app", "other", &manifest.media_type, manifest.blob.bytes.clone()).await;
    assert_eq!(tags().await, 2);
    // A deletion takes the manifest and its tags with it.
    client.manifest("team/app", "other").await.unwrap();
    let path = format!("/v2/team/app/manifests/{}", two.digest());
    assert_eq!(send(&client, Method::DELETE, &path).await.status, 202);
    assert!(matches!(client.manifest("team/app", "other").await, Err(PullError::Status(404))));
    assert!(matches!(client.manifest("team/app", &two.digest().to_string()).await, Err(PullError::Status(404))));
    assert_eq!(tags().await, 1);
    // And a blob that is deleted is gone, however often it was served.
    let layer = &two.layers[0];
    let path = format!("/v2/team/app/blobs/{}", layer.digest);
    assert_eq!(send(&client, Method::DELETE, &path).await.status, 202);
    assert_eq!(client.get(&path).await.status, 404);
    assert_eq!(client.head(&path).await.status, 404);
}

const DIGEST: &str = "docker-content-digest";

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_moves_while_everybody_pulls_it() {
    let nodes = open_nodes().await;
    let images: Vec<Image> = (1..9).map(|seed| Image::new(seed, &[100])).collect();
    let edge = front_door(&nodes, json!({ "tag_ttl": "1h" })).await;
    let client = edge.client();
    for image in &images {
        for blob in image.blobs() {
            client.push_blob("team/app", &blob.digest, blob.bytes.clone()).await;
        }
    }
    let running = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let pullers: Vec<_> = (0..4)
        .map(|_| {
            let (client, running) = (edge.client(), std::sync::Arc::clone(&running));
            tokio::spawn(async move {
                while running.load(std::sync::atomic::Ordering::SeqCst) {
                    let _ = client.head("/v2/team/app/manifests/latest").await;
                    let _ = client.manifest("team/app", "latest").await;
                }
            })
        })
        .collect();
    for image in images.iter().cycle().take(40) {
        let manifest = &image.manifest;
        client.push_manifest("team/app", "latest", &manifest.media_type, manifest.blob.bytes.clone()).await;
        let seen = client.manifest("team/app", "latest").await.unwrap();
        assert_eq!(seen.header(DIGEST), image.digest().to_string());
    }
    running.store(false, std::sync::atomic::Ordering::SeqCst);
    for puller in pullers {
        puller.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_pull_is_the_origins() {
    let nodes = open_nodes().await;
    let image = Image::new(1, &[10_000]);
    nodes[0].push("team/app", "latest", &image).await;
    let edge = front_door(&nodes, json!({})).await;
    let (client, origin) = (edge.client(), nodes[1].client());
    // The catalogue, a page that does not exist, a path that only looks like one of the API.
    for path in ["/v2/_catalog", "/v2/_catalog?n=1", "/", "/api/v1/anything?q=%20", "/v2/team", "/v2/x/y/z/"] {
        let (through, direct) = (client.get(path).await, origin.get(path).await);
        assert_eq!((through.status, &through.body), (direct.status, &direct.body), "{path}");
    }
    assert_eq!(client.get("/v2/_catalog").await.body, "{\"repositories\":[\"team/app\"]}\n");
    assert_eq!(client.get("/v2/").await.status, 200);
    // A mount, by way of the origin, makes a blob that can be pulled at once.
    let layer = &image.layers[0];
    let path = format!("/v2/team/mounted/blobs/{}", layer.digest);
    assert_eq!(client.get(&path).await.status, 404);
    let mount = format!("/v2/team/mounted/blobs/uploads/?mount={}&from=team/app", layer.digest);
    assert_eq!(send(&client, Method::POST, &mount).await.status, 201);
    client.blob("team/mounted", &layer.digest).await.unwrap();
    // Health is ours, also here.
    assert_eq!(client.get("/health/endtoend").await.status, 200);
    // What the cache holds and the origin has lost must be pushed again.
    client.blob("team/app", &layer.digest).await.unwrap();
    assert_eq!(send(&origin, Method::DELETE, &format!("/v2/team/app/blobs/{}", layer.digest)).await.status, 202);
    assert_eq!(client.head(&format!("/v2/team/app/blobs/{}", layer.digest)).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn by_another_name_it_can_be_pulled_and_not_pushed_to() {
    let nodes = open_nodes().await;
    let image = Image::of(Format::Docker, "amd64", 3, &[50_000]);
    nodes[0].push("team/app", "latest", &image).await;
    let more = json!({ "default": false, "hosts": ["push.test"], "deny": ["secret/*"] });
    let edge = front_door(&nodes, more).await;
    let client = edge.client();
    for _ in 0..2 {
        client.pull("origin.test/team/app", "latest").await.unwrap();
        let by_ns = client.get_with("/v2/team/app/manifests/latest?ns=origin.test", &[("Accept", ACCEPT[3])]).await;
        assert_eq!(by_ns.status, 200);
    }
    for path in ["/v2/origin.test/team/app/blobs/uploads/", "/v2/team/app/blobs/uploads/?ns=origin.test"] {
        let refused = send(&client, Method::POST, path).await;
        assert_eq!(refused.status, 405, "{path}");
        assert!(String::from_utf8_lossy(&refused.body).contains("push to push.test"), "{refused:?}");
    }
    // At its own host everything is possible but what is denied, however it is written.
    let at_home = async |method: Method, path: &str| {
        pull::reply(client.request(method, path).header("Host", "push.test")).await.unwrap().status
    };
    assert_eq!(at_home(Method::POST, "/v2/team/app/blobs/uploads/").await, 202);
    assert_eq!(at_home(Method::GET, "/v2/_catalog").await, 200);
    let digest = image.layers[0].digest;
    for path in [
        "/v2/secret/app/blobs/uploads/".to_owned(),
        format!("/v2/team/app/blobs/uploads/?mount={digest}&from=secret/app"),
        "/v2/secret/app/unknown".to_owned(),
        "/v2//secret/app/blobs/uploads/".to_owned(),
        "//v2/secret/app/blobs/uploads/".to_owned(),
        "/x/../v2/secret/app/blobs/uploads/".to_owned(),
        "/V2/secret/app/blobs/uploads/".to_owned(),
    ] {
        assert!(matches!(at_home(Method::POST, &path).await, 400 | 404), "{path}");
    }
    // The last one is in the log, and with it all before.
    edge.logged("the last refusal", |line| line["path"] == "/V2/secret/app/blobs/uploads/").await;
    let posts = edge.access_log().into_iter().filter(|line| line["method"] == "POST" && line["reason"] == "forwarded");
    assert_eq!(posts.map(|line| line["status"].as_u64().unwrap()).collect::<Vec<_>>(), [202]);
    assert_eq!(client.get("/v2/_catalog").await.status, 404);
    assert_eq!(client.get("/anything").await.status, 404);
    // containerd names the registry by ns.
    let containerd = Containerd::start(edge.registry, &["origin.test"]).await;
    containerd.pull("origin.test/team/app:latest", &["--platform", "linux/amd64"]).await.expect_success();
    assert_hashes(&containerd.blobs(), image.blobs());
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_the_origin_keeps_in_an_object_store_are_cached() {
    let node = DockerRegistry::start().await;
    let image = Image::new(1, &[300_000, 1000]);
    node.push("team/app", "latest", &image).await;
    let location = "/docker/registry/v2/blobs/sha256/$1/$1$2/data?signature=presigned";
    let mut origin = Server::nginx(
        2,
        &format!(
            "server {{ listen 127.0.0.1:@PORT@;\n\
             location ~ \"^/v2/.*/blobs/sha256:(..)(.*)$\" {{\n\
             if ($request_method = GET) {{ return 302 http://127.0.0.1:@PORT1@{location}; }} proxy_pass {0}; }}\n\
             location / {{ proxy_pass {0}; }} }}\nserver {{ listen 127.0.0.1:@PORT1@; root {1}; }}",
            node.url(),
            node.store().display()
        ),
    )
    .await;
    let edge = setup(origin.addresses.iter().copied().take(1), json!({})).start().await;
    for _ in 0..2 {
        edge.client().pull("team/app", "latest").await.unwrap();
        origin.kill().await;
    }
    assert_eq!(edge.log().count(|line| line.contains("presigned")), 0);
}

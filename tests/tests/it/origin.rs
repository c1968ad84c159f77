//! An edge as the front door of a registry of one's own: nodes of docker-registry over one store, behind a pool.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use pierhead_tests::clients::{Containerd, Podman, Skopeo, assert_hashes};
use pierhead_tests::eventually;
use pierhead_tests::image::{Format, Image};
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::pull::{self, ACCEPT, Client, PullError, Reply};
use pierhead_tests::registry::DockerRegistry;
use pierhead_tests::server::Server;
use pierhead_tests::token::{Policy, TokenService};
use reqwest::Method;
use serde_json::{Value, json};

/// An edge before these nodes. `more` are keys of the registry.
async fn front_door(nodes: &[DockerRegistry], more: Value) -> Pierhead {
    setup(nodes.iter().map(|node| node.address), more).start().await
}

fn setup(servers: impl Iterator<Item = SocketAddr>, more: Value) -> Setup {
    let servers: Vec<String> = servers.map(|server| server.to_string()).collect();
    let check = json!({
        "kind": "tcp", "interval": "200ms", "fast_interval": "50ms", "timeout": "1s", "rise": 1, "fall": 2,
    });
    let mut registry = json!({ "name": "origin.test", "pool": "origin", "default": true });
    registry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Setup::new().pool(json!({ "name": "origin", "servers": servers, "health": check })).with("registries", registry)
}

/// Two nodes over one store, whom everybody may ask for everything.
async fn open_nodes() -> Vec<DockerRegistry> {
    let one = DockerRegistry::start().await;
    let two = one.sibling().await;
    vec![one, two]
}

/// A podman that knows the edge by its address.
fn podman(edge: &Pierhead) -> Podman {
    Podman::with_registries(&format!(
        "unqualified-search-registries = []\n[[registry]]\nlocation = \"{}\"\ninsecure = true\n",
        edge.registry
    ))
}

async fn stop(nodes: &mut [DockerRegistry]) {
    for node in nodes {
        node.stop().await;
    }
}

/// A request with a JSON body or none.
async fn send(client: &Client, method: Method, path: &str) -> Reply {
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
async fn an_account_of_the_origin_is_its_own() {
    let one = DockerRegistry::with_account("alice", "alice-password").await;
    let two = one.sibling().await;
    let mut nodes = vec![one, two];
    let image = Image::of(Format::Docker, "amd64", 7, &[100_000]);
    nodes[0].push("team/app", "latest", &image).await;
    let keys = json!({ "offline_policy": "allow_known", "authorization_ttl": "1ms", "tag_ttl": "1ms", "retries": 0 });
    let edge = front_door(&nodes, keys).await;
    let alice = edge.client().login("alice", "alice-password");
    alice.pull("team/app", "latest").await.unwrap();
    // Nobody else gets what is cached, and everybody hears the origin's own challenge.
    let paths = [
        "/v2/".to_owned(),
        "/v2/team/app/manifests/latest".to_owned(),
        format!("/v2/team/app/manifests/{}", image.digest()),
        format!("/v2/team/app/blobs/{}", image.layers[0].digest),
        "/v2/team/app/tags/list".to_owned(),
        "/v2/_catalog".to_owned(),
    ];
    for stranger in [edge.client(), edge.client().login("alice", "wrong"), edge.client().login("eve", "x")] {
        for path in &paths {
            for reply in [stranger.get(path).await, stranger.head(path).await] {
                assert_eq!(reply.status, 401, "{path}");
                assert_eq!(reply.header("www-authenticate"), "Basic realm=\"test\"", "{path}");
            }
        }
        assert_eq!(send(&stranger, Method::POST, "/v2/team/app/blobs/uploads/").await.status, 401);
    }
    let podman = podman(&edge);
    let name = format!("{}/team/app:latest", edge.registry);
    podman.pull(&name).await.expect_failure();
    let address = edge.registry.to_string();
    let login = async |password: &str| {
        podman.run(&["login", "--tls-verify=false", "-u", "alice", "-p", password, &address]).await
    };
    login("wrong").await.expect_failure();
    login("alice-password").await.expect_success();
    podman.pull(&name).await.expect_success();
    podman.push(&name, &format!("{}/team/new:v1", edge.registry)).await.expect_success();
    podman.pull(&format!("{}/team/new:v1", edge.registry)).await.expect_success();
    podman.forget().await;
    // With the origin gone, those whom it let in are let in, and nobody else.
    stop(&mut nodes).await;
    podman.pull(&name).await.expect_success();
    alice.pull("team/app", "latest").await.unwrap();
    for stranger in [edge.client(), edge.client().login("alice", "wrong")] {
        for path in paths.iter().skip(1) {
            assert!(stranger.get(path).await.status >= 400, "{path}");
        }
    }
    for secret in ["alice-password", "YWxpY2U6"] {
        assert_eq!(edge.log().count(|line| line.contains(secret)), 0, "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_the_origin_are_passed_on_as_they_are() {
    let policy = Policy::default()
        .user("alice", "alice-password", &["team/app", "team/new"])
        .pushes("alice")
        .user("bob", "bob-password", &["bob/app"])
        .anonymous(&["public/app"]);
    let tokens = TokenService::start(policy).await;
    let one = DockerRegistry::with_tokens(&tokens).await;
    let two = one.sibling().await;
    let nodes = vec![one, two];
    let image = Image::of(Format::Docker, "amd64", 7, &[100_000]);
    for repository in ["team/app", "public/app"] {
        let pusher = nodes[0].client().bearer(tokens.push_token(repository));
        nodes[0].push_as(&pusher, repository, "latest", &image).await;
    }
    let edge = front_door(&nodes, json!({ "realms": ["127.0.0.1"] })).await;
    let podman = podman(&edge);
    let name = |repository: &str| format!("{}/{repository}", edge.registry);
    podman.pull(&name("public/app:latest")).await.expect_success();
    podman.pull(&name("team/app:latest")).await.expect_failure();
    podman.login(edge.registry, "bob:bob-password");
    podman.pull(&name("team/app:latest")).await.expect_failure();
    podman.login(edge.registry, "alice:alice-password");
    podman.pull(&name("team/app:latest")).await.expect_success();
    podman.push(&name("team/app:latest"), &name("team/new:v1")).await.expect_success();
    podman.forget().await;
    podman.pull(&name("team/new:v1")).await.expect_success();
    let skopeo = Skopeo::new();
    skopeo.copy(&name("team/new:v1"), &["--src-creds", "bob:bob-password"]).await.expect_failure();
    skopeo.copy(&name("team/new:v1"), &["--src-creds", "alice:alice-password"]).await.expect_success();
    assert_hashes(&skopeo.blobs(), image.blobs().take(0));
    // What alice has pulled is nobody else's, whatever token is brought for something else.
    let other = edge.client().bearer(tokens.push_token("public/app"));
    let layer = image.layers[0].digest;
    for path in ["/v2/team/app/manifests/latest".to_owned(), format!("/v2/team/app/blobs/{layer}")] {
        for stranger in [&other, &edge.client()] {
            let refused = stranger.get(&path).await;
            assert_eq!(refused.status, 401, "{path}");
            let challenge = refused.header("www-authenticate");
            assert!(challenge.starts_with("Bearer realm=") && challenge.contains("team/app"), "{challenge}");
        }
    }
    // By path a token cannot be had for the right name, so an account is turned into one here.
    let alice = edge.client().login("alice", "alice-password");
    alice.pull("origin.test/team/app", "latest").await.unwrap();
    edge.client().pull("origin.test/public/app", "latest").await.unwrap();
    let refused = edge.client().get("/v2/origin.test/team/app/manifests/latest").await;
    assert_eq!(refused.status, 401);
    edge.logged("a blob as a hit", |line| line["kind"] == "blob" && line["outcome"] == "hit").await;
    for secret in ["alice-password", "bob-password", "YWxpY2U6", "eyJ"] {
        assert_eq!(edge.log().count(|line| line.contains(secret)), 0, "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_origin_is_served_without_it_for_as_long_as_the_policy_says() {
    let mut nodes = open_nodes().await;
    let image = Image::new(1, &[10_000]);
    nodes[0].push("team/app", "latest", &image).await;
    for (policy, allowed) in [("allow_known", true), ("deny", false)] {
        let keys = json!({
            "offline_policy": policy, "authorization_ttl": "1ms", "tag_ttl": "1ms", "negative_ttl": "1ms", "retries": 0,
        });
        let mut edge = front_door(&nodes, keys).await;
        edge.client().pull("team/app", "latest").await.unwrap();
        stop(&mut nodes).await;
        edge.stop().await;
        edge.start_again().await;
        if allowed {
            edge.client().pull("team/app", "latest").await.unwrap();
        } else {
            eventually("refused", Duration::from_secs(10), async || {
                edge.client().pull("team/app", "latest").await.is_err().then_some(())
            })
            .await;
        }
        let unknown = edge.client().get("/v2/team/app/manifests/never-seen").await;
        assert!(matches!(unknown.status, 502..=504), "{}", unknown.status);
        for node in &mut nodes {
            node.restart().await;
        }
        // It is back for all at once.
        eventually("the origin is back", Duration::from_secs(20), async || {
            edge.client().pull("team/app", "latest").await.ok()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_of_the_edges_own_pulls_for_everybody() {
    let one = DockerRegistry::with_account("edge", "edge-password").await;
    let nodes = vec![one];
    let image = Image::new(1, &[10_000]);
    nodes[0].push("team/app", "latest", &image).await;
    let keys = json!({ "credentials": { "username": "edge", "password": "edge-password" } });
    let edge = front_door(&nodes, keys).await;
    assert_eq!(edge.client().get("/v2/").await.status, 200);
    edge.client().pull("team/app", "latest").await.unwrap();
    // It is for pulls: whoever pushes needs an account at the origin.
    assert_eq!(send(&edge.client(), Method::POST, "/v2/team/app/blobs/uploads/").await.status, 401);
    let known = edge.client().login("edge", "edge-password");
    assert_eq!(send(&known, Method::POST, "/v2/team/app/blobs/uploads/").await.status, 202);
    assert_eq!(edge.log().count(|line| line.contains("edge-password")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_got_tokens_is_known_when_the_token_service_is_away_too() {
    let policy = Policy::default().user("alice", "alice-password", &["team/app"]).user("bob", "bob-password", &["b"]);
    let tokens = TokenService::start(policy).await;
    // The origin tells clients where they find it, so that must be known before.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut node = DockerRegistry::with_tokens_at(&tokens, &format!("http://localhost:{port}/token")).await;
    let image = Image::of(Format::Docker, "amd64", 7, &[100_000]);
    node.push_as(&node.client().bearer(tokens.push_token("team/app")), "team/app", "latest", &image).await;
    let mut whole = Server::nginx(
        1,
        &format!(
            "server {{ listen 127.0.0.1:@PORT@; proxy_http_version 1.1; proxy_set_header Host $http_host;\n\
             location /token {{ proxy_pass {}; }}\nlocation / {{ proxy_pass {}; }} }}",
            tokens.server.url(),
            node.url()
        ),
    )
    .await;
    let keys = json!({
        "hosts": ["localhost"], "offline_policy": "allow_known", "authorization_ttl": "1ms", "tag_ttl": "1ms",
        "negative_ttl": "1ms", "retries": 0,
    });
    let setup = setup([whole.address()].into_iter(), keys);
    let mut edge = setup.set("/listeners/0/bind", format!("127.0.0.1:{port}")).start().await;
    let home = format!("localhost:{port}");
    let podman = Podman::with_registries(&format!(
        "unqualified-search-registries = []\n[[registry]]\nlocation = \"{home}\"\ninsecure = true\n"
    ));
    let name = format!("{home}/team/app:latest");
    podman.login(&home, "alice:alice-password");
    podman.pull(&name).await.expect_success();
    podman.forget().await;
    eventually("the origin is asked about alice", Duration::from_secs(10), async || {
        (node.requests("GET", "/v2/team/app/tags/list?n=1").await > 0).then_some(())
    })
    .await;
    whole.kill().await;
    node.stop().await;
    edge.stop().await;
    edge.start_again().await;
    podman.pull(&name).await.expect_success();
    podman.forget().await;
    for stranger in ["bob:bob-password", "alice:wrong", "eve:x"] {
        podman.login(&home, stranger);
        podman.pull(&name).await.expect_failure();
    }
    // Who shows nothing hears that an account may help, where there is something to be had.
    for (path, status) in [("manifests/latest", 401), ("manifests/never-seen", 503)] {
        assert_eq!(edge.client().get(&format!("/v2/team/app/{path}")).await.status, status, "{path}");
    }
    for secret in ["alice-password", "YWxpY2U6", "eyJ"] {
        assert_eq!(edge.log().count(|line| line.contains(secret)), 0, "{secret}");
    }
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

//! Accounts and tokens of a registry of one's own: whose they are, who checks them, and what holds while it is away.

use std::net::TcpListener;
use std::time::Duration;

use pierhead_tests::clients::{Podman, Skopeo, assert_hashes};
use pierhead_tests::eventually;
use pierhead_tests::image::{Format, Image};
use pierhead_tests::registry::DockerRegistry;
use pierhead_tests::server::Server;
use pierhead_tests::token::{Policy, TokenService};
use reqwest::Method;
use serde_json::json;

use super::origin::{front_door, open_nodes, podman, send, setup, stop};

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

//! Who may pull: accounts of the edge, accounts of upstream, and callers who bring their own.

use std::path::Path;
use std::time::Duration;

use pierhead_tests::clients::{Podman, Skopeo, assert_hashes};
use pierhead_tests::image::Image;
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::process::run;
use pierhead_tests::pull::{Client, PullError};
use pierhead_tests::registry::DockerRegistry;
use pierhead_tests::token::{Policy, TokenService};
use pierhead_tests::{eventually, pull};
use serde_json::{Value, json};
use tokio::process::Command;

async fn htpasswd(file: &Path, user: &str, password: &str) {
    let mut command = Command::new("htpasswd");
    command.args(["-Bbn", "-C", "5", user, password]);
    std::fs::write(file, run(command, Duration::from_secs(10)).await.expect_success().stdout).unwrap();
}

/// An edge with the account `user`, `secret`, before a registry that knows none.
async fn guarded() -> (DockerRegistry, Pierhead, Image) {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[10_000]);
    registry.push("team/app", "latest", &image).await;
    let setup = Setup::new().registry_with("up.test", registry.url(), json!({ "default": true }));
    let file = setup.dir.path().join("htpasswd");
    htpasswd(&file, "user", "secret").await;
    let edge = setup.set("/access", json!({ "htpasswd": file })).start().await;
    (registry, edge, image)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_of_the_edge_is_asked_for_everywhere_alike() {
    let (_registry, edge, image) = guarded().await;
    let known = edge.client().login("user", "secret");
    known.pull("team/app", "latest").await.unwrap();
    let blob = format!("/v2/team/app/blobs/{}", image.layers[0].digest);
    let paths = ["/v2/", "/v2/team/app/manifests/latest", "/v2/team/app/tags/list", &blob];
    let mut challenges = Vec::new();
    for client in [edge.client(), edge.client().login("user", "wrong"), edge.client().login("other", "secret")] {
        for path in paths {
            let reply = client.get(path).await;
            assert_eq!(reply.status, 401, "{path}");
            assert!(String::from_utf8_lossy(&reply.body).contains("UNAUTHORIZED"), "{path}");
            challenges.push(reply.header("www-authenticate").to_owned());
        }
    }
    challenges.dedup();
    assert!(matches!(&challenges[..], [one] if one.starts_with("Basic realm=")), "{challenges:?}");
    for path in paths {
        assert_eq!(known.get(path).await.status, 200, "{path}");
    }
    // Health needs no account.
    assert_eq!(edge.client().get("/health/instance").await.status, 200);
    assert!(edge.metric("pierhead_authentications_total", &[("result", "ok")]).await >= 1.0);
    assert!(edge.metric("pierhead_authentications_total", &[("result", "failed")]).await >= 1.0);
    edge.logged("the user in the access log", |line| line["user"] == "user").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_logins_are_limited() {
    let (_registry, edge, _) = guarded().await;
    let mut refused = 0;
    for number in 0..100 {
        let status = edge.client().login("user", &format!("guess-{number}")).get("/v2/").await.status;
        assert!(matches!(status, 401 | 429), "{status}");
        refused += usize::from(status == 429);
    }
    assert!(refused >= 50, "only {refused} of 100 guesses were refused unheard");
    assert!(edge.metric("pierhead_authentications_total", &[("result", "limited")]).await >= 50.0);
    assert_eq!(edge.log().count(|line| line.contains("guess-")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_log_in_at_the_edge() {
    let (_registry, edge, image) = guarded().await;
    let podman = Podman::new(edge.registry, &["up.test"]);
    podman.pull("up.test/team/app:latest").await.expect_failure();
    podman.login(edge.registry, "user:secret");
    podman.pull("up.test/team/app:latest").await.expect_success();
    let skopeo = Skopeo::new();
    let source = format!("{}/up.test/team/app:latest", edge.registry);
    skopeo.copy(&source, &[]).await.expect_failure();
    skopeo.copy(&source, &["--src-creds", "user:secret"]).await.expect_success();
    assert_hashes(&skopeo.blobs(), image.blobs());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edge_logs_in_upstream() {
    let registry = DockerRegistry::with_account("edge", "edge-password").await;
    let image = Image::new(1, &[10_000]);
    registry.push("team/app", "latest", &image).await;
    let keys = |password: &str| {
        json!({
            "default": true, "negative_ttl": "1ms",
            "credentials": { "username": "edge", "password": password },
        })
    };
    let edge = Setup::new().registry_with("up.test", registry.url(), keys("edge-password")).start().await;
    edge.client().pull("team/app", "latest").await.unwrap();
    assert_eq!(edge.client().get("/v2/").await.status, 200);
    let wrong = Setup::new().registry_with("up.test", registry.url(), keys("not-it")).start().await;
    let refused = wrong.client().get("/v2/team/app/manifests/latest").await;
    assert!(refused.status >= 400, "{}", refused.status);
    // The upstream's challenge is not relayed: no client of this edge could answer it.
    assert_eq!(refused.header("www-authenticate"), "");
    for edge in [&edge, &wrong] {
        assert_eq!(edge.log().count(|line| line.contains("edge-password") || line.contains("not-it")), 0);
    }
}

/// A registry behind a token service, with one image a repository.
async fn behind_tokens(policy: Policy, repositories: &[&str]) -> (TokenService, DockerRegistry, Vec<Image>) {
    let tokens = TokenService::start(policy).await;
    let registry = DockerRegistry::with_tokens(&tokens).await;
    let mut images = Vec::new();
    for (repository, seed) in repositories.iter().zip(1..) {
        let image = Image::new(seed, &[20_000, 1000]);
        let pusher = registry.client().bearer(tokens.push_token(repository));
        registry.push_as(&pusher, repository, "latest", &image).await;
        images.push(image);
    }
    (tokens, registry, images)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_once_for_fifty_clients() {
    let policy = Policy::default().user("edge", "edge-password", &["*"]);
    let (tokens, registry, _) = behind_tokens(policy, &["team/app"]).await;
    let keys = json!({
        "default": true, "credentials": { "username": "edge", "password": "edge-password" }, "realms": [tokens.authority()],
    });
    let edge = Setup::new().registry_with("up.test", registry.url(), keys).start().await;
    let client = edge.client();
    for pulled in futures_util::future::join_all((0..50).map(|_| client.pull("team/app", "latest"))).await {
        pulled.unwrap();
    }
    let requests = tokens.server.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert_eq!(requests[0].parameter("scope").as_deref(), Some("repository:team/app:pull"));
    assert_eq!(requests[0].parameter("service").as_deref(), Some("registry.test"));
    assert_eq!(requests[0].basic().unwrap().0, "edge");
    assert_eq!(edge.log().count(|line| line.contains("edge-password") || line.contains("eyJ")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_tokens_are_fetched_too() {
    let policy = Policy::default().anonymous(&["public/app"]);
    let (tokens, registry, _) = behind_tokens(policy, &["public/app", "private/app"]).await;
    let keys = json!({ "default": true, "realms": [tokens.authority()] });
    let edge = Setup::new().registry_with("up.test", registry.url(), keys).start().await;
    edge.client().pull("public/app", "latest").await.unwrap();
    let refused = edge.client().get("/v2/private/app/manifests/latest").await;
    assert!((400..500).contains(&refused.status), "{}", refused.status);
    assert!(tokens.server.requests().iter().all(|request| request.header("authorization").is_none()));
}

/// An edge that passes its callers' credentials on, and what alice has pulled through it.
async fn passthrough(more: Value) -> (TokenService, DockerRegistry, Pierhead, Vec<Image>) {
    let policy = Policy::default()
        .user("alice", "alice-password", &["private/app"])
        .user("bob", "bob-password", &["bob/app"])
        .anonymous(&["public/app"]);
    let (tokens, registry, images) = behind_tokens(policy, &["private/app", "bob/app", "public/app"]).await;
    let mut keys = json!({
        "default": true, "auth": "passthrough", "negative_ttl": "1ms", "retries": 0, "cool_down": "50ms",
        "realms": [tokens.authority()],
    });
    keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let edge = Setup::new().registry_with("up.test", registry.url(), keys).start().await;
    alice(&edge).pull("private/app", "latest").await.unwrap();
    (tokens, registry, edge, images)
}

fn alice(edge: &Pierhead) -> Client {
    edge.client().login("alice", "alice-password")
}

fn bob(edge: &Pierhead) -> Client {
    edge.client().login("bob", "bob-password")
}

/// Asserts that nothing of an image can be had under a repository by any way.
async fn assert_hidden(client: &Client, repository: &str, image: &Image) {
    let manifest = image.digest();
    let layer = &image.layers[0];
    for what in [
        "manifests/latest".to_owned(),
        format!("manifests/{manifest}"),
        format!("blobs/{}", layer.digest),
        format!("blobs/{}", image.config.digest),
        "tags/list".to_owned(),
    ] {
        let path = format!("/v2/{repository}/{what}");
        for (method, range) in [("GET", None), ("GET", Some("bytes=0-99")), ("HEAD", None)] {
            let mut request = client.request(method.parse().unwrap(), &path).header("Accept", "*/*");
            if let Some(range) = range {
                request = request.header("Range", range);
            }
            let reply = pull::reply(request).await.unwrap();
            assert!(matches!(reply.status, 401 | 403 | 404), "{method} {path} {range:?}: {}", reply.status);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_private_is_not_readable_through_anothers_cache() {
    let (_tokens, _registry, edge, images) = passthrough(json!({})).await;
    let [private, ..] = &images[..] else { unreachable!() };
    alice(&edge).pull("private/app", "latest").await.unwrap();
    for stranger in [bob(&edge), edge.client(), edge.client().login("alice", "wrong"), edge.client().login("eve", "x")]
    {
        assert_hidden(&stranger, "private/app", private).await;
    }
    // Nor under a name that the stranger may pull from.
    bob(&edge).pull("bob/app", "latest").await.unwrap();
    edge.client().pull("public/app", "latest").await.unwrap();
    for (client, repository) in [(bob(&edge), "bob/app"), (edge.client(), "public/app")] {
        for digest in [private.layers[0].digest, private.config.digest] {
            let reply = client.get(&format!("/v2/{repository}/blobs/{digest}")).await;
            assert_eq!(reply.status, 404, "{repository}");
        }
        let reply = client.get(&format!("/v2/{repository}/manifests/{}", private.digest())).await;
        assert_eq!(reply.status, 404, "{repository}");
    }
    // And alice still can.
    alice(&edge).pull("private/app", "latest").await.unwrap();
    for secret in ["alice-password", "bob-password", "YWxpY2U6"] {
        assert_eq!(edge.log().count(|line| line.contains(secret)), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_yes_from_upstream_lasts_for_its_time() {
    let (_tokens, registry, edge, images) = passthrough(json!({ "authorization_ttl": "1h" })).await;
    let layer = &images[0].layers[0];
    let before = registry.requests("HEAD", &format!("/v2/private/app/blobs/{}", layer.digest)).await;
    for _ in 0..5 {
        alice(&edge).blob("private/app", &layer.digest).await.unwrap();
    }
    let after = registry.requests("HEAD", &format!("/v2/private/app/blobs/{}", layer.digest)).await;
    assert!(after <= before + 1, "{before} and then {after}");
    assert_eq!(registry.blob_gets("private/app", layer).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_callers_get_what_the_policy_says() {
    for (policy, allowed) in [("deny", false), ("allow_known", true)] {
        let keys = json!({ "authorization_ttl": "1ms", "tag_ttl": "1ms", "offline_policy": policy });
        let (_tokens, mut registry, mut edge, images) = passthrough(keys).await;
        registry.stop().await;
        // What upstream said lasts longer than the process that it said it to.
        edge.stop().await;
        edge.start_again().await;
        assert_hidden_or_failing(&bob(&edge), &images[0]).await;
        assert_hidden_or_failing(&edge.client(), &images[0]).await;
        assert_hidden_or_failing(&edge.client().login("alice", "wrong"), &images[0]).await;
        if allowed {
            alice(&edge).pull("private/app", "latest").await.unwrap();
        } else {
            eventually("denied", Duration::from_secs(10), async || {
                matches!(alice(&edge).pull("private/app", "latest").await, Err(PullError::Status(_))).then_some(())
            })
            .await;
            assert_hidden_or_failing(&alice(&edge), &images[0]).await;
        }
    }
}

async fn assert_hidden_or_failing(client: &Client, image: &Image) {
    for what in ["manifests/latest".to_owned(), format!("blobs/{}", image.layers[0].digest)] {
        let status = client.get(&format!("/v2/private/app/{what}")).await.status;
        assert!(status >= 400, "{what}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_brings_its_own_credential() {
    let (_tokens, _registry, edge, _images) = passthrough(json!({})).await;
    let podman = Podman::new(edge.registry, &["up.test"]);
    podman.pull("up.test/private/app:latest").await.expect_failure();
    podman.login(edge.registry, "bob:bob-password");
    podman.pull("up.test/private/app:latest").await.expect_failure();
    podman.login(edge.registry, "alice:alice-password");
    podman.pull("up.test/private/app:latest").await.expect_success();
}

/// Whom the registry let in is known from the files of the cache; its index may be deleted.
#[tokio::test(flavor = "multi_thread")]
async fn known_users_are_known_without_the_index() {
    let keys = json!({ "authorization_ttl": "1ms", "tag_ttl": "1ms", "offline_policy": "allow_known" });
    let (_tokens, mut registry, mut edge, images) = passthrough(keys).await;
    // Refused since: not let in again by any way of starting.
    assert!(bob(&edge).pull("private/app", "latest").await.is_err());
    registry.stop().await;
    for how in ["stopped", "killed"] {
        match how {
            "stopped" => edge.stop().await,
            _ => edge.kill().await,
        }
        std::fs::remove_dir_all(edge.cache().join("index")).unwrap();
        edge.start_again().await;
        alice(&edge).pull("private/app", "latest").await.unwrap();
        assert_hidden_or_failing(&bob(&edge), &images[0]).await;
        assert_hidden_or_failing(&edge.client(), &images[0]).await;
    }
    // A wrong password of a known user is told apart from an unknown image.
    for path in ["manifests/latest".to_owned(), format!("blobs/{}", images[0].layers[0].digest)] {
        let wrong = edge.client().login("alice", "wrong").get(&format!("/v2/private/app/{path}")).await;
        assert_eq!(wrong.status, 401, "{path}");
        assert!(wrong.header("www-authenticate").starts_with("Basic"), "{path}");
    }
    for secret in ["alice-password", "YWxpY2U6"] {
        assert_eq!(edge.log().count(|line| line.contains(secret)), 0);
    }
}

//! A real Docker daemon at an edge: a mirror of docker.io, images by path, and a registry to push to. Docker asks `/v2/`
//! first and gives up, or goes past the edge, where it is asked for an account that it does not have.

use pierhead_tests::clients::{Podman, Skopeo};
use pierhead_tests::docker::Docker;
use pierhead_tests::image::Image;
use pierhead_tests::origin;
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::pull::{Client, reply};
use pierhead_tests::registry::DockerRegistry;
use reqwest::Method;
use serde_json::json;

/// An edge as that of the quickstart: docker.io by default, another registry by its path, and at an own host a registry to
/// push to, which wants accounts.
struct Quickstart {
    edge: Pierhead,
    hub: DockerRegistry,
    quay: DockerRegistry,
    _origin: origin::Origin,
    /// Where the edge mirrors.
    mirror: String,
    /// Where it takes pushes.
    home: String,
}

impl Quickstart {
    async fn start() -> Quickstart {
        let (hub, quay) = (DockerRegistry::start().await, DockerRegistry::start().await);
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (mirror, home) = (format!("localhost:{free}"), format!("127.0.0.1:{free}"));
        let setup = origin::Setup::new().set("/hostname", home.as_str());
        setup.user("ann", "a-long-password", &[]).await;
        let origin = setup.set("/listener/trusted_proxies", json!(["127.0.0.1"])).start().await;
        let edge = Setup::new()
            .set("/listeners/0/bind", home.as_str())
            .registry_with("docker.io", hub.url(), json!({ "default": true }))
            .registry("quay.test", quay.url())
            .pool(json!({ "name": "origin", "servers": [origin.registry.to_string()] }))
            .with("registries", json!({ "name": home, "hosts": [home], "pool": "origin" }))
            .start()
            .await;
        Quickstart { edge, hub, quay, _origin: origin, mirror, home }
    }

    /// How many answers the access log has for a repository of a registry.
    fn answered(&self, registry: &str, repository: &str) -> usize {
        let lines = self.edge.access_log();
        let of = |line: &&serde_json::Value| line["registry"] == registry && line["repository"] == repository;
        lines.iter().filter(of).filter(|line| line["status"] == 200).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_pulls_pushes_and_logs_in_as_the_quickstart_says() {
    let quickstart = Quickstart::start().await;
    let (one, two) = (Image::new(1, &[20_000, 30_000]), Image::new(2, &[10_000]));
    quickstart.hub.push("library/alpine", "latest", &one).await;
    quickstart.hub.push("grafana/grafana", "v1", &two).await;
    quickstart.quay.push("prometheus/busybox", "latest", &two).await;
    let docker = Docker::start(&[format!("http://{}", quickstart.mirror)]).await;

    // As a mirror of docker.io, under the names that everybody uses.
    for (image, repository, expected) in
        [("alpine", "library/alpine", &one), ("grafana/grafana:v1", "grafana/grafana", &two)]
    {
        docker.pull(image).await.expect_success();
        assert_eq!(docker.id(image).await, expected.config.digest.to_string(), "{image}");
        // The manifest and each blob went through the edge: there is nowhere else to get them.
        assert!(quickstart.answered("docker.io", repository) > expected.layers.len(), "{image}");
    }
    // By path, at both names of this machine that a newcomer tries.
    for (path, expected) in [("docker.io/library/alpine", &one), ("quay.test/prometheus/busybox", &two)] {
        let image = format!("{}/{path}", quickstart.mirror);
        docker.pull(&image).await.expect_success();
        assert_eq!(docker.id(&image).await, expected.config.digest.to_string(), "{image}");
    }

    // The registry to push to, through the edge.
    let image = format!("{}/ann/alpine:v1", quickstart.home);
    docker.run(&["tag", "alpine", &image]).await.expect_success();
    docker.run(&["push", "--quiet", &image]).await.expect_failure();
    let login = async |password: &str| docker.run(&["login", "-u", "ann", "-p", password, &quickstart.home]).await;
    login("wrong").await.expect_failure();
    login("a-long-password").await.expect_success();
    docker.run(&["push", "--quiet", &image]).await.expect_success();
    docker.run(&["rmi", "--force", &image]).await.expect_success();
    docker.pull(&image).await.expect_success();
    assert_eq!(docker.id(&image).await, one.config.digest.to_string());
    assert!(quickstart.answered(&quickstart.home, "ann/alpine") > 0);
}

/// A push to the mirror says where this edge takes pushes, to Docker and to Podman.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_to_the_mirror_says_where_to_push() {
    let quickstart = Quickstart::start().await;
    quickstart.hub.push("library/alpine", "latest", &Image::new(1, &[20_000])).await;
    let docker = Docker::start(&[format!("http://{}", quickstart.mirror)]).await;
    docker.pull("alpine").await.expect_success();
    let podman =
        Podman::with_registries(&format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", quickstart.mirror));
    podman.pull(&format!("{}/library/alpine", quickstart.mirror)).await.expect_success();
    let hint = format!("push to {}", quickstart.home);
    for path in ["mine", "mine/app", "docker.io/mine/app", "quay.test/mine/app"] {
        let image = format!("{}/{path}", quickstart.mirror);
        docker.run(&["tag", "alpine", &image]).await.expect_success();
        let refused = docker.run(&["push", "--quiet", &image]).await.expect_failure();
        assert!(refused.stderr.contains(&hint), "Docker, {path}: {}", refused.stderr);
        let refused = podman.push(&format!("{}/library/alpine", quickstart.mirror), &image).await.expect_failure();
        assert!(refused.stderr.contains(&hint), "Podman, {path}: {}", refused.stderr);
    }
}

/// A deletion at a mirror, or at an origin by another name than its own, says where to delete.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_at_the_mirror_says_where_to_delete() {
    let quickstart = Quickstart::start().await;
    let (here, there) = (format!("delete at {}", quickstart.home), "delete at the registry itself".to_owned());
    let named = format!("/v2/ann/app/manifests/v1?ns={}", quickstart.home);
    for (path, expected) in [
        ("/v2/library/alpine/manifests/latest?ns=docker.io", &there),
        ("/v2/quay.test/app/manifests/v1", &there),
        (named.as_str(), &here),
    ] {
        let client = Client::new(format!("http://{}", quickstart.mirror));
        let refused = reply(client.request(Method::DELETE, path)).await.unwrap();
        let said = String::from_utf8_lossy(&refused.body).into_owned();
        assert_eq!(refused.status, 405, "{path}: {said}");
        assert!(said.contains(expected) && !said.contains("push"), "{path}: {said}");
    }
}

/// Which ping each client gets where a shared default registry and a passthrough registry stand side by side: Docker pulls
/// what is shared without an account, and Podman and Skopeo show theirs to the passthrough registry, by path and by host.
#[tokio::test(flavor = "multi_thread")]
async fn a_shared_and_a_passthrough_registry_stand_side_by_side() {
    for default in [true, false] {
        let hub = DockerRegistry::start().await;
        let own = DockerRegistry::with_account("alice", "alice-password").await;
        let image = Image::new(3, &[10_000]);
        hub.push("library/alpine", "latest", &image).await;
        own.push("team/app", "latest", &image).await;
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let _edge = Setup::new()
            .set("/listeners/0/bind", format!("127.0.0.1:{port}"))
            .registry_with("docker.io", hub.url(), json!({ "default": default }))
            .registry_with(
                "own.test",
                own.url(),
                json!({ "auth": "passthrough", "hosts": [format!("127.0.0.1:{port}")] }),
            )
            .start()
            .await;
        let (shared, host) = (format!("localhost:{port}"), format!("127.0.0.1:{port}"));
        let docker = Docker::start(&[format!("http://{shared}")]).await;
        docker.pull(&format!("{shared}/docker.io/library/alpine")).await.expect_success();
        docker.pull(&format!("{host}/team/app")).await.expect_failure();
        docker.run(&["login", "-u", "alice", "-p", "wrong", &host]).await;
        docker.pull(&format!("{host}/team/app")).await.expect_failure();
        docker.run(&["login", "-u", "alice", "-p", "alice-password", &host]).await.expect_success();
        docker.pull(&format!("{host}/team/app")).await.expect_success();

        let podman = Podman::with_registries(&format!(
            "[[registry]]\nlocation = \"{shared}\"\ninsecure = true\n[[registry]]\nlocation = \"{host}\"\ninsecure = true\n"
        ));
        podman.pull(&format!("{shared}/docker.io/library/alpine")).await.expect_success();
        podman.pull(&format!("{shared}/own.test/team/app")).await.expect_failure();
        for (place, image) in [(&shared, format!("{shared}/own.test/team/app")), (&host, format!("{host}/team/app"))] {
            podman
                .run(&["login", "--tls-verify=false", "-u", "alice", "-p", "alice-password", place])
                .await
                .expect_success();
            podman.pull(&image).await.expect_success();
            let skopeo = Skopeo::new();
            skopeo.copy(&image, &[]).await.expect_failure();
            skopeo.copy(&image, &["--src-creds", "alice:alice-password"]).await.expect_success();
        }
        podman.pull(&format!("{shared}/docker.io/library/alpine")).await.expect_success();
    }
}

//! The four ways to name a registry, and what may be pulled of it.

use pierhead_tests::image::Image;
use pierhead_tests::pierhead::Setup;
use pierhead_tests::raw::{curl, secure};
use pierhead_tests::registry::DockerRegistry;
use serde_json::json;

const REPOSITORY: &str = "team/app";

/// Path, further header lines, and the image that they mean.
type Way<'a> = (String, &'a [(&'a str, &'a str)], &'a Image);

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_is_named_by_ns_host_path_or_default() {
    let (a, b) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let (image_a, image_b) = (Image::new(1, &[1000]), Image::new(2, &[1000]));
    a.push(REPOSITORY, "latest", &image_a).await;
    b.push(REPOSITORY, "latest", &image_b).await;
    let edge = Setup::new()
        .registry_with("a.test", a.url(), json!({ "default": true }))
        .registry_with("b.test", b.url(), json!({ "hosts": ["b.local"] }))
        .start()
        .await;
    let client = edge.client();
    let path = "/v2/team/app/manifests/latest";
    let ways: &[Way<'_>] = &[
        (path.to_owned(), &[], &image_a),
        ("/v2/a.test/team/app/manifests/latest".to_owned(), &[], &image_a),
        ("/v2/b.test/team/app/manifests/latest".to_owned(), &[], &image_b),
        (format!("{path}?ns=b.test"), &[], &image_b),
        (format!("{path}?ns=a.test"), &[], &image_a),
        (path.to_owned(), &[("Host", "b.local")], &image_b),
        (path.to_owned(), &[("Host", "B.Local:443")], &image_b),
        // The first match wins.
        (format!("{path}?ns=a.test"), &[("Host", "b.local")], &image_a),
    ];
    for (path, headers, image) in ways {
        let mut all = vec![("Accept", "*/*")];
        all.extend_from_slice(headers);
        let reply = client.get_with(path, &all).await;
        assert_eq!(reply.status, 200, "{path} {headers:?}");
        assert_eq!(reply.body, image.manifest.blob.bytes, "{path} {headers:?}");
        let line = edge.line_of(&reply).await;
        assert_eq!(line["repository"], REPOSITORY);
        assert_eq!(line["registry"], if image.digest() == image_a.digest() { "a.test" } else { "b.test" });
    }
    // Blobs go the same ways.
    let digest = image_b.layers[0].digest;
    client.blob("b.test/team/app", &digest).await.unwrap();
    let by_ns = client.get(&format!("/v2/team/app/blobs/{digest}?ns=b.test")).await;
    assert_eq!(by_ns.body, image_b.layers[0].bytes);
    // And a blob of one registry is unknown to the other, although it is in the store.
    assert_eq!(client.get(&format!("/v2/a.test/team/app/blobs/{digest}")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_names_no_registry_is_not_found() {
    let registry = DockerRegistry::start().await;
    registry.push(REPOSITORY, "latest", &Image::new(1, &[1000])).await;
    let edge = Setup::new().registry("a.test", registry.url()).start().await;
    for path in ["/v2/team/app/manifests/latest", "/v2/team/app/manifests/latest?ns=c.test", "/v2/c.test/x/tags/list"] {
        let reply = edge.client().get(path).await;
        assert_eq!(reply.status, 404, "{path}");
        assert!(reply.body.starts_with(b"{\"errors\":[{\"code\":"), "{path}: {:?}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_one_part_name_under_docker_io_means_library() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[1000]);
    registry.push("library/alpine", "latest", &image).await;
    let edge = Setup::new().registry_with("docker.io", registry.url(), json!({ "default": true })).start().await;
    for repository in ["alpine", "library/alpine", "docker.io/alpine", "docker.io/library/alpine"] {
        edge.client().pull(repository, "latest").await.unwrap();
    }
    let path = format!("/v2/library/alpine/manifests/{}", "latest");
    assert_eq!(registry.requests("GET", &path).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_allowed_is_pulled() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[1000]);
    for repository in ["team/app", "team/secret", "other/app"] {
        registry.push(repository, "latest", &image).await;
    }
    let edge = Setup::new()
        .registry_with("a.test", registry.url(), json!({ "allow": ["team/*"], "deny": ["team/sec*"] }))
        .start()
        .await;
    let client = edge.client();
    client.pull("a.test/team/app", "latest").await.unwrap();
    let blob = image.layers[0].digest;
    for repository in ["team/secret", "other/app"] {
        for what in ["manifests/latest".to_owned(), format!("blobs/{blob}"), "tags/list".to_owned()] {
            let reply = client.get(&format!("/v2/a.test/{repository}/{what}")).await;
            assert_eq!(reply.status, 404, "{repository}/{what}");
        }
        assert_eq!(registry.requests("GET", &format!("/v2/{repository}/manifests/latest")).await, 0);
        assert_eq!(registry.requests("HEAD", &format!("/v2/{repository}/manifests/latest")).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_and_the_catalogue_are_refused() {
    let registry = DockerRegistry::start().await;
    let edge = Setup::new().registry_with("a.test", registry.url(), json!({ "default": true })).start().await;
    let client = edge.client();
    assert_eq!(client.get("/v2/").await.status, 200);
    for (method, path) in [
        (reqwest::Method::POST, "/v2/a/blobs/uploads/"),
        (reqwest::Method::PUT, "/v2/a/manifests/latest"),
        (reqwest::Method::DELETE, "/v2/a/manifests/latest"),
    ] {
        let reply = pierhead_tests::pull::reply(client.request(method, path)).await.unwrap();
        assert_eq!(reply.status, 405, "{path}");
        assert!(!reply.header("allow").is_empty(), "{path}");
    }
    assert!(client.get("/v2/_catalog").await.status >= 400);
    assert_eq!(client.get("/elsewhere").await.status, 404);
    for path in ["/v2/A/manifests/latest", "/v2/a/manifests/-", "/v2/a/blobs/sha256:00", "/v2/../etc/passwd"] {
        let status = client.get(path).await.status;
        assert!((400..500).contains(&status), "{path}: {status}");
    }
}

/// moby/buildkit#3427: the registry's name stands in the path and in `?ns=`; and a repository that is really called so.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_may_be_named_twice() {
    let (hub, registry) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let (app, nested) = (Image::new(1, &[1000]), Image::new(2, &[1000]));
    hub.push("library/app", "1", &app).await;
    registry.push("team/app", "1", &app).await;
    registry.push("reg.test/nested/app", "1", &nested).await;
    let edge = Setup::new()
        .registry_with("docker.io", hub.url(), json!({ "default": true }))
        .registry_with("reg.test", registry.url(), json!({ "hosts": ["reg.local"] }))
        .start()
        .await;
    for (repository, ns, host, image) in [
        ("docker.io/library/app", "docker.io", "edge.local", &app),
        ("docker.io/app", "docker.io", "edge.local", &app),
        ("Docker.IO/library/app", "docker.io.", "edge.local", &app),
        ("docker.io:443/library/app", "docker.io", "edge.local", &app),
        ("reg.test/team/app", "reg.test", "edge.local", &app),
        ("reg.local/team/app", "reg.test", "edge.local", &app),
        ("reg.test/team/app", "reg.local", "edge.local", &app),
        ("reg.test/nested/app", "reg.test", "edge.local", &nested),
        ("reg.local/team/app", "", "reg.local", &app),
        ("reg.test/team/app", "", "REG.local.:443", &app),
        ("reg.test/nested/app", "", "reg.local", &nested),
        ("team/app", "", "reg.local.", &app),
    ] {
        let ns = if ns.is_empty() { String::new() } else { format!("?ns={ns}") };
        for what in ["manifests/1".to_owned(), format!("blobs/{}", image.layers[0].digest)] {
            let path = format!("/v2/{repository}/{what}{ns}");
            let reply = edge.client().get_with(&path, &[("Accept", "*/*"), ("Host", host)]).await;
            assert_eq!(reply.status, 200, "{path} {host}");
            if what == "manifests/1" {
                assert_eq!(reply.body, image.manifest.blob.bytes, "{path} {host}");
            }
        }
    }
}

/// The Host of each request decides which registry it is for, and that registry's rules hold; the name in TLS opens nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_name_in_tls_opens_no_other_registry() {
    let (one, two) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let images = [Image::new(1, &[1000]), Image::new(2, &[1000])];
    for (registry, image) in [&one, &two].into_iter().zip(&images) {
        registry.push("team/app", "1", image).await;
        registry.push("team/secret", "1", image).await;
    }
    let setup = Setup::new().registry_with("one.test", one.url(), json!({ "hosts": ["one.local"] })).registry_with(
        "two.test",
        two.url(),
        json!({ "hosts": ["two.local"], "deny": ["team/secret"] }),
    );
    let edge = secure(setup).start().await;
    let port = edge.registry.port();
    for (tls, host, repository, expected) in [
        ("one.local", "one.local", "team/secret", Some(&images[0])),
        ("one.local", "two.local", "team/app", Some(&images[1])),
        ("one.local", "Two.local.", "team/app", Some(&images[1])),
        ("one.local", "two.local", "team/secret", None),
        ("one.local", "two.local.:443", "team/secret", None),
        ("two.local", "one.local", "team/app", Some(&images[0])),
    ] {
        for version in ["--http1.1", "--http2"] {
            let (resolve, header) = (format!("{tls}:{port}:127.0.0.1"), format!("Host: {host}"));
            let url = format!("https://{tls}:{port}/v2/{repository}/manifests/1");
            let accept = "Accept: */*";
            let answer =
                curl(&[version, "--resolve", &resolve, "-H", &header, "-H", accept, &url]).await.expect_success();
            let what = format!("{tls} {host} {repository} {version}: {}", answer.stdout);
            match expected {
                Some(image) => assert_eq!(answer.stdout.as_bytes(), &image.manifest.blob.bytes[..], "{what}"),
                None => assert!(answer.stdout.contains("NAME_UNKNOWN"), "{what}"),
            }
        }
    }
}

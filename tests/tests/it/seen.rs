//! What operators see: why a request got nothing, and all that is wrong with files before anything starts.

use std::time::Duration;

use pierhead_tests::image::Image;
use pierhead_tests::pierhead::{Setup, binary};
use pierhead_tests::process::run;
use pierhead_tests::registry::DockerRegistry;
use serde_json::json;
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_what_was_asked_for_and_not_served() {
    let edge =
        Setup::new().registry_with("a.test", "http://127.0.0.1:1", json!({ "deny": ["team/secret"] })).start().await;
    for (path, registry, repository, logged) in [
        ("/v2/team/app/tags/list?ns=c.test", json!("c.test"), json!(null), json!("/v2/team/app/tags/list")),
        ("/v2/c.test/app/tags/list", json!(null), json!(null), json!("/v2/c.test/app/tags/list")),
        ("/v2/a.test/team/secret/tags/list", json!("a.test"), json!("team/secret"), json!(null)),
        ("/favicon.ico", json!(null), json!(null), json!("/favicon.ico")),
    ] {
        let reply = edge.client().get(path).await;
        assert_eq!(reply.status, 404, "{path}");
        let line = edge.line_of(&reply).await;
        assert_eq!((&line["registry"], &line["repository"]), (&registry, &repository), "{line}");
        assert_eq!(line["path"], logged, "{line}");
        // What clients make up labels no metric.
        assert_eq!(edge.metric("pierhead_requests_total", &[("registry", "c.test")]).await, 0.0);
    }
}

/// oras and notation take NAME_UNKNOWN for a repository that does not exist, and give up before they look for the tag.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_referrers_leaves_clients_the_tag() {
    let mut registry = DockerRegistry::start().await;
    let (image, signature) = (Image::new(1, &[1000]), Image::new(2, &[100]));
    let tag = image.digest().to_string().replace(':', "-");
    registry.push("team/app", "latest", &image).await;
    registry.push("team/app", &tag, &signature).await;
    let keys = json!({ "default": true, "tag_ttl": "1ms", "negative_ttl": "1ms", "retries": 0 });
    let edge = Setup::new().registry_with("up.test", registry.url(), keys).start().await;
    for upstream in ["up", "down"] {
        let referrers = edge.client().get(&format!("/v2/team/app/referrers/{}", image.digest())).await;
        let code = serde_json::from_slice::<serde_json::Value>(&referrers.body).unwrap()["errors"][0]["code"].clone();
        assert_eq!((referrers.status, code), (404, json!("MANIFEST_UNKNOWN")), "{upstream}");
        assert_eq!(edge.client().pull("team/app", &tag).await.unwrap(), 2, "{upstream}");
        if upstream == "up" {
            registry.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn serving_says_everything_that_is_wrong_with_files_too() {
    let setup = Setup::new();
    std::fs::write(setup.dir.path().join("ca.crt"), "not a certificate").unwrap();
    let keys = json!({ "ca": "ca.crt" });
    let setup =
        setup.registry_with("a.test", "https://a.test", keys.clone()).registry_with("b.test", "https://b.test", keys);
    for command in ["check", "serve"] {
        let output = setup.command(&[command]).await;
        assert!(!output.success);
        let lines: Vec<&str> = output.stderr.lines().collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("registries[0].upstream: ") && lines[1].starts_with("registries[1].upstream: "));
    }
    assert!(!setup.cache().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_is_checked_whole() {
    let good = Setup::new().registry("up.test", "http://127.0.0.1:1");
    good.command(&["check"]).await.expect_success();
    let bad = Setup::new()
        .registry_with("up.test", "http://127.0.0.1:1", json!({ "tag_tl": "5m", "retries": "many" }))
        .set("/cache/max_size", "lots")
        .set("/unheard_of", 1);
    for command in ["check", "serve"] {
        let output = bad.command(&[command]).await;
        assert_eq!(output.code, Some(1), "{command}");
        for path in ["registries[0].tag_tl: ", "registries[0].retries: ", "cache.max_size: ", "unheard_of: "] {
            assert!(output.stderr.contains(path), "{command}: {path} in {}", output.stderr);
        }
    }
    let mut version = Command::new(binary());
    version.arg("--version");
    let version = run(version, Duration::from_secs(10)).await.expect_success();
    assert!(version.stdout.starts_with("pierhead "), "{}", version.stdout);
}

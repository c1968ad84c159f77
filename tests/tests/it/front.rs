//! Who is in front of the edge, and who takes more than allowed.

use std::time::Duration;

use pierhead_tests::pierhead::Setup;
use pierhead_tests::process::run;
use pierhead_tests::server::{Server, certificate};
use serde_json::json;
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_says_who_its_client_is() {
    for (version, tls) in [("send-proxy", false), ("send-proxy-v2", false), ("send-proxy-v2 check-send-proxy", true)] {
        let setup = Setup::new().registry("up.test", "http://127.0.0.1:1");
        let mut listener = json!({ "name": "registry", "bind": "127.0.0.1:0", "accept_proxy": true });
        if tls {
            certificate(setup.dir.path(), &["a.test"]);
            listener["tls"] = json!({ "certificates": [{ "cert": "a.test.crt", "key": "a.test.key" }] });
        }
        let edge = setup
            .set("/listeners/0", listener)
            .set("/trusted_proxies", json!(["127.0.0.1"]))
            .set("/limits", json!({ "max_connections_per_client": 20 }))
            .start()
            .await;
        let haproxy = Server::haproxy(
            1,
            &format!(
                "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n\
                 listen in\n bind 127.0.0.1:@PORT@\n server edge {} check inter 50ms {version}\n",
                edge.registry
            ),
        )
        .await;
        let scheme = if tls { "https" } else { "http" };
        for source in ["127.0.0.2", "127.0.0.3"] {
            let mut curl = Command::new("curl");
            curl.args(["-sk", "--noproxy", "*", "--interface", source, "--retry", "5", "--retry-all-errors"]);
            curl.arg(format!("{scheme}://{}/v2/?from={source}", haproxy.address()));
            assert_eq!(run(curl, Duration::from_secs(30)).await.expect_success().stdout, "{}", "{version}");
            edge.logged(&format!("a request of {source}"), |line| line["client"] == source).await;
        }
        assert!(edge.access_log().iter().all(|line| line["client"] != "127.0.0.1"), "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_trusted_says_nothing() {
    let edge = Setup::new()
        .registry("up.test", "http://127.0.0.1:1")
        .set("/listeners/0/accept_proxy", true)
        .set("/trusted_proxies", json!(["192.0.2.0/24"]))
        .start()
        .await;
    let mut curl = Command::new("curl");
    curl.args(["-s", "--noproxy", "*", "--haproxy-protocol", &edge.url()]);
    assert!(!run(curl, Duration::from_secs(30)).await.success);
    assert_eq!(edge.metric("pierhead_refusals_total", &[("reason", "untrusted")]).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_often_is_told_when_to_come_back() {
    let edge = Setup::new()
        .registry_with(
            "up.test",
            "http://127.0.0.1:1",
            json!({ "default": true, "retries": 0, "rate": { "per_second": 1, "burst": 4 } }),
        )
        .registry_with("free.test", "http://127.0.0.1:1", json!({}))
        .set(
            "/limits",
            json!({
                "requests_per_client": { "per_second": 1, "burst": 19 },
                "exempt_repositories": ["library/*"],
            }),
        )
        .start()
        .await;
    let client = edge.client();
    let mut statuses = Vec::new();
    for _ in 0..10 {
        statuses.push(client.get("/v2/team/app/tags/list").await);
    }
    let refused: Vec<_> = statuses.iter().filter(|reply| reply.status == 429).collect();
    // One a second comes free while this asks.
    assert!((1..=5).contains(&refused.len()), "{}", refused.len());
    let body: serde_json::Value = serde_json::from_slice(&refused[0].body).unwrap();
    assert_eq!(body["errors"][0]["code"], "TOOMANYREQUESTS", "{body}");
    let wait: u64 = refused[0].header("retry-after").parse().unwrap();
    assert!((1..=5).contains(&wait), "{wait}");
    // Another registry, and a repository that is exempt.
    assert_ne!(client.get("/v2/free.test/team/app/tags/list").await.status, 429);
    assert_ne!(client.get("/v2/library/app/tags/list").await.status, 429);
    assert!(edge.metric("pierhead_limited_total", &[("limit", "registry_rate")]).await >= 1.0);
    // The client's own limit holds for whatever it asks for, but for checks.
    let mut limited = false;
    for _ in 0..30 {
        limited |= client.get("/v2/").await.status == 429;
        assert_eq!(client.get("/health/instance").await.status, 200);
        assert_ne!(client.get("/v2/library/app/tags/list").await.status, 429);
    }
    assert!(limited);
    assert!(edge.metric("pierhead_limited_total", &[("limit", "client_rate")]).await >= 1.0);
}

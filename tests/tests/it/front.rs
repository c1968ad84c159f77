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

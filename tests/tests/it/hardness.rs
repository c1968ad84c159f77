//! The front door under the tools that others attack it with.

use std::time::Duration;

use pierhead_tests::pierhead::Setup;
use pierhead_tests::process::run;
use pierhead_tests::server::certificate;
use serde_json::{Value, json};
use tokio::process::Command;

/// What is no weakness of a server: a test's certificate has no authority and no DNS, and a machine no GOST.
const NOT_OURS: [&str; 4] = ["cert_revocation", "DNS_CAArecord", "engine_problem", "sessionresumption_ticket"];

#[tokio::test(flavor = "multi_thread")]
async fn heavy_testssl_finds_no_weakness() {
    let setup = Setup::new().registry("up.test", "http://127.0.0.1:1");
    certificate(setup.dir.path(), &["localhost"]);
    let tls = json!({ "certificates": [{ "cert": "localhost.crt", "key": "localhost.key" }] });
    let edge = setup.set("/listeners/0/tls", tls).start().await;
    let findings = edge.dir().join("findings.json");
    let mut testssl = Command::new("testssl");
    testssl.args(["--quiet", "--color", "0", "--warnings", "batch", "--nodns", "none", "--ip", "127.0.0.1"]);
    // Protocols, ciphers, forward secrecy, preferences, vulnerabilities, and what the server says of itself.
    testssl.args(["-p", "-s", "-f", "-P", "-U", "-S"]);
    testssl.arg("--add-ca").arg(edge.dir().join("localhost.crt")).arg("--jsonfile").arg(&findings);
    testssl.arg(format!("https://localhost:{}", edge.registry.port()));
    let output = run(testssl, Duration::from_secs(900)).await;
    let findings: Value = serde_json::from_str(&std::fs::read_to_string(findings).unwrap()).unwrap();
    let findings = findings.as_array().unwrap();
    let of = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    assert!(findings.iter().any(|finding| of(finding, "id") == "TLS1_3" && of(finding, "severity") == "OK"));
    assert!(findings.len() > 50, "{}", output.stdout);
    let weak: Vec<_> = findings
        .iter()
        .filter(|finding| !["OK", "INFO"].contains(&of(finding, "severity").as_str()))
        .filter(|finding| !NOT_OURS.contains(&of(finding, "id").as_str()))
        .collect();
    assert!(weak.is_empty(), "{weak:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_slow_clients_keep_nobody_out() {
    let edge = Setup::new()
        .registry("up.test", "http://127.0.0.1:1")
        .set("/listeners/0/header_timeout", "1s")
        .set("/listeners/0/body_timeout", "1s")
        .set("/listeners/0/idle_timeout", "1s")
        .set("/listeners/0/max_connections", 1000)
        .start()
        .await;
    // Headers that drip, then bodies that do, then answers that are read slowly.
    for mode in [&["-H"][..], &["-B"], &["-X", "-w", "1", "-y", "2", "-z", "1", "-n", "1"]] {
        let mut slow = Command::new("slowhttptest");
        slow.args(["-c", "300", "-r", "150", "-i", "1", "-l", "20", "-p", "2", "-u"])
            .arg(format!("{}/v2/", edge.url()));
        slow.args(mode).env("TERM", "dumb");
        let attack = tokio::spawn(run(slow, Duration::from_secs(60)));
        let mut served = 0;
        while !attack.is_finished() {
            let begin = std::time::Instant::now();
            assert_eq!(edge.client().get("/v2/").await.status, 200);
            assert!(begin.elapsed() < Duration::from_secs(2), "{mode:?}: {:?}", begin.elapsed());
            served += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let output = attack.await.unwrap();
        // Who reads slowly has not read yet that the connection is closed.
        let over = mode[0] == "-X" || output.stdout.contains("No open connections left");
        assert!(served > 10 && over, "{mode:?} {served} {}", output.stdout);
        edge.metric_until("pierhead_connections", &[("listener", "registry")], |open| open <= 1.0).await;
    }
    assert!(edge.metric("pierhead_refusals_total", &[("reason", "timeout")]).await >= 250.0);
}

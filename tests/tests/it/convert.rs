//! A haproxy.cfg that haproxy takes, the configuration that is made of it, and the examples that stand beside haproxy's.

use std::path::Path;
use std::time::Duration;

use pierhead_tests::image::Image;
use pierhead_tests::pierhead::{Setup, binary};
use pierhead_tests::process::{Lines, Output, Process, run};
use pierhead_tests::pull::Client;
use pierhead_tests::registry::DockerRegistry;
use pierhead_tests::server::{Server, certificate, redis_cli};
use serde_json::json;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(30);

fn examples() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/examples"))
}

async fn pierhead(arguments: &[&str], file: &Path) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).arg(file);
    run(command, LIMIT).await
}

async fn haproxy_takes(file: &Path) {
    let mut command = Command::new("haproxy");
    command.arg("-c").arg("-f").arg(file);
    run(command, LIMIT).await.expect_success();
}

const FRONT: &str = "
defaults
    mode http
    retries 3
    option redispatch
    timeout connect 2s
    timeout client 30s
    timeout server 30s

frontend registry
    bind 127.0.0.1:@PORT@
    default_backend nodes

backend nodes
    balance leastconn
    option httpchk GET /v2/
    server dead 127.0.0.1:1 check inter 200ms
    server alive @REGISTRY@ check inter 200ms

listen redis
    mode tcp
    bind 127.0.0.1:@PORT1@
    option tcp-check
    tcp-check send PING\\r\\n
    tcp-check expect string +PONG
    tcp-check send info\\ replication\\r\\n
    tcp-check expect string role:master
    server replica @REPLICA@ check inter 200ms
    server primary @PRIMARY@ check inter 200ms
";

#[tokio::test]
async fn where_everything_is_forwarded_clients_need_not_be_told() {
    let setup =
        Setup::front().pool(json!({ "name": "web", "servers": ["127.0.0.1:1"] })).set("/listeners/0/pool", "web");
    let told = setup.command(&["client-config", "all"]).await.expect_failure();
    assert!(told.stderr.contains("no `registries`"), "{}", told.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_takes_the_place_of_haproxy() {
    let (registry, primary, replica) =
        tokio::join!(DockerRegistry::start(), Server::redis(&[]), Server::redis(&["--replicaof", "127.0.0.1", "1"]));
    let image = Image::new(1, &[100_000]);
    registry.push("team/app", "latest", &image).await;
    let text = FRONT
        .replace("@REGISTRY@", &registry.address.to_string())
        .replace("@PRIMARY@", &primary.address().to_string())
        .replace("@REPLICA@", &replica.address().to_string());
    let mut haproxy = Server::haproxy(2, &text).await;
    let (front, redis) = (haproxy.addresses[0], haproxy.addresses[1]);
    let pull = async || Client::new(format!("http://{front}")).pull("team/app", "latest").await;
    let ask = async || redis_cli(redis, &["role"]).await.stdout;
    pull().await.unwrap();

    let file = haproxy.dir().join("haproxy.cfg");
    haproxy_takes(&file).await;
    let converted = pierhead(&["convert", "haproxy", "--strict"], &file).await.expect_success();
    assert_eq!(converted.stderr, "");
    haproxy.kill().await;
    let config = file.with_file_name("edge.yaml");
    std::fs::write(&config, format!("{}\nadmin: {{ bind: \"127.0.0.1:0\" }}\n", converted.stdout)).unwrap();
    pierhead(&["check", "--config"], &config).await.expect_success();
    let mut command = Command::new(binary());
    command.args(["serve", "--config"]).arg(&config);
    let mut edge = Process::start(command, Lines::default());
    edge.expect_line("ready", 0, |line| line.contains("\"ready\"").then_some(())).await;
    pull().await.unwrap();
    pierhead_tests::eventually("the primary answers", LIMIT, async || ask().await.starts_with("master").then_some(()))
        .await;
}

/// What a site may have, with TLS, several hosts, and lines that have no counterpart.
const SITE: &str = "
global
    maxconn 20000
    hard-stop-after 30m
    log 127.0.0.1 local0

defaults
    mode http
    option httplog
    option forwardfor
    option http-server-close
    timeout http-request 10s
    timeout queue 30s
    timeout connect 5s
    timeout client 60s
    timeout server 2000s

frontend web
    bind :80
    bind :443 ssl crt @DIR@/site.pem alpn h2,http/1.1 strict-sni
    http-request redirect scheme https code 301 if !{ ssl_fc }
    http-response set-header Strict-Transport-Security max-age=31536000
    use_backend lab if { hdr(host) -i lab.example.com }
    default_backend quay

frontend passed
    mode tcp
    bind :8443
    tcp-request inspect-delay 5s
    tcp-request content accept if { req_ssl_hello_type 1 }
    use_backend passed if { req.ssl_sni -i raw.example.com }

backend quay
    balance leastconn
    option httpchk GET /health/endtoend
    http-check expect status 200
    default-server inter 1s rise 2 fall 3 slowstart 30s maxconn 3000 ssl verify required verifyhost quay.example.com ca-file @DIR@/ca.crt
    server quay01 10.0.0.1:8443 check weight 2
    server quay02 10.0.0.2:8443 check cookie two
    server quay03 10.0.0.3:8443 check backup

backend lab
    stick-table type ip size 10k expire 1m store http_req_rate(10s)
    server lab01 10.0.0.9:5000 check

backend passed
    mode tcp
    server raw01 10.0.1.1:443 check check-ssl verify none send-proxy-v2 on-marked-down shutdown-sessions
";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_is_said_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key, _) = certificate(dir.path(), &["site"]);
    let pem = [cert.clone(), key].map(|file| std::fs::read_to_string(file).unwrap()).concat();
    std::fs::write(dir.path().join("site.pem"), pem).unwrap();
    std::fs::copy(cert, dir.path().join("ca.crt")).unwrap();
    let text = SITE.replace("@DIR@", &dir.path().display().to_string());
    let file = dir.path().join("haproxy.cfg");
    std::fs::write(&file, &text).unwrap();
    haproxy_takes(&file).await;

    let converted = pierhead(&["convert", "haproxy"], &file).await.expect_success();
    let left: Vec<&str> = converted.stderr.lines().collect();
    let line = |start: &str| 1 + text.lines().position(|line| line.trim().starts_with(start)).unwrap();
    let expected = [
        (line("log "), "log"),
        (line("use_backend lab"), "default_backend"),
        (line("use_backend lab"), "use_backend"),
        (line("server quay02"), "server cookie"),
        (line("stick-table"), "stick-table type"),
    ];
    assert_eq!(left.len(), expected.len(), "{left:#?}");
    for (line, (number, what)) in left.iter().zip(expected) {
        assert!(line.starts_with(&format!("{}:{number}: {what}: ", file.display())), "{line}");
    }
    let config = dir.path().join("edge.yaml");
    std::fs::write(&config, &converted.stdout).unwrap();
    pierhead(&["check", "--config"], &config).await.expect_success();

    let strict = pierhead(&["convert", "haproxy", "--strict"], &file).await;
    assert_eq!((strict.code, strict.stdout, strict.stderr), (Some(1), converted.stdout, converted.stderr));
    let missing = pierhead(&["convert", "haproxy"], &dir.path().join("missing.cfg")).await;
    assert_eq!(missing.code, Some(1));
    let empty = dir.path().join("empty.cfg");
    std::fs::write(&empty, "").unwrap();
    let empty = pierhead(&["convert", "haproxy"], &empty).await;
    assert_eq!((empty.code, empty.stdout.as_str()), (Some(1), ""), "{}", empty.stderr);
    assert!(empty.stderr.contains("found nothing to convert"), "{}", empty.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_for_those_around_are_good() {
    // haproxy looks up its servers as it starts.
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(examples().join("haproxy.cfg")).unwrap();
    let mut known = text.clone();
    for name in ["quay01", "quay02", "quay03", "ceph01", "ceph02", "ceph03"] {
        known = known.replace(&format!("{name}.example.com"), "127.0.0.1");
    }
    let file = dir.path().join("haproxy.cfg");
    std::fs::write(&file, known).unwrap();
    haproxy_takes(&file).await;

    // It says what it does not understand, and ends its group.
    let mut keepalived = Command::new("keepalived");
    keepalived.arg("-t").arg("-f").arg(examples().join("keepalived.conf")).process_group(0);
    let output = run(keepalived, LIMIT).await;
    assert!(
        !output.stderr.contains("(Line") && !output.stdout.contains("(Line"),
        "{} {}",
        output.stdout,
        output.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_global_balancer_sees_what_a_site_lacks() {
    let mut registry = DockerRegistry::start().await;
    let pool = json!({
        "name": "nodes", "servers": [registry.address.to_string()],
        "health": { "kind": "http", "path": "/v2/", "interval": "100ms", "fast_interval": "50ms" },
    });
    let edge = Setup::front().set("/listeners/0/pool", "nodes").pool(pool).start().await;
    let check = async || {
        let mut command = Command::new(examples().join("site-check.sh"));
        command.arg(format!("http://{}", edge.admin));
        run(command, LIMIT).await
    };
    pierhead_tests::eventually("the site is good", LIMIT, async || (check().await.code == Some(0)).then_some(())).await;
    registry.stop().await;
    let output = pierhead_tests::eventually("the site is not", LIMIT, async || {
        let output = check().await;
        (output.code == Some(1)).then_some(output)
    })
    .await;
    assert!(output.stderr.contains("nodes"), "{}", output.stderr);
}

//! Registries whose TLS cannot be used.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pierhead_tests::pierhead::Setup;
use pierhead_tests::process::run;
use pierhead_tests::registry::DockerRegistry;
use pierhead_tests::server::{Server, certificate_from_to};
use serde_json::{Value, json};
use tokio::process::Command;

use super::layer4::LONG;

async fn openssl(dir: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    command.args(arguments.split(' ')).current_dir(dir);
    run(command, LONG).await.expect_success();
}

/// A certificate of X.509 version 1, `tls.crt`, as a short command makes it.
pub(super) async fn version_1(dir: &Path) {
    openssl(dir, "req -new -newkey rsa:2048 -nodes -subj /CN=localhost -keyout tls.key -out tls.csr").await;
    openssl(dir, "x509 -req -in tls.csr -signkey tls.key -days 90 -out tls.crt").await;
}

/// What is wrong with a registry's TLS is said in words, to the client and in the log.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_without_usable_tls_is_described_in_words() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = |name: &str| {
        let dir = scratch.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        dir
    };
    let (now, day) = (SystemTime::now(), Duration::from_secs(86_400));
    let made = |dir: &Path, name: &str, from, to| certificate_from_to(dir, &[name], from, to);
    let [version, authority, expired, early, named, unknown] =
        ["version", "authority", "expired", "early", "named", "unknown"].map(dir);
    version_1(&version).await;
    openssl(
        &authority,
        "req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -addext subjectAltName=DNS:localhost -days 9 -keyout tls.key -out tls.crt",
    )
    .await;
    let pair = |dir: &Path| (dir.join("tls.crt"), dir.join("tls.key"));
    let of = |(cert, key, _): (PathBuf, PathBuf, String)| (cert, key);
    for ((cert, key), trusted, says) in [
        (pair(&version), true, "X.509 version 1"),
        (pair(&authority), true, "CA:FALSE"),
        (of(made(&expired, "localhost", now - 2 * day, now - day)), true, "has expired"),
        (of(made(&early, "localhost", now + day, now + 2 * day)), true, "not valid yet"),
        (of(made(&named, "other.test", now - day, now + day)), true, "is not for localhost, but for"),
        (of(made(&unknown, "localhost", now - day, now + day)), false, "name its certificate in `ca`"),
    ] {
        let (cert_name, key_name) = (cert.display(), key.display());
        let nginx = Server::nginx(
            1,
            &format!(
                "server {{ listen 127.0.0.1:@PORT@ ssl; ssl_certificate {cert_name}; ssl_certificate_key {key_name}; }}"
            ),
        )
        .await;
        let url = format!("https://localhost:{}", nginx.address().port());
        let keys = if trusted { json!({ "default": true, "ca": cert }) } else { json!({ "default": true }) };
        described(&url, keys, says).await;
    }
    let plain = DockerRegistry::start().await;
    described(&plain.url().replace("http://127.0.0.1", "https://localhost"), json!({ "default": true }), "http://")
        .await;
}

async fn described(url: &str, keys: Value, says: &str) {
    let edge = Setup::new().registry_with("up.test", url, keys).start().await;
    let refused = edge.client().get("/v2/team/app/manifests/latest").await;
    let body = String::from_utf8_lossy(&refused.body).into_owned();
    assert_eq!(refused.status, 503, "{says}: {body}");
    assert!(body.contains("TLS: it") && body.contains(says), "{says}: {body}");
    let told = edge.log().count(|line| line.contains("WARN") && line.contains(says));
    assert!(told >= 1, "{says}: {:?}", edge.log().all());
}

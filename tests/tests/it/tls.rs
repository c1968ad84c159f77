//! TLS as clients meet it: certificates that change under load, sessions that go on, clients that must show who they are.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pierhead_tests::eventually;
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::process::{Output, run};
use pierhead_tests::server::certificate;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use reqwest::tls::TlsInfo;
use serde_json::{Value, json};
use tokio::process::Command;

/// An edge with TLS; its first certificate is for `a.test`, in `a.test.crt` and `a.test.key`.
async fn edge(more: Value) -> Pierhead {
    let setup = Setup::new().registry("up.test", "http://127.0.0.1:1");
    certificate(setup.dir.path(), &["a.test"]);
    let mut tls = json!({ "certificates": [{ "cert": "a.test.crt", "key": "a.test.key" }], "watch": "20ms" });
    tls.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    setup.set("/listeners/0/tls", tls).start().await
}

fn client(edge: &Pierhead) -> reqwest::Client {
    reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .tls_info(true)
        .resolve("a.test", edge.registry)
        .no_proxy()
        .timeout(Duration::from_secs(30))
        .build()
        .unwrap()
}

/// One request; the certificate that its connection was opened with.
async fn shown(edge: &Pierhead, client: &reqwest::Client) -> reqwest::Result<Vec<u8>> {
    let url = format!("https://a.test:{}/v2/", edge.registry.port());
    let answer = client.get(url).send().await?.error_for_status()?;
    let certificate = answer.extensions().get::<TlsInfo>().unwrap().peer_certificate().unwrap().to_vec();
    answer.bytes().await?;
    Ok(certificate)
}

/// What the file `a.test.crt` holds.
fn der(dir: &Path) -> Vec<u8> {
    let text = std::fs::read_to_string(dir.join("a.test.crt")).unwrap();
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_under_load_and_broken_ones_are_not_taken() {
    let edge = Arc::new(edge(json!({})).await);
    let kept = client(&edge);
    let first = shown(&edge, &kept).await.unwrap();
    assert_eq!(first, der(edge.dir()));
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load = (0..3).map(|_| {
        let (edge, stop, served) = (Arc::clone(&edge), Arc::clone(&stop), Arc::clone(&served));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                // Of its own: each request opens a connection.
                shown(&edge, &client(&edge)).await.unwrap();
                served.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let load: Vec<_> = load.collect();
    for _ in 0..10 {
        // The certificate before its key: they do not match for a moment.
        let staging = edge.dir().join("staging");
        std::fs::create_dir_all(&staging).unwrap();
        certificate(&staging, &["a.test"]);
        for file in ["a.test.crt", "a.test.key"] {
            std::fs::rename(staging.join(file), edge.dir().join(file)).unwrap();
            tokio::task::yield_now().await;
        }
        let new = der(edge.dir());
        eventually("the new certificate", Duration::from_secs(20), async || {
            (shown(&edge, &client(&edge)).await.unwrap() == new).then_some(())
        })
        .await;
    }
    let good = der(edge.dir());
    let text = std::fs::read_to_string(edge.dir().join("a.test.crt")).unwrap();
    // On a busy machine, the moment above may have lasted for two looks.
    let refused = ("pierhead_certificate_renewals_total", &[("result", "refused")]);
    let complaints = || edge.log().count(|line| line.contains("cannot be used, the old ones serve on"));
    let (counted, before) = (edge.metric(refused.0, refused.1).await, complaints());
    std::fs::write(edge.dir().join("a.test.crt"), "no certificate").unwrap();
    edge.metric_until(refused.0, refused.1, |count| count == counted + 1.0).await;
    assert_eq!(shown(&edge, &client(&edge)).await.unwrap(), good, "the old one serves on");
    assert_eq!(complaints(), before + 1);
    let problem = "new files of listener registry cannot be used, the old ones serve on: ";
    for wanted in ["status", "certificates"] {
        let said = edge.ctl(&[wanted]).await.expect_success().stdout;
        assert!(said.contains(problem) && said.contains("a.test.crt: holds no certificate"), "{wanted}: {said}");
    }
    std::fs::write(edge.dir().join("a.test.crt"), text).unwrap();
    eventually("all is well again", Duration::from_secs(20), async || {
        (edge.log().count(|line| line.contains("again what they were")) == 1).then_some(())
    })
    .await;
    for wanted in ["status", "certificates"] {
        assert!(!edge.ctl(&[wanted]).await.expect_success().stdout.contains("cannot be used"), "{wanted}");
    }
    stop.store(true, Ordering::Relaxed);
    for worker in load {
        worker.await.unwrap();
    }
    assert!(served.load(Ordering::Relaxed) > 30);
    assert_eq!(shown(&edge, &kept).await.unwrap(), first, "a connection that was open was closed");
    let expiry = edge.metric("pierhead_certificate_expiry_timestamp_seconds", &[("listener", "registry")]).await;
    assert!(expiry > 1.6e9, "{expiry}");
}

/// A handshake of OpenSSL's own client, with a request after it, so that it sees the tickets.
async fn openssl(edge: &Pierhead, arguments: &str) -> Output {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!(
        "printf 'GET /v2/ HTTP/1.1\\r\\nHost: a.test\\r\\nConnection: close\\r\\n\\r\\n' | \
         openssl s_client -connect {} -servername a.test -ign_eof {arguments} 2>&1",
        edge.registry
    ));
    run(command, Duration::from_secs(30)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_openssl_go_on_with_new_certificates() {
    let edge = edge(json!({})).await;
    for version in ["-tls1_2", "-tls1_3", "-tls1_2 -no_ticket"] {
        let session = edge.dir().join("session");
        let before = der(edge.dir());
        let full = openssl(&edge, &format!("{version} -sess_out {}", session.display())).await;
        assert!(full.stdout.contains("New, TLSv1") && full.stdout.contains("HTTP/1.1 200"), "{}", full.stdout);
        certificate(edge.dir(), &["a.test"]);
        eventually("the new certificate", Duration::from_secs(20), async || {
            (shown(&edge, &client(&edge)).await.unwrap() != before).then_some(())
        })
        .await;
        let resumed = openssl(&edge, &format!("{version} -sess_in {}", session.display())).await;
        assert!(
            resumed.stdout.contains("Reused, TLSv1") && resumed.stdout.contains("HTTP/1.1 200"),
            "{version}: {}",
            resumed.stdout
        );
    }
}

/// An authority's certificate, and one that it gave to a client with its key; all files.
fn authority(dir: &Path, name: &str) -> [PathBuf; 3] {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![format!("{name}.client")]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Harbour");
    params.distinguished_name.push(DnType::CommonName, format!("{name} client"));
    let client = params.signed_by(&key, &issuer).unwrap();
    let files = ["ca", "crt", "key"].map(|ending| dir.join(format!("{name}.{ending}")));
    for (file, text) in files.iter().zip([issuer.pem(), client.pem(), key.serialize_pem()]) {
        std::fs::write(file, text).unwrap();
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_show_certificates_where_they_must() {
    let elsewhere = tempfile::tempdir().unwrap();
    let [ca, cert, key] = authority(elsewhere.path(), "good");
    let [_, other_cert, other_key] = authority(elsewhere.path(), "other");
    for auth in ["required", "optional"] {
        let edge = edge(json!({ "client_ca": ca, "client_auth": auth })).await;
        for (shows, expected) in [
            (None, if auth == "required" { "000" } else { "200" }),
            (Some((&cert, &key)), "200"),
            (Some((&other_cert, &other_key)), "000"),
        ] {
            let mut curl = Command::new("curl");
            curl.args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*"]);
            curl.arg(format!("https://{}/v2/", edge.registry));
            if let Some((cert, key)) = shows {
                curl.arg("--cert").arg(cert).arg("--key").arg(key);
            }
            assert_eq!(run(curl, Duration::from_secs(30)).await.stdout, expected, "{auth} {shows:?}");
        }
        assert!(edge.metric("pierhead_refusals_total", &[("reason", "tls")]).await >= 1.0);
        let told: Vec<_> =
            edge.access_log().iter().map(|line| line["certificate"].as_str().map(str::to_owned)).collect();
        let shown = Some("O=Harbour, CN=good client".to_owned());
        assert_eq!(told, if auth == "required" { vec![shown] } else { vec![None, shown] });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_certificates_serves_each_name_its_own() {
    let setup = Setup::new().registry("up.test", "http://127.0.0.1:1");
    let directory = setup.dir.path().join("certificates");
    std::fs::create_dir(&directory).unwrap();
    for name in ["a.test", "b.test"] {
        certificate(&directory, &[name]);
    }
    let tls = json!({ "directory": "certificates", "strict_sni": true, "watch": "20ms", "ciphers": "modern" });
    let edge = setup.set("/listeners/0/tls", tls).start().await;
    let subject = async |name: &str| {
        let mut command = Command::new("sh");
        let connect = format!("openssl s_client -connect {} -servername {name} </dev/null", edge.registry);
        command.arg("-c").arg(format!("{connect} 2>/dev/null | openssl x509 -noout -ext subjectAltName"));
        run(command, Duration::from_secs(30)).await.stdout
    };
    assert!(subject("a.test").await.contains("DNS:a.test"));
    assert!(subject("b.test").await.contains("DNS:b.test"));
    assert_eq!(subject("c.test").await, "");
    certificate(&directory, &["c.test"]);
    eventually("the certificate that was added", Duration::from_secs(20), async || {
        subject("c.test").await.contains("DNS:c.test").then_some(())
    })
    .await;
    let mut old = Command::new("sh");
    old.arg("-c").arg(format!("openssl s_client -tls1_2 -connect {} -servername a.test </dev/null", edge.registry));
    assert!(!run(old, Duration::from_secs(30)).await.success);
}

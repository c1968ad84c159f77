//! The origin as a process: it starts, says how it is, stops in order, and is what its configuration says.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use pierhead_tests::eventually;
use pierhead_tests::image::{Blob, Image};
use pierhead_tests::origin::Setup;
use pierhead_tests::postgres::Postgres;
use pierhead_tests::pull::reply;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn it_says_how_it_is_in_quays_words() {
    let origin = Setup::new().start().await;
    let services = |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap()["data"]["services"].clone();
    for client in [origin.client(), origin.operator()] {
        for (path, expected) in [
            (
                "/health/instance",
                &["registry_gunicorn", "web_gunicorn", "service_key", "disk_space", "database", "auth"][..],
            ),
            ("/health", &["registry_gunicorn", "web_gunicorn", "service_key", "disk_space", "database", "auth"]),
            ("/health/endtoend", &["database", "storage", "auth"]),
            ("/status", &["database", "storage", "auth"]),
            ("/health/warning", &["disk_space_warning"]),
        ] {
            let reply = client.get(path).await;
            assert_eq!(reply.header("cache-control"), "no-cache, no-store, must-revalidate");
            let body: Value = serde_json::from_slice(&reply.body).unwrap();
            assert_eq!(body["status_code"], reply.status, "{path}");
            let found: Vec<String> = services(&reply.body).as_object().unwrap().keys().cloned().collect();
            let mut expected: Vec<String> = expected.iter().map(|name| (*name).to_owned()).collect();
            expected.sort();
            assert_eq!(found, expected, "{path}");
            if path != "/health/warning" {
                assert_eq!(reply.status, 200, "{path}: {body}");
            }
        }
    }
    assert!(origin.dir().join("blobs/_verify").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_told_and_its_return_too() {
    let mut postgres = Postgres::start().await;
    let origin = Setup::new().database(postgres.section()).start().await;
    assert_eq!(origin.client().get("/health/instance").await.status, 200);
    postgres.stop().await;
    let away = async || (origin.client().get("/health/instance").await.status == 503).then_some(());
    eventually("the database is missed", Duration::from_secs(20), away).await;
    let reply = origin.client().get("/health/instance").await;
    let body: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(body["data"]["services"]["database"], false);
    assert_eq!(body["data"]["services"]["registry_gunicorn"], true);
    postgres.restart().await;
    let back = async || (origin.client().get("/health/instance").await.status == 200).then_some(());
    eventually("the database is back", Duration::from_secs(20), back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_have_a_name_and_a_line() {
    let origin = Setup::new().set("/listener/trusted_proxies", json!(["127.0.0.1"])).start().await;
    let headers = [("x-forwarded-for", "192.0.2.7"), ("x-request-id", "from-the-edge"), ("user-agent", "test")];
    let reply = origin.client().get_with("/nothing?secret=1", &headers).await;
    assert_eq!((reply.status, reply.header("x-request-id")), (404, "from-the-edge"));
    let line = origin.line_of(&reply).await;
    assert_eq!(
        (&line["client"], &line["path"], &line["status"]),
        (&json!("192.0.2.7"), &json!("/nothing"), &json!(404))
    );
    assert_eq!(
        (&line["user_agent"], &line["method"], &line["protocol"]),
        (&json!("test"), &json!("GET"), &json!("HTTP/1.1"))
    );
    assert!(!line.to_string().contains("secret"), "{line}");
    assert!(line["total_ms"].as_f64().is_some() && line.get("aborted").is_none(), "{line}");
    let labels = [("method", "GET"), ("route", "other"), ("status", "404")];
    assert!(origin.metric("quay_request_duration_seconds_count", &labels).await >= 1.0);

    let stranger = Setup::new().start().await;
    let reply = stranger.client().get_with("/nothing", &headers).await;
    assert_eq!(reply.header("x-request-id").len(), 32);
    assert_eq!(stranger.line_of(&reply).await["client"], "127.0.0.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stops_in_order_and_a_second_signal_ends_it() {
    let mut origin = Setup::new().set("/drain_wait", "2s").start().await;
    let mark = origin.log().len();
    origin.signal(Signal::TERM);
    origin.says(mark, "stopping: no longer ready").await;
    // Still accepting, so that load balancers can hear it.
    assert_eq!(origin.client().get("/health/instance").await.status, 503);
    assert!(origin.wait(Duration::from_secs(20)).await.success());

    let mut origin = Setup::new().set("/drain_wait", "1h").start().await;
    let mark = origin.log().len();
    origin.signal(Signal::TERM);
    origin.says(mark, "stopping: no longer ready").await;
    origin.signal(Signal::INT);
    assert_eq!(origin.wait(Duration::from_secs(20)).await.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_nothing_holds_no_connection() {
    let setup = Setup::new().set("/limits/header_timeout", "300ms").set("/limits/idle_timeout", "500ms");
    let origin = setup.set("/limits/max_connections", 2).start().await;
    let mut held = Vec::new();
    for sent in ["", "GET / HT", "GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut connection = TcpStream::connect(origin.registry).await.unwrap();
        connection.write_all(sent.as_bytes()).await.unwrap();
        held.push(connection);
    }
    for mut connection in held {
        let mut all = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(10), connection.read_to_end(&mut all)).await;
        assert!(closed.is_ok(), "still open after {}", String::from_utf8_lossy(&all));
    }
    assert_eq!(origin.client().get("/health/instance").await.status, 200);
}

/// Sends a byte now and then for as long as the other side keeps the connection; how long that was.
async fn drip(mut connection: TcpStream, bytes: &[u8], pause: Duration) -> Duration {
    let begun = Instant::now();
    let mut bytes = bytes.iter().cycle();
    loop {
        // Whatever is still on its way here is not of interest, only its end.
        let ended = tokio::time::timeout(pause, async {
            let mut some = [0; 1024];
            while !matches!(connection.read(&mut some).await, Ok(0) | Err(_)) {}
        });
        if ended.await.is_ok() || connection.write_all(&[*bytes.next().unwrap()]).await.is_err() {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < Duration::from_secs(90), "still open");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_drips_has_its_time_on_a_kept_connection_too() {
    let setup = Setup::new().set("/limits/header_timeout", "300ms").set("/limits/idle_timeout", "1s");
    let origin = setup.start().await;
    for before in ["", "GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut connection = TcpStream::connect(origin.registry).await.unwrap();
        connection.write_all(before.as_bytes()).await.unwrap();
        if !before.is_empty() {
            assert!(connection.read(&mut [0; 4096]).await.unwrap() > 0);
        }
        let held = drip(
            connection,
            b"GET / HTTP/1.1\r\nA: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            Duration::from_millis(50),
        );
        // Each byte is well within both times, and the sum of them is not.
        let held = held.await;
        assert!(held < Duration::from_secs(10), "{before:?}: {held:?}");
    }
}

/// What HTTP/2 begins with, no settings, and GET / on the first stream: all of it in HPACK's table.
const HTTP2_GET: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x03\x01\x05\x00\x00\x00\x01\x82\x86\x84";

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_http2_over_which_nothing_is_asked_ends() {
    let origin = Setup::new().set("/limits/idle_timeout", "500ms").start().await;
    let mut connection = TcpStream::connect(origin.registry).await.unwrap();
    connection.write_all(HTTP2_GET).await.unwrap();
    origin.logged("the request", |line| line["protocol"] == "HTTP/2").await;
    // GOAWAY, that no stream begun before it is lost.
    let mut all = Vec::new();
    let told = async {
        while !all.windows(5).any(|frame| frame == b"\x00\x00\x08\x07\x00") {
            let mut some = [0; 1024];
            let read = connection.read(&mut some).await.unwrap();
            assert!(read > 0, "closed without a word");
            all.extend_from_slice(&some[..read]);
        }
    };
    tokio::time::timeout(Duration::from_secs(10), told).await.expect("still open");
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_header_that_drips_over_http2_has_its_time_too() {
    let origin = Setup::new().start().await;
    let mut connection = TcpStream::connect(origin.registry).await.unwrap();
    connection.write_all(HTTP2_GET).await.unwrap();
    origin.logged("the first request", |line| line["protocol"] == "HTTP/2").await;
    // The second one's header, of which one byte comes at a time.
    connection.write_all(b"\x00\x40\x00\x01\x05\x00\x00\x00\x03").await.unwrap();
    let held = drip(connection, b"\x82", Duration::from_millis(100)).await;
    assert!(held < Duration::from_secs(60), "{held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_everything_that_is_wrong_and_serve_says_the_same() {
    let setup = Setup::new();
    setup.command(&["check"]).await.expect_success();
    let wrong = setup.set("/storage", json!({})).set("/limits/writes", json!({ "runing": 1 }));
    for command in ["check", "serve"] {
        let output = wrong.command(&[command]).await.expect_failure();
        assert_eq!(output.code, Some(1));
        assert!(output.stderr.contains("storage: needs exactly one of `file_system` and `s3`"), "{}", output.stderr);
        assert!(
            output.stderr.contains("limits.writes.runing: unknown key; did you mean `running`?"),
            "{}",
            output.stderr
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_how_many_there_are_and_what_is_asked_for() {
    let setup = Setup::new();
    setup.user("org", "password of org", &[]).await;
    let origin = setup.start().await;
    let counted = async || (origin.metric("quay_user_rows", &[]).await == 1.0).then_some(());
    eventually("the users are counted", Duration::from_secs(20), counted).await;
    let client = origin.login("org", "password of org", &["repository:org/image:pull,push"]).await;
    let image = Image::new(3, &[10_000]);
    for blob in image.blobs() {
        client.push_blob("org/image", &blob.digest, blob.bytes.clone()).await;
    }
    let manifest = &image.manifest;
    client.push_manifest("org/image", "latest", &manifest.media_type, manifest.blob.bytes.clone()).await;
    client.pull("org/image", "latest").await.unwrap();
    for (name, labels) in [
        ("quay_registry_image_pushes_total", &[("status", "201"), ("media_type", manifest.media_type.as_str())][..]),
        ("quay_registry_image_pulls_total", &[("ref", "tag"), ("status", "200")]),
        ("quay_authentication_attempts_total", &[("success", "True")]),
        ("quay_request_duration_seconds_count", &[("route", "/v2/{name}/manifests/{reference}"), ("status", "201")]),
    ] {
        assert_eq!(origin.metric(name, labels).await, 1.0, "{name}");
    }
    let layers: u64 = image.layers.iter().map(|layer| layer.bytes.len() as u64).sum();
    assert!(origin.metric("quay_registry_image_pushed_bytes_total", &[]).await >= layers as f64);
    assert!(origin.metric("quay_registry_image_pulled_estimated_bytes_total", &[]).await >= layers as f64);
    let line = origin.logged("the push of a manifest", |line| line["method"] == "PUT" && line["user"] == "org").await;
    assert_eq!(line["status"], 201);
}

#[tokio::test]
async fn its_files_are_its_owners_alone() {
    let setup = Setup::new();
    setup.user("org", "password of org", &[]).await;
    let origin = setup.start().await;
    let client = origin.login("org", "password of org", &["repository:org/image:pull,push"]).await;
    let blob = Blob::new("a layer");
    let path = format!("/v2/org/image/blobs/uploads/?digest={}", blob.digest);
    assert_eq!(reply(client.request(Method::POST, &path).body(blob.bytes.clone())).await.unwrap().status, 201);
    let mut folders = vec![setup.dir.path().to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() { folders.push(entry.path()) } else { files.push(entry) }
        }
    }
    let named = |name: &str| files.iter().any(|file| file.file_name().to_string_lossy() == name);
    assert!(named("meta.db") && named(&blob.digest.hex()), "{files:?}");
    for file in files.iter().filter(|file| {
        file.path().extension().is_none_or(|extension| extension != "yaml")
            && !file.file_name().to_string_lossy().starts_with("password-of-")
    }) {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{file:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_had_is_named_with_the_reason() {
    let setup = Setup::new();
    let file = setup.dir.path().join("meta.db");
    std::fs::write(&file, "no database at all, but long enough to be taken for one").unwrap();
    let refused = setup.command(&["serve"]).await.expect_failure();
    assert!(refused.stderr.contains(file.to_str().unwrap()), "{}", refused.stderr);
    let mut postgres = Postgres::start().await;
    let setup = setup.database(postgres.section());
    postgres.stop().await;
    let refused = setup.command(&["serve"]).await.expect_failure();
    let url = postgres.section()["postgres"].as_str().unwrap().to_owned();
    let place = url.rsplit_once('@').unwrap().1;
    assert!(refused.stderr.contains(place) && refused.stderr.contains("refused"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_file_that_is_taken_away_is_missed() {
    let origin = Setup::new().start().await;
    assert_eq!(origin.client().get("/health/instance").await.status, 200);
    std::fs::remove_file(origin.dir().join("meta.db")).unwrap();
    let missed = async || (origin.client().get("/health/instance").await.status == 503).then_some(());
    eventually("the file is missed", Duration::from_secs(20), missed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_far_from_the_databases_is_told() {
    let postgres = Postgres::start().await;
    // The server's own clock is this machine's: it is made to tell another time.
    let ahead = "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS \
                 $$ SELECT pg_catalog.clock_timestamp() + interval '10 minutes' $$";
    postgres.query(ahead).await;
    postgres.query("ALTER DATABASE origin SET search_path = public, pg_catalog").await;
    let origin = Setup::new().database(postgres.section()).start().await;
    origin.says(0, "the clocks of this node and of the database are far apart").await;
}

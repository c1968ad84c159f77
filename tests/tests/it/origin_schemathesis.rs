//! schemathesis reads the description of the API and asks whatever it allows, and some of what it does not.

use std::path::PathBuf;
use std::time::Duration;

use pierhead_tests::origin::Setup;
use pierhead_tests::postgres::Postgres;
use pierhead_tests::process::run;
use pierhead_tests::pull::reply;
use reqwest::Method;
use serde_json::json;
use tokio::process::Command;

const PASSWORD: &str = "correct horse";

/// Where `scripts/need --test` puts it.
fn schemathesis() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
    cache.join("pierhead/schemathesis-4.32.5/bin/schemathesis")
}

/// PostgreSQL refuses more than SQLite does, so this runs on it.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_the_api_does_what_its_description_says() {
    let postgres = Postgres::start().await;
    let setup = Setup::new().database(postgres.section());
    setup.user("root", PASSWORD, &["--superuser"]).await;
    let origin = setup.start().await;
    let root = origin.client().login("root", PASSWORD);
    for (path, body) in [
        ("/organization", json!({ "name": "acme" })),
        ("/repository", json!({ "namespace": "acme", "repository": "app", "visibility": "public", "description": "" })),
    ] {
        let request = root.request(Method::POST, &format!("/api/v1{path}")).header("content-type", "application/json");
        assert_eq!(reply(request.body(body.to_string())).await.unwrap().status, 201);
    }
    let mut command = Command::new(schemathesis());
    command
        .arg("run")
        .arg(format!("{}/api/v1/discovery", origin.url()))
        .args(["--auth", &format!("root:{PASSWORD}")])
        .args([
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ])
        .args(["--phases", "examples,coverage,fuzzing", "--max-examples", "15", "--seed", "1", "--no-shrink"])
        .args(["--continue-on-failure", "--workers", "2", "--request-timeout", "60", "--warnings", "off"])
        // Slow machines are no fault of the API, and names are seldom what they must be.
        .args(["--suppress-health-check", "all"])
        .current_dir(origin.dir());
    let output = run(command, Duration::from_secs(1200)).await;
    println!("{}", output.stdout);
    output.expect_success();
    assert_eq!(root.get("/api/v1/user").await.status, 200);
}

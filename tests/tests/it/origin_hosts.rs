//! Where the answers of an origin lead: to its own hosts, whatever a request says of the way that it came.

use pierhead_tests::origin::Setup;
use pierhead_tests::pull::reply;
use reqwest::Method;
use serde_json::json;

use super::origin_acme::{PASSWORD, caller, origin_with};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_another_host_leads_to_the_configured_one() {
    let setup = Setup::new().set("/aliases", json!(["registry.internal"]));
    setup.user("org", PASSWORD, &[]).await;
    let origin = setup.start().await;
    let client = origin.login("org", PASSWORD, &["repository:org/app:pull,push"]).await;
    let port = origin.registry.port();
    let (own, internal) = (origin.url(), format!("http://registry.internal:{port}"));
    for (headers, realm, location) in [
        (&[][..], own.as_str(), own.as_str()),
        (&[("host", "evil.example")], "http://registry.test", ""),
        (&[("host", "evil.example:5000")], "http://registry.test", ""),
        (&[("host", "registry.test.evil.example")], "http://registry.test", ""),
        (&[("host", "registry.test")], "http://registry.test", "http://registry.test"),
        (&[("host", &format!("registry.internal:{port}"))], &internal, &internal),
        // Nobody has said that this client is a proxy to be trusted.
        (
            &[("x-forwarded-host", "evil.example"), ("x-forwarded-proto", "https"), ("x-forwarded-port", "99")],
            &own,
            &own,
        ),
        (&[("host", "evil.example"), ("forwarded", "host=evil.example;proto=https")], "http://registry.test", ""),
    ] {
        let ask = |client: &pierhead_tests::pull::Client, method, path: &str| {
            headers.iter().fold(client.request(method, path), |request, (name, value)| request.header(*name, *value))
        };
        let challenged = reply(ask(&origin.client(), Method::GET, "/v2/")).await.unwrap();
        let challenge = challenged.header("www-authenticate");
        assert!(challenge.starts_with(&format!("Bearer realm=\"{realm}/v2/auth\",")), "{headers:?}: {challenge}");
        let begun = reply(ask(&client, Method::POST, "/v2/org/app/blobs/uploads/")).await.unwrap();
        let expected = format!("{location}/v2/org/app/blobs/uploads/");
        assert!(begun.header("location").starts_with(&expected), "{headers:?}: {:?}", begun.headers);
        // It goes on from there.
        let path = begun.header("location").replacen(location, "", 1);
        assert_eq!(reply(ask(&client, Method::GET, &path)).await.unwrap().status, 204, "{headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_tells_host_and_port() {
    let origin = Setup::new().set("/listener/trusted_proxies", json!(["127.0.0.1"])).start().await;
    for (headers, realm) in [
        (&[("x-forwarded-host", "r.example"), ("x-forwarded-port", "8443")][..], "https://r.example:8443"),
        (&[("x-forwarded-host", "r.example"), ("x-forwarded-port", "443")], "https://r.example"),
        (&[("x-forwarded-host", "r.example:5000"), ("x-forwarded-port", "8443")], "https://r.example:5000"),
        (&[("x-forwarded-host", "[2001:db8::1]"), ("x-forwarded-port", "8443")], "https://[2001:db8::1]:8443"),
        (&[("host", "registry.test"), ("x-forwarded-port", "8443")], "https://registry.test:8443"),
        (&[("host", "evil.example"), ("x-forwarded-port", "8443")], "https://registry.test"),
    ] {
        let headers: Vec<_> = headers.iter().copied().chain([("x-forwarded-proto", "https")]).collect();
        let challenged = origin.client().get_with("/v2/", &headers).await;
        let challenge = challenged.header("www-authenticate");
        assert!(challenge.starts_with(&format!("Bearer realm=\"{realm}/v2/auth\",")), "{headers:?}: {challenge}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_with_a_meaning_of_their_own_are_given_to_nobody() {
    let origin = origin_with(&["ann"]).await;
    let (root, ann) = (caller(&origin, "root"), caller(&origin, "ann"));
    for name in ["library", "api", "v2", "keys", "auth", "health", "metrics", "localhost"] {
        let (status, body) = root.post("/superuser/users", json!({ "username": name, "password": PASSWORD })).await;
        assert!(status == 400 && body.to_string().contains("reserved"), "{name}: {status} {body}");
        let (status, body) = ann.post("/organization", json!({ "name": name })).await;
        assert!(status == 400 && body.to_string().contains("reserved"), "{name}: {status} {body}");
        let file = origin.dir().join("password-of-ann");
        let arguments = ["user", "add", name, "--password-file", file.to_str().unwrap()];
        let refused = origin.setup().command(&arguments).await.expect_failure();
        assert!(refused.stderr.contains("reserved"), "{name}: {}", refused.stderr);
    }
    for name in ["Library", "API"] {
        assert_eq!(ann.post("/organization", json!({ "name": name })).await.0, 400, "{name}");
    }
    // Robots and teams are not asked for by such a path.
    assert_eq!(ann.put("/user/robots/library", json!({})).await.0, 201);
}

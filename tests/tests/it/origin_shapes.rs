//! The shapes of the origin's API: errors as in Quay, keys that it does not know, texts that hide something, paths that it does not serve,
//! and requests that a browser sends for another site.

use pierhead_tests::pull::{Reply, reply};
use reqwest::Method;
use serde_json::{Value, json};

use super::origin_acme::{Caller, acme, caller, origin_with};

/// A request with these headers and this body, as it is.
async fn raw(who: &Caller, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let mut request = who.0.request(method, path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    reply(request.body(body.to_owned())).await.unwrap()
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test(flavor = "multi_thread")]
async fn what_quay_has_below_a_repository_is_never_read_as_a_repository() {
    let origin = origin_with(&["ann", "bob", "eve"]).await;
    let ann = acme(&origin).await;
    let below = [
        "mirror",
        "notification",
        "image",
        "build",
        "trigger",
        "autoprunepolicy",
        "immutabilitypolicy",
        "manifest",
        "tag",
        "logs",
        "permissions",
        "changetrust",
        "authorizedemail",
        "tokens",
        "signatures",
        "exportlogs",
    ];
    // Repositories of just these names are there: they must stay.
    for name in below {
        let new = json!({ "namespace": "acme", "repository": format!("app/{name}"), "visibility": "private", "description": "" });
        assert_eq!(ann.post("/repository", new).await.0, 201, "{name}");
    }
    for name in below {
        for path in [
            format!("acme/app/{name}"),
            format!("acme/app/{name}/"),
            format!("acme%2Fapp/{name}"),
            format!("acme/app/{name}/x"),
        ] {
            let (status, answer) = ann.send(Method::DELETE, &format!("/repository/{path}"), None).await;
            assert!(matches!(status, 404 | 405), "{path}: {status} {answer}");
            assert!(matches!(answer["error_type"].as_str(), Some("not_found" | "invalid_request")), "{path}: {answer}");
        }
        let (status, _) = ann.get(&format!("/repository/acme/app%2F{name}")).await;
        assert_eq!(status, 200, "{name} is gone");
    }
    for (method, path) in [
        (Method::GET, "notification/"),
        (Method::POST, "notification/"),
        (Method::GET, "mirror"),
        (Method::POST, "mirror/sync-now"),
        (Method::PUT, "mirror"),
        (Method::DELETE, "mirror"),
        (Method::GET, "manifest/sha256:00/security"),
    ] {
        let (status, answer) = ann
            .send(method.clone(), &format!("/repository/acme/app/{path}"), Some(json!({ "description": "x" })))
            .await;
        assert_eq!(
            (status, &answer["message"].as_str().unwrap().contains("this registry has no")),
            (404, &true),
            "{method} {path}: {answer}"
        );
        let name = path.split('/').next().unwrap();
        assert!(answer["detail"].as_str().unwrap().contains(name), "{answer}");
    }
    // By its escaped name it is deleted.
    assert_eq!(ann.delete("/repository/acme/app%2Fmirror").await, 204);
    assert_eq!(ann.get("/repository/acme/app%2Fmirror").await.0, 404);
    assert_eq!(ann.delete("/repository/acme/app").await, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_quays_shape() {
    let origin = origin_with(&["ann", "bob", "eve"]).await;
    let ann = acme(&origin).await;
    let nobody = Caller(origin.client());
    let eve = caller(&origin, "eve");
    for (who, method, path, body, status, kind, message) in [
        (&nobody, Method::GET, "/user/", None, 401, "invalid_token", "Requires authentication"),
        (&eve, Method::DELETE, "/organization/acme", None, 403, "insufficient_scope", "Unauthorized"),
        (&ann, Method::GET, "/organization/nowhere", None, 404, "not_found", "Not Found"),
        (&ann, Method::GET, "/nowhere", None, 404, "not_found", "Not Found"),
        (
            &ann,
            Method::POST,
            "/organization/",
            Some(json!({ "name": "acme" })),
            400,
            "invalid_request",
            "A user or organization with this name already exists",
        ),
        (
            &ann,
            Method::GET,
            "/organization/acme/robots/none",
            None,
            400,
            "invalid_request",
            "Could not find robot with specified username",
        ),
        (&ann, Method::PUT, "/organization/acme/team/x1", Some(json!({})), 400, "invalid_request", "`role` is missing"),
    ] {
        let (found, answer) = who.send(method, path, body).await;
        assert_eq!((found, &answer["status"]), (status, &json!(status)), "{path}: {answer}");
        assert_eq!((&answer["error_type"], &answer["title"]), (&json!(kind), &json!(kind)), "{path}");
        assert_eq!(answer["message"], message, "{path}");
        assert_eq!(answer["detail"], answer["error_message"], "{path}");
        let leads = answer["type"].as_str().unwrap();
        assert_eq!(leads, format!("{}/api/v1/error/{kind}", origin.url()));
        let described = nobody.see(leads.strip_prefix(&format!("{}/api/v1", origin.url())).unwrap()).await;
        assert_eq!(described["title"], kind);
    }
    assert_eq!(nobody.get("/error/none").await.0, 404);
    for (body, expected) in [
        ("", "the body is empty; an object in JSON is expected"),
        ("{", "the body ends in the middle of its JSON"),
        ("{]", "the body is not JSON, at line 1, column 2"),
        (r#"{"role":1}"#, "`role`: "),
        (r#"{"role":"king"}"#, "`role`: unknown value `king`, expected one of `member`, `creator`, `admin`"),
    ] {
        let answer = raw(&ann, Method::PUT, "/api/v1/organization/acme/team/x1", &[JSON], body).await;
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(answer["message"].as_str().unwrap().starts_with(expected), "{body}: {answer}");
    }
    let (_, answer) = ann.get("/repository?public=perhaps").await;
    assert!(!answer["message"].as_str().unwrap().contains("deserialize"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_not_known_are_ignored_and_named() {
    let origin = origin_with(&["ann", "bob", "eve"]).await;
    let ann = acme(&origin).await;
    let root = caller(&origin, "root");
    for (who, method, path, body, status, keys) in [
        (
            &ann,
            Method::PUT,
            "organization/acme",
            json!({ "email": "b@acme.test", "tag_expiration_s": 60 }),
            200,
            "tag_expiration_s",
        ),
        (
            &ann,
            Method::PUT,
            "organization/acme/team/makers",
            json!({ "name": "makers", "role": "creator" }),
            200,
            "name",
        ),
        (&ann, Method::PUT, "organization/acme/robots/r1", json!({ "superuser": true }), 201, "superuser"),
        (&ann, Method::PUT, "repository/acme/app", json!({ "description": "x", "immutable": true }), 200, "immutable"),
        (
            &root,
            Method::POST,
            "superuser/users/",
            json!({ "username": "kim", "superuser": true, "id": 1 }),
            200,
            "id, superuser",
        ),
    ] {
        let answer = raw(who, method, &format!("/api/v1/{path}"), &[JSON], &body.to_string()).await;
        assert_eq!(answer.status, status, "{path}: {:?}", answer.body);
        assert_eq!(
            answer.header("warning"),
            format!("299 - \"these keys are not known here and were ignored: {keys}\"")
        );
    }
    assert_eq!(root.see("/superuser/users/kim").await["super_user"], false);
    let answer = raw(&ann, Method::PUT, "/api/v1/repository/acme/app", &[JSON], r#"{"description":"x"}"#).await;
    assert_eq!((answer.status, answer.header("warning")), (200, ""));
    // A key that would be a header of its own is none.
    let body = r#"{"description":"x","a\r\nSet-Cookie: b=\"c\"":1}"#;
    let answer = raw(&ann, Method::PUT, "/api/v1/repository/acme/app", &[JSON], body).await;
    assert_eq!((answer.status, answer.header("set-cookie")), (200, ""));
    assert!(answer.header("warning").contains("a??Set-Cookie:?b=?c?"), "{}", answer.header("warning"));
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_hide_something_are_refused() {
    let origin = origin_with(&["ann", "bob", "eve"]).await;
    let ann = acme(&origin).await;
    let root = caller(&origin, "root");
    for hidden in ["\u{1b}[31mred", "a\nb", "a\u{7f}", "\u{202e}txt", "a\u{200b}b", "\u{feff}a", "a\u{0}"] {
        let email = format!("{hidden}@acme.test");
        for (who, method, path, body) in [
            (&ann, Method::PUT, "/user/", json!({ "email": email })),
            (&ann, Method::PUT, "/organization/acme", json!({ "email": email })),
            (&ann, Method::POST, "/organization/", json!({ "name": "new", "email": email })),
            (&ann, Method::POST, "/organization/", json!({ "name": hidden })),
            (&ann, Method::POST, "/user/apptoken", json!({ "title": hidden })),
            (&root, Method::POST, "/superuser/users/", json!({ "username": "kim", "email": email })),
            (&root, Method::PUT, "/superuser/users/ann", json!({ "email": email })),
        ] {
            assert_eq!(who.send(method, path, Some(body)).await.0, 400, "{path} {}", hidden.escape_debug());
        }
        let description = json!({ "description": hidden });
        let expected = if hidden == "a\nb" { 200 } else { 400 };
        assert_eq!(ann.put("/repository/acme/app", description).await.0, expected, "{}", hidden.escape_debug());
    }
    let setup = origin.setup();
    let refused =
        setup.command(&["user", "add", "kim", "--generate", "--email", "\u{1b}[2J@acme.test"]).await.expect_failure();
    assert!(refused.stderr.contains("U+001B") && !refused.stderr.contains('\u{1b}'), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_site_changes_nothing() {
    let origin = origin_with(&["ann", "bob", "eve"]).await;
    let ann = acme(&origin).await;
    let own = origin.url();
    let form = ("content-type", "application/x-www-form-urlencoded");
    for (headers, refused) in [
        (vec![], false),
        (vec![("origin", own.as_str())], false),
        (vec![("origin", "https://registry.test")], false),
        (vec![("sec-fetch-site", "same-origin"), ("origin", own.as_str())], false),
        (vec![("origin", "https://evil.example")], true),
        (vec![("origin", "null")], true),
        (vec![("referer", "https://evil.example/page")], true),
        (vec![("sec-fetch-site", "cross-site")], true),
        (vec![("sec-fetch-site", "same-site"), ("origin", own.as_str())], true),
    ] {
        let status = async |method: Method, path: &str, extra: &[(&str, &str)], body: &str| {
            let all: Vec<(&str, &str)> = headers.iter().chain(extra).copied().collect();
            raw(&ann, method, path, &all, body).await.status
        };
        // One that a browser sends across sites without asking first; one that it asks first for; one without a body.
        let answers = [
            status(Method::PUT, "/api/v1/organization/acme/robots/ci", &[JSON], "{}").await,
            status(Method::POST, "/api/v1/organization/acme/robots/ci/regenerate", &[], "").await,
            status(Method::POST, "/api/v1/organization/acme/robots/ci/regenerate", &[form], "a=b").await,
            status(Method::DELETE, "/api/v1/organization/acme/robots/ci", &[], "").await,
            status(Method::POST, "/v2/auth", &[form], "scope=repository:acme/app:pull").await,
        ];
        let expected = if refused { [403; 5] } else { [201, 200, 200, 204, 200] };
        assert_eq!(answers, expected, "{headers:?}");
        // Reading is the browser's business: without CORS it shows nothing to the page.
        let read = raw(&ann, Method::GET, "/api/v1/organization/acme", &headers, "").await;
        assert_eq!((read.status, read.header("access-control-allow-origin")), (200, ""), "{headers:?}");
    }
    let (_, body) = {
        let answer = raw(&ann, Method::POST, "/api/v1/organization", &[JSON, ("origin", "null")], "{}").await;
        (answer.status, serde_json::from_slice::<Value>(&answer.body).unwrap())
    };
    assert!(body["message"].as_str().unwrap().contains("another site"), "{body}");
}

//! Application tokens of the origin by their scopes, as Quay's operators, Terraform and Ansible use them; and robots whose token is read
//! again.

use pierhead_tests::origin::{Origin, Setup};
use pierhead_tests::postgres::Postgres;
use reqwest::Method;
use serde_json::{Value, json};

use super::origin_acme::{Caller, PASSWORD, acme, caller, granted, origin_on, origin_with};

/// A user's token with these scopes.
async fn token(who: &Caller, origin: &Origin, scopes: &str) -> (Caller, String) {
    let (status, made) = who.post("/user/apptoken", json!({ "title": scopes, "scopes": scopes })).await;
    assert_eq!(status, 200, "{scopes}: {made}");
    let code = made["token"]["token_code"].as_str().unwrap().to_owned();
    (Caller(origin.client().bearer(code.clone())), code)
}

/// What a request with a token is answered with.
type Row<'a> = (&'a str, Method, &'a str, Option<Value>, u16);

#[tokio::test(flavor = "multi_thread")]
async fn a_token_does_what_its_scopes_name_and_nothing_else() {
    let origin = origin_with(&["ann", "bob", "eve"]).await;
    let ann = acme(&origin).await;
    let root = caller(&origin, "root");
    let (post, put, get, delete) = (Method::POST, Method::PUT, Method::GET, Method::DELETE);
    let new = |name: &str| {
        Some(json!({ "namespace": "acme", "repository": name, "visibility": "private", "description": "" }))
    };
    let role = || Some(json!({ "role": "read" }));
    let rows: Vec<Row<'_>> = vec![
        ("org:admin", put.clone(), "/organization/acme/robots/a1", Some(json!({})), 201),
        ("org:admin", get.clone(), "/organization/acme/robots/a1", None, 200),
        ("org:admin", post.clone(), "/organization/acme/robots/a1/regenerate", None, 200),
        ("org:admin", delete.clone(), "/organization/acme/robots/a1", None, 204),
        ("org:admin", put.clone(), "/organization/acme/team/t1", Some(json!({ "role": "member" })), 200),
        ("org:admin", put.clone(), "/organization/acme/team/t1/members/bob", None, 200),
        ("org:admin", get.clone(), "/organization/acme/members", None, 200),
        ("org:admin", post.clone(), "/organization/", Some(json!({ "name": "other1", "email": "a@b.test" })), 201),
        (
            "org:admin",
            post.clone(),
            "/organization/acme/prototypes",
            Some(json!({ "id": "", "role": "read", "delegate": { "name": "bob", "kind": "user", "is_robot": false } })),
            200,
        ),
        ("org:admin", put.clone(), "/repository/acme/app/permissions/user/bob", role(), 403),
        ("org:admin", post.clone(), "/repository", new("no1"), 403),
        ("org:admin", get.clone(), "/repository/acme/app", None, 403),
        ("org:admin", get.clone(), "/repository/acme/open", None, 403),
        ("org:admin", get.clone(), "/user/", None, 403),
        ("org:admin", get.clone(), "/superuser/users/", None, 403),
        ("user:admin", post.clone(), "/organization/", Some(json!({ "name": "other2" })), 201),
        ("user:admin", put.clone(), "/user/robots/mine", Some(json!({})), 201),
        ("user:admin", put.clone(), "/user/", Some(json!({ "email": "ann@acme.test" })), 200),
        ("user:admin", put.clone(), "/organization/acme/robots/a2", Some(json!({})), 403),
        ("user:admin", delete.clone(), "/organization/acme", None, 403),
        ("user:read", get.clone(), "/user/", None, 200),
        ("user:read", put.clone(), "/user/", Some(json!({ "email": "x@acme.test" })), 403),
        ("user:read", put.clone(), "/user/robots/other", Some(json!({})), 403),
        ("repo:create", post.clone(), "/repository", new("made"), 201),
        ("repo:create", delete.clone(), "/repository/acme/made", None, 403),
        ("repo:create", get.clone(), "/repository/acme/made", None, 403),
        ("repo:read", get.clone(), "/repository/acme/app", None, 200),
        ("repo:read", get.clone(), "/repository/acme/app/tag/", None, 200),
        ("repo:read", put.clone(), "/repository/acme/app", Some(json!({ "description": "x" })), 403),
        ("repo:read", get.clone(), "/repository/acme/app/permissions/user/", None, 403),
        ("repo:write", put.clone(), "/repository/acme/app/permissions/user/bob", role(), 403),
        (
            "repo:write",
            post.clone(),
            "/repository/acme/app/changevisibility",
            Some(json!({ "visibility": "public" })),
            403,
        ),
        ("repo:admin", put.clone(), "/repository/acme/app/permissions/user/bob", role(), 200),
        ("repo:admin", put.clone(), "/repository/acme/app", Some(json!({ "description": "x" })), 200),
        ("repo:admin", delete.clone(), "/repository/acme/made", None, 204),
        ("repo:admin", put.clone(), "/organization/acme/robots/a3", Some(json!({})), 403),
        // No scope makes a token.
        ("repo:admin user:admin org:admin", post.clone(), "/user/apptoken", Some(json!({ "title": "x" })), 403),
        // Nor does a scope give what the user has not.
        ("repo:admin org:admin", get.clone(), "/repository/bob/app", None, 403),
    ];
    for (scopes, method, path, body, expected) in rows {
        let (with_token, _) = token(&ann, &origin, scopes).await;
        let (status, answer) = with_token.send(method.clone(), path, body).await;
        assert_eq!(status, expected, "{scopes}: {method} {path}: {answer}");
        if status == 403 {
            assert_eq!(answer["error_type"], "insufficient_scope", "{answer}");
        }
    }
    // What superusers may is a scope of its own, which only they give.
    let (status, _) = ann.post("/user/apptoken", json!({ "title": "x", "scopes": "super:user" })).await;
    assert_eq!(status, 400);
    for (scopes, expected) in [("super:user", 200), ("org:admin user:admin repo:admin", 403)] {
        let (with_token, _) = token(&root, &origin, scopes).await;
        let user = json!({ "username": format!("u{expected}"), "email": "u@acme.test" });
        assert_eq!(with_token.post("/superuser/users/", user).await.0, expected, "{scopes}");
        // Nor are others' repositories seen by a superuser's token without it.
        assert_eq!(with_token.get("/repository/acme/app").await.0, 403, "{scopes}");
    }
    // An unknown scope voids all.
    for scopes in ["repo:read repo:everything", ""] {
        let (status, answer) = ann.post("/user/apptoken", json!({ "title": "x", "scopes": scopes })).await;
        assert_eq!(status, 400, "{answer}");
    }
    let listed = ann.see("/user/apptoken").await;
    let scopes: Vec<&Value> = listed["tokens"].as_array().unwrap().iter().map(|token| &token["scopes"]).collect();
    assert!(scopes.contains(&&json!("repo:read repo:write repo:admin")), "{scopes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_bind_in_the_registry_too() {
    let origin = origin_with(&["ann", "bob", "eve"]).await;
    let ann = acme(&origin).await;
    let root = caller(&origin, "root");
    let asked = "repository:acme/app:pull,push,delete&scope=repository:acme/open:pull,push&scope=repository:acme/new:push&scope=registry:catalog:*";
    for (who, scopes, app, open, new, catalog) in [
        (&ann, "repo:read", &["pull"][..], &["pull"][..], &[][..], true),
        (&ann, "repo:write", &["pull", "push", "delete"], &["pull", "push"], &[], true),
        (&ann, "repo:write repo:create", &["pull", "push", "delete"], &["pull", "push"], &["push"], true),
        (&ann, "repo:create", &[], &["pull"], &[], false),
        (&ann, "org:admin user:admin", &[], &["pull"], &[], false),
        (&root, "repo:admin", &[], &["pull"], &[], false),
        (&root, "repo:write super:user", &["pull", "push", "delete"], &["pull", "push"], &[], true),
    ] {
        let (_, code) = token(who, &origin, scopes).await;
        for name in ["$app", "$oauthtoken"] {
            let (status, access) = granted(&origin.client().login(name, &code), asked).await;
            assert_eq!(status, 200, "{scopes}");
            let of = |name: &str| -> Vec<String> {
                let found = access.as_array().unwrap().iter().find(|one| one["name"] == name);
                found.map(|one| serde_json::from_value(one["actions"].clone()).unwrap()).unwrap_or_default()
            };
            assert_eq!(
                (of("acme/app"), of("acme/open"), of("acme/new")),
                (
                    app.iter().map(ToString::to_string).collect(),
                    open.iter().map(ToString::to_string).collect(),
                    new.iter().map(ToString::to_string).collect()
                ),
                "{scopes}: {access}"
            );
            assert_eq!(!of("catalog").is_empty(), catalog, "{scopes}: {access}");
        }
    }
}

/// What the Quay Bridge Operator asks for, in its order, with a token and nothing else; by what it makes its decisions.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_makes_an_organisation_its_robots_and_reads_their_tokens() {
    bridge(&origin_with(&["ann"]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_does_so_on_postgresql() {
    let postgres = Postgres::start().await;
    bridge(&origin_on(Setup::new().database(postgres.section()), &["ann"]).await).await;
}

async fn bridge(origin: &Origin) {
    let ann = caller(origin, "ann");
    let scopes = "org:admin repo:admin repo:create repo:read repo:write user:admin user:read";
    let (operator, _) = token(&ann, origin, scopes).await;
    assert_eq!(operator.get("/organization/openshift_one").await.0, 404);
    let new = json!({ "name": "openshift_one", "email": "openshift_one@redhat.com" });
    assert_eq!(operator.post("/organization/", new).await.0, 201);
    for (robot, role) in [("builder", "write"), ("deployer", "read"), ("default", "read")] {
        let path = format!("/organization/openshift_one/robots/{robot}");
        let (status, missing) = operator.get(&path).await;
        assert_eq!((status, &missing["message"]), (400, &json!("Could not find robot with specified username")));
        let (status, made) = operator.send(Method::PUT, &path, None).await;
        assert_eq!(status, 201, "{made}");
        let again = operator.see(&path).await;
        assert_eq!(again["token"], made["token"]);
        assert_eq!(again["token"].as_str().unwrap().len(), 64);
        let name = format!("openshift_one+{robot}");
        assert_eq!(origin.client().login(&name, again["token"].as_str().unwrap()).get("/v2/auth").await.status, 200);
        let prototype = json!({ "id": "", "role": role, "delegate": { "kind": "user", "name": name, "is_robot": true, "is_org_member": true } });
        assert_eq!(operator.post("/organization/openshift_one/prototypes", prototype).await.0, 200);
    }
    let missing = operator.get("/repository/openshift_one/app").await.0;
    assert!(matches!(missing, 403 | 404), "{missing}");
    let new = json!({ "repo_kind": "image", "namespace": "openshift_one", "visibility": "private", "repository": "app", "description": "" });
    assert_eq!(operator.post("/repository", new).await.0, 201);
    // Robots with what they were given: the table of Quay's pages.
    let robots = operator.see("/organization/openshift_one/robots?permissions=true&token=false").await;
    let builder = robots["robots"].as_array().unwrap().iter().find(|robot| robot["name"] == "openshift_one+builder");
    let builder = builder.unwrap();
    assert_eq!((&builder["repositories"], &builder["teams"]), (&json!(["app"]), &json!([])));
    assert!(builder.get("token").is_none(), "{builder}");
    let plain = operator.see("/organization/openshift_one/robots?limit=1").await;
    assert_eq!(plain["robots"].as_array().unwrap().len(), 1);
    assert!(plain["robots"][0].get("repositories").is_none() && plain["robots"][0]["token"].is_string(), "{plain}");
    // Who only looks does not see tokens.
    let eye = caller(origin, "eye");
    assert!(eye.see("/organization/openshift_one/robots/builder").await.get("token").is_none());
    assert!(eye.see("/organization/openshift_one/robots").await["robots"][0].get("token").is_none());
    // A new token is the one that is read from then on.
    let (_, regenerated) =
        operator.send(Method::POST, "/organization/openshift_one/robots/builder/regenerate", None).await;
    assert_eq!(operator.see("/organization/openshift_one/robots/builder").await["token"], regenerated["token"]);
    assert_eq!(operator.delete("/organization/openshift_one/robots/builder").await, 204);
    assert_eq!(operator.delete("/organization/openshift_one/robots/builder").await, 400);
    assert_eq!(operator.delete("/organization/openshift_one").await, 204);
    let secret = regenerated["token"].as_str().unwrap();
    assert_eq!(origin.log().count(|line| line.contains(secret)), 0);
}

/// A robot outlives the token that reads its secret: so that is shown to those who could make robots, and to no token without scopes.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_scopes_sees_no_robot_tokens() {
    let origin = origin_with(&["ann", "bob", "eve"]).await;
    let ann = acme(&origin).await;
    for robots in ["/organization/acme/robots", "/user/robots"] {
        let robot = format!("{robots}/ci");
        assert_eq!(ann.put(&robot, json!({})).await.0, 201);
        let (list, all) =
            (format!("{robots}?token=true"), if robots.starts_with("/user") { "user:admin" } else { "org:admin" });
        let admin = token(&ann, &origin, all).await.0;
        let (status, made) = ann.post("/user/apptoken", json!({ "title": "no scopes" })).await;
        assert_eq!(status, 200, "{made}");
        let unnamed = Caller(origin.client().bearer(made["token"]["token_code"].as_str().unwrap().to_owned()));
        for (who, shown) in [(&ann, true), (&admin, true), (&unnamed, false)] {
            let (one, listed) = (who.see(&robot).await, who.see(&list).await);
            assert_eq!(one["name"], if robots.starts_with("/user") { "ann+ci" } else { "acme+ci" });
            assert_eq!(one["token"].is_string(), shown, "{robot}: {one}");
            assert_eq!(listed["robots"][0]["token"].is_string(), shown, "{list}: {listed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn robot_tokens_are_sealed_and_can_be_shown_once_only() {
    let mut origin = origin_with(&["ann"]).await;
    let ann = caller(&origin, "ann");
    let (_, made) = ann.put("/user/robots/ci", json!({})).await;
    let secret = made["token"].as_str().unwrap().to_owned();
    assert_eq!(ann.see("/user/robots/ci").await["token"], secret.as_str());
    origin.stop().await;
    let database = std::fs::read(origin.dir().join("meta.db")).unwrap();
    assert!(!database.windows(secret.len()).any(|window| window == secret.as_bytes()), "a token is in the database");
    origin.reconfigure("/auth", json!({ "show_robot_tokens": false }));
    origin.start_again().await;
    assert!(ann.see("/user/robots/ci").await.get("token").is_none());
    assert_eq!(origin.client().login("ann+ci", &secret).get("/v2/auth").await.status, 200);
    let (_, again) = ann.send(Method::POST, "/user/robots/ci/regenerate", None).await;
    assert!(again["token"].is_string() && ann.see("/user/robots/ci").await.get("token").is_none());
    origin.stop().await;
    origin.reconfigure("/auth", json!({ "show_robot_tokens": true }));
    origin.start_again().await;
    assert!(ann.see("/user/robots/ci").await.get("token").is_none(), "it was not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_and_revoked_from_the_command_line() {
    let origin = origin_with(&["ann"]).await;
    let setup = origin.setup();
    let add = [
        "token",
        "add",
        "ann",
        "--title",
        "terraform",
        "--scope",
        "org:admin",
        "--scope",
        "user:read",
        "--expires",
        "90d",
    ];
    let made = setup.command(&add).await.expect_success().stdout;
    let bearer = Caller(origin.client().bearer(made.trim().to_owned()));
    assert_eq!(bearer.see("/user/").await["username"], "ann");
    assert_eq!(bearer.get("/repository?public=true").await.0, 403);
    let made = setup.command(&["token", "add", "ann", "--title", "all", "--json"]).await.expect_success().stdout;
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!((&made["scopes"], made["token"].as_str().unwrap().len()), (&Value::Null, 64));
    let list = setup.command(&["token", "list", "ann"]).await.expect_success().stdout;
    assert!(list.starts_with("UUID\t") && list.contains("user:read org:admin\tterraform"), "{list}");
    let list = setup.command(&["token", "list", "ann", "--json"]).await.expect_success().stdout;
    let list: Value = serde_json::from_str(&list).unwrap();
    let terraform = list.as_array().unwrap().iter().find(|token| token["title"] == "terraform").unwrap();
    assert!(terraform["expires"].as_str().unwrap().ends_with('Z'), "{terraform}");
    let uuid = terraform["uuid"].as_str().unwrap();
    setup.command(&["token", "revoke", "ann", uuid]).await.expect_success();
    assert_eq!(bearer.get("/user/").await.0, 401);
    for (arguments, reason) in [
        (&["token", "revoke", "ann", uuid][..], "there is no token"),
        (&["token", "add", "bob", "--title", "x"], "there is no user \"bob\""),
        (&["token", "add", "ann", "--title", "x", "--scope", "repo:all"], "there is no scope \"repo:all\""),
        (&["token", "add", "ann", "--title", "x", "--scope", "super:user"], "is no superuser"),
        (&["token", "add", "ann", "--title", "\u{1b}[2J"], "U+001B"),
    ] {
        let refused = setup.command(arguments).await.expect_failure();
        assert!(refused.stderr.contains(reason), "{arguments:?}: {}", refused.stderr);
    }
    // A token of a user who is no superuser any more is one no more.
    let made = setup.command(&["token", "add", "root", "--title", "x", "--scope", "super:user"]).await.expect_success();
    let bearer = Caller(origin.client().bearer(made.stdout.trim().to_owned()));
    assert_eq!(bearer.get("/superuser/users").await.0, 200);
    setup.command(&["user", "rank", "ann", "superuser"]).await.expect_success();
    setup.command(&["user", "rank", "root", "user"]).await.expect_success();
    assert_eq!(bearer.get("/superuser/users").await.0, 403);
    assert_eq!(origin.client().login("root", PASSWORD).get("/v2/auth").await.status, 200);
}

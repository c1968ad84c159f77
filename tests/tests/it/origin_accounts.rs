//! Accounts of the origin over HTTP: the token service, guesses, superusers, application tokens, and users from the command line.

use pierhead_tests::pull::reply;
use reqwest::Method;
use serde_json::{Value, json};

use super::origin_acme::{Caller, PASSWORD, acme, caller, claims, granted, origin_with};

#[tokio::test(flavor = "multi_thread")]
async fn tokens_say_what_their_bearer_may() {
    let origin = origin_with(&["ann", "bob", "eve", "joe"]).await;
    let ann = acme(&origin).await;
    let (status, robot) = ann.put("/organization/acme/robots/ci", json!({ "description": "builds" })).await;
    assert_eq!(status, 201);
    let token = robot["token"].as_str().unwrap();
    assert_eq!(token.len(), 64);
    assert_eq!(ann.put("/repository/acme/app/permissions/user/acme+ci", json!({ "role": "write" })).await.0, 200);
    let robot = origin.client().login("acme+ci", token);
    let user = |name: &str| origin.client().login(name, PASSWORD);
    let all = ["pull", "push", "delete"];
    for (who, client, app, open, new) in [
        ("nobody", origin.client(), &all[..0], &all[..1], &all[..0]),
        ("ann", user("ann"), &all, &all, &all),
        ("bob", user("bob"), &all, &all[..1], &all[1..2]),
        ("eve", user("eve"), &all[..1], &all[..1], &all[..0]),
        ("joe", user("joe"), &all[..0], &all[..1], &all[..0]),
        ("robot", robot.clone(), &all, &all[..1], &all[..0]),
        ("root", user("root"), &all, &all, &all),
        ("eye", user("eye"), &all[..1], &all[..1], &all[..0]),
    ] {
        for (repository, expected) in [("acme/app", app), ("acme/open", open), ("acme/new", new)] {
            let (status, mut access) = granted(&client, &format!("repository:{repository}:pull,push,delete")).await;
            assert_eq!(status, 200);
            // Which repository is meant, if there is one.
            if let Some(created) = access.pointer_mut("/0/created").map(Value::take) {
                assert_eq!(created.as_i64().unwrap() > 1_700_000_000_000, repository != "acme/new", "{created}");
                access[0].as_object_mut().unwrap().remove("created");
            } else {
                assert_eq!(access, json!([]));
            }
            let expected = match expected {
                [] => json!([]),
                actions => json!([{ "type": "repository", "name": repository, "actions": actions }]),
            };
            assert_eq!(access, expected, "{who} {repository}");
        }
    }
    // Scopes repeat, stand in one parameter, and are dropped one by one.
    let several = "repository:acme/app:pull%20repository:joe/x:pull&scope=registry:catalog:*";
    let (_, access) = granted(&user("eve"), several).await;
    assert_eq!(access.as_array().unwrap().iter().map(|one| &one["name"]).collect::<Vec<_>>(), ["acme/app", "catalog"]);
    // As a form, for clients that try this first.
    let form = format!(
        "grant_type=password&username=bob&password={PASSWORD}&service=registry.test&scope=repository:acme/app:push"
    );
    let request = origin.client().request(Method::POST, "/v2/auth");
    let request = request.header("content-type", "application/x-www-form-urlencoded").body(form.replace(' ', "+"));
    let answer = reply(request).await.unwrap();
    assert_eq!((answer.status, &claims(&answer)["sub"]), (200, &json!("bob")));
    for (client, scope, expected) in [
        (user("ann").login("ann", "wrong"), "", 401),
        (origin.client().login("nobody", PASSWORD), "", 401),
        (origin.client().login("acme+ci", "wrong"), "", 401),
        (origin.client(), "nonsense", 400),
        (origin.client(), "repository:A:pull", 400),
    ] {
        let answer = client.get(&format!("/v2/auth?scope={scope}")).await;
        assert_eq!(answer.status, expected, "{scope}");
        assert_eq!(answer.header("www-authenticate").starts_with("Basic realm="), expected == 401);
    }
    let unnamed = origin.client().request(Method::POST, "/v2/auth").body("grant_type=password&password=x");
    assert_eq!(reply(unnamed).await.unwrap().status, 400);
    for path in ["/v2/auth", "/keys/services/pierhead/keys"] {
        let refused = reply(origin.client().request(Method::DELETE, path)).await.unwrap();
        let body: Value = serde_json::from_slice(&refused.body).unwrap();
        assert_eq!((refused.status, &body["errors"][0]["code"]), (405, &json!("UNSUPPORTED")), "{path}");
        assert!(refused.header("allow").contains("GET"), "{path}");
    }
    assert_eq!(origin.client().get("/keys/services/pierhead/keys").await.status, 200);
    assert!(
        origin.metric("quay_authentication_attempts_total", &[("auth_kind", "robot"), ("success", "True")]).await
            >= 3.0
    );
    assert_eq!(origin.log().count(|line| line.contains(token) || line.contains(PASSWORD)), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slow_and_told() {
    let origin = origin_with(&["ann"]).await;
    let mut limited = None;
    for guess in 0..10 {
        let answer = origin.client().login("ann", &format!("guess {guess}")).get("/v2/auth").await;
        assert!(matches!(answer.status, 401 | 429), "{}", answer.status);
        limited = limited.or((answer.status == 429).then_some(answer));
    }
    let limited = limited.expect("ten guesses were all heard");
    assert!(limited.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert!(String::from_utf8_lossy(&limited.body).contains("TOOMANYREQUESTS"));
    assert_eq!(caller(&origin, "ann").get("/user/").await.0, 429);
    let password = origin.setup().command(&["user", "password", "ann", "--generate"]).await.expect_success();
    let password = password.stdout.trim().to_owned();
    assert_eq!(origin.client().login("ann", &password).get("/v2/auth").await.status, 200);
    assert_eq!(origin.log().count(|line| line.contains("guess") || line.contains(&password)), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_made_and_disabled_beside_a_running_origin() {
    let origin = origin_with(&["ann"]).await;
    let me = caller(&origin, "root").see("/user/").await;
    assert_eq!((&me["username"], &me["super_user"]), (&json!("root"), &json!(true)));
    let setup = origin.setup();
    let list = setup.command(&["user", "list"]).await.expect_success().stdout;
    for line in ["ann\tenabled\tuser\t-", "eye\tenabled\tsuperuser-readonly\t-", "root\tenabled\tsuperuser\t-"] {
        assert!(list.contains(line), "{list}");
    }
    setup.command(&["user", "add", "ann", "--generate"]).await.expect_failure();
    setup.command(&["user", "add", "Ann", "--generate"]).await.expect_failure();
    setup.command(&["user", "add", "bob"]).await.expect_failure();
    setup.command(&["user", "add", "bob", "--readonly", "--generate"]).await.expect_failure();
    setup.command(&["user", "disable", "ann"]).await.expect_success();
    assert_eq!(caller(&origin, "ann").get("/user/").await.0, 401);
    setup.command(&["user", "enable", "ann"]).await.expect_success();
    assert_eq!(caller(&origin, "ann").get("/user/").await.0, 200);
    // From the next login on.
    let ann = caller(&origin, "ann");
    let enable = json!({ "enabled": true });
    let rights =
        async || (ann.get("/superuser/users").await.0, ann.put("/superuser/users/absent", enable.clone()).await.0);
    for (rank, expected) in [("superuser-readonly", (200, 403)), ("superuser", (200, 404)), ("user", (403, 403))] {
        setup.command(&["user", "rank", "ann", rank]).await.expect_success();
        let list = setup.command(&["user", "list"]).await.expect_success().stdout;
        assert!(list.contains(&format!("ann\tenabled\t{rank}\t-")), "{list}");
        assert_eq!(rights().await, expected, "{rank}");
    }
    setup.command(&["user", "rank", "ann", "king"]).await.expect_failure();
    setup.command(&["user", "rank", "nobody", "user"]).await.expect_failure();
    let logs = caller(&origin, "root").see("/superuser/logs").await;
    assert_eq!(logs["logs"][0]["metadata"], json!({ "username": "ann", "rank": "user" }), "{logs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn superusers_see_and_do_everything_and_readers_only_see() {
    let origin = origin_with(&["ann", "bob", "eve"]).await;
    acme(&origin).await;
    let (root, eye, ann) = (caller(&origin, "root"), caller(&origin, "eye"), caller(&origin, "ann"));
    for path in ["/superuser/users/", "/superuser/organizations/", "/superuser/logs", "/superuser/users/ann"] {
        for (who, expected) in [(&root, 200), (&eye, 200), (&ann, 403), (&Caller(origin.client()), 401)] {
            assert_eq!(who.get(path).await.0, expected, "{path}");
        }
    }
    let new = json!({ "username": "kim", "email": "kim@acme.test" });
    assert_eq!(eye.post("/superuser/users/", new.clone()).await.0, 403);
    let (status, made) = root.post("/superuser/users/", new.clone()).await;
    assert_eq!(status, 200);
    assert_eq!(root.post("/superuser/users/", new).await.0, 400);
    let kim = Caller(origin.client().login("kim", made["password"].as_str().unwrap()));
    assert_eq!(kim.see("/user/").await["email"], "kim@acme.test");
    // An application token stands for her, until it is revoked.
    let (_, made) = kim.post("/user/apptoken", json!({ "title": "laptop" })).await;
    let code = made["token"]["token_code"].as_str().unwrap().to_owned();
    let bearer = Caller(origin.client().bearer(code.clone()));
    assert_eq!(bearer.see("/user/").await["username"], "kim");
    assert_eq!(origin.client().login("$app", &code).get("/v2/auth").await.status, 200);
    // But it does not change her password, whatever it says.
    let change = json!({ "password": "another one", "current_password": "wrong one" });
    assert_eq!(kim.put("/user/", change.clone()).await.0, 401);
    let (status, refused) = bearer.put("/user/", change).await;
    assert_eq!(status, 403);
    assert!(refused["detail"].as_str().unwrap().contains("application token"), "{refused}");
    // It works with repositories, and lets nobody in: no robots, organisations or rights.
    let new = json!({ "namespace": "kim", "repository": "app", "visibility": "private", "description": "" });
    assert_eq!(bearer.post("/repository", new).await.0, 201);
    for (path, body) in
        [("/user/robots/back", json!({})), ("/repository/kim/app/permissions/user/ann", json!({ "role": "admin" }))]
    {
        assert_eq!(bearer.put(path, body.clone()).await.0, 403, "{path}");
        assert_ne!(kim.put(path, body).await.0, 403, "{path}");
    }
    assert_eq!(bearer.post("/organization/", json!({ "name": "kims" })).await.0, 403);
    let uuid = made["token"]["uuid"].as_str().unwrap();
    // Nor does it make others, or take any away.
    assert_eq!(bearer.post("/user/apptoken", json!({ "title": "another" })).await.0, 403);
    assert_eq!(bearer.delete(&format!("/user/apptoken/{uuid}")).await, 403);
    assert_eq!(bearer.see("/user/apptoken").await["tokens"].as_array().unwrap().len(), 1);
    assert_eq!(ann.delete(&format!("/user/apptoken/{uuid}")).await, 404);
    assert_eq!(kim.delete(&format!("/user/apptoken/{uuid}")).await, 204);
    assert_eq!(bearer.get("/user/").await.0, 401);
    assert_eq!(eye.put("/superuser/users/kim", json!({ "enabled": false })).await.0, 403);
    assert_eq!(root.put("/superuser/users/kim", json!({ "enabled": false })).await.0, 200);
    assert_eq!(kim.get("/user/").await.0, 401);
    assert_eq!(root.delete("/superuser/users/kim").await, 204);
    assert_eq!(root.delete("/superuser/users/root").await, 403);
    assert_eq!(root.delete("/superuser/organizations/acme").await, 204);
    assert_eq!(ann.get("/organization/acme").await.0, 404);
    let kinds = |page: &Value| -> Vec<String> {
        page["logs"].as_array().unwrap().iter().map(|line| line["kind"].as_str().unwrap().to_owned()).collect()
    };
    let logs = kinds(&root.see("/superuser/logs?performer=root").await);
    assert_eq!(logs, ["org_delete", "user_delete", "user_disable", "user_create"]);
}

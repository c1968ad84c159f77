//! Accounts of the origin over HTTP: the token service, who may do what, the API, and users from the command line.

use pierhead_tests::origin::{Origin, Setup};
use pierhead_tests::postgres::Postgres;
use pierhead_tests::pull::{Client, Reply, reply};
use reqwest::Method;
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse";

/// A caller of the API.
struct Caller(Client);

impl Caller {
    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.0.request(method, &format!("/api/v1{path}"));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = reply(request).await.unwrap();
        (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.send(Method::GET, path, None).await
    }

    /// What must be there.
    async fn see(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(Method::POST, path, Some(body)).await
    }

    async fn put(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(Method::PUT, path, Some(body)).await
    }

    async fn delete(&self, path: &str) -> u16 {
        self.send(Method::DELETE, path, None).await.0
    }
}

fn caller(origin: &Origin, user: &str) -> Caller {
    Caller(origin.client().login(user, PASSWORD))
}

/// A running origin with these users, of whom `root` is a superuser and `eye` one that may only read.
async fn origin_with(users: &[&str]) -> Origin {
    origin_on(Setup::new(), users).await
}

/// The same, of this kind.
async fn origin_on(setup: Setup, users: &[&str]) -> Origin {
    setup.user("root", PASSWORD, &["--superuser"]).await;
    setup.user("eye", PASSWORD, &["--superuser", "--readonly"]).await;
    for user in users {
        setup.user(user, PASSWORD, &[]).await;
    }
    setup.start().await
}

/// The organisation `acme`, of ann; bob pushes and makes, eve only reads.
async fn acme(origin: &Origin) -> Caller {
    let ann = caller(origin, "ann");
    assert_eq!(ann.post("/organization/", json!({ "name": "acme", "email": "a@acme.test" })).await.0, 201);
    for (team, role, member) in [("makers", "creator", "bob"), ("readers", "member", "eve")] {
        let path = format!("/organization/acme/team/{team}");
        assert_eq!(ann.put(&path, json!({ "role": role, "description": team })).await.0, 200);
        assert_eq!(ann.put(&format!("{path}/members/{member}"), json!({})).await.0, 200);
    }
    for (name, visibility) in [("app", "private"), ("open", "public")] {
        let new = json!({ "namespace": "acme", "repository": name, "visibility": visibility, "description": "an app" });
        assert_eq!(ann.post("/repository", new).await.0, 201);
    }
    for (team, role) in [("makers", "write"), ("readers", "read")] {
        let path = format!("/repository/acme/app/permissions/team/{team}");
        assert_eq!(ann.put(&path, json!({ "role": role })).await.0, 200);
    }
    ann
}

async fn granted(client: &Client, scope: &str) -> (u16, Value) {
    let answer = client.get(&format!("/v2/auth?service=registry.test&scope={scope}")).await;
    (answer.status, claims(&answer)["access"].clone())
}

/// What stands in the token of an answer; whether it is believed is for others to see.
fn claims(answer: &Reply) -> Value {
    use base64::Engine;
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    let Some(token) = body["token"].as_str() else { return Value::Null };
    assert_eq!(body["token"], body["access_token"]);
    assert!(body["expires_in"].as_u64().unwrap() > 0 && body["issued_at"].as_str().unwrap().ends_with('Z'));
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

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
            let (status, access) = granted(&client, &format!("repository:{repository}:pull,push,delete")).await;
            assert_eq!(status, 200);
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
}

#[tokio::test(flavor = "multi_thread")]
async fn organisations_have_teams_members_robots_and_defaults() {
    organisations(&origin_with(&["ann", "bob", "eve", "joe"]).await).await;
}

async fn organisations(origin: &Origin) {
    let ann = acme(origin).await;
    let (bob, joe) = (caller(origin, "bob"), caller(origin, "joe"));
    let (status, error) = joe.post("/organization/", json!({ "name": "acme" })).await;
    assert_eq!((status, &error["error_type"], &error["status"]), (400, &json!("invalid_request"), &json!(400)));
    let view = ann.see("/organization/acme").await;
    assert_eq!((&view["email"], &view["is_admin"]), (&json!("a@acme.test"), &json!(true)));
    assert_eq!(view["ordered_teams"], json!(["makers", "owners", "readers"]));
    assert_eq!(view["teams"]["makers"]["role"], "creator");
    assert_eq!(joe.see("/organization/acme").await["ordered_teams"], json!([]));
    let members = ann.see("/organization/acme/members").await;
    let names: Vec<&str> =
        members["members"].as_array().unwrap().iter().map(|member| member["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["ann", "bob", "eve"]);
    // Others administrate nothing.
    for other in [&bob, &joe] {
        assert_eq!(other.put("/organization/acme/team/x1", json!({ "role": "admin" })).await.0, 403);
        assert_eq!(other.get("/organization/acme/robots").await.0, 403);
        assert_eq!(other.delete("/organization/acme").await, 403);
    }
    assert_eq!(Caller(origin.client()).get("/organization/acme/members").await.0, 401);
    // The last owner stays.
    assert_eq!(ann.delete("/organization/acme/team/owners/members/ann").await, 400);
    assert_eq!(ann.delete("/organization/acme/team/owners").await, 400);
    assert_eq!(ann.put("/organization/acme/team/owners", json!({ "role": "member" })).await.0, 400);
    assert_eq!(ann.delete("/organization/acme/members/ann").await, 400);

    let (_, made) = ann.put("/organization/acme/robots/ci", json!({})).await;
    assert_eq!(ann.put("/organization/acme/robots/ci", json!({})).await.0, 400);
    assert!(ann.see("/organization/acme/robots/ci").await.get("token").is_none());
    let (_, again) = ann.send(Method::POST, "/organization/acme/robots/ci/regenerate", None).await;
    for (token, expected) in [(&made["token"], 401), (&again["token"], 200)] {
        let robot = origin.client().login("acme+ci", token.as_str().unwrap());
        assert_eq!(robot.get("/v2/auth").await.status, expected);
    }
    let default = json!({ "role": "write", "delegate": { "name": "acme+ci", "kind": "user" } });
    let (status, default) = ann.post("/organization/acme/prototypes", default).await;
    assert_eq!((status, &default["delegate"]["is_robot"]), (200, &json!(true)));
    let new = json!({ "namespace": "acme", "repository": "made", "visibility": "private", "description": "" });
    assert_eq!(bob.post("/repository", new).await.0, 201);
    let given = bob.see("/repository/acme/made/permissions/user/").await;
    assert_eq!(given["permissions"]["acme+ci"]["role"], "write");
    assert_eq!(given["permissions"]["bob"]["role"], "admin");
    assert_eq!(ann.delete(&format!("/organization/acme/prototypes/{}", default["id"].as_str().unwrap())).await, 204);
    let robot = ann.see("/organization/acme/robots/ci/permissions").await;
    assert_eq!(robot["permissions"][0]["repository"]["name"], "made");
    assert_eq!(ann.delete("/organization/acme/robots/ci").await, 204);
    assert_eq!(ann.delete("/organization/acme/members/bob").await, 204);
    assert_eq!(bob.get("/repository/acme/made").await.0, 403);

    // All of it is in the log, for those who may read it.
    let mut kinds = Vec::new();
    let mut path = "/organization/acme/logs".to_owned();
    loop {
        let page = ann.see(&path).await;
        kinds.extend(page["logs"].as_array().unwrap().iter().map(|line| line["kind"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_page"].as_str() else { break };
        path = format!("/organization/acme/logs?next_page={next}");
    }
    assert_eq!(kinds.last().unwrap(), "org_create");
    for kind in [
        "org_create_team",
        "org_add_team_member",
        "create_repo",
        "change_repo_permission",
        "create_robot",
        "regenerate_robot_token",
        "delete_robot",
        "create_prototype_permission",
        "org_remove_team_member",
    ] {
        assert!(kinds.iter().any(|found| found == kind), "{kind} is not in {kinds:?}");
    }
    assert_eq!(joe.get("/organization/acme/logs").await.0, 403);
    assert_eq!(caller(origin, "eye").get("/organization/acme/logs?performer=bob").await.0, 200);
    assert_eq!(ann.delete("/organization/acme").await, 204);
    assert_eq!(ann.get("/organization/acme").await.0, 404);
    assert_eq!(ann.get("/repository/acme/app").await.0, 403);
    assert_eq!(joe.post("/organization/", json!({ "name": "acme" })).await.0, 201);
    // Who has the name now learns nothing of who had it before.
    let logs = joe.see("/organization/acme/logs").await;
    assert_eq!(logs["logs"].as_array().unwrap().len(), 1, "{logs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_are_seen_by_those_who_may() {
    repositories(&origin_with(&["ann", "bob", "eve", "joe"]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_knows_the_same_of_organisations_and_repositories() {
    let postgres = Postgres::start().await;
    let origin = origin_on(Setup::new().database(postgres.section()), &["ann", "bob", "eve", "joe"]).await;
    repositories(&origin).await;
    assert_eq!(caller(&origin, "root").delete("/superuser/organizations/acme").await, 204);
    organisations(&origin).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_read_only_shows_and_changes_nothing() {
    let mut origin = origin_with(&["ann", "bob", "eve"]).await;
    acme(&origin).await;
    origin.stop().await;
    let origin = origin.setup().clone().set("/registry_state", "readonly").start().await;
    let ann = caller(&origin, "ann");
    assert_eq!(ann.see("/repository/acme/app").await["description"], "an app");
    assert_eq!(ann.delete("/repository/acme/app").await, 405);
    assert_eq!(ann.post("/organization", json!({ "name": "other" })).await.0, 405);
    assert_eq!(granted(&origin.client().login("ann", PASSWORD), "repository:acme/app:pull").await.0, 200);
}

async fn repositories(origin: &Origin) {
    let ann = acme(origin).await;
    let (joe, eve, eye, nobody) =
        (caller(origin, "joe"), caller(origin, "eve"), caller(origin, "eye"), Caller(origin.client()));
    for (who, private, public, absent) in [
        (&ann, 200, 200, 404),
        (&eve, 200, 200, 403),
        (&eye, 200, 200, 403),
        (&joe, 403, 200, 403),
        (&nobody, 401, 200, 401),
    ] {
        for (name, expected) in [("app", private), ("open", public), ("absent", absent)] {
            assert_eq!(who.get(&format!("/repository/acme/{name}")).await.0, expected, "{name}");
        }
    }
    let names = async |who: &Caller, query: &str| -> Vec<String> {
        let list = who.see(&format!("/repository?{query}")).await;
        list["repositories"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&eve, "namespace=acme").await, ["app", "open"]);
    assert_eq!(names(&joe, "namespace=acme").await, ["open"]);
    assert_eq!(names(&nobody, "public=true").await, ["open"]);
    assert_eq!(nobody.get("/repository").await.0, 400);
    assert_eq!(eve.post("/user/starred", json!({ "namespace": "acme", "repository": "app" })).await.0, 201);
    assert_eq!(names(&eve, "starred=true").await, ["app"]);
    assert_eq!(eve.delete("/user/starred/acme/app").await, 204);
    assert_eq!(names(&eve, "starred=true").await, Vec::<String>::new());
    assert_eq!(joe.post("/user/starred", json!({ "namespace": "acme", "repository": "app" })).await.0, 403);

    // Names with slashes in them, and paths with one at their end.
    let new = json!({ "namespace": "ann", "repository": "a/b", "visibility": "private", "description": "deep" });
    assert_eq!(ann.post("/repository/", new).await.0, 201);
    assert_eq!(ann.see("/repository/ann/a/b/").await["description"], "deep");
    assert_eq!(ann.see("/repository/ann/a/b/tag/").await["tags"], json!([]));
    // What may be changed, by whom.
    for (path, method, body) in [
        ("", Method::PUT, json!({ "description": "other" })),
        ("/changevisibility", Method::POST, json!({ "visibility": "public" })),
        ("/changestate", Method::PUT, json!({ "state": "READ_ONLY" })),
    ] {
        for (who, expected) in [(&eve, 403), (&joe, 403), (&eye, 403), (&nobody, 401), (&ann, 200)] {
            let (status, _) =
                who.send(method.clone(), &format!("/repository/acme/app{path}"), Some(body.clone())).await;
            assert_eq!(status, expected, "{path}");
        }
    }
    let view = joe.see("/repository/acme/app").await;
    assert_eq!(
        (&view["description"], &view["state"], &view["is_public"]),
        (&json!("other"), &json!("READ_ONLY"), &json!(true))
    );
    let (_, access) = granted(&origin.client().login("bob", PASSWORD), "repository:acme/app:pull,push").await;
    assert_eq!(access[0]["actions"], json!(["pull"]));
    // What is sent must be meant.
    for body in [json!({}), json!({ "description": 1 }), json!({ "description": "x", "more": 1 }), json!([])] {
        assert_eq!(ann.put("/repository/acme/app", body).await.0, 400);
    }
    let long = json!({ "description": "x".repeat(100_000) });
    assert_eq!(ann.put("/repository/acme/app", long).await.0, 413);
    let text = ann.0.request(Method::PUT, "/api/v1/repository/acme/app").body("description=x");
    assert_eq!(reply(text).await.unwrap().status, 415);
    assert_eq!(ann.delete("/repository/acme/app").await, 204);
    assert_eq!(ann.get("/repository/acme/app").await.0, 404);
    assert_eq!(ann.get("/nothing").await.0, 404);
    assert_eq!(ann.send(Method::PATCH, "/user", None).await.0, 405);
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
    // But it does not change her password.
    let change = json!({ "password": "another one", "current_password": "wrong one" });
    assert_eq!(bearer.put("/user/", change).await.0, 401);
    let uuid = made["token"]["uuid"].as_str().unwrap();
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

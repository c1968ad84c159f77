//! Organisations and repositories of the origin over HTTP: who may do what, and who learns what.

use pierhead_tests::origin::{Origin, Setup};
use pierhead_tests::postgres::Postgres;
use pierhead_tests::pull::reply;
use reqwest::Method;
use serde_json::{Value, json};

use super::origin_acme::{Caller, PASSWORD, acme, caller, granted, origin_on, origin_with};

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
    assert_eq!(ann.see("/organization/acme/robots/ci").await["token"], made["token"]);
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
    // Who may read everything sees robots too, and changes none.
    let eye = caller(origin, "eye");
    for path in ["robots", "robots/ci", "robots/ci/permissions"] {
        assert_eq!(eye.get(&format!("/organization/acme/{path}")).await.0, 200, "{path}");
    }
    assert_eq!(eye.put("/organization/acme/robots/other", json!({})).await.0, 403);
    assert_eq!(eye.send(Method::POST, "/organization/acme/robots/ci/regenerate", None).await.0, 403);
    assert_eq!(eye.delete("/organization/acme/robots/ci").await, 403);
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
    // Counted, by day: a test may run over midnight.
    let counts = ann.see("/organization/acme/aggregatelogs").await;
    let counts = counts["aggregated"].as_array().unwrap();
    for kind in ["org_create", "org_create_team", "create_repo", "org_add_team_member"] {
        let counted: i64 =
            counts.iter().filter(|one| one["kind"] == kind).map(|one| one["count"].as_i64().unwrap()).sum();
        assert_eq!(counted, kinds.iter().filter(|found| *found == kind).count() as i64, "{kind}: {counts:?}");
    }
    assert!(counts.iter().all(|one| one["datetime"].as_str().unwrap().ends_with("00:00:00 -0000")), "{counts:?}");
    let mine = ann.see("/repository/acme/app/aggregatelogs?performer=ann").await;
    assert!(mine["aggregated"].as_array().unwrap().iter().any(|one| one["kind"] == "create_repo"), "{mine}");
    let before = ann.see("/organization/acme/aggregatelogs?starttime=01/01/2020&endtime=01/31/2020").await;
    assert_eq!(before, json!({ "aggregated": [] }));
    for path in ["/organization/acme/aggregatelogs", "/repository/acme/app/aggregatelogs", "/superuser/aggregatelogs"] {
        assert_eq!(joe.get(path).await.0, 403, "{path}");
        assert_eq!(Caller(origin.client()).get(path).await.0, 401, "{path}");
    }
    assert_eq!(joe.get("/user/aggregatelogs").await.0, 200);
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
    // Who is a superuser is nothing that a repository's owner learns.
    for name in ["root", "eye", "bob"] {
        let path = format!("/repository/ann/a/b/permissions/user/{name}/transitive");
        assert_eq!(ann.see(&path).await["permissions"], json!([]), "{name}");
    }
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
    // Who may read it hears why a push is refused; others do not.
    for (scope, expected) in [("repository:acme/app:pull,push", (405, "DENIED")), ("", (401, "UNAUTHORIZED"))] {
        let client = origin.login("bob", PASSWORD, &[scope][..usize::from(!scope.is_empty())]).await;
        let refused = reply(client.request(Method::POST, "/v2/acme/app/blobs/uploads/")).await.unwrap();
        let body: Value = serde_json::from_slice(&refused.body).unwrap();
        assert_eq!((refused.status, body["errors"][0]["code"].as_str().unwrap()), expected, "{body}");
        assert_eq!(body["errors"][0]["message"] == "the repository is read-only", expected.0 == 405);
    }
    // What is sent must be meant.
    for body in [json!({}), json!({ "description": 1 }), json!([])] {
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
async fn strangers_do_not_learn_which_names_there_are() {
    let origin = origin_with(&["ann", "bob", "eve", "joe"]).await;
    let ann = acme(&origin).await;
    assert_eq!(ann.put("/organization/acme/robots/ci", json!({})).await.0, 201);
    assert_eq!(ann.post("/organization", json!({ "name": "hidden" })).await.0, 201);
    let new = json!({ "namespace": "hidden", "repository": "app", "visibility": "private", "description": "" });
    assert_eq!(ann.post("/repository", new).await.0, 201);
    let (joe, nobody) = (caller(&origin, "joe"), Caller(origin.client()));
    // Each with a name that is there, and one that is not.
    for (who, there, absent) in [
        (&nobody, "/repository?namespace=hidden", "/repository?namespace=absent"),
        (&joe, "/repository?namespace=hidden", "/repository?namespace=absent"),
        (&nobody, "/organization/hidden", "/organization/absent"),
        (&nobody, "/organization/hidden/members", "/organization/absent/members"),
        (&nobody, "/organization/hidden/team/owners/members", "/organization/absent/team/owners/members"),
        (&nobody, "/users/ann", "/users/absent"),
        (&joe, "/users/acme+ci", "/users/acme+absent"),
        (&nobody, "/repository/hidden/app", "/repository/absent/app"),
        (&joe, "/repository/hidden/app", "/repository/absent/app"),
        (&joe, "/repository/hidden/app/permissions/user/ann", "/repository/absent/app/permissions/user/ann"),
    ] {
        assert_eq!(who.get(there).await, who.get(absent).await, "{there}");
    }
    let new = |namespace: &str| json!({ "namespace": namespace, "repository": "x1", "visibility": "public", "description": "" });
    for who in [&joe, &nobody] {
        assert_eq!(who.post("/repository", new("hidden")).await, who.post("/repository", new("absent")).await);
    }
    // What belongs to nobody any more is nobody's to see.
    assert_eq!(ann.delete("/organization/hidden").await, 204);
    assert_eq!(caller(&origin, "root").get("/organization/!deleted").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organisation_keeps_an_admin_who_can_log_in() {
    let origin = origin_with(&["ann", "bob", "eve"]).await;
    let ann = acme(&origin).await;
    let root = caller(&origin, "root");
    assert_eq!(ann.put("/organization/acme/robots/ci", json!({})).await.0, 201);
    for member in ["acme+ci", "eve"] {
        assert_eq!(ann.put(&format!("/organization/acme/team/owners/members/{member}"), json!({})).await.0, 200);
    }
    assert_eq!(root.put("/superuser/users/eve", json!({ "enabled": false })).await.0, 200);
    // A robot and somebody who cannot log in are left: nobody who could undo it.
    let leaves: [(Method, &str, Option<Value>); 4] = [
        (Method::DELETE, "/team/owners/members/ann", None),
        (Method::DELETE, "/members/ann", None),
        (Method::DELETE, "/team/owners", None),
        (Method::PUT, "/team/owners", Some(json!({ "role": "creator" }))),
    ];
    for who in [&ann, &root] {
        for (method, path, body) in &leaves {
            let (status, error) = who.send(method.clone(), &format!("/organization/acme{path}"), body.clone()).await;
            assert_eq!(status, 400, "{path}: {error}");
        }
    }
    for member in ["eve", "acme+ci"] {
        assert_eq!(root.delete(&format!("/organization/acme/team/owners/members/{member}")).await, 204, "{member}");
    }
    // With another admin she may go.
    assert_eq!(ann.put("/organization/acme/team/owners/members/bob", json!({})).await.0, 200);
    assert_eq!(ann.delete("/organization/acme/members/ann").await, 204);
    assert_eq!(caller(&origin, "bob").delete("/organization/acme/team/owners").await, 400);
}

//! What tests of the origin's accounts share: callers of its API, an organisation, and tokens.

use pierhead_tests::origin::{Origin, Setup};
use pierhead_tests::pull::{Client, Reply, reply};
use reqwest::Method;
use serde_json::{Value, json};

/// Everybody's.
pub(super) const PASSWORD: &str = "correct horse";

/// A caller of the API.
pub(super) struct Caller(pub(super) Client);

impl Caller {
    /// The status, and the body as JSON.
    pub(super) async fn send(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.0.request(method, &format!("/api/v1{path}"));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = reply(request).await.unwrap();
        (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
    }

    pub(super) async fn get(&self, path: &str) -> (u16, Value) {
        self.send(Method::GET, path, None).await
    }

    /// What must be there.
    pub(super) async fn see(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(Method::POST, path, Some(body)).await
    }

    pub(super) async fn put(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(Method::PUT, path, Some(body)).await
    }

    pub(super) async fn delete(&self, path: &str) -> u16 {
        self.send(Method::DELETE, path, None).await.0
    }
}

pub(super) fn caller(origin: &Origin, user: &str) -> Caller {
    Caller(origin.client().login(user, PASSWORD))
}

/// A running origin with these users, of whom `root` is a superuser and `eye` one that may only read.
pub(super) async fn origin_with(users: &[&str]) -> Origin {
    origin_on(Setup::new(), users).await
}

/// The same, of this kind.
pub(super) async fn origin_on(setup: Setup, users: &[&str]) -> Origin {
    setup.user("root", PASSWORD, &["--superuser"]).await;
    setup.user("eye", PASSWORD, &["--superuser", "--readonly"]).await;
    for user in users {
        setup.user(user, PASSWORD, &[]).await;
    }
    setup.start().await
}

/// The organisation `acme`, of ann; bob pushes and makes, eve only reads.
pub(super) async fn acme(origin: &Origin) -> Caller {
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

/// What a token for a scope grants.
pub(super) async fn granted(client: &Client, scope: &str) -> (u16, Value) {
    let answer = client.get(&format!("/v2/auth?service=registry.test&scope={scope}")).await;
    (answer.status, claims(&answer)["access"].clone())
}

/// What stands in the token of an answer; whether it is believed is for others to see.
pub(super) fn claims(answer: &Reply) -> Value {
    use base64::Engine;
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    let Some(token) = body["token"].as_str() else { return Value::Null };
    assert_eq!(body["token"], body["access_token"]);
    assert!(body["expires_in"].as_u64().unwrap() > 0 && body["issued_at"].as_str().unwrap().ends_with('Z'));
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

//! The API over real connections, on an edge of which little is there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use parking_lot::Mutex;
use pierhead_config::Secret;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use super::Operated;
use crate::admin::Admin;
use crate::admin::control::{Control, Status};
use crate::admin::metrics::Metrics;
use crate::admin::sessions::Sessions;
use crate::front::Listening;
use crate::pool::Pools;
use pierhead_service::health::Health;

/// Reloads as often as asked; every second file is broken.
struct Alternating(Mutex<Status>);

#[async_trait]
impl Control for Alternating {
    fn status(&self) -> Status {
        self.0.lock().clone()
    }

    async fn reload(&self) -> Result<Status, Vec<String>> {
        let mut status = self.0.lock();
        if status.problems.is_empty() {
            status.problems = vec!["pools[0].servers: is missing".to_owned()];
            return Err(status.problems.clone());
        }
        status.problems.clear();
        status.generation += 1;
        Ok(status.clone())
    }

    async fn upgrade(&self) -> Result<Status, Vec<String>> {
        Ok(self.status())
    }
}

/// An edge without pools, listeners and connections.
pub(crate) fn operated() -> Operated {
    let now = SystemTime::now();
    let status = Status { generation: 1, since: now, looked: now, problems: Vec::new() };
    Operated {
        pools: Box::new(|| Arc::new(Pools::default())),
        cache: Box::new(|| None),
        is_registry: Box::new(|_| false),
        certificates: Box::new(Vec::new),
        sessions: Arc::default(),
        control: Arc::new(Alternating(Mutex::new(status))),
    }
}

struct Api {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    sessions: Arc<Sessions>,
}

fn start(token: Option<&str>) -> Api {
    let socket = Listening::open("127.0.0.1:0".parse().unwrap(), []).unwrap();
    let address = socket.address();
    let metrics = Arc::new(Metrics::new().unwrap());
    let operated = operated();
    let sessions = Arc::clone(&operated.sessions);
    let token = token.map(Secret::new);
    let admin = Admin::new(socket, Arc::new(Health::default()), Arc::clone(&metrics), operated, token.as_ref());
    tokio::spawn(admin.serve());
    Api { address, metrics, sessions }
}

impl Api {
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let client = Client::builder().no_proxy().build().unwrap();
        client.request(method, format!("http://{}{path}", self.address)).header("content-type", "application/json")
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let body = response.bytes().await.unwrap();
        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        (status, body)
    }
}

#[tokio::test]
async fn what_cannot_be_done_is_said_in_one_shape() {
    let api = start(None);
    let server = "/api/v1/pools/quay/servers/a";
    for (method, path, body, status, code) in [
        (Method::GET, "/api/v1/pools/quay", None, 404, "not_found"),
        (Method::GET, server, None, 404, "not_found"),
        (Method::POST, server, Some(json!({ "action": "drain" })), 404, "not_found"),
        (Method::POST, server, Some(json!({ "action": "explode" })), 422, "invalid"),
        (Method::POST, server, Some(json!({ "action": "drain", "now": true })), 422, "invalid"),
        (Method::POST, server, Some(json!("drain")), 422, "invalid"),
        (Method::POST, server, None, 400, "invalid"),
        (Method::POST, server, Some(json!({ "action": "x".repeat(20_000) })), 413, "invalid"),
        (Method::DELETE, "/api/v1/sessions/1", None, 404, "not_found"),
        (Method::DELETE, "/api/v1/sessions/-1", None, 404, "not_found"),
        (Method::GET, "/api/v1/sessions?limit=many", None, 400, "invalid"),
        (Method::GET, "/api/v1/sessions?lsitener=a", None, 400, "invalid"),
        (Method::GET, "/api/v1/cache", None, 404, "not_found"),
        (Method::GET, "/api/v1/cache/repositories?registry=..", None, 422, "invalid"),
        (Method::GET, "/api/v1/cache/images?registry=a.io", None, 400, "invalid"),
        (Method::GET, "/api/v1/cache/images?registry=a.io&repository=..%2Fb", None, 422, "invalid"),
        (Method::POST, "/api/v1/cache/purge", Some(json!({ "registry": "a/../b" })), 422, "invalid"),
        (Method::POST, "/api/v1/cache/purge", Some(json!({ "registry": "a.io", "reference": "v1" })), 422, "invalid"),
        (Method::POST, "/api/v1/cache/pin", Some(json!({ "registry": "a.io" })), 422, "invalid"),
        (Method::GET, "/api/v1/nothing", None, 404, "not_found"),
        (Method::GET, "/api/v2/pools", None, 404, "not_found"),
        (Method::PUT, "/api/v1/pools", None, 405, "method_not_allowed"),
    ] {
        let (got, answer) = api.ask(method.clone(), path, body.clone()).await;
        assert_eq!(got.as_u16(), status, "{method} {path} {body:?}: {answer}");
        assert_eq!(answer["error"]["code"], code, "{method} {path}: {answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer}");
    }
}

#[tokio::test]
async fn a_wrong_token_is_told_so_slowly_and_counted() {
    let api = start(Some("secret"));
    let begun = Instant::now();
    let refused = api.request(Method::GET, "/api/v1/version").bearer_auth("wrong").send().await.unwrap();
    assert_eq!(refused.status(), 401);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert!(refused.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer "));
    let body = refused.text().await.unwrap();
    assert!(body.contains("unauthorized") && !body.contains("secret"), "{body}");

    let admitted = api.request(Method::GET, "/api/v1/version").bearer_auth("secret").send().await.unwrap();
    assert_eq!(admitted.status(), 200);
    assert_eq!(admitted.headers()["cache-control"], "no-store");
    let version: Value = serde_json::from_slice(&admitted.bytes().await.unwrap()).unwrap();
    assert_eq!((&version["name"], &version["version"]), (&json!("pierhead"), &json!(env!("CARGO_PKG_VERSION"))));
    for (code, times) in [("401", 1), ("200", 1)] {
        let line = format!("pierhead_api_requests_total{{code=\"{code}\"}} {times}");
        assert!(String::from_utf8(api.metrics.render().unwrap()).unwrap().contains(&line), "{line}");
    }
    for open in ["/metrics", "/health", "/health/endtoend", "/"] {
        assert_eq!(api.request(Method::GET, open).send().await.unwrap().status(), 200, "{open} needs no token");
    }
    let closed = api.request(Method::GET, "/api/v1/openapi.json").send().await.unwrap();
    assert_eq!(closed.status(), 401, "all of the API needs it");
}

#[tokio::test]
async fn what_a_web_page_could_send_is_refused() {
    let api = start(None);
    let reload = || Client::new().post(format!("http://{}/api/v1/reload", api.address));
    assert_eq!(reload().body("{}").send().await.unwrap().status(), 403, "no content type");
    let rebound = api.request(Method::GET, "/api/v1/version").header("host", "evil.example").send().await.unwrap();
    assert_eq!(rebound.status(), 403);
    let (status, before) = api.ask(Method::GET, "/api/v1/reload", None).await;
    assert_eq!((status.as_u16(), &before["problems"]), (200, &json!([])), "nothing was reloaded");
}

#[tokio::test]
async fn a_reload_says_what_came_of_it() {
    let api = start(None);
    let (status, answer) = api.ask(Method::POST, "/api/v1/reload", None).await;
    assert_eq!(status, 422);
    assert_eq!(answer["error"]["problems"], json!(["pools[0].servers: is missing"]));
    let (_, known) = api.ask(Method::GET, "/api/v1/reload", None).await;
    assert_eq!((&known["generation"], &known["problems"]), (&json!(1), &answer["error"]["problems"]));
    let (status, answer) = api.ask(Method::POST, "/api/v1/reload", None).await;
    assert_eq!((status.as_u16(), &answer["generation"], &answer["problems"]), (200, &json!(2), &json!([])));
}

#[tokio::test]
async fn connections_are_listed_and_closed() {
    let api = start(None);
    let open: Vec<_> =
        ["a", "b", "a"].iter().map(|name| api.sessions.open(&(*name).into(), "192.0.2.1:1".parse().unwrap())).collect();
    let (_, all) = api.ask(Method::GET, "/api/v1/sessions", None).await;
    assert_eq!((&all["total"], all["sessions"].as_array().unwrap().len()), (&json!(3), 3));
    let (_, some) = api.ask(Method::GET, "/api/v1/sessions?listener=a&limit=1", None).await;
    assert_eq!((&some["total"], &some["sessions"][0]["id"]), (&json!(2), &json!(1)));
    let (status, _) = api.ask(Method::DELETE, "/api/v1/sessions/2", None).await;
    assert_eq!(status, 204);
    tokio::time::timeout(Duration::from_secs(5), open[1].session().closed()).await.unwrap();
}

#[tokio::test]
async fn the_description_has_every_route() {
    let api = start(None);
    let (status, document) = api.ask(Method::GET, "/api/v1/openapi.json", None).await;
    assert_eq!(status, 200);
    let described: Vec<String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| methods.as_object().unwrap().keys().map(move |method| format!("{method} {path}")))
        .collect();
    for route in [
        "get /api/v1/pools",
        "get /api/v1/pools/{pool}",
        "get /api/v1/pools/{pool}/servers/{server}",
        "post /api/v1/pools/{pool}/servers/{server}",
        "get /api/v1/sessions",
        "delete /api/v1/sessions/{id}",
        "get /api/v1/cache",
        "get /api/v1/cache/repositories",
        "get /api/v1/cache/images",
        "get /api/v1/cache/why",
        "post /api/v1/cache/purge",
        "post /api/v1/cache/pin",
        "post /api/v1/cache/unpin",
        "get /api/v1/certificates",
        "get /api/v1/reload",
        "post /api/v1/reload",
        "post /api/v1/upgrade",
        "get /api/v1/version",
    ] {
        assert!(described.iter().any(|known| known == route), "{route} is not in {described:?}");
    }
    assert_eq!(described.len(), 18, "{described:?}");
    let order = &document["components"]["schemas"]["Order"];
    assert!(order.to_string().contains("maintenance"), "{order}");
    assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
}

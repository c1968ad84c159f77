//! The operators' listener: health, metrics, and a page that says what is where.
//!
//! It stands on an address of its own, so that whoever may pull images may not read metrics. Operators are trusted, but
//! not to have no broken clients: connections have a number, a header has a time, and so has an answer that nobody takes, which
//! axum's own loop lacks.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use pierhead_config::Secret;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::api::{self, ApiError, Operated};
use super::host;
use super::metrics::Metrics;
use crate::front::Listening;
use pierhead_service::health::{CACHE_CONTROL, Check, Health};

/// Connections at a time; more wait.
const CONNECTIONS: usize = 64;

/// For a request's header, and between requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may take nothing of an answer.
const STALL: Duration = Duration::from_secs(30);

/// How soon to accept again when the system is short of descriptors.
const SHORTAGE: Duration = Duration::from_millis(200);

const PAGE: &str = concat!(
    "pierhead ",
    env!("CARGO_PKG_VERSION"),
    "\n\n/health/instance   whether this process serves\n/health/endtoend   and whether what it depends on works\n",
    "/metrics           for Prometheus\n/api/v1/…           for operators, described at /api/v1/openapi.json; `pierhead ctl` uses it\n"
);

/// The listener, open but not yet answering.
pub(crate) struct Admin {
    socket: Listening,
    router: Router,
    stall: Duration,
}

#[derive(Clone)]
struct Seen {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl Admin {
    /// On a socket that is open already. Whoever brings the token may use the API.
    pub(crate) fn new(
        socket: Listening,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
        operated: Operated,
        token: Option<&Secret>,
    ) -> Admin {
        let api = api::router(operated, token, Arc::clone(&metrics));
        let router = Router::new()
            .route("/", get(async || PAGE))
            .route("/metrics", get(show_metrics))
            .route("/health", get(async |state| report(state, Check::Instance)))
            .route("/health/instance", get(async |state| report(state, Check::Instance)))
            .route("/health/endtoend", get(async |state| report(state, Check::EndToEnd)))
            // The API's own is not for those who do not ask the API.
            .fallback(async || StatusCode::NOT_FOUND)
            .with_state(Seen { health, metrics })
            .merge(api)
            .layer(from_fn(one_host));
        Admin { socket, router, stall: STALL }
    }

    /// Answers for ever: while the edge drains, operators still want to see it. When this is dropped, connections end with
    /// what they are answering: another token, or another process, may be asked for by then.
    pub(crate) async fn serve(self) {
        let replaced = CancellationToken::new();
        let _replaced = replaced.clone().drop_guard();
        let free = Arc::new(Semaphore::new(CONNECTIONS));
        // Never closed, so there is always a place some day.
        while let Ok(place) = Arc::clone(&free).acquire_owned().await {
            let tcp = match self.socket.socket().accept().await {
                Ok((tcp, _)) => tcp,
                Err(error) => {
                    tracing::warn!(listener = "admin", %error, "cannot accept");
                    tokio::time::sleep(SHORTAGE).await;
                    continue;
                }
            };
            // The kernel sees to it: it knows what was taken.
            let stall = u32::try_from(self.stall.as_millis()).unwrap_or(u32::MAX);
            if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&tcp, stall) {
                tracing::debug!(listener = "admin", %error, "answers have no time");
            }
            let service = TowerToHyperService::new(self.router.clone());
            let replaced = replaced.clone();
            tokio::spawn(async move {
                let mut http = http1::Builder::new();
                http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
                let mut connection = pin!(http.serve_connection(TokioIo::new(tcp), service));
                let ended = tokio::select! {
                    biased;
                    ended = connection.as_mut() => ended,
                    () = replaced.cancelled() => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                };
                if let Err(error) = ended {
                    tracing::debug!(listener = "admin", %error, "connection ended");
                }
                drop(place);
            });
        }
    }
}

/// What every request goes through first.
async fn one_host(request: Request, next: Next) -> Response {
    match host::problem(request.version(), request.uri(), request.headers()) {
        Some(problem) => ApiError::Host(problem).into_response(),
        None => next.run(request).await,
    }
}

fn report(State(seen): State<Seen>, which: Check) -> Response {
    let report = seen.health.expanded(which);
    let status = StatusCode::from_u16(report.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, CACHE_CONTROL)];
    (status, headers, report.body).into_response()
}

async fn show_metrics(State(seen): State<Seen>) -> Response {
    match seen.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::admin::api::tests::operated;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut client = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer.to_ascii_lowercase()
    }

    fn open(health: Health) -> (Admin, SocketAddr) {
        let socket = Listening::open("127.0.0.1:0".parse().unwrap(), []).unwrap();
        let address = socket.address();
        let metrics = Arc::new(Metrics::new().unwrap());
        (Admin::new(socket, Arc::new(health), metrics, operated(), None), address)
    }

    #[tokio::test(start_paused = true)]
    async fn silent_connections_do_not_lock_operators_out() {
        let (admin, address) = open(Health::default());
        let server = tokio::spawn(admin.serve());
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        assert!(ask(address, "/health").await.contains("200 ok"));
        server.abort();
    }

    #[tokio::test]
    async fn who_takes_no_answer_is_let_go() {
        let (mut admin, address) = open(Health::default());
        admin.stall = Duration::from_millis(300);
        let server = tokio::spawn(admin.serve());
        let mut client = TcpStream::connect(address).await.unwrap();
        let request = b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100);
        // Asks on and on and reads nothing, until it is cut off.
        let asking = async { while client.write_all(&request).await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(60), asking).await.expect("its answers are kept for ever");
        assert!(ask(address, "/health").await.contains("200 ok"));
        server.abort();
    }

    /// The guard of the API goes by the host, so no two readers may see two hosts in one request.
    #[tokio::test]
    async fn a_request_that_does_not_name_one_host_is_refused() {
        let (admin, address) = open(Health::default());
        let server = tokio::spawn(admin.serve());
        for (head, status) in [
            ("GET /api/v1/version HTTP/1.1\r\nHost: localhost:1", "200"),
            ("GET /api/v1/version HTTP/1.1\r\nHost: localhost:1@evil", "400"),
            ("GET /api/v1/version HTTP/1.1\r\nHost: localhost\r\nHost: localhost", "400"),
            ("GET /api/v1/version HTTP/1.1\r\nHost: localhost\r\nHost: evil.example", "400"),
            ("GET http://evil.example/api/v1/version HTTP/1.1\r\nHost: localhost", "400"),
            ("GET http://localhost/api/v1/version HTTP/1.1\r\nHost: evil.example", "400"),
            ("GET http://localhost/api/v1/version HTTP/1.1\r\nHost: localhost", "200"),
            ("GET http://evil.example/api/v1/version HTTP/1.1\r\nHost: evil.example", "403"),
            ("GET /api/v1/version HTTP/1.1\r\nHost: rebound.example", "403"),
            ("GET /api/v1/version HTTP/1.1\r\nHost: localhost, evil.example", "400"),
            ("GET /api/v1/version HTTP/1.1\r\nHost:", "400"),
            ("GET /api/v1/version HTTP/1.1\r\nAccept: */*", "400"),
            ("GET /api/v1/version HTTP/1.0\r\nAccept: */*", "403"),
            ("GET /metrics HTTP/1.1\r\nHost: a@b", "400"),
            ("GET /health HTTP/1.0\r\nAccept: */*", "200"),
        ] {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer.split(' ').nth(1), Some(status), "{head}: {answer}");
        }
        server.abort();
    }

    #[tokio::test]
    async fn operators_see_health_and_metrics() {
        let health =
            Health::default().with(Check::Instance, "listeners", || true).with(Check::EndToEnd, "far", || false);
        let (admin, address) = open(health);
        let server = tokio::spawn(admin.serve());
        for (path, parts) in [
            (
                "/health/instance",
                &["200 ok", "cache-control: no-cache, no-store, must-revalidate", "\"listeners\":true"][..],
            ),
            ("/health", &["200 ok"]),
            ("/health/endtoend", &["503 service unavailable", "\"far\":false", "\"status_code\":503"]),
            ("/metrics", &["200 ok", "text/plain; version=0.0.4", "pierhead_build_info"]),
            ("/", &["200 ok", "pierhead"]),
            ("/else", &["404 not found"]),
        ] {
            let answer = ask(address, path).await;
            for part in parts {
                assert!(answer.contains(part), "{path}: {part} is not in {answer}");
            }
        }
        server.abort();
    }
}

//! A pool as the way to a registry: what the registry client asks of the origin goes to its servers.
//!
//! The origin is known by a host name that usually leads to this very edge, so whatever is asked of that name, tokens
//! included, goes to the servers and never by DNS. Retries and redispatch are those of every request to a pool.
//!
//! A transport belongs to its pool, and so to one generation of the configuration.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use http::header::HOST;
use http::{HeaderName, Request, Response};
use pierhead_registry::client::{EndpointSettings, SharedTransport, Transport, TransportBody, TransportError};
use pierhead_registry::oci::Digest;
use url::Url;

use super::attempts::{ExchangeError, Question};
use super::exchange::Exchange;
use super::{LeaseError, Pool, Wish};

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// See the module.
struct PoolTransport {
    pool: Arc<Pool>,
    /// Names of the origin, in lower case.
    hosts: Vec<String>,
    /// How clients speak to this edge.
    scheme: &'static str,
}

/// The origin behind a pool, as the registry client wants to know it. `hosts` are its names, the first of which servers
/// are called by; `secure` tells whether clients come over TLS. `None` where the first is no host.
pub(crate) fn endpoint<'h>(
    pool: &Arc<Pool>,
    hosts: impl IntoIterator<Item = &'h str>,
    secure: bool,
) -> Option<EndpointSettings> {
    let hosts: Vec<String> = hosts.into_iter().map(str::to_ascii_lowercase).collect();
    let scheme = if pool.settings().tls.is_some() { "https" } else { "http" };
    let url = Url::parse(&format!("{scheme}://{}/", hosts.first()?)).ok()?;
    let transport = PoolTransport { pool: Arc::clone(pool), hosts, scheme: if secure { "https" } else { "http" } };
    let transport = Some(SharedTransport(Arc::new(transport)));
    Some(EndpointSettings {
        url,
        repository_prefix: None,
        account: None,
        ca: None,
        client_certificate: None,
        transport,
    })
}

impl Transport for PoolTransport {
    fn carries(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        let with_port = || url.port_or_known_default().map(|port| format!("{host}:{port}"));
        self.hosts.iter().any(|own| own == host) || with_port().is_some_and(|host| self.hosts.contains(&host))
    }

    fn available(&self) -> bool {
        self.pool.available()
    }

    fn send(&self, request: Request<()>) -> BoxFuture<'_, Result<Response<TransportBody>, TransportError>> {
        async move {
            let path = request.uri().path();
            let last = path.rsplit('/').next().unwrap_or_default();
            let key = if last.parse::<Digest>().is_ok() { last } else { path };
            let question = Question {
                method: request.method(),
                head: head(&request, self.scheme),
                body: false,
                wish: Wish { key: Some(key), ..Wish::default() },
                told: None,
            };
            let (mut exchange, mut answer) = self.pool.ask(&question).await?;
            while answer.status.is_informational() {
                answer = exchange.answer().await.map_err(|error| TransportError::Broken(error.to_string()))?;
            }
            let mut response = Response::new(body(exchange));
            *response.status_mut() = answer.status;
            *response.headers_mut() = answer.headers;
            Ok(response)
        }
        .boxed()
    }
}

/// Request line and header. Everything in them was checked when it became a URI and header values.
fn head(request: &Request<()>, scheme: &str) -> Bytes {
    let uri = request.uri();
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let mut head = Vec::with_capacity(512);
    for part in [request.method().as_str(), " ", target, " HTTP/1.1\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    let mut line = |name: &HeaderName, value: &[u8]| {
        for part in [name.as_str().as_bytes(), b": ", value, b"\r\n"] {
            head.extend_from_slice(part);
        }
    };
    line(&HOST, uri.authority().map_or("", |authority| authority.as_str()).as_bytes());
    line(&FORWARDED_PROTO, scheme.as_bytes());
    for (name, value) in request.headers() {
        line(name, value.as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    head.into()
}

/// The body, after whose last byte the connection is free for others, whether anybody asks for more or not.
fn body(exchange: Exchange) -> TransportBody {
    let next = |exchange: Option<Exchange>| async move {
        let Some(mut exchange) = exchange else { return Ok(None) };
        match exchange.body().await {
            Ok(Some(piece)) => Ok(Some((piece, at_end(exchange)))),
            Ok(None) => {
                exchange.finish();
                Ok(None)
            }
            Err(error) => Err(io::Error::other(error)),
        }
    };
    stream::try_unfold(at_end(exchange), next).boxed()
}

/// The exchange, unless nothing more is to come.
fn at_end(exchange: Exchange) -> Option<Exchange> {
    if exchange.is_done() {
        exchange.finish();
        return None;
    }
    Some(exchange)
}

impl From<ExchangeError> for TransportError {
    fn from(error: ExchangeError) -> TransportError {
        let reason = error.to_string();
        match error {
            ExchangeError::Lease(LeaseError::NoServer) | ExchangeError::Connect { .. } => TransportError::Dead(reason),
            ExchangeError::Lease(LeaseError::QueueFull | LeaseError::QueueTimeout) | ExchangeError::Wire { .. } => {
                TransportError::Broken(reason)
            }
        }
    }
}

//! Requests whose path and query go out as they are given: for URLs that the HTTP client of all other requests would spell
//! in another way.
//!
//! A connection is made by the rules of the others: names by the endpoint's resolver, so that addresses are judged; TLS with
//! the endpoint's roots; the environment's proxies; the settings' limit for connecting. Few URLs need this, so all of it is
//! made when the first one comes.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::Empty;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use reqwest::dns::{Addrs, Resolve};
use reqwest::{Body, Response};
use rustls::ClientConfig;
use tokio::time::timeout;
use tower_service::Service;
use url::Url;

use super::endpoint;
use super::failure::Failure;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// How connections are made.
#[derive(Clone)]
pub(super) struct Means {
    /// Resolves names, and judges addresses where that is needed.
    pub(super) resolver: Arc<dyn Resolve>,
    /// Whether the environment's proxies are used.
    pub(super) proxies: bool,
    /// How long connecting may take.
    pub(super) connect_timeout: Duration,
    /// How often a silent peer is looked for.
    pub(super) keepalive: Duration,
    /// How long a connection is kept idle.
    pub(super) idle: Duration,
}

/// Sends requests exactly as they are given.
pub(super) struct Exact {
    means: Means,
    tls: Box<dyn Fn() -> Result<ClientConfig, rustls::Error> + Send + Sync>,
    made: OnceLock<Result<Client, String>>,
}

struct Client {
    http: legacy::Client<Connector, Empty<Bytes>>,
    proxies: Option<Arc<Matcher>>,
}

impl Exact {
    /// `tls` is called once, when the first request comes.
    pub(super) fn new(
        means: Means,
        tls: impl Fn() -> Result<ClientConfig, rustls::Error> + Send + Sync + 'static,
    ) -> Exact {
        Exact { means, tls: Box::new(tls), made: OnceLock::new() }
    }

    fn client(&self) -> Result<&Client, Failure> {
        let made = self.made.get_or_init(|| match (self.tls)() {
            Ok(tls) => Ok(Client::new(&self.means, tls)),
            Err(error) => Err(error.to_string()),
        });
        made.as_ref().map_err(Failure::invalid)
    }

    /// One request, up to the header of its answer. Path and query of `url` do not count, but those of `target`.
    pub(super) async fn send(
        &self,
        method: &Method,
        url: &Url,
        target: &PathAndQuery,
        headers: &HeaderMap,
    ) -> Result<Response, Failure> {
        let client = self.client()?;
        let uri = uri(url, target)?;
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method.clone();
        *request.headers_mut() = headers.clone();
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(endpoint::USER_AGENT));
        // In a tunnel it is for the proxy to read, and so not for a request.
        if uri.scheme() == Some(&Scheme::HTTP)
            && let Some(proxy) = client.proxies.as_ref().and_then(|proxies| proxies.intercept(&uri))
            && let Some(login) = proxy.basic_auth()
        {
            request.headers_mut().insert(PROXY_AUTHORIZATION, login.clone());
        }
        *request.uri_mut() = uri;
        let response = client.http.request(request).await.map_err(unanswered)?;
        Ok(response.map(Body::wrap).into())
    }
}

/// The URI of `target` at the URL's server.
pub(super) fn uri(url: &Url, target: &PathAndQuery) -> Result<Uri, Failure> {
    let uri = Uri::builder().scheme(url.scheme()).authority(url.authority()).path_and_query(target.clone());
    uri.build().map_err(Failure::invalid)
}

fn unanswered(error: legacy::Error) -> Failure {
    let dead = error.is_connect();
    Failure::unsent(&error, dead)
}

impl Client {
    fn new(means: &Means, tls: ClientConfig) -> Client {
        let proxies = means.proxies.then(|| Arc::new(Matcher::from_env()));
        let mut http = HttpConnector::new_with_resolver(Names(Arc::clone(&means.resolver)));
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(means.keepalive));
        let connector = Connector { http, tls: Arc::new(tls), proxies: proxies.clone(), limit: means.connect_timeout };
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(means.idle)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Client { http, proxies }
    }
}

/// The endpoint's resolver.
#[derive(Clone)]
struct Names(Arc<dyn Resolve>);

impl Service<Name> for Names {
    type Response = Box<dyn Iterator<Item = SocketAddr> + Send>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Addrs, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolver = Arc::clone(&self.0);
        Box::pin(async move {
            let name = name.as_str().parse()?;
            resolver.resolve(name).await
        })
    }
}

/// Makes connections, directly or by a proxy.
#[derive(Clone)]
struct Connector {
    http: HttpConnector<Names>,
    tls: Arc<ClientConfig>,
    proxies: Option<Arc<Matcher>>,
    limit: Duration,
}

impl Connector {
    async fn connect(self, to: Uri) -> Result<Stream, Error> {
        let proxy = self.proxies.as_ref().and_then(|proxies| proxies.intercept(&to));
        let mut direct = HttpsConnector::from((self.http, Arc::clone(&self.tls)));
        let Some(proxy) = proxy else { return Ok(Stream { io: Box::new(direct.call(to).await?), proxied: false }) };
        if to.scheme() != Some(&Scheme::HTTPS) {
            return Ok(Stream { io: Box::new(direct.call(proxy.uri().clone()).await?), proxied: true });
        }
        let mut tunnel = Tunnel::new(proxy.uri().clone(), direct);
        if let Some(login) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(login.clone());
        }
        let io = HttpsConnector::from((tunnel, self.tls)).call(to).await?;
        Ok(Stream { io: Box::new(io), proxied: false })
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Stream, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { timeout(connector.limit, connector.connect(to)).await? })
    }
}

trait Io: Read + Write + Connection + Unpin + Send {}

impl<T: Read + Write + Connection + Unpin + Send> Io for T {}

/// A connection, whatever it goes over.
struct Stream {
    io: Box<dyn Io>,
    /// To a proxy that reads the whole URI.
    proxied: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.proxied)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

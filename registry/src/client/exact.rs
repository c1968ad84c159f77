//! Requests whose path and query go out as they are given, over connections that are judged before they are made: for all
//! requests to other hosts than the endpoint's, and for those URLs of the endpoint's that the HTTP client of all other
//! requests would spell in another way.
//!
//! The other client's resolver knows no port, and so no listener of this edge. Here the connector judges: it knows name,
//! port and addresses. All else is as the other client has it: TLS with the endpoint's roots; the environment's proxies; the
//! settings' limit for connecting. It is made when the first request comes.

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
use super::reach::Reach;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// How connections are made.
#[derive(Clone)]
pub(super) struct Means {
    /// Resolves names.
    pub(super) resolver: Arc<dyn Resolve>,
    /// Judges what they resolve to; `None`: all may be connected to.
    pub(super) rule: Option<Arc<Reach>>,
    /// Whether the environment's proxies are used.
    pub(super) proxies: bool,
    /// How long connecting may take.
    pub(super) connect_timeout: Duration,
    /// How often a silent peer is looked for.
    pub(super) keepalive: Duration,
    /// How long a connection is kept idle.
    pub(super) idle: Duration,
}

/// Sends requests exactly as they are given, and connects only where it may.
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

    /// One request, up to the header of its answer. Where there is a `target`, path and query are its, and not those of
    /// `url`.
    pub(super) async fn send(
        &self,
        method: &Method,
        url: &Url,
        target: Option<&PathAndQuery>,
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

/// The URI of `target` at the URL's server; without one, the URL's own.
pub(super) fn uri(url: &Url, target: Option<&PathAndQuery>) -> Result<Uri, Failure> {
    let Some(target) = target else { return url.as_str().parse().map_err(Failure::invalid) };
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
        let connector = Connector { means: means.clone(), tls: Arc::new(tls), proxies: proxies.clone() };
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(means.idle)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Client { http, proxies }
    }
}

/// Resolves the name that one connection goes to.
#[derive(Clone)]
struct Names {
    resolver: Arc<dyn Resolve>,
    /// With the port that is connected to.
    rule: Option<(Arc<Reach>, u16)>,
}

impl Service<Name> for Names {
    type Response = Addrs;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Addrs, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let Names { resolver, rule } = self.clone();
        Box::pin(async move {
            let found = resolver.resolve(name.as_str().parse()?).await?;
            let Some((rule, port)) = rule else { return Ok(found) };
            let found: Vec<SocketAddr> = found.collect();
            rule.admit(name.as_str(), &found, port)?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Makes connections, directly or by a proxy.
#[derive(Clone)]
struct Connector {
    means: Means,
    tls: Arc<ClientConfig>,
    proxies: Option<Arc<Matcher>>,
}

impl Connector {
    /// For TCP connections to one port, judged by `rule`.
    fn http(&self, rule: Option<(Arc<Reach>, u16)>) -> HttpConnector<Names> {
        let mut http = HttpConnector::new_with_resolver(Names { resolver: Arc::clone(&self.means.resolver), rule });
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(self.means.keepalive));
        http.set_connect_timeout(Some(self.means.connect_timeout));
        http
    }

    async fn connect(self, to: Uri) -> Result<Stream, Error> {
        let proxy = self.proxies.as_ref().and_then(|proxies| proxies.intercept(&to));
        // A proxy is where the environment says.
        let rule = self.means.rule.clone().filter(|_| proxy.is_none());
        let http = self.http(rule.map(|rule| (rule, port(&to))));
        let mut direct = HttpsConnector::from((http, Arc::clone(&self.tls)));
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
        Box::pin(async move { timeout(connector.means.connect_timeout, connector.connect(to)).await? })
    }
}

fn port(to: &Uri) -> u16 {
    to.port_u16().unwrap_or(if to.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 })
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

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::Arc;
    use std::time::Duration;

    use http::{HeaderMap, Method};
    use reqwest::dns::{Addrs, Name, Resolve, Resolving};
    use rustls::crypto::aws_lc_rs;
    use rustls::{ClientConfig, RootCertStore};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use url::Url;

    use super::{Exact, Failure, Means, Reach};

    /// Every name is this machine.
    struct Here;

    impl Resolve for Here {
        fn resolve(&self, _name: Name) -> Resolving {
            Box::pin(async { Ok(Box::new([SocketAddr::from((Ipv4Addr::LOCALHOST, 0))].into_iter()) as Addrs) })
        }
    }

    fn exact(rule: Option<Reach>) -> Exact {
        let second = Duration::from_secs(1);
        let means = Means {
            resolver: Arc::new(Here),
            rule: rule.map(Arc::new),
            proxies: false,
            connect_timeout: 20 * second,
            keepalive: second,
            idle: second,
        };
        Exact::new(means, || {
            let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
            let builder = builder.with_safe_default_protocol_versions()?;
            Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
        })
    }

    #[tokio::test]
    async fn a_name_is_judged_with_its_port_before_it_is_connected_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap();
        let url = Url::parse(&format!("http://cdn.example.org:{}/x", own.port())).unwrap();
        let upstream = Url::parse("http://127.0.0.1:1").unwrap();
        let other = SocketAddr::from((Ipv4Addr::UNSPECIFIED, own.port() ^ 1));
        for (listeners, expected) in [
            (vec![own], false),
            (vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, own.port()))], false),
            (vec![other], true),
        ] {
            let rule = Reach::new(&upstream, Vec::new(), listeners.clone(), false, false);
            let exact = exact(Some(rule));
            let headers = HeaderMap::new();
            let sending = exact.send(&Method::GET, &url, None, &headers);
            let accepting = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 16];
                stream.read_exact(&mut request).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
                // Kept until the answer is read.
                std::future::pending::<()>().await;
            };
            let sent = tokio::select! {
                sent = sending => sent,
                () = accepting => unreachable!(),
            };
            assert_eq!(sent.is_ok(), expected, "{listeners:?}: {:?}", sent.err());
            if let Err(failure) = sent {
                assert!(
                    matches!(&failure, Failure::Invalid(why) if why.reason.contains("this edge itself")),
                    "{failure}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_name_of_an_address_that_is_out_of_reach_is_not_connected_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://cdn.example.org:{}/x", listener.local_addr().unwrap().port());
        let public = Reach::new(&Url::parse("http://9.9.9.9").unwrap(), Vec::new(), Vec::new(), false, false);
        let sent = exact(Some(public)).send(&Method::GET, &Url::parse(&url).unwrap(), None, &HeaderMap::new()).await;
        assert!(matches!(&sent, Err(Failure::Invalid(why)) if why.reason.contains("a loopback address")), "{sent:?}");
    }
}

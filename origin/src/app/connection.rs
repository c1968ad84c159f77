//! One connection from its first byte to its last: TLS where there is any, then HTTP/1.1 or HTTP/2.
//!
//! Invariants: nobody holds a connection by sending nothing: the handshake and the first request have a time, so has each header
//! after it and each pause in a body; one of HTTP/2 over which nothing is asked is ended, whether or not its client answers pings.
//! A connection that is told to end finishes what it has begun.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use hyper::body::{Body, Incoming};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpStream;
use tokio::time::{Instant, interval, timeout_at};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use super::arriving::Arriving;
use super::cleartext;
use super::listener::{Patience, Served};
use super::socket::Socket;
use crate::api::{Connection, Departures, Lane};

/// Largest piece that is read of a connection, and so the largest header.
const READ_SIZE: usize = 64 * 1024;
/// Header lines of a request.
const HEADERS: usize = 100;
/// Largest header of HTTP/2.
const HEADER_LIST: u32 = 32 * 1024;
/// Requests at a time over one connection of HTTP/2.
const STREAMS: u32 = 128;
/// What a client may send of one body before it is told that some was taken.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// Of all bodies of a connection.
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// How often within `idle_timeout` it is looked whether a connection moves.
const LOOKS: u32 = 2;
/// How often the other side of HTTP/2 is asked whether it is still there, and how long it may take.
const PING: Duration = Duration::from_secs(20);

/// Serves a connection to its end.
pub(super) async fn serve<S, B>(
    tcp: TcpStream,
    peer: SocketAddr,
    served: Arc<Served<S>>,
    departures: Arc<Departures>,
    finish: CancellationToken,
) where
    S: Service<Request<Arriving>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Patience { header, idle } = (served.patience)();
    let first = Instant::now() + header;
    let reached = match tcp.local_addr() {
        Ok(reached) => reached,
        Err(error) => return tracing::debug!(%peer, %error, "gone already"),
    };
    let lane = Lane::default();
    let flow = departures.flow();
    let counted = flow.counted.unwrap_or_default();
    let socket = Socket::new(tcp, idle, Arc::clone(&served.metrics), counted, lane.clone());
    if served.tls.is_some() && cleartext::is_http(socket.tcp(), first).await {
        tracing::debug!(%peer, "plain HTTP on a port of HTTPS");
        return cleartext::refuse(socket).await;
    }
    let stream = match &served.tls {
        None => Either::Left(socket),
        Some(tls) => match timeout_at(first, tls.acceptor().accept(socket)).await {
            _ if flow.cut.is_cancelled() => return,
            Ok(Ok(stream)) => Either::Right(Box::new(stream)),
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "no TLS"),
            Err(_) => return tracing::debug!(%peer, "no TLS in time"),
        },
    };
    let asked = Arc::new(AtomicU64::new(0));
    let requests = Requests {
        service: served.service.clone(),
        connection: Connection {
            peer,
            reached,
            secure: served.tls.is_some(),
            lane: Some(lane).filter(|_| served.tls.is_none()),
            departures: Arc::clone(&departures),
        },
        silence: idle,
        asked: Arc::clone(&asked),
    };
    let http = protocols(idle);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), requests));
    let mut first = pin!(tokio::time::sleep_until(first));
    let (mut is_first, mut finishing) = (true, false);
    let mut look = interval(idle / LOOKS);
    // At how many looks in a row nothing had been asked since the one before, and nothing was being answered.
    let (mut seen, mut quiet) = (0, 0);
    let ended = loop {
        tokio::select! {
            biased;
            () = flow.cut.cancelled() => return tracing::debug!(%peer, "others need its place"),
            ended = connection.as_mut() => break ended,
            () = first.as_mut(), if is_first => {
                is_first = false;
                if asked.load(Ordering::Relaxed) == 0 {
                    return tracing::debug!(%peer, "no request in time");
                }
            }
            _ = look.tick() => {
                if departures.are_stuck(idle) {
                    return tracing::debug!(%peer, "an answer is not taken");
                }
                let asked = asked.load(Ordering::Relaxed);
                quiet = if asked == seen && departures.are_none() { quiet + 1 } else { 0 };
                seen = asked;
                if quiet > LOOKS && !finishing {
                    finishing = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
            () = finish.cancelled(), if !finishing => {
                finishing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error, "connection ended");
    }
}

fn protocols(idle: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // Who ends its side after a request still waits for the answer.
    let mut http1 = builder.http1();
    http1
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        .max_headers(HEADERS)
        .max_buf_size(READ_SIZE)
        .half_close(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADER_LIST)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder
}

/// The requests of one connection.
struct Requests<S> {
    service: S,
    connection: Connection,
    silence: Duration,
    asked: Arc<AtomicU64>,
}

impl<S: Service<Request<Arriving>>> Service<Request<Incoming>> for Requests<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: Request<Incoming>) -> S::Future {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut request = request.map(|body| Arriving::new(body, self.silence));
        let mut connection = self.connection.clone();
        // HTTP/2 cuts bodies into frames of its own.
        connection.lane = connection.lane.filter(|_| request.version() < Version::HTTP_2);
        request.extensions_mut().insert(connection);
        self.service.call(request)
    }
}

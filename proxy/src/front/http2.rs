//! HTTP/2: one connection, many requests at a time.
//!
//! Invariants: what a client may make us keep is bounded on each connection (streams, headers, unread bodies, unsent
//! answers, refused streams); a connection without requests ends after the idle time; on a drain the client is told to
//! open no more streams, and those that run may finish.
//!
//! The requests run within their connection's task. It encrypts all that they send anyway, and a task of their own would
//! wake another thread for every frame.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use pierhead_service::shares::Permit;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Accept, H2Options, HttpSession, default_h2_options, handshake};
use pingora_core::protocols::{Digest, Stream};
use tokio::time::{Instant, timeout};

use super::deadline::Deadline;
use super::service::{Limits, Service};
use super::{Application, Connection, Reuse};

/// Requests at a time.
const STREAMS: u32 = 128;

/// Requests that are being answered, with those that the client gave up: they free their stream at once, and their work
/// only when it next has something to send.
const RUNNING: usize = 4 * STREAMS as usize;

/// Malformed requests on one connection before it is closed.
const MALFORMED: usize = 32;

/// The body of a frame that fills a TLS record together with the nine bytes that head it. A frame that is larger takes
/// a second record, for nine bytes.
pub(crate) const FRAME: usize = 16 * 1024 - 9;

/// What one stream may hold of an answer that the client has not taken yet: whole frames, or every few of them one
/// would be cut to fit.
const SEND_BUFFER: usize = 4 * FRAME;

/// How long a client that has nothing to wait for may take to acknowledge the end of the connection; and one that still
/// sends a body, to see that it has its answer: some clients forget the answer when their stream is reset right behind it.
const FAREWELL: Duration = Duration::from_secs(1);

/// How much of one body may be on its way here. Uploads from afar are as fast as this allows: with the 64 KiB of the
/// protocol, a client at 50 ms gets 1.3 MB/s.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;

/// The same of all bodies of a connection: what a client can make us keep that sends what nobody reads.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// The settings.
fn options(limits: &Limits) -> H2Options {
    let mut options = default_h2_options();
    options
        .max_concurrent_streams(STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(limits.max_header_size).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER);
    options
}

/// Serves a connection to its end.
pub(crate) async fn serve<A: Application>(stream: Stream, service: &Service<A>, connection: &Connection) {
    let Service { application, limits, drain, .. } = service;
    let digest = Arc::new(Digest { ssl_digest: stream.get_ssl_digest(), ..Digest::default() });
    let mut http2 = match timeout(limits.header_timeout, handshake(stream, Some(options(limits)))).await {
        Ok(Ok(http2)) => http2,
        Ok(Err(error)) => return service.refused(connection, "malformed", Some(&error)),
        Err(_) => return service.refused(connection, "timeout", None),
    };
    let mut requests = FuturesUnordered::new();
    let mut stop = pin!(drain.draining());
    let mut idle_timeout = limits.idle_timeout;
    let mut idle = Deadline::new(Instant::now() + idle_timeout);
    let mut draining = false;
    let mut malformed = 0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.as_mut(), if !draining => {
                draining = true;
                idle_timeout = idle_timeout.min(FAREWELL);
                idle.set(Instant::now() + idle_timeout);
                http2.graceful_shutdown();
                continue;
            }
            accepted = HttpSession::from_h2_conn(&mut http2, Arc::clone(&digest)) => accepted,
            Some(()) = requests.next() => {
                if requests.is_empty() {
                    connection.session.waits();
                    idle.set(Instant::now() + idle_timeout);
                }
                continue;
            }
            () = idle.passed(), if requests.is_empty() => return,
        };
        match accepted {
            Ok(Some(H2Accept::Session(_))) if requests.len() >= RUNNING => {
                service.refused(connection, "abandoned", None);
                break;
            }
            Ok(Some(H2Accept::Session(session))) => {
                connection.session.moved(0);
                let first = requests.is_empty();
                let request = async move {
                    let _place = match first {
                        true => None,
                        false => Some(place(service, connection).await?),
                    };
                    handle(session, application, connection, limits.write_timeout).await;
                    Some(())
                };
                // One request's fault is not the others'. The panic itself is logged where all are.
                requests.push(AssertUnwindSafe(request).catch_unwind().map(drop));
            }
            Ok(Some(H2Accept::Rejected)) => {
                malformed += 1;
                if malformed >= MALFORMED {
                    service.refused(connection, "malformed", None);
                    break;
                }
            }
            Ok(None) | Err(_) => break,
        }
    }
    // The requests see that the connection has ended, and end in good order: each is logged and counted.
    drop(http2);
    while requests.next().await.is_some() {}
}

/// A place for a request beside the first of its connection: a client that opens all its streams and takes nothing holds the buffers of all.
/// Without one the stream is reset.
async fn place<A: Application>(service: &Service<A>, connection: &Connection) -> Option<Permit> {
    let party = service.admission.party(connection.client.ip());
    match service.streams.enter(party).await {
        Ok(place) => {
            // Its connection is closed when it is too slow.
            place.pace().moved(0);
            Some(place)
        }
        Err(_) => {
            service.metrics.limited(&connection.listener, "share");
            service.refused(connection, "connections", None);
            None
        }
    }
}

/// Answers one request.
async fn handle<A: Application>(
    session: HttpSession,
    application: &Arc<A>,
    connection: &Connection,
    write_timeout: Duration,
) {
    let mut session = ServerSession::new_http2(session);
    session.set_write_timeout(Some(write_timeout));
    match application.handle(&mut session, connection).await {
        Reuse::Keep => {
            // A client that went away before the end is no news.
            let finished = session.finish_body().await.is_ok();
            if finished
                && !session.is_body_done()
                && let Some(closed) = session.watch_h2_stream_close()
            {
                drop(timeout(FAREWELL, closed).await);
            }
        }
        Reuse::Close => session.shutdown().await,
    }
}

//! HTTP/2: one connection, many requests at a time.
//!
//! Invariants: what a client may make us keep is bounded on each connection (streams, headers, unread bodies, unsent
//! answers, refused streams); a connection without requests ends after the idle time; on a drain the client is told to
//! open no more streams, and those that run may finish.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Accept, H2Options, HttpSession, default_h2_options, handshake};
use pingora_core::protocols::{Digest, Stream};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::service::{Limits, Service};
use super::{Application, Connection, Reuse};

/// Requests at a time.
const STREAMS: u32 = 128;

/// Malformed requests on one connection before it is closed.
const MALFORMED: usize = 32;

/// The body of a frame that fills a TLS record together with the nine bytes that head it. A frame that is larger takes
/// a second record, for nine bytes.
pub(crate) const FRAME: usize = 16 * 1024 - 9;

/// What one stream may hold of an answer that the client has not taken yet: whole frames, or every few of them one
/// would be cut to fit.
const SEND_BUFFER: usize = 8 * FRAME;

/// How long a client that has nothing to wait for may take to acknowledge the end of the connection.
const FAREWELL: Duration = Duration::from_secs(1);

/// The settings. Windows for what clients send stay small (64 KiB a connection): no request here has a body worth it.
fn options(limits: &Limits) -> H2Options {
    let mut options = default_h2_options();
    options
        .max_concurrent_streams(STREAMS)
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
    let requests = Arc::new(Requests::default());
    let mut stop = pin!(drain.draining());
    let mut idle_timeout = limits.idle_timeout;
    let mut draining = false;
    let mut malformed = 0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.as_mut(), if !draining => {
                draining = true;
                idle_timeout = idle_timeout.min(FAREWELL);
                http2.graceful_shutdown();
                continue;
            }
            accepted = HttpSession::from_h2_conn(&mut http2, Arc::clone(&digest)) => accepted,
            () = requests.idle_for(idle_timeout) => return,
        };
        match accepted {
            Ok(Some(H2Accept::Session(session))) => {
                let (application, connection) = (Arc::clone(application), connection.clone());
                let write_timeout = limits.write_timeout;
                let running = requests.start();
                drain.spawn(async move {
                    handle(session, &application, &connection, write_timeout).await;
                    drop(running);
                });
            }
            Ok(Some(H2Accept::Rejected)) => {
                malformed += 1;
                if malformed >= MALFORMED {
                    service.refused(connection, "malformed", None);
                    return;
                }
            }
            Ok(None) | Err(_) => return,
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
        // A client that went away before the end is no news.
        Reuse::Keep => drop(session.finish().await),
        Reuse::Close => session.shutdown().await,
    }
}

/// Counts the requests of one connection.
#[derive(Debug, Default)]
struct Requests {
    running: AtomicUsize,
    ended: Notify,
}

/// One of them; ends with it.
struct Running(Arc<Requests>);

impl Requests {
    fn start(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(Arc::clone(self))
    }

    /// Returns when none has been running for `time`, counted from the call or from the end of the last one.
    async fn idle_for(&self, time: Duration) {
        loop {
            while self.running.load(Ordering::Relaxed) > 0 {
                self.ended.notified().await;
            }
            tokio::time::sleep(time).await;
            if self.running.load(Ordering::Relaxed) == 0 {
                return;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.ended.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn idle_time_counts_from_the_end_of_the_last_request() {
        let requests = Arc::new(Requests::default());
        let begin = tokio::time::Instant::now();
        let (first, second) = (requests.start(), requests.start());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(3)).await;
            drop(first);
            tokio::time::sleep(Duration::from_secs(4)).await;
            drop(second);
        });
        requests.idle_for(Duration::from_secs(10)).await;
        assert_eq!(begin.elapsed().as_secs(), 17);
    }
}

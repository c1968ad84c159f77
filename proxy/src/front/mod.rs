//! Listeners: from an accepted connection to a request whose header has been read.
//!
//! The way of a connection is a row of separate steps ([`accepted`]): accept ([`listener`]) → PROXY header
//! ([`proxy_protocol`]) → limits ([`admission`]) → layer 4, by the name that a TLS client wants ([`hello`]) or for all that
//! comes ([`tcp`]) → TLS ([`tls`]) → HTTP/1 ([`http1`]) or HTTP/2 ([`http2`]) → [`Application`].
//!
//! Invariants: nothing that a client sends or leaves unsent holds memory or a connection beyond the listener's
//! limits; a connection that the application did not finish never looks finished to the client; while draining, no
//! connection is kept for another request.
//!
//! The accept loop is our own and not Pingora's server: that one closes its listeners at once on SIGTERM, then sleeps
//! a fixed time, has no deadline for a header and no place for limits.

mod accepted;
mod account;
mod admission;
mod chunks;
mod deadline;
mod drain;
mod encrypted;
#[cfg(test)]
mod floods;
mod head;
mod hello;
mod http1;
mod http2;
pub(crate) mod lanes;
mod limits;
mod listener;
mod listening;
mod pipe;
mod plain;
mod proxy_protocol;
mod relay;
mod service;
mod socket;
mod splice;
mod stream;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;

use pingora_core::protocols::http::ServerSession;

use crate::admin::sessions::Session;
use crate::pool::Pool;
use pierhead_service::logging::AccessLog;

pub(crate) use admission::Admission;
pub(crate) use chunks::MalformedChunk;
pub(crate) use deadline::Deadline;
pub(crate) use drain::{Drain, Phase};
pub(crate) use http2::FRAME;
pub(crate) use limits::RequestLimits;
pub(crate) use listener::{Common, Listener, ListenerCertificates, Prepared};
pub(crate) use listening::{Listening, prepare};
pub(crate) use tls::{TlsError, check as check_tls, client_certificate_doubt};

/// Where a request came from.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// The listener's name.
    pub(crate) listener: Arc<str>,
    /// The client: who connected, or whom the PROXY header names.
    pub(crate) client: SocketAddr,
    /// Who connected: the client, or a load balancer in front.
    pub(crate) peer: SocketAddr,
    /// Where the client connected: our own address, or the one that the PROXY header names.
    pub(crate) destination: SocketAddr,
    /// Whether over TLS that ended here.
    pub(crate) secure: bool,
    /// Whom the client's certificate is for, where it had to show one.
    pub(crate) subject: Option<Arc<str>>,
    /// Its entry among those that are open.
    pub(crate) session: Arc<Session>,
}

/// What may become of a connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// The response is complete: another request may follow.
    Keep,
    /// The response is not complete: the client must see that it broke off.
    Close,
}

/// What answers requests.
pub(crate) trait Application: Send + Sync + 'static {
    /// A pool that connections are passed on to, by its name, as it is just now.
    fn pool(&self, name: &str) -> Option<Arc<Pool>>;

    /// Where sessions are written down.
    fn access_log(&self) -> AccessLog;

    /// Answers one request, whose header has been read.
    fn handle(
        self: &Arc<Self>,
        session: &mut ServerSession,
        connection: &Connection,
    ) -> impl Future<Output = Reuse> + Send;
}

//! Another way to an endpoint than by connecting to its URL's host: over a pool of servers, whose name may well be our
//! own.
//!
//! What a transport carries is its own business, retries on other servers included. So an endpoint that has one has no
//! circuit breaker and no lookout here: the transport knows better who is there.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use url::Url;

use super::failure::Failure;

/// The body of an answer. It ends where its framing says; one that broke off ends with an error.
pub type TransportBody = BoxStream<'static, Result<Bytes, io::Error>>;

/// Carries requests without a body to one endpoint.
pub trait Transport: Send + Sync + 'static {
    /// Whether requests for this URL are its own, and go by no other way.
    fn carries(&self, url: &Url) -> bool;

    /// Whether a request would find anybody just now.
    fn available(&self) -> bool;

    /// Sends a request, whose URI is absolute, and returns the header of its answer, whatever its status. Dropping the
    /// future, or the body, ends the exchange.
    fn send(&self, request: http::Request<()>) -> BoxFuture<'_, Result<http::Response<TransportBody>, TransportError>>;
}

/// Why there is no answer. The texts are for logs: they hold no credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// Nobody is there.
    #[error("{0}")]
    Dead(String),
    /// Somebody is there, and could not. May be better the next time.
    #[error("{0}")]
    Broken(String),
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Failure {
        match error {
            TransportError::Dead(reason) => Failure::dead(reason),
            TransportError::Broken(reason) => Failure::broken(reason),
        }
    }
}

/// A transport among settings, which are printed.
#[derive(Clone)]
pub struct SharedTransport(pub Arc<dyn Transport>);

impl fmt::Debug for SharedTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}

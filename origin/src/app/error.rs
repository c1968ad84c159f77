//! Why an origin did not start, or did not stop as it should.

use std::io;
use std::net::SocketAddr;

use pierhead_config::Problems;
use pierhead_registry::store::StoreError;

use super::tls::TlsError;
use crate::auth::AuthError;
use crate::meta::{MetaError, OpenError};
use crate::workers::CollectError;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppError {
    /// What is wrong with the configuration, a line each.
    #[error(transparent)]
    Config(#[from] Problems),
    /// No threads, no signals.
    #[error("runtime: {0}")]
    Runtime(#[source] io::Error),
    /// The names of metrics are wrong: a fault of ours.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// An address cannot be had.
    #[error("{listener}.bind: {address}: {source}{}", if source.kind() == io::ErrorKind::AddrInUse { ": another process listens there" } else { "" })]
    Bind {
        /// Which section has it.
        listener: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The certificate cannot be used.
    #[error("listener.tls: {0}")]
    Tls(#[from] TlsError),
    /// The database.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// A question to the database.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The store of blobs.
    #[error("storage: {0}")]
    Store(#[from] StoreError),
    /// Accounts and keys.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// Garbage collection broke off.
    #[error("garbage collection broke off, and goes on the next time: {0}")]
    Collect(#[from] CollectError),
    /// Somebody else is at it.
    #[error("another node collects garbage at the moment")]
    AnotherCollects,
    /// Nothing may be written.
    #[error("registry_state: readonly: nothing is taken away")]
    ReadOnly,
    /// A second signal.
    #[error("stopped at once by a second signal")]
    Interrupted,
}

//! Why an edge did not start, or did not stop as it should.

use std::io;
use std::net::SocketAddr;

use pierhead_registry::client::BuildError;

use crate::cache::OpenError;
use crate::front::TlsError;
use crate::pool::PoolError;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppError {
    /// No threads, no signals.
    #[error("runtime: {0}")]
    Runtime(#[source] io::Error),
    /// The names of metrics are wrong: a fault of ours.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The address of a listener cannot be had.
    #[error("{key}: cannot listen on {address}: {}", why_not(source))]
    Bind {
        /// The key of the configuration that names the address.
        key: String,
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The certificates of a listener cannot be used.
    #[error("listener {name}: {source}")]
    Tls {
        /// Which listener.
        name: String,
        /// Why not.
        source: Box<TlsError>,
    },
    /// The store.
    #[error(transparent)]
    Cache(#[from] OpenError),
    /// The client of a registry.
    #[error("registry {name}: {source}")]
    Client {
        /// Which registry.
        name: String,
        /// Why not.
        source: BuildError,
    },
    /// A pool.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// What is wrong with a new configuration, a line each.
    #[error("{}", .0.join("\n"))]
    Refused(Vec<String>),
    /// Started to take over from an edge that does not hand over.
    #[error("taking over from a running edge: {0}")]
    TakeOver(#[source] io::Error),
    /// A second signal.
    #[error("stopped at once by a second signal")]
    Interrupted,
}

/// What keeps an address from being listened on, and what to do about it.
fn why_not(error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there: stop it, or choose another port",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address",
        io::ErrorKind::PermissionDenied => "ports below 1024 need root or the capability CAP_NET_BIND_SERVICE",
        _ => return error.to_string(),
    };
    format!("{advice} ({error})")
}

impl AppError {
    /// A line for each problem.
    pub(super) fn problems(&self) -> Vec<String> {
        match self {
            AppError::Refused(problems) => problems.clone(),
            other => vec![other.to_string()],
        }
    }
}

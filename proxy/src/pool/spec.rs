//! What a server is by the word of others: the configuration, DNS, the operator.
//!
//! Invariant: nothing here is found out by asking the server itself; that is its state.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Duration;

use super::orders::Waiting;
use super::queue::Queue;
use super::state::Rules;
use super::view::Operator;

/// The operator has not said what a server weighs.
pub(super) const UNSAID: u32 = u32::MAX;

/// What is written down of a server, or said of it by DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    /// In the pool.
    pub(super) name: String,
    /// Where.
    pub(super) address: SocketAddr,
    /// The host name that the address was found by.
    pub(super) host: Option<String>,
    /// Its share.
    pub(super) weight: u32,
    /// Only used when no other is up.
    pub(super) backup: bool,
    /// Requests and sessions at once.
    pub(super) max_connections: Option<usize>,
    /// Down until a check succeeds.
    pub(super) checked_first: bool,
}

/// What holds for all servers of a pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// What results mean.
    pub(super) rules: Rules,
    /// How long a server that comes back gets less than its share.
    pub(super) slow_start: Duration,
    /// Whether sessions are closed when their server goes down.
    pub(super) closes: bool,
}

/// What a server has in common with the others of its pool.
#[derive(Clone)]
pub(super) struct Surroundings {
    /// The pool's name.
    pub(super) pool: Arc<str>,
    /// Who waits for a place.
    pub(super) queue: Arc<Queue>,
    /// What was said of servers that are not there yet.
    pub(super) waiting: Waiting,
}

/// What the operator has said of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Orders {
    /// In which state.
    pub(super) operator: Operator,
    /// [`UNSAID`]: as configured.
    pub(super) weight: u32,
}

impl Default for Orders {
    fn default() -> Orders {
        Orders { operator: Operator::Ready, weight: UNSAID }
    }
}

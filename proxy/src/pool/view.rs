//! What operators see of a pool: plain values, as they were at one moment.
//!
//! Invariant: a view holds on to nothing of the pool, so whoever shows it may take their time.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// A pool.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PoolView {
    /// As configured.
    pub(crate) name: String,
    /// Whether a request would find a server.
    pub(crate) available: bool,
    /// Requests that wait for a place on a server.
    pub(crate) queued: usize,
    /// How many may.
    pub(crate) queue_size: usize,
    /// Its servers, those that are written down first.
    pub(crate) servers: Vec<ServerView>,
    /// What DNS was asked for, where it is.
    pub(crate) names: Vec<NameView>,
}

/// A server.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ServerView {
    /// In the pool.
    pub(crate) name: String,
    /// Where.
    pub(crate) address: SocketAddr,
    /// Its share, as it holds just now.
    pub(crate) weight: u32,
    /// As configured, or as DNS says.
    pub(crate) configured_weight: u32,
    /// Only used when no other is up.
    pub(crate) backup: bool,
    /// What is known of it.
    pub(crate) state: ServerState,
    /// What the operator wants.
    pub(crate) operator: Operator,
    /// Why it is in this state.
    pub(crate) reason: String,
    /// Since when.
    pub(crate) since: SystemTime,
    /// Requests and sessions that it is busy with.
    pub(crate) active: usize,
    /// How many it may have.
    pub(crate) max_connections: Option<usize>,
    /// Leases that were given on it.
    pub(crate) requests: u64,
    /// Those that failed.
    pub(crate) errors: u64,
    /// Checks that it passed.
    pub(crate) checks_passed: u64,
    /// Checks that it failed.
    pub(crate) checks_failed: u64,
    /// The last of them.
    pub(crate) last_check: Option<CheckView>,
}

/// A check of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckView {
    /// When it ended.
    pub(crate) at: SystemTime,
    /// How long it took.
    pub(crate) took: Duration,
    /// Why it failed, where it did.
    pub(crate) failure: Option<String>,
}

/// A name that DNS is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NameView {
    /// Which.
    pub(crate) name: String,
    /// When there last was an answer with servers.
    pub(crate) answered: Option<SystemTime>,
    /// Why the newest question brought none, where it did not.
    pub(crate) failure: Option<String>,
}

/// What is known of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerState {
    /// It works, or is believed to.
    Up,
    /// It does not, as checks or requests have shown.
    Down,
    /// Requests failed, and nothing checks it: it is left alone for a while.
    Held,
}

/// What the operator wants of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Operator {
    /// To serve.
    #[default]
    Ready,
    /// To finish what it has and get nothing new.
    Drain,
    /// To have nothing at all: layer-4 sessions are closed.
    Maintenance,
}

impl ServerState {
    /// As it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            ServerState::Up => "up",
            ServerState::Down => "down",
            ServerState::Held => "held",
        }
    }
}

impl Operator {
    /// As it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operator::Ready => "ready",
            Operator::Drain => "drain",
            Operator::Maintenance => "maintenance",
        }
    }
}

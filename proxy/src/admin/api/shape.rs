//! The shapes of the API's documents. The edge writes them, `pierhead ctl` reads them, and the OpenAPI document is
//! derived from them: there is no second description that could differ.
//!
//! Times are RFC 3339 in UTC.

mod cache;

use std::time::SystemTime;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

pub(crate) use self::cache::{
    Absence, CacheStats, Holding, HoldingList, Image, ImageList, Part, Pinned, Purged, RegistryStats, Why,
};
use crate::admin::control::Status;
use crate::admin::sessions::SessionView;
use crate::pool;

/// All pools.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct PoolList {
    /// By name.
    pub(crate) pools: Vec<Pool>,
}

/// Servers that do the same.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Pool {
    /// As configured.
    pub(crate) name: String,
    /// Whether a request would find a server.
    pub(crate) available: bool,
    /// Requests and sessions that wait for a server.
    pub(crate) queued: usize,
    /// How many may.
    pub(crate) queue_size: usize,
    /// Those that are written down first.
    pub(crate) servers: Vec<Server>,
    /// What DNS is asked for.
    pub(crate) names: Vec<Name>,
}

/// A server of a pool.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Server {
    /// In the pool.
    pub(crate) name: String,
    /// Address and port.
    pub(crate) address: String,
    /// What is known of it: `up`, `down`, or `held` (requests failed and nothing checks it: left alone for a while).
    pub(crate) state: String,
    /// What operators want of it: `ready`, `drain` or `maintenance`.
    pub(crate) operator: String,
    /// Why it is in this state.
    pub(crate) reason: String,
    /// Since when.
    pub(crate) since: String,
    /// Its share, as it holds now.
    pub(crate) weight: u32,
    /// As configured, or as DNS says.
    pub(crate) configured_weight: u32,
    /// Only used when no other is up.
    pub(crate) backup: bool,
    /// Requests and sessions that it is busy with.
    pub(crate) active: usize,
    /// How many it may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_connections: Option<usize>,
    /// Requests and sessions that it was chosen for.
    pub(crate) requests: u64,
    /// Those that failed.
    pub(crate) errors: u64,
    /// Health checks.
    pub(crate) checks: Checks,
}

/// Health checks of a server.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Checks {
    /// How many it passed.
    pub(crate) passed: u64,
    /// How many it failed.
    pub(crate) failed: u64,
    /// The last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<LastCheck>,
}

/// The last check of a server.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct LastCheck {
    /// When it ended.
    pub(crate) at: String,
    /// How long it took.
    pub(crate) took_ms: f64,
    /// Why it failed, where it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<String>,
}

/// A name that DNS is asked for.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Name {
    /// Which.
    pub(crate) name: String,
    /// When there last was an answer with servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) answered: Option<String>,
    /// Why the newest question brought none, where it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<String>,
}

/// What an operator wants of a server. All variants have braces: serde lets the others have any field beside their tag.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Order {
    /// To finish what it has and to get nothing new.
    Drain {},
    /// To have nothing at all: its layer-4 sessions are closed.
    Maintenance {},
    /// To serve again.
    Ready {},
    /// To have another share.
    Weight {
        /// Which; the configured one when absent.
        #[serde(default, deserialize_with = "weight", skip_serializing_if = "Option::is_none")]
        #[schema(maximum = 65535)]
        weight: Option<u32>,
    },
}

/// Reads a weight within the configuration's limits. The parser of a tagged enum does not say which key is wrong.
fn weight<'de, D: Deserializer<'de>>(parser: D) -> Result<Option<u32>, D::Error> {
    let wrong =
        || D::Error::custom("`weight`: must be a whole number from 0 to 65535, or left out for the configured one");
    match serde_json::Value::deserialize(parser)? {
        serde_json::Value::Null => Ok(None),
        value => value
            .as_u64()
            .and_then(|number| u16::try_from(number).ok())
            .map(|number| Some(number.into()))
            .ok_or_else(wrong),
    }
}

/// Open connections.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct SessionList {
    /// How many there are, those that are not shown included.
    pub(crate) total: usize,
    /// The oldest first.
    pub(crate) sessions: Vec<Session>,
}

/// An open connection.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Session {
    /// Counted from the start of the edge.
    pub(crate) id: u64,
    /// By its name.
    pub(crate) listener: String,
    /// For whom it is: who connected, or whom a load balancer in front named.
    pub(crate) client: String,
    /// Who connected.
    pub(crate) peer: String,
    /// When it was accepted.
    pub(crate) since: String,
    /// `HTTP/1.1`, `HTTP/2`, `tcp`; `unknown` until it is known.
    pub(crate) protocol: String,
    /// Whether over TLS that ends here.
    pub(crate) secure: bool,
    /// Of layer 4: where to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pool: Option<String>,
    /// Of layer 4: to whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<String>,
    /// Of layer 4: bytes from the client.
    pub(crate) received: u64,
    /// Of layer 4: bytes to the client.
    pub(crate) sent: u64,
}

/// Certificates that listeners show.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct CertificateList {
    /// By listener, in the order in which they are chosen.
    pub(crate) certificates: Vec<Certificate>,
    /// Listeners whose newest files cannot be used.
    #[serde(default)]
    pub(crate) refused: Vec<RefusedFiles>,
}

/// New files of a listener's certificates that cannot be used, while the old certificates serve on.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct RefusedFiles {
    /// The listener.
    pub(crate) listener: String,
    /// What is wrong, with the file.
    pub(crate) problem: String,
}

/// A certificate.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Certificate {
    /// Who shows it.
    pub(crate) listener: String,
    /// The file.
    pub(crate) file: String,
    /// The hosts that it is for.
    pub(crate) names: Vec<String>,
    /// Who it is for.
    pub(crate) subject: String,
    /// Who says so.
    pub(crate) issuer: String,
    /// As the authority counts, hexadecimal.
    pub(crate) serial: String,
    /// SHA-256, hexadecimal.
    pub(crate) fingerprint: String,
    /// Not valid before.
    pub(crate) not_before: String,
    /// Not valid after.
    pub(crate) not_after: String,
    /// How long until then; negative when it is over.
    pub(crate) seconds_left: i64,
}

/// Which configuration is in use, and what came of the last look at the file.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Reload {
    /// Counted from the start; the first is 1.
    pub(crate) generation: u64,
    /// Since when it is in use.
    pub(crate) since: String,
    /// When the file was last read.
    pub(crate) looked: String,
    /// What was wrong with it then. Empty: it is the one in use.
    pub(crate) problems: Vec<String>,
}

/// What runs.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Version {
    /// Always `pierhead`.
    pub(crate) name: String,
    /// Of the program.
    pub(crate) version: String,
    /// The process.
    pub(crate) pid: u32,
    /// When it began to answer here.
    pub(crate) started: String,
}

/// Why a request was not carried out.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// See there.
    pub(crate) error: Failure,
}

/// A failure.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Failure {
    /// For programs.
    pub(crate) code: String,
    /// For people.
    pub(crate) message: String,
    /// Of a configuration that cannot be used: each, as `path: message`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) problems: Vec<String>,
}

/// RFC 3339, to the millisecond.
pub(super) fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

impl From<pool::PoolView> for Pool {
    fn from(view: pool::PoolView) -> Pool {
        Pool {
            name: view.name,
            available: view.available,
            queued: view.queued,
            queue_size: view.queue_size,
            servers: view.servers.into_iter().map(Server::from).collect(),
            names: view
                .names
                .into_iter()
                .map(|name| Name { name: name.name, answered: name.answered.map(time), failure: name.failure })
                .collect(),
        }
    }
}

impl From<pool::ServerView> for Server {
    fn from(view: pool::ServerView) -> Server {
        let last = view.last_check.map(|check| LastCheck {
            at: time(check.at),
            took_ms: check.took.as_secs_f64() * 1000.0,
            failure: check.failure,
        });
        Server {
            name: view.name,
            address: view.address.to_string(),
            state: view.state.name().to_owned(),
            operator: view.operator.name().to_owned(),
            reason: view.reason,
            since: time(view.since),
            weight: view.weight,
            configured_weight: view.configured_weight,
            backup: view.backup,
            active: view.active,
            max_connections: view.max_connections,
            requests: view.requests,
            errors: view.errors,
            checks: Checks { passed: view.checks_passed, failed: view.checks_failed, last },
        }
    }
}

impl From<SessionView> for Session {
    fn from(view: SessionView) -> Session {
        Session {
            id: view.id,
            listener: view.listener.as_ref().to_owned(),
            client: view.client.to_string(),
            peer: view.peer.to_string(),
            since: time(view.since),
            protocol: view.protocol.to_owned(),
            secure: view.secure,
            pool: view.pool.as_deref().map(str::to_owned),
            server: view.server.as_deref().map(str::to_owned),
            received: view.received,
            sent: view.sent,
        }
    }
}

impl From<Status> for Reload {
    fn from(status: Status) -> Reload {
        Reload {
            generation: status.generation,
            since: time(status.since),
            looked: time(status.looked),
            problems: status.problems,
        }
    }
}

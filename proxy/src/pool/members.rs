//! Who belongs to a pool: the servers that are written down, and those that DNS names.
//!
//! Invariants: a server that stays keeps all that is known of it; one that goes gets nothing new, and what it is busy with
//! goes on; what the operator said of a name outlives a change of its address.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use pierhead_config as config;
use pierhead_config::{Address, DnsRecord};
use serde::{Deserialize, Serialize};

use super::discover::Kept;
use super::server::Server;
use super::spec::{Spec, Surroundings, Terms};
use super::state::Rules;
use crate::admin::metrics::Metrics;

/// What DNS is asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Question {
    /// The address of a server that is written down.
    Host(String, u16),
    /// Servers, all on this port.
    Addresses(String, u16),
    /// Servers with ports, weights and priorities of their own.
    Srv(String),
}

impl Question {
    /// What is asked for.
    pub(super) fn name(&self) -> &str {
        match self {
            Question::Host(name, _) | Question::Addresses(name, _) | Question::Srv(name) => name,
        }
    }
}

/// A server, as DNS names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Found {
    /// Where.
    pub(super) address: SocketAddr,
    /// The host name that led there.
    pub(super) host: String,
    /// Its share.
    pub(super) weight: u32,
    /// Whether there are servers of a better priority.
    pub(super) backup: bool,
}

/// What is known of the answers to each question.
pub(super) type Answers = BTreeMap<Question, Kept>;

/// The servers of a pool at one moment, and whose turn it is.
pub(super) struct Members {
    pub(super) servers: Arc<Vec<Arc<Server>>>,
    /// One for each server: see [`super::select::Rule::InTurn`].
    pub(super) credits: Mutex<Vec<i64>>,
}

impl Members {
    pub(super) fn new(servers: Vec<Arc<Server>>) -> Members {
        Members { credits: Mutex::new(vec![0; servers.len()]), servers: Arc::new(servers) }
    }

    /// Those that are wanted: the known ones as they are, the others new.
    pub(super) fn of(
        specs: &[Spec],
        known: &[Arc<Server>],
        terms: &Terms,
        surroundings: &Surroundings,
        metrics: &Metrics,
    ) -> Members {
        let server = |spec: &Spec| {
            if let Some(same) = known.iter().find(|known| known.is(spec)) {
                return Arc::clone(same);
            }
            let predecessor = known.iter().find(|known| known.name() == spec.name);
            let orders = predecessor.map_or_else(|| surroundings.waiting.of(&spec.name), |server| server.orders());
            let counts = metrics.server(&surroundings.pool, &spec.name);
            Arc::new(Server::new(spec, terms, orders, surroundings, counts))
        };
        Members::new(specs.iter().map(server).collect())
    }
}

/// All that DNS is to be asked for a pool.
pub(super) fn questions(settings: &config::Pool) -> Vec<Question> {
    let hosts = settings.servers.iter().filter_map(|server| match &server.address {
        Address::Name { host, port } => Some(Question::Host(host.clone(), *port)),
        Address::Socket(_) => None,
    });
    let mut questions: Vec<Question> = hosts.chain(settings.discovery.as_ref().map(discovery)).collect();
    questions.sort();
    questions.dedup();
    questions
}

fn discovery(discovery: &config::Discovery) -> Question {
    match discovery.record {
        DnsRecord::Address { port } => Question::Addresses(discovery.name.clone(), port),
        DnsRecord::Srv => Question::Srv(discovery.name.clone()),
    }
}

/// The servers that a pool has by its configuration and these answers. Pure. Names are unique; whoever is written down is
/// not discovered a second time.
pub(super) fn specs(settings: &config::Pool, answers: &Answers) -> Vec<Spec> {
    let mut specs: Vec<Spec> = settings.servers.iter().filter_map(|server| written(server, answers)).collect();
    let discovered = settings.discovery.as_ref();
    let found = discovered.and_then(|discovery| Some((discovery, &answers.get(&self::discovery(discovery))?.found)));
    for (discovery, found) in found.into_iter().flat_map(|(discovery, all)| all.iter().map(move |one| (discovery, one)))
    {
        let name = found.address.to_string();
        if specs.iter().any(|spec| spec.address == found.address || spec.name == name) {
            continue;
        }
        specs.push(Spec {
            name,
            address: found.address,
            host: Some(found.host.clone()),
            weight: found.weight,
            backup: found.backup,
            max_connections: discovery.max_connections,
            checked_first: discovery.checked_first,
        });
    }
    specs
}

fn written(server: &config::Server, answers: &Answers) -> Option<Spec> {
    let (address, host) = match &server.address {
        Address::Socket(address) => (*address, None),
        Address::Name { host, port } => {
            let found = answers.get(&Question::Host(host.clone(), *port))?.found.first()?;
            (found.address, Some(host.clone()))
        }
    };
    Some(Spec {
        name: server.name.clone(),
        address,
        host,
        weight: server.weight,
        backup: server.backup,
        max_connections: server.max_connections,
        checked_first: server.checked_first,
    })
}

/// What holds for all servers of a pool.
pub(super) fn terms(settings: &config::Pool) -> Terms {
    let health = settings.health.as_ref();
    let rules = Rules {
        rise: health.map_or(1, |health| health.rise),
        fall: health.map_or(1, |health| health.fall),
        checked: health.is_some(),
        passive: settings.passive,
    };
    Terms { rules, slow_start: settings.slow_start, closes: settings.on_down == config::OnDown::Close }
}

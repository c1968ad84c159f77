//! Which listening socket is for which listener: those that are open already, those that somebody handed over, and new
//! ones.
//!
//! Invariant: a socket that is asked for again is the same socket, so that a connection in its queue is never lost.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};

use serde::{Deserialize, Serialize};

use super::AppError;
use crate::front::Listening;

/// What the operators' listener is called.
pub(super) const ADMIN: &str = "admin";

/// What makes a socket the one that a listener wants: its address, and where the system chose the port, the listener's
/// name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Place {
    bind: SocketAddr,
    name: Option<String>,
}

impl Place {
    pub(super) fn of(name: &str, bind: SocketAddr) -> Place {
        Place { bind, name: (bind.port() == 0).then(|| name.to_owned()) }
    }
}

/// Sockets that are open and wait to be asked for.
#[derive(Default)]
pub(super) struct Sockets {
    open: BTreeMap<Place, Listening>,
    /// In use until what is being built takes over.
    used: Vec<Listening>,
}

impl Sockets {
    /// Offers sockets that somebody handed over. Needs the runtime.
    pub(super) fn handed_over(sockets: Vec<(Place, TcpListener)>) -> std::io::Result<Sockets> {
        let adopt = |(place, socket)| Ok((place, Listening::adopt(socket)?));
        Ok(Sockets { open: sockets.into_iter().map(adopt).collect::<std::io::Result<_>>()?, used: Vec::new() })
    }

    /// Offers none, beside those that are in use.
    pub(super) fn beside(used: Vec<(Place, Listening)>) -> Sockets {
        Sockets { open: BTreeMap::new(), used: used.into_iter().map(|(_, socket)| socket).collect() }
    }

    /// The socket of a listener: handed over by the service manager or a predecessor, else opened. `key` is where the
    /// configuration names the address.
    pub(super) fn take(&mut self, name: &str, bind: SocketAddr, key: &str) -> Result<Listening, AppError> {
        if let Some(socket) = self.open.remove(&Place::of(name, bind)) {
            return Ok(socket);
        }
        Listening::open(bind, self.open.values().chain(&self.used)).map_err(|source| AppError::Bind {
            key: key.to_owned(),
            address: bind,
            source,
        })
    }
}

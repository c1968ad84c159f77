//! The application of all listeners: it takes each request to whom its listener is for, as the configuration is just now.
//!
//! Invariant: a request sees one generation of the configuration, from its beginning to its end; the next request, even
//! of the same connection, sees the newest.

#![allow(dead_code, reason = "those who use it come next")]

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use pierhead_config::HttpTarget;
use pingora_core::protocols::http::ServerSession;

use super::Edge;
use crate::front::{Application, Connection, Reuse};
use crate::logging::AccessLog;
use crate::pool::{Pool, Pools};

/// What one configuration came to; at first nothing. It lives for as long as a request that began under it.
#[derive(Default)]
pub(crate) struct Generation {
    /// The registries, where there are any.
    pub(crate) edge: Option<Arc<Edge>>,
    /// The pools.
    pub(crate) pools: Arc<Pools>,
    /// Who answers, by listener.
    pub(crate) targets: HashMap<Arc<str>, HttpTarget>,
    /// Where requests and sessions are written down.
    pub(crate) access_log: AccessLog,
}

/// See the module.
pub(crate) struct Gate {
    current: ArcSwap<Generation>,
}

impl Gate {
    /// With the first generation.
    pub(crate) fn new(first: Generation) -> Gate {
        Gate { current: ArcSwap::from_pointee(first) }
    }

    /// The newest generation.
    pub(crate) fn current(&self) -> Arc<Generation> {
        self.current.load_full()
    }

    /// From here on, requests see this one.
    pub(crate) fn replace(&self, next: Generation) {
        self.current.store(Arc::new(next));
    }
}

impl Application for Gate {
    fn pool(&self, name: &str) -> Option<Arc<Pool>> {
        self.current.load().pools.get(name).cloned()
    }

    fn access_log(&self) -> AccessLog {
        self.current.load().access_log.clone()
    }

    async fn handle(self: &Arc<Self>, session: &mut ServerSession, connection: &Connection) -> Reuse {
        let generation = self.current();
        match (generation.targets.get(&connection.listener), &generation.edge) {
            (Some(HttpTarget::Registries), Some(edge)) => edge.handle(session, connection).await,
            _ => Reuse::Close,
        }
    }
}

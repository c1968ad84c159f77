//! From one checked configuration to what runs: built whole beside what runs already, then put in its place.
//!
//! Invariants: all that can fail fails while it is built, and then nothing has changed; what a new configuration does
//! not change goes on as it was: sockets, tokens of upstreams, states of servers, logins. A generation that nobody uses any more is
//! dropped, and with it what belonged to it alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use pierhead_config::{Admin, Config};
use tokio::task::JoinHandle;

use super::clients::{self, Known};
use super::sockets::{ADMIN, Place, Sockets};
use super::upgrade::Predecessor;
use super::{AppError, parts};
use crate::admin::control::Control;
use crate::admin::metrics::Metrics;
use crate::admin::{self, Operated};
use crate::cache::{self, Cache};
use crate::client_config::url;
use crate::edge::{Edge, EdgeParts, Gate, Generation, Recorder, RegistryParts};
use crate::front::{Admission, Common, Drain, Listener, Listening, Phase, Prepared, RequestLimits};
use crate::pool::{Heritage, Pools};
use pierhead_service::health::{Check, Health};
use pierhead_service::logging::AccessLog;

/// What outlives every generation.
pub(super) struct Foundation {
    /// Application, drain and metrics of all listeners.
    pub(super) common: Common<Gate>,
    /// Of the newest generation.
    pub(super) health: Arc<Health>,
    /// The listeners of the newest generation, not held: whoever held one would keep its socket open.
    pub(super) listening: Arc<ArcSwap<Vec<Weak<Listener<Gate>>>>>,
    /// The log of requests, for configurations that want one.
    pub(super) access_log: AccessLog,
    /// For operators.
    pub(super) control: Arc<dyn Control>,
}

impl Foundation {
    pub(super) fn new(access_log: AccessLog, control: Arc<dyn Control>) -> Result<Foundation, AppError> {
        let metrics = Arc::new(Metrics::new()?);
        let health = Arc::<Health>::default();
        let recorder = Recorder::new(Arc::clone(&metrics), AccessLog::off());
        let nothing = Generation::nothing(recorder, Arc::clone(&health));
        let common = Common {
            application: Arc::new(Gate::new(nothing)),
            drain: Drain::new(),
            metrics,
            sessions: Arc::default(),
        };
        Ok(Foundation { common, health, listening: Arc::default(), access_log, control })
    }
}

impl Foundation {
    /// What operators see and steer, as the newest generation has it whenever they ask.
    fn operated(&self) -> Operated {
        let (gate, listening) = (Arc::clone(&self.common.application), Arc::clone(&self.listening));
        let (stored, configured) = (Arc::clone(&gate), Arc::clone(&gate));
        Operated {
            cache: Box::new(move || stored.current().edge.as_ref().map(|edge| Arc::clone(edge.cache()))),
            is_registry: Box::new(move |name| {
                configured.current().edge.as_ref().is_some_and(|edge| edge.is_registry(name))
            }),
            pools: Box::new(move || Arc::clone(&gate.current().pools)),
            certificates: Box::new(move || {
                listening.load().iter().filter_map(|listener| listener.upgrade()?.certificates()).collect()
            }),
            sessions: Arc::clone(&self.common.sessions),
            control: Arc::clone(&self.control),
        }
    }
}

/// What runs under one configuration.
pub(super) struct Running {
    pub(super) config: Config,
    registries: Vec<Known>,
    edge: Option<Arc<Edge>>,
    pools: Arc<Pools>,
    admission: Arc<Admission>,
    /// Once open it stays open: requests of older generations use it.
    cache: Option<(cache::Settings, Arc<Cache>)>,
    listeners: BTreeMap<Place, Arc<Listener<Gate>>>,
    admin: Operators,
}

/// The operators' listener at work.
struct Operators {
    settings: Admin,
    socket: Listening,
    serving: JoinHandle<()>,
}

/// A generation that is built and not yet at work.
pub(super) struct Built {
    config: Config,
    registries: Vec<Known>,
    edge: Option<Arc<Edge>>,
    pools: Arc<Pools>,
    admission: Arc<Admission>,
    cache: Option<(cache::Settings, Arc<Cache>)>,
    listeners: Vec<(Place, Listening, Prepared<Gate>)>,
    admin: Listening,
}

impl Built {
    /// Builds what a configuration says, with what can be kept of what runs.
    pub(super) async fn new(
        foundation: &Foundation,
        config: Config,
        before: Option<&Running>,
        mut sockets: Sockets,
        predecessor: Option<&mut Predecessor>,
    ) -> Result<Built, AppError> {
        let Foundation { common, .. } = foundation;
        let settings = parts::store(&config);
        if let (Some((fixed, _)), Some(settings)) = (before.and_then(|before| before.cache.as_ref()), &settings) {
            let problems = parts::fixed(fixed, settings);
            if !problems.is_empty() {
                return Err(AppError::Refused(problems));
            }
        }
        let admission = before.map(|before| before.admission.as_ref());
        let admission = Arc::new(Admission::new(&config.trusted_proxies, &config.limits, admission));
        let mut listeners = Vec::new();
        for (index, settings) in config.listeners.iter().enumerate() {
            let place = Place::of(&settings.name, settings.bind);
            let known = before.and_then(|before| before.listeners.get(&place));
            let prepared = Prepared::new(settings, common, &admission, known.map(Arc::as_ref))
                .map_err(|source| AppError::Tls { name: settings.name.clone(), source: Box::new(source) })?;
            let socket = match known {
                Some(known) => known.socket().clone(),
                None => sockets.take(&settings.name, settings.bind, &format!("listeners[{index}].bind"))?,
            };
            listeners.push((place, socket, prepared));
        }
        let admin = match before {
            Some(before) if before.admin.settings.bind == config.admin.bind => before.admin.socket.clone(),
            _ => sockets.take(ADMIN, config.admin.bind, "admin.bind")?,
        };
        let pools = Pools::new(&config.pools, before.map(|before| before.pools.as_ref()), &common.metrics)?;
        let known = before.map(|before| before.registries.as_slice()).unwrap_or_default();
        let own = listeners.iter().map(|(_, socket, _)| socket.address());
        let addresses: Vec<SocketAddr> = own.chain([admin.address()]).collect();
        if let Some(predecessor) = predecessor {
            pools.inherit(predecessor.store().await);
        }
        let cache = match (before.and_then(|before| before.cache.clone()), settings) {
            (Some((_, cache)), Some(settings)) => Some((settings, cache)),
            (Some(unused), None) => Some(unused),
            (None, Some(settings)) => {
                let cache = Cache::open(settings.clone(), Arc::clone(&common.metrics)).await?;
                Some((settings, cache))
            }
            (None, None) => None,
        };
        // After the store, which says what this edge is called. What their files hold was checked when they were read.
        let id = cache.as_ref().map(|(_, cache)| cache.edge_id());
        let (registries, kept) = clients::make(&config, &pools, known, &common.metrics, &addresses, id)?;
        let mut built =
            Built { config, registries, edge: None, pools: Arc::new(pools), admission, cache, listeners, admin };
        built.edge = built.edge(foundation, before, &kept);
        Ok(built)
    }

    /// The edge before, where nothing of it changes; else a new one, that knows what is still true of the one before.
    fn edge(&self, foundation: &Foundation, before: Option<&Running>, kept: &[bool]) -> Option<Arc<Edge>> {
        let (_, cache) = self.cache.as_ref().filter(|_| !self.registries.is_empty())?;
        let offline = parts::offline(&self.config);
        if let Some(before) = before
            && kept.iter().all(|kept| *kept)
            && before.registries.len() == self.registries.len()
            && before.config.access == self.config.access
            && before.config.limits.lowest_rate == self.config.limits.lowest_rate
            && parts::offline(&before.config) == offline
            && before.cache().is_some_and(|before| Arc::ptr_eq(before, cache))
            && let Some(edge) = &before.edge
        {
            return Some(Arc::clone(edge));
        }
        let registries = self.registries.iter().zip(kept).map(|(known, kept)| RegistryParts {
            config: known.registry.clone(),
            client: known.client.clone(),
            pool: known.pool.clone(),
            kept: *kept,
        });
        let parts = EdgeParts {
            registries: registries.collect(),
            cache: Arc::clone(cache),
            metrics: Arc::clone(&foundation.common.metrics),
            health: Arc::clone(&foundation.health),
            access: self.config.access.clone(),
            floor: self.admission.floor(),
            offline,
        };
        Some(Arc::new(Edge::new(parts, before.and_then(|before| before.edge.as_deref()))))
    }

    fn access_log(&self, foundation: &Foundation) -> AccessLog {
        if self.config.access_log { foundation.access_log.clone() } else { AccessLog::off() }
    }

    /// Puts it to work in the place of what ran before. From here on nothing fails.
    pub(super) async fn start(self, foundation: &Foundation, before: Option<Running>) -> Running {
        let Foundation { common, health, .. } = foundation;
        if let (Some((settings, cache)), Some(_)) = (&self.cache, &before) {
            cache.change(settings.changing.clone()).await;
        }
        self.pools.start().await;
        health.replace(self.health(&common.drain));
        let current = common.application.current();
        common.application.replace(Generation {
            edge: self.edge.clone(),
            pools: Arc::clone(&self.pools),
            targets: parts::targets(&self.config, &current.targets),
            trusted_proxies: self.config.trusted_proxies.clone(),
            limits: RequestLimits::new(&self.config.limits, &self.config.registries, Some(&current.limits)),
            recorder: Arc::new(Recorder::new(Arc::clone(&common.metrics), self.access_log(foundation))),
            health: Arc::clone(health),
        });
        let (mut known, operators) = match before {
            Some(before) => (before.listeners, Some(before.admin)),
            None => (BTreeMap::new(), None),
        };
        let mut listeners = BTreeMap::new();
        for (place, socket, prepared) in self.listeners {
            let listener = match known.remove(&place) {
                Some(listener) => {
                    listener.replace(prepared);
                    listener
                }
                None => {
                    let (address, tls) = (socket.address(), prepared.has_tls());
                    let url = prepared.speaks_http().then(|| url(address, tls));
                    tracing::info!(listener = prepared.name(), %address, url, tls, "listening");
                    Listener::start(socket, prepared)
                }
            };
            listeners.insert(place, listener);
        }
        for listener in known.into_values() {
            tracing::info!(address = %listener.socket().address(), "no longer listening");
            listener.close();
        }
        foundation.listening.store(Arc::new(listeners.values().map(Arc::downgrade).collect()));
        let secure =
            self.config.listeners.iter().filter(|listener| listener.http().is_some_and(|http| http.tls.is_some()));
        common.metrics.certificates_only_of(&secure.map(|listener| listener.name.as_str()).collect::<Vec<_>>());
        let admin = match operators {
            Some(operators) if operators.settings == self.config.admin => operators,
            before => Operators::start(foundation, self.config.admin.clone(), self.admin, before),
        };
        let Built { config, registries, edge, pools, admission, cache, .. } = self;
        Running { config, registries, edge, pools, admission, cache, listeners, admin }
    }

    /// What is checked: this instance by its listeners and its store, the rest by each upstream's circuit breaker. An
    /// edge that is meant to be offline misses no upstream.
    fn health(&self, drain: &Drain) -> Health {
        let (drain, offline) = (drain.clone(), parts::offline(&self.config));
        let mut health = Health::default().with(Check::Instance, "listeners", move || drain.phase() == Phase::Serving);
        if let Some((_, cache)) = &self.cache {
            let (writable, held) = (Arc::clone(cache), Arc::clone(cache));
            health = health
                // Open since before there was anybody to ask.
                .with(Check::Instance, "cache", || true)
                .noting(move || held.shortage())
                .with(Check::EndToEnd, "cache_writable", move || writable.writable());
        }
        for pool in self.pools.iter() {
            let (name, pool) = (pool.settings().name.clone(), Arc::clone(pool));
            let noted = Arc::clone(&pool);
            let note = move || (!noted.available()).then(|| "no server of it is up: see `ctl servers`".to_owned());
            health = health.with(Check::EndToEnd, name, move || pool.available()).noting(note);
        }
        for known in &self.registries {
            let client = known.client.clone();
            let (edge, name) = (self.edge.clone(), known.registry.name.clone());
            health = health
                .with(Check::EndToEnd, &known.registry.name, move || offline || client.available())
                .noting(move || edge.as_ref()?.trouble(&name).filter(|_| !offline));
        }
        health
    }
}

impl Operators {
    /// Answers operators, in the place of the listener before. What that one is answering it finishes.
    fn start(foundation: &Foundation, settings: Admin, socket: Listening, before: Option<Operators>) -> Operators {
        if let Some(before) = before {
            before.serving.abort();
        }
        let address = socket.address();
        tracing::info!(listener = ADMIN, %address, url = url(address, false), tls = false, "listening");
        let (health, metrics) = (Arc::clone(&foundation.health), Arc::clone(&foundation.common.metrics));
        let admin = admin::Admin::new(socket.clone(), health, metrics, foundation.operated(), settings.token.as_ref());
        let serving = tokio::spawn(admin.serve());
        Operators { settings, socket, serving }
    }
}

impl Running {
    /// The store, while it is open.
    pub(super) fn cache(&self) -> Option<&Arc<Cache>> {
        self.cache.as_ref().map(|(_, cache)| cache)
    }

    /// Forgets a store that was released: what is built next opens it anew.
    pub(super) fn without_cache(self) -> Running {
        Running { cache: None, ..self }
    }

    /// All listening sockets, to be handed over.
    pub(super) fn sockets(&self) -> Vec<(Place, Listening)> {
        let admin = (Place::of(ADMIN, self.config.admin.bind), self.admin.socket.clone());
        let listeners = self.listeners.iter().map(|(place, listener)| (place.clone(), listener.socket().clone()));
        listeners.chain([admin]).collect()
    }

    /// What is known of the pools, to be handed over.
    pub(super) fn heritage(&self) -> Heritage {
        self.pools.heritage()
    }

    /// Another process serves: leaves clients and operators to it.
    pub(super) fn retire(&mut self) {
        self.admin.serving.abort();
        self.let_go();
    }

    /// Leaves the listeners to themselves: each closes its socket when the edge drains.
    pub(super) fn let_go(&mut self) {
        self.listeners.clear();
    }

    /// Closes the store. What runs without it is lost at most to the cache.
    pub(super) async fn close(&self) {
        if let Some((_, cache)) = &self.cache {
            cache.close().await;
        }
    }
}

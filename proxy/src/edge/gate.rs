//! The application of all listeners: it takes each request to whom its listener is for, as the configuration is just now.
//!
//! Invariants: a request sees one generation of the configuration, from its beginning to its end; the next request, even
//! of the same connection, sees the newest. Whoever answers, it is told in the same way.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderValue, Method};
use ipnet::IpNet;
use pierhead_config::{HttpListener, HttpTarget};
use pingora_core::protocols::http::ServerSession;

use super::outcome::{BypassReason, Outcome};
use super::record::{Begun, Recorder, Told, Trace};
use super::refusal::Refusal;
use super::respond::{self, Asked, is_read};
use super::served::{Content, Refused, Served};
use super::{Edge, body, client, forward, redirect};
use crate::front::{Application, Connection, RequestLimits, Reuse};
use crate::pool::{Pool, Pools};
use pierhead_service::health::{Check, Health};
use pierhead_service::logging::AccessLog;
use pierhead_service::told::contains;

/// What one configuration came to. It lives for as long as a request that began under it.
pub(crate) struct Generation {
    /// The registries, where there are any.
    pub(crate) edge: Option<Arc<Edge>>,
    /// The pools.
    pub(crate) pools: Arc<Pools>,
    /// Who answers, by listener.
    pub(crate) targets: HashMap<Arc<str>, Target>,
    /// Whose word on a client is taken.
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// What a client may ask for.
    pub(crate) limits: RequestLimits,
    /// Tells of every request.
    pub(crate) recorder: Arc<Recorder>,
    /// For `/health/…`.
    pub(crate) health: Arc<Health>,
}

/// Who answers a listener's requests, and what goes for all of them.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Who.
    pub(crate) kind: HttpTarget,
    /// `Strict-Transport-Security`
    pub(crate) hsts: Option<HeaderValue>,
    /// Longest silence of a client within the body that it sends.
    pub(crate) body_timeout: Duration,
    /// Longest silence after an upgrade.
    pub(crate) tunnel_timeout: Duration,
}

impl From<&HttpListener> for Target {
    fn from(listener: &HttpListener) -> Target {
        let hsts = listener.hsts.and_then(|age| HeaderValue::from_str(&format!("max-age={}", age.as_secs())).ok());
        Target {
            kind: listener.target.clone(),
            hsts,
            body_timeout: listener.body_timeout,
            tunnel_timeout: listener.tunnel_timeout,
        }
    }
}

/// One request, before anybody looks at what it wants.
pub(crate) struct Visit<'a> {
    /// Where it came from. Its client is the one behind all trusted proxies.
    pub(crate) connection: &'a Connection,
    /// Whom the connection itself shows: the client, or the last of the proxies before us.
    pub(crate) sender: IpAddr,
    /// Whether that one is trusted.
    pub(crate) trusted: bool,
    /// When it came and what it is called.
    pub(crate) begun: Begun,
    /// Who answers.
    pub(crate) target: &'a Target,
    /// How many requests there may be.
    pub(crate) limits: &'a RequestLimits,
    /// Tells of it.
    pub(crate) recorder: &'a Recorder,
}

impl Visit<'_> {
    /// The client.
    pub(crate) fn client(&self) -> IpAddr {
        self.connection.client.ip()
    }

    /// Tells of the request once it is answered.
    pub(crate) fn end(&self, session: &ServerSession, trace: &Trace, told: &Told<'_>) -> Reuse {
        self.recorder.end(session, &self.begun, self.connection, trace, told);
        if told.complete { Reuse::Keep } else { Reuse::Close }
    }

    /// Answers with something that is here, or a refusal.
    pub(crate) async fn answer(
        &self,
        session: &mut ServerSession,
        trace: &Trace,
        result: Result<Served, Refused>,
    ) -> Reuse {
        let request = session.req_header();
        let id = self.begun.id.as_str();
        let mut outcome = match &result {
            Ok(served) => served.outcome,
            Err(refused) => refused.outcome,
        };
        let mut reason = result.as_ref().err().map(|refused| refused.refusal.to_string());
        let asked = Asked { head: request.method == Method::HEAD, headers: &request.headers };
        let mut answer = respond::answer(&asked, result, id);
        if let Err(error) = answer.body.begin().await {
            let refused = Refused::new(Refusal::blob(&error, false), Outcome::Miss);
            (outcome, reason) = (refused.outcome, Some(refused.refusal.to_string()));
            answer = respond::answer(&asked, Err(refused), id);
        }
        if let Some(hsts) = &self.target.hsts {
            // Setting a valid value cannot fail.
            let _ = answer.header.insert_header(http::header::STRICT_TRANSPORT_SECURITY, hsts);
        }
        let status = answer.header.status;
        let sent = body::send(session, answer.header, answer.body, id).await;
        let told = Told {
            outcome,
            reason: reason.as_deref(),
            status: Some(status),
            bytes: sent.bytes,
            first_byte: sent.first_byte,
            complete: sent.complete,
        };
        self.end(session, trace, &told)
    }

    /// Forwards to the servers of a pool; the error is what the client is to get instead.
    pub(crate) async fn forward(
        &self,
        session: &mut ServerSession,
        trace: &mut Trace,
        errand: &impl forward::Errand,
    ) -> Result<Reuse, Refusal> {
        let passed = forward::forward(session, self, errand, &mut trace.server).await?;
        let told = Told {
            outcome: Outcome::Bypass(BypassReason::Forwarded),
            reason: None,
            status: passed.status,
            bytes: passed.bytes,
            first_byte: passed.first_byte,
            complete: passed.complete,
        };
        Ok(self.end(session, trace, &told))
    }
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
        self.current.load().recorder.access_log().clone()
    }

    async fn handle(self: &Arc<Self>, session: &mut ServerSession, connection: &Connection) -> Reuse {
        let generation = self.current();
        let Some(target) = generation.targets.get(&connection.listener) else { return Reuse::Close };
        let headers = &session.req_header().headers;
        let sender = connection.client.ip();
        let trusted = contains(&generation.trusted_proxies, sender);
        let (mut named, mut given) = (None, None);
        if trusted {
            named = client::behind(headers, &generation.trusted_proxies);
            given = client::given_id(headers);
        }
        let begun = generation.recorder.begin(given);
        let behind;
        let connection = match named {
            Some(client) => {
                behind = Connection { client: SocketAddr::new(client, 0), ..connection.clone() };
                &behind
            }
            None => connection,
        };
        let (limits, recorder) = (&generation.limits, &*generation.recorder);
        let visit = Visit { connection, sender, trusted, begun, target, limits, recorder };
        generation.answer(session, &visit).await
    }
}

impl Generation {
    /// One that answers nobody, until there is another.
    pub(crate) fn nothing(recorder: Recorder, health: Arc<Health>) -> Generation {
        Generation {
            edge: None,
            pools: Arc::default(),
            targets: HashMap::new(),
            trusted_proxies: Vec::new(),
            limits: RequestLimits::default(),
            recorder: Arc::new(recorder),
            health,
        }
    }

    async fn answer(&self, session: &mut ServerSession, visit: &Visit<'_>) -> Reuse {
        let mut trace = Trace::default();
        let request = session.req_header();
        let path = request.uri.path();
        // Those who check are not to be told that they check too often.
        let check = match visit.target.kind {
            HttpTarget::Pool(_) => Check::named(path),
            HttpTarget::Registries | HttpTarget::RedirectToHttps(_) => Check::at(path),
        };
        if let Some(check) = check
            && is_read(&request.method)
        {
            let report = Served::new(Content::Health(self.health.report(check)), Outcome::None);
            return visit.answer(session, &trace, Ok(report)).await;
        }
        let repository = if self.limits.exempts_some() { client::repository(path) } else { None };
        if let Err(retry_after) = self.limits.client(visit.client(), repository.as_deref()) {
            visit.recorder.limited(&visit.connection.listener, "client_rate");
            return visit.answer(session, &trace, Err(Refusal::TooMany { retry_after }.into())).await;
        }
        let refusal = match &visit.target.kind {
            HttpTarget::Registries => match &self.edge {
                Some(edge) => return edge.handle(session, visit).await,
                None => Refusal::NotServed,
            },
            HttpTarget::Pool(name) => match self.pools.get(name) {
                Some(pool) => match visit.forward(session, &mut trace, pool).await {
                    Ok(reuse) => return reuse,
                    Err(refusal) => refusal,
                },
                None => Refusal::Unavailable(None),
            },
            HttpTarget::RedirectToHttps(port) => return redirect::answer(session, visit, *port).await,
        };
        let outcome = match &visit.target.kind {
            HttpTarget::Pool(_) => Outcome::Bypass(BypassReason::Forwarded),
            _ => Outcome::None,
        };
        visit.answer(session, &trace, Err(Refused::new(refusal, outcome))).await
    }
}

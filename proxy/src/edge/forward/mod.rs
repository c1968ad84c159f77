//! Requests that go to the servers of a pool as they are, and answers that come back.
//!
//! The way of a request: its head is made anew ([`head`]), a server is found and reached (`pool::attempts`), body and
//! answer go their ways at once ([`relay`]), the answer's header is put right for the client ([`answer`]).
//!
//! Invariants: no body is kept, but for a copy of the form that asks for a token ([`super::form`]); none is limited in size or in time;
//! an answer that broke off never looks complete; what a server sends that can be read in two ways reaches no client.

mod answer;
mod head;
mod location;
mod passing;
mod relay;

use std::sync::Arc;
use std::time::Instant;

use http::header::{CONTENT_LENGTH, EXPECT, HOST, UPGRADE};
use http::{HeaderMap, Method, StatusCode, Version};
use pierhead_config::{Balance, HashBy};
use pierhead_registry::oci::{Action, Endpoint};
use pingora_core::protocols::http::ServerSession;
use pingora_http::RequestHeader;

use self::passing::Passing;
use self::relay::Relay;
use super::client::{self, Hop, Way};
use super::form::TokenForm;
use super::gate::Visit;
use super::record::Forwarded;
use super::refusal::{Failed, Refusal};
use crate::pool::{Answer, Exchange, ExchangeError, LeaseError, Pool, Question, Told, WireError, Wish, has_token};

/// What is to be forwarded, and what its answer means to whoever forwards.
pub(crate) trait Errand: Sync {
    /// To whose servers.
    fn pool(&self) -> &Arc<Pool>;

    /// Path and query, where they do not go out as they came in.
    fn target(&self) -> Option<&str> {
        None
    }

    /// Whether `Authorization` is a login at this edge, and so goes no further.
    fn own_login(&self) -> bool {
        false
    }

    /// Whether it is for a registry, so that its answers may be content.
    fn is_for_a_registry(&self) -> bool {
        false
    }

    /// Whether its answer is waited for when its client has gone: something is known by it.
    fn outlives_its_client(&self) -> bool {
        false
    }

    /// The form that its body is copied to on its way.
    fn copied(&self) -> Option<&TokenForm> {
        None
    }

    /// Called with the status of the answer before the client sees it; with `None` when the answer was lost, though the
    /// request may have been carried out.
    fn answered(&self, status: Option<StatusCode>) -> impl Future<Output = ()> + Send {
        let _ = status;
        async {}
    }
}

/// All that a listener gets, for a pool.
impl Errand for Arc<Pool> {
    fn pool(&self) -> &Arc<Pool> {
        self
    }
}

/// What went out.
pub(crate) struct Passed {
    /// Status of the answer; `None`: the client went away before there was one.
    pub(crate) status: Option<StatusCode>,
    /// Bytes of its body.
    pub(crate) bytes: u64,
    /// When its first byte went out.
    pub(crate) first_byte: Instant,
    /// Whether it went out whole.
    pub(crate) complete: bool,
}

/// Forwards a request; `by` is told who answered. The error is for the client, to whom nothing has been sent yet.
pub(crate) async fn forward(
    session: &mut ServerSession,
    visit: &Visit<'_>,
    errand: &impl Errand,
    by: &mut Option<Forwarded>,
) -> Result<Passed, Refusal> {
    let pool = errand.pool();
    let by = by.insert(Forwarded { pool: Arc::clone(pool.name()), server: None, retries: 0, error: None });
    let sending = Sending::new(session);
    let request = session.req_header();
    let hop = Hop {
        from: visit.sender,
        port: visit.connection.destination.port(),
        secure: visit.connection.secure,
        host: client::host(&request.uri, &request.headers),
    };
    let way = Way::new(&hop, &request.headers, visit.trusted);
    let changes = head::Changes {
        target: errand.target(),
        without_login: errand.own_login(),
        body: sending.body,
        upgrade: sending.upgrade,
        expects: sending.expects,
        id: visit.begun.id.as_str(),
    };
    let host = request.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = request.uri.authority().filter(|_| session.is_http2()).map(|authority| authority.as_str()).or(host);
    // Clients of HTTP/1.0 need not name a host, servers of HTTP/1.1 want one: it is where the client connected.
    let destination;
    let host = match host {
        Some(host) => host,
        None => {
            destination = visit.connection.destination.to_string();
            &destination
        }
    };
    let head = head::write(request, host, &way, &changes).ok_or(Refusal::Malformed)?;
    let key = hash_key(pool, request);
    let question = Question {
        method: &sending.method,
        head,
        body: sending.body.is_some() || sending.upgrade,
        wish: Wish { client: Some(visit.client()), key: key.as_deref(), tried: &[] },
        told: Some(Told { source: visit.connection.client, destination: visit.connection.destination }),
    };
    let public = way.host.unwrap_or_default().to_owned();
    let asked = answer::Asked {
        public: location::Public { scheme: way.scheme, host: &public },
        chunks: sending.version == Version::HTTP_11,
        id: visit.begun.id.as_str(),
        hsts: visit.target.hsts.as_ref(),
        content: errand.is_for_a_registry()
            && matches!(Endpoint::parse(request.uri.path()), Ok(Endpoint::Repository { .. })),
    };
    session.set_read_timeout(None);
    let patient = errand.outlives_its_client();
    let begun = begin(session, pool, &question, sending.body, patient).await;
    let (exchange, first) = match begun {
        Ok(begun) => begun,
        Err(Some(error)) => {
            if let Some((server, retries)) = error.server() {
                (by.server, by.retries) = (Some(Arc::clone(server)), retries);
            }
            by.error = Some(error.failure().to_string());
            if !matches!(error, ExchangeError::Lease(_) | ExchangeError::Connect { .. }) {
                errand.answered(None).await;
            }
            return Err(refusal(&error, &pool.settings().name));
        }
        Err(None) => {
            return Ok(Passed { status: None, bytes: 0, first_byte: Instant::now(), complete: false });
        }
    };
    (by.server, by.retries) = (Some(Arc::clone(exchange.server().shared_name())), exchange.retries());
    let (client_silence, server_silence) = (visit.target.body_timeout, pool.settings().idle_timeout);
    let relay = Relay::new(session, exchange, sending.body, client_silence, server_silence)
        .patient(patient)
        .copied(errand.copied());
    Passing { errand, visit, asked, relay, upgrade: sending.upgrade, by }.run(first).await
}

/// Reaches a server; a request without a body also gets its first answer. `None`: the client went away meanwhile, and nobody is patient.
async fn begin(
    session: &mut ServerSession,
    pool: &Arc<Pool>,
    question: &Question<'_>,
    body: head::Body,
    patient: bool,
) -> Result<(Exchange, Option<Answer>), Option<ExchangeError>> {
    if question.body {
        let mut exchange = pool.open(question).await?;
        if !body.is_some() {
            exchange.sent();
        }
        return Ok((exchange, None));
    }
    tokio::select! {
        biased;
        answered = pool.ask(question) => {
            let (exchange, answer) = answered?;
            Ok((exchange, Some(answer)))
        }
        () = relay::gone(session), if !patient => Err(None),
    }
}

/// What of a request decides how it is sent.
struct Sending {
    method: Method,
    version: Version,
    body: head::Body,
    upgrade: bool,
    expects: bool,
}

impl Sending {
    fn new(session: &mut ServerSession) -> Sending {
        let (done, http2) = (session.is_body_done(), session.is_http2());
        let request = session.req_header();
        let headers = &request.headers;
        let length = || headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.trim().parse().ok());
        let upgrade = !http2 && request.version == Version::HTTP_11 && headers.contains_key(UPGRADE) && wants(headers);
        let body = match (done, length()) {
            // Strict servers want to know the length of a body where there usually is one.
            (true, Some(_)) => head::Body::Length(0),
            (true, None) if matches!(request.method, Method::POST | Method::PUT | Method::PATCH) => {
                head::Body::Length(0)
            }
            (true, None) => head::Body::None,
            (false, Some(length)) => head::Body::Length(length),
            (false, None) => head::Body::Chunks,
        };
        let version = if http2 { Version::HTTP_11 } else { request.version };
        let expects = !done && version == Version::HTTP_11 && headers.contains_key(EXPECT);
        Sending { method: request.method.clone(), version, body, upgrade, expects }
    }
}

/// Whether `Connection` says that `Upgrade` is meant. Not to HTTP/2 in the clear: all requests in it would go past the
/// rules and limits of this edge, and nobody needs it (RFC 9113 has dropped it).
fn wants(headers: &HeaderMap) -> bool {
    has_token(headers, &http::header::CONNECTION, "upgrade") && !has_token(headers, &UPGRADE, "h2c")
}

/// For pools whose servers are chosen by what is asked for: the digest in the path, or else the path.
fn hash_key(pool: &Pool, request: &RequestHeader) -> Option<String> {
    if pool.settings().balance != Balance::Hash(HashBy::Digest) {
        return None;
    }
    let path = request.uri.path();
    Some(match Endpoint::parse(path) {
        Ok(Endpoint::Repository { action: Action::Blob(digest), .. }) => digest.to_string(),
        _ => path.to_owned(),
    })
}

/// What there being no answer means to the client. Addresses of servers are for the log.
fn refusal(error: &ExchangeError, pool: &str) -> Refusal {
    let unavailable = |reason| Refusal::Unavailable(Some(Failed::of_pool(pool, reason)));
    match error {
        ExchangeError::Lease(LeaseError::QueueFull | LeaseError::QueueTimeout) => Refusal::Busy,
        ExchangeError::Lease(LeaseError::NoServer) => unavailable("no server is up"),
        ExchangeError::Connect { .. } => unavailable("no server accepts a connection"),
        ExchangeError::Wire { error, .. } => refusal_of_wire(error, pool),
    }
}

/// The same, once a server was reached.
fn refusal_of_wire(error: &WireError, pool: &str) -> Refusal {
    match error {
        WireError::Silent => Refusal::Silent,
        WireError::Io(_) => {
            Refusal::Broken(Failed::of_pool(pool, &format!("the connection to the server broke: {error}")))
        }
        WireError::Empty | WireError::Short => Refusal::Broken(Failed::of_pool(pool, &error.to_string())),
        WireError::Nonsense(_) => Refusal::Invalid(Some(Failed::of_pool(pool, &error.to_string()))),
    }
}

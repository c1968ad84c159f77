//! What is told of each request: its line in the log, what it adds to the metrics, and its name in both.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use http::StatusCode;
use http::header::USER_AGENT;
use pierhead_registry::oci::Action;
use pingora_core::protocols::http::ServerSession;

use super::outcome::{AccessLine, BypassReason, Kind, Outcome};
use super::verifier::Verdict;
use crate::admin::metrics::Metrics;
use crate::cache::RepositoryId;
use crate::front::Connection;
use pierhead_service::health::Check;
use pierhead_service::logging::{AccessLog, Time, milliseconds};

/// What a client wrote is cut to this in the log.
const TEXT_LIMIT: usize = 200;
/// Longest name of a request.
const ID_LIMIT: usize = 64;

/// What the log and the metrics tell of a request, gathered while it is answered.
#[derive(Default)]
pub(crate) struct Trace {
    /// One that is configured: metrics are labelled with it.
    pub(crate) registry: Option<Arc<str>>,
    /// What the client called it, for the log when there is no such registry.
    pub(crate) namespace: Option<String>,
    /// The repository in it.
    pub(crate) repository: Option<RepositoryId>,
    /// Kept as it was parsed: a log that is off formats nothing.
    pub(crate) action: Option<Action>,
    /// What was asked for.
    pub(crate) kind: Kind,
    /// Who logged in, or whose token it is.
    pub(crate) user: Option<Arc<str>>,
    /// What the caller's token says, where that can be told here.
    pub(crate) token: Option<Verdict>,
    /// Who answered, when the request was forwarded.
    pub(crate) server: Option<Forwarded>,
}

/// By whom a request was answered.
#[derive(Clone, Debug)]
pub(crate) struct Forwarded {
    /// The pool.
    pub(crate) pool: Arc<str>,
    /// The server in it that answered, or was asked last; `None`: nobody could be asked.
    pub(crate) server: Option<Arc<str>>,
    /// How often it was tried again.
    pub(crate) retries: u32,
    /// Why there is no answer, or no whole one.
    pub(crate) error: Option<String>,
}

/// How an answer went out.
pub(crate) struct Told<'a> {
    /// Where it came from.
    pub(crate) outcome: Outcome,
    /// Why it is a refusal.
    pub(crate) reason: Option<&'a str>,
    /// Its status; `None`: the client had gone before there was one.
    pub(crate) status: Option<StatusCode>,
    /// Bytes of its body.
    pub(crate) bytes: u64,
    /// When its first byte went out.
    pub(crate) first_byte: Instant,
    /// Whether it went out whole.
    pub(crate) complete: bool,
}

/// What is known of a request before anybody looks at what it wants.
pub(crate) struct Begun {
    /// Its name.
    pub(crate) id: RequestId,
    /// When its header had arrived.
    pub(crate) started: Instant,
}

impl Begun {
    /// When that was, as the world counts.
    pub(crate) fn date(&self) -> SystemTime {
        let now = SystemTime::now();
        now.checked_sub(self.started.elapsed()).unwrap_or(now)
    }
}

/// Tells of requests.
pub(crate) struct Recorder {
    metrics: Arc<Metrics>,
    access_log: AccessLog,
    ids: RequestIds,
}

impl Recorder {
    /// To this log and these metrics.
    pub(crate) fn new(metrics: Arc<Metrics>, access_log: AccessLog) -> Recorder {
        Recorder { metrics, access_log, ids: RequestIds::new() }
    }

    /// The log.
    pub(crate) fn access_log(&self) -> &AccessLog {
        &self.access_log
    }

    /// A request whose header has arrived, and the name that it has already, if it has one.
    pub(crate) fn begin(&self, given: Option<&str>) -> Begun {
        let id = given.and_then(RequestId::given).unwrap_or_else(|| self.ids.next());
        Begun { id, started: Instant::now() }
    }

    /// A request that was more than a limit allows.
    pub(crate) fn limited(&self, listener: &str, limit: &'static str) {
        self.metrics.limited(listener, limit);
    }

    /// A request that has been answered.
    pub(crate) fn end(
        &self,
        session: &ServerSession,
        begun: &Begun,
        connection: &Connection,
        trace: &Trace,
        told: &Told<'_>,
    ) {
        let first_byte = told.first_byte.saturating_duration_since(begun.started);
        let (kind, outcome) = (trace.kind.as_str(), told.outcome.as_str());
        let registry = trace.registry.as_deref().unwrap_or_default();
        let status = told.status.map_or(499, |status| status.as_u16());
        let forwarded = told.outcome == Outcome::Bypass(BypassReason::Forwarded);
        self.metrics.request(registry, (kind, outcome, forwarded), status, told.bytes, first_byte);
        let request = session.req_header();
        // Health checks come every second and would fill the log; metrics count them.
        let check = trace.server.is_none() && status == 200 && Check::at(request.uri.path()).is_some();
        if !self.access_log.is_on() || check && !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let server = trace.server.as_ref();
        self.access_log.write(&AccessLine {
            time: Time(begun.date()),
            id: begun.id.as_str(),
            client: connection.client.ip(),
            listener: &connection.listener,
            protocol: if session.is_http2() { "HTTP/2" } else { "HTTP/1.1" },
            method: request.method.as_str(),
            registry: trace.registry.as_deref().or(trace.namespace.as_deref().map(cut)),
            repository: trace.repository.as_ref().map(|repository| repository.name.as_str()),
            reference: trace.action.as_ref().and_then(reference).as_deref(),
            path: trace.repository.is_none().then(|| cut(request.uri.path())),
            kind,
            outcome,
            reason: told.outcome.reason().or(told.reason),
            pool: server.map(|server| &*server.pool),
            server: server.and_then(|server| server.server.as_deref()),
            retries: server.map_or(0, |server| server.retries),
            error: server.and_then(|server| server.error.as_deref()).map(cut),
            status,
            bytes: told.bytes,
            aborted: !told.complete,
            ttfb_ms: milliseconds(first_byte),
            total_ms: milliseconds(begun.started.elapsed()),
            user: trace.user.as_deref().map(cut),
            token: trace.token.map(Verdict::as_str),
            certificate: connection.subject.as_deref().map(cut),
            user_agent: request.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).map(cut),
        });
    }
}

/// What the log calls that which was asked for.
fn reference(action: &Action) -> Option<String> {
    match action {
        Action::Manifest(reference) => Some(reference.to_string()),
        Action::Blob(digest) => Some(digest.to_string()),
        Action::Tags => Some("tags".to_owned()),
        Action::Referrers(digest) => Some(format!("referrers/{digest}")),
        Action::Upload(_) => None,
    }
}

/// What a client wrote, cut for the log.
fn cut(text: &str) -> &str {
    let end = (0..=TEXT_LIMIT.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}

/// Names for requests: a counter that starts somewhere at random, scrambled, so that ids of two edges do not meet.
struct RequestIds {
    next: AtomicU64,
}

impl RequestIds {
    fn new() -> RequestIds {
        RequestIds { next: AtomicU64::new(rand::random()) }
    }

    fn next(&self) -> RequestId {
        // The odd multiplier makes this a permutation: no id comes twice in 2^64.
        RequestId::new(self.next.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// A request's name: 16 hexadecimal characters of our own, or what a trusted proxy called it.
pub(crate) struct RequestId {
    text: [u8; ID_LIMIT],
    length: usize,
}

impl RequestId {
    fn new(number: u64) -> RequestId {
        let mut text = [0; ID_LIMIT];
        for (place, character) in text.iter_mut().take(16).enumerate() {
            let nibble = (number >> (60 - 4 * place)) & 15;
            *character = b"0123456789abcdef"[nibble as usize];
        }
        RequestId { text, length: 16 }
    }

    fn given(name: &str) -> Option<RequestId> {
        let mut text = [0; ID_LIMIT];
        text.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(RequestId { text, length: name.len() })
    }

    /// As text.
    pub(crate) fn as_str(&self) -> &str {
        // It was made from a text, or of hexadecimal digits.
        std::str::from_utf8(&self.text[..self.length]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_requests() {
        assert_eq!(RequestId::new(0x0123_4567_89ab_cdef).as_str(), "0123456789abcdef");
        assert_eq!(RequestId::given("a-b.c").unwrap().as_str(), "a-b.c");
        assert!(RequestId::given(&"x".repeat(ID_LIMIT + 1)).is_none());
        let ids = RequestIds::new();
        assert_ne!(ids.next().as_str(), ids.next().as_str());
    }

    #[test]
    fn what_clients_write_is_cut() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"é".repeat(TEXT_LIMIT)).len(), TEXT_LIMIT);
        assert_eq!(cut(&format!("a{}", "é".repeat(TEXT_LIMIT))).len(), TEXT_LIMIT - 1);
    }
}

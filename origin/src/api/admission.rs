//! How many requests are at work: so many reads and so many writes at a time, some more that wait, and no others.
//!
//! A request is at work until the last byte of its answer has left: a layer that is pushed or pulled holds memory, files and
//! connections as long. Who finds no room hears 503 with `Retry-After`, quickly, rather than being served slowly with all others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::RETRY_AFTER;
use http::{HeaderValue, Method, StatusCode};
use pierhead_config::{Admission as Limits, OriginLimits, RegistryState};
use pierhead_registry::oci::ErrorCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::Origin;
use super::refusal::refusal;
use crate::metrics::{GateMetrics, Metrics};

/// What a request is, for its admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Neither: a ping, health, keys.
    Other,
    /// It reads the database, or asks it whether somebody may: so do logins and the API.
    Read,
    Write,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// It goes on.
    Pass,
    /// It goes on when there is room.
    When(Kind),
    /// Nothing is written now.
    ReadOnly,
}

fn kind(method: &Method, path: &str) -> Kind {
    if path == "/v2/auth" || path.starts_with("/api/") {
        return Kind::Read;
    }
    match *method {
        _ if path == "/v2/" || !path.starts_with("/v2/") => Kind::Other,
        Method::GET | Method::HEAD => Kind::Read,
        // They change nothing, and find no route.
        Method::OPTIONS | Method::TRACE | Method::CONNECT => Kind::Other,
        _ => Kind::Write,
    }
}

fn decide(kind: Kind, state: RegistryState) -> Decision {
    match (kind, state) {
        (Kind::Other, _) => Decision::Pass,
        (Kind::Write, RegistryState::ReadOnly) => Decision::ReadOnly,
        (kind, _) => Decision::When(kind),
    }
}

/// Both kinds.
pub(super) struct Admission {
    reads: Gate,
    writes: Gate,
    refused: GateMetrics,
}

impl Admission {
    /// With these limits.
    pub(super) fn new(limits: &OriginLimits, metrics: &Metrics) -> Admission {
        Admission {
            reads: Gate::new(limits.reads, metrics.gate("read")),
            writes: Gate::new(limits.writes, metrics.gate("write")),
            refused: metrics.gate("write"),
        }
    }
}

/// Layer: lets a request in, or tells it when to come again.
pub(super) async fn admit(State(origin): State<Arc<Origin>>, request: Request, next: Next) -> Response {
    let admission = &origin.admission;
    let state = origin.live().registry_state;
    let gate = match decide(kind(request.method(), request.uri().path()), state) {
        Decision::Pass | Decision::When(Kind::Other) => return next.run(request).await,
        Decision::When(Kind::Read) => &admission.reads,
        Decision::When(Kind::Write) => &admission.writes,
        Decision::ReadOnly => {
            admission.refused.refused("readonly");
            let message = "the registry is read-only for now";
            return refusal(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Denied, message);
        }
    };
    match gate.enter().await {
        Ok(room) => {
            let mut response = next.run(request).await;
            response.extensions_mut().insert(room);
            response
        }
        Err(full) => {
            let mut response = refusal(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, full.message());
            let seconds = gate.limits.wait.as_secs().clamp(1, 60);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
            response
        }
    }
}

/// Why there was no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    Queue,
    Waited,
}

impl Full {
    fn message(self) -> &'static str {
        match self {
            Full::Queue => "too many requests are waiting already",
            Full::Waited => "too many requests are at work",
        }
    }
}

/// Room for one kind.
struct Gate {
    limits: Limits,
    room: Arc<Semaphore>,
    queued: AtomicU32,
    metrics: GateMetrics,
}

impl Gate {
    fn new(limits: Limits, metrics: GateMetrics) -> Gate {
        let room = Arc::new(Semaphore::new(limits.running as usize));
        Gate { limits, room, queued: AtomicU32::new(0), metrics }
    }

    /// At once where there is room, else in turn.
    async fn enter(&self) -> Result<Room, Full> {
        if let Ok(room) = Arc::clone(&self.room).try_acquire_owned() {
            return Ok(self.admitted(room));
        }
        let waited = self.wait().await;
        if let Err(full) = &waited {
            self.metrics.refused(match full {
                Full::Queue => "queue_full",
                Full::Waited => "waited",
            });
        }
        waited
    }

    async fn wait(&self) -> Result<Room, Full> {
        let _place = Place::take(self).ok_or(Full::Queue)?;
        match timeout(self.limits.wait, Arc::clone(&self.room).acquire_owned()).await {
            Ok(Ok(room)) => Ok(self.admitted(room)),
            // It is never closed.
            Ok(Err(_)) | Err(_) => Err(Full::Waited),
        }
    }

    fn admitted(&self, permit: OwnedSemaphorePermit) -> Room {
        self.metrics.running.inc();
        Room(Arc::new(Admitted { _permit: permit, metrics: self.metrics.clone() }))
    }
}

/// Room for a request, which its answer takes with it to its last byte.
#[derive(Clone)]
pub(super) struct Room(#[expect(dead_code, reason = "dropping it is what it is for")] Arc<Admitted>);

struct Admitted {
    _permit: OwnedSemaphorePermit,
    metrics: GateMetrics,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.metrics.running.dec();
    }
}

/// A place among those that wait.
struct Place<'a>(&'a Gate);

impl<'a> Place<'a> {
    fn take(gate: &'a Gate) -> Option<Place<'a>> {
        let one_more = |queued| (queued < gate.limits.queued).then_some(queued + 1);
        gate.queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        gate.metrics.queued.inc();
        Some(Place(gate))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.queued.dec();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_is_let_in() {
        use RegistryState::{Normal, ReadOnly};
        for (method, path, normal, readonly) in [
            (Method::GET, "/v2/", Decision::Pass, Decision::Pass),
            (Method::GET, "/v2/auth", Decision::When(Kind::Read), Decision::When(Kind::Read)),
            (Method::POST, "/v2/auth", Decision::When(Kind::Read), Decision::When(Kind::Read)),
            (Method::POST, "/api/v1/organization/", Decision::When(Kind::Read), Decision::When(Kind::Read)),
            (Method::GET, "/keys/services/pierhead/keys", Decision::Pass, Decision::Pass),
            (Method::GET, "/health/instance", Decision::Pass, Decision::Pass),
            (Method::GET, "/v2/_catalog", Decision::When(Kind::Read), Decision::When(Kind::Read)),
            (Method::HEAD, "/v2/a/blobs/x", Decision::When(Kind::Read), Decision::When(Kind::Read)),
            (Method::GET, "/v2/a/blobs/uploads/x", Decision::When(Kind::Read), Decision::When(Kind::Read)),
            (Method::POST, "/v2/a/blobs/uploads/", Decision::When(Kind::Write), Decision::ReadOnly),
            (Method::PATCH, "/v2/a/blobs/uploads/x", Decision::When(Kind::Write), Decision::ReadOnly),
            (Method::PUT, "/v2/a/manifests/x", Decision::When(Kind::Write), Decision::ReadOnly),
            (Method::DELETE, "/v2/auth/manifests/x", Decision::When(Kind::Write), Decision::ReadOnly),
        ] {
            let kind = kind(&method, path);
            assert_eq!((decide(kind, Normal), decide(kind, ReadOnly)), (normal, readonly), "{method} {path}");
        }
    }

    fn gate(running: u32, queued: u32) -> Gate {
        let limits = Limits { running, queued, wait: Duration::from_secs(5) };
        Gate::new(limits, Metrics::new().unwrap().gate("read"))
    }

    #[tokio::test(start_paused = true)]
    async fn some_run_some_wait_and_the_others_are_told() {
        let gate = gate(1, 1);
        let first = gate.enter().await.ok().unwrap();
        let (second, third) = tokio::join!(gate.enter(), gate.enter());
        assert_eq!((second.err(), third.err()), (Some(Full::Waited), Some(Full::Queue)));
        assert_eq!((gate.metrics.running.get(), gate.metrics.queued.get()), (1, 0));
        let waiting = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(first);
        };
        let (second, ()) = tokio::join!(gate.enter(), waiting);
        assert!(second.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_leaves_the_queue() {
        let gate = gate(1, 1);
        let _first = gate.enter().await.ok().unwrap();
        assert!(timeout(Duration::from_secs(1), gate.enter()).await.is_err());
        assert_eq!(gate.queued.load(Ordering::Relaxed), 0);
    }
}

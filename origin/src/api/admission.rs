//! How many requests are at work: so many of each kind at a time, some more that wait, in fair shares (`pierhead_service::shares`).
//!
//! A request is at work until the last byte of its answer has left: a layer that is pushed or pulled holds memory, files and
//! connections as long. A request that finds no room gets 503 with `Retry-After`, quickly, rather than being served slowly with all others.
//!
//! Invariants: logins, manifests and lists never wait for layers, for each kind has a room of its own; and what a client can send as slowly
//! as it likes before the server does anything, a form or a small body of the API, is read before the request takes its place (`whole`).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{AUTHORIZATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use pierhead_config::{Admission as Limits, OriginLimits, RegistryState};
use pierhead_registry::oci::ErrorCode;
use pierhead_service::shares::{Floor, Flow, Full, Party, Permit, Room, Rules};
use pierhead_service::told::contains;

use super::asked::Asked;
use super::paced::Paced;
use super::refusal::refusal;
use super::{Connection, Origin, whole};
use crate::metrics::{GateMetrics, Metrics};

/// Bytes of manifests that are being pushed at a time, unless the largest manifest needs more.
const MANIFEST_BYTES: u64 = 32 << 20;
/// Bytes of forms and of bodies of the API that are being received at a time.
const BODY_BYTES: u64 = 16 << 20;

/// What a request is, for its admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// None of the others: a ping, health, keys.
    Other,
    /// It asks for a token.
    Login,
    /// It reads the database, and what it gets is small: manifests, lists, the API.
    Read,
    /// It reads a blob.
    Download,
    /// It pushes or deletes a manifest.
    Manifest,
    /// It writes a blob.
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
    if path == "/v2/auth" {
        return Kind::Login;
    }
    if path.starts_with("/api/") {
        return Kind::Read;
    }
    // From the right: a repository may well be called `team/blobs`.
    let last_but_one = path.rsplit('/').nth(1).unwrap_or_default();
    match *method {
        _ if path == "/v2/" || !path.starts_with("/v2/") => Kind::Other,
        Method::GET if last_but_one == "blobs" => Kind::Download,
        Method::GET | Method::HEAD => Kind::Read,
        // They change nothing, and find no route.
        Method::OPTIONS | Method::TRACE | Method::CONNECT => Kind::Other,
        _ if last_but_one == "manifests" => Kind::Manifest,
        _ => Kind::Write,
    }
}

fn decide(kind: Kind, state: RegistryState) -> Decision {
    match (kind, state) {
        (Kind::Other, _) => Decision::Pass,
        (Kind::Write | Kind::Manifest, RegistryState::ReadOnly) => Decision::ReadOnly,
        (kind, _) => Decision::When(kind),
    }
}

/// All rooms of requests.
pub(crate) struct Admission {
    logins: Arc<Room>,
    reads: Arc<Room>,
    downloads: Arc<Room>,
    manifests: Arc<Room>,
    writes: Arc<Room>,
    /// Memory for manifests that arrive, in bytes.
    pub(super) manifest_bytes: Arc<Room>,
    /// Memory for other bodies that are read whole, in bytes.
    pub(super) body_bytes: Arc<Room>,
    refused: GateMetrics,
}

impl Admission {
    /// With these limits.
    pub(super) fn new(limits: &OriginLimits, metrics: &Metrics) -> Admission {
        let [logins, reads, downloads, manifests, writes, manifest_bytes, body_bytes] =
            rules(limits).map(|rules| Room::new(rules, metrics.gate(rules.kind)));
        let refused = metrics.gate("write");
        Admission { logins, reads, downloads, manifests, writes, manifest_bytes, body_bytes, refused }
    }

    /// Other limits. What is at work goes on, beyond them where they are lower.
    pub(super) fn change(&self, limits: &OriginLimits) {
        let rooms = [
            &self.logins,
            &self.reads,
            &self.downloads,
            &self.manifests,
            &self.writes,
            &self.manifest_bytes,
            &self.body_bytes,
        ];
        rooms.into_iter().zip(rules(limits)).for_each(|(room, rules)| room.change(rules));
    }

    fn room(&self, kind: Kind) -> Option<&Arc<Room>> {
        match kind {
            Kind::Other => None,
            Kind::Login => Some(&self.logins),
            Kind::Read => Some(&self.reads),
            Kind::Download => Some(&self.downloads),
            Kind::Manifest => Some(&self.manifests),
            Kind::Write => Some(&self.writes),
        }
    }
}

/// What the rooms are like, in the order of [`Admission`].
fn rules(limits: &OriginLimits) -> [Rules; 7] {
    let floor = floor(limits);
    let rules = |kind, room, like: Limits| Rules {
        kind,
        room,
        queue: like.queued.into(),
        wait: like.wait,
        floor,
        reserve: true,
    };
    let requests = |kind, limits: Limits| rules(kind, limits.running.into(), limits);
    let manifest_bytes = MANIFEST_BYTES.max(limits.max_manifest_size.saturating_mul(2));
    [
        requests("login", limits.logins),
        requests("read", limits.reads),
        requests("download", limits.downloads),
        requests("manifest", limits.manifests),
        requests("write", limits.writes),
        rules("manifest_bytes", manifest_bytes, limits.manifests),
        rules("body_bytes", BODY_BYTES, limits.logins),
    ]
}

/// The lowest rate that is configured.
pub(crate) fn floor(limits: &OriginLimits) -> Floor {
    Floor { rate: limits.lowest_rate.bytes_per_second, grace: limits.lowest_rate.grace }
}

/// What a request is charged to: the client's network, and the account that its token proves. The network is not charged when the request
/// comes from a trusted proxy that does not tell the client's address.
pub(super) async fn party(origin: &Origin, asked: Option<&Asked>, headers: &HeaderMap) -> Party {
    let Some(asked) = asked else { return Party::default() };
    let claims = match headers.contains_key(AUTHORIZATION) {
        true => origin.auth.verify(headers.get(AUTHORIZATION)).await.ok(),
        false => None,
    };
    let account = claims.as_deref().map(|claims| claims.sub.as_str());
    match contains(&origin.live().listener.trusted_proxies, asked.peer) {
        true => Party::behind_proxy(account),
        false => Party::new(asked.peer, account),
    }
}

/// Layer: lets a request in, or tells it when to come again.
pub(super) async fn admit(State(origin): State<Arc<Origin>>, mut request: Request, next: Next) -> Response {
    let admission = &origin.admission;
    let state = origin.live().registry_state;
    let kind = match decide(kind(request.method(), request.uri().path()), state) {
        Decision::Pass => return next.run(request).await,
        Decision::When(kind) => kind,
        Decision::ReadOnly => {
            admission.refused.refused("readonly");
            let message = "the registry is read-only for now";
            return refusal(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Denied, message);
        }
    };
    let Some(room) = admission.room(kind) else { return next.run(request).await };
    let asked = request.extensions().get::<Arc<Asked>>().cloned();
    let party = party(&origin, asked.as_deref(), request.headers()).await;
    let mut held = None;
    if let Some(most) = whole::limit(request.method(), request.uri().path()) {
        let (whole, permit) = match whole::arrive(&admission.body_bytes, party.clone(), most, request).await {
            Ok(arrived) => arrived,
            Err(refused) => return refused,
        };
        (request, held) = (whole, Some(permit));
    }
    // A client that does not take a blob loses its connection: nothing else can be done about bytes that are on their way.
    let flow = match request.extensions().get::<Connection>() {
        Some(connection) if kind == Kind::Download => connection.departures.flow(),
        _ => Flow::default(),
    };
    let permit = match room.enter_with(party.clone(), flow).await {
        Ok(permit) => permit,
        Err(full) => return busy(room, full),
    };
    permit.pace().moved(0);
    if matches!(kind, Kind::Manifest | Kind::Write) {
        let pace = Arc::clone(permit.pace());
        request = request.map(|body| Body::new(Paced::new(body, pace)));
        request.extensions_mut().insert(party);
    }
    let mut response = next.run(request).await;
    drop(held);
    response.extensions_mut().insert(Place(Arc::new(permit)));
    response
}

/// There is no room.
pub(super) fn busy(room: &Room, full: Full) -> Response {
    let mut response = refusal(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, &full.to_string());
    let seconds = room.wait().as_secs().clamp(1, 60);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// A request's place, which its answer takes with it to its last byte.
#[derive(Clone)]
pub(super) struct Place(pub(super) Arc<Permit>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_room_a_request_needs() {
        use RegistryState::{Normal, ReadOnly};
        let when = |kind| (Decision::When(kind), Decision::When(kind));
        let write = |kind| (Decision::When(kind), Decision::ReadOnly);
        for (method, path, expected) in [
            (Method::GET, "/v2/", (Decision::Pass, Decision::Pass)),
            (Method::GET, "/v2/auth", when(Kind::Login)),
            (Method::POST, "/v2/auth", when(Kind::Login)),
            (Method::POST, "/api/v1/organization/", when(Kind::Read)),
            (Method::GET, "/keys/services/pierhead/keys", (Decision::Pass, Decision::Pass)),
            (Method::GET, "/health/instance", (Decision::Pass, Decision::Pass)),
            (Method::GET, "/v2/_catalog", when(Kind::Read)),
            (Method::HEAD, "/v2/a/blobs/x", when(Kind::Read)),
            (Method::GET, "/v2/a/blobs/x", when(Kind::Download)),
            (Method::GET, "/v2/a/blobs/manifests/x", when(Kind::Read)),
            (Method::GET, "/v2/a/manifests/blobs/x", when(Kind::Download)),
            (Method::GET, "/v2/a/blobs/uploads/x", when(Kind::Read)),
            (Method::POST, "/v2/a/blobs/uploads/", write(Kind::Write)),
            (Method::PATCH, "/v2/a/blobs/uploads/x", write(Kind::Write)),
            (Method::PUT, "/v2/a/blobs/uploads/x", write(Kind::Write)),
            (Method::DELETE, "/v2/a/blobs/x", write(Kind::Write)),
            (Method::PUT, "/v2/a/manifests/x", write(Kind::Manifest)),
            (Method::DELETE, "/v2/auth/manifests/x", write(Kind::Manifest)),
        ] {
            let kind = kind(&method, path);
            assert_eq!((decide(kind, Normal), decide(kind, ReadOnly)), expected, "{method} {path}");
        }
    }
}

//! What is done about manifests, blobs and lists, with the real cache and the real client, against an upstream that
//! changes its mind: it is told between two requests to fail, to hesitate, to forget or to move a tag.

mod changes;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use pierhead_config::{AuthMode, Globs, OfflinePolicy, Registry};
use pierhead_registry::client::{Account, Client, Credential, EndpointSettings, ListKind, Settings};
use pierhead_registry::oci::{Algorithm, Digest, Reference, media_type};

use super::credential::Caller;
use super::manifests::Wish;
use super::outcome::{Outcome, StaleReason};
use super::plan::tests::registry;
use super::refusal::Refusal;
use super::route::Addressed;
use super::scope::Scope;
use super::served::{Content, Refused, Served};
use super::{Edge, EdgeParts, RegistryParts};
use crate::admin::metrics::Metrics;
use crate::cache::{self, Cache, RepositoryId};
use pierhead_service::health::Health;
use pierhead_service::shares::Floor;

const HOUR: Duration = Duration::from_secs(3600);

/// A registry that changes its mind.
#[derive(Default)]
struct FickleUpstream {
    /// Path to media type and body.
    content: Mutex<HashMap<String, (&'static str, Vec<u8>)>>,
    /// Answered to everything, if set.
    status: Mutex<Option<StatusCode>>,
    /// The one login it knows, if any.
    login: Mutex<Option<HeaderValue>>,
    /// How long it takes to answer.
    hesitation: AtomicU64,
    asked: Mutex<Vec<String>>,
}

impl FickleUpstream {
    fn put(&self, path: &str, media_type: &'static str, body: &str) {
        self.content.lock().unwrap().insert(path.to_owned(), (media_type, body.as_bytes().to_vec()));
    }

    fn say(&self, status: impl Into<Option<StatusCode>>) {
        *self.status.lock().unwrap() = status.into();
    }

    /// What was asked since the last call, sorted: retries and their order are not the matter here.
    fn asked(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.sort();
        asked
    }

    async fn answer(State(upstream): State<Arc<FickleUpstream>>, request: Request) -> Response {
        let path = request.uri().path().trim_start_matches("/v2/team/app/").to_owned();
        upstream.asked.lock().unwrap().push(format!("{} {path}", request.method()));
        tokio::time::sleep(Duration::from_millis(upstream.hesitation.load(Ordering::SeqCst))).await;
        if let Some(login) = &*upstream.login.lock().unwrap()
            && request.headers().get("authorization") != Some(login)
        {
            return (StatusCode::UNAUTHORIZED, [("www-authenticate", "Basic realm=\"x\"")]).into_response();
        }
        if let Some(status) = *upstream.status.lock().unwrap() {
            return status.into_response();
        }
        let Some((media_type, body)) = upstream.content.lock().unwrap().get(&path).cloned() else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let digest = Digest::of(Algorithm::Sha256, &body).to_string();
        let link = "</v2/team/app/tags/list?last=v1&n=1>; rel=\"next\"".to_owned();
        let headers = [("content-type", media_type.to_owned()), ("docker-content-digest", digest), ("link", link)];
        (headers, body).into_response()
    }
}

/// An edge in front of it.
struct Stage {
    upstream: Arc<FickleUpstream>,
    edge: Arc<Edge>,
    caller: Option<Arc<Caller>>,
    offline: bool,
    _folder: tempfile::TempDir,
}

impl Stage {
    async fn set(configure: impl FnOnce(&mut Registry)) -> Stage {
        let upstream = Arc::new(FickleUpstream::default());
        upstream.put("manifests/v1", media_type::OCI_MANIFEST, "{\"one\":1}");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let service = axum::Router::new().fallback(FickleUpstream::answer).with_state(Arc::clone(&upstream));
        tokio::spawn(async move { axum::serve(listener, service).await });

        let mut config = registry("r.example.com");
        configure(&mut config);
        let metrics = Arc::new(Metrics::new().unwrap());
        let settings = Settings {
            name: config.name.clone(),
            endpoints: vec![EndpointSettings {
                url: url.parse().unwrap(),
                repository_prefix: None,
                account: None,
                ca: None,
                client_certificate: None,
                transport: None,
            }],
            realms: Vec::new(),
            redirects_to: Vec::new(),
            listeners: Vec::new(),
            edge: None,
            connect_timeout: HOUR,
            first_byte_timeout: HOUR,
            idle_timeout: HOUR,
            retries: 0,
            resume_for: Duration::ZERO,
            cool_down: Duration::ZERO,
            max_manifest_size: 1 << 20,
        };
        let client = Client::new(settings, Arc::new(metrics.upstream("r.example.com"))).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = cache::Settings {
            path: folder.path().to_owned(),
            fsync: false,
            verify_on_read: false,
            scrub_interval: None,
            memory: 1 << 20,
            changing: cache::Changing {
                max_size: 1 << 30,
                min_free: None,
                shares: HashMap::new(),
                pins: cache::Pins::default(),
                parallel: HashMap::new(),
            },
        };
        let parts = EdgeParts {
            registries: vec![RegistryParts { config, client, pool: None, kept: false }],
            cache: Cache::open(store, Arc::clone(&metrics)).await.unwrap(),
            metrics,
            health: Arc::new(Health::default()),
            access: None,
            floor: Floor { rate: 0, grace: HOUR },
            offline: false,
        };
        let edge = Edge::new(parts, None);
        Stage { upstream, edge: Arc::new(edge), caller: None, offline: false, _folder: folder }
    }

    fn scope(&self) -> Scope {
        let upstream = Arc::clone(&self.edge.registries[0]);
        let repository = RepositoryId { registry: Arc::clone(&upstream.name), name: "team/app".parse().unwrap() };
        Scope::new(&upstream, repository, self.caller.clone(), self.offline)
    }

    /// Asks as somebody else.
    fn by(&mut self, login: Option<(&str, &str)>) {
        let account = |(name, word): (&str, &str)| Account { username: name.to_owned(), password: word.to_owned() };
        let credential = login.map(|login| Credential::Account(account(login)));
        self.caller = Some(Arc::new(Caller::new(&self.edge.caller_key, credential)));
    }

    async fn manifest(&self, reference: &str, head: bool, now: SystemTime) -> Result<Served, Refused> {
        let reference: Reference = reference.parse().unwrap();
        self.edge.manifest(&self.scope(), &reference, Wish { head, headers: &HeaderMap::new() }, now).await
    }

    /// The body and outcome of GET of a tag.
    async fn get(&self, now: SystemTime) -> Result<(String, Outcome), Refusal> {
        match self.manifest("v1", false, now).await {
            Ok(Served { content: Content::Manifest(manifest), outcome }) => {
                Ok((String::from_utf8(manifest.bytes.to_vec()).unwrap(), outcome))
            }
            Ok(_) => panic!("not a manifest"),
            Err(refused) => Err(refused.refusal),
        }
    }

    async fn outcome(&self, now: SystemTime) -> Outcome {
        self.get(now).await.unwrap().1
    }
}

/// Past any `tag_ttl`, and each call past the one before.
fn later() -> SystemTime {
    static CALLS: AtomicU64 = AtomicU64::new(1);
    SystemTime::now() + HOUR * u32::try_from(CALLS.fetch_add(1, Ordering::SeqCst)).unwrap()
}

#[tokio::test]
async fn a_tag_is_fetched_then_hit_then_checked_then_followed() {
    let stage = Stage::set(|_| ()).await;
    assert_eq!(stage.outcome(SystemTime::now()).await, Outcome::Miss);
    assert_eq!(stage.outcome(SystemTime::now()).await, Outcome::Hit);
    assert_eq!(stage.upstream.asked(), ["GET manifests/v1"]);
    assert_eq!(stage.outcome(later()).await, Outcome::Revalidated);
    assert_eq!(stage.upstream.asked(), ["HEAD manifests/v1"]);
    stage.upstream.put("manifests/v1", media_type::OCI_MANIFEST, "{\"two\":2}");
    assert_eq!(stage.get(later()).await.unwrap(), ("{\"two\":2}".to_owned(), Outcome::Miss));
    assert_eq!(stage.upstream.asked(), ["GET manifests/v1", "HEAD manifests/v1"]);
}

#[tokio::test]
async fn immutable_tags_are_never_checked() {
    let stage = Stage::set(|config| config.immutable_tags = Globs::new(vec!["v*".to_owned()]).unwrap()).await;
    assert_eq!(stage.outcome(SystemTime::now()).await, Outcome::Miss);
    assert_eq!(stage.outcome(later()).await, Outcome::Hit);
    assert_eq!(stage.upstream.asked(), ["GET manifests/v1"]);
}

#[tokio::test]
async fn concurrent_misses_are_one_request() {
    let stage = Arc::new(Stage::set(|_| ()).await);
    stage.upstream.hesitation.store(50, Ordering::SeqCst);
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let stage = Arc::clone(&stage);
            tokio::spawn(async move { stage.outcome(SystemTime::now()).await })
        })
        .collect();
    for caller in callers {
        assert!(matches!(caller.await.unwrap(), Outcome::Miss | Outcome::Hit));
    }
    assert_eq!(stage.upstream.asked(), ["GET manifests/v1"]);
}

#[tokio::test]
async fn a_head_costs_no_get_and_is_remembered_for_offline() {
    let mut stage = Stage::set(|_| ()).await;
    let head = stage.manifest("v1", true, SystemTime::now()).await.unwrap();
    assert_eq!(stage.upstream.asked(), ["HEAD manifests/v1"]);
    let Content::ManifestHead(head) = head.content else { panic!("more than a header") };
    assert_eq!(head.size, 9);
    let digest = head.digest.to_string();
    stage.upstream.put(&format!("manifests/{digest}"), media_type::OCI_MANIFEST, "{\"one\":1}");
    assert_eq!(stage.manifest(&digest, false, SystemTime::now()).await.unwrap().outcome, Outcome::Miss);
    stage.offline = true;
    assert_eq!(stage.outcome(later()).await, Outcome::Hit);
    let missing = stage.manifest("v2", false, SystemTime::now()).await;
    assert!(matches!(missing.map(|_| ()).unwrap_err().refusal, Refusal::Offline(_)));
}

#[tokio::test]
async fn past_the_budget_the_known_answer_goes_out_and_the_check_goes_on() {
    let stage = Stage::set(|config| config.revalidate_budget = Duration::from_millis(20)).await;
    assert_eq!(stage.outcome(SystemTime::now()).await, Outcome::Miss);
    stage.upstream.put("manifests/v1", media_type::OCI_MANIFEST, "{\"two\":2}");
    stage.upstream.hesitation.store(200, Ordering::SeqCst);
    let (body, outcome) = stage.get(later()).await.unwrap();
    assert_eq!((body.as_str(), outcome), ("{\"one\":1}", Outcome::Stale(StaleReason::Revalidating)));
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while stage.get(SystemTime::now()).await.unwrap().0 == "{\"one\":1}" {
        assert!(std::time::Instant::now() < deadline, "the check was given up");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_failing_upstream_makes_it_stale_unless_forbidden() {
    for (stale_if_error, expected) in [(true, Some(Outcome::Stale(StaleReason::UpstreamFailed))), (false, None)] {
        let stage = Stage::set(|config| config.stale_if_error = stale_if_error).await;
        assert_eq!(stage.outcome(SystemTime::now()).await, Outcome::Miss);
        stage.upstream.say(StatusCode::INTERNAL_SERVER_ERROR);
        for _ in 0..2 {
            let got = stage.get(later()).await;
            assert_eq!(got.as_ref().ok().map(|(_, outcome)| *outcome), expected);
            assert!(got.is_ok() || matches!(got, Err(Refusal::Unavailable(_))));
        }
        stage.upstream.say(None);
        // The answer that is known goes out once more, and the check behind it finds that upstream is back.
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !matches!(stage.get(later()).await, Ok((_, Outcome::Revalidated))) {
            assert!(std::time::Instant::now() < deadline, "upstream is back");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn a_deleted_tag_is_not_served_unless_kept() {
    for (keep_deleted, status) in
        [(false, StatusCode::NOT_FOUND), (false, StatusCode::FORBIDDEN), (true, StatusCode::NOT_FOUND)]
    {
        let stage = Stage::set(|config| config.keep_deleted = keep_deleted).await;
        assert_eq!(stage.outcome(SystemTime::now()).await, Outcome::Miss);
        stage.upstream.say(status);
        let got = stage.get(later()).await;
        if keep_deleted {
            assert_eq!(got.unwrap().1, Outcome::Stale(StaleReason::Deleted));
        } else {
            assert!(matches!(got, Err(Refusal::Unknown(_) | Refusal::EdgeRefused(_))), "{status}");
            // Forgotten: a failure afterwards brings nothing back.
            stage.upstream.say(StatusCode::BAD_GATEWAY);
            assert!(stage.get(SystemTime::now()).await.is_err(), "{status}");
        }
    }
}

#[tokio::test]
async fn a_no_is_remembered_for_a_while() {
    let stage = Stage::set(|_| ()).await;
    for outcome in [Outcome::Miss, Outcome::Hit, Outcome::Hit] {
        let refused = stage.manifest("v2", false, SystemTime::now()).await.map(|_| ()).unwrap_err();
        assert!(matches!(refused.refusal, Refusal::Unknown(_)));
        assert_eq!(refused.outcome, outcome);
    }
    assert_eq!(stage.upstream.asked(), ["GET manifests/v2"]);
}

#[tokio::test]
async fn a_hit_needs_upstreams_yes_for_this_very_caller() {
    for (policy, expected) in
        [(OfflinePolicy::Deny, None), (OfflinePolicy::AllowKnown, Some(Outcome::Stale(StaleReason::UpstreamFailed)))]
    {
        let configure = |config: &mut Registry| {
            config.auth = AuthMode::Passthrough;
            config.offline_policy = policy;
        };
        let mut stage = Stage::set(configure).await;
        // ann:secret
        *stage.upstream.login.lock().unwrap() = Some(HeaderValue::from_static("Basic YW5uOnNlY3JldA=="));
        stage.by(Some(("ann", "secret")));
        assert_eq!(stage.outcome(SystemTime::now()).await, Outcome::Miss);
        assert_eq!(stage.outcome(SystemTime::now()).await, Outcome::Hit);
        for stranger in [Some(("bob", "secret")), Some(("ann", "wrong")), None] {
            stage.by(stranger);
            assert!(matches!(stage.get(SystemTime::now()).await, Err(Refusal::CallerRefused)), "{stranger:?}");
        }
        stage.by(Some(("ann", "secret")));
        assert_eq!(stage.outcome(later()).await, Outcome::Revalidated);
        stage.upstream.say(StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(stage.get(later()).await.ok().map(|(_, outcome)| outcome), expected);
        stage.by(Some(("bob", "secret")));
        assert!(stage.get(later()).await.is_err());
    }
}

#[tokio::test]
async fn a_blob_is_not_served_to_a_repository_that_does_not_hold_it() {
    let stage = Stage::set(|_| ()).await;
    let digest = Digest::of(Algorithm::Sha256, b"layer");
    stage.upstream.put(&format!("blobs/{digest}"), "application/octet-stream", "layer");
    let (headers, now) = (HeaderMap::new(), SystemTime::now());
    let other = Scope {
        repository: RepositoryId { name: "other/app".parse().unwrap(), ..stage.scope().repository },
        ..stage.scope()
    };
    let served = stage.edge.blob(&stage.scope(), &digest, false, &headers, now).await.unwrap();
    let Content::Blob(_, blob) = served.content else { panic!("not a blob") };
    let mut body = [0; 16];
    let mut reader = blob.reader(blob.all());
    assert_eq!(reader.read(&mut body).await.unwrap(), 5);
    assert_eq!(&body[..5], b"layer");
    for head in [true, false] {
        let refused = stage.edge.blob(&other, &digest, head, &headers, now).await.map(|_| ()).unwrap_err();
        assert!(matches!(refused.refusal, Refusal::Unknown(_)));
        assert!(stage.edge.blob(&stage.scope(), &digest, head, &headers, now).await.is_ok());
    }
}

#[tokio::test]
async fn callers_who_want_one_unknown_blob_ask_upstream_once() {
    let stage = Arc::new(Stage::set(|_| ()).await);
    let digest = Digest::of(Algorithm::Sha256, b"layer");
    stage.upstream.put(&format!("blobs/{digest}"), "application/octet-stream", "layer");
    stage.upstream.hesitation.store(50, Ordering::SeqCst);
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let stage = Arc::clone(&stage);
            tokio::spawn(async move {
                let (headers, now) = (HeaderMap::new(), SystemTime::now());
                stage.edge.blob(&stage.scope(), &digest, false, &headers, now).await.is_ok()
            })
        })
        .collect();
    for caller in callers {
        assert!(caller.await.unwrap());
    }
    assert_eq!(stage.upstream.asked(), [format!("GET blobs/{digest}")]);
}

#[tokio::test]
async fn lists_are_kept_served_stale_and_linked_as_the_client_asks() {
    let stage = Stage::set(|_| ()).await;
    stage.upstream.put("tags/list", "application/json", "{\"tags\":[\"v1\"]}");
    let ask = async |addressed, now| {
        let served = stage.edge.list(&stage.scope(), ListKind::Tags, Some("n=1"), addressed, now).await.unwrap();
        let Content::List(list, link) = served.content else { panic!("not a list") };
        (list.bytes.clone(), link.unwrap(), served.outcome)
    };
    let (body, link, outcome) = ask(Addressed::Default, SystemTime::now()).await;
    assert_eq!(&body[..], b"{\"tags\":[\"v1\"]}");
    assert_eq!((link.as_str(), outcome), ("</v2/team/app/tags/list?last=v1&n=1>; rel=\"next\"", Outcome::Miss));
    let (_, link, outcome) = ask(Addressed::Path, SystemTime::now()).await;
    assert_eq!(link, "</v2/r.example.com/team/app/tags/list?last=v1&n=1>; rel=\"next\"");
    assert_eq!(outcome, Outcome::Hit);
    stage.upstream.say(StatusCode::INTERNAL_SERVER_ERROR);
    let (_, link, outcome) = ask(Addressed::Namespace, later()).await;
    assert_eq!(link, "</v2/team/app/tags/list?last=v1&n=1&ns=r.example.com>; rel=\"next\"");
    assert_eq!(outcome, Outcome::Stale(StaleReason::UpstreamFailed));
    let referrers = ListKind::Referrers(Digest::of(Algorithm::Sha256, b"image"));
    let refused = stage.edge.list(&stage.scope(), referrers, None, Addressed::Default, later()).await;
    assert!(matches!(refused.map(|_| ()).unwrap_err().refusal, Refusal::NoReferrers(_)));
}

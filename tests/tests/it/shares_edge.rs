//! A thousand hostile connections to the edge, beside clients that pull what is cached and what is not: none of their pulls fails.

use std::net::Ipv4Addr;
use std::time::Duration;

use pierhead_tests::clients::Skopeo;
use pierhead_tests::eventually;
use pierhead_tests::hostile::{Attack, Then};
use pierhead_tests::image::{Blob, Image};
use pierhead_tests::misbehaving::{Misbehaviour, Upstream};
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::registry::DockerRegistry;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Hostile connections of each kind.
const MANY: usize = 1000;
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// More questions than may wait for upstreams at once.
const QUESTIONS: usize = 4500;
/// Longer than any of this takes on a busy machine, and far shorter than a slow upstream takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A registry with a cached image, cold ones and a large blob; a silent one beside it; and the edge before both.
struct Stage {
    registry: DockerRegistry,
    _silent: Upstream,
    edge: Pierhead,
    large: Blob,
}

async fn stage(change: impl FnOnce(Setup) -> Setup) -> Stage {
    let registry = DockerRegistry::start().await;
    registry.push("team/app", "warm", &Image::new(1, &[1000, 200_000])).await;
    let large = Blob::random(7, 8 << 20);
    registry.client().push_blob("team/app", &large.digest, large.bytes.clone()).await;
    let silent = Upstream::start().await;
    silent.misbehave(Misbehaviour::Silent);
    let setup = Setup::new()
        .registry_with("up.test", registry.url(), json!({ "default": true }))
        .registry("silent.test", silent.url());
    let edge = change(setup).start().await;
    edge.client().pull("team/app", "warm").await.unwrap();
    edge.client().blob("team/app", &large.digest).await.unwrap();
    Stage { registry, _silent: silent, edge, large }
}

impl Stage {
    /// Pulls of what is cached and of what is not, by a client of ours and by skopeo. Each must succeed.
    async fn work(&self, seed: u64) {
        for round in 0..3 {
            let tag = format!("cold-{seed}-{round}");
            self.registry.push("team/app", &tag, &Image::new(100 * seed + round, &[5000, 300_000])).await;
            assert!(self.edge.client().pull("team/app", "warm").await.unwrap() > 0);
            assert!(self.edge.client().pull("team/app", &tag).await.unwrap() > 0);
            assert_eq!(self.edge.client().get("/v2/").await.status, 200);
        }
        let image = format!("{}/team/app:warm", self.edge.registry);
        Skopeo::new().copy(&image, &[]).await.expect_success();
    }

    async fn attacked(&self, first: impl Fn(usize) -> String, then: Then, seed: u64) {
        self.attacked_by(MANY, first, then, seed).await;
    }

    async fn attacked_by(&self, many: usize, first: impl Fn(usize) -> String, then: Then, seed: u64) {
        let attack =
            Attack::begin(many, ELSEWHERE, self.edge.registry, |number| first(number).into_bytes(), then).await;
        assert_eq!(attack.begun(), many);
        self.work(seed).await;
    }
}

/// With fewer places than hostile connections: half-sent requests, and connections that say nothing.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_half_sent_requests_leave_places_for_others() {
    let stage = stage(|setup| setup.set("/listeners/0/max_connections", 500)).await;
    stage
        .attacked(
            |_| "GET /v2/team/app/manifests/warm HTTP/1.1\r\nHo".to_owned(),
            Then::Drip(Duration::from_secs(2)),
            1,
        )
        .await;
    stage.attacked(|_| String::new(), Then::Nothing, 2).await;
    assert!(stage.edge.metric("pierhead_limited_total", &[("limit", "share")]).await >= 1.0);
}

/// With fewer places than readers of a cached blob that take a few bytes now and then.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_slow_readers_leave_places_for_others() {
    let stage = stage(|setup| setup.set("/listeners/0/max_connections", 500)).await;
    let request = format!("GET /v2/team/app/blobs/{} HTTP/1.1\r\nHost: edge\r\n\r\n", stage.large.digest);
    stage.attacked(|_| request.clone(), Then::Sip(Duration::from_secs(1)), 1).await;
}

/// Of few places, slow readers lose theirs to clients that wait, and the edge counts them.
#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_lose_their_places_at_the_edge() {
    let stage = stage(|setup| {
        let rate = json!({ "bytes_per_second": "1KiB", "grace": "500ms" });
        setup.set("/listeners/0/max_connections", 40).set("/limits/lowest_rate", rate)
    })
    .await;
    let request = format!("GET /v2/team/app/blobs/{} HTTP/1.1\r\nHost: edge\r\n\r\n", stage.large.digest);
    let request = |_| request.clone().into_bytes();
    let mut attacks = Vec::new();
    for (network, many) in [(2, 35), (3, 10), (4, 5), (5, 5)] {
        let from = Ipv4Addr::new(127, 0, 0, network);
        attacks.push(Attack::begin(many, from, stage.edge.registry, request, Then::Nothing).await);
    }
    let work = async { assert!(stage.edge.client().pull("team/app", "warm").await.unwrap() > 0) };
    tokio::time::timeout(PATIENCE / 2, work).await.expect("a place");
    let slow = [("kind", "connection"), ("reason", "slow")];
    stage.edge.metric_until("pierhead_share_refusals_total", &slow, |cut| cut >= 1.0).await;
}

/// An upstream whose blobs take hours, and an edge that has so many connections to it.
async fn unhurried(connections: u32, change: impl FnOnce(Setup) -> Setup) -> (Upstream, Pierhead, Vec<Blob>) {
    let upstream = Upstream::start().await;
    // The last one is as long as a piece.
    let blobs: Vec<Blob> = (0..20).map(|seed| Blob::random(seed, if seed == 19 { 1000 } else { 8 << 20 })).collect();
    for blob in &blobs {
        upstream.hold_blob("team/app", &blob.digest.to_string(), blob.bytes.clone());
    }
    upstream.misbehave(Misbehaviour::SlowDrip(1000, Duration::from_secs(1)));
    let settings = json!({ "default": true, "connections_per_upstream": connections });
    let edge = change(Setup::new().registry_with("up.test", upstream.url(), settings)).start().await;
    (upstream, edge, blobs)
}

async fn waiting(edge: &Pierhead, kind: &str, count: usize) {
    let is = |waiting: f64| (waiting - count as f64).abs() < 0.5;
    edge.metric_until("pierhead_share_waiting", &[("kind", kind)], is).await;
}

/// One client fills all connections to an upstream, with more downloads waiting. Another gets its blobs, also one that the first waits for.
#[tokio::test(flavor = "multi_thread")]
async fn downloads_of_one_client_make_room_for_those_of_others() {
    let (upstream, edge, blobs) = unhurried(4, |setup| setup).await;
    let ask = |number: usize| {
        let digest = &blobs[number].digest;
        format!("GET /v2/team/app/blobs/{digest} HTTP/1.1\r\nHost: edge\r\n\r\n").into_bytes()
    };
    let _attack = Attack::begin(19, ELSEWHERE, edge.registry, ask, Then::Nothing).await;
    // Alone it has all of them.
    waiting(&edge, "fill", 15).await;
    // The last that it waits for is what another client wants.
    let _last = Attack::begin(1, ELSEWHERE, edge.registry, |_| ask(19), Then::Nothing).await;
    waiting(&edge, "fill", 16).await;
    let small = Blob::random(100, 1000);
    upstream.hold_blob("team/app", &small.digest.to_string(), small.bytes.clone());
    let client = edge.client();
    let work = async {
        assert_eq!(client.blob("team/app", &small.digest).await.unwrap().size, 1000);
        assert_eq!(client.blob("team/app", &blobs[19].digest).await.unwrap().size, 1000);
    };
    tokio::time::timeout(PATIENCE, work).await.expect("a connection for the second client");
}

/// A download that gave its connection away goes on where it stood, with the rest of the blob alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_gave_way_goes_on_where_it_stood() {
    let (upstream, edge, blobs) = unhurried(2, |setup| setup).await;
    let path = |blob: &Blob| format!("/v2/team/app/blobs/{}", blob.digest);
    let ask = |number: usize| format!("GET {} HTTP/1.1\r\nHost: edge\r\n\r\n", path(&blobs[number])).into_bytes();
    let attack = Attack::begin(2, ELSEWHERE, edge.registry, ask, Then::Nothing).await;
    let both = || upstream.count("GET", "/blobs/") >= 2;
    eventually("both downloads", PATIENCE, async || both().then_some(())).await;
    edge.metric_until("pierhead_upstream_received_bytes_total", &[("registry", "up.test")], |bytes| bytes >= 2000.0)
        .await;
    upstream.misbehave(Misbehaviour::None);
    let work = async { assert_eq!(edge.client().blob("team/app", &blobs[5].digest).await.unwrap().size, 8 << 20) };
    tokio::time::timeout(PATIENCE, work).await.expect("a connection for the second client");
    // The one that gave way is whole in the end, by a request for its rest.
    let again = || (0..2).find(|number| upstream.count("GET", &path(&blobs[*number])) == 2);
    let number = eventually("a request for the rest", PATIENCE, async || again()).await;
    edge.committed(&blobs[number].digest).await;
    assert!(upstream.ranges(&path(&blobs[number])).last().unwrap().0 > 0);
    drop(attack);
}

/// Clients that read past the cache, and take nothing: their connections to upstream go to clients that wait, and come back when they read on.
/// Where upstream sends no parts, they lose their bodies instead.
#[tokio::test(flavor = "multi_thread")]
async fn readers_past_the_cache_that_take_nothing_keep_none_waiting() {
    for (how, whole) in [(Misbehaviour::None, true), (Misbehaviour::NoRanges, false)] {
        let (upstream, edge, _) = unhurried(1, |setup| {
            let rate = json!({ "bytes_per_second": "1KiB", "grace": "300ms" });
            setup.set("/cache/max_size", "4MiB").set("/limits/lowest_rate", rate)
        })
        .await;
        upstream.misbehave(how);
        let [slow, other] = [50, 51].map(|seed| Blob::random(seed, 32 << 20));
        for blob in [&slow, &other] {
            upstream.hold_blob("team/app", &blob.digest.to_string(), blob.bytes.clone());
        }
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.bind((ELSEWHERE, 0).into()).unwrap();
        let mut reader = socket.connect(edge.registry).await.unwrap();
        let path = format!("/v2/team/app/blobs/{}", slow.digest);
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        reader.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 1000];
        reader.read_exact(&mut answer).await.unwrap();
        let work = async { assert_eq!(edge.client().blob("team/app", &other.digest).await.unwrap().size, 32 << 20) };
        tokio::time::timeout(PATIENCE, work).await.expect("a connection for the second client");
        let _broken = reader.read_to_end(&mut answer).await;
        assert_eq!(answer.ends_with(&slow.bytes), whole, "{} bytes came", answer.len());
        let slow = [("kind", "uncached"), ("reason", "slow")];
        assert!(edge.metric("pierhead_share_refusals_total", &slow).await >= 1.0);
    }
}

/// A client that asks for what never comes, and for what is not there: the questions of others are asked.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_misses_of_one_client_keep_none_waiting() {
    let stage = stage(|setup| setup).await;
    let miss = |number| format!("GET /v2/silent.test/team/app/manifests/t{number} HTTP/1.1\r\nHost: edge\r\n\r\n");
    stage.attacked_by(QUESTIONS, miss, Then::Nothing, 1).await;
    // Some had to be refused, or the attack was none.
    let refused = [("kind", "question"), ("reason", "share")];
    assert!(stage.edge.metric("pierhead_share_refusals_total", &refused).await >= 1.0);
    let absent = |number| format!("GET /v2/team/app/manifests/absent{number} HTTP/1.1\r\nHost: edge\r\n\r\n");
    stage.attacked(absent, Then::Nothing, 2).await;
}

/// Addresses of one IPv6 /64 are one client, however many a load balancer names; another network finds a place.
#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_one_ipv6_network_share_one_share() {
    let edge = Setup::new()
        .registry("up.test", "http://127.0.0.1:1")
        .set("/listeners/0/max_connections", 50)
        .set("/listeners/0/accept_proxy", true)
        .set("/trusted_proxies", json!(["127.0.0.1", "127.0.0.2"]))
        .start()
        .await;
    let header = |client: &str| format!("PROXY TCP6 {client} 2001:db8:ffff::1 4000 443\r\n");
    let first = |number: usize| header(&format!("2001:db8::{number:x}")).into_bytes();
    let _attack = Attack::begin(100, ELSEWHERE, edge.registry, first, Then::Nothing).await;
    for number in 0..5 {
        let mut client = TcpStream::connect(edge.registry).await.unwrap();
        let request =
            header(&format!("2001:db8:1:{number}::1")) + "GET /v2/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    }
}

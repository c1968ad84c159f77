//! A thousand hostile connections to the edge, beside clients that pull what is cached and what is not: none of their pulls fails.

use std::net::Ipv4Addr;
use std::time::Duration;

use pierhead_tests::clients::Skopeo;
use pierhead_tests::hostile::{Attack, Then};
use pierhead_tests::image::{Blob, Image};
use pierhead_tests::misbehaving::{Misbehaviour, Upstream};
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::registry::DockerRegistry;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Hostile connections of each kind.
const MANY: usize = 1000;
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

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
        let attack =
            Attack::begin(MANY, ELSEWHERE, self.edge.registry, |number| first(number).into_bytes(), then).await;
        assert_eq!(attack.begun(), MANY);
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

/// A client that asks for what never comes, and for what is not there: the questions of others are asked.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_misses_of_one_client_keep_none_waiting() {
    let stage = stage(|setup| setup).await;
    let miss = |number| format!("GET /v2/silent.test/team/app/manifests/t{number} HTTP/1.1\r\nHost: edge\r\n\r\n");
    stage.attacked(miss, Then::Nothing, 1).await;
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

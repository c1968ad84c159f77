//! Upstreams that lie, stall, refuse, or lead astray. Whatever they do, nothing wrong arrives whole, nothing hangs,
//! no credential goes where it does not belong, and afterwards all is well again.

use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use pierhead_tests::eventually;
use pierhead_tests::http::{Answer, Request, Server};
use pierhead_tests::image::{Blob, Image};
use pierhead_tests::misbehaving::{Misbehaviour, Upstream};
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::pull::Client;
use pierhead_tests::wire::Wire;
use reqwest::Method;
use serde_json::{Value, json};

const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn hasty(more: Value) -> Value {
    let mut keys = json!({
        "default": true, "retries": 1, "cool_down": "50ms", "first_byte_timeout": "1s", "idle_timeout": "1s",
        "connect_timeout": "1s", "resume_for": "1s", "negative_ttl": "1ms",
    });
    keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    keys
}

async fn edge_of(upstream: &Upstream, more: Value) -> Pierhead {
    Setup::new().registry_with("up.test", upstream.url(), hasty(more)).start().await
}

/// Pulls until it works, which it must, soon.
async fn recovers(edge: &Pierhead) {
    eventually("a good pull", Duration::from_secs(20), async || edge.client().pull("team/app", "latest").await.ok())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_wrong_arrives_and_all_is_well_afterwards() {
    for how in [
        Misbehaviour::WrongBytes,
        Misbehaviour::ShortBody,
        Misbehaviour::WrongLength,
        Misbehaviour::EndlessHeader,
        Misbehaviour::WrongManifest,
        Misbehaviour::RedirectLoop,
        Misbehaviour::Stall,
        Misbehaviour::Silent,
        Misbehaviour::Failing(500),
        Misbehaviour::Failing(418),
        Misbehaviour::RateLimited(1),
    ] {
        let upstream = Upstream::start().await;
        let image = Image::new(1, &[300_000, 1000]);
        upstream.hold("team/app", "latest", &image);
        let edge = edge_of(&upstream, json!({})).await;
        upstream.misbehave(how.clone());
        let begun = Instant::now();
        if let Misbehaviour::WrongManifest = how {
            // By tag there is nothing to compare with; by digest there is.
            let by_digest = edge.client().manifest("team/app", &image.digest().to_string()).await;
            assert!(by_digest.is_err(), "{how:?}");
        } else {
            // A blob that is wrong and whole ends the test in here.
            assert!(edge.client().pull("team/app", "latest").await.is_err(), "{how:?}");
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "{how:?} took {:?}", begun.elapsed());
        upstream.misbehave(Misbehaviour::None);
        recovers(&edge).await;
        assert!(edge.peak_memory() < 256 << 20, "{how:?}: {} bytes", edge.peak_memory());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_beyond_the_length_is_not_passed_on() {
    let upstream = Upstream::start().await;
    upstream.hold("team/app", "latest", &Image::new(1, &[300_000]));
    upstream.misbehave(Misbehaviour::LongBody);
    let edge = edge_of(&upstream, json!({})).await;
    let _ = edge.client().pull("team/app", "latest").await;
    upstream.misbehave(Misbehaviour::None);
    recovers(&edge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_counted_and_had_from_elsewhere() {
    let (liar, honest) = (Upstream::start().await, Upstream::start().await);
    let (image, other) = (Image::new(1, &[300_000]), Image::new(2, &[1000]));
    for upstream in [&liar, &honest] {
        upstream.hold("team/app", "latest", &image);
        upstream.hold("team/app", "other", &other);
    }
    let keys = hasty(json!({ "insecure": true, "upstream": [liar.url(), honest.url()] }));
    let edge = Setup::new().registry_with("up.test", "", keys).start().await;
    edge.client().pull("team/app", "other").await.unwrap();
    liar.misbehave(Misbehaviour::WrongBytes);
    eventually("a good pull", Duration::from_secs(20), async || {
        edge.client().blob("team/app", &image.layers[0].digest).await.ok()
    })
    .await;
    assert!(edge.metric("pierhead_verification_failures_total", &[("where", "upstream")]).await >= 1.0);
    assert!(honest.count("GET", &image.layers[0].digest.to_string()) >= 1);
    // Nothing else was lost.
    let asked = liar.count("GET", &other.layers[0].digest.to_string());
    edge.client().pull("team/app", "other").await.unwrap();
    assert_eq!(liar.count("GET", &other.layers[0].digest.to_string()), asked);
}

/// Of a small blob no client has a byte before its hash was checked.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirrors_wrong_bytes_for_a_small_blob_fail_no_client() {
    for (how, known) in [Misbehaviour::WrongBytes, Misbehaviour::WrongChunks, Misbehaviour::WrongLength]
        .into_iter()
        .flat_map(|how| [(how.clone(), false), (how, true)])
    {
        let (liars, honest) = ([Upstream::start().await, Upstream::start().await], Upstream::start().await);
        let image = Image::new(1, &[170, 1000, 5000]);
        honest.hold("team/app", "latest", &image);
        for liar in &liars {
            liar.hold("team/app", "", &image);
            liar.misbehave(how.clone());
        }
        let upstream = [liars[0].url(), liars[1].url(), honest.url()];
        let keys = hasty(json!({ "insecure": true, "upstream": upstream }));
        let edge = Setup::new().registry_with("up.test", "", keys).start().await;
        let client = edge.client();
        if known {
            client.manifest("team/app", "latest").await.unwrap();
        }
        for Blob { digest, bytes } in image.blobs() {
            let path = format!("/v2/team/app/blobs/{digest}");
            for reply in futures_util::future::join_all((0..5).map(|_| client.get(&path))).await {
                assert!(reply.status == 200 && reply.body == bytes, "{how:?} {known} {}", reply.status);
            }
            let whole = |request: &Request| request.path == path && request.range().is_none();
            for liar in &liars {
                assert_eq!(liar.server.count(whole), 1, "{how:?} {known}");
            }
        }
    }
}

/// What a mirror sends in place of a part has another length than the manifest tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirrors_page_is_no_part_of_a_blob() {
    const PAGE: &str = "<html>mirror page, please log in</html>";
    let pages: [fn() -> Answer; 3] = [
        || Answer::new(200, &[("Content-Type", "text/html")], PAGE),
        || Answer::new(200, &[], PAGE),
        || Answer::new(206, &[("Content-Range", "bytes 5-14/39")], &PAGE[5..15]),
    ];
    for (at, page) in pages.into_iter().enumerate() {
        let mirror =
            Server::start(Ipv4Addr::LOCALHOST, move |request: &Request| match request.path.contains("/blobs/") {
                true => page(),
                false => Answer::new(404, &[], "{}"),
            })
            .await;
        let honest = Upstream::start().await;
        let image = Image::new(2, &[5000]);
        honest.hold("team/app", "latest", &image);
        let keys = hasty(json!({ "insecure": true, "upstream": [mirror.url(), honest.url()] }));
        let edge = Setup::new().registry_with("up.test", "", keys).start().await;
        let client = edge.client();
        client.manifest("team/app", "latest").await.unwrap();
        let layer = &image.layers[0];
        let path = format!("/v2/team/app/blobs/{}", layer.digest);
        let part = client.request(Method::GET, &path).header("Range", "bytes=5-14").send().await.unwrap();
        assert_eq!(part.status(), 206, "page {at}");
        let length = layer.bytes.len();
        assert_eq!(part.headers()["content-range"], format!("bytes 5-14/{length}"), "page {at}");
        assert_eq!(part.bytes().await.unwrap(), layer.bytes.slice(5..15), "page {at}");
        assert_eq!(client.get(&path).await.body, layer.bytes, "page {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_looks_whole_over_http_2_either() {
    let upstream = Upstream::start().await;
    let blob = Blob::random(1, 400_000);
    upstream.hold_blob("team/app", &blob.digest.to_string(), blob.bytes.clone());
    let setup = Setup::new().registry_with("up.test", upstream.url(), hasty(json!({})));
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (setup.dir.path().join("tls.crt"), setup.dir.path().join("tls.key"));
    std::fs::write(&cert, pair.cert.pem()).unwrap();
    std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    let tls = json!({ "certificates": [{ "cert": cert, "key": key }] });
    let edge = setup.set("/listeners/0/tls", tls).start().await;
    let http = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([reqwest::Certificate::from_pem(pair.cert.pem().as_bytes()).unwrap()])
        .resolve("localhost", edge.registry)
        .build()
        .unwrap();
    let client = Client::new(format!("https://localhost:{}", edge.registry.port())).over(http);
    for how in [Misbehaviour::WrongBytes, Misbehaviour::ShortBody, Misbehaviour::Stall] {
        upstream.misbehave(how.clone());
        assert!(client.blob("team/app", &blob.digest).await.is_err(), "{how:?}");
        // The connection serves on.
        assert_eq!(client.get("/v2/").await.status, 200);
    }
    upstream.misbehave(Misbehaviour::None);
    eventually("a good pull", Duration::from_secs(20), async || client.blob("team/app", &blob.digest).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_readers_of_a_wrong_blob_fail() {
    let upstream = Upstream::start().await;
    let blob = Blob::random(1, 400_000);
    upstream.hold_blob("team/app", &blob.digest.to_string(), blob.bytes.clone());
    upstream.misbehave(Misbehaviour::WrongBytes);
    let edge = edge_of(&upstream, json!({})).await;
    let client = edge.client();
    let begun = Instant::now();
    let pulls = (0..20).map(|_| client.blob("team/app", &blob.digest));
    for pull in futures_util::future::join_all(pulls).await {
        assert!(pull.is_err());
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    upstream.misbehave(Misbehaviour::None);
    eventually("a good pull", Duration::from_secs(20), async || client.blob("team/app", &blob.digest).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_drip_is_no_failure() {
    let upstream = Upstream::start().await;
    let blob = Blob::random(1, 100_000);
    upstream.hold_blob("team/app", &blob.digest.to_string(), blob.bytes.clone());
    // Longer in all than any timeout, but never silent for long.
    upstream.misbehave(Misbehaviour::SlowDrip(4000, Duration::from_millis(100)));
    let edge = edge_of(&upstream, json!({})).await;
    let received = edge.client().blob("team/app", &blob.digest).await.unwrap();
    assert!(received.total > Duration::from_secs(2), "{received:?}");
    assert!(received.first_byte < Duration::from_secs(1), "{received:?}");
    assert_eq!(upstream.count("GET", "/blobs/"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_range_is_not_taken_for_the_right_one() {
    let upstream = Upstream::start().await;
    let blob = Blob::random(1, 2 << 20);
    upstream.hold_blob("team/app", &blob.digest.to_string(), blob.bytes.clone());
    let wire = Wire::to(upstream.server.address).await;
    let edge = Setup::new().registry_with("up.test", wire.url(), hasty(json!({}))).start().await;
    upstream.misbehave(Misbehaviour::WrongRange);
    wire.cut_after(1 << 20);
    let _ = edge.client().blob("team/app", &blob.digest).await;
    let part = edge.client().range("team/app", &blob.digest, "bytes=1900000-1900009").await;
    assert!(part.status >= 400 || part.body == blob.bytes.slice(1_900_000..1_900_010), "{}", part.status);
    upstream.misbehave(Misbehaviour::None);
    let client = edge.client();
    eventually("a good pull", Duration::from_secs(20), async || client.blob("team/app", &blob.digest).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_errors_are_tried_again() {
    let upstream = Upstream::start().await;
    upstream.hold("team/app", "latest", &Image::new(1, &[1000]));
    upstream.misbehave(Misbehaviour::FailingAtFirst(503, 2));
    let edge = edge_of(&upstream, json!({ "retries": 3 })).await;
    edge.client().pull("team/app", "latest").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_is_obeyed_by_the_whole_edge() {
    let upstream = Upstream::start().await;
    upstream.hold("team/app", "latest", &Image::new(1, &[1000]));
    let edge = edge_of(&upstream, json!({ "tag_ttl": "1ms" })).await;
    edge.client().pull("team/app", "latest").await.unwrap();
    upstream.misbehave(Misbehaviour::RateLimited(600));
    let client = edge.client();
    let limited = client.get("/v2/team/app/manifests/other").await;
    assert_eq!(limited.status, 429);
    let seconds: u64 = limited.header("retry-after").parse().unwrap();
    assert!((1..=600).contains(&seconds), "{seconds}");
    let asked = upstream.server.requests().len();
    for number in 0..10 {
        assert_eq!(client.get(&format!("/v2/team/b{number}/manifests/latest")).await.status, 429);
    }
    assert_eq!(upstream.server.requests().len(), asked);
    // What is known is served all the same.
    let known = client.get_with("/v2/team/app/manifests/latest", &[("Accept", "*/*")]).await;
    assert_eq!(known.status, 200);
    assert!(known.header("warning").starts_with("110"));
    client.pull("team/app", "latest").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_elsewhere_gets_no_credential() {
    let (registry, storage) = (Upstream::start().await, Upstream::on(ELSEWHERE).await);
    let image = Image::new(1, &[300_000]);
    for upstream in [&registry, &storage] {
        upstream.hold("team/app", "latest", &image);
    }
    registry.misbehave(Misbehaviour::Redirect(storage.url()));
    let credentials = json!({ "credentials": { "username": "edge", "password": "edge-password" } });
    let edge = edge_of(&registry, credentials).await;
    edge.client().pull("team/app", "latest").await.unwrap();
    let path = format!("/v2/team/app/blobs/{}", image.layers[0].digest);
    edge.client().range("team/app", &image.layers[0].digest, "bytes=1-2").await;
    let seen = storage.server.requests();
    assert!(seen.iter().any(|request| request.path == path), "{seen:?}");
    for request in &seen {
        assert_eq!(request.header("authorization"), None);
        assert_eq!(request.header("cookie"), None);
        assert_eq!(request.query, "signature=secret-signature");
    }
    assert_eq!(edge.log().count(|line| line.contains("secret-signature") || line.contains("edge-password")), 0);
    // Nor does a failing target put it into the log.
    storage.misbehave(Misbehaviour::Failing(403));
    let other = Blob::random(9, 1000);
    registry.hold_blob("team/app", &other.digest.to_string(), other.bytes.clone());
    assert!(edge.client().blob("team/app", &other.digest).await.is_err());
    assert_eq!(edge.log().count(|line| line.contains("secret-signature") || line.contains("edge-password")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_loop_ends() {
    let upstream = Upstream::start().await;
    let blob = Blob::random(1, 1000);
    upstream.hold_blob("team/app", &blob.digest.to_string(), blob.bytes.clone());
    upstream.misbehave(Misbehaviour::RedirectLoop);
    let edge = edge_of(&upstream, json!({ "retries": 0, "resume_for": "100ms" })).await;
    assert!(edge.client().blob("team/app", &blob.digest).await.is_err());
    let asked = upstream.server.requests().len();
    assert!(asked <= 25, "{asked} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_realm_learns_nothing() {
    let thief = Server::start(ELSEWHERE, |_| Answer::new(200, &[], r#"{"token":"x"}"#)).await;
    let upstream = Upstream::start().await;
    upstream.hold("team/app", "latest", &Image::new(1, &[1000]));
    upstream.misbehave(Misbehaviour::Challenge(format!("{}/token", thief.url())));
    let credentials = json!({ "credentials": { "username": "edge", "password": "edge-password" } });
    let edge = edge_of(&upstream, credentials.clone()).await;
    assert!(edge.client().pull("team/app", "latest").await.is_err());
    assert!(edge.client().blob("team/app", &Blob::random(1, 10).digest).await.is_err());
    assert_eq!(thief.requests().len(), 0, "{:?}", thief.requests());
    // Unless the configuration says that it is none.
    let mut trusting = credentials;
    trusting["realms"] = json!([ELSEWHERE.to_string()]);
    let edge = edge_of(&upstream, trusting).await;
    edge.client().pull("team/app", "latest").await.unwrap();
    assert_eq!(thief.requests()[0].basic(), Some(("edge".to_owned(), "edge-password".to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_without_head_still_revalidates() {
    let upstream = Upstream::start().await;
    upstream.hold("team/app", "latest", &Image::new(1, &[1000]));
    upstream.misbehave(Misbehaviour::NoHead);
    let edge = edge_of(&upstream, json!({ "tag_ttl": "1ms" })).await;
    for _ in 0..3 {
        let reply = edge.client().manifest("team/app", "latest").await.unwrap();
        assert_eq!(reply.header("warning"), "");
        assert_eq!(edge.client().head("/v2/team/app/manifests/latest").await.status, 200);
    }
}

/// An upstream that redirects whatever a digest names to another such thing at an address that is told it later.
async fn leading_back() -> (Server, Arc<OnceLock<String>>) {
    let back = Arc::new(OnceLock::<String>::new());
    let told = Arc::clone(&back);
    let server = Server::start(Ipv4Addr::LOCALHOST, move |request| match told.get() {
        Some(base) if request.path.contains("/sha256:") => {
            let target = Blob::random(rand::random(), 10).digest;
            let (path, _) = request.path.rsplit_once('/').unwrap();
            Answer::new(307, &[("Location", &format!("{base}{path}/{target}"))], "")
        }
        _ => Answer::new(404, &[], "{}"),
    });
    (server.await, back)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_leads_the_edge_to_itself() {
    let (upstream, back) = leading_back().await;
    let setup = Setup::new().registry_with("up.test", upstream.url(), hasty(json!({})));
    let edge = setup.start().await;
    // Not `localhost`, whose address is known without looking it up.
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    back.set(format!("http://{}:{}", name.trim(), edge.registry.port())).unwrap();
    for kind in ["manifests", "blobs"] {
        let asked = upstream.requests().len();
        let status = edge.client().get(&format!("/v2/team/app/{kind}/{}", Blob::random(1, 10).digest)).await.status;
        assert!([502, 503].contains(&status), "{status}");
        assert!(upstream.requests().len() - asked <= 4, "{:?}", upstream.requests());
    }
    // The edge was asked by this test alone.
    let own = |line: &str| line.contains("came back");
    assert_eq!(edge.log().count(own), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_back_by_another_way_is_refused() {
    let (upstream, back) = leading_back().await;
    let setup = Setup::new().registry_with("up.test", upstream.url(), hasty(json!({})));
    let edge = setup.start().await;
    // A load balancer before the edge: no address tells where it leads.
    let balancer = Wire::to(edge.registry).await;
    back.set(balancer.url()).unwrap();
    for kind in ["manifests", "blobs"] {
        let asked = upstream.requests().len();
        let reply = edge.client().get(&format!("/v2/team/app/{kind}/{}", Blob::random(1, 10).digest)).await;
        assert_eq!(reply.status, 508, "{kind}");
        assert!(upstream.requests().len() - asked <= 2, "{:?}", upstream.requests());
    }
    let warned = |line: &str| line.contains("came back") && line.contains("up.test") && line.contains("WARN");
    let both = async || (edge.log().count(warned) >= 2).then_some(());
    eventually("a warning for each", Duration::from_secs(20), both).await;
    // Every request says who sends it. What else a client writes there goes nowhere.
    let id = upstream.requests()[0].header("cdn-loop").unwrap().to_owned();
    assert!(id.starts_with("pierhead-") && id.len() == 41, "{id}");
    let asked = upstream.requests().len();
    let tags = "/v2/team/app/tags/list";
    assert_eq!(edge.client().get_with(tags, &[("CDN-Loop", &format!("other; x=1, {id}"))]).await.status, 508);
    assert_eq!(upstream.requests().len(), asked);
    assert_eq!(edge.client().get_with(tags, &[("CDN-Loop", "other; x=1")]).await.status, 404);
    assert_eq!(upstream.requests().last().unwrap().header("cdn-loop"), Some(id.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_in_a_chain_name_themselves_one_after_the_other() {
    let (upstream, back) = leading_back().await;
    let far = Setup::new().registry_with("up.test", upstream.url(), hasty(json!({}))).start().await;
    let near = Setup::new().registry_with("up.test", far.url(), hasty(json!({ "retries": 3 }))).start().await;
    assert_eq!(near.client().get("/v2/team/app/tags/list").await.status, 404);
    let trail = upstream.requests()[0].header("cdn-loop").unwrap().to_owned();
    let (first, second) = trail.split_once(", ").unwrap();
    assert!(first != second, "{trail}");
    // The way back is to the near one, which finds itself; the far one does not try again, nor does the near one.
    let balancer = Wire::to(near.registry).await;
    back.set(balancer.url()).unwrap();
    let asked = upstream.requests().len();
    let reply = near.client().get(&format!("/v2/team/app/manifests/{}", Blob::random(1, 10).digest)).await;
    assert_eq!(reply.status, 508);
    assert_eq!(upstream.requests().len() - asked, 1);
}

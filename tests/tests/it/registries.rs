//! Registries as they are: what their answers prove, and what an edge before them says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use pierhead_tests::eventually;
use pierhead_tests::http::{Answer, Request, Server};
use pierhead_tests::image::{Blob, Image, Manifest};
use pierhead_tests::misbehaving::{Misbehaviour, Upstream};
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::pull::{Reply, reply};
use pierhead_tests::raw::backend;
use pierhead_tests::registry::DockerRegistry;
use reqwest::Method;
use serde_json::{Value, json};

use super::origin::front_door;

const TAG: &str = "/v2/team/app/manifests/latest";

async fn edge_of(upstream: String, more: Value) -> Pierhead {
    let mut keys = json!({ "default": true, "retries": 0, "cool_down": "50ms" });
    keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Setup::new().registry_with("reg.test", upstream, keys).start().await
}

fn message(reply: &Reply) -> String {
    let body: Value = serde_json::from_slice(&reply.body).unwrap();
    body["errors"][0]["message"].as_str().unwrap().to_owned()
}

/// harbor#22609, distribution#4747: another cache behind this one fetches a blob for a GET only.
#[tokio::test(flavor = "multi_thread")]
async fn a_heads_no_never_answers_a_get() {
    for (how, auth) in [
        (Misbehaviour::BlobsAfterGet, "shared"),
        (Misbehaviour::BlobsAfterGet, "passthrough"),
        (Misbehaviour::HeadLies(404), "shared"),
        (Misbehaviour::HeadLies(404), "passthrough"),
    ] {
        let upstream = Upstream::start().await;
        let image = Image::new(1, &[20_000]);
        upstream.hold("team/app", "latest", &image);
        upstream.hold("team/other", "latest", &image);
        upstream.misbehave(how.clone());
        let edge = edge_of(upstream.url(), json!({ "auth": auth, "negative_ttl": "1h", "tag_ttl": "1ms" })).await;
        let client = edge.client();
        let layer = &image.layers[0].digest;
        let what = format!("{how:?} {auth}");
        let blob = |repository: &str| format!("/v2/{repository}/blobs/{layer}");
        assert_eq!(client.head(&blob("team/app")).await.status, 404, "{what}");
        assert_eq!(client.get_with(&blob("team/app"), &[("Range", "bytes=0-9")]).await.status, 206, "{what}");
        client.blob("team/app", layer).await.unwrap();
        assert_eq!(client.head(&blob("team/app")).await.status, 200, "{what}");
        // The bytes are here by now, and the other repository's right to them is asked about.
        assert_eq!(client.head(&blob("team/other")).await.status, 404, "{what}");
        client.blob("team/other", layer).await.unwrap();
        // What upstream does not have by GET either it does not have.
        let unknown = Blob::random(9, 10).digest;
        for _ in 0..2 {
            assert_eq!(client.get(&format!("/v2/team/app/blobs/{unknown}")).await.status, 404, "{what}");
        }
    }
}

/// diun#1614, watchtower#669, containerd#6684: HEAD of a manifest is refused, or says nothing, where GET answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_get_decides_before_a_tag_is_refused_or_forgotten() {
    for how in [
        Misbehaviour::HeadLies(404),
        Misbehaviour::HeadLies(401),
        Misbehaviour::HeadLies(403),
        Misbehaviour::HeadLies(500),
        Misbehaviour::EmptyHeads,
    ] {
        let upstream = Upstream::start().await;
        let image = Image::new(1, &[1000]);
        upstream.hold("team/app", "latest", &image);
        upstream.misbehave(how.clone());
        let edge = edge_of(upstream.url(), json!({ "negative_ttl": "1h", "tag_ttl": "1ms" })).await;
        let digest = image.digest().to_string();
        for path in [TAG.to_owned(), format!("/v2/team/app/manifests/{digest}")] {
            let head = edge.client().head(&path).await;
            assert_eq!((head.status, head.header("docker-content-digest")), (200, digest.as_str()), "{how:?} {path}");
            assert_eq!(head.header("content-type"), image.manifest.media_type, "{how:?} {path}");
            assert_eq!(head.header("content-length"), image.manifest.blob.bytes.len().to_string(), "{how:?} {path}");
        }
        for _ in 0..3 {
            let again = edge.client().get_with(TAG, &[("Accept", "*/*")]).await;
            assert_eq!((again.status, &again.body), (200, &image.manifest.blob.bytes), "{how:?}");
        }
        // Still known when nothing can be asked.
        upstream.misbehave(Misbehaviour::Failing(500));
        assert_eq!(edge.client().manifest("team/app", "latest").await.unwrap().body, image.manifest.blob.bytes);
    }
}

/// A refusal is no reason to forget, and no reason to show what was refused.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_hidden_until_it_is_allowed_again() {
    let upstream = Upstream::start().await;
    let image = Image::new(1, &[1000]);
    upstream.hold("team/app", "latest", &image);
    let mut edge = edge_of(upstream.url(), json!({ "negative_ttl": "1ms", "tag_ttl": "1ms" })).await;
    edge.client().pull("team/app", "latest").await.unwrap();
    let layer = format!("/v2/team/app/blobs/{}", image.layers[0].digest);
    let digest = format!("/v2/team/app/manifests/{}", image.digest());
    let hidden = async |edge: &Pierhead| {
        for path in [TAG, &digest, &layer] {
            assert_ne!(edge.client().get(path).await.status, 200, "{path}");
        }
    };
    upstream.misbehave(Misbehaviour::Failing(403));
    eventually("refused", Duration::from_secs(10), async || (edge.client().get(TAG).await.status == 404).then_some(()))
        .await;
    hidden(&edge).await;
    upstream.misbehave(Misbehaviour::Failing(500));
    hidden(&edge).await;
    edge.stop().await;
    std::fs::remove_dir_all(edge.cache().join("index")).unwrap();
    edge.start_again().await;
    hidden(&edge).await;
    upstream.misbehave(Misbehaviour::None);
    let fetched = upstream.count("GET", "/manifests/latest");
    eventually("allowed", Duration::from_secs(10), async || {
        (edge.client().get_with(TAG, &[("Accept", "*/*")]).await.status == 200).then_some(())
    })
    .await;
    edge.client().pull("team/app", "latest").await.unwrap();
    assert_eq!(upstream.count("GET", "/manifests/latest"), fetched, "it was forgotten");
}

/// A registry whose token service refuses every account while `refuses` is set, as after a password was changed.
async fn behind_a_fickle_token_service(images: &[(String, Image)]) -> (Server, Server, Arc<AtomicBool>) {
    let refuses = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&refuses);
    let tokens = Server::start([127, 0, 0, 1], move |_: &Request| match seen.load(Ordering::SeqCst) {
        true => Answer::new(401, &[("Content-Type", "application/json")], r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#),
        false => Answer::new(200, &[("Content-Type", "application/json")], r#"{"token":"t","expires_in":1}"#),
    })
    .await;
    let realm = format!("Bearer realm=\"{}/token\",service=\"reg.test\"", tokens.url());
    let held: Vec<(String, Manifest)> =
        images.iter().map(|(name, image)| (name.clone(), image.manifest.clone())).collect();
    let refused = Arc::clone(&refuses);
    let registry = Server::start([127, 0, 0, 1], move |request: &Request| {
        if request.header("authorization").is_none() || refused.load(Ordering::SeqCst) {
            return Answer::new(401, &[("WWW-Authenticate", &realm)], r#"{"errors":[]}"#);
        }
        let found = held.iter().find(|(name, manifest)| {
            let below = request.path.strip_prefix(&format!("/v2/{name}/manifests/"));
            below.is_some_and(|asked| asked == "latest" || asked == manifest.blob.digest.to_string())
        });
        let Some((_, manifest)) = found else { return Answer::new(404, &[], r#"{"errors":[]}"#) };
        let digest = manifest.blob.digest.to_string();
        let headers = [("Content-Type", manifest.media_type.as_str()), ("Docker-Content-Digest", &digest)];
        Answer::new(200, &headers, manifest.blob.bytes.clone())
    })
    .await;
    (registry, tokens, refuses)
}

/// harbor#14822, harbor#22569: the token service refuses the account that the configuration gives the edge.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_refused_is_an_outage() {
    for keep_deleted in [false, true] {
        let images: Vec<_> = (1..=30).map(|seed| (format!("team/app{seed}"), Image::new(seed, &[500]))).collect();
        let (registry, tokens, refuses) = behind_a_fickle_token_service(&images).await;
        let more = json!({
            "tag_ttl": "1ms", "negative_ttl": "1ms", "keep_deleted": keep_deleted, "realms": ["127.0.0.1"],
            "credentials": { "username": "edge", "password": "edge-password" },
        });
        let edge = edge_of(registry.url(), more).await;
        for (name, image) in &images {
            let reply = edge.client().manifest(name, "latest").await.unwrap();
            assert_eq!(reply.body, image.manifest.blob.bytes);
        }
        assert_eq!(edge.metric("pierhead_upstream_account_refused", &[("registry", "reg.test")]).await, 0.0);
        refuses.store(true, Ordering::SeqCst);
        let logins = tokens.requests().len();
        for round in 0..3 {
            for (name, image) in &images {
                let reply = edge.client().manifest(name, "latest").await;
                let reply = reply.unwrap_or_else(|error| panic!("{keep_deleted} {round} {name}: {error:?}"));
                assert_eq!(reply.body, image.manifest.blob.bytes);
            }
        }
        let logins = tokens.requests().len() - logins;
        // Each repository has a token of its own, and 90 requests were answered.
        assert!(logins <= 40, "{logins} logins for 90 requests");
        edge.metric_until("pierhead_upstream_account_refused", &[("registry", "reg.test")], |is| is == 1.0).await;
        let warned = |line: &str| line.contains("WARN") && line.contains("refuses the account");
        eventually("a WARN", Duration::from_secs(10), async || (edge.log().count(warned) > 0).then_some(())).await;
        assert_eq!(edge.log().count(warned), 1, "one WARN");
        // What is not known is refused with the reason, and nobody is asked for an account.
        let unknown = edge.client().get("/v2/team/unknown/manifests/latest").await;
        assert_eq!((unknown.status, unknown.header("www-authenticate")), (503, ""), "{unknown:?}");
        let said = message(&unknown);
        assert!(said.contains("reg.test") && said.contains("refuses the account"), "{said}");
        let health: Value = serde_json::from_slice(&edge.operator().get("/health/endtoend").await.body).unwrap();
        assert_eq!(health["data"]["services"]["reg.test"], true, "{health}");
        let expanded = &health["data"]["services_expanded"]["reg.test"];
        assert_eq!(expanded["status"], true, "{health}");
        assert!(expanded["message"].as_str().unwrap().starts_with("degraded: "), "{health}");
        let public = edge.client().get("/health/endtoend").await;
        assert!(!String::from_utf8_lossy(&public.body).contains("expanded"), "{public:?}");
        // It is taken again.
        refuses.store(false, Ordering::SeqCst);
        eventually("taken again", Duration::from_secs(120), async || {
            edge.client().manifest("team/app1", "latest").await.unwrap();
            (edge.metric("pierhead_upstream_account_refused", &[]).await == 0.0).then_some(())
        })
        .await;
        for secret in ["edge-password", "ZWRnZTo"] {
            assert_eq!(edge.log().count(|line| line.contains(secret)), 0);
        }
    }
}

/// Another address of the registry serves what it has: the account is refused all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirrors_success_does_not_hide_that_the_account_is_refused() {
    let images = [1, 2].map(|seed| (format!("team/app{seed}"), Image::new(seed, &[500])));
    let (registry, _tokens, refuses) = behind_a_fickle_token_service(&images).await;
    refuses.store(true, Ordering::SeqCst);
    let mirror = Upstream::start().await;
    mirror.hold("team/app1", "latest", &images[0].1);
    let more = json!({
        "tag_ttl": "1ms", "negative_ttl": "1ms", "realms": ["127.0.0.1"],
        "upstream": [mirror.url(), registry.url()],
        "credentials": { "username": "edge", "password": "edge-password" },
    });
    let edge = edge_of(registry.url(), more).await;
    let state = async || {
        let health: Value = serde_json::from_slice(&edge.operator().get("/health/endtoend").await.body).unwrap();
        let said = health["data"]["services_expanded"]["reg.test"]["message"].as_str().unwrap_or_default().to_owned();
        (edge.metric("pierhead_upstream_account_refused", &[("registry", "reg.test")]).await, said)
    };
    edge.client().manifest("team/app1", "latest").await.unwrap();
    assert_eq!(state().await, (0.0, String::new()), "no login was tried yet");
    assert_eq!(edge.client().get("/v2/team/app2/manifests/latest").await.status, 503);
    for tag in ["latest", images[0].1.digest().to_string().as_str()] {
        edge.client().manifest("team/app1", tag).await.unwrap();
        let (refused, said) = state().await;
        assert!(refused == 1.0 && said.contains("refuses the account"), "{tag}: {refused} {said:?}");
    }
}

/// notation#659: registries without a referrers API answer with all kinds of statuses.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_referrers_is_remembered_and_says_nothing_about_its_tags() {
    for status in [200, 400, 405, 500, 501, 503] {
        let upstream = Upstream::start().await;
        let (image, moved) = (Image::new(1, &[1000]), Image::new(2, &[1000]));
        upstream.hold("team/app", "latest", &image);
        upstream.misbehave(Misbehaviour::NoReferrers(status));
        let more = json!({
            "tag_ttl": "1ms", "negative_ttl": "1h", "stale_if_error": status % 2 == 1, "retries": 2,
        });
        let edge = edge_of(upstream.url(), more).await;
        let path = format!("/v2/team/app/referrers/{}", image.digest());
        edge.client().pull("team/app", "latest").await.unwrap();
        for path in [&path, &path, &format!("{path}?artifactType=a%2Fb")] {
            let referrers = edge.client().get(path).await;
            assert_eq!(referrers.status, 404, "{status}");
            let body = String::from_utf8_lossy(&referrers.body);
            assert!(body.contains("MANIFEST_UNKNOWN") && !body.contains("cannot be asked"), "{status}: {body}");
        }
        // As a client tries that gets the failure itself.
        let tries = if matches!(status, 500 | 503) { 3 } else { 1 };
        assert_eq!(upstream.count("GET", "/referrers/"), 2 * tries, "{status}: once for each query");
        upstream.hold("team/app", "latest", &moved);
        let reply = edge.client().manifest("team/app", "latest").await.unwrap();
        assert_eq!(reply.body, moved.manifest.blob.bytes, "{status}");
        assert_eq!(edge.outcome_of(&reply).await, "miss", "{status}");
    }
}

/// pulp/pulp_docker#338: a list that goes on never looks whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_cannot_be_kept_is_no_short_list() {
    let upstream = Upstream::start().await;
    let edge = edge_of(upstream.url(), json!({ "negative_ttl": "1ms" })).await;
    let next = |query: &str| format!("</v2/team/app/tags/list?{query}>; rel=\"next\"");
    for (number, (link, expected)) in [
        ("</v2/team/app/tags/list?last=a,b&n=1>; rel=\"next\"", Some(next("last=a%2Cb&n=1"))),
        ("</v2/team/app/tags/list?n=1&last=b>; Rel=\"Next\"", Some(next("last=b&n=1"))),
        ("</v2/team/app/tags/list?n=1>; rel=\"prev\"", Some(String::new())),
        ("</v2/team/app/tags/list/cursor>; rel=\"next\"", None),
        ("nonsense", None),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/v2/team/app{number}/tags/list");
        upstream.hold_other(&path, &[("Content-Type", "application/json"), ("Link", link)], r#"{"tags":["a"]}"#);
        let reply = edge.client().get(&path).await;
        match expected {
            Some(expected) => {
                let expected = expected.replace("team/app", &format!("team/app{number}"));
                assert_eq!((reply.status, reply.header("link")), (200, expected.as_str()), "{link}");
            }
            None => {
                assert_eq!(reply.status, 502, "{link}");
                assert!(message(&reply).starts_with("reg.test sent an invalid answer: "), "{}", message(&reply));
                let words = ["upstream sent what cannot be used", "reg.test", "tags", "WARN"];
                let says_why = |line: &str| words.iter().all(|word| line.contains(word)).then_some(());
                eventually("a WARN", Duration::from_secs(10), async || edge.log().find(0, says_why)).await;
            }
        }
    }
}

/// What a registry says about a wrong request is the client's, unchanged, asked once, by a mirror and by a front.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_list_is_passed_on_as_it_is() {
    const BODY: &str = r#"{"errors":[{"code":"PAGINATION_NUMBER_INVALID","message":"n=abc"}]}"#;
    let digest = Blob::random(1, 10).digest;
    for (path, statuses) in [
        ("/v2/team/app/tags/list?n=abc".to_owned(), &[400, 405, 406, 416, 451][..]),
        (format!("/v2/team/app/referrers/{digest}?last=abc"), &[400, 416]),
    ] {
        for status in statuses {
            let upstream = Upstream::start().await;
            upstream.misbehave(Misbehaviour::ListsRejected(*status, BODY));
            let mirror = edge_of(upstream.url(), json!({ "negative_ttl": "1h" })).await;
            let front = super::origin::setup([upstream.server.address].into_iter(), json!({})).start().await;
            for (edge, kind) in [(&mirror, "mirror"), (&front, "front")] {
                let asked = upstream.server.requests().len();
                let reply = edge.client().get(&path).await;
                assert_eq!((reply.status, &reply.body[..]), (*status, BODY.as_bytes()), "{kind} {path}");
                assert_eq!(reply.header("content-type"), "application/json", "{kind} {path}");
                assert_eq!(upstream.server.requests().len() - asked, 1, "{kind} {path} {status}");
                assert_eq!(edge.log().count(|line| line.contains("\"WARN\"") && line.contains("upstream")), 0);
            }
        }
    }
}

/// A mount that cannot be is an ordinary upload, as the registry says without an edge.
#[tokio::test(flavor = "multi_thread")]
async fn a_mount_from_nowhere_is_an_upload() {
    let nodes = [DockerRegistry::start().await];
    let digest = Blob::random(1, 10).digest;
    let open = front_door(&nodes, json!({})).await;
    let ruled = front_door(&nodes, json!({ "allow": ["team/*"] })).await;
    for from in ["Bad//Name", "team//app", "", "..%2Fother%2Fapp"] {
        let path = format!("/v2/team/app/blobs/uploads/?mount={digest}&from={from}");
        let direct = reply(nodes[0].client().request(Method::POST, &path)).await.unwrap().status;
        let through = reply(open.client().request(Method::POST, &path)).await.unwrap().status;
        assert_eq!(through, direct, "{from}");
        assert_eq!(reply(ruled.client().request(Method::POST, &path)).await.unwrap().status, 202, "{from}");
    }
    let kept_out = format!("/v2/team/app/blobs/uploads/?mount={digest}&from=other/app");
    assert_eq!(reply(ruled.client().request(Method::POST, &kept_out)).await.unwrap().status, 404);
}

/// Content is bytes and a media type of strangers: no browser runs it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_the_edge_serves_runs_in_a_browser() {
    let upstream = Upstream::start().await;
    let edge = edge_of(upstream.url(), json!({})).await;
    let page = Blob::new(Bytes::from_static(b"{\"x\":\"<script>alert(1)</script>\"}"));
    for (number, (media_type, served)) in [
        // Types that say nothing of a manifest: its shape tells.
        ("text/html", "application/vnd.oci.image.manifest.v1+json"),
        ("Text/HTML; charset=utf-8", "application/vnd.oci.image.manifest.v1+json"),
        ("image/svg+xml", "application/octet-stream"),
        ("application/javascript", "application/octet-stream"),
        ("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.manifest.v1+json"),
    ]
    .into_iter()
    .enumerate()
    {
        let repository = format!("team/app{number}");
        upstream.hold_manifest(
            &repository,
            "latest",
            &Manifest { blob: page.clone(), media_type: media_type.to_owned() },
        );
        let path = format!("/v2/{repository}/manifests/latest");
        let client = edge.client();
        for reply in [client.head(&path).await, client.get_with(&path, &[("Accept", "*/*")]).await] {
            assert_eq!((reply.status, reply.header("content-type")), (200, served), "{media_type}");
        }
    }
    let digest = Blob::random(2, 10);
    upstream.hold_blob("team/app", &digest.digest.to_string(), digest.bytes.clone());
    upstream.hold_other("/v2/team/app/tags/list", &[("Content-Type", "text/html")], "\"<script>\"");
    for path in [
        "/v2/".to_owned(),
        "/v2/team/app0/manifests/latest".to_owned(),
        format!("/v2/team/app/blobs/{}", digest.digest),
        "/v2/team/app/tags/list".to_owned(),
        "/v2/team/app/manifests/unknown".to_owned(),
        "/nowhere".to_owned(),
        "/health/instance".to_owned(),
    ] {
        let reply = edge.client().get_with(&path, &[("Accept", "*/*")]).await;
        assert_eq!(reply.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(reply.header("content-security-policy"), "sandbox", "{path}");
        assert!(!reply.header("content-type").contains("html"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_says_why() {
    let upstream = Upstream::start().await;
    upstream.misbehave(Misbehaviour::Failing(503));
    let edge = edge_of(upstream.url(), json!({})).await;
    for path in [TAG.to_owned(), "/v2/team/app/tags/list".to_owned()] {
        let reply = edge.client().get(&path).await;
        let said = message(&reply);
        assert_eq!(reply.status, 503, "{path}");
        assert!(said.starts_with("reg.test cannot be reached or fails: ") && said.contains("503"), "{said}");
    }
    let fails = |line: &str| (line.contains("upstream fails") && line.contains("status")).then_some(());
    eventually("a WARN", Duration::from_secs(10), async || edge.log().find(0, fails)).await;
    // Nothing was known, so nothing was served stale.
    assert_eq!(edge.log().count(|line| line.contains("stale")), 0);
    let image = Image::new(1, &[1000]);
    upstream.hold("team/app", "latest", &image);
    upstream.misbehave(Misbehaviour::WrongManifest);
    let wrong = edge.client().get(&format!("/v2/team/app/manifests/{}", image.digest())).await;
    assert_eq!(wrong.status, 502);
    assert!(message(&wrong).starts_with("reg.test sent an invalid answer: "), "{}", message(&wrong));
    // So is a blob whose bytes are others; it is not cached.
    upstream.misbehave(Misbehaviour::None);
    let blob = Blob::random(5, 1000);
    upstream.hold_blob("team/app", &blob.digest.to_string(), Bytes::from_static(b"something else"));
    let wrong = edge.client().get(&format!("/v2/team/app/blobs/{}", blob.digest)).await;
    let said = message(&wrong);
    assert_eq!(wrong.status, 502, "{said}");
    assert!(said.starts_with("reg.test sent an invalid answer: ") && said.contains("does not hash to"), "{said}");
    let hashed = |line: &str| line.contains("upstream sent content that does not hash") && line.contains("reg.test");
    let found = |line: &str| hashed(line).then_some(());
    eventually("a WARN about bytes", Duration::from_secs(10), async || edge.log().find(0, found)).await;
    assert_eq!(edge.log().count(hashed), 1);
    // Gone altogether.
    let gone = edge_of("http://127.0.0.1:1".to_owned(), json!({})).await;
    let reply = gone.client().get(TAG).await;
    assert_eq!(reply.status, 503);
    assert!(message(&reply).starts_with("reg.test cannot be reached or fails: "), "{}", message(&reply));
}

/// A server that says more than it was asked for says it to no client.
#[tokio::test(flavor = "multi_thread")]
async fn surplus_answers_of_a_server_reach_no_client() {
    use tokio::io::AsyncWriteExt;
    let server = backend(|mut tcp| async move {
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = tokio::io::AsyncReadExt::read_u8(&mut tcp).await else { return };
                head.push(byte);
            }
            let right = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright";
            let surplus = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nsurplus";
            if tcp.write_all(format!("{right}{surplus}").as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await;
    let edge = pierhead_tests::raw::front(&[server]).start().await;
    for round in 0..20 {
        let reply = edge.client().get(&format!("/{round}")).await;
        assert_eq!((reply.status, &reply.body[..]), (200, &b"right"[..]), "{round}");
    }
}

/// Strangers may ask for any number of names; what they cost stays within bounds.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_any_number_of_names_costs_little() {
    use futures_util::StreamExt;
    let upstream = backend(|mut tcp| async move {
        use tokio::io::AsyncWriteExt;
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = tokio::io::AsyncReadExt::read_u8(&mut tcp).await else { return };
                head.push(byte);
            }
            let status = if head.windows(2).any(|pair| pair == b"7/") { "403 Forbidden" } else { "404 Not Found" };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}");
            if tcp.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await;
    let edge = edge_of(format!("http://{upstream}"), json!({ "negative_ttl": "1h" })).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = async |from: usize, to: usize| {
        futures_util::stream::iter(from..to)
            .for_each_concurrent(64, |number| {
                let request = http.get(format!("{}/v2/team/app{number}/manifests/latest", edge.url()));
                async move {
                    let status = request.send().await.unwrap().status().as_u16();
                    assert_eq!(status, 404, "{number}");
                }
            })
            .await;
    };
    // More than any memory of names holds.
    ask(0, 25_000).await;
    let (memory, disk) = (edge.memory(), edge.disk_usage());
    ask(25_000, 100_000).await;
    let (memory, disk) = (edge.memory().saturating_sub(memory), edge.disk_usage().saturating_sub(disk));
    assert!(memory < 64 << 20, "{memory} bytes of memory for 75 000 names more");
    assert!(disk < 1 << 20, "{disk} bytes on disk");
    let repositories = edge.cache().join("repositories");
    let kept = std::fs::read_dir(&repositories).map(|entries| entries.count()).unwrap_or_default();
    assert_eq!(kept, 0, "names that are not there are kept on disk");
}

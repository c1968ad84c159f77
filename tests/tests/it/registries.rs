//! Registries as they are: what their answers prove, and what an edge before them says.

use std::time::Duration;

use bytes::Bytes;
use pierhead_tests::eventually;
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
        ("text/html", "application/octet-stream"),
        ("Text/HTML; charset=utf-8", "application/octet-stream"),
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
    ask(25_000, 60_000).await;
    let (memory, disk) = (edge.memory().saturating_sub(memory), edge.disk_usage().saturating_sub(disk));
    assert!(memory < 64 << 20, "{memory} bytes of memory for 35 000 names more");
    assert!(disk < 1 << 20, "{disk} bytes on disk");
    let repositories = edge.cache().join("repositories");
    let kept = std::fs::read_dir(&repositories).map(|entries| entries.count()).unwrap_or_default();
    assert_eq!(kept, 0, "names that are not there are kept on disk");
}

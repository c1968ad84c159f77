//! Blobs as registries really send them: without a length, with labels that are wrong, over fewer connections or ranges than
//! were asked for. What a client gets straight from such a registry it gets through the edge, and the digest decides.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use pierhead_registry::oci::Digest;
use pierhead_tests::clients::{Podman, Skopeo, assert_hashes};
use pierhead_tests::eventually;
use pierhead_tests::http::{Answer, Request, Server, Step};
use pierhead_tests::image::{Blob, Image};
use pierhead_tests::misbehaving::Upstream;
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::registry::DockerRegistry;
use pierhead_tests::server::Server as Program;
use pierhead_tests::wire::Wire;
use serde_json::{Value, json};

const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A registry whose repository `team/app` has this image as `latest`; its blobs are answered by `answer`.
async fn registry(image: &Image, answer: impl Fn(&Request, &Bytes) -> Answer + Send + Sync + 'static) -> Server {
    let blobs: Vec<Blob> = image.blobs().cloned().collect();
    let (manifest, digest) = (image.manifest.clone(), image.digest().to_string());
    Server::start(Ipv4Addr::LOCALHOST, move |request| {
        let name = request.path.rsplit('/').next().unwrap_or_default();
        if let Some(blob) = blobs.iter().find(|blob| blob.digest.to_string() == name) {
            return answer(request, &blob.bytes);
        }
        if request.path == "/v2/" {
            return Answer::new(200, &[], "{}");
        }
        if !request.path.contains("/manifests/") || !(name == "latest" || name == digest) {
            return Answer::new(404, &[], r#"{"errors":[]}"#);
        }
        let headers = [("Content-Type", manifest.media_type.as_str()), ("Docker-Content-Digest", digest.as_str())];
        Answer::new(200, &headers, manifest.blob.bytes.clone())
    })
    .await
}

async fn edge_of(upstream: String, more: Value) -> Pierhead {
    let mut keys = json!({
        "default": true, "retries": 1, "cool_down": "50ms", "resume_for": "1s", "negative_ttl": "1ms",
        "first_byte_timeout": "5s", "idle_timeout": "5s",
    });
    keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Setup::new().registry_with("up.test", upstream, keys).start().await
}

fn path(digest: &Digest) -> String {
    format!("/v2/team/app/blobs/{digest}")
}

/// In chunks; `whole`: with the last one, which ends the body.
fn chunked(body: &Bytes, whole: bool) -> Answer {
    let mut answer = Answer::head(200, &[("Transfer-Encoding", "chunked")]);
    for piece in body.chunks(50_000) {
        let framed = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        answer = answer.then(Step::Send(framed.into()));
    }
    if whole { answer.then(Step::Send("0\r\n\r\n".into())) } else { answer }
}

/// Up to where the connection is closed.
fn closed(body: &Bytes) -> Answer {
    Answer::head(200, &[]).then(Step::Send(body.clone()))
}

/// RFC 9112, 6.3; dragonfly#4573, harbor#23373.
#[tokio::test(flavor = "multi_thread")]
async fn blobs_without_a_length_are_served_and_kept() {
    type Body = fn(&Request, &Bytes) -> Answer;
    let ways: [(&str, Body); 3] = [
        ("in chunks", |_, body| chunked(body, true)),
        ("until the connection is closed", |_, body| closed(body)),
        ("in chunks, and HEAD tells the length", |request, body| match request.method.as_str() {
            "HEAD" => Answer::new(200, &[], body.clone()),
            _ => chunked(body, true),
        }),
    ];
    for (way, body) in ways {
        for redirected in [false, true] {
            let image = Image::new(1, &[300_000, 1000, 40_000]);
            let direct = registry(&image, body).await;
            let store = {
                let blobs: Vec<Blob> = image.blobs().cloned().collect();
                Server::start(ELSEWHERE, move |request| {
                    let blob = blobs.iter().find(|blob| request.path.ends_with(&blob.digest.to_string())).unwrap();
                    body(request, &blob.bytes)
                })
                .await
            };
            let target = store.url();
            let front = registry(&image, move |request, _| {
                Answer::new(307, &[("Location", &format!("{target}{}", request.path))], "")
            })
            .await;
            let upstream = if redirected { front.url() } else { direct.url() };
            let edge = edge_of(upstream, json!({})).await;
            let (client, layers) = (edge.client(), &image.layers);
            let what = format!("{way}, redirected: {redirected}");

            // Nobody has told a size.
            let head = client.head(&path(&layers[0].digest)).await;
            assert_eq!(head.status, 200, "{what}");
            let size = layers[0].bytes.len().to_string();
            assert!(["", &size].contains(&head.header("content-length")), "{what}: {head:?}");
            let part = client.range("team/app", &layers[1].digest, "bytes=10-19").await;
            let range = format!("bytes 10-19/{}", layers[1].bytes.len());
            assert_eq!((part.status, part.header("content-range")), (206, range.as_str()), "{what}");
            assert_eq!(part.body, layers[1].bytes.slice(10..20), "{what}");
            client.blob("team/app", &layers[0].digest).await.unwrap();

            // The manifest tells the sizes.
            client.pull("team/app", "latest").await.unwrap();
            let head = client.head(&path(&layers[2].digest)).await;
            let size = layers[2].bytes.len().to_string();
            assert_eq!((head.status, head.header("content-length")), (200, size.as_str()), "{what}");

            // Kept.
            for layer in layers {
                edge.committed(&layer.digest).await;
                let asked = direct.requests().len() + store.requests().len();
                let reply = client.get(&path(&layer.digest)).await;
                assert_eq!(
                    (reply.status, reply.header("content-length")),
                    (200, layer.bytes.len().to_string().as_str())
                );
                assert!(reply.body == layer.bytes, "{what}");
                assert_eq!(direct.requests().len() + store.requests().len(), asked, "{what}");
            }
        }
    }
}

/// The manifest that was seen tells the size to clients, before upstream or the end of the body does.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_tells_the_size_that_upstream_does_not() {
    let image = Image::new(1, &[300_000, 200_000]);
    let upstream = registry(&image, |_, body| chunked(body, true)).await;
    let edge = edge_of(upstream.url(), json!({})).await;
    let client = edge.client();
    client.manifest("team/app", "latest").await.unwrap();
    let head = client.head(&path(&image.layers[0].digest)).await;
    let sizes: Vec<usize> = image.layers.iter().map(|layer| layer.bytes.len()).collect();
    assert_eq!((head.status, head.header("content-length")), (200, sizes[0].to_string().as_str()));
    let whole = client.open_blob("team/app", &image.layers[0].digest).await.unwrap();
    assert_eq!(whole.content_length(), Some(sizes[0] as u64));
    assert!(whole.bytes().await.unwrap() == image.layers[0].bytes);
    let part = client.range("team/app", &image.layers[1].digest, "bytes=-10").await;
    let range = format!("bytes {}-{}/{}", sizes[1] - 10, sizes[1] - 1, sizes[1]);
    assert_eq!((part.status, part.header("content-range")), (206, range.as_str()));
    assert_eq!(part.body, image.layers[1].bytes.slice(sizes[1] - 10..));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_off_without_a_length_never_looks_whole() {
    type Body = fn(&Bytes) -> Answer;
    let breaks: [(&str, Body); 5] = [
        ("chunks that do not end", |body| chunked(&body.slice(..100_000), false)),
        ("chunks that end too early", |body| chunked(&body.slice(..100_000), true)),
        ("a connection that is closed too early", |body| closed(&body.slice(..100_000))),
        ("other bytes", |body| {
            let mut other = body.to_vec();
            other[150_000] ^= 1;
            chunked(&other.into(), true)
        }),
        ("more bytes", |body| chunked(&[body.as_ref(), b"more"].concat().into(), true)),
    ];
    for (what, body) in breaks {
        for known in [false, true] {
            let image = Image::new(1, &[300_000]);
            let layer = image.layers[0].clone();
            let (digest, bytes) = (layer.digest, layer.bytes.clone());
            let upstream =
                registry(&image, move |_, all| if *all == bytes { body(all) } else { chunked(all, true) }).await;
            let edge = edge_of(upstream.url(), json!({})).await;
            if known {
                edge.client().manifest("team/app", "latest").await.unwrap();
            }
            // A wrong body that ends well makes this panic.
            let got = edge.client().blob("team/app", &digest).await;
            assert!(got.is_err(), "{what}, known: {known}");
            assert!(!edge.path_of(&digest).exists(), "{what}");
        }
    }
}

/// Each connection that breaks is taken up where it broke.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_body_without_a_length_goes_on() {
    for ranges in [false, true] {
        let image = Image::new(1, &[300_000]);
        let layer = image.layers[0].clone();
        let bytes = layer.bytes.clone();
        let upstream = registry(&image, move |request, all| match request.range() {
            _ if *all != bytes => chunked(all, true),
            None if ranges => chunked(&all.slice(..100_000), false),
            Some((first, _)) if ranges => {
                let range = format!("bytes {first}-{}/*", all.len() - 1);
                if first as usize >= all.len() {
                    return Answer::new(416, &[("Content-Range", &format!("bytes */{}", all.len()))], "");
                }
                Answer::new(206, &[("Content-Range", &range)], all.slice(first as usize..))
            }
            None => chunked(&all.slice(..100_000), false),
            Some(_) => chunked(all, true),
        })
        .await;
        let edge = edge_of(upstream.url(), json!({})).await;
        edge.client().blob("team/app", &layer.digest).await.unwrap();
        edge.committed(&layer.digest).await;
    }
}

/// containerd#11998: 416, 400 and others for a range, 200 without.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_refuses_ranges_is_asked_without() {
    for status in [400, 405, 416, 500, 501] {
        let image = Image::new(1, &[3 << 20]);
        let upstream = registry(&image, move |request, body| match request.range() {
            Some(_) => Answer::new(status, &[], "no ranges here"),
            None => Answer::new(200, &[], body.clone()),
        })
        .await;
        let edge = edge_of(upstream.url(), json!({ "parallel_above": "1MiB" })).await;
        edge.client().pull("team/app", "latest").await.unwrap();
        let layer = &image.layers[0];
        let asked = upstream.count(|request| request.method == "GET" && request.path == path(&layer.digest));
        assert_eq!(asked, 2, "{status}: once with a range, once without");
        let other = edge_of(upstream.url(), json!({})).await;
        let part = other.client().range("team/app", &layer.digest, "bytes=1000-1009").await;
        assert_eq!((part.status, part.body), (206, layer.bytes.slice(1000..1010)), "{status}");
    }
}

/// moby#17595, noobaa-core#9138: labels on bytes that are the blob.
#[tokio::test(flavor = "multi_thread")]
async fn labels_do_not_refuse_what_the_digest_accepts() {
    for (name, value) in [
        ("Content-Encoding", "aws-chunked"),
        ("Content-Encoding", "x-gzip"),
        ("Content-Encoding", "gzip"),
        ("Content-Encoding", "utf-8, br"),
        ("Content-Type", "text/html; charset=utf-8"),
        ("Docker-Content-Digest", "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("ETag", "W/\"x\""),
        ("Content-MD5", "wrong"),
    ] {
        let image = Image::new(1, &[300_000]);
        let upstream = registry(&image, move |_, body| Answer::new(200, &[(name, value)], body.clone())).await;
        let edge = edge_of(upstream.url(), json!({})).await;
        let client = edge.client();
        assert_eq!(client.head(&path(&image.layers[0].digest)).await.status, 200, "{name}: {value}");
        client.pull("team/app", "latest").await.unwrap();
        let reply = client.get(&path(&image.layers[0].digest)).await;
        assert_eq!(reply.header("content-encoding"), "", "a label that is wrong goes no further");
        assert!(reply.body == image.layers[0].bytes);
    }
}

/// harbor#22348: a registry that takes two connections for blobs from one address.
#[tokio::test(flavor = "multi_thread")]
async fn a_fill_goes_on_with_the_connections_that_it_can_have() {
    for refusal in ["503", "429"] {
        let registry = DockerRegistry::start().await;
        let image = Image::new(1, &[80 << 20]);
        registry.push("team/app", "latest", &image).await;
        let nginx = Program::nginx(
            1,
            &format!(
                "limit_conn_zone $binary_remote_addr zone=blobs:1m; limit_conn_status {refusal};\n\
                 server {{ listen 127.0.0.1:@PORT@; proxy_buffering off;\n\
                 location / {{ proxy_pass http://{0}; proxy_set_header Host $http_host; }}\n\
                 location ~ /blobs/ {{ limit_conn blobs 2; limit_rate 30m; proxy_pass http://{0}; \
                 proxy_set_header Host $http_host; }} }}",
                registry.address
            ),
        )
        .await;
        let keys = json!({ "parallel_above": "16MiB" });
        let edge = edge_of(format!("http://{}", nginx.address()), keys).await;
        let skopeo = Skopeo::new();
        skopeo.copy(&format!("{}/team/app:latest", edge.registry), &[]).await.expect_success();
        assert_hashes(&skopeo.blobs(), image.blobs());
        edge.committed(&image.layers[0].digest).await;
    }
}

/// ecs-agent#4249: images of schema 1, whose digest is over their payload.
#[tokio::test(flavor = "multi_thread")]
async fn signed_manifests_of_schema_1_are_pulled_by_tag_and_by_digest() {
    let mut registry = DockerRegistry::with_schema1().await;
    let image = Image::of(pierhead_tests::image::Format::Docker, "amd64", 1, &[100_000, 1000]);
    registry.push("team/app", "v2", &image).await;
    let mut push = tokio::process::Command::new("skopeo");
    push.args(["--insecure-policy", "copy", "--format", "v2s1", "--src-tls-verify=false", "--dest-tls-verify=false"])
        .arg(format!("docker://{}/team/app:v2", registry.address))
        .arg(format!("docker://{}/team/app:old", registry.address));
    pierhead_tests::process::run(push, Duration::from_secs(60)).await.expect_success();
    let accept = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let direct = registry.client().get_with("/v2/team/app/manifests/old", &[("Accept", accept)]).await;
    assert_eq!((direct.status, direct.header("content-type")), (200, accept));
    assert!(direct.body.windows(12).any(|window| window == b"\"signatures\""), "it is not signed");
    let digest = direct.header("docker-content-digest").to_owned();

    let keys = json!({ "default": true, "retries": 0, "tag_ttl": "1ms" });
    let mut edge = Setup::new().registry_with("up.test", registry.url(), keys).start().await;
    for round in ["cold", "known", "offline"] {
        if round == "offline" {
            registry.stop().await;
            edge.stop().await;
            // What the index does not vouch for is hashed again.
            std::fs::remove_dir_all(edge.cache().join("index")).unwrap();
            edge.start_again().await;
        }
        for reference in ["old", digest.as_str()] {
            let manifest =
                edge.client().get_with(&format!("/v2/team/app/manifests/{reference}"), &[("Accept", accept)]).await;
            assert_eq!((manifest.status, manifest.header("content-type")), (200, accept), "{round} {reference}");
            assert_eq!(manifest.header("docker-content-digest"), digest);
            let separator = if reference.contains(':') { "@" } else { ":" };
            let skopeo = Skopeo::new();
            let copied = skopeo.copy(&format!("{}/team/app{separator}{reference}", edge.registry), &[]).await;
            copied.expect_success();
        }
        let podman = Podman::new(edge.registry, &["up.test"]);
        podman.pull(&format!("up.test/team/app@{digest}")).await.expect_success();
        // Its layers are evicted with it, and not as if nothing needed them.
        let mut why = tokio::process::Command::new(pierhead_tests::pierhead::binary());
        why.args(["ctl", "--address", &edge.admin.to_string(), "--output", "json", "cache", "why"]);
        why.arg(format!("up.test/team/app@{digest}"));
        let why = pierhead_tests::process::run(why, Duration::from_secs(60)).await.expect_success();
        let why: serde_json::Value = serde_json::from_str(&why.stdout).unwrap();
        assert!(why["contents"].as_u64() >= Some(3) && why["missing"] == json!([]), "{round}: {why}");
    }
}

/// zstd:chunked and lazy loaders ask for many parts of a layer at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_parts_are_one_answer_and_one_request_upstream() {
    let upstream = Upstream::start().await;
    let (blob, empty) = (Blob::random(1, 1 << 20), Blob::new(""));
    for blob in [&blob, &empty] {
        upstream.hold_blob("team/app", &blob.digest.to_string(), blob.bytes.clone());
    }
    let edge = edge_of(upstream.url(), json!({})).await;
    let parts = (0..1000).map(|n| format!("{}-{}", n * 1000, n * 1000 + 99)).collect::<Vec<_>>().join(",");
    let reply = edge.client().range("team/app", &blob.digest, &format!("bytes={parts}")).await;
    assert_eq!(reply.status, 206);
    assert!(reply.header("content-type").starts_with("multipart/byteranges"));
    assert!(reply.body.len() > 100_000 && reply.body.len() < 300_000, "{}", reply.body.len());
    assert!(reply.body.windows(100).any(|window| *window == blob.bytes[999_000..999_100]));
    assert_eq!(upstream.count("GET", "/blobs/"), 1);
    // Of nothing, any part is all.
    for range in ["bytes=0-", "bytes=-1", "bytes=0-9"] {
        let reply = edge.client().range("team/app", &empty.digest, range).await;
        assert_eq!((reply.status, reply.body.len()), (200, 0), "{range}");
    }
}

/// Over HTTP/1.0 nothing tells the end of a body without a length from a broken connection.
#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_gets_a_length_in_any_case() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let image = Image::new(1, &[300_000]);
    let upstream = registry(&image, |_, body| chunked(body, true)).await;
    let edge = edge_of(upstream.url(), json!({})).await;
    let mut stream = tokio::net::TcpStream::connect(edge.registry).await.unwrap();
    let request = format!("GET {} HTTP/1.0\r\nHost: edge\r\n\r\n", path(&image.layers[0].digest));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    assert!(
        head.contains(" 200 ") && head.contains(&format!("content-length: {}\r", image.layers[0].bytes.len())),
        "{head}"
    );
    assert!(!head.contains("transfer-encoding"), "{head}");
    assert!(answer[end..] == image.layers[0].bytes);
}

/// A hundred clients want a blob of 256 MiB that no manifest announced: it comes once.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_herd_costs_upstream_one_download() {
    let registry = DockerRegistry::start().await;
    let blob = Arc::new(Blob::random(1, 256 << 20));
    registry.client().push_blob("team/app", &blob.digest, blob.bytes.clone()).await;
    let wire = Wire::to(registry.address).await;
    wire.limit(200 << 20);
    let edge = edge_of(wire.url(), json!({})).await;
    let pulls = (0..100).map(|_| {
        let (client, blob) = (edge.client(), Arc::clone(&blob));
        tokio::spawn(async move { client.blob("team/app", &blob.digest).await.map(|_| ()) })
    });
    for pulled in join_all(pulls).await {
        pulled.unwrap().unwrap();
    }
    let factor = wire.carried() as f64 / blob.bytes.len() as f64;
    println!("bytes from upstream: {factor:.4} times the blob, {} connections", wire.accepted());
    assert!(factor <= 1.005, "{factor}");
}

/// A blob claimed to be larger than any disk is the fault of that blob: it is passed through, and others are stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_exabytes_does_not_switch_the_cache_off() {
    const CLAIMED: u64 = i64::MAX as u64;
    let image = Image::new(1, &[300_000]);
    let hostile = registry(&image, |request, body| {
        let Some((first, last)) = request.range() else {
            let claimed = CLAIMED.to_string();
            return Answer::head(200, &[("Content-Length", &claimed), ("Accept-Ranges", "bytes")])
                .then(Step::Send(body.clone()))
                .then(Step::Silence);
        };
        let last = last.unwrap_or(CLAIMED - 1);
        let range = format!("bytes {first}-{last}/{CLAIMED}");
        Answer::new(206, &[("Content-Range", &range)], vec![7; usize::try_from(last - first + 1).unwrap_or(10)])
    })
    .await;
    let good = Upstream::start().await;
    let honest = Image::new(2, &[300_000]);
    good.hold("team/app", "latest", &honest);
    let keys = json!({ "default": true, "insecure": true });
    let edge = Setup::new()
        .registry_with("hostile.test", hostile.url(), json!({ "idle_timeout": "500ms", "resume_for": "500ms" }))
        .registry_with("good.test", good.url(), keys)
        // So that only the file system could object.
        .set("/cache/max_size", "7EiB")
        .start()
        .await;
    let client = edge.client();
    for place in [1_u64 << 62, 1 << 45, CLAIMED - 10] {
        let target = format!("/v2/hostile.test/team/app/blobs/{}", image.layers[0].digest);
        let range = format!("bytes={place}-{}", place + 9);
        let part = client.get_with(&target, &[("Range", &range)]).await;
        assert_eq!((part.status, &part.body[..]), (206, &[7; 10][..]), "{place}");
        assert_eq!(edge.operator().get("/health/endtoend").await.status, 200, "{place}");
        assert_eq!(edge.metric("pierhead_cache_writable", &[]).await, 1.0);
    }
    client.pull("team/app", "latest").await.unwrap();
    edge.committed(&honest.layers[0].digest).await;
}

/// Room is made for what arrives, and not for what is claimed.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_evicts_nothing() {
    let image = Image::new(1, &[300_000]);
    let hostile = registry(&image, |_, body| {
        Answer::head(200, &[("Content-Length", "60000000")])
            .then(Step::Send(body.slice(..64 << 10)))
            .then(Step::Silence)
    })
    .await;
    let good = Upstream::start().await;
    let blobs: Vec<Blob> = (0..14).map(|seed| Blob::random(seed, 4 << 20)).collect();
    for blob in &blobs {
        good.hold_blob("team/app", &blob.digest.to_string(), blob.bytes.clone());
    }
    let edge = Setup::new()
        .registry_with("hostile.test", hostile.url(), json!({ "idle_timeout": "500ms", "resume_for": "500ms" }))
        .registry_with("good.test", good.url(), json!({ "default": true }))
        .set("/cache/max_size", "64MiB")
        .start()
        .await;
    for blob in &blobs {
        edge.client().blob("team/app", &blob.digest).await.unwrap();
        edge.committed(&blob.digest).await;
    }
    let target = format!("/v2/hostile.test/team/app/blobs/{}", image.layers[0].digest);
    let broken = edge.client().request(reqwest::Method::GET, &target).send().await.unwrap().bytes().await;
    assert!(broken.is_err());
    edge.metric_until("pierhead_fills_in_progress", &[], |fills| fills == 0.0).await;
    assert_eq!(edge.metric("pierhead_cache_evictions_total", &[]).await, 0.0);
    for blob in &blobs {
        assert!(edge.path_of(&blob.digest).exists());
    }
}

/// What a registry took beyond its share while room was free goes first when another registry wants room.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_beyond_a_share_goes_first() {
    let (good, greedy) = (Upstream::start().await, Upstream::start().await);
    let ours: Vec<Blob> = (0..5).map(|seed| Blob::random(seed, 2 << 20)).collect();
    let theirs: Vec<Blob> = (100..104).map(|seed| Blob::random(seed, 2 << 20)).collect();
    for (upstream, blobs) in [(&good, &ours), (&greedy, &theirs)] {
        for blob in blobs {
            upstream.hold_blob("team/app", &blob.digest.to_string(), blob.bytes.clone());
        }
    }
    let edge = Setup::new()
        .registry_with("good.test", good.url(), json!({ "default": true }))
        .registry_with("greedy.test", greedy.url(), json!({ "max_share": "30%" }))
        .set("/cache/max_size", "14500KiB")
        .start()
        .await;
    let pull = async |repository: &str, blob: &Blob| {
        edge.client().blob(repository, &blob.digest).await.unwrap();
        edge.committed(&blob.digest).await;
    };
    for blob in &ours[..3] {
        pull("team/app", blob).await;
    }
    for blob in &theirs {
        pull("greedy.test/team/app", blob).await;
    }
    // Each needs the room of one blob. The oldest are ours.
    for blob in &ours[3..] {
        pull("team/app", blob).await;
    }
    let left = |blobs: &[Blob]| blobs.iter().filter(|blob| edge.path_of(&blob.digest).exists()).count();
    assert_eq!((left(&ours), left(&theirs)), (5, 2));
}

/// What a registry brings makes room at the cost of others up to its share.
#[tokio::test(flavor = "multi_thread")]
async fn one_registry_does_not_evict_all_others() {
    let (good, greedy) = (Upstream::start().await, Upstream::start().await);
    let ours: Vec<Blob> = (0..6).map(|seed| Blob::random(seed, 2 << 20)).collect();
    let theirs: Vec<Blob> = (100..120).map(|seed| Blob::random(seed, 2 << 20)).collect();
    for (upstream, blobs) in [(&good, &ours), (&greedy, &theirs)] {
        for blob in blobs {
            upstream.hold_blob("team/app", &blob.digest.to_string(), blob.bytes.clone());
        }
    }
    let edge = Setup::new()
        .registry_with("good.test", good.url(), json!({ "default": true }))
        .registry_with("greedy.test", greedy.url(), json!({ "max_share": "50%" }))
        .set("/cache/max_size", "14MiB")
        .start()
        .await;
    for blob in &ours {
        edge.client().blob("team/app", &blob.digest).await.unwrap();
        edge.committed(&blob.digest).await;
    }
    for blob in &theirs {
        edge.client().blob("greedy.test/team/app", &blob.digest).await.unwrap();
        edge.committed(&blob.digest).await;
    }
    let left = ours.iter().filter(|blob| edge.path_of(&blob.digest).exists()).count();
    assert!(left >= 3, "{left} of 6 are left");
    eventually("the newest is kept", Duration::from_secs(10), async || {
        edge.path_of(&theirs[19].digest).exists().then_some(())
    })
    .await;
}

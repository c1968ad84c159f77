//! Parts of blobs: of those that are here, on their way, or not here at all.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pierhead_tests::eventually;
use pierhead_tests::http::{Answer, Server};
use pierhead_tests::image::{Blob, Image};
use pierhead_tests::misbehaving::{Misbehaviour, Upstream};
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::pull::Reply;
use pierhead_tests::registry::DockerRegistry;
use pierhead_tests::wire::{Mode, Wire};
use serde_json::json;

const MIB: u64 = 1 << 20;

async fn scene(size: usize) -> (DockerRegistry, Wire, Pierhead, Blob) {
    let registry = DockerRegistry::start().await;
    let blob = Blob::random(size as u64, size);
    registry.client().push_blob("team/app", &blob.digest, blob.bytes.clone()).await;
    let wire = Wire::to(registry.address).await;
    let keys = json!({ "default": true, "retries": 0, "cool_down": "50ms" });
    let edge = Setup::new().registry_with("up.test", wire.url(), keys).start().await;
    (registry, wire, edge, blob)
}

fn assert_part(reply: &Reply, blob: &Blob, first: usize, last: usize) {
    let total = blob.bytes.len();
    assert_eq!(reply.status, 206);
    assert_eq!(reply.header("content-range"), format!("bytes {first}-{last}/{total}"));
    assert_eq!(reply.header("docker-content-digest"), blob.digest.to_string());
    assert_eq!(reply.body.len(), last - first + 1);
    assert!(reply.body == blob.bytes.slice(first..=last), "wrong bytes in {first}-{last}");
}

/// The parts of a multipart/byteranges body: `Content-Range` and bytes.
fn parts(reply: &Reply) -> Vec<(String, Bytes)> {
    let kind = reply.header("content-type");
    let boundary = kind.strip_prefix("multipart/byteranges").unwrap_or_else(|| panic!("{kind}"));
    let boundary = boundary.split("boundary=").nth(1).unwrap().trim_matches('"');
    let delimiter = format!("--{boundary}");
    let (mut rest, mut parts) = (&reply.body[..], Vec::new());
    let find = |haystack: &[u8], needle: &[u8]| haystack.windows(needle.len()).position(|window| window == needle);
    loop {
        let at = find(rest, delimiter.as_bytes()).expect("delimiter");
        rest = &rest[at + delimiter.len()..];
        if rest.starts_with(b"--") {
            return parts;
        }
        let end = find(rest, b"\r\n\r\n").expect("end of a part's header");
        let header = String::from_utf8_lossy(&rest[..end]).to_ascii_lowercase();
        let range = header.lines().find_map(|line| line.strip_prefix("content-range: ")).unwrap().to_owned();
        let (first, last) = range.strip_prefix("bytes ").unwrap().split('/').next().unwrap().split_once('-').unwrap();
        let length = last.parse::<usize>().unwrap() - first.parse::<usize>().unwrap() + 1;
        rest = &rest[end + 4..];
        parts.push((range, reply.body.slice_ref(&rest[..length])));
        rest = &rest[length..];
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_what_is_here() {
    let (_registry, mut wire, edge, blob) = scene(100_000).await;
    let client = edge.client();
    client.blob("team/app", &blob.digest).await.unwrap();
    wire.set(Mode::Closed).await;
    for (range, first, last) in [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=99999-", 99_999, 99_999),
        ("bytes=50000-", 50_000, 99_999),
        ("bytes=-10", 99_990, 99_999),
        ("bytes=-200000", 0, 99_999),
        ("bytes=90000-200000", 90_000, 99_999),
    ] {
        assert_part(&client.range("team/app", &blob.digest, range).await, &blob, first, last);
    }
    for range in ["bytes=100000-", "bytes=200000-300000", "bytes=-0"] {
        let reply = client.range("team/app", &blob.digest, range).await;
        assert_eq!((reply.status, reply.header("content-range")), (416, "bytes */100000"), "{range}");
    }
    // What is no range is ignored (RFC 9110, 14.2).
    for range in ["bytes=20-10", "bytes=a-b", "lines=1-2", "bytes"] {
        let reply = client.range("team/app", &blob.digest, range).await;
        assert!(reply.status == 200 && reply.body == blob.bytes, "{range}: {}", reply.status);
    }
    let path = format!("/v2/team/app/blobs/{}", blob.digest);
    let head = client.head(&path).await;
    assert_eq!((head.status, head.header("content-length")), (200, "100000"));
    for reply in [&head, &client.get(&path).await] {
        assert_eq!(reply.header("accept-ranges"), "bytes");
        assert_eq!(reply.header("etag"), format!("\"{}\"", blob.digest));
        assert_eq!(reply.header("content-type"), "application/octet-stream");
    }
    let etag = format!("\"{}\"", blob.digest);
    let conditions: &[(&[(&str, &str)], u16)] = &[
        (&[("If-None-Match", &etag)], 304),
        (&[("If-None-Match", "\"x\"")], 200),
        (&[("Range", "bytes=0-9"), ("If-Range", &etag)], 206),
        (&[("Range", "bytes=0-9"), ("If-Range", "\"x\"")], 200),
        (&[("Range", "bytes=0-9"), ("If-Range", "Sat, 01 Jan 2000 00:00:00 GMT")], 200),
        (&[("Range", "bytes=0-9"), ("If-None-Match", &etag)], 304),
    ];
    for (headers, status) in conditions {
        assert_eq!(client.get_with(&path, headers).await.status, *status, "{headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_ranges_at_once() {
    let (_registry, mut wire, edge, blob) = scene(100_000).await;
    let ranges = "bytes=0-9,50000-50099,-5";
    // Cold, then here.
    for _ in 0..2 {
        let reply = edge.client().range("team/app", &blob.digest, ranges).await;
        if reply.status == 200 {
            assert!(reply.body == blob.bytes);
        } else {
            assert_eq!(reply.status, 206);
            let parts = parts(&reply);
            let expected = [(0, 9), (50_000, 50_099), (99_995, 99_999)];
            assert_eq!(parts.len(), expected.len());
            for ((range, bytes), (first, last)) in parts.iter().zip(expected) {
                assert_eq!(*range, format!("bytes {first}-{last}/100000"));
                assert_eq!(*bytes, blob.bytes.slice(first..=last));
            }
        }
        edge.client().blob("team/app", &blob.digest).await.unwrap();
        wire.set(Mode::Closed).await;
    }
    // More than anybody needs: a full answer, or none, but no work without end.
    let many = (0..5000).map(|n| format!("{}-{}", n * 2, n * 2)).collect::<Vec<_>>().join(",");
    let reply = edge.client().range("team/app", &blob.digest, &format!("bytes={many}")).await;
    assert!(matches!(reply.status, 200 | 400 | 416 | 431), "{}", reply.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_beyond_the_fill_is_fetched_at_once() {
    let (registry, wire, edge, blob) = scene(16 << 20).await;
    wire.limit(2 * MIB);
    let (client, digest) = (edge.client(), blob.digest);
    let whole = tokio::spawn(async move { client.blob("team/app", &digest).await });
    edge.metric_until("pierhead_fills_in_progress", &[], |fills| fills >= 1.0).await;
    let begun = Instant::now();
    let total = blob.bytes.len();
    let tail = edge.client().range("team/app", &digest, &format!("bytes={}-", total - 50_000)).await;
    assert_part(&tail, &blob, total - 50_000, total - 1);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(!whole.is_finished(), "the fill was over too soon to prove anything");
    wire.limit(0);
    whole.await.unwrap().unwrap();
    assert!(wire.carried() < blob.bytes.len() as u64 + MIB, "{}", wire.carried());
    assert!(registry.blob_gets("team/app", &blob).await >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_cold_blob_is_fetched_and_kept_as_such() {
    let (_registry, mut wire, mut edge, blob) = scene(16 << 20).await;
    let total = blob.bytes.len();
    let places = [(5_000_000, 5_099_999), (total - 1000, total - 1), (12_000_000, 12_000_009)];
    for (first, last) in places {
        let reply = edge.client().range("team/app", &blob.digest, &format!("bytes={first}-{last}")).await;
        assert_part(&reply, &blob, first, last);
    }
    assert!(wire.carried() < 8 * MIB, "{} bytes for three small parts", wire.carried());
    // Kept: through a kill, with upstream gone, once it is written down, which is a moment after it is served.
    let map = edge.cache().join("partial").join(format!("sha256-{}.map", blob.digest.hex()));
    eventually("a map of all parts", Duration::from_secs(10), async || {
        std::fs::read_to_string(&map).ok()?.contains("12000010").then_some(())
    })
    .await;
    edge.kill().await;
    edge.start_again().await;
    wire.set(Mode::Closed).await;
    for (first, last) in places {
        let reply = edge.client().range("team/app", &blob.digest, &format!("bytes={first}-{last}")).await;
        assert_part(&reply, &blob, first, last);
    }
    let missing = edge.client().range("team/app", &blob.digest, "bytes=9000000-9000009").await;
    assert_eq!(missing.status, 503);
    // The rest is fetched around them.
    wire.set(Mode::Open).await;
    let client = edge.client();
    eventually("upstream is tried again", Duration::from_secs(10), async || {
        client.blob("team/app", &blob.digest).await.ok()
    })
    .await;
    assert!(wire.carried() < blob.bytes.len() as u64 + 4 * MIB, "{}", wire.carried());
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_right_when_upstream_knows_no_ranges() {
    let upstream = Upstream::start().await;
    let blob = Blob::random(1, 3 << 20);
    upstream.hold_blob("team/app", &blob.digest.to_string(), blob.bytes.clone());
    upstream.misbehave(Misbehaviour::NoRanges);
    let edge = Setup::new()
        .registry_with("up.test", upstream.url(), json!({ "default": true, "parallel_above": "1MiB" }))
        .start()
        .await;
    for (first, last) in [(2_000_000, 2_000_999), (0, 9), (3_000_000, 3_000_009)] {
        let reply = edge.client().range("team/app", &blob.digest, &format!("bytes={first}-{last}")).await;
        assert_part(&reply, &blob, first, last);
    }
    edge.client().blob("team/app", &blob.digest).await.unwrap();
}

/// As many requests as a client would send without an edge: one for each part, and one for all that is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_costs_one_request_and_so_does_the_rest() {
    let upstream = Upstream::start().await;
    let blob = Blob::random(1, 200_000);
    upstream.hold_blob("team/app", &blob.digest.to_string(), blob.bytes.clone());
    let edge = Setup::new().registry_with("up.test", upstream.url(), json!({ "default": true })).start().await;
    let client = edge.client();
    for (number, (first, last)) in [(1000, 1099), (199_000, 199_999), (50_000, 99_999)].into_iter().enumerate() {
        let reply = client.range("team/app", &blob.digest, &format!("bytes={first}-{last}")).await;
        assert_part(&reply, &blob, first, last);
        assert_eq!(upstream.count("GET", "/blobs/"), number + 1);
    }
    client.blob("team/app", &blob.digest).await.unwrap();
    assert_eq!(upstream.count("GET", "/blobs/"), 4);
    assert_eq!(upstream.count("HEAD", "/blobs/"), 0);
    edge.committed(&blob.digest).await;
}

/// A page in place of a blob has a length, which says nothing about the blob.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_does_not_make_a_range_unsatisfiable() {
    let server = Server::start(Ipv4Addr::LOCALHOST, |_| {
        Answer::new(200, &[("Content-Type", "text/html")], "<html>Please log in</html>")
    })
    .await;
    let keys = json!({ "default": true, "retries": 0 });
    let edge = Setup::new().registry_with("up.test", server.url(), keys).start().await;
    let blob = Blob::random(1, 5000);
    for range in ["bytes=1000-1099", "bytes=1000-"] {
        assert_eq!(edge.client().range("team/app", &blob.digest, range).await.status, 502, "{range}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_never_downloads() {
    let (registry, wire, edge, blob) = scene(1 << 20).await;
    let path = format!("/v2/team/app/blobs/{}", blob.digest);
    let head = edge.client().head(&path).await;
    assert_eq!((head.status, head.header("content-length")), (200, (1 << 20).to_string().as_str()));
    assert_eq!(head.header("docker-content-digest"), blob.digest.to_string());
    assert_eq!(head.header("accept-ranges"), "bytes");
    assert_eq!(registry.blob_gets("team/app", &blob).await, 0);
    assert!(wire.carried() < 16 * 1024, "{}", wire.carried());
    let unknown = edge.client().head(&format!("/v2/team/app/blobs/{}", Blob::random(2, 10).digest)).await;
    assert_eq!(unknown.status, 404);
}

/// Blob requests that upstream saw for `ranges` of a cold blob, each part checked.
async fn cost(size: usize, keys: serde_json::Value, ranges: &[(usize, usize)]) -> usize {
    let upstream = Upstream::start().await;
    let blob = Blob::random(size as u64, size);
    upstream.hold_blob("team/app", &blob.digest.to_string(), blob.bytes.clone());
    let edge = Setup::new().registry_with("up.test", upstream.url(), keys).start().await;
    let list = ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect::<Vec<_>>().join(",");
    let reply = edge.client().range("team/app", &blob.digest, &format!("bytes={list}")).await;
    assert_eq!(reply.status, 206);
    let parts = parts(&reply);
    assert_eq!(parts.len(), ranges.len());
    for ((range, bytes), (first, last)) in parts.iter().zip(ranges) {
        assert_eq!(*range, format!("bytes {first}-{last}/{size}"));
        assert!(*bytes == blob.bytes.slice(first..=last), "{range}");
    }
    upstream.count("GET", &blob.digest.to_string()) + upstream.count("HEAD", &blob.digest.to_string())
}

/// zstd:chunked, SOCI and eStargz ask for many ranges at once.
#[tokio::test(flavor = "multi_thread")]
async fn several_ranges_of_a_cold_blob_cost_two_requests_at_most() {
    let every = |count: usize, step: usize| (0..count).map(|n| (n * step, n * step + 9)).collect::<Vec<_>>();
    let mib = 1 << 20;
    for (size, ranges) in [
        (4 * mib, every(2, 1000)),
        (4 * mib, every(32, 1000)),
        (4 * mib, every(32, 100_000)),
        (20 * mib, every(2, 18 * mib)),
        (20 * mib, every(9, 2 * mib)),
        (20 * mib, every(9, 2 * mib).into_iter().rev().collect()),
        (20 * mib, every(64, 300_000)),
        (20 * mib, vec![(15 * mib, 15 * mib + 9), (100, 199), (5 * mib, 14 * mib)]),
        (20 * mib, vec![(15 * mib, 15 * mib + 9), (15 * mib - 100, 15 * mib - 91)]),
    ] {
        let asked = cost(size, json!({ "default": true }), &ranges).await;
        assert!(asked <= 2, "{asked} requests for {ranges:?} of {size}");
    }
    // A large blob is not fetched whole for a few far parts of it.
    let asked = cost(20 * mib, json!({ "default": true, "parallel_above": "1MiB" }), &every(9, 2 * mib)).await;
    assert!(asked <= 10, "{asked}");
}

/// An upstream may fail requests with a range, for which no client asked, in any way. What it sends without one arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_arrives_although_ranges_fail() {
    let page = Bytes::from_static(b"<html>no such page</html>");
    let failures = [
        ("429 for an hour", Answer::new(429, &[("Retry-After", "3600")], "")),
        ("429", Answer::new(429, &[], "")),
        ("closed", Answer::default()),
        ("400", Answer::new(400, &[], "")),
        ("401", Answer::new(401, &[], "")),
        ("403", Answer::new(403, &[], "")),
        ("404", Answer::new(404, &[], "")),
        ("416", Answer::new(416, &[], "")),
        ("500", Answer::new(500, &[], "")),
        ("501", Answer::new(501, &[], "")),
        ("503", Answer::new(503, &[], "")),
        ("a page", Answer::new(200, &[("Content-Type", "text/html")], page)),
    ];
    // The first range fails, or those after it.
    for ((name, failure), late) in failures.into_iter().flat_map(|failure| [(failure.clone(), false), (failure, true)])
    {
        let image = Image::new(7, &[20 << 20]);
        let contents: HashMap<String, (String, Bytes)> = image
            .blobs()
            .map(|blob| {
                (format!("/v2/team/app/blobs/{}", blob.digest), ("application/octet-stream".into(), blob.bytes.clone()))
            })
            .chain(["latest".to_owned(), image.digest().to_string()].map(|reference| {
                let manifest = &image.manifest;
                (
                    format!("/v2/team/app/manifests/{reference}"),
                    (manifest.media_type.clone(), manifest.blob.bytes.clone()),
                )
            }))
            .collect();
        let server = Server::start(Ipv4Addr::LOCALHOST, move |request| {
            let Some((media_type, bytes)) = contents.get(&request.path) else { return Answer::new(200, &[], "{}") };
            match request.range() {
                Some((0, Some(last))) if late => {
                    let total = bytes.len();
                    let end = usize::try_from(last).unwrap() + 1;
                    let range = format!("bytes 0-{last}/{total}");
                    Answer::new(206, &[("Content-Range", &range)], bytes.slice(..end))
                }
                Some(_) => failure.clone(),
                None => Answer::new(200, &[("Content-Type", media_type)], bytes.clone()),
            }
        })
        .await;
        let keys = json!({ "default": true, "parallel_above": "1MiB", "retries": 0 });
        let edge = Setup::new().registry_with("up.test", server.url(), keys).start().await;
        let pulled = edge.client().pull("team/app", "latest").await;
        assert!(pulled.is_ok(), "{name}, late: {late}: {:?}", pulled.err());
    }
}

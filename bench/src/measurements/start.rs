//! Starting with a large cache, and whether its size is felt afterwards.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Instant;

use pierhead_registry::oci::media_type::OCI_MANIFEST;
use pierhead_registry::oci::{Algorithm, Digest};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::edge::Plan;
use crate::options::Scale;
use crate::report::{Figure, Findings, Series, Target};
use crate::statistics::{median, percentile};

/// What is measured.
pub(crate) const ABOUT: &str = "start with 200 000 blobs in the cache: index present, index rebuilt; hit latency p99 against an almost empty cache";

/// Blobs of an image, and images of a repository.
const LAYERS: usize = 20;
const IMAGES: usize = 10;
/// Length of a blob.
const BLOB: usize = 200;
/// Blobs that both caches hold and that are asked for.
const ASKED: usize = 1000;
/// An upstream that is not there: everything is cached.
const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9);

/// Measures it.
pub(crate) async fn measure(scale: Scale) -> Findings {
    let blobs = scale.pick(200_000, 5_000);
    let plan = || Plan::new(NOBODY).set("/access_log", false).set("/cache/scrub_interval", "never");
    let large = plan();
    let made = Instant::now();
    fill(&large.cache(), blobs).expect("cache tree");
    let made = made.elapsed();
    let small = plan();
    fill(&small.cache(), ASKED).expect("cache tree");
    let mut large = large.start().await;
    let small = small.start().await;
    let first_start = large.started_in;
    let (mut present, mut rebuilt) = (Vec::new(), Vec::new());
    for _ in 0..scale.runs {
        large.restart(|| {}).await;
        present.push(large.started_in.as_secs_f64());
        let index = large.cache().join("index");
        large.restart(|| fs::remove_dir_all(index).expect("the index")).await;
        rebuilt.push(large.started_in.as_secs_f64());
    }
    let requests = scale.pick(20_000, 2_000);
    hits(large.registry, ASKED).await;
    hits(small.registry, ASKED).await;
    let (mut full, mut empty) = (Vec::new(), Vec::new());
    for _ in 0..scale.runs {
        // In short turns: what else the machine does then meets both sides alike.
        let (mut of_full, mut of_empty) = (Vec::new(), Vec::new());
        for _ in 0..requests / ASKED {
            of_full.extend(hits(large.registry, ASKED).await);
            of_empty.extend(hits(small.registry, ASKED).await);
        }
        full.push(of_full);
        empty.push(of_empty);
    }
    let series = |label: &str, unit: &'static str, values: Vec<f64>| Series::new(label, unit, values);
    let of = |label: &str, runs: &[Vec<f64>], value: fn(&[f64]) -> f64| {
        Series::new(label, "µs", runs.iter().map(|run| value(run)).collect())
    };
    let p99 = |run: &[f64]| percentile(run, 99.0);
    Findings {
        figures: vec![
            Figure::limit(
                "start, index present",
                series("pierhead", "s", present),
                Vec::new(),
                Some(Target::Below(2.0)),
            ),
            Figure::limit(
                "start, index rebuilt",
                series("pierhead", "s", rebuilt),
                Vec::new(),
                Some(Target::Below(60.0)),
            ),
            Figure::ratio(
                "hit latency p99",
                of("full cache", &full, p99),
                of("empty cache", &empty, p99),
                Some(Target::AtMost(1.1)),
            ),
            Figure::ratio(
                "hit latency median",
                of("full cache", &full, median),
                of("empty cache", &empty, median),
                None,
            ),
        ],
        notes: vec![
            format!(
                "{blobs} blobs of {BLOB} bytes in images of {LAYERS}, {IMAGES} images a repository, each with manifest, links and tag"
            ),
            format!(
                "the tree was written in {:.1} s just before, so its directories are in the kernel's cache; the first start of all took {:.2} s",
                made.as_secs_f64(),
                first_start.as_secs_f64()
            ),
            "from the start of the process to its line that it is ready; index present: after a stop in good order"
                .into(),
            format!(
                "latency: {requests} GETs of {ASKED} blobs that both caches hold, one after the other on one connection, in turns of {ASKED}, plain HTTP; the almost empty cache holds only these"
            ),
        ],
        settings: vec![("pierhead".into(), large.settings())],
    }
}

/// Writes a cache tree of so many blobs as pierhead lays it out, without an index.
fn fill(cache: &Path, blobs: usize) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    for byte in 0..=u8::MAX {
        builder.create(cache.join(format!("blobs/sha256/{byte:02x}")))?;
    }
    let checked = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    for (image, first) in (0..blobs).step_by(LAYERS).enumerate() {
        let repository = cache.join(format!("repositories/registry.bench/bench/r{}", image / IMAGES));
        builder.create(repository.join("_links"))?;
        builder.create(repository.join("_tags"))?;
        let mut layers = Vec::new();
        for number in first..blobs.min(first + LAYERS) {
            let digest = put(cache, &repository, &content(number), "")?;
            layers.push(json!({ "mediaType": "application/octet-stream", "digest": digest.to_string(), "size": BLOB }));
        }
        let config = layers[0].clone();
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers }).to_string();
        let digest = put(cache, &repository, manifest.as_bytes(), OCI_MANIFEST)?;
        fs::write(repository.join(format!("_tags/v{}", image % IMAGES)), format!("{digest} {checked}\n"))?;
    }
    Ok(())
}

/// One content and its link.
fn put(cache: &Path, repository: &Path, bytes: &[u8], media_type: &str) -> io::Result<Digest> {
    let digest = Digest::of(Algorithm::Sha256, bytes);
    let hex = digest.hex();
    fs::File::create(cache.join(format!("blobs/sha256/{}/{hex}", &hex[..2])))?.write_all(bytes)?;
    fs::write(repository.join(format!("_links/sha256-{hex}")), media_type)?;
    Ok(digest)
}

/// The bytes of a blob: its number, in many ways.
fn content(number: usize) -> Vec<u8> {
    let mut bytes = format!("blob {number} ").repeat(BLOB);
    bytes.truncate(BLOB);
    bytes.into_bytes()
}

/// The latencies of `count` hits in microseconds.
async fn hits(server: SocketAddr, count: usize) -> Vec<f64> {
    let requests: Vec<Vec<u8>> = (0..ASKED)
        .map(|number| {
            let repository = format!("bench/r{}", number / LAYERS / IMAGES);
            let digest = Digest::of(Algorithm::Sha256, &content(number));
            format!("GET /v2/{repository}/blobs/{digest} HTTP/1.1\r\nHost: {server}\r\n\r\n").into_bytes()
        })
        .collect();
    let mut stream = TcpStream::connect(server).await.expect("connection");
    stream.set_nodelay(true).expect("socket option");
    let mut latencies = Vec::with_capacity(count);
    let mut answer = Vec::with_capacity(16 << 10);
    for turn in 0..count {
        // In an order that jumps about.
        let number = turn * 617 % ASKED;
        let begun = Instant::now();
        stream.write_all(&requests[number]).await.expect("request");
        answer.clear();
        loop {
            assert_ne!(stream.read_buf(&mut answer).await.expect("answer"), 0, "no answer");
            let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
            if end.is_some_and(|end| answer.len() >= end + 4 + BLOB) {
                break;
            }
            assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
        }
        latencies.push(begun.elapsed().as_secs_f64() * 1e6);
        assert!(answer.ends_with(&content(number)), "another blob: {}", String::from_utf8_lossy(&answer));
    }
    latencies
}

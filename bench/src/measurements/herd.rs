//! A herd: many clients want one blob that nobody has yet, over a narrow line.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use pierhead_tests::image::Blob;
use tempfile::TempDir;

use crate::discard;
use crate::edge::Plan;
use crate::options::Scale;
use crate::peers::Peer;
use crate::report::{Figure, Findings, Series, Target};
use crate::upstream::{Line, holding, path};

/// What is measured.
pub(crate) const ABOUT: &str = "100 clients, one cold 256 MiB blob, upstream limited to 100 MB/s: bytes from upstream; the last client against one alone";

/// Bytes a second from upstream, all connections together.
pub(crate) const RATE: u64 = 100_000_000;

/// What one herd was like.
struct Herd {
    /// From the start to the last byte of the last client.
    last: Duration,
    /// Bytes from upstream, measured in blobs.
    upstream: f64,
}

/// Measures it.
pub(crate) async fn measure(scale: Scale) -> Findings {
    let clients = scale.pick(100, 10);
    let (registry, blob) = holding(scale.blob()).await;
    let size = blob.bytes.len() as u64;
    let mut settings = Vec::new();
    let (mut alone, mut together, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    let (mut narrow, mut warm, mut file) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..scale.runs {
        let line = Line::to(registry.address, RATE).await;
        narrow.push(discard::download(line.address(), &path(&blob), size).await.total.as_secs_f64());
        let line = Line::to(registry.address, RATE).await;
        let edge = Plan::new(line.address()).start().await;
        alone.push(herd(edge.registry, &line, &blob, 1).await.last.as_secs_f64());
        let line = Line::to(registry.address, RATE).await;
        let edge = Plan::new(line.address()).start().await;
        let found = herd(edge.registry, &line, &blob, clients).await;
        together.push(found.last.as_secs_f64());
        bytes.push(found.upstream);
        // What this machine can move at all, when nothing has to be fetched.
        warm.push(herd(edge.registry, &line, &blob, clients).await.last.as_secs_f64());
        settings = vec![("pierhead".to_owned(), edge.settings())];
        let dir = TempDir::with_prefix("pierhead-bench-").expect("scratch directory");
        crate::certificate::Certificate::make(dir.path());
        let nginx = Peer::nginx(dir.path(), registry.address).await;
        let target = dir.path().join("www").join(path(&blob).trim_start_matches('/'));
        std::fs::create_dir_all(target.parent().expect("a folder")).expect("scratch directory");
        std::fs::write(target, &blob.bytes).expect("scratch file");
        file.push(herd(nginx.address("FILE_PORT"), &line, &blob, clients).await.last.as_secs_f64());
    }

    // Once: a hundred downloads through this line take minutes, and the number hardly scatters.
    let mut peer = Vec::new();
    for count in [1, clients] {
        let dir = TempDir::with_prefix("pierhead-bench-").expect("scratch directory");
        let line = Line::to(registry.address, RATE).await;
        let cache = Peer::docker_registry(dir.path(), line.address()).await;
        peer.push(herd(cache.address("PORT"), &line, &blob, count).await);
        if count == 1 {
            settings.push(("docker-registry as a proxy".to_owned(), cache.settings.clone()));
        }
    }

    let series = |label: &str, unit: &'static str, values: &[f64]| Series::new(label, unit, values.to_vec());
    let once = |label: &str, unit: &'static str, value: f64| Series::new(label, unit, vec![value]);
    let (peer_alone, peer_together) = (peer[0].last.as_secs_f64(), peer[1].last.as_secs_f64());
    Findings {
        figures: vec![
            Figure::limit(
                "bytes from upstream",
                series("pierhead", "× the blob", &bytes),
                vec![once("docker-registry", "× the blob", peer[1].upstream)],
                Some(Target::AtMost(1.005)),
            ),
            Figure::ratio(
                "last client against one alone",
                series(&format!("last of {clients}"), "s", &together),
                series("one alone", "s", &alone),
                Some(Target::AtMost(1.2)),
            ),
            Figure::ratio(
                "the same of docker-registry's proxy mode",
                once(&format!("last of {clients}"), "s", peer_together),
                once("one alone", "s", peer_alone),
                None,
            ),
            Figure::limit(
                format!("{clients} clients when nothing has to be fetched, for comparison"),
                series("pierhead, cached", "s", &warm),
                vec![series("nginx, a file", "s", &file)],
                None,
            ),
            Figure::limit("one client on the line itself", series("upstream directly", "s", &narrow), Vec::new(), None),
        ],
        notes: vec![
            format!("the line carries {} MB/s in all; plain HTTP; clients let the kernel discard what they receive", RATE / 1_000_000),
            "docker-registry has one turn only: it takes minutes".into(),
            "when 100 clients that fetch nothing take longer than one alone that does, the machine is the limit: it cannot move that much over the loopback".into(),
        ],
        settings,
    }
}

async fn herd(server: SocketAddr, line: &Line, blob: &Blob, clients: usize) -> Herd {
    let size = blob.bytes.len() as u64;
    let (before, begun) = (line.carried(), Instant::now());
    let downloads = (0..clients).map(|_| {
        let path = path(blob);
        tokio::spawn(async move { discard::download(server, &path, size).await })
    });
    for download in join_all(downloads).await {
        download.expect("every client gets the whole blob");
    }
    Herd { last: begun.elapsed(), upstream: (line.carried() - before) as f64 / size as f64 }
}

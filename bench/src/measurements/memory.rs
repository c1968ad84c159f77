//! Memory with many downloads in progress.

use std::net::SocketAddr;
use std::time::Duration;

use pierhead_tests::eventually;
use tempfile::TempDir;

use crate::certificate::Certificate;
use crate::edge::Plan;
use crate::options::Scale;
use crate::peers::Peer;
use crate::procfs::Server;
use crate::report::{Figure, Findings, Series, Target};
use crate::slow::{RATE, Readers};
use crate::throughput::Protocol;
use crate::upstream::{REPOSITORY, holding, path};

/// What is measured.
pub(crate) const ABOUT: &str =
    "peak RSS with 500 downloads of a cached 256 MiB blob in progress, TLS, slow readers, each on its own connection";

const MIB: f64 = (1 << 20) as f64;
/// Memory hardly scatters.
const MOST_RUNS: usize = 3;

/// Measures it.
pub(crate) async fn measure(scale: Scale) -> Findings {
    let dir = TempDir::with_prefix("pierhead-bench-").expect("scratch directory");
    let certificate = Certificate::make(dir.path());
    let (registry, blob) = holding(scale.blob()).await;
    std::fs::create_dir_all(dir.path().join("www")).expect("scratch directory");
    std::fs::write(dir.path().join("www/blob"), &blob.bytes).expect("scratch file");
    let mut figures = Vec::new();
    let mut settings = Vec::new();
    let count = scale.pick(500, 50);
    for (name, protocol) in [("HTTP/1.1", Protocol::Http1), ("HTTP/2", Protocol::Http2)] {
        let load = Load {
            count,
            size: blob.bytes.len() as u64,
            protocol,
            certificate: &certificate,
            hold: Duration::from_secs(scale.pick(15, 3)),
        };
        let (mut idle, mut peak, mut now, mut theirs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..scale.runs.min(MOST_RUNS) {
            // A fresh one each time: the peak of a process never goes down.
            let edge = Plan::new(registry.address).tls(&certificate).start().await;
            edge.warm(&certificate, REPOSITORY, &blob.digest).await;
            idle.push(edge.server().resident_memory() as f64 / MIB);
            let held = load.hold(edge.server(), edge.registry, &path(&blob)).await;
            now.push(held.resident);
            peak.push(held.peak);
            let nginx = Peer::nginx(dir.path(), registry.address).await;
            theirs.push(load.hold(nginx.server(), nginx.address("FILE_TLS_PORT"), "/blob").await.peak);
            settings = vec![("pierhead".into(), edge.settings()), ("nginx".into(), nginx.settings.clone())];
        }
        let beside = vec![
            Series::new("while they run", "MiB", now),
            Series::new("before them", "MiB", idle),
            Series::new("nginx, all workers", "MiB", theirs),
        ];
        let ours = Series::new("pierhead", "MiB", peak);
        let target = Some(Target::AtMost(128.0));
        figures.push(Figure::limit(format!("peak RSS, {count} over {name}"), ours, beside, target));
    }
    Findings {
        figures,
        notes: vec![
            format!("each reader takes {} KiB/s, for {} s after all have begun", RATE >> 10, scale.pick(15, 3)),
            "peak is VmHWM of a process that was started for this run and pulled the blob into its cache itself".into(),
        ],
        settings,
    }
}

/// Downloads to be held open.
struct Load<'a> {
    count: usize,
    size: u64,
    protocol: Protocol,
    certificate: &'a Certificate,
    hold: Duration,
}

/// Memory of the server, in MiB.
struct Held {
    resident: f64,
    peak: f64,
}

impl Load<'_> {
    /// Opens the downloads, holds all of them in progress, and looks at the server at the end.
    async fn hold(&self, server: Server, address: SocketAddr, path: &str) -> Held {
        let mut readers = Readers::start(self.count, address, path, self.size, self.certificate, self.protocol);
        eventually("all downloads are in progress", Duration::from_secs(120), async || {
            (readers.in_progress() == self.count).then_some(())
        })
        .await;
        tokio::time::sleep(self.hold).await;
        assert_eq!(readers.in_progress(), self.count, "downloads in progress at the end");
        Held { resident: server.resident_memory() as f64 / MIB, peak: server.peak_memory() as f64 / MIB }
    }
}

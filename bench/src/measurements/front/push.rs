//! A large push: what the front door adds to it.

use std::net::SocketAddr;
use std::time::Instant;

use pierhead_tests::image::Blob;
use pierhead_tests::pull::Client;
use pierhead_tests::registry::DockerRegistry;
use tempfile::TempDir;

use crate::certificate::Certificate;
use crate::edge::Plan;
use crate::options::Scale;
use crate::peers::Peer;
use crate::report::{Figure, Findings, Series, Target};

/// What is measured.
pub(crate) const ABOUT: &str = "push of a 1 GiB blob to docker-registry, through against directly";

/// Measures it.
pub(crate) async fn measure(scale: Scale) -> Findings {
    let dir = TempDir::with_prefix("pierhead-bench-").expect("scratch directory");
    Certificate::make(dir.path());
    let registry = DockerRegistry::start().await;
    let servers = [registry.address];
    let haproxy = Peer::haproxy_front(dir.path(), &servers).await;
    let edge = Plan::front(&servers).start().await;
    let blob = Blob::random(42, scale.pick(1 << 30, 32 << 20));

    let sides = [edge.registry, registry.address, haproxy.address("PROXY_PORT")];
    let mut seconds = [const { Vec::new() }; 3];
    push(registry.address, "warm/up", &blob).await;
    for run in 0..scale.runs {
        for (side, address) in sides.iter().enumerate() {
            // Another repository each time: nothing is there already, and nothing is mounted.
            seconds[side].push(push(*address, &format!("run{run}/side{side}"), &blob).await);
        }
    }
    let peak = edge.server().peak_memory() as f64 / f64::from(1 << 20);
    let series = |label: &str, side: usize| Series::new(label, "s", seconds[side].clone());
    let through = || series("through pierhead", 0);
    Findings {
        figures: vec![
            Figure::ratio("time", through(), series("directly", 1), Some(Target::AtMost(1.1))),
            Figure::ratio("time beside haproxy, for comparison", through(), series("through haproxy", 2), None),
            Figure::limit(
                "peak memory",
                Series::new("pierhead", "MiB", vec![peak]),
                Vec::new(),
                Some(Target::AtMost(96.0)),
            ),
        ],
        notes: vec![format!(
            "{} MiB in one PUT, plain HTTP everywhere, as docker-registry has no TLS here; it hashes and writes all of it",
            blob.bytes.len() >> 20
        )],
        settings: vec![("pierhead".into(), edge.settings()), ("haproxy".into(), haproxy.settings.clone())],
    }
}

/// Seconds from the first request to the last answer.
async fn push(address: SocketAddr, repository: &str, blob: &Blob) -> f64 {
    let client = Client::new(format!("http://{address}"));
    let begun = Instant::now();
    client.push_blob(repository, &blob.digest, blob.bytes.clone()).await;
    begun.elapsed().as_secs_f64()
}

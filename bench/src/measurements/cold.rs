//! A cold pull: what the first client pays for the cache being there.

use std::net::SocketAddr;

use pierhead_tests::image::Blob;

use super::herd::RATE;
use crate::discard::{Times, download};
use crate::edge::Plan;
use crate::options::Scale;
use crate::report::{Figure, Findings, Series, Target};
use crate::upstream::{Line, holding, path};

/// What is measured.
pub(crate) const ABOUT: &str = "cold pull of a 256 MiB blob by one client against pulling from upstream directly: over the loopback, and over 100 MB/s";

/// Both sides of one way to upstream, a value a run.
#[derive(Default)]
struct Pulls {
    direct: Vec<Times>,
    through: Vec<Times>,
}

/// Measures it.
pub(crate) async fn measure(scale: Scale) -> Findings {
    let (registry, blob) = holding(scale.blob()).await;
    let size = blob.bytes.len() as u64;
    download(registry.address, &path(&blob), size).await;
    let (mut open, mut narrow) = (Pulls::default(), Pulls::default());
    let mut settings = String::new();
    for _ in 0..scale.runs {
        settings = pull(&mut open, registry.address, &blob).await;
        let line = Line::to(registry.address, RATE).await;
        pull(&mut narrow, line.address(), &blob).await;
    }
    let mut figures = Vec::new();
    for (way, pulls) in [("loopback", &open), ("100 MB/s", &narrow)] {
        let total = |times: &Times| times.total.as_secs_f64();
        figures.push(figure(&format!("{way}: whole blob"), "s", pulls, total, Some(Target::AtMost(1.05))));
        let first = |times: &Times| times.first_byte.as_secs_f64() * 1000.0;
        figures.push(figure(&format!("{way}: first byte"), "ms", pulls, first, None));
    }
    Findings {
        figures,
        notes: vec![
            format!("blob of {} MiB, plain HTTP, upstream is docker-registry; a fresh cache each time, `fsync: always`", size >> 20),
            "over the loopback upstream is as fast as this machine copies memory: hashing and writing the blob cannot hide behind the network, as they do at 100 MB/s".into(),
        ],
        settings: vec![("pierhead".into(), settings)],
    }
}

/// One turn of each side; the configuration that was used.
async fn pull(pulls: &mut Pulls, upstream: SocketAddr, blob: &Blob) -> String {
    let size = blob.bytes.len() as u64;
    let edge = Plan::new(upstream).start().await;
    pulls.direct.push(download(upstream, &path(blob), size).await);
    pulls.through.push(download(edge.registry, &path(blob), size).await);
    edge.settings()
}

fn figure(name: &str, unit: &'static str, pulls: &Pulls, of: fn(&Times) -> f64, target: Option<Target>) -> Figure {
    let series = |label: &str, times: &[Times]| Series::new(label, unit, times.iter().map(of).collect());
    Figure::ratio(name, series("through pierhead", &pulls.through), series("directly", &pulls.direct), target)
}

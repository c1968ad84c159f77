//! Layers pushed and pulled, a manifest asked for, and what memory all of it took.

use std::time::Instant;

use tempfile::TempDir;

use super::work::{Layer, pull, push_all, tag};
use crate::options::Scale;
use crate::origin::{REPOSITORY, Registries, Side, settle};
use crate::report::{Figure, Findings, Series, Target};
use crate::wrk;

/// What is measured.
pub(crate) const ABOUT: &str = "the origin beside docker-registry over files, with tokens, plain HTTP: pushes and pulls of layers by curl, a manifest by tag by wrk, peak memory";

/// Layers that are pushed at once.
const AT_ONCE: usize = 20;
/// How often the large one is pulled.
const PULLS: usize = 4;

/// What one run of one side gave.
#[derive(Clone, Copy, Default)]
struct Turn {
    large: f64,
    parallel: f64,
    pull: f64,
    pull_cpu: f64,
    push_cpu: f64,
    rate: f64,
    p99: f64,
    peak: f64,
}

/// Measures it. Each run begins with two empty registries, so that both have done the same when their memory is read.
pub(crate) async fn measure(scale: Scale) -> Findings {
    let (large_size, small_size) = (scale.pick(1 << 30, 32 << 20), scale.pick(50 << 20, 2 << 20));
    let mut turns = [const { Vec::new() }; 2];
    let mut settings = Vec::new();
    for run in 0..scale.runs {
        let files = TempDir::with_prefix("pierhead-bench-").expect("scratch directory");
        let large = [Layer::make(files.path(), 1, large_size)];
        let small: Vec<Layer> = (0..AT_ONCE).map(|n| Layer::make(files.path(), 100 + n as u64, small_size)).collect();
        let registries = Registries::start().await;
        let sides = registries.sides().await;
        let mut these = [Turn::default(); 2];
        // Who begins changes.
        let order = if run % 2 == 0 { [0, 1] } else { [1, 0] };
        for side in order {
            settle().await;
            let before = sides[side].server.cpu();
            these[side].large = megabytes(&large) / push_all(&sides[side], &large).await;
            these[side].push_cpu = (sides[side].server.cpu() - before) / megabytes(&large) * 1000.0;
        }
        for side in order {
            settle().await;
            these[side].parallel = megabytes(&small) / push_all(&sides[side], &small).await;
        }
        for side in order {
            tag(&sides[side], &large[0]).await;
            pull(&sides[side], &large[0], 1).await;
        }
        for side in order {
            let before = sides[side].server.cpu();
            let gigabytes = megabytes(&large) * PULLS as f64 / 1000.0;
            these[side].pull = gigabytes / pull(&sides[side], &large[0], PULLS).await;
            these[side].pull_cpu = (sides[side].server.cpu() - before) / gigabytes;
        }
        for side in order {
            let load = manifests(&sides[side], scale.pick(5, 1)).await;
            (these[side].rate, these[side].p99) = (load.rate, load.p99);
        }
        for (side, turn) in these.into_iter().enumerate() {
            let peak = sides[side].server.peak_memory() as f64 / f64::from(1 << 20);
            turns[side].push(Turn { peak, ..turn });
        }
        settings = registries.settings();
    }
    let figure = |name: &str, unit: &'static str, of: fn(&Turn) -> f64, target: Option<Target>| {
        let series = |name: &str, turns: &[Turn]| Series::new(name, unit, turns.iter().map(of).collect());
        Figure::ratio(name, series("pierhead-origin", &turns[0]), series("docker-registry", &turns[1]), target)
    };
    Findings {
        figures: vec![
            figure("push of one layer: throughput", "MB/s", |turn| turn.large, Some(Target::AtLeast(1.2))),
            figure("the same: server CPU, for comparison", "s/GB", |turn| turn.push_cpu, None),
            figure("20 layers at once: throughput", "MB/s", |turn| turn.parallel, Some(Target::AtLeast(1.2))),
            figure("pull: throughput", "GB/s", |turn| turn.pull, Some(Target::AtLeast(1.2))),
            figure("pull: server CPU", "s/GB", |turn| turn.pull_cpu, Some(Target::AtMost(0.8))),
            figure("manifest by tag", "req/s", |turn| turn.rate, Some(Target::AtLeast(2.0))),
            figure("manifest by tag: p99, for comparison", "ms", |turn| turn.p99, None),
            figure("peak memory of all of it", "MiB", |turn| turn.peak, Some(Target::AtMost(0.5))),
        ],
        notes: vec![format!(
            "one layer of {} MiB, {AT_ONCE} of {} MiB, pulled {PULLS} times on one connection; PATCH and PUT as podman does; both sync what they commit",
            large_size >> 20,
            small_size >> 20
        )],
        settings,
    }
}

fn megabytes(layers: &[Layer]) -> f64 {
    layers.iter().map(|layer| layer.size as f64).sum::<f64>() / 1e6
}

async fn manifests(side: &Side, seconds: u32) -> wrk::Load {
    let url = format!("http://{}/v2/{REPOSITORY}/manifests/latest", side.address);
    let begun = Instant::now();
    let load = wrk::load_as(&url, seconds, Some(&side.token)).await;
    assert!(begun.elapsed().as_secs() >= u64::from(seconds), "wrk ended early");
    load
}

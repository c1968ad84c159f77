//! A cached manifest by tag, asked for as often as 32 connections can.

use pierhead_tests::image::Image;
use pierhead_tests::registry::DockerRegistry;
use tempfile::TempDir;

use crate::certificate::Certificate;
use crate::edge::Plan;
use crate::options::Scale;
use crate::peers::Peer;
use crate::report::{Figure, Findings, Series, Target};
use crate::upstream::REPOSITORY;
use crate::wrk;

/// What is measured.
pub(crate) const ABOUT: &str = "cached manifest by tag, TLS, keep-alive, wrk with 32 connections: requests/s against the better of nginx and haproxy";

/// How often a cache that works may still ask upstream: each thread or worker once at the very start.
const UPSTREAM_REQUESTS: usize = 64;

/// Measures it.
pub(crate) async fn measure(scale: Scale) -> Findings {
    let dir = TempDir::with_prefix("pierhead-bench-").expect("scratch directory");
    let certificate = Certificate::make(dir.path());
    let registry = DockerRegistry::start().await;
    let image = Image::new(1, &[1000; 4]);
    registry.push(REPOSITORY, "latest", &image).await;
    let nginx = Peer::nginx(dir.path(), registry.address).await;
    let haproxy = Peer::haproxy(dir.path(), registry.address).await;
    let edge = Plan::new(registry.address).tls(&certificate).start().await;

    let path = format!("/v2/{REPOSITORY}/manifests/latest");
    let sides = [
        ("pierhead", edge.registry, edge.server()),
        ("nginx", nginx.address("CACHE_TLS_PORT"), nginx.server()),
        ("haproxy", haproxy.address("CACHE_TLS_PORT"), haproxy.server()),
    ];
    for (_, address, _) in &sides {
        wrk::load(&format!("https://{address}{path}"), 1).await;
    }
    let asked_before = registry.requests("GET", &path).await;
    let seconds = scale.pick(5, 1);
    let mut loads = [const { Vec::new() }; 3];
    let mut cpu = [const { Vec::new() }; 3];
    for _ in 0..scale.runs {
        for (side, (_, address, server)) in sides.iter().enumerate() {
            let before = server.cpu();
            let load = wrk::load(&format!("https://{address}{path}"), seconds).await;
            cpu[side].push((server.cpu() - before) / (load.rate * f64::from(seconds)) * 1e6);
            loads[side].push(load);
        }
    }
    let asked = registry.requests("GET", &path).await - asked_before;
    assert!(asked <= UPSTREAM_REQUESTS, "somebody does not cache: upstream was asked {asked} times");

    let series = |side: usize, unit: &'static str, of: fn(&wrk::Load) -> f64| {
        Series::new(sides[side].0, unit, loads[side].iter().map(of).collect())
    };
    let beside = |unit, of: fn(&wrk::Load) -> f64| vec![series(1, unit, of), series(2, unit, of)];
    let cpu_of = |side: usize| Series::new(sides[side].0, "µs", cpu[side].clone());
    Findings {
        figures: vec![
            Figure::ratio_to_best(
                "requests a second",
                series(0, "req/s", |load| load.rate),
                beside("req/s", |load| load.rate),
                Target::AtLeast(1.2),
            ),
            Figure::limit(
                "latency p99, for comparison",
                series(0, "ms", |load| load.p99),
                beside("ms", |load| load.p99),
                None,
            ),
            Figure::limit("server CPU a request, for comparison", cpu_of(0), vec![cpu_of(1), cpu_of(2)], None),
        ],
        notes: vec![
            format!(
                "manifest of {} bytes, {seconds} s a turn, the cipher that wrk and each server agree on",
                image.manifest.blob.bytes.len()
            ),
            format!("upstream was asked {asked} times during all turns of all sides"),
        ],
        settings: vec![
            ("pierhead".into(), edge.settings()),
            ("nginx".into(), nginx.settings.clone()),
            ("haproxy".into(), haproxy.settings.clone()),
        ],
    }
}

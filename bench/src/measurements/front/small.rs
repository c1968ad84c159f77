//! Small answers, forwarded: what a request costs.

use pierhead_tests::image::Blob;
use tempfile::TempDir;

use crate::certificate::Certificate;
use crate::edge::Plan;
use crate::options::Scale;
use crate::peers::Peer;
use crate::report::{Figure, Findings, Series, Target};
use crate::wrk;

/// What is measured.
pub(crate) const ABOUT: &str = "1 KiB from nginx, forwarded over TLS, keep-alive, wrk with 32 connections: requests/s and server CPU against haproxy";

/// Measures it.
pub(crate) async fn measure(scale: Scale) -> Findings {
    let dir = TempDir::with_prefix("pierhead-bench-").expect("scratch directory");
    let certificate = Certificate::make(dir.path());
    let nginx = Peer::nginx(dir.path(), ([127, 0, 0, 1], 9).into()).await;
    std::fs::write(dir.path().join("www/small"), Blob::random(7, 1024).bytes).expect("scratch file");
    let servers = [nginx.address("FILE_PORT")];
    let haproxy = Peer::haproxy_front(dir.path(), &servers).await;
    let edge = Plan::front(&servers).tls(&certificate).start().await;

    let sides =
        [("pierhead", edge.registry, edge.server()), ("haproxy", haproxy.address("PROXY_TLS_PORT"), haproxy.server())];
    for (_, address, _) in &sides {
        wrk::load(&format!("https://{address}/small"), 1).await;
    }
    let seconds = scale.pick(5, 1);
    let mut loads = [const { Vec::new() }; 2];
    let mut cpu = [const { Vec::new() }; 2];
    for _ in 0..scale.runs {
        for (side, (_, address, server)) in sides.iter().enumerate() {
            let before = server.cpu();
            let load = wrk::load(&format!("https://{address}/small"), seconds).await;
            cpu[side].push((server.cpu() - before) / (load.rate * f64::from(seconds)) * 1e6);
            loads[side].push(load);
        }
    }
    let series = |side: usize, unit: &'static str, of: fn(&wrk::Load) -> f64| {
        Series::new(sides[side].0, unit, loads[side].iter().map(of).collect())
    };
    let cpu_of = |side: usize| Series::new(sides[side].0, "µs", cpu[side].clone());
    Findings {
        figures: vec![
            Figure::ratio(
                "requests a second",
                series(0, "req/s", |load| load.rate),
                series(1, "req/s", |load| load.rate),
                Some(Target::AtLeast(1.0)),
            ),
            Figure::ratio("server CPU a request", cpu_of(0), cpu_of(1), Some(Target::AtMost(1.0))),
            Figure::limit(
                "latency p99, for comparison",
                series(0, "ms", |load| load.p99),
                vec![series(1, "ms", |load| load.p99)],
                None,
            ),
        ],
        notes: vec![format!("{seconds} s a turn; the same nginx behind both, over plain HTTP/1.1 on kept connections")],
        settings: vec![("pierhead".into(), edge.settings()), ("haproxy".into(), haproxy.settings.clone())],
    }
}

//! Small messages: redis-benchmark, one command at a time and pipelined.

use std::net::SocketAddr;
use std::time::Duration;

use pierhead_tests::process::run;
use pierhead_tests::server;
use tempfile::TempDir;
use tokio::process::Command;

use crate::edge::Plan;
use crate::options::Scale;
use crate::peers::Peer;
use crate::procfs::Server;
use crate::report::{Figure, Findings, Series, Target};

/// What is measured.
pub(crate) const ABOUT: &str = "redis-benchmark GET through layer 4, 50 connections, pipelined (-P 16) and not: requests/s and server CPU against haproxy";

/// Connections.
const CONNECTIONS: &str = "50";

/// What one turn of one side gave.
struct Turn {
    /// Requests a second.
    rate: f64,
    /// Microseconds of the proxy's CPU for each.
    cpu: f64,
    /// Milliseconds.
    p99: f64,
}

/// Measures it.
pub(crate) async fn measure(scale: Scale) -> Findings {
    let dir = TempDir::with_prefix("pierhead-bench-").expect("scratch directory");
    let redis = server::Server::redis(&[]).await;
    let servers = [redis.address()];
    let haproxy = Peer::haproxy_layer4(dir.path(), &servers).await;
    let edge = Plan::layer4(&servers).start().await;

    let sides = [(edge.registry, edge.server()), (haproxy.address("PROXY_PORT"), haproxy.server())];
    let mut figures = Vec::new();
    for (name, pipeline, requests) in
        [("one at a time", "1", scale.pick(300_000, 20_000)), ("pipelined", "16", scale.pick(3_000_000, 200_000))]
    {
        for (address, server) in &sides {
            turn(*address, *server, pipeline, requests / 10).await;
        }
        let mut turns = [const { Vec::new() }; 2];
        for _ in 0..scale.runs {
            for (side, (address, server)) in sides.iter().enumerate() {
                turns[side].push(turn(*address, *server, pipeline, requests).await);
            }
        }
        let series = |side: usize, unit: &'static str, of: fn(&Turn) -> f64| {
            Series::new(["pierhead", "haproxy"][side], unit, turns[side].iter().map(of).collect())
        };
        let ratio = |what: &str, unit: &'static str, of: fn(&Turn) -> f64, target| {
            Figure::ratio(format!("{name}: {what}"), series(0, unit, of), series(1, unit, of), target)
        };
        figures.push(ratio("requests a second", "req/s", |turn| turn.rate, Some(Target::AtLeast(1.0))));
        figures.push(ratio("server CPU a request, for comparison", "µs", |turn| turn.cpu, None));
        figures.push(ratio("latency p99, for comparison", "ms", |turn| turn.p99, None));
    }
    Findings {
        figures,
        notes: vec![
            "the same redis-server behind both; it, redis-benchmark and the proxy share the machine's cores".into(),
            format!("{CONNECTIONS} connections, GET of 3 bytes, redis-benchmark with one thread"),
        ],
        settings: vec![("pierhead".into(), edge.settings()), ("haproxy".into(), haproxy.settings.clone())],
    }
}

async fn turn(address: SocketAddr, server: Server, pipeline: &str, requests: u32) -> Turn {
    let mut command = Command::new("redis-benchmark");
    command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string(), "-c", CONNECTIONS]);
    command.args(["-t", "get", "-n", &requests.to_string(), "-P", pipeline, "--csv"]);
    let before = server.cpu();
    let output = run(command, Duration::from_secs(300)).await.expect_success();
    let cpu = server.cpu() - before;
    let (rate, p99) = parse(&output.stdout).unwrap_or_else(|| panic!("redis-benchmark says:\n{}", output.stdout));
    Turn { rate, p99, cpu: cpu / f64::from(requests) * 1e6 }
}

/// Requests a second, and the 99th percentile of latency in milliseconds.
fn parse(output: &str) -> Option<(f64, f64)> {
    let mut lines = output.lines().skip_while(|line| !line.starts_with("\"test\""));
    let names = lines.next()?.split(',').map(|name| name.trim_matches('"'));
    let values: Vec<&str> = lines.next()?.split(',').map(|value| value.trim_matches('"')).collect();
    let column = |wanted| names.clone().position(|name| name == wanted).and_then(|index| values.get(index));
    Some((column("rps")?.parse().ok()?, column("p99_latency_ms")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn rate_and_latency_are_found_by_their_names() {
        let output = "\"test\",\"rps\",\"avg_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
                      \"GET\",\"95238.10\",\"0.286\",\"0.511\",\"1.015\"\n";
        assert_eq!(parse(output), Some((95238.1, 0.511)));
        assert_eq!(parse("Could not connect to Redis\n"), None);
    }
}

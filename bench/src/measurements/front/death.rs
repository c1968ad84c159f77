//! A server that dies under load: what clients see of it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pierhead_tests::server::Server;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::certificate::Certificate;
use crate::edge::Plan;
use crate::options::Scale;
use crate::peers::Peer;
use crate::report::{Figure, Findings, Series, Target};
use crate::statistics::percentile;

/// What is measured.
pub(crate) const ABOUT: &str = "one of two servers is killed under 2000 requests/s, and comes back: failed requests";

/// Requests a second.
const RATE: u32 = 2000;
/// Requests that start together.
const BATCH: u32 = 10;
/// When the server dies, and when it comes back, measured in all of the time.
const DEATH: f64 = 0.3;
const RETURN: f64 = 0.7;

/// The servers: fast enough that it is not they who are measured.
const SERVER: &str = "server { listen 127.0.0.1:@PORT@; location / { return 200 \"well\"; } }";

/// What clients saw.
struct Seen {
    failed: usize,
    /// What the failures said.
    failures: BTreeSet<String>,
    sent: usize,
    /// Milliseconds.
    p99: f64,
}

/// Measures it.
pub(crate) async fn measure(scale: Scale) -> Findings {
    let dir = TempDir::with_prefix("pierhead-bench-").expect("scratch directory");
    Certificate::make(dir.path());
    let stays = Server::nginx(1, SERVER).await;
    let mut dies = Server::nginx(1, SERVER).await;
    let servers = [stays.address(), dies.address()];
    let haproxy = Peer::haproxy_front(dir.path(), &servers).await;
    let edge = Plan::front(&servers).start().await;

    let time = scale.pick(Duration::from_secs(10), Duration::from_secs(2));
    let sides = [edge.registry, haproxy.address("PROXY_PORT")];
    let mut seen = [const { Vec::new() }; 2];
    for _ in 0..scale.runs {
        for (side, address) in sides.iter().enumerate() {
            seen[side].push(turn(*address, &mut dies, time).await);
        }
    }
    let series = |label: &str, side: usize, unit: &'static str, of: fn(&Seen) -> f64| {
        Series::new(label, unit, seen[side].iter().map(of).collect())
    };
    let figure = |name: &str, unit: &'static str, of: fn(&Seen) -> f64, target| {
        Figure::limit(name, series("pierhead", 0, unit, of), vec![series("haproxy", 1, unit, of)], target)
    };
    let sent: Vec<String> = seen.iter().flatten().map(|seen| seen.sent.to_string()).collect();
    Findings {
        figures: vec![
            figure("failed requests", "requests", |seen| seen.failed as f64, Some(Target::AtMost(0.0))),
            figure("latency p99, for comparison", "ms", |seen| seen.p99, None),
        ],
        notes: vec![
            format!(
                "{RATE} requests/s for {time:?} a turn, whatever the answers; requests sent in each: {}",
                sent.join(", ")
            ),
            "GET of two nginx; one is killed (SIGKILL) after 30 % of the time and starts again after 70 %".into(),
            format!("failures of pierhead: {:?}; of haproxy: {:?}", failures(&seen[0]), failures(&seen[1])),
        ],
        settings: vec![("pierhead".into(), edge.settings()), ("haproxy".into(), haproxy.settings.clone())],
    }
}

/// One turn of one side.
async fn turn(address: SocketAddr, dies: &mut Server, time: Duration) -> Seen {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().expect("client");
    let url = format!("http://{address}/");
    let load = async {
        let mut requests = JoinSet::new();
        let mut ticks = interval(Duration::from_secs(1) * BATCH / RATE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let begun = Instant::now();
        while begun.elapsed() < time {
            ticks.tick().await;
            for _ in 0..BATCH {
                requests.spawn(ask(client.clone(), url.clone()));
            }
        }
        requests.join_all().await
    };
    let fate = async {
        tokio::time::sleep(time.mul_f64(DEATH)).await;
        dies.kill().await;
        tokio::time::sleep(time.mul_f64(RETURN - DEATH)).await;
        dies.start_again().await;
    };
    let (times, ()) = tokio::join!(load, fate);
    let sent = times.len();
    let (mut well, mut failed) = (Vec::new(), Vec::new());
    for time in times {
        match time {
            Ok(time) => well.push(time),
            Err(failure) => failed.push(failure),
        }
    }
    Seen { failed: failed.len(), sent, p99: percentile(&well, 99.0), failures: failed.into_iter().collect() }
}

/// Milliseconds to the last byte of a success, or what became of it.
async fn ask(client: reqwest::Client, url: String) -> Result<f64, String> {
    let begun = Instant::now();
    let asked = async { client.get(url).send().await?.error_for_status()?.bytes().await };
    match asked.await {
        Ok(_) => Ok(begun.elapsed().as_secs_f64() * 1000.0),
        Err(error) => Err(error.without_url().to_string()),
    }
}

/// What the failures of all turns said.
fn failures(turns: &[Seen]) -> BTreeSet<&String> {
    turns.iter().flat_map(|seen| &seen.failures).collect()
}

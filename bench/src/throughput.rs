//! One client pulls a cached blob over TLS, again and again: speed and CPU time of pierhead beside nginx, which serves
//! the same bytes from a file.

use std::time::Instant;

use tempfile::TempDir;

use crate::certificate::Certificate;
use crate::edge::Plan;
use crate::options::Scale;
use crate::peers::Peer;
use crate::procfs::{Server, ended_children};
use crate::report::{Figure, Findings, Series, Target};
use crate::upstream::{REPOSITORY, holding, path};
use crate::{curl, h2load};

/// The cipher of every transfer.
pub(crate) const CIPHER: &str = "TLS_AES_256_GCM_SHA384";

/// Which protocol, and so which client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// curl.
    Http1,
    /// h2load.
    Http2,
}

/// What one turn of one side gave.
struct Turn {
    /// GB/s.
    speed: f64,
    /// CPU seconds of the server per GB.
    server: f64,
    /// The same of the client.
    client: f64,
}

/// Measures both sides in turn.
pub(crate) async fn compare(scale: Scale, protocol: Protocol, speed: Target, cpu: Target) -> Findings {
    let dir = TempDir::with_prefix("pierhead-bench-").expect("scratch directory");
    let certificate = Certificate::make(dir.path());
    let (registry, blob) = holding(scale.blob()).await;
    let nginx = Peer::nginx(dir.path(), registry.address).await;
    std::fs::write(dir.path().join("www/blob"), &blob.bytes).expect("scratch file");
    let edge = Plan::new(registry.address).tls(&certificate).start().await;
    edge.warm(&certificate, REPOSITORY, &blob.digest).await;

    let size = blob.bytes.len() as u64;
    let times = scale.pick(8, 4);
    let ours = (edge.server(), format!("https://{}{}", edge.registry, path(&blob)));
    let theirs = (nginx.server(), format!("https://{}/blob", nginx.address("FILE_TLS_PORT")));
    for (server, url) in [&ours, &theirs] {
        turn(protocol, *server, url, &certificate, 1, size).await;
    }
    let (mut pierhead, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..scale.runs {
        pierhead.push(turn(protocol, ours.0, &ours.1, &certificate, times, size).await);
        peer.push(turn(protocol, theirs.0, &theirs.1, &certificate, times, size).await);
    }

    let figure = |name: &str, unit: &'static str, of: fn(&Turn) -> f64, target: Option<Target>| {
        let series = |label: &str, turns: &[Turn]| Series::new(label, unit, turns.iter().map(of).collect());
        Figure::ratio(name, series("pierhead", &pierhead), series("nginx", &peer), target)
    };
    Findings {
        figures: vec![
            figure("throughput", "GB/s", |turn| turn.speed, Some(speed)),
            figure("server CPU", "s/GB", |turn| turn.server, Some(cpu)),
            figure("client CPU, for comparison", "s/GB", |turn| turn.client, None),
        ],
        notes: vec![
            format!(
                "{times} transfers of {} MiB on one connection a turn, TLS 1.3, {CIPHER}, certificate ECDSA P-256",
                size >> 20
            ),
            "where the client's CPU per GB is above the server's, the client limits the throughput, not the server"
                .into(),
        ],
        settings: vec![("pierhead".into(), edge.settings()), ("nginx".into(), nginx.settings.clone())],
    }
}

async fn turn(
    protocol: Protocol,
    server: Server,
    url: &str,
    certificate: &Certificate,
    times: usize,
    size: u64,
) -> Turn {
    let (server_before, client_before, begun) = (server.cpu(), ended_children(), Instant::now());
    match protocol {
        Protocol::Http1 => curl::download(url, &certificate.cert, times, size).await,
        Protocol::Http2 => h2load::download(url, times, size).await,
    }
    let seconds = begun.elapsed().as_secs_f64();
    let gigabytes = times as f64 * size as f64 / 1e9;
    Turn {
        speed: gigabytes / seconds,
        server: (server.cpu() - server_before) / gigabytes,
        client: (ended_children() - client_before) / gigabytes,
    }
}

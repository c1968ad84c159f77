//! One client pulls a cached blob over TLS, again and again: speed and CPU time of pierhead beside nginx, which serves
//! the same bytes from a file.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tempfile::TempDir;

use crate::certificate::Certificate;
use crate::edge::Plan;
use crate::options::Scale;
use crate::peers::Peer;
use crate::procfs::{Server, ended_children};
use crate::report::{Figure, Findings, Series, Target};
use crate::upstream::{REPOSITORY, holding, path};
use crate::{curl, h2load, lean};

/// The cipher of every transfer.
pub(crate) const CIPHER: &str = "TLS_AES_256_GCM_SHA384";

/// Which protocol, and so which of the clients that people use: curl or h2load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// curl.
    Http1,
    /// h2load.
    Http2,
}

/// Which kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// What people use.
    Usual,
    /// What takes least of the machine that both share.
    Lean,
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

/// One side: who serves which path, and where.
pub(crate) struct Side {
    /// In the report.
    pub(crate) name: &'static str,
    /// For its CPU time.
    pub(crate) server: Server,
    /// Where, with TLS.
    pub(crate) address: SocketAddr,
    /// What.
    pub(crate) path: String,
}

/// How all turns are made.
struct Work<'a> {
    protocol: Protocol,
    certificate: &'a Arc<Certificate>,
    times: usize,
    size: u64,
}

/// Measures both sides in turn.
pub(crate) async fn compare(scale: Scale, protocol: Protocol, speed: Target, cpu: Target) -> Findings {
    let dir = TempDir::with_prefix("pierhead-bench-").expect("scratch directory");
    let certificate = Arc::new(Certificate::make(dir.path()));
    let (registry, blob) = holding(scale.blob()).await;
    let nginx = Peer::nginx(dir.path(), registry.address).await;
    std::fs::write(dir.path().join("www/blob"), &blob.bytes).expect("scratch file");
    let edge = Plan::new(registry.address).tls(&certificate).start().await;
    edge.warm(&certificate, REPOSITORY, &blob.digest).await;

    let size = blob.bytes.len() as u64;
    let ours = Side { name: "pierhead", server: edge.server(), address: edge.registry, path: path(&blob) };
    let address = nginx.address("FILE_TLS_PORT");
    let theirs = Side { name: "nginx", server: nginx.server(), address, path: "/blob".to_owned() };
    let figures = downloads(scale, protocol, &certificate, size, [&ours, &theirs], speed, cpu).await;
    Findings {
        figures,
        notes: notes(scale, size),
        settings: vec![("pierhead".into(), edge.settings()), ("nginx".into(), nginx.settings.clone())],
    }
}

/// What must be known to read the figures of [`downloads`].
pub(crate) fn notes(scale: Scale, size: u64) -> Vec<String> {
    vec![
        format!("{} transfers of {} MiB on one connection a turn, TLS 1.3, {CIPHER}, certificate ECDSA P-256", times(scale), size >> 20),
        "where the client's CPU per GB is above the server's, the client limits the throughput, not the server; the lean client is there for that".into(),
    ]
}

fn times(scale: Scale) -> usize {
    scale.pick(8, 4)
}

/// Downloads the same from both sides in turn, the first of which is ours.
pub(crate) async fn downloads(
    scale: Scale,
    protocol: Protocol,
    certificate: &Arc<Certificate>,
    size: u64,
    [ours, theirs]: [&Side; 2],
    speed: Target,
    cpu: Target,
) -> Vec<Figure> {
    let work = Work { protocol, certificate, times: times(scale), size };
    let mut figures = Vec::new();
    let usual = if protocol == Protocol::Http1 { "curl" } else { "h2load" };
    for (kind, client) in [(Kind::Usual, usual), (Kind::Lean, "lean client")] {
        for side in [ours, theirs] {
            Work { times: 1, ..work }.turn(kind, side).await;
        }
        let (mut pierhead, mut peer) = (Vec::new(), Vec::new());
        for _ in 0..scale.runs {
            pierhead.push(work.turn(kind, ours).await);
            peer.push(work.turn(kind, theirs).await);
        }
        let figure = |name: &str, unit: &'static str, of: fn(&Turn) -> f64, target: Option<Target>| {
            let series = |label: &str, turns: &[Turn]| Series::new(label, unit, turns.iter().map(of).collect());
            Figure::ratio(format!("{client}: {name}"), series(ours.name, &pierhead), series(theirs.name, &peer), target)
        };
        figures.extend([
            figure("throughput", "GB/s", |turn| turn.speed, Some(speed)),
            figure("server CPU", "s/GB", |turn| turn.server, Some(cpu)),
            figure("client CPU, for comparison", "s/GB", |turn| turn.client, None),
        ]);
    }
    figures
}

impl Work<'_> {
    async fn turn(&self, kind: Kind, side: &Side) -> Turn {
        let url = format!("https://{}{}", side.address, side.path);
        let own = Server(std::process::id());
        let client = || if kind == Kind::Usual { ended_children() } else { own.threads() };
        let (server_before, client_before, begun) = (side.server.cpu(), client(), Instant::now());
        match (kind, self.protocol) {
            (Kind::Usual, Protocol::Http1) => {
                curl::download(&url, &self.certificate.cert, self.times, self.size).await;
            }
            (Kind::Usual, Protocol::Http2) => h2load::download(&url, self.times, self.size).await,
            (Kind::Lean, protocol) => {
                let (address, path, times, size) = (side.address, side.path.clone(), self.times, self.size);
                let certificate = Arc::clone(self.certificate);
                let work = move || lean::download(address, &path, times, size, &certificate, protocol);
                tokio::task::spawn_blocking(work).await.expect("the lean client gets every blob");
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        let gigabytes = self.times as f64 * self.size as f64 / 1e9;
        Turn {
            speed: gigabytes / seconds,
            server: (side.server.cpu() - server_before) / gigabytes,
            client: (client() - client_before) / gigabytes,
        }
    }
}

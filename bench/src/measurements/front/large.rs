//! Large answers, forwarded: what a byte costs.

use std::sync::Arc;

use pierhead_tests::image::Blob;
use tempfile::TempDir;

use crate::certificate::Certificate;
use crate::edge::Plan;
use crate::options::Scale;
use crate::peers::Peer;
use crate::report::{Findings, Target};
use crate::throughput::{Protocol, Side, downloads, notes};

/// What is measured.
pub(crate) const ABOUT: &str =
    "256 MiB from nginx, forwarded over TLS 1.3, HTTP/1.1, one client: throughput and server CPU against haproxy";

/// Measures it.
pub(crate) async fn measure(scale: Scale) -> Findings {
    let dir = TempDir::with_prefix("pierhead-bench-").expect("scratch directory");
    let certificate = Arc::new(Certificate::make(dir.path()));
    let nginx = Peer::nginx(dir.path(), ([127, 0, 0, 1], 9).into()).await;
    let blob = Blob::random(42, scale.blob());
    std::fs::write(dir.path().join("www/blob"), &blob.bytes).expect("scratch file");
    let servers = [nginx.address("FILE_PORT")];
    let haproxy = Peer::haproxy_front(dir.path(), &servers).await;
    let edge = Plan::front(&servers).tls(&certificate).start().await;

    let size = blob.bytes.len() as u64;
    let path = || "/blob".to_owned();
    let ours = Side { name: "pierhead", server: edge.server(), address: edge.registry, path: path() };
    let address = haproxy.address("PROXY_TLS_PORT");
    let theirs = Side { name: "haproxy", server: haproxy.server(), address, path: path() };
    let (speed, cpu) = (Target::AtLeast(1.15), Target::AtMost(0.85));
    Findings {
        figures: downloads(scale, Protocol::Http1, &certificate, size, [&ours, &theirs], speed, cpu).await,
        notes: notes(scale, size),
        settings: vec![("pierhead".into(), edge.settings()), ("haproxy".into(), haproxy.settings.clone())],
    }
}

//! Real parts for the integration tests: the edge and the origin themselves, docker-registry, PostgreSQL, redis, nginx,
//! haproxy, podman, skopeo, containerd, and the few fakes whose misbehaviour no real server offers.
//!
//! Everything listens on a free port of the loopback and lives in a scratch directory, so tests run at once and
//! leave nothing behind. Nothing here sleeps for a fixed time: what is waited for is polled, with a deadline.

pub mod ceph;
pub mod clients;
pub mod differential;
pub mod dns;
pub mod docker;
pub mod hostile;
pub mod http;
pub mod image;
pub mod launch;
pub mod libraries;
pub mod misbehaving;
pub mod origin;
pub mod pierhead;
pub mod postgres;
pub mod process;
pub mod pull;
pub mod raw;
pub mod registry;
pub mod s3;
pub mod server;
pub mod setup;
pub mod token;
pub mod wire;

use std::time::{Duration, Instant};

/// Polls until `probe` gives something; panics, naming what was waited for, when the time is over.
pub async fn eventually<T>(what: &str, within: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

//! Slow readers over TLS: each on a connection of its own, each taking a little at a time, so that all downloads are in
//! progress at once for as long as that is wanted.
//!
//! Invariant: readers that are counted as in progress have received bytes, have more to come, and no error.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::certificate::Certificate;
use crate::throughput::Protocol;

/// Bytes a second that each takes.
pub(crate) const RATE: u64 = 64 << 10;
/// What an HTTP/2 client lets the server send ahead on a stream, as Go's does.
const WINDOW: u32 = 4 << 20;

/// Readers at work. Dropping them ends their downloads.
pub(crate) struct Readers {
    received: Vec<Arc<AtomicU64>>,
    tasks: JoinSet<Result<(), reqwest::Error>>,
    size: u64,
}

impl Readers {
    /// Starts `count` downloads of a path, whose body has `size` bytes.
    pub(crate) fn start(
        count: usize,
        server: SocketAddr,
        path: &str,
        size: u64,
        certificate: &Certificate,
        protocol: Protocol,
    ) -> Readers {
        let mut tasks = JoinSet::new();
        let received: Vec<Arc<AtomicU64>> = (0..count).map(|_| Arc::default()).collect();
        for count in &received {
            // A client each, so that HTTP/2 does not put them all on one connection.
            let client = match protocol {
                Protocol::Http1 => certificate.client().http1_only(),
                Protocol::Http2 => certificate
                    .client()
                    .http2_prior_knowledge()
                    .http2_initial_stream_window_size(WINDOW)
                    .http2_initial_connection_window_size(WINDOW),
            };
            let client = client.build().expect("client");
            tasks.spawn(read(client, format!("https://{server}{path}"), Arc::clone(count)));
        }
        Readers { received, tasks, size }
    }

    /// How many are in progress; panics when one has ended.
    pub(crate) fn in_progress(&mut self) -> usize {
        if let Some(ended) = self.tasks.try_join_next() {
            panic!("a download ended early: {ended:?}");
        }
        let counts = self.received.iter().map(|count| count.load(Ordering::Relaxed));
        counts.filter(|received| (1..self.size).contains(received)).count()
    }
}

async fn read(client: reqwest::Client, url: String, received: Arc<AtomicU64>) -> Result<(), reqwest::Error> {
    let mut response = client.get(url).send().await?.error_for_status()?;
    let begun = Instant::now();
    let mut total = 0;
    while let Some(piece) = response.chunk().await? {
        total += piece.len() as u64;
        received.store(total, Ordering::Relaxed);
        tokio::time::sleep_until(begun + Duration::from_millis(total * 1000 / RATE)).await;
    }
    Ok(())
}

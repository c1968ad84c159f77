//! The registry behind everything: Debian's docker-registry, and a line in front of it that can be made narrow.

use std::net::SocketAddr;

use pierhead_tests::image::Blob;
use pierhead_tests::registry::DockerRegistry;
use pierhead_tests::wire::Wire;
use tokio::runtime::Runtime;

/// The repository that everything is in.
pub(crate) const REPOSITORY: &str = "bench/image";

/// A registry that holds one blob.
pub(crate) async fn holding(size: usize) -> (DockerRegistry, Blob) {
    let blob = Blob::random(42, size);
    let registry = DockerRegistry::start().await;
    registry.client().push_blob(REPOSITORY, &blob.digest, blob.bytes.clone()).await;
    (registry, blob)
}

/// The path of a blob.
pub(crate) fn path(blob: &Blob) -> String {
    format!("/v2/{REPOSITORY}/blobs/{}", blob.digest)
}

/// A line with a thread of its own, so that the clients' work does not narrow it further.
pub(crate) struct Line {
    wire: Option<Wire>,
    runtime: Option<Runtime>,
}

impl Line {
    /// A line to `target` that carries `rate` bytes a second, all connections together.
    pub(crate) async fn to(target: SocketAddr, rate: u64) -> Line {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("thread");
        let wire = runtime.spawn(Wire::to(target)).await.expect("line");
        wire.limit(rate);
        Line { wire: Some(wire), runtime: Some(runtime) }
    }

    fn wire(&self) -> &Wire {
        self.wire.as_ref().expect("present until dropped")
    }

    /// Where it begins.
    pub(crate) fn address(&self) -> SocketAddr {
        self.wire().address
    }

    /// Bytes that came through it so far.
    pub(crate) fn carried(&self) -> u64 {
        self.wire().carried()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        drop(self.wire.take());
        if let Some(runtime) = self.runtime.take() {
            // A runtime must not be waited for inside another.
            runtime.shutdown_background();
        }
    }
}

//! A cached blob over HTTP/2.

use crate::options::Scale;
use crate::report::{Findings, Target};
use crate::throughput::{Protocol, compare};

/// What is measured.
pub(crate) const ABOUT: &str = "cached 256 MiB blob over TLS 1.3, HTTP/2, one client (h2load): throughput and server CPU against nginx serving the file";

/// Measures it.
pub(crate) async fn measure(scale: Scale) -> Findings {
    compare(scale, Protocol::Http2, Target::AtLeast(1.1), Target::AtMost(0.9)).await
}

//! A cached blob over HTTP/1.1.

use crate::options::Scale;
use crate::report::{Findings, Target};
use crate::throughput::{Protocol, compare};

/// What is measured.
pub(crate) const ABOUT: &str = "cached 256 MiB blob over TLS 1.3, HTTP/1.1, one client (curl): throughput and server CPU against nginx serving the file";

/// Measures it.
pub(crate) async fn measure(scale: Scale) -> Findings {
    compare(scale, Protocol::Http1, Target::AtLeast(1.25), Target::AtMost(0.75)).await
}

//! A program of ours on its way up: nothing of what surrounds the tests reaches it, and it is there when its log says so.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::process::Command;

use crate::process::Process;

/// What would have it go other ways, or say other things.
const SURROUNDINGS: [&str; 7] =
    ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "RUST_LOG"];

/// Takes the surroundings away; what a test sets comes after.
pub fn alone(command: &mut Command) {
    for variable in SURROUNDINGS {
        command.env_remove(variable);
    }
}

/// Waits until a program is ready, and tells where it listens: for clients and for operators. `mark`: how many lines there
/// were before it was started.
pub(crate) async fn until_ready(process: &mut Process, mark: usize) -> (SocketAddr, SocketAddr) {
    let registry = process.expect_line("listening", mark, |line| listening_at(line, "registry")).await;
    let admin = process.expect_line("listening", mark, |line| listening_at(line, "admin")).await;
    process.expect_line("ready", mark, |line| says(line, "ready").then_some(())).await;
    (registry, admin)
}

/// The fields of a log line.
pub fn fields(line: &str) -> Option<Value> {
    let mut event: Value = serde_json::from_str(line).ok()?;
    Some(event.get_mut("fields")?.take())
}

/// Whether a log line has this message.
pub fn says(line: &str, message: &str) -> bool {
    fields(line).is_some_and(|fields| fields["message"] == message)
}

/// The address in the log line that says where a listener listens.
pub fn listening_at(line: &str, listener: &str) -> Option<SocketAddr> {
    let fields = fields(line).filter(|fields| fields["message"] == "listening" && fields["listener"] == listener)?;
    fields["address"].as_str()?.parse().ok()
}

//! `pierhead-bench`: the work that pierhead is for, measured beside the servers that do parts of it too.
//!
//! Invariant: every number printed was measured in this run, beside its peer, in turn. What could not be measured is
//! reported as failed, what falls short as missed.

mod certificate;
mod curl;
mod discard;
mod edge;
mod h2load;
mod lean;
mod lean_http1;
mod lean_http2;
mod machine;
mod measurements;
mod options;
mod origin;
mod peers;
mod procfs;
mod report;
mod slow;
mod statistics;
mod throughput;
mod upstream;
mod wrk;

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let options = match options::parse() {
        Ok(options) => options,
        Err(code) => return code,
    };
    if options.list {
        print!("{}", measurements::list());
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).expect("signals");
        tokio::select! {
            code = measurements::run(&options) => code,
            // What was started ends when it is dropped, which a signal by itself would not do.
            _ = terminate.recv() => ExitCode::FAILURE,
            _ = tokio::signal::ctrl_c() => ExitCode::FAILURE,
        }
    })
}

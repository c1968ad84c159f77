//! `pierhead-origin`, the small registry: parse, call, map to an exit code.

mod api;
mod app;
mod auth;
mod cli;
mod meta;
mod metrics;
mod outcome;
mod owner;
mod registry;
mod text;
mod tokens;
mod users;
mod workers;

use std::process::ExitCode;

use clap::Parser;

/// Gives memory back at once: what many pushes or a password's hash took is not held for the next.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    if let Err(problem) = pierhead_service::crypto::install() {
        eprintln!("{problem}");
        return ExitCode::FAILURE;
    }
    cli::Cli::parse().run()
}

//! `pierhead-origin`, the small registry: parse, call, map to an exit code.

mod api;
mod app;
mod auth;
mod cli;
mod meta;
mod metrics;
mod registry;
mod users;
mod workers;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Err(problem) = pierhead_service::crypto::install() {
        eprintln!("{problem}");
        return ExitCode::FAILURE;
    }
    cli::Cli::parse().run()
}

//! `pierhead`, the edge: parse, call, map to an exit code.

mod admin;
mod app;
mod cache;
mod cli;
mod client_config;
mod convert;
mod ctl;
mod edge;
mod front;
mod pool;

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

//! `pierhead`, the edge: parse, call, map to an exit code.

mod admin;
mod app;
mod cache;
mod cli;
mod client_config;
mod edge;
mod front;
mod logging;
mod pool;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything else makes a TLS configuration: Pingora would install ring. It can only fail when done twice.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    cli::Cli::parse().run()
}

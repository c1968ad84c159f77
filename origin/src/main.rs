//! `pierhead-origin`, the small registry: parse, call, map to an exit code.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[allow(dead_code, unused_imports, reason = "who uses it comes next")]
mod auth;
#[allow(dead_code, unused_imports, reason = "who uses it comes next")]
mod meta;

fn main() {}

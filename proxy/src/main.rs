//! `pierhead`, the edge: parse, call, map to an exit code.
#![expect(dead_code, reason = "the rooms are being furnished")]

mod admin;
mod cache;

fn main() {}

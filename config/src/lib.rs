//! Configuration of pierhead: YAML in, a checked [`Config`] of an edge or [`OriginConfig`] of an origin out.
//!
//! [`Config::load`] and [`OriginConfig::load`] read a file whole and report every [`Problem`] at once, each with its path in
//! the YAML.
//! What it returns is valid; nobody checks it again. This crate alone knows YAML.

mod access;
mod admin;
mod cache;
mod claims;
mod credentials;
mod field;
mod globs;
mod health;
mod host;
mod likeness;
mod limits;
mod listener;
mod load;
mod model;
mod origin;
mod pool;
mod problem;
mod registry;
mod rights;
mod secret;
mod section;
mod server;
mod server_tls;
#[cfg(test)]
mod tests;
mod tls;
mod token_keys;
mod upstream;
mod variable;

pub use model::*;
pub use problem::{Problem, Problems};
pub use rights::denied;
pub use secret::Secret;

//! Configuration of pierhead: YAML in, a checked [`Config`] out.
//!
//! [`Config::load`] reads a file whole and reports every [`Problem`] at once, each with its path in the YAML.
//! What it returns is valid; nobody checks it again. This crate alone knows YAML.

mod access;
mod cache;
mod claims;
mod field;
mod host;
mod listener;
mod load;
mod model;
mod problem;
mod registry;
mod secret;
mod section;
#[cfg(test)]
mod tests;
mod upstream;
mod variable;

pub use model::*;
pub use problem::{Problem, Problems};
pub use secret::Secret;

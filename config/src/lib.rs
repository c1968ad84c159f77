//! Configuration of pierhead: YAML in, a checked [`Config`] out.

mod model;
mod secret;

pub use model::*;
pub use secret::Secret;

//! What operators see and ask for: health, metrics, the API.

mod api;
pub(crate) mod control;
mod host;
pub(crate) mod metrics;
mod server;
pub(crate) mod sessions;

pub(crate) use api::{Operated, UNKNOWN_REGISTRY, shape};
pub(crate) use server::Admin;

//! What operators see: health, metrics and, later, the API and the dashboard.

pub(crate) mod control;
pub(crate) mod health;
pub(crate) mod metrics;
mod server;

pub(crate) use server::Admin;

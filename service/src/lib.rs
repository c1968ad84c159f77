//! What the edge and the origin do alike at their rim.
//!
//! - [`logging`]: logs and access log on standard error, never in anybody's way.
//! - [`crypto`]: the one provider of cryptography.
//! - [`health`]: reports in the shapes of Quay's health endpoints.

pub mod crypto;
pub mod health;
pub mod logging;

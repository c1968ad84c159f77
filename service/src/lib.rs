//! What the edge and the origin do alike at their rim.
//!
//! - [`logging`]: logs and access log on standard error, never in anybody's way.
//! - [`range`], [`conditional`]: which bytes a request wants, and whether it wants them at all.
//! - [`crypto`]: the one provider of cryptography.
//! - [`health`]: reports in the shapes of Quay's health endpoints.

pub mod conditional;
pub mod crypto;
pub mod health;
pub mod logging;
pub mod range;

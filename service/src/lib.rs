//! What the edge and the origin do alike at their rim.
//!
//! - [`logging`]: logs and access log on standard error, never in anybody's way.
//! - [`range`], [`conditional`]: which bytes a request wants, and whether it wants them at all.
//! - [`crypto`]: the one provider of cryptography.
//! - [`health`]: reports in the shapes of Quay's health endpoints.
//! - [`network`]: what an address counts as.
//! - [`shares`]: fair shares of what is scarce.
//! - [`told`]: what proxies in front tell of a request's way.
//! - [`supervisor`]: what systemd is told. [`signals`]: what a program is told.
//! - [`output`]: what a command answers.
//! - [`descriptors`]: as many open files as clients need.

pub mod conditional;
pub mod crypto;
pub mod descriptors;
pub mod health;
pub mod logging;
pub mod network;
pub mod output;
pub mod range;
pub mod shares;
pub mod signals;
pub mod supervisor;
pub mod told;

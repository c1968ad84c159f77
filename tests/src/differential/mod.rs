//! Through the edge may never be worse than direct: a differential test over generated upstreams.
//!
//! A seed becomes a [`behaviour`](behaviour::Behaviour): an upstream with its deviations, and a script of operations. The
//! script is run against two such upstreams, by one client directly and by another through an edge. [`judge`] compares
//! the outcomes one by one, and the number of requests that each upstream has got.
//!
//! Upstream and client share no code with the edge: what one of them misreads, the other would misread too.

pub mod behaviour;
pub mod challenge;
pub mod client;
pub mod content;
pub mod generate;
pub mod judge;
pub mod operations;
pub mod outcome;
pub mod run;
pub mod tokens;
pub mod upstream;

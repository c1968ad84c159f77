//! The edge, pulled through by real clients from real registries, and from upstreams that misbehave.

mod harness;

//! The edge, pulled through by real clients from real registries, and from upstreams that misbehave.

mod access;
mod convert;
mod fills;
mod forwarding;
mod front;
mod hardness;
mod harness;
mod layer4;
mod lies;
mod lifecycle;
mod manifests;
mod naming;
mod neighbours;
mod operators;
mod origin;
mod pools;
mod pulls;
mod ranges;
mod reload;
mod seen;
mod smuggling;
mod store;
mod systemd;
mod tags;
mod tls;
mod upgrade;

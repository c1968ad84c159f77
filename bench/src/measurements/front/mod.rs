//! The front door: pierhead beside haproxy, both before the same servers.

mod death;
mod handshakes;
mod large;
mod push;
mod small;

pub(crate) use self::death::{ABOUT as DEATH, measure as death};
pub(crate) use self::handshakes::{ABOUT as HANDSHAKES, measure as handshakes};
pub(crate) use self::large::{ABOUT as LARGE, measure as large};
pub(crate) use self::push::{ABOUT as PUSH, measure as push};
pub(crate) use self::small::{ABOUT as SMALL, measure as small};

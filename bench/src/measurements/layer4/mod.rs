//! Layer 4: pierhead beside haproxy, both passing bytes on to the same server.

mod bulk;
mod redis;

pub(crate) use self::bulk::{ABOUT as BULK, measure as bulk};
pub(crate) use self::redis::{ABOUT as REDIS, measure as redis};

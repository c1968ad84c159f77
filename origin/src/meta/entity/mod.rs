//! The tables as SeaORM sees them. `../migration` creates them and says what holds between them.
//!
//! Times are milliseconds since the epoch. What a column can be is a type here, so that a row with anything else is an error where
//! it is read, and nowhere later.

#![allow(unreachable_pub, reason = "SeaORM's macros make public items, and want its prelude")]

pub(super) mod accounts;
pub(super) mod content;
pub(super) mod repositories;
pub(super) mod service;

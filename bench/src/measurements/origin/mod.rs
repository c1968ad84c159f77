//! The origin beside docker-registry: pushes, pulls, manifests, memory, lists.

mod attacked;
mod lists;
mod transfers;
mod work;

pub(crate) use attacked::{ABOUT as ATTACKED, measure as attacked};
pub(crate) use lists::{ABOUT as LISTS, measure as lists};
pub(crate) use transfers::{ABOUT as TRANSFERS, measure as transfers};

//! `limits`, rates, and networks.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::field::{Field, LONGEST, SHORTEST};
use crate::globs::globs;
use crate::model::{Limits, LowestRate, Rate};
use crate::section::Section;

/// More connections than a machine has ports for one address.
pub(crate) const CONNECTIONS_LIMIT: u64 = 1_000_000;
/// More requests a second than any machine answers.
const RATE_LIMIT: u64 = 1_000_000;

/// A lowest rate, in bytes a second, that few clients reach.
const FASTEST: u64 = 1 << 30;

/// What clients may take.
pub(crate) fn limits(field: Field<'_>) -> Option<Limits> {
    let mut section = field.section()?;
    let max_connections = connections(&mut section, "max_connections");
    let max_connections_per_client = connections(&mut section, "max_connections_per_client");
    let requests_per_client = section.optional("requests_per_client", rate);
    let lowest_rate = section.optional("lowest_rate", lowest_rate);
    let exempt_networks = networks(&mut section, "exempt_networks");
    let exempt_repositories = globs(&mut section, "exempt_repositories");
    section.finish();
    Some(Limits {
        max_connections,
        max_connections_per_client,
        requests_per_client: requests_per_client?,
        lowest_rate: lowest_rate?.unwrap_or_default(),
        exempt_networks: exempt_networks?,
        exempt_repositories,
    })
}

/// A number of connections, where there is one.
pub(crate) fn connections(section: &mut Section<'_>, key: &'static str) -> Option<usize> {
    let field = section.take(key)?;
    usize::try_from(field.number(1..=CONNECTIONS_LIMIT)?).ok()
}

/// `{ bytes_per_second, grace }`
pub(crate) fn lowest_rate(field: Field<'_>) -> Option<LowestRate> {
    let mut section = field.section()?;
    let default = LowestRate::DEFAULT;
    let bytes_per_second = section.size("bytes_per_second", default.bytes_per_second, 0..=FASTEST);
    let grace = section.duration("grace", default.grace, SHORTEST..=LONGEST);
    section.finish();
    Some(LowestRate { bytes_per_second, grace })
}

/// `{ per_second, burst }`
pub(crate) fn rate(field: Field<'_>) -> Option<Rate> {
    let mut section = field.section()?;
    let per_second = section.required("per_second").and_then(|field| field.number(1..=RATE_LIMIT));
    let burst = section.number("burst", per_second.unwrap_or_default(), 0..=RATE_LIMIT);
    section.finish();
    Some(Rate { per_second: u32::try_from(per_second?).ok()?, burst: u32::try_from(burst).ok()? })
}

/// A list of networks; empty where the key is not there.
pub(crate) fn networks(section: &mut Section<'_>, key: &'static str) -> Option<Vec<IpNet>> {
    match section.take(key) {
        Some(field) => field.list(|entry| network(&entry)),
        None => Some(Vec::new()),
    }
}

/// `10.0.0.0/8`, or one address.
fn network(field: &Field<'_>) -> Option<IpNet> {
    let expected = "a network such as `10.0.0.0/8` or `2001:db8::/32`, or an address";
    let text = field.text(expected)?;
    let network: Option<IpNet> = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let Some(network) = network else {
        field.problem(format!("expected {expected}"));
        return None;
    };
    if network != network.trunc() {
        field.problem(format!("has bits beyond its prefix; did you mean `{}`?", network.trunc()));
        return None;
    }
    Some(network)
}

//! Questions to DNS, and what the answers come to.
//!
//! Invariants: a question ends in bounded time; an answer names a bounded number of servers; where one family of addresses,
//! or one target, could not be asked for, what was known of it stands in.
//!
//! Nothing is cached here: who asks knows how long an answer lasts.

use std::net::{IpAddr, SocketAddr};

use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use pierhead_config::DnsTiming;
use tokio::time::{Duration, timeout};

use super::members::{Found, Question};

/// How long one try of one name server may take.
const TRY: Duration = Duration::from_secs(2);

/// How long a whole question may take.
const WHOLE: Duration = Duration::from_secs(10);

/// How many targets of one service are asked for.
const TARGETS: usize = 256;

/// What DNS said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer<T> {
    /// Something, for so long.
    Given(Vec<T>, Duration),
    /// That there is nothing, or nothing at all; the text says which.
    None(String),
}

/// Asks. `before` is the last good answer.
pub(super) async fn ask(resolver: &TokioResolver, question: &Question, before: &[Found]) -> Answer<Found> {
    let asking = async {
        match question {
            Question::Host(name, port) | Question::Addresses(name, port) => {
                let known: Vec<IpAddr> = before.iter().map(|found| found.address.ip()).collect();
                match addresses(resolver, name, &known).await {
                    Answer::Given(found, ttl) => Answer::Given(servers(name, *port, &found), ttl),
                    Answer::None(reason) => Answer::None(reason),
                }
            }
            Question::Srv(name) => services(resolver, name, before).await,
        }
    };
    timeout(WHOLE, asking).await.unwrap_or_else(|_| Answer::None("no answer in time".to_owned()))
}

/// Somebody to ask. With the system's name servers, they are those of this moment.
pub(super) fn resolver(dns: &DnsTiming) -> Result<TokioResolver, NetError> {
    let mut builder = if dns.servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = dns.servers.iter().map(|address| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = address.port();
                connection
            });
            NameServerConfig::new(address.ip(), true, connections.to_vec())
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options: &mut ResolverOpts = builder.options_mut();
    options.cache_size = 0;
    options.timeout = TRY;
    options.attempts = 2;
    builder.build()
}

/// One record of a kind that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard<T> {
    /// Something, for so long.
    Given(Vec<T>, Duration),
    /// There is no such record.
    Empty(String),
    /// Nobody could say.
    Failed(String),
}

async fn lookup<T>(
    resolver: &TokioResolver,
    name: &str,
    kind: RecordType,
    pick: impl Fn(&RData) -> Option<T>,
) -> Heard<T> {
    match resolver.lookup(name, kind).await {
        Ok(lookup) => {
            let records = lookup.answers().iter().filter_map(|record| Some((record.ttl, pick(&record.data)?)));
            let (ttls, found): (Vec<u32>, Vec<T>) = records.unzip();
            match ttls.into_iter().min() {
                Some(ttl) => Heard::Given(found, Duration::from_secs(ttl.into())),
                None => Heard::Empty(format!("{name}: no {kind} record")),
            }
        }
        Err(error) if error.is_nx_domain() => Heard::Empty(format!("{name}: no such name")),
        Err(error) if error.is_no_records_found() => Heard::Empty(format!("{name}: no {kind} record")),
        Err(error) => Heard::Failed(format!("{name}: {error}")),
    }
}

async fn addresses(resolver: &TokioResolver, name: &str, before: &[IpAddr]) -> Answer<IpAddr> {
    let (v4, v6) = tokio::join!(
        lookup(resolver, name, RecordType::A, |data| match data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            _ => None,
        }),
        lookup(resolver, name, RecordType::AAAA, |data| match data {
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        }),
    );
    both(v4, v6, before)
}

/// Both families together. Pure.
fn both(v4: Heard<IpAddr>, v6: Heard<IpAddr>, before: &[IpAddr]) -> Answer<IpAddr> {
    let mut found = Vec::new();
    let mut lasts: Option<Duration> = None;
    let mut failure = String::new();
    for (heard, is_v4) in [(v4, true), (v6, false)] {
        match heard {
            Heard::Given(addresses, ttl) => {
                found.extend(addresses);
                lasts = Some(lasts.map_or(ttl, |other| other.min(ttl)));
            }
            Heard::Empty(reason) if failure.is_empty() => failure = reason,
            Heard::Empty(_) => {}
            Heard::Failed(reason) => {
                found.extend(before.iter().filter(|address| address.is_ipv4() == is_v4));
                failure = reason;
            }
        }
    }
    match lasts {
        Some(ttl) => Answer::Given(found, ttl),
        None => Answer::None(failure),
    }
}

fn servers(name: &str, port: u16, addresses: &[IpAddr]) -> Vec<Found> {
    let found =
        |ip: &IpAddr| Found { address: SocketAddr::new(*ip, port), host: name.to_owned(), weight: 1, backup: false };
    addresses.iter().map(found).collect()
}

/// A target of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    priority: u16,
    weight: u16,
    port: u16,
    host: String,
}

async fn services(resolver: &TokioResolver, name: &str, before: &[Found]) -> Answer<Found> {
    let heard = lookup(resolver, name, RecordType::SRV, |data| match data {
        // A service that is decidedly not offered has the target ".".
        RData::SRV(service) if !service.target.is_root() => Some(Target {
            priority: service.priority,
            weight: service.weight,
            port: service.port,
            host: service.target.to_ascii().trim_end_matches('.').to_owned(),
        }),
        _ => None,
    });
    let (mut targets, mut lasts) = match heard.await {
        Heard::Given(targets, ttl) => (targets, ttl),
        Heard::Empty(reason) | Heard::Failed(reason) => return Answer::None(reason),
    };
    targets.sort();
    targets.truncate(TARGETS);
    let asked = targets.iter().map(async |target| {
        let before = known(before, target);
        match addresses(resolver, &format!("{}.", target.host), before.as_slice()).await {
            Answer::Given(found, ttl) => (found.first().copied(), Some(ttl)),
            Answer::None(_) => (before, None),
        }
    });
    let mut places = Vec::with_capacity(targets.len());
    for (place, ttl) in join_all(asked).await {
        places.push(place);
        lasts = ttl.map_or(lasts, |ttl| ttl.min(lasts));
    }
    match ranked(&targets, &places) {
        found if found.is_empty() => Answer::None(format!("{name}: none of its targets has an address")),
        found => Answer::Given(found, lasts),
    }
}

/// Where a target was.
fn known(before: &[Found], target: &Target) -> Option<IpAddr> {
    let same = |found: &&Found| found.host == target.host && found.address.port() == target.port;
    before.iter().find(same).map(|found| found.address.ip())
}

/// The targets that have an address. Those of the best priority are who is asked, the others their backups; pure.
fn ranked(targets: &[Target], places: &[Option<IpAddr>]) -> Vec<Found> {
    let best = targets.iter().map(|target| target.priority).min();
    let placed = targets.iter().zip(places).filter_map(|(target, place)| Some((target, (*place)?)));
    placed
        .map(|(target, ip)| Found {
            address: SocketAddr::new(ip, target.port),
            host: target.host.clone(),
            // A weight of 0 is to have little, not nothing (RFC 2782).
            weight: u32::from(target.weight.max(1)),
            backup: Some(target.priority) != best,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn given(addresses: &[&str], seconds: u64) -> Heard<IpAddr> {
        Heard::Given(addresses.iter().map(|text| ip(text)).collect(), Duration::from_secs(seconds))
    }

    #[test]
    fn a_family_that_cannot_be_asked_for_stays_as_it_was() {
        let empty = || Heard::Empty("no such name".to_owned());
        let failed = || Heard::Failed("refused".to_owned());
        let before = [ip("192.0.2.9"), ip("2001:db8::9")];
        let all = |addresses: &[&str], seconds| {
            Answer::Given(addresses.iter().map(|text| ip(text)).collect(), Duration::from_secs(seconds))
        };
        let none = |reason: &str| Answer::None(reason.to_owned());
        for (v4, v6, expected) in [
            (given(&["192.0.2.1"], 9), given(&["2001:db8::1"], 5), all(&["192.0.2.1", "2001:db8::1"], 5)),
            (given(&["192.0.2.1"], 9), empty(), all(&["192.0.2.1"], 9)),
            (given(&["192.0.2.1"], 9), failed(), all(&["192.0.2.1", "2001:db8::9"], 9)),
            (failed(), given(&["2001:db8::1"], 5), all(&["192.0.2.9", "2001:db8::1"], 5)),
            (empty(), empty(), none("no such name")),
            (empty(), failed(), none("refused")),
            (failed(), empty(), none("refused")),
        ] {
            assert_eq!(both(v4.clone(), v6.clone(), &before), expected, "{v4:?} {v6:?}");
        }
    }

    #[test]
    fn the_best_priority_is_asked_and_the_others_are_backups() {
        let target = |priority, weight, host: &str| Target { priority, weight, port: 443, host: host.to_owned() };
        let targets = [target(20, 5, "c"), target(10, 0, "a"), target(10, 60, "b"), target(10, 1, "gone")];
        let places = [Some(ip("192.0.2.3")), Some(ip("192.0.2.1")), Some(ip("192.0.2.2")), None];
        let found = ranked(&targets, &places);
        let seen: Vec<_> = found.iter().map(|one| (one.host.as_str(), one.weight, one.backup)).collect();
        assert_eq!(seen, [("c", 5, true), ("a", 1, false), ("b", 60, false)]);
        assert_eq!(found[0].address, "192.0.2.3:443".parse().unwrap());
        assert_eq!(known(&found, &targets[0]), Some(ip("192.0.2.3")));
        assert_eq!(known(&found, &targets[3]), None);
    }
}

//! `pools[]`: servers that do the same, and how they are chosen and reached.

use std::time::Duration;

use crate::claims::Claims;
use crate::field::{Field, LONGEST, SHORTEST};
use crate::health::{health, passive};
use crate::listener::plain_name;
use crate::model::{Address, Balance, HashBy, OnDown, Pool, ProxyVersion, Server};
use crate::section::Section;
use crate::server::{Surroundings, discovery, dns, servers};
use crate::server_tls::server_tls;

/// The last PUT of a large layer may take that long without a byte.
const FIRST_BYTE: Duration = Duration::from_secs(2000);
/// Servers close idle connections after 5 s and more: what is kept longer may be closed as it is used.
const KEEP_ALIVE: Duration = Duration::from_secs(4);
/// More who wait are better told to come again.
const QUEUE_LIMIT: u64 = 1_000_000;

/// One pool.
pub(crate) fn pool(field: Field<'_>, claims: &mut Claims) -> Option<Pool> {
    let mut section = field.section()?;
    let name = section.required("name").and_then(|field| {
        let name = plain_name(&field)?;
        claims.pool(&name, &field);
        Some(name)
    });
    let (checked, discovered) = (section.peek("health").is_some(), section.peek("discovery").is_some());
    let discovery = section.optional("discovery", |field| discovery(field, checked));
    let servers = section.optional("servers", |field| servers(&field, Surroundings { checked, discovered }));
    if servers == Some(None) && !discovered {
        section.problem("needs `servers` or a `discovery`");
    }
    let dns = dns(&mut section);
    let named = |servers: &Vec<Server>| servers.iter().any(|server| matches!(server.address, Address::Name { .. }));
    if !discovered && !servers.iter().flatten().any(named) {
        section.meaningless(&["dns"], "has a meaning only with a `discovery`, or with servers that have host names");
    }
    let tls = section.optional("tls", server_tls);
    let balance = balance(&mut section);
    let health = section.optional("health", |field| health(field, tls.as_ref().and_then(Option::as_ref)));
    let passive = passive(section.take("passive"));
    let anything = Duration::ZERO..=LONGEST;
    let timeouts = SHORTEST..=LONGEST;
    let slow_start = section.duration("slow_start", Duration::ZERO, anything.clone());
    let queue_size = section.number("queue_size", 1000, 0..=QUEUE_LIMIT);
    let queue_timeout = section.duration("queue_timeout", Duration::from_secs(5), anything);
    let connect_timeout = section.duration("connect_timeout", Duration::from_secs(5), timeouts.clone());
    let first_byte_timeout = match section.take("first_byte_timeout") {
        Some(field) if field.is_text("never") => None,
        Some(field) => field.duration(timeouts.clone()),
        None => Some(FIRST_BYTE),
    };
    let idle_timeout = section.duration("idle_timeout", Duration::from_secs(60), timeouts);
    let keep_alive = section.duration("keep_alive", KEEP_ALIVE, Duration::ZERO..=KEEP_ALIVE);
    let retries = section.number("retries", 3, 0..=100);
    let versions = [("v1", Some(ProxyVersion::V1)), ("v2", Some(ProxyVersion::V2))];
    let send_proxy = section.choice("send_proxy", None, &versions);
    let on_down = section.choice("on_down", OnDown::Keep, &[("keep", OnDown::Keep), ("close", OnDown::Close)]);
    section.finish();
    Some(Pool {
        name: name?,
        servers: servers?.unwrap_or_default(),
        discovery: discovery?,
        dns: dns?,
        tls: tls?,
        balance: balance?,
        health: health?,
        passive: passive?,
        slow_start,
        queue_size: usize::try_from(queue_size).ok()?,
        queue_timeout,
        connect_timeout,
        first_byte_timeout,
        idle_timeout,
        keep_alive,
        retries: u32::try_from(retries).ok()?,
        send_proxy,
        on_down,
    })
}

fn balance(section: &mut Section<'_>) -> Option<Balance> {
    let choices = [
        ("round_robin", Balance::RoundRobin),
        ("least_connections", Balance::LeastConnections),
        ("random", Balance::Random),
        ("hash", Balance::Hash(HashBy::Client)),
    ];
    let balance = section.take("balance").map_or(Some(Balance::RoundRobin), |field| field.choice(&choices));
    let by = section.choice("hash_by", HashBy::Client, &[("client", HashBy::Client), ("digest", HashBy::Digest)]);
    match balance? {
        Balance::Hash(_) => Some(Balance::Hash(by)),
        other => {
            section.meaningless(&["hash_by"], "has a meaning only with `balance: hash`");
            Some(other)
        }
    }
}

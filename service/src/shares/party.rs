//! What a unit is charged to: an account and a network.
//!
//! Invariant: the account is proven. A name that a client merely claims would let it use up another account's share.

use std::net::IpAddr;
use std::sync::Arc;

use crate::network::network;

/// A client, as shares count it. The default is charged to nothing: a trusted proxy, or an exempt network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Party {
    own: Option<Key>,
    network: Option<Key>,
}

/// One line of the books.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// An account, with all of its robots.
    Account(Arc<str>),
    /// All clients of a network without a proven account.
    Anonymous(IpAddr),
    /// All clients of an IPv4 address or an IPv6 /64.
    Network(IpAddr),
}

impl Party {
    /// Charged to nothing.
    pub const NOBODY: Party = Party { own: None, network: None };

    /// A client at an address. `account`: proven by a password or a signature; a robot `owner+name` counts as its owner.
    pub fn new(address: IpAddr, account: Option<&str>) -> Party {
        let network = network(address);
        let own = owner(account).unwrap_or(Key::Anonymous(network));
        Party { own: Some(own), network: Some(Key::Network(network)) }
    }

    /// A connection, of which no account is known. Nothing is charged to the clients of its network without one.
    pub fn of_network(address: IpAddr) -> Party {
        Party { own: None, network: Some(Key::Network(network(address))) }
    }

    /// A client behind a trusted proxy that does not tell the client's address.
    pub fn behind_proxy(account: Option<&str>) -> Party {
        Party { own: owner(account), network: None }
    }

    pub(super) fn own(&self) -> Option<&Key> {
        self.own.as_ref()
    }

    pub(super) fn network(&self) -> Option<&Key> {
        self.network.as_ref()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.own.iter().chain(&self.network)
    }

    /// The account's name, for the log.
    pub(super) fn account(&self) -> Option<&str> {
        match &self.own {
            Some(Key::Account(name)) => Some(name),
            _ => None,
        }
    }

    /// The network's address.
    pub fn address(&self) -> Option<IpAddr> {
        match self.network {
            Some(Key::Network(address)) => Some(address),
            _ => None,
        }
    }
}

fn owner(account: Option<&str>) -> Option<Key> {
    let owner = account?.split('+').next().filter(|name| !name.is_empty())?;
    Some(Key::Account(owner.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn robots_count_as_their_owner_and_addresses_as_their_network() {
        let party = |address: &str, account| Party::new(address.parse().unwrap(), account);
        for (one, other, own, network) in [
            (party("192.0.2.1", None), party("192.0.2.1", None), true, true),
            (party("192.0.2.1", None), party("::ffff:192.0.2.1", Some("")), true, true),
            (party("192.0.2.1", None), party("192.0.2.2", None), false, false),
            (party("192.0.2.1", Some("ann")), party("192.0.2.2", Some("ann+ci")), true, false),
            (party("192.0.2.1", Some("ann")), party("192.0.2.1", Some("bob+ann")), false, true),
            (party("2001:db8::1", None), party("2001:db8::ffff:1", None), true, true),
            (party("2001:db8::1", None), party("2001:db8:0:1::1", None), false, false),
        ] {
            assert_eq!(
                (one.own() == other.own(), one.network() == other.network()),
                (own, network),
                "{one:?} {other:?}"
            );
        }
    }
}

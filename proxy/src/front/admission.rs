//! Who may be connected: how many at once, how many of one client, and whose word on a client's address is taken.
//!
//! Invariants: what is counted is what is open, across reloads too: a new configuration brings new limits and keeps the
//! counts. Memory grows with open connections alone. A client beyond its own limit is closed at once, for waiting would
//! take the places of others; those beyond the limit of all wait, as those beyond a listener's do.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use parking_lot::Mutex;
use pierhead_config::Limits;
use pierhead_service::network::network;
use pierhead_service::shares::{Floor, Party};
use pierhead_service::told::contains;
use tokio::sync::Notify;

/// What counts as one client: an IPv4 address, or an IPv6 network of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Client(IpAddr);

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Client {
        Client(network(address))
    }
}

/// The rules of one configuration, and the counts that all share.
pub(crate) struct Admission {
    trusted: Vec<IpNet>,
    exempt: Vec<IpNet>,
    most: usize,
    most_per_client: usize,
    floor: Floor,
    open: Arc<Open>,
}

/// What is open, whatever configuration let it in.
#[derive(Default)]
struct Open {
    counts: Mutex<Counts>,
    freed: Notify,
}

#[derive(Default)]
struct Counts {
    all: usize,
    clients: HashMap<Client, usize>,
}

impl Admission {
    /// The rules of a configuration. The counts of the one before go on.
    pub(crate) fn new(trusted: &[IpNet], limits: &Limits, before: Option<&Admission>) -> Admission {
        Admission {
            trusted: trusted.to_vec(),
            exempt: limits.exempt_networks.clone(),
            most: limits.max_connections.unwrap_or(usize::MAX),
            most_per_client: limits.max_connections_per_client.unwrap_or(usize::MAX),
            floor: Floor { rate: limits.lowest_rate.bytes_per_second, grace: limits.lowest_rate.grace },
            open: before.map(|before| Arc::clone(&before.open)).unwrap_or_default(),
        }
    }

    /// Whether a peer is believed when it says whom it speaks for.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        contains(&self.trusted, peer)
    }

    /// What a connection is charged to among those of its listener. A trusted proxy brings many clients, and has no share.
    pub(crate) fn party(&self, client: IpAddr) -> Party {
        if self.trusts(client) || contains(&self.exempt, client) { Party::default() } else { Party::of_network(client) }
    }

    /// How slow a client may be while others wait.
    pub(crate) fn floor(&self) -> Floor {
        self.floor
    }

    /// A place among all connections, once there is one.
    pub(crate) async fn place(&self) -> Place {
        loop {
            // Made before the look: what is freed in between is not missed.
            let freed = self.open.freed.notified();
            {
                let mut counts = self.open.counts.lock();
                if counts.all < self.most {
                    counts.all += 1;
                    return Place { open: Arc::clone(&self.open) };
                }
            }
            freed.await;
        }
    }

    /// A place among the connections of one client, unless it has all that it may have.
    pub(crate) fn client_place(&self, client: IpAddr) -> Option<ClientPlace> {
        let exempt = self.most_per_client == usize::MAX || contains(&self.exempt, client);
        let client = Client::from(client);
        let mut counts = self.open.counts.lock();
        let count = counts.clients.entry(client).or_default();
        if *count >= self.most_per_client && !exempt {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(ClientPlace { open: Arc::clone(&self.open), client })
    }
}

/// A place among all connections, until it is dropped.
pub(crate) struct Place {
    open: Arc<Open>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.counts.lock().all -= 1;
        // All, for some may still not go on: the limit that they wait for may be lower.
        self.open.freed.notify_waiters();
    }
}

/// A place among those of one client, until it is dropped.
pub(crate) struct ClientPlace {
    open: Arc<Open>,
    client: Client,
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        let mut counts = self.open.counts.lock();
        if let Some(count) = counts.clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn admission(most: usize, most_per_client: usize, before: Option<&Admission>) -> Admission {
        let limits = Limits {
            max_connections: Some(most),
            max_connections_per_client: Some(most_per_client),
            exempt_networks: vec!["192.0.2.128/25".parse().unwrap()],
            ..Limits::default()
        };
        Admission::new(&["10.0.0.0/8".parse().unwrap()], &limits, before)
    }

    #[test]
    fn clients_are_addresses_or_networks() {
        let client = |text: &str| Client::from(text.parse::<IpAddr>().unwrap());
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            assert_eq!(client(one) == client(other), same, "{one} {other}");
        }
    }

    #[test]
    fn only_the_configured_are_trusted() {
        for (peer, trusted) in [("10.1.2.3", true), ("::ffff:10.1.2.3", true), ("11.0.0.1", false), ("::1", false)] {
            assert_eq!(admission(1, 1, None).trusts(peer.parse().unwrap()), trusted, "{peer}");
        }
    }

    #[test]
    fn a_client_has_its_own_limit() {
        let one = admission(10, 2, None);
        let (client, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let held = [one.client_place(client), one.client_place(client)];
        assert!(held.iter().all(Option::is_some));
        assert!(one.client_place(client).is_none());
        assert!(one.client_place(other).is_some());
        let exempt = "192.0.2.200".parse().unwrap();
        let many: Vec<_> = (0..5).map(|_| one.client_place(exempt)).collect();
        assert!(many.iter().all(Option::is_some));
        // A reload that allows less counts what is open already.
        let next = admission(10, 3, Some(&one));
        let third = next.client_place(client);
        assert!(third.is_some() && next.client_place(client).is_none());
        drop((held, third, many));
        assert!(one.open.counts.lock().clients.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn those_beyond_the_limit_of_all_wait() {
        let one = admission(1, 10, None);
        let first = one.place().await;
        assert!(timeout(Duration::from_secs(1), one.place()).await.is_err());
        let next = admission(2, 10, Some(&one));
        let second = next.place().await;
        let waiting = async {
            let third = one.place().await;
            drop(third);
        };
        let leave = async {
            drop(first);
            drop(second);
        };
        timeout(Duration::from_secs(1), async { tokio::join!(waiting, leave) }).await.unwrap();
        assert_eq!(one.open.counts.lock().all, 0);
    }
}

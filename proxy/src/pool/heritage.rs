//! What a process that takes over is told of the pools: what operators have said, what DNS said last, who is down.
//!
//! Invariants: nothing of it is needed: a process that is told nothing finds out for itself, a moment later. In that
//! moment, and for as long as DNS is away, it would send clients nowhere, or to a server that is down: to a Redis replica,
//! say, that was a primary once. What is told is believed no longer than until the first check, or the first answer.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::members::{Found, Question};
use super::orders::Order;
use super::view::ServerState;
use super::{Pool, Pools};

/// See the module. What one version does not know, the other does without.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Heritage {
    orders: Vec<Order>,
    answers: Vec<Answered>,
    down: Vec<Down>,
}

/// The last good answer of DNS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Answered {
    pool: String,
    question: Question,
    found: Vec<Found>,
}

/// A server that checks have found down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Down {
    pool: String,
    server: String,
    address: SocketAddr,
    reason: String,
}

impl Pools {
    /// All that is to be told.
    pub(crate) fn heritage(&self) -> Heritage {
        let (mut answers, mut down) = (Vec::new(), Vec::new());
        for pool in self.iter() {
            let name = &pool.settings.name;
            for (question, kept) in &pool.work.lock().answers {
                let (question, found) = (question.clone(), kept.found.clone());
                answers.push(Answered { pool: name.clone(), question, found });
            }
            for server in pool.view().servers.into_iter().filter(|server| server.state == ServerState::Down) {
                let (pool, server, address, reason) = (name.clone(), server.name, server.address, server.reason);
                down.push(Down { pool, server, address, reason });
            }
        }
        Heritage { orders: self.orders(), answers, down }
    }

    /// Goes on from what was told, as far as it is about these pools. To be called before they are started.
    pub(crate) fn inherit(&self, heritage: Heritage) {
        let Heritage { orders, answers, down } = heritage;
        for Answered { pool, question, found } in answers {
            if let Some(pool) = self.get(&pool) {
                pool.remember(question, found);
            }
        }
        self.obey(orders);
        for Down { pool, server, address, reason } in down {
            let servers = self.get(&pool).map(|pool| pool.servers()).unwrap_or_default();
            let same = servers.iter().find(|known| known.name() == server && known.address() == address);
            if let Some(server) = same {
                server.doubt(&reason);
            }
        }
    }
}

impl Pool {
    /// Takes over an answer of DNS to a question that this pool has.
    fn remember(self: &Arc<Pool>, question: Question, found: Vec<Found>) {
        if !super::members::questions(&self.settings).contains(&question) {
            return;
        }
        let mut work = self.work.lock();
        work.answers.entry(question).or_default().found = found;
        self.renew(&mut work);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pierhead_config::{Discovery, DnsRecord, Health, HealthCheck};

    use super::super::tests::{pools, server, settings, unstarted};
    use super::super::view::Operator;
    use super::*;

    fn told(heritage: &Heritage) -> Heritage {
        serde_json::from_slice(&serde_json::to_vec(heritage).unwrap()).unwrap()
    }

    fn seen(pools: &Pools) -> Vec<(String, ServerState, Operator)> {
        let servers = pools.get("quay").unwrap().view().servers;
        servers.into_iter().map(|server| (server.name, server.state, server.operator)).collect()
    }

    fn checked(mut settings: pierhead_config::Pool) -> pierhead_config::Pool {
        let long = Duration::from_secs(3600);
        settings.health = Some(Health {
            check: HealthCheck::Tcp,
            tls: None,
            port: None,
            interval: long,
            fast_interval: long,
            timeout: long,
            rise: 2,
            fall: 2,
            jitter: 0,
        });
        settings
    }

    #[tokio::test]
    async fn who_was_down_is_down_until_a_check_says_otherwise() {
        let of = |names: [&str; 2]| names.map(server).to_vec();
        let before = pools(checked(settings(of(["a", "b"])))).await;
        before.get("quay").unwrap().servers()[0].checked(Err("its role is slave".to_owned()), Duration::ZERO);
        before.get("quay").unwrap().operate("b", Operator::Drain);
        let heritage = told(&before.heritage());
        let expected =
            [("a".to_owned(), ServerState::Down, Operator::Ready), ("b".to_owned(), ServerState::Up, Operator::Drain)];
        let after = unstarted(checked(settings(of(["a", "b"]))));
        after.inherit(heritage.clone());
        assert_eq!(seen(&after), expected);
        after.start().await;
        assert_eq!(seen(&after), expected);
        assert_eq!(after.get("quay").unwrap().view().servers[0].reason, "its role is slave");
        // The first check counts whole, as if nothing had been told.
        after.get("quay").unwrap().servers()[0].checked(Ok(()), Duration::ZERO);
        assert_eq!(seen(&after)[0].1, ServerState::Up);
        // Nobody would ever check it again, or it is another one by now.
        let unchecked = unstarted(settings(of(["a", "b"])));
        unchecked.inherit(heritage.clone());
        assert_eq!(seen(&unchecked)[0].1, ServerState::Up);
        let mut moved = of(["a", "b"]);
        moved[0].address = moved[1].address.clone();
        let moved = unstarted(checked(settings(moved)));
        moved.inherit(heritage);
        assert_eq!(seen(&moved)[0].1, ServerState::Up);
    }

    #[tokio::test]
    async fn what_operators_said_outlives_an_answer_of_dns_without_the_server() {
        let mut settings = settings(Vec::new());
        let (name, record) = ("quay.test".to_owned(), DnsRecord::Address { port: 443 });
        settings.discovery = Some(Discovery { name, record, max_connections: None, checked_first: false });
        let pools = unstarted(settings);
        let answer = |last: &[u8]| {
            let one = |last: &u8| Found {
                address: ([192, 0, 2, *last], 443).into(),
                host: "quay.test".to_owned(),
                weight: 1,
                backup: false,
            };
            let question = Question::Addresses("quay.test".to_owned(), 443);
            pools.get("quay").unwrap().remember(question, last.iter().map(one).collect());
        };
        answer(&[1, 2]);
        assert!(pools.get("quay").unwrap().operate("192.0.2.1:443", Operator::Drain));
        answer(&[2]);
        answer(&[1, 2]);
        let found = seen(&pools).into_iter().find(|(name, ..)| name == "192.0.2.1:443");
        assert_eq!(found.unwrap().2, Operator::Drain);
    }

    #[tokio::test]
    async fn what_dns_said_is_remembered_while_it_is_away() {
        let discovered = |name: &str| {
            let mut settings = checked(settings(Vec::new()));
            let record = DnsRecord::Address { port: 443 };
            settings.discovery =
                Some(Discovery { name: name.to_owned(), record, max_connections: None, checked_first: false });
            // Nobody answers there.
            settings.dns.servers = vec!["127.0.0.1:1".parse().unwrap()];
            settings
        };
        let before = unstarted(discovered("quay.test"));
        let address = "192.0.2.1:443".parse().unwrap();
        let found = vec![Found { address, host: "quay.test".to_owned(), weight: 1, backup: false }];
        before.get("quay").unwrap().remember(Question::Addresses("quay.test".to_owned(), 443), found);
        before.get("quay").unwrap().servers()[0].checked(Err("gone".to_owned()), Duration::ZERO);
        let heritage = told(&before.heritage());
        let after = unstarted(discovered("quay.test"));
        after.inherit(heritage.clone());
        after.start().await;
        assert_eq!(seen(&after), [("192.0.2.1:443".to_owned(), ServerState::Down, Operator::Ready)]);
        let other = unstarted(discovered("other.test"));
        other.inherit(heritage);
        assert_eq!(seen(&other), []);
        let nothing: Heritage = serde_json::from_str("{\"more\": 1}").unwrap();
        assert_eq!(nothing, Heritage::default());
    }
}

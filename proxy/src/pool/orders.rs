//! What operators have said of servers, as it is told to another process: orders are the only thing about a server that
//! nobody can find out by asking it.
//!
//! Invariant: an order for a server that is not there yet, because DNS has not named it so far, waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Pools;
use super::spec::{Orders, UNSAID};
use super::view::Operator;

/// What was said of one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    pool: String,
    server: String,
    operator: Operator,
    /// `None`: as configured.
    weight: Option<u32>,
}

/// Orders for servers of a pool that are not there yet, by their names.
#[derive(Clone, Default)]
pub(super) struct Waiting(Arc<Mutex<BTreeMap<String, Orders>>>);

impl Waiting {
    /// For a server of this name.
    pub(super) fn of(&self, server: &str) -> Orders {
        self.0.lock().get(server).copied().unwrap_or_default()
    }

    /// For a server that has gone, and may come back: a name server that loses it for a moment does not put it to work.
    pub(super) fn keep(&self, server: &str, orders: Orders) {
        if orders != Orders::default() {
            self.0.lock().insert(server.to_owned(), orders);
        }
    }

    /// It is there, and knows.
    pub(super) fn given(&self, server: &str) {
        self.0.lock().remove(server);
    }
}

impl Pools {
    /// All that was said, and still holds.
    pub(super) fn orders(&self) -> Vec<Order> {
        let mut orders = Vec::new();
        for pool in self.iter() {
            let waiting = pool.surroundings.waiting.0.lock().clone();
            let servers = pool.servers();
            let known = servers.iter().map(|server| (server.name().to_owned(), server.orders()));
            for (server, Orders { operator, weight }) in waiting.into_iter().chain(known) {
                let weight = (weight != UNSAID).then_some(weight);
                if operator != Operator::Ready || weight.is_some() {
                    orders.push(Order { pool: pool.settings.name.clone(), server, operator, weight });
                }
            }
        }
        orders
    }

    /// Holds to what was said elsewhere, as far as it is about these pools.
    pub(super) fn obey(&self, orders: Vec<Order>) {
        for Order { pool, server, operator, weight } in orders {
            let Some(pool) = self.get(&pool) else { continue };
            if pool.operate(&server, operator) {
                if weight.is_some() {
                    pool.set_weight(&server, weight);
                }
            } else {
                let orders = Orders { operator, weight: weight.unwrap_or(UNSAID) };
                pool.surroundings.waiting.keep(&server, orders);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{pools, pools_after, server, settings};
    use super::*;

    #[tokio::test]
    async fn orders_go_on_elsewhere_also_for_servers_that_are_not_there_yet() {
        let before = pools(settings(vec![server("a"), server("b"), server("c")])).await;
        let pool = before.get("quay").unwrap();
        assert_eq!(before.orders(), []);
        assert!(pool.operate("a", Operator::Maintenance) && pool.set_weight("b", Some(0)));
        assert!(pool.operate("c", Operator::Drain) && pool.operate("c", Operator::Ready));
        let told = serde_json::to_vec(&before.orders()).unwrap();
        let told: Vec<Order> = serde_json::from_slice(&told).unwrap();

        let after = pools(settings(vec![server("a"), server("b"), server("c")])).await;
        after.obey(told.clone());
        assert_eq!(after.orders(), told);
        let seen = |pools: &Pools| -> Vec<(Operator, u32)> {
            let view = pools.get("quay").unwrap().view();
            view.servers.iter().map(|server| (server.operator, server.weight)).collect()
        };
        assert_eq!(seen(&after), [(Operator::Maintenance, 1), (Operator::Ready, 0), (Operator::Ready, 1)]);

        let late = pools(settings(Vec::new())).await;
        late.obey(told.clone());
        assert_eq!(late.orders(), told, "handed on once more");
        let late = pools_after(settings(vec![server("a"), server("b")]), &late).await;
        assert_eq!(seen(&late), [(Operator::Maintenance, 1), (Operator::Ready, 0)]);
        assert_eq!(late.orders(), told);
        // Said once: whoever takes it back is heard.
        late.get("quay").unwrap().operate("a", Operator::Ready);
        assert_eq!(late.orders(), told[1..]);
        late.obey(vec![Order { pool: "other".to_owned(), ..told[0].clone() }]);
    }
}

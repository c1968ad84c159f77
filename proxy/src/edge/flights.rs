//! Single flight: what several callers want from upstream at once is asked for once.
//!
//! The work runs in a task of its own, so a caller that goes away takes nothing with it. The work keeps what it
//! brings in the cache before its flight ends, so whoever comes after the end finds it there: there is no gap in
//! which a second request could slip through.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pierhead_service::shares::{Floor, Observer, Party, Permit, Room, Rules};
use tokio::sync::watch;

/// What these shares are called in metrics.
pub(crate) const QUESTION: &str = "question";

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FlightError {
    /// As many are on the way as may be.
    #[error("too many requests are waiting for upstreams")]
    Full,
    /// The work panicked.
    #[error("the request to upstream was lost")]
    Lost,
}

type Running<K, V> = Mutex<HashMap<K, watch::Receiver<Option<V>>>>;

/// The flights of one kind of result.
pub(crate) struct Flights<K, V> {
    running: Arc<Running<K, V>>,
    room: Arc<Room>,
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// No flights yet, and never more than `limit` at once, in fair shares by who starts them.
    pub(crate) fn new(limit: usize, observer: impl Observer + 'static) -> Flights<K, V> {
        let floor = Floor { rate: 0, grace: Duration::MAX };
        let rules = Rules { kind: QUESTION, room: limit as u64, queue: 0, wait: Duration::ZERO, floor, reserve: true };
        Flights { running: Arc::default(), room: Room::new(rules, observer) }
    }

    /// Joins the flight that runs for `key`, or starts one with `work`, charged to `party`; waits for its result.
    pub(crate) async fn join<F>(&self, party: &Party, key: K, work: impl FnOnce() -> F) -> Result<V, FlightError>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut receiver = {
            let mut running = lock(&self.running);
            match running.get(&key) {
                Some(receiver) => receiver.clone(),
                None => {
                    let permit = self.room.try_enter(party.clone()).map_err(|_| FlightError::Full)?;
                    let (sender, receiver) = watch::channel(None);
                    running.insert(key.clone(), receiver.clone());
                    let landing = Landing { running: Arc::clone(&self.running), key, _permit: permit };
                    let work = work();
                    tokio::spawn(async move {
                        let result = work.await;
                        // Off the map first: a caller that finds it gone looks in the cache, one that still holds
                        // the receiver gets the result.
                        drop(landing);
                        sender.send_replace(Some(result));
                    });
                    receiver
                }
            }
        };
        let result = receiver.wait_for(Option::is_some).await.map_err(|_| FlightError::Lost)?;
        result.clone().ok_or(FlightError::Lost)
    }
}

/// Takes its flight off the map when dropped, also when the work panicked.
struct Landing<K: Eq + Hash, V> {
    running: Arc<Running<K, V>>,
    key: K,
    _permit: Permit,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.key);
    }
}

/// Nothing panics while it is held; should it ever, the map is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::Notify;

    use pierhead_service::shares::Party;

    use super::{FlightError, Flights};

    static NOBODY: Party = Party::NOBODY;

    #[tokio::test]
    async fn many_callers_one_flight() {
        let flights: Arc<Flights<&str, usize>> = Arc::new(Flights::new(10, ()));
        let (starts, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let callers: Vec<_> = (0..20)
            .map(|_| {
                let (flights, starts, gate) = (Arc::clone(&flights), Arc::clone(&starts), Arc::clone(&gate));
                tokio::spawn(async move {
                    let work = || async move {
                        gate.notified().await;
                        starts.fetch_add(1, Ordering::SeqCst) + 7
                    };
                    flights.join(&NOBODY, "a", work).await
                })
            })
            .collect();
        // On this one thread, yielding lets every caller reach its wait.
        tokio::task::yield_now().await;
        gate.notify_one();
        for caller in callers {
            assert_eq!(caller.await.unwrap(), Ok(7));
        }
        assert_eq!(starts.load(Ordering::SeqCst), 1);
        assert_eq!(flights.join(&NOBODY, "a", || async { 1 }).await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn outlives_its_caller() {
        let flights: Flights<&str, usize> = Flights::new(10, ());
        let (landed, witness) = tokio::sync::oneshot::channel();
        let impatient = tokio::time::timeout(
            Duration::from_millis(1),
            flights.join(&NOBODY, "a", || async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                landed.send(()).unwrap();
                1
            }),
        );
        assert!(impatient.await.is_err());
        assert!(witness.await.is_ok());
    }

    #[tokio::test]
    async fn a_panic_is_lost_and_forgotten() {
        let flights: Flights<&str, usize> = Flights::new(10, ());
        assert_eq!(
            flights.join(&NOBODY, "a", || async { panic!("expected by this test") }).await,
            Err(FlightError::Lost)
        );
        assert_eq!(flights.join(&NOBODY, "a", || async { 2 }).await, Ok(2));
    }

    #[tokio::test(start_paused = true)]
    async fn is_limited() {
        let flights: Arc<Flights<usize, usize>> = Arc::new(Flights::new(1, ()));
        let other = Arc::clone(&flights);
        let first = tokio::spawn(async move {
            let work = || async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                1
            };
            other.join(&NOBODY, 1, work).await
        });
        tokio::task::yield_now().await;
        assert_eq!(flights.join(&NOBODY, 2, || async { 2 }).await, Err(FlightError::Full));
        assert_eq!(first.await.unwrap(), Ok(1));
        assert_eq!(flights.join(&NOBODY, 2, || async { 2 }).await, Ok(2));
    }

    /// One network that asks for what never comes leaves room for the questions of others.
    #[tokio::test(start_paused = true)]
    async fn one_client_cannot_take_them_all() {
        let flights: Arc<Flights<usize, usize>> = Arc::new(Flights::new(100, ()));
        let [greedy, other] = ["192.0.2.1", "192.0.2.2"].map(|address| Party::new(address.parse().unwrap(), None));
        let begun: Vec<_> = (0..200)
            .map(|key| {
                let (flights, greedy) = (Arc::clone(&flights), greedy.clone());
                tokio::spawn(async move { flights.join(&greedy, key, std::future::pending).await })
            })
            .collect();
        // On this one thread the scheduler runs some of them at each turn.
        for _ in 0..begun.len() {
            tokio::task::yield_now().await;
        }
        assert_eq!(begun.iter().filter(|one| one.is_finished()).count(), 150);
        for key in 1000..1100 {
            assert_eq!(flights.join(&other, key, || async { 2 }).await, Ok(2));
        }
        // It may join a flight that another caller started.
        let joined = tokio::time::timeout(Duration::from_secs(1), flights.join(&other, 0, || async { 2 })).await;
        assert!(joined.is_err());
    }
}

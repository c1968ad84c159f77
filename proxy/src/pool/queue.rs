//! Requests and sessions that wait for a place on a server of a pool that is busy, and what clients hold of its places.
//!
//! Invariants:
//! - The request whose client network holds least comes first; of equals the one whose network's turn is longest ago.
//! - A request that waits comes before one that has just arrived.
//! - No more requests wait than the pool allows. One network leaves room in the queue for others.
//! - A request that is given up leaves the queue.
//!
//! The queue belongs to a pool's name and not to one generation of it: a place that becomes free under the old configuration goes to a
//! request that waits under the new one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use pierhead_service::shares::{Party, Rounds, Tally};
use tokio::sync::Notify;

/// One network may have so many times as many waiting as there is room for more.
const NETWORK: u64 = 4;

/// The requests that wait for one pool.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The length of the line, to be seen without the lock.
    waiting: AtomicUsize,
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    /// By party, each party's in the order of coming: a place that becomes free costs a look at each party, however many wait.
    waiting: HashMap<Party, BTreeMap<u64, Entry>>,
    /// How many wait.
    length: usize,
    last: u64,
    /// What clients have in the line.
    queued: Tally,
    /// What clients hold of servers whose places are limited.
    held: Tally,
    rounds: Rounds,
}

#[derive(Debug)]
struct Entry {
    turn: Arc<Notify>,
    /// Whether it was told to look.
    told: bool,
}

/// A place in the line, until it is dropped.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    queue: &'a Queue,
    party: Party,
    id: u64,
    turn: Arc<Notify>,
}

impl Queue {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        // Whoever leaves a place looks at this afterwards; whoever joins looks for a place afterwards. One of both sees
        // the other, in this one order of everything.
        self.waiting.load(Ordering::SeqCst)
    }

    /// Joins the line, unless `size` wait already, or too many of this party.
    pub(super) fn join(&self, size: usize, party: &Party) -> Option<Waiting<'_>> {
        let mut line = self.line.lock();
        let room = size.saturating_sub(line.length) as u64;
        if room == 0 || line.queued.network(party) >= room.saturating_mul(NETWORK) {
            return None;
        }
        line.last += 1;
        let (id, turn) = (line.last, Arc::new(Notify::new()));
        line.queued.add(party, 1);
        let entry = Entry { turn: Arc::clone(&turn), told: false };
        line.waiting.entry(party.clone()).or_default().insert(id, entry);
        line.length += 1;
        if line.length == 1 {
            line.tell();
        }
        self.waiting.store(line.length, Ordering::SeqCst);
        Some(Waiting { queue: self, party: party.clone(), id, turn })
    }

    /// There may be a place: the next in the line is to look.
    pub(super) fn wake(&self) {
        if self.len() > 0 {
            self.line.lock().tell();
        }
    }

    /// A party has taken a place of a server whose places are limited.
    pub(super) fn took(&self, party: &Party) {
        let mut line = self.line.lock();
        line.held.add(party, 1);
        if line.length > 0 {
            line.rounds.turn(party);
        }
    }

    /// A party has left such a place.
    pub(super) fn left(&self, party: &Party) {
        self.line.lock().held.subtract(party, 1);
    }
}

impl Line {
    /// Tells the next to look for a place.
    fn tell(&mut self) {
        let firsts = self.waiting.iter_mut().filter_map(|(party, entries)| Some((party, entries.iter_mut().next()?)));
        let next = firsts.min_by_key(|(party, (id, _))| (self.held.both(party), self.rounds.last(party), **id));
        if let Some((_, (_, entry))) = next {
            entry.told = true;
            entry.turn.notify_one();
        }
    }

    /// Takes a request out of the line.
    fn remove(&mut self, party: &Party, id: u64) -> Option<Entry> {
        let entries = self.waiting.get_mut(party)?;
        let entry = entries.remove(&id)?;
        if entries.is_empty() {
            self.waiting.remove(party);
        }
        self.length -= 1;
        self.queued.subtract(party, 1);
        Some(entry)
    }
}

impl Waiting<'_> {
    /// Comes when it is worth looking for a place. It may be in vain: then it comes again.
    pub(super) async fn turn(&self) {
        self.turn.notified().await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut line = self.queue.line.lock();
        let Some(entry) = line.remove(&self.party, self.id) else { return };
        self.queue.waiting.store(line.length, Ordering::SeqCst);
        if line.length == 0 {
            line.rounds.clear();
        }
        // There may be more than the one place that this one was told of.
        if entry.told {
            line.tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_first_looks_and_then_the_next() {
        let queue = Queue::default();
        let (first, second) = (queue.join(2, &Party::NOBODY).unwrap(), queue.join(2, &Party::NOBODY).unwrap());
        assert!(queue.join(2, &Party::NOBODY).is_none(), "the line is full");
        first.turn().await;
        assert!(first.turn().now_or_never().is_none(), "nothing has changed");
        assert!(second.turn().now_or_never().is_none(), "not first");
        queue.wake();
        first.turn().await;
        drop(first);
        second.turn().await;
        assert_eq!(queue.len(), 1);
        drop(second);
        assert_eq!(queue.len(), 0);
        queue.wake();
        queue.join(1, &Party::NOBODY).unwrap().turn().await;
    }

    #[tokio::test]
    async fn who_gives_up_passes_on_what_it_was_told() {
        let queue = Queue::default();
        let [first, second, third] = [(); 3].map(|()| queue.join(9, &Party::NOBODY).unwrap());
        drop(second);
        queue.wake();
        drop(first);
        third.turn().await;
    }

    fn client(number: u8) -> Party {
        Party::of_network([192, 0, 2, number].into())
    }

    #[tokio::test]
    async fn the_client_that_holds_least_is_next() {
        let queue = Queue::default();
        for (number, held) in [(1, 5), (2, 1)] {
            (0..held).for_each(|_| queue.took(&client(number)));
        }
        let line = [1, 1, 2, 2, 3].map(|number| queue.join(9, &client(number)).unwrap());
        // The first looked when it came, and found nothing.
        line[0].turn().await;
        let mut line: Vec<_> = line.into_iter().enumerate().collect();
        let mut order = Vec::new();
        while !line.is_empty() {
            queue.wake();
            let at = line.iter().position(|(_, waiting)| waiting.turn().now_or_never().is_some()).unwrap();
            let (number, waiting) = line.remove(at);
            queue.took(&client([1, 1, 2, 2, 3][number]));
            order.push(number);
            drop(waiting);
        }
        assert_eq!(order, [4, 2, 3, 0, 1]);
        queue.left(&client(3));
        assert_eq!(queue.len(), 0);
    }

    #[tokio::test]
    async fn one_client_leaves_room_in_the_line() {
        let queue = Queue::default();
        let greedy: Vec<_> = (0..20).map_while(|_| queue.join(10, &client(1))).collect();
        assert_eq!(greedy.len(), 8);
        let _other = queue.join(10, &client(2)).unwrap();
        let _last = queue.join(10, &client(3)).unwrap();
        assert!(queue.join(10, &client(4)).is_none());
    }
}

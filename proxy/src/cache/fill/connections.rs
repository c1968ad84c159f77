//! The connections that bodies of blobs take to a registry, in fair shares of the clients that want the blobs.
//!
//! One client may use all of them while no other wants one. When another does, downloads of the one that holds most give their
//! connections back: they stop where they are, wait for their turn, and ask upstream for the rest.
//!
//! A fill belongs to all clients that want its blob. So it waits in the name of each of them, and goes on with the turn of the first: a client
//! that asks for a blob before others do cannot make them wait for its own share. Each of them says so in [`Wanted`] before it waits for
//! anything that others began.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use pierhead_registry::client::Repository;
use pierhead_registry::oci::Digest;
use pierhead_service::shares::{Floor, Full, Observer, Party, Permit, Room, Rules};
use tokio::sync::watch;

/// Downloads that may wait for a connection: as many as questions may wait for upstreams.
const QUEUE: u64 = 4096;
/// How long they wait. Clients have gone by then.
const WAIT: Duration = Duration::from_secs(600);
/// Clients whose turns a fill waits for.
const PARTIES: usize = 64;
/// Blobs that are remembered without a look at which are wanted still.
const LEAST: usize = 64;
/// A download of a fill goes as fast as upstream sends: no client can make it slow.
const UNHURRIED: Floor = Floor { rate: 0, grace: WAIT };

/// The connections of one registry.
pub(crate) struct Connections {
    /// For fills.
    filling: Arc<Room>,
    /// As many again for what is read past the store, as slowly as clients take it.
    passing: Arc<Room>,
    count: u64,
}

impl Connections {
    /// So many for each of both. `floor`: how slow a client may be that reads past the store while others wait.
    pub(crate) fn new<O: Observer + 'static>(count: usize, floor: Floor, observer: impl Fn(&'static str) -> O) -> Self {
        let count = count.max(1) as u64;
        let room = |kind, floor| {
            let rules = Rules { kind, room: count, queue: QUEUE, wait: WAIT, floor, reserve: false };
            Room::new(rules, observer(kind))
        };
        Connections { filling: room("fill", UNHURRIED), passing: room("uncached", floor), count }
    }

    /// Another lowest rate for those that come.
    pub(crate) fn set_floor(&self, floor: Floor) {
        self.passing.resize(self.count, floor);
    }
}

/// Where a blob comes from, for one client.
#[derive(Clone)]
pub(crate) struct Source {
    /// The repository upstream.
    pub(crate) repository: Repository,
    /// Of its registry.
    pub(crate) connections: Arc<Connections>,
    /// The party that connections are charged to.
    pub(crate) party: Party,
}

impl Source {
    /// A connection for a fill that all these want.
    pub(super) async fn for_fill(&self, parties: &Parties) -> Result<Permit, Full> {
        let permit = parties.turn(&self.connections.filling).await?;
        // Nothing has come over it yet.
        permit.gives_way(true);
        Ok(permit)
    }

    /// A connection for a client that reads past the store.
    pub(in crate::cache) async fn for_client(&self) -> Result<Permit, Full> {
        self.connections.passing.enter(self.party.clone()).await
    }
}

/// The clients that want a blob. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Parties(Arc<watch::Sender<Vec<Party>>>);

impl Parties {
    fn new(first: Option<&Party>) -> Parties {
        Parties(Arc::new(watch::Sender::new(first.into_iter().cloned().collect())))
    }

    /// One more.
    fn join(&self, party: &Party) {
        self.0.send_if_modified(|parties| {
            let new = parties.len() < PARTIES && !parties.contains(party);
            if new {
                parties.push(party.clone());
            }
            new
        });
    }

    /// The first turn of any of them.
    async fn turn(&self, room: &Arc<Room>) -> Result<Permit, Full> {
        let mut parties = self.0.subscribe();
        let mut turns = FuturesUnordered::new();
        let mut asked = 0;
        loop {
            for party in &parties.borrow_and_update()[asked..] {
                turns.push(room.enter(party.clone()));
                asked += 1;
            }
            tokio::select! {
                turn = turns.next() => match turn {
                    Some(Ok(permit)) => return Ok(permit),
                    Some(Err(full)) if turns.is_empty() => return Err(full),
                    Some(Err(_)) => {}
                    // Without a client: what is charged to none.
                    None => return room.enter(Party::NOBODY).await,
                },
                () = async {
                    if parties.changed().await.is_err() {
                        pending::<()>().await;
                    }
                } => {}
            }
        }
    }
}

/// The clients that want each blob, for as long as one of them or its fill holds them.
#[derive(Default)]
pub(super) struct Wanted(Mutex<Blobs>);

#[derive(Default)]
struct Blobs {
    parties: HashMap<Digest, Weak<watch::Sender<Vec<Party>>>>,
    /// With so many, those that no client wants any more are forgotten.
    many: usize,
}

impl Wanted {
    /// The clients that want a blob, with one more.
    pub(super) fn join(&self, digest: &Digest, party: Option<&Party>) -> Parties {
        let mut blobs = self.0.lock();
        let known = blobs.parties.get(digest).and_then(Weak::upgrade).map(Parties);
        let parties = known.unwrap_or_else(|| {
            if blobs.parties.len() >= blobs.many {
                blobs.parties.retain(|_, parties| parties.strong_count() > 0);
                blobs.many = 2 * blobs.parties.len() + LEAST;
            }
            let parties = Parties::new(None);
            blobs.parties.insert(*digest, Arc::downgrade(&parties.0));
            parties
        });
        party.inspect(|party| parties.join(party));
        parties
    }
}

#[cfg(test)]
mod tests {
    use pierhead_registry::oci::Algorithm;
    use tokio::time::{Instant, timeout};

    use super::*;

    const MOMENT: Duration = Duration::from_secs(1);

    fn connections(count: usize) -> Connections {
        Connections::new(count, Floor { rate: 1000, grace: Duration::from_secs(5) }, |_| ())
    }

    fn party(number: u8) -> Party {
        Party::new([192, 0, 2, number].into(), None)
    }

    #[test]
    fn what_no_client_wants_is_forgotten() {
        let wanted = Wanted::default();
        let digest = |number: u32| Digest::of(Algorithm::Sha256, &number.to_be_bytes());
        let kept = wanted.join(&digest(0), Some(&party(1)));
        for number in 1..10_000 {
            wanted.join(&digest(number), Some(&party(1)));
        }
        assert!(wanted.0.lock().parties.len() <= 2 * LEAST);
        wanted.join(&digest(0), Some(&party(2)));
        wanted.join(&digest(0), Some(&party(2)));
        assert_eq!(*kept.0.borrow(), [party(1), party(2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_client_has_all_of_them_until_another_wants_one() {
        let connections = connections(4);
        let [greedy, other] = [1, 2].map(|number| Parties::new(Some(&party(number))));
        let mut held = Vec::new();
        for _ in 0..4 {
            let permit = greedy.turn(&connections.filling).await.unwrap();
            permit.gives_way(true);
            held.push(permit);
        }
        assert!(timeout(MOMENT, greedy.turn(&connections.filling)).await.is_err());
        assert!(held.iter().all(|permit| !permit.pace().is_cut()), "its own others do not make it give way");
        let waiting = tokio::spawn({
            let room = Arc::clone(&connections.filling);
            async move { other.turn(&room).await }
        });
        held.last().unwrap().pace().when_cut().cancelled().await;
        held.pop();
        waiting.await.unwrap().unwrap();
        assert_eq!(held.iter().filter(|permit| permit.pace().is_cut()).count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fill_goes_on_with_the_first_turn_of_those_that_want_it() {
        let connections = connections(1);
        let fill = Parties::new(Some(&party(1)));
        let held = fill.turn(&connections.filling).await.unwrap();
        let room = Arc::clone(&connections.filling);
        // Ten more that the greedy client wants come first, and another client wants the last of them as well.
        let queued: Vec<Parties> = (0..10).map(|_| Parties::new(Some(&party(1)))).collect();
        let waiting: Vec<_> = (queued.iter().cloned())
            .map(|parties| {
                let room = Arc::clone(&room);
                tokio::spawn(async move { parties.turn(&room).await })
            })
            .collect();
        tokio::time::sleep(MOMENT).await;
        queued[9].join(&party(2));
        queued[9].join(&party(2));
        tokio::time::sleep(MOMENT).await;
        drop(held);
        let mut waiting = waiting.into_iter();
        // The greedy client's first had come before.
        let first = waiting.next().unwrap().await.unwrap().unwrap();
        let begun = Instant::now();
        drop(first);
        let last = waiting.next_back().unwrap().await.unwrap().unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert!(waiting.all(|one| !one.is_finished()));
        drop(last);
    }
}

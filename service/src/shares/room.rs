//! A room: permits that give back what they hold when they are dropped, a queue, and what happens while it is short.
//!
//! Invariant: after every change all that may go on do, so a newcomer that may take its share takes it past those that wait for theirs.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::ledger::{Bound, Cut, Ledger};
use super::pace::{Floor, Flow, Pace};
use super::party::Party;

/// How often a room that is short looks for slow clients.
const LOOK: Duration = Duration::from_millis(250);
/// How often a room says in the log that it cuts clients.
const SAY: Duration = Duration::from_secs(10);

/// What a room is like.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// What it is, in logs: `downloads`.
    pub kind: &'static str,
    /// Units.
    pub room: u64,
    /// How many may wait. They have shares of that, too.
    pub queue: u64,
    /// How long they wait.
    pub wait: Duration,
    /// How slow a client may be while others wait.
    pub floor: Floor,
    /// Whether a greedy client leaves some of it free: for what clients can hold as long as they like.
    pub reserve: bool,
}

/// Why there is no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// As many wait as may.
    #[error("too many requests are waiting already")]
    Queue,
    /// It took too long.
    #[error("too many requests are at work")]
    Waited,
    /// This account or network has its share.
    #[error("this account or network has as many requests at work as it may have while others want some")]
    Share,
}

impl Full {
    /// As a label of metrics.
    pub fn label(self) -> &'static str {
        match self {
            Full::Queue => "queue_full",
            Full::Waited => "waited",
            Full::Share => "share",
        }
    }
}

/// Counts what happens in a room.
pub trait Observer: Send + Sync {
    /// A permit was given out (1) or came back (-1).
    fn running(&self, _change: i64) {}
    /// A client began to wait (1) or stopped (-1).
    fn queued(&self, _change: i64) {}
    /// A client got no permit, or lost it: `queue_full`, `waited`, `share`, `slow`.
    fn refused(&self, _reason: &'static str) {}
}

/// Counts nothing.
impl Observer for () {}

/// Something scarce, in shares.
pub struct Room {
    rules: Rules,
    state: Mutex<State>,
    observer: Box<dyn Observer>,
}

struct State {
    ledger: Ledger,
    /// Places in the queue.
    queue: Ledger,
    /// How to reach those that wait.
    waiting: HashMap<u64, Wake>,
    looked: Instant,
    said: Option<Instant>,
    /// Clients that were cut since it was said.
    cut: u64,
    floor: Floor,
    wait: Duration,
}

/// What those that wait are given: the number of their holding.
struct Wake {
    sender: oneshot::Sender<u64>,
    party: Party,
    amount: u64,
    /// The holding that grows.
    holding: Option<u64>,
    pace: Arc<Pace>,
}

impl Room {
    /// An empty one.
    pub fn new(rules: Rules, observer: impl Observer + 'static) -> Arc<Room> {
        let state = State {
            ledger: Ledger::new(rules.room, rules.reserve),
            queue: Ledger::new(rules.queue, true),
            waiting: HashMap::new(),
            looked: Instant::now(),
            said: None,
            cut: 0,
            floor: rules.floor,
            wait: rules.wait,
        };
        Arc::new(Room { rules, state: Mutex::new(state), observer: Box::new(observer) })
    }

    /// How long clients wait at most.
    pub fn wait(&self) -> Duration {
        self.state.lock().wait
    }

    /// A new size, which takes back nothing that is held beyond it, and a new lowest rate for those that come.
    pub fn resize(&self, room: u64, floor: Floor) {
        let mut state = self.state.lock();
        state.ledger.resize(room);
        state.floor = floor;
        self.go_on(&mut state);
    }

    /// Other sizes and times, as [`Room::resize`]; those that wait already wait as long as they would have.
    pub fn change(&self, to: Rules) {
        {
            let mut state = self.state.lock();
            state.queue.resize(to.queue);
            state.wait = to.wait;
        }
        self.resize(to.room, to.floor);
    }

    /// A unit, at once or in turn.
    pub async fn enter(self: &Arc<Self>, party: Party) -> Result<Permit, Full> {
        self.enter_with(party, Flow::default()).await
    }

    /// The same, for a client of which something else knows more.
    pub async fn enter_with(self: &Arc<Self>, party: Party, flow: Flow) -> Result<Permit, Full> {
        let pace = self.pace(flow);
        let id = self.take(&party, 1, None, &pace).await.inspect_err(|full| self.observer.refused(full.label()))?;
        Ok(self.permit(id, party, pace))
    }

    /// A unit now, or not at all.
    pub fn try_enter(self: &Arc<Self>, party: Party) -> Result<Permit, Full> {
        let pace = self.pace(Flow::default());
        let mut state = self.state.lock();
        if let Some(bound) = state.ledger.bound(&party, 1, None) {
            drop(state);
            let full = if bound == Bound::Room { Full::Queue } else { Full::Share };
            self.observer.refused(full.label());
            return Err(full);
        }
        let id = state.ledger.take(party.clone(), 1, Arc::clone(&pace));
        drop(state);
        Ok(self.permit(id, party, pace))
    }

    /// A permit for nothing yet, which grows as bytes arrive.
    pub fn begin(self: &Arc<Self>, party: Party) -> Permit {
        let pace = self.pace(Flow::default());
        let id = self.state.lock().ledger.take(party.clone(), 0, Arc::clone(&pace));
        self.permit(id, party, pace)
    }

    fn pace(&self, flow: Flow) -> Arc<Pace> {
        Arc::new(Pace::new(self.state.lock().floor, flow, Instant::now()))
    }

    fn permit(self: &Arc<Self>, id: u64, party: Party, pace: Arc<Pace>) -> Permit {
        self.observer.running(1);
        Permit { room: Arc::clone(self), id, party, pace }
    }

    /// Takes units for a new holding, or for the one that grows; its number.
    async fn take(&self, party: &Party, amount: u64, holding: Option<u64>, pace: &Arc<Pace>) -> Result<u64, Full> {
        let end = Instant::now() + self.wait();
        let mut turn = {
            let mut state = self.state.lock();
            self.look(&mut state);
            if state.ledger.bound(party, amount, holding).is_none() {
                return Ok(state.settle(party, amount, holding, pace));
            }
            if state.queue.bound(party, 1, None).is_some() {
                self.cut(&mut state);
                return Err(Full::Queue);
            }
            let (sender, granted) = oneshot::channel();
            let place = state.queue.take(party.clone(), 1, Arc::clone(pace));
            let id = state.ledger.wait(party.clone(), amount, holding);
            let wake = Wake { sender, party: party.clone(), amount, holding, pace: Arc::clone(pace) };
            state.waiting.insert(id, wake);
            self.observer.queued(1);
            self.cut(&mut state);
            Turn { room: self, id, place, grows: holding.is_some(), granted }
        };
        loop {
            let look = (Instant::now() + LOOK).min(end);
            match timeout_at(look, &mut turn.granted).await {
                Ok(Ok(id)) => return Ok(id),
                // Its sender goes only with its turn.
                Ok(Err(_)) => return Err(Full::Waited),
                Err(_) if look >= end => return Err(Full::Waited),
                Err(_) => self.look(&mut self.state.lock()),
            }
        }
    }

    /// Looks for slow clients from time to time while room is short.
    fn look(&self, state: &mut State) {
        let now = Instant::now();
        if now.saturating_duration_since(state.looked) < LOOK || state.ledger.used() < state.ledger.room() / 2 {
            return;
        }
        state.looked = now;
        if state.ledger.waiting() == 0 {
            state.ledger.look(now);
        } else {
            self.cut(state);
        }
    }

    /// Takes units back for those that wait.
    fn cut(&self, state: &mut State) {
        let now = Instant::now();
        for (id, why) in state.ledger.to_cut(now) {
            let Some((pace, party)) = state.ledger.holding(id) else { continue };
            pace.cut();
            if why == Cut::GivesWay {
                // Nothing is lost to it.
                continue;
            }
            self.observer.refused("slow");
            state.cut += 1;
            if state.said.is_none_or(|said| now.saturating_duration_since(said) >= SAY) {
                let (kind, client, account, cut) = (self.rules.kind, party.address(), party.account(), state.cut);
                let (held, waiting) = (state.ledger.held_by(party), state.ledger.waiting());
                let client = client.map(tracing::field::display);
                tracing::warn!(kind, client, account, held, waiting, cut, "closing slow clients: others wait for room");
                (state.said, state.cut) = (Some(now), 0);
            }
        }
    }

    /// Lets all go on that may.
    fn go_on(&self, state: &mut State) {
        while let Some(next) = state.ledger.next() {
            state.ledger.leave(next);
            let Some(wake) = state.waiting.remove(&next) else { continue };
            let id = state.settle(&wake.party, wake.amount, wake.holding, &wake.pace);
            if wake.sender.send(id).is_err() {
                state.unsettle(id, wake.holding.is_some());
            }
        }
    }
}

impl State {
    fn settle(&mut self, party: &Party, amount: u64, holding: Option<u64>, pace: &Arc<Pace>) -> u64 {
        match holding {
            Some(id) => {
                self.ledger.grow(id, amount);
                id
            }
            None => {
                pace.begin(Instant::now());
                self.ledger.take(party.clone(), amount, Arc::clone(pace))
            }
        }
    }

    /// It was not taken. What a holding grew by goes with the holding.
    fn unsettle(&mut self, id: u64, grows: bool) {
        if !grows {
            self.ledger.release(id);
        }
    }
}

/// A place in the queue, until it is dropped.
struct Turn<'a> {
    room: &'a Room,
    id: u64,
    place: u64,
    grows: bool,
    granted: oneshot::Receiver<u64>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.room.state.lock();
        state.ledger.leave(self.id);
        state.queue.release(self.place);
        state.waiting.remove(&self.id);
        // It was granted after its caller had gone.
        if let Ok(id) = self.granted.try_recv() {
            state.unsettle(id, self.grows);
            self.room.go_on(&mut state);
        }
        self.room.observer.queued(-1);
    }
}

/// What a client holds of a room, until it is dropped.
pub struct Permit {
    room: Arc<Room>,
    id: u64,
    party: Party,
    pace: Arc<Pace>,
}

impl Permit {
    /// How fast its client is, and whether the room wants it back.
    pub fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }

    /// Says whether its holder can give it back and take it again later without a loss. If so, the room wants it back as soon as a party
    /// waits that holds less.
    pub fn gives_way(&self, gives_way: bool) {
        let mut state = self.room.state.lock();
        state.ledger.set_gives_way(self.id, gives_way);
        if gives_way {
            self.room.cut(&mut state);
        }
    }

    /// More units, at once or in turn.
    pub async fn grow(&mut self, amount: u64) -> Result<(), Full> {
        let grown = self.room.take(&self.party, amount, Some(self.id), &self.pace).await;
        grown.map(drop).inspect_err(|full| self.room.observer.refused(full.label()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.room.observer.running(-1);
        let mut state = self.room.state.lock();
        state.ledger.release(self.id);
        self.room.go_on(&mut state);
    }
}

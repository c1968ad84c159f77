//! A room of fair shares in use: turns, shares, slow clients, and what is given back.

use super::*;

const RULES: Rules = Rules {
    kind: "test",
    room: 10,
    queue: 10,
    wait: Duration::from_secs(30),
    floor: Floor { rate: 100, grace: Duration::from_secs(5) },
    reserve: true,
};

#[tokio::test]
async fn a_room_changes_while_it_is_in_use() {
    let small = Rules { room: 1, queue: 0, reserve: false, ..RULES };
    let room = Room::new(small, ());
    let _first = room.enter(Party::default()).await.unwrap();
    assert_eq!(room.enter(Party::default()).await.err(), Some(Full::Queue));
    room.change(Rules { queue: 1, wait: Duration::from_secs(60), ..small });
    assert_eq!(room.wait(), Duration::from_secs(60));
    let (other, room_of_other) = (tokio::sync::Notify::new(), Arc::clone(&room));
    let enters = async {
        let entered = room_of_other.enter(Party::default()).await;
        other.notify_one();
        entered
    };
    let changes = async {
        while used(&room).1 == 0 {
            tokio::task::yield_now().await;
        }
        room.change(Rules { room: 2, ..small });
        other.notified().await;
    };
    let (second, ()) = tokio::join!(enters, changes);
    assert!(second.is_ok());
}

fn party(network: u8, account: &str) -> Party {
    Party::new([192, 0, 2, network].into(), Some(account))
}

fn used(room: &Room) -> (u64, usize, usize) {
    let state = room.state.lock();
    (state.ledger.used(), state.ledger.waiting(), state.waiting.len())
}

#[tokio::test(start_paused = true)]
async fn a_greedy_account_waits_and_others_do_not() {
    let room = Room::new(RULES, ());
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(room.enter(party(1, "ann")).await.unwrap());
    }
    let begun = Instant::now();
    let sixth = tokio::spawn({
        let room = Arc::clone(&room);
        async move { room.enter(party(1, "ann")).await.map(drop) }
    });
    tokio::task::yield_now().await;
    let other = room.enter(party(1, "bob")).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
    held.iter().for_each(|one| one.pace().moved(0));
    assert_eq!(sixth.await.unwrap(), Err(Full::Waited));
    assert_eq!(begun.elapsed(), RULES.wait);
    drop((held, other));
    assert_eq!(used(&room), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn those_that_wait_come_in_turn_and_those_that_leave_hold_nothing() {
    let room = Room::new(Rules { room: 1, queue: 2, ..RULES }, ());
    let first = room.enter(party(1, "ann")).await.unwrap();
    first.pace().moved(0);
    let one = {
        let room = Arc::clone(&room);
        tokio::spawn(async move { room.enter(party(2, "bob")).await.map(drop) })
    };
    tokio::task::yield_now().await;
    let left = tokio::time::timeout(Duration::from_secs(1), room.enter(party(3, "cid"))).await;
    assert!(left.is_err());
    assert_eq!(used(&room).1, 1);
    drop(first);
    assert_eq!(one.await.unwrap(), Ok(()));
    assert_eq!(used(&room), (0, 0, 0));
    // The queue has shares, too.
    let _first = room.enter(party(1, "ann")).await.unwrap();
    let mut waiting: Vec<_> = (0..2).map(|_| Box::pin(room.enter(party(1, "ann")))).collect();
    let outcomes = futures(&mut waiting).await;
    assert_eq!(outcomes, [None, Some(Full::Queue)]);
    assert_eq!(used(&room).1, 1);
}

/// Polls each once.
async fn futures(all: &mut [std::pin::Pin<Box<impl Future<Output = Result<Permit, Full>>>>]) -> Vec<Option<Full>> {
    let mut outcomes = Vec::new();
    for one in all {
        let outcome = tokio::select! { biased; outcome = one => outcome.err(), () = std::future::ready(()) => None };
        outcomes.push(outcome);
    }
    outcomes
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_is_cut_when_another_waits() {
    let room = Room::new(Rules { room: 1, ..RULES }, ());
    let slow = room.enter(party(1, "ann")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!slow.pace().is_cut(), "while nobody waits it may be as slow as it likes");
    let begun = Instant::now();
    let holder = tokio::spawn(async move {
        slow.pace().when_cut().cancelled().await;
        drop(slow);
    });
    let _next = room.enter(party(2, "bob")).await.unwrap();
    holder.await.unwrap();
    assert!(begun.elapsed() <= LOOK, "{:?}", begun.elapsed());
}

/// The time in the queue is not the client's.
#[tokio::test(start_paused = true)]
async fn a_client_that_waited_for_its_unit_is_not_slow_when_it_gets_it() {
    let room = Room::new(Rules { room: 1, ..RULES }, ());
    let first = room.enter(party(1, "ann")).await.unwrap();
    first.pace().moved(0);
    let enter = |network| {
        let room = Arc::clone(&room);
        tokio::spawn(async move { room.enter(party(network, "")).await })
    };
    let second = enter(2);
    tokio::task::yield_now().await;
    let third = enter(3);
    tokio::time::sleep(2 * RULES.floor.grace).await;
    drop(first);
    let second = second.await.unwrap().unwrap();
    tokio::time::sleep(RULES.floor.grace - 2 * LOOK).await;
    assert!(!second.pace().is_cut(), "it has the whole grace");
    tokio::time::timeout(3 * LOOK, second.pace().when_cut().cancelled()).await.expect("it was slow, and another waits");
    drop(second);
    assert!(third.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_gives_way_goes_to_a_party_that_holds_less() {
    let room = Room::new(Rules { room: 2, reserve: false, ..RULES }, ());
    let [first, second] = [room.enter(party(1, "ann")).await.unwrap(), room.enter(party(1, "ann")).await.unwrap()];
    first.gives_way(true);
    second.gives_way(true);
    let begun = Instant::now();
    let holder = tokio::spawn(async move {
        second.pace().when_cut().cancelled().await;
        drop(second);
    });
    let _other = room.enter(party(2, "bob")).await.unwrap();
    holder.await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert!(!first.pace().is_cut());
}

#[tokio::test(start_paused = true)]
async fn room_is_taken_as_bytes_arrive() {
    let room = Room::new(RULES, ());
    let mut begun: Vec<_> = (0..1000).map(|_| room.begin(party(1, "ann"))).collect();
    assert_eq!(used(&room).0, 0, "what is only claimed takes none");
    for permit in &mut begun[..6] {
        permit.pace().moved(1);
    }
    for permit in &mut begun[..5] {
        permit.grow(1).await.unwrap();
    }
    let mut other = room.begin(party(2, "bob"));
    other.grow(2).await.unwrap();
    assert_eq!(begun[5].grow(1).await, Err(Full::Waited));
    // The oldest goes on while there is any room.
    begun[0].grow(3).await.unwrap();
    assert_eq!(other.grow(1).await, Err(Full::Waited));
    begun.clear();
    other.grow(1).await.unwrap();
    drop(other);
    assert_eq!(used(&room), (0, 0, 0));
}

//! Pools from the outside: leases, the queue, the operator, and what outlives a generation.

use std::sync::Arc;

use futures_util::FutureExt;
use pierhead_config as config;
use pierhead_config::{Address, Balance, DnsTiming, HashBy, OnDown, Passive};
use tokio::time::{Duration, Instant, timeout};

use super::view::{Operator, ServerState};
use super::{Lease, LeaseError, Pool, Pools, Wish};
use crate::admin::metrics::Metrics;

pub(super) fn server(name: &str) -> config::Server {
    let port = name.bytes().map(u16::from).sum();
    let address = Address::Socket(([127, 0, 0, 1], port).into());
    config::Server {
        name: name.to_owned(),
        address,
        weight: 1,
        backup: false,
        max_connections: None,
        checked_first: false,
    }
}

fn with_places(name: &str, places: usize) -> config::Server {
    config::Server { max_connections: Some(places), ..server(name) }
}

pub(super) fn settings(servers: Vec<config::Server>) -> config::Pool {
    config::Pool {
        name: "quay".to_owned(),
        servers,
        discovery: None,
        dns: DnsTiming { servers: Vec::new(), min_ttl: Duration::from_secs(1), max_ttl: Duration::from_secs(60) },
        tls: None,
        balance: Balance::RoundRobin,
        health: None,
        passive: None,
        slow_start: Duration::ZERO,
        queue_size: 2,
        queue_timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(5),
        first_byte_timeout: None,
        idle_timeout: Duration::from_secs(60),
        keep_alive: Duration::from_secs(4),
        retries: 3,
        send_proxy: None,
        on_down: OnDown::Keep,
    }
}

async fn started(settings: config::Pool, before: Option<&Pools>) -> Pools {
    let pools = Pools::new(&[settings], before, &Arc::new(Metrics::new().unwrap())).unwrap();
    pools.start().await;
    pools
}

/// Started pools of one.
pub(super) async fn pools(settings: config::Pool) -> Pools {
    started(settings, None).await
}

/// Those that nobody has started yet.
pub(super) fn unstarted(settings: config::Pool) -> Pools {
    Pools::new(&[settings], None, &Arc::new(Metrics::new().unwrap())).unwrap()
}

/// And those of the next generation.
pub(super) async fn pools_after(settings: config::Pool, before: &Pools) -> Pools {
    started(settings, Some(before)).await
}

fn quay(pools: &Pools) -> &Arc<Pool> {
    pools.get("quay").unwrap()
}

fn now(pool: &Pool) -> Result<Lease, LeaseError> {
    pool.lease(&Wish::default()).now_or_never().expect("it waits")
}

fn names(leases: &[Lease]) -> String {
    leases.iter().map(|lease| lease.server().name()).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn leases_go_round_and_come_back() {
    let pools = started(settings(vec![server("a"), server("b")]), None).await;
    let leases: Vec<Lease> = (0..4).map(|_| now(quay(&pools)).unwrap()).collect();
    assert_eq!(names(&leases), "a b a b");
    let active = |pool: &Pool| pool.view().servers.iter().map(|server| server.active).collect::<Vec<_>>();
    assert_eq!(active(quay(&pools)), [2, 2]);
    drop(leases);
    assert_eq!(active(quay(&pools)), [0, 0]);
    let empty = started(settings(Vec::new()), None).await;
    assert_eq!(now(quay(&empty)).err(), Some(LeaseError::NoServer));
    assert!(!quay(&empty).available());
}

#[tokio::test]
async fn who_was_tried_comes_last() {
    let pools = started(settings(vec![server("a"), server("b")]), None).await;
    let tried = [Arc::from("a")];
    for _ in 0..3 {
        let wish = Wish { tried: &tried, ..Wish::default() };
        assert_eq!(quay(&pools).lease(&wish).await.unwrap().server().name(), "b");
    }
    let both = [Arc::from("a"), Arc::from("b")];
    assert!(quay(&pools).lease(&Wish { tried: &both, ..Wish::default() }).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_place_waits_in_line_and_not_for_ever() {
    let pools = started(settings(vec![with_places("a", 1)]), None).await;
    let pool = quay(&pools);
    let held = now(pool).unwrap();
    let wish = Wish::default();
    let mut first = std::pin::pin!(pool.lease(&wish));
    assert!(first.as_mut().now_or_never().is_none());
    let second = pool.lease(&wish);
    let mut second = std::pin::pin!(second);
    assert!(second.as_mut().now_or_never().is_none());
    assert_eq!(pool.view().queued, 2);
    assert_eq!(now(pool).err(), Some(LeaseError::QueueFull));

    drop(held);
    // The place is for those who wait, in their order.
    assert!(second.as_mut().now_or_never().is_none());
    let next = first.await.unwrap();
    let begin = Instant::now();
    assert_eq!(second.await.err(), Some(LeaseError::QueueTimeout));
    assert_eq!(begin.elapsed().as_secs(), 5);
    assert_eq!(pool.view().queued, 0);
    drop(next);
    assert!(now(pool).is_ok());
}

#[tokio::test]
async fn who_waits_takes_any_place_that_there_is() {
    let mut settings = settings(vec![with_places("a", 1), with_places("b", 1)]);
    settings.queue_size = 10;
    let pools = started(settings, None).await;
    let pool = quay(&pools);
    let (a, b) = (now(pool).unwrap(), now(pool).unwrap());
    let wish = Wish::default();
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(pool.lease(&wish))).collect();
    for one in &mut waiting {
        assert!(one.now_or_never().is_none());
    }
    // Both at once, while nobody looks: the second is told by the first.
    drop((a, b));
    let mut rest = waiting.into_iter();
    let first = rest.next().unwrap().now_or_never().unwrap().unwrap();
    let second = rest.next().unwrap().now_or_never().unwrap().unwrap();
    assert_ne!(first.server().name(), second.server().name());
    // Who gives up leaves the line.
    assert_eq!(pool.view().queued, 1);
    drop(rest);
    assert_eq!(pool.view().queued, 0);
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_when_a_server_comes_and_when_the_last_goes() {
    let pools = started(settings(vec![with_places("a", 1), server("b")]), None).await;
    let pool = quay(&pools);
    assert!(pool.operate("b", Operator::Drain));
    assert!(!pool.operate("c", Operator::Drain));
    let held = now(pool).unwrap();
    assert_eq!(held.server().name(), "a");
    let wish = Wish::default();
    let mut waiting = Box::pin(pool.lease(&wish));
    assert!(waiting.as_mut().now_or_never().is_none());
    pool.operate("b", Operator::Ready);
    assert_eq!(waiting.await.unwrap().server().name(), "b");

    pool.operate("b", Operator::Maintenance);
    let mut waiting = Box::pin(pool.lease(&wish));
    assert!(waiting.as_mut().now_or_never().is_none());
    pool.operate("a", Operator::Drain);
    assert_eq!(waiting.await.err(), Some(LeaseError::NoServer));
    assert!(!pool.available());
}

#[tokio::test]
async fn sessions_are_told_to_end_when_they_are_to() {
    let mut kept = settings(vec![server("a"), server("b")]);
    kept.passive = Some(Passive { failures: 2, server_errors: false, hold: Duration::from_secs(10) });
    let pools = started(kept.clone(), None).await;
    let (a, b) = (now(quay(&pools)).unwrap(), now(quay(&pools)).unwrap());
    quay(&pools).operate("a", Operator::Drain);
    assert!(a.lost().now_or_never().is_none(), "drained: what there is goes on");
    quay(&pools).operate("a", Operator::Maintenance);
    a.lost().await;
    assert!(b.lost().now_or_never().is_none(), "another server");
    quay(&pools).operate("a", Operator::Ready);
    a.lost().await;
    let again = now(quay(&pools)).unwrap();
    assert!(again.lost().now_or_never().is_none(), "began afterwards");
}

#[tokio::test(start_paused = true)]
async fn requests_that_fail_take_a_server_out_for_a_while() {
    let mut settings = settings(vec![server("a"), server("b")]);
    settings.passive = Some(Passive { failures: 2, server_errors: true, hold: Duration::from_secs(10) });
    let pools = started(settings, None).await;
    let pool = quay(&pools);
    let leases: Vec<Lease> = (0..4).map(|_| now(pool).unwrap()).collect();
    leases[0].failed(&"no answer");
    leases[1].answered(Some(500));
    leases[1].answered(Some(200));
    leases[2].answered(Some(503));
    leases[3].failed(&"no answer");
    let held = pool.view();
    assert_eq!([held.servers[0].state, held.servers[1].state], [ServerState::Held, ServerState::Up]);
    let next: Vec<Lease> = (0..3).map(|_| now(pool).unwrap()).collect();
    assert_eq!(names(&next), "b b b");
    // Nobody else is left: then rather this one than none.
    next[0].failed(&"no answer");
    assert!(!pool.available());
    let last = now(pool).unwrap();
    last.answered(Some(200));
    assert!(pool.available());

    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(pool.view().servers.iter().all(|server| server.state == ServerState::Up));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_comes_back_starts_slowly() {
    let mut settings = settings(vec![server("a"), server("b")]);
    settings.slow_start = Duration::from_secs(100);
    let pools = started(settings, None).await;
    let pool = quay(&pools);
    let of_100 = |pool: &Pool| {
        let leases: Vec<Lease> = (0..100).map(|_| now(pool).unwrap()).collect();
        leases.iter().filter(|lease| lease.server().name() == "a").count()
    };
    assert_eq!(of_100(pool), 50, "an edge that starts takes all for whole");
    pool.operate("a", Operator::Maintenance);
    pool.operate("a", Operator::Ready);
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(of_100(pool), 20, "a quarter against a whole");
    tokio::time::sleep(Duration::from_secs(80)).await;
    assert_eq!(of_100(pool), 50);
}

#[tokio::test]
async fn what_is_known_outlives_a_generation() {
    let first = started(settings(vec![with_places("a", 1), server("b")]), None).await;
    quay(&first).operate("b", Operator::Drain);
    quay(&first).set_weight("a", Some(7));
    let lease = now(quay(&first)).unwrap();
    let wish = Wish::default();
    let mut waiting = Box::pin(quay(&first).lease(&wish));
    assert!(waiting.as_mut().now_or_never().is_none());

    // A generation that is made and thrown away changes nothing.
    let metrics = Arc::new(Metrics::new().unwrap());
    drop(Pools::new(&[settings(vec![with_places("a", 5)])], Some(&first), &metrics).unwrap());
    assert!(waiting.as_mut().now_or_never().is_none());

    let second = started(settings(vec![with_places("a", 2), server("b"), server("c")]), Some(&first)).await;
    let view = quay(&second).view();
    assert_eq!(view.servers.iter().map(|server| server.active).collect::<Vec<_>>(), [1, 0, 0]);
    assert_eq!(view.servers[0].weight, 7);
    assert_eq!(view.servers[0].configured_weight, 1);
    assert_eq!(view.servers[1].operator, Operator::Drain);
    // The new configuration has a second place on it: for who waits under the old one, too.
    assert_eq!(waiting.await.unwrap().server().name(), "a");
    drop(lease);
    assert_eq!(quay(&second).view().servers[0].active, 0);
    quay(&second).set_weight("a", None);
    assert_eq!(quay(&second).view().servers[0].weight, 1);
}

#[tokio::test]
async fn a_pool_of_which_nothing_changes_stays_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.crt");
    let certificate = |name: &str| rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap().cert.pem();
    std::fs::write(&ca, certificate("a")).unwrap();
    let mut settings = settings(vec![server("a")]);
    settings.tls = Some(config::ServerTls { ca: Some(ca.clone()), ..config::ServerTls::default() });
    let first = started(settings.clone(), None).await;
    let second = started(settings.clone(), Some(&first)).await;
    assert!(Arc::ptr_eq(quay(&first), quay(&second)));
    std::fs::write(&ca, certificate("b")).unwrap();
    let third = started(settings.clone(), Some(&second)).await;
    assert!(!Arc::ptr_eq(quay(&second), quay(&third)), "its file is another");
    settings.retries += 1;
    let fourth = started(settings.clone(), Some(&third)).await;
    assert!(!Arc::ptr_eq(quay(&third), quay(&fourth)));
    assert!(
        Arc::ptr_eq(&quay(&first).servers()[0], &quay(&fourth).servers()[0]),
        "its servers are the same all the time"
    );
}

/// Nobody is forgotten in the line, and no server ever has more than it may have, however they come and go.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn places_are_kept_to_and_everybody_gets_one() {
    for balance in [Balance::RoundRobin, Balance::LeastConnections, Balance::Random, Balance::Hash(HashBy::Digest)] {
        let mut settings = settings(vec![with_places("a", 1), with_places("b", 2), with_places("c", 3)]);
        settings.queue_size = 100;
        settings.queue_timeout = Duration::from_secs(60);
        settings.balance = balance;
        let pools = Arc::new(started(settings, None).await);
        let served = (0..50).map(|number: usize| {
            let pools = Arc::clone(&pools);
            tokio::spawn(async move {
                let key = number.to_string();
                for round in 0..100 {
                    let wish = Wish { key: Some(&key), ..Wish::default() };
                    let waiting = quay(&pools).lease(&wish);
                    // Some give up; nobody else must suffer from it.
                    if round % 7 == 0 && number.is_multiple_of(3) {
                        drop(timeout(Duration::from_micros(50), waiting).await);
                        continue;
                    }
                    let lease = waiting.await.unwrap();
                    for server in quay(&pools).view().servers {
                        assert!(server.active <= server.max_connections.unwrap(), "{server:?}");
                    }
                    tokio::task::yield_now().await;
                    drop(lease);
                }
            })
        });
        for task in served.collect::<Vec<_>>() {
            timeout(Duration::from_secs(60), task).await.expect("somebody is forgotten").unwrap();
        }
        let view = quay(&pools).view();
        assert_eq!((view.queued, view.servers.iter().map(|server| server.active).sum::<usize>()), (0, 0));
    }
}

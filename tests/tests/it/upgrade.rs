//! Upgrade: another program takes the place of a running one, and nobody who is being served notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use pierhead_tests::eventually;
use pierhead_tests::image::Image;
use pierhead_tests::pierhead::{Pierhead, Setup, binary};
use pierhead_tests::process::run;
use pierhead_tests::registry::DockerRegistry;
use pierhead_tests::setup::Program;
use pierhead_tests::wire::Wire;
use rustix::process::Signal;
use serde_json::json;
use tokio::process::Command;

const MIB: u64 = 1 << 20;

/// An edge with a program of its own, before `registry`.
async fn start(upstream: String) -> (Pierhead, Program) {
    let setup = Setup::new().registry_with("up.test", upstream, json!({ "default": true }));
    let program = Program::installed(setup.dir.path());
    let edge = setup.program([program.path()]).set("/drain_timeout", "60s").start().await;
    (edge, program)
}

/// Upgrades in vain, and returns once the old process serves on.
async fn refused(edge: &Pierhead) {
    let mark = edge.log().len();
    edge.signal(Signal::USR2);
    eventually("not upgraded", Duration::from_secs(30), async || {
        edge.log().find(mark, |line| line.contains("not upgraded").then_some(()))
    })
    .await;
}

/// Clients that open a connection for each request.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(edge: &Pierhead, image: &Image) -> Load {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let clients = (0..4).map(|_| {
            let (client, digest) = (edge.client(), image.layers[0].digest);
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    client.manifest("team/app", "small").await.unwrap();
                    client.blob("team/app", &digest).await.unwrap();
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        Load { clients: clients.collect(), stop, served }
    }

    async fn more(&self) {
        let before = self.served.load(Ordering::Relaxed);
        eventually("answers", Duration::from_secs(20), async || {
            (self.served.load(Ordering::Relaxed) > before + 8).then_some(())
        })
        .await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_program_takes_over_while_the_old_one_finishes_its_pulls() {
    let registry = DockerRegistry::start().await;
    let (large, small) = (Image::new(1, &[6 << 20]), Image::new(2, &[100_000]));
    registry.push("team/app", "large", &large).await;
    registry.push("team/app", "small", &small).await;
    let wire = Wire::to(registry.address).await;
    let (mut edge, program) = start(wire.url()).await;
    edge.client().pull("team/app", "small").await.unwrap();
    edge.committed(&small.layers[0].digest).await;
    let before = wire.carried();
    wire.limit(MIB);
    let (client, digest) = (edge.client(), large.layers[0].digest);
    let pull = tokio::spawn(async move { client.blob("team/app", &digest).await });
    eventually("a pull that runs", Duration::from_secs(10), async || (wire.carried() > before + MIB).then_some(()))
        .await;
    let load = Load::start(&edge, &small);
    load.more().await;

    program.install();
    let successor = edge.upgrade().await;
    assert_ne!(successor.pid(), edge.pid());
    load.more().await;
    // What the old one had stored the new one has.
    let reply = edge.client().get(&format!("/v2/team/app/blobs/{}", small.layers[0].digest)).await;
    assert_eq!(edge.outcome_of(&reply).await, "hit");
    assert_eq!(edge.operator().get("/health/instance").await.status, 200);
    assert!(!pull.is_finished() && edge.running(), "the pull was over too soon to prove anything");
    pull.await.unwrap().unwrap();
    let status = edge.wait(Duration::from_secs(10)).await;
    assert!(status.success(), "{status}");
    load.more().await;
    load.end().await;

    // It stores as well, and can itself be taken over from: the whole blob is fetched once more.
    wire.limit(1 << 30);
    edge.client().pull("team/app", "large").await.unwrap();
    edge.committed(&large.layers[0].digest).await;
    let mark = edge.log().len();
    program.install();
    successor.signal(Signal::USR2);
    let third = edge.successor(mark).await;
    successor.wait(Duration::from_secs(10)).await;
    let before = wire.carried();
    edge.client().pull("team/app", "large").await.unwrap();
    assert!(wire.carried() < before + MIB, "fetched again");
    third.signal(Signal::TERM);
    third.wait(Duration::from_secs(10)).await;
    assert_eq!(edge.log().count(|line| line.contains("damaged") || line.contains("reconciling")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_serve_does_not_take_over() {
    let registry = DockerRegistry::start().await;
    for (tag, seed) in [("small", 1), ("two", 2), ("three", 3)] {
        registry.push("team/app", tag, &Image::new(seed, &[100_000])).await;
    }
    let small = Image::new(1, &[100_000]);
    let (mut edge, program) = start(registry.url()).await;
    edge.client().pull("team/app", "small").await.unwrap();
    let load = Load::start(&edge, &small);
    // No program, no edge, an edge of which the configuration is wrong.
    std::fs::remove_file(program.path()).unwrap();
    refused(&edge).await;
    program.spoil("exit 1");
    refused(&edge).await;
    program.install();
    edge.rewrite(|config| config["drain_wait"] = json!("soon"));
    refused(&edge).await;
    edge.rewrite(|config| config["drain_wait"] = json!("0s"));
    load.more().await;
    edge.client().pull("team/app", "two").await.unwrap();
    // One that gets as far as to be given the store, and then dies: the store is taken back, and works.
    program.spoil("printf o >&0; sleep 0.2; exit 1");
    refused(&edge).await;
    load.more().await;
    edge.client().pull("team/app", "three").await.unwrap();
    for tag in ["two", "three"] {
        for _ in 0..2 {
            edge.client().pull("team/app", tag).await.unwrap();
        }
    }
    let layer = Image::new(3, &[100_000]).layers[0].digest;
    edge.committed(&layer).await;
    let reply = edge.client().get(&format!("/v2/team/app/blobs/{layer}")).await;
    assert_eq!(edge.outcome_of(&reply).await, "hit");
    load.end().await;
    // Put right, it takes over, by a command this time.
    let operator = format!("http://{}", edge.admin);
    let mut upgrade = Command::new(binary());
    upgrade.args(["upgrade", "--address", &operator]);
    let output = run(upgrade, Duration::from_secs(60)).await.expect_failure();
    assert!(output.stderr.contains("not upgraded"), "{}", output.stderr);
    program.install();
    let mark = edge.log().len();
    let mut upgrade = Command::new(binary());
    upgrade.args(["upgrade", "--address", &operator]);
    let output = run(upgrade, Duration::from_secs(60)).await.expect_success();
    assert!(output.stdout.starts_with("upgraded: process "), "{}", output.stdout);
    let successor = edge.successor(mark).await;
    assert!(edge.wait(Duration::from_secs(10)).await.success());
    edge.client().pull("team/app", "three").await.unwrap();
    successor.signal(Signal::TERM);
    successor.wait(Duration::from_secs(10)).await;
}

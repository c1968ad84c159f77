//! pierhead as a side of a comparison: the release binary, its configuration, and how long it took to start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pierhead_registry::oci::Digest;
use pierhead_tests::eventually;
use pierhead_tests::launch::{alone, listening_at, says};
use pierhead_tests::pierhead::{Setup, binary, tells_of_panic};
use pierhead_tests::process::{Lines, Process};
use pierhead_tests::pull::Client;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::certificate::Certificate;
use crate::procfs::Server;

/// The registry's name in the configuration, and a part of every path.
const REGISTRY: &str = "registry.bench";
/// Longer than any start may take: one that takes longer is no number but a failure.
const START_LIMIT: Duration = Duration::from_secs(600);

/// A configuration in the making. What it does not say is pierhead's default.
pub(crate) struct Plan {
    setup: Setup,
}

impl Plan {
    /// Plain HTTP in front of an upstream.
    pub(crate) fn new(upstream: SocketAddr) -> Plan {
        let settings = json!({ "default": true, "tag_ttl": "1d" });
        let setup = Setup::new()
            .registry_with(REGISTRY, format!("http://{upstream}"), settings)
            .set("/cache/fsync", "always")
            .set("/cache/max_size", "20GiB");
        Plan { setup }
    }

    /// Plain HTTP in front of servers that it only forwards to, and checks every second.
    pub(crate) fn front(servers: &[SocketAddr]) -> Plan {
        let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
        let health = json!({ "kind": "tcp", "interval": "1s" });
        let setup = Setup::front()
            .pool(json!({ "name": "servers", "servers": servers, "health": health }))
            .set("/listeners/0/pool", "servers");
        Plan { setup }.set("/access_log", false)
    }

    /// Servers that everything is passed on to as it is, and that are checked every second.
    pub(crate) fn layer4(servers: &[SocketAddr]) -> Plan {
        Plan::front(servers).set("/listeners/0/mode", "tcp")
    }

    /// One more registry.
    pub(crate) fn registry(self, name: &str, upstream: String) -> Plan {
        Plan { setup: self.setup.registry(name, upstream) }
    }

    /// Sets a key, named as a JSON pointer.
    pub(crate) fn set(self, pointer: &str, value: impl Into<Value>) -> Plan {
        Plan { setup: self.setup.set(pointer, value) }
    }

    /// TLS instead, and no access log, as the peers have none.
    pub(crate) fn tls(self, certificate: &Certificate) -> Plan {
        let pair = json!({ "cert": certificate.cert, "key": certificate.key });
        self.set("/listeners/0/tls", json!({ "certificates": [pair] })).set("/access_log", false)
    }

    /// Where the cache will lie.
    pub(crate) fn cache(&self) -> PathBuf {
        self.setup.cache()
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn start(self) -> Edge {
        let lines = Lines::default();
        let (process, registry, started_in) = launch(&self.setup, &lines).await;
        Edge { process, plan: self, lines, registry, started_in }
    }
}

/// A running edge. Dropping it ends it and deletes its cache.
pub(crate) struct Edge {
    // Ends before its directory is deleted.
    process: Process,
    plan: Plan,
    lines: Lines,
    /// Where clients connect.
    pub(crate) registry: SocketAddr,
    /// From the start of the process to its being ready.
    pub(crate) started_in: Duration,
}

impl Edge {
    /// The process, for its CPU time and memory.
    pub(crate) fn server(&self) -> Server {
        Server(self.process.pid())
    }

    /// Its configuration, with the name of the scratch directory left out.
    pub(crate) fn settings(&self) -> String {
        let text = std::fs::read_to_string(self.plan.setup.write()).expect("configuration");
        text.replace(&self.plan.setup.dir.path().display().to_string(), "DIR")
    }

    /// Stops it in good order and starts it again; the new one's time to be ready is in `started_in`.
    pub(crate) async fn restart(&mut self, between: impl FnOnce()) {
        self.process.signal(Signal::TERM);
        let status = self.process.wait(Duration::from_secs(60)).await;
        assert!(status.success(), "pierhead ended with {status}:\n{}", self.lines.all().join("\n"));
        between();
        (self.process, self.registry, self.started_in) = launch(&self.plan.setup, &self.lines).await;
    }

    /// Where the cache lies.
    pub(crate) fn cache(&self) -> PathBuf {
        self.plan.cache()
    }

    /// Pulls a blob into the cache, over TLS, and checks its hash.
    pub(crate) async fn warm(&self, certificate: &Certificate, repository: &str, digest: &Digest) {
        let http = certificate.client().build().expect("client");
        let client = Client::new(format!("https://{}", self.registry)).over(http);
        client.blob(repository, digest).await.expect("pull");
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let panics = self.lines.count(tells_of_panic);
        if panics > 0 && !std::thread::panicking() {
            panic!("pierhead panicked:\n{}", self.lines.all().join("\n"));
        }
    }
}

async fn launch(setup: &Setup, lines: &Lines) -> (Process, SocketAddr, Duration) {
    let mut command = Command::new(binary());
    command.arg("serve").arg("--config").arg(setup.write());
    alone(&mut command);
    let mark = lines.len();
    let begun = Instant::now();
    let mut process = Process::start(command, lines.clone());
    let address = eventually("pierhead is ready", START_LIMIT, async || {
        let ended = process.ended();
        let ready = lines.find(mark, |line| says(line, "ready").then_some(()));
        if let (None, Some(status)) = (&ready, ended) {
            panic!("pierhead ended with {status}:\n{}", lines.all().join("\n"));
        }
        ready.and_then(|()| lines.find(mark, |line| listening_at(line, "registry")))
    })
    .await;
    (process, address, begun.elapsed())
}

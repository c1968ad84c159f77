//! The edge, as its users run it: a binary, a configuration file, a directory, signals, and what it says on
//! standard error.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use pierhead_registry::oci::Digest;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::eventually;
use crate::launch::{alone, fields, listening_at, says, until_ready};
use crate::process::{Lines, Orphan, Output, Process, run};
use crate::pull::{Client, Reply};
pub use crate::setup::{Setup, binary};

impl Setup {
    /// Starts the edge and waits until it is ready.
    pub async fn start(self) -> Pierhead {
        let lines = Lines::default();
        let (process, registry, admin) = launch(&self, &lines).await;
        Pierhead { setup: self, lines, process, registry, admin }
    }
}

async fn launch(setup: &Setup, lines: &Lines) -> (Process, SocketAddr, SocketAddr) {
    let mut command = Command::new(&setup.program[0]);
    command.args(&setup.program[1..]).arg("serve").arg("--config").arg(setup.write());
    alone(&mut command);
    command.envs(setup.variables.iter().map(|(name, value)| (name, value)));
    let mark = lines.len();
    let mut process = Process::start(command, lines.clone());
    let (registry, admin) = until_ready(&mut process, mark).await;
    (process, registry, admin)
}

/// A running edge. A panic in its log fails the test.
pub struct Pierhead {
    // Before its directory goes.
    process: Process,
    setup: Setup,
    lines: Lines,
    /// Where clients connect.
    pub registry: SocketAddr,
    /// Where operators connect.
    pub admin: SocketAddr,
}

impl Pierhead {
    /// Where a listener of this name listens.
    pub fn address(&self, listener: &str) -> SocketAddr {
        let found = self.lines.find(0, |line| listening_at(line, listener));
        found.unwrap_or_else(|| panic!("no listener {listener}:\n{}", self.lines.all().join("\n")))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits for the process that has taken over from it, once it was told to let one.
    pub async fn successor(&self, mark: usize) -> Orphan {
        eventually("a successor", Duration::from_secs(30), async || {
            self.lines.find(mark, |line| {
                let fields = fields(line).filter(|fields| fields["message"] == "ready")?;
                let process = fields["process"].as_u64()?;
                Some(Orphan::new(i32::try_from(process).unwrap()))
            })
        })
        .await
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Has it reload, and waits until it has.
    pub async fn reload(&self) {
        let mark = self.lines.len();
        self.signal(Signal::HUP);
        let reloaded = |line: &str| line.contains("configuration reloaded").then_some(());
        eventually("reloaded", Duration::from_secs(20), async || self.lines.find(mark, reloaded)).await;
    }

    /// Has it upgrade, and waits for the process that takes over.
    pub async fn upgrade(&self) -> Orphan {
        let mark = self.lines.len();
        self.signal(Signal::USR2);
        self.successor(mark).await
    }

    /// Writes its configuration anew, changed, for a reload.
    pub fn rewrite(&mut self, change: impl FnOnce(&mut Value)) {
        change(&mut self.setup.config);
        self.setup.write();
    }

    /// The base URL for clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.registry)
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        Client::new(self.url())
    }

    /// A client of the admin listener.
    pub fn operator(&self) -> Client {
        Client::new(format!("http://{}", self.admin))
    }

    /// The scratch directory.
    pub fn dir(&self) -> &Path {
        self.setup.dir.path()
    }

    /// Where the cache lies.
    pub fn cache(&self) -> PathBuf {
        self.setup.cache()
    }

    /// Where content lies once it is committed.
    pub fn path_of(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.cache().join("blobs").join(digest.algorithm().as_str()).join(&hex[..2]).join(&hex)
    }

    /// The file of committed content. The last byte goes out before the commit, so this waits for it.
    pub async fn committed(&self, digest: &Digest) -> PathBuf {
        let path = self.path_of(digest);
        eventually("a committed blob", Duration::from_secs(20), async || path.exists().then_some(())).await;
        path
    }

    /// Everything it has logged, earlier runs included.
    pub fn log(&self) -> &Lines {
        &self.lines
    }

    /// Access-log lines so far.
    pub fn access_log(&self) -> Vec<Value> {
        let lines = self.lines.all();
        lines.iter().filter_map(|line| serde_json::from_str(line).ok()).filter(is_access).collect()
    }

    /// Waits for an access-log line that satisfies `test`.
    pub async fn logged(&self, what: &str, test: impl Fn(&Value) -> bool) -> Value {
        eventually(what, Duration::from_secs(10), async || {
            self.lines.find(0, |line| {
                let event: Value = serde_json::from_str(line).ok()?;
                (is_access(&event) && test(&event)).then_some(event)
            })
        })
        .await
    }

    /// The access-log line of an answer.
    pub async fn line_of(&self, reply: &Reply) -> Value {
        let id = reply.header("x-request-id").to_owned();
        assert!(!id.is_empty(), "X-Request-Id: {:?}", reply.headers);
        self.logged(&format!("the access-log line of {id}"), |line| line["id"] == id.as_str()).await
    }

    /// The outcome of an answer, as the access log has it.
    pub async fn outcome_of(&self, reply: &Reply) -> String {
        self.line_of(reply).await["outcome"].as_str().unwrap().to_owned()
    }

    /// What `pierhead ctl` says about this edge.
    pub async fn ctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.args(["ctl", "--address", &format!("http://{}", self.admin)]).args(arguments);
        run(command, Duration::from_secs(30)).await
    }

    /// The sum of a metric's series that carry all these labels.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = String::from_utf8(self.operator().get("/metrics").await.body.to_vec()).unwrap();
        metric_in(&text, name, labels)
    }

    /// Waits until a metric satisfies `test`.
    pub async fn metric_until(&self, name: &str, labels: &[(&str, &str)], test: impl Fn(f64) -> bool) -> f64 {
        eventually(&format!("{name} {labels:?}"), Duration::from_secs(30), async || {
            Some(self.metric(name, labels).await).filter(|value| test(*value))
        })
        .await
    }

    /// Peak resident memory in bytes.
    pub fn peak_memory(&self) -> u64 {
        self.process.peak_memory()
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> u64 {
        self.process.memory()
    }

    /// How many files and sockets it has open.
    pub fn descriptors(&self) -> usize {
        self.process.descriptors()
    }

    /// Ends it as a power failure would.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Waits for it to end by itself.
    pub async fn wait(&mut self, within: Duration) -> ExitStatus {
        self.process.wait(within).await
    }

    /// Whether it runs.
    pub fn running(&mut self) -> bool {
        self.process.ended().is_none()
    }

    /// Asks it to end and waits until it has.
    pub async fn stop(&mut self) {
        self.terminate();
        let status = self.wait(Duration::from_secs(30)).await;
        assert!(status.success(), "ended with {status}:\n{}", self.lines.all().join("\n"));
    }

    /// Starts it again on the same cache, with the same addresses, after it has ended.
    pub async fn start_again(&mut self) {
        self.setup.put("/listeners/0/bind", json!(self.registry.to_string()));
        self.setup.put("/admin/bind", json!(self.admin.to_string()));
        let (process, ..) = launch(&self.setup, &self.lines).await;
        self.process = process;
    }

    /// Changes the configuration for the next start.
    pub fn reconfigure(&mut self, pointer: &str, value: impl Into<Value>) {
        self.setup.put(pointer, value.into());
    }

    /// Bytes that the files below the cache's directory occupy in blobs, manifests and partials, the index left out.
    pub fn disk_usage(&self) -> u64 {
        usage(&self.cache())
    }
}

impl Drop for Pierhead {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Nextest shows what a failed test wrote.
            eprintln!("--- the edge's log ---\n{}", self.lines.all().join("\n"));
        } else {
            assert_eq!(self.lines.count(tells_of_panic), 0, "{}", self.lines.all().join("\n"));
        }
    }
}

/// The sum of a metric's series that carry all these labels.
pub(crate) fn metric_in(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let wanted: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    text.lines()
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, labels) = series.split_once('{').unwrap_or((series, ""));
            (found == name && wanted.iter().all(|label| labels.contains(label.as_str())))
                .then(|| value.parse::<f64>().unwrap())
        })
        .sum()
}

/// Whether a line says that the edge panicked: in its log, or before there was one.
pub fn tells_of_panic(line: &str) -> bool {
    line.contains("panicked at") || says(line, "panic")
}

fn is_access(event: &Value) -> bool {
    event.get("outcome").is_some() && event.get("status").is_some()
}

/// Bytes of regular files below a directory, holes not counted, `index` directories left out.
pub fn usage(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            // Files come and go while this looks.
            Err(_) => 0,
            Ok(found) if found.is_dir() && entry.file_name() == "index" => 0,
            Ok(found) if found.is_dir() => usage(&entry.path()),
            Ok(found) => found.len().min(found.blocks() * 512),
        })
        .sum()
}

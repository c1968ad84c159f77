//! The origin, as its users run it: one node, or several over one database and one store.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::eventually;
use crate::launch::{alone, says, until_ready};
use crate::pierhead::tells_of_panic;
use crate::process::{Lines, Output, Process, run};
use crate::pull::{Client, Reply};
use crate::setup::built;

/// The origin's binary.
pub fn binary() -> PathBuf {
    built("pierhead-origin")
}

/// A configuration in the making: SQLite and files in a scratch directory, free ports of the loopback.
#[derive(Clone)]
pub struct Setup {
    /// Shared by all nodes.
    pub dir: Arc<TempDir>,
    config: Value,
    variables: Vec<(String, String)>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup::new()
    }
}

impl Setup {
    /// A node of its own.
    pub fn new() -> Setup {
        let dir = tempfile::Builder::new().prefix("pierhead-origin-").tempdir().unwrap();
        let config = json!({
            "hostname": "registry.test",
            "listener": { "bind": "127.0.0.1:0" },
            "admin": { "bind": "127.0.0.1:0" },
            "storage": { "file_system": { "path": dir.path().join("blobs") } },
            "database": { "sqlite": dir.path().join("meta.db") },
        });
        Setup { dir: Arc::new(dir), config, variables: Vec::new() }
    }

    /// Sets a key, named as a JSON pointer (`/limits/writes/running`).
    pub fn set(mut self, pointer: &str, value: impl Into<Value>) -> Setup {
        self.put(pointer, value.into());
        self
    }

    /// The metadata is there instead: see [`crate::postgres::Postgres::section`].
    pub fn database(self, section: Value) -> Setup {
        self.set("/database", section)
    }

    /// Blobs are there instead.
    pub fn storage(self, section: Value) -> Setup {
        self.set("/storage", section)
    }

    /// Sets a variable of its environment.
    pub fn variable(mut self, name: &str, value: impl Into<String>) -> Setup {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    fn put(&mut self, pointer: &str, value: Value) {
        let mut at = &mut self.config;
        for key in pointer.trim_start_matches('/').split('/') {
            at = &mut at[key];
        }
        *at = value;
    }

    /// Writes the configuration and returns its path. JSON is YAML.
    pub fn write(&self, file: &str) -> PathBuf {
        let path = self.dir.path().join(file);
        std::fs::write(&path, serde_json::to_string_pretty(&self.config).unwrap()).unwrap();
        path
    }

    /// Runs another command of the binary on this configuration: `check`, `user add …`.
    pub async fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.args(arguments).arg("--config").arg(self.write("command.yaml"));
        run(command, Duration::from_secs(60)).await
    }

    /// Makes an account with this password.
    pub async fn user(&self, name: &str, password: &str, arguments: &[&str]) {
        let file = self.dir.path().join(format!("password-of-{name}"));
        std::fs::write(&file, password).unwrap();
        let mut all = vec!["user", "add", name, "--password-file", file.to_str().unwrap()];
        all.extend(arguments);
        self.command(&all).await.expect_success();
    }

    /// Starts a node and waits until it is ready. Several may run at once where database and store can be shared.
    pub async fn start(&self) -> Origin {
        let mut origin = Origin {
            setup: self.clone(),
            lines: Lines::default(),
            file: String::new(),
            process: None,
            registry: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        origin.launch().await;
        origin
    }
}

/// A running node. A panic in its log fails the test.
pub struct Origin {
    // Before its directory goes.
    process: Option<Process>,
    setup: Setup,
    lines: Lines,
    /// The file of its configuration.
    file: String,
    /// Where clients connect; the same after a restart.
    pub registry: SocketAddr,
    /// Where operators connect.
    pub admin: SocketAddr,
}

impl Origin {
    async fn launch(&mut self) {
        self.file = format!("origin-{}.yaml", rand::random::<u64>());
        let mut command = Command::new(binary());
        command.arg("serve").arg("--config").arg(self.setup.write(&self.file));
        alone(&mut command);
        command.envs(self.setup.variables.iter().map(|(name, value)| (name, value)));
        let mark = self.lines.len();
        let mut process = Process::start(command, self.lines.clone());
        (self.registry, self.admin) = until_ready(&mut process, mark).await;
        self.process = Some(process);
    }

    /// Its base URL.
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

    /// A client with a token of this account for these scopes.
    pub async fn login(&self, user: &str, password: &str, scopes: &[&str]) -> Client {
        self.client().bearer(self.token(user, password, scopes).await)
    }

    /// A token of this account for these scopes.
    pub async fn token(&self, user: &str, password: &str, scopes: &[&str]) -> String {
        let scopes: String = scopes.iter().map(|scope| format!("&scope={scope}")).collect();
        let reply = self.client().login(user, password).get(&format!("/v2/auth?service=registry.test{scopes}")).await;
        assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
        let answer: Value = serde_json::from_slice(&reply.body).unwrap();
        answer["token"].as_str().unwrap().to_owned()
    }

    /// The scratch directory.
    pub fn dir(&self) -> &Path {
        self.setup.dir.path()
    }

    /// What it was started with.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Everything it has logged, earlier runs included.
    pub fn log(&self) -> &Lines {
        &self.lines
    }

    /// Waits for a line of the log that has this message.
    pub async fn says(&self, mark: usize, message: &str) {
        eventually(message, Duration::from_secs(20), async || {
            self.lines.find(mark, |line| says(line, message).then_some(()))
        })
        .await;
    }

    /// Waits for an access-log line that satisfies `test`.
    pub async fn logged(&self, what: &str, test: impl Fn(&Value) -> bool) -> Value {
        eventually(what, Duration::from_secs(10), async || {
            self.lines.find(0, |line| {
                let event: Value = serde_json::from_str(line).ok()?;
                (event.get("route").is_some() && test(&event)).then_some(event)
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

    /// The sum of a metric's series that carry all these labels.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = String::from_utf8(self.operator().get("/metrics").await.body.to_vec()).unwrap();
        crate::pierhead::metric_in(&text, name, labels)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process().signal(signal);
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process().pid()
    }

    /// Peak resident memory in bytes.
    pub fn peak_memory(&self) -> u64 {
        self.process().peak_memory()
    }

    /// Ends it as a power failure would.
    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await;
        }
    }

    /// Asks it to end and waits until it has.
    pub async fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait(Duration::from_secs(30)).await;
        assert!(status.success(), "ended with {status}:\n{}", self.lines.all().join("\n"));
    }

    /// Waits for it to end by itself.
    pub async fn wait(&mut self, within: Duration) -> ExitStatus {
        let status = self.process.as_mut().expect("running").wait(within).await;
        self.process = None;
        status
    }

    /// Starts it again, at the same addresses, after it has ended.
    pub async fn start_again(&mut self) {
        self.setup.put("/listener/bind", json!(self.registry.to_string()));
        self.setup.put("/admin/bind", json!(self.admin.to_string()));
        self.launch().await;
    }

    /// Changes the configuration for the next start.
    pub fn reconfigure(&mut self, pointer: &str, value: impl Into<Value>) {
        self.setup.put(pointer, value.into());
    }

    /// Changes the configuration under the running process; a SIGHUP makes it look.
    pub fn rewrite(&mut self, pointer: &str, value: impl Into<Value>) {
        self.reconfigure(pointer, value);
        self.setup.write(&self.file);
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("running")
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the origin's log ---\n{}", self.lines.all().join("\n"));
        } else {
            assert_eq!(self.lines.count(tells_of_panic), 0, "{}", self.lines.all().join("\n"));
        }
    }
}

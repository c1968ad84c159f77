//! A PostgreSQL server of a test's own: Debian's, in a scratch directory, over TCP only.
//!
//! It refuses to run as root, so a test that is root has it run as `postgres`.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Signal, geteuid};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::eventually;
use crate::process::{Lines, Process, run};
use crate::server::certificate;

/// Its only user.
const USER: &str = "origin";
const PASSWORD: &str = "a password of the test's own";

/// A running server and its data.
pub struct Postgres {
    /// Where it listens; the same after a restart.
    pub address: SocketAddr,
    // Before its directory goes.
    process: Option<Process>,
    lines: Lines,
    /// More of its settings.
    settings: Vec<String>,
    dir: TempDir,
}

impl Postgres {
    /// A new one, with a database `origin`.
    pub async fn start() -> Postgres {
        Postgres::start_with(None).await
    }

    /// One that talks TLS and nothing else, as these names; and the certificate that vouches for it.
    pub async fn start_with_tls(names: &[&str]) -> (Postgres, PathBuf) {
        let postgres = Postgres::start_with(Some(names)).await;
        let authority = postgres.dir.path().join(format!("{}.crt", names[0]));
        (postgres, authority)
    }

    async fn start_with(tls: Option<&[&str]>) -> Postgres {
        let dir = tempfile::Builder::new().prefix("pierhead-postgres-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let password = dir.path().join("password");
        std::fs::write(&password, PASSWORD).unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        own(&data).await;
        let mut init = command("initdb");
        init.args(["--no-sync", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--username", USER])
            .arg(format!("--pwfile={}", password.display()))
            .arg(&data);
        run(init, Duration::from_secs(60)).await.expect_success();
        let mut settings = Vec::new();
        if let Some(names) = tls {
            let (cert, key, _) = certificate(dir.path(), names);
            // It reads no key that others could.
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
            own(&key).await;
            std::fs::write(data.join("pg_hba.conf"), "hostssl all all 127.0.0.1/32 scram-sha-256\n").unwrap();
            settings = vec![
                "ssl=on".to_owned(),
                format!("ssl_cert_file={}", cert.display()),
                format!("ssl_key_file={}", key.display()),
            ];
        }
        // It cannot say which port it took, so a free one is looked for, and somebody may be faster.
        let mut address = free();
        let mut postgres = Postgres { address, process: None, lines: Lines::default(), settings, dir };
        for _ in 0..10 {
            if postgres.launch().await {
                postgres.create_database().await;
                return postgres;
            }
            address = free();
            postgres.address = address;
        }
        panic!("PostgreSQL does not start:\n{}", postgres.lines.all().join("\n"));
    }

    async fn launch(&mut self) -> bool {
        let mut server = command("postgres");
        server.arg("-D").arg(self.dir.path().join("data"));
        for setting in [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", self.address.port()),
            "unix_socket_directories=".to_owned(),
            "max_connections=200".to_owned(),
            "shared_buffers=32MB".to_owned(),
            // A test kills processes, not machines.
            "fsync=off".to_owned(),
        ]
        .iter()
        .chain(&self.settings)
        {
            server.arg("-c").arg(setting);
        }
        let mark = self.lines.len();
        let mut process = Process::start(server, self.lines.clone());
        let lines = self.lines.clone();
        let up = eventually("PostgreSQL listens", Duration::from_secs(30), async || {
            if process.ended().is_some() {
                return Some(false);
            }
            lines.find(mark, |line| line.contains("ready to accept connections").then_some(true))
        })
        .await;
        self.process = Some(process);
        up
    }

    async fn create_database(&self) {
        let mut create = command("createdb");
        create
            .args(["--host", "127.0.0.1", "--port", &self.address.port().to_string(), "--username", USER, "origin"])
            .env("PGPASSWORD", PASSWORD);
        run(create, Duration::from_secs(30)).await.expect_success();
    }

    /// The `database` section of an origin that uses it.
    pub fn section(&self) -> Value {
        json!({
            "postgres": format!("postgres://{USER}@{}/origin", self.address),
            "password": PASSWORD,
            "tls": "disable",
        })
    }

    /// Ends it at once, as a crash would: connections break.
    pub async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Its children must not outlive it, or the next start waits for them.
            process.signal(Signal::QUIT);
            process.wait(Duration::from_secs(30)).await;
        }
    }

    /// Starts it again, on the same port and the same data.
    pub async fn restart(&mut self) {
        self.stop().await;
        assert!(self.launch().await, "PostgreSQL does not start again:\n{}", self.lines.all().join("\n"));
    }

    /// Runs a statement and returns what `psql` prints of its rows.
    pub async fn query(&self, statement: &str) -> String {
        let mut psql = command("psql");
        psql.args(["--host", "127.0.0.1", "--port", &self.address.port().to_string(), "--username", USER])
            .args(["--no-psqlrc", "--tuples-only", "--no-align", "--command", statement, "origin"])
            .env("PGPASSWORD", PASSWORD);
        run(psql, Duration::from_secs(30)).await.expect_success().stdout
    }
}

/// Gives a file to whoever runs the server.
async fn own(path: &Path) {
    if geteuid().is_root() {
        let mut chown = Command::new("chown");
        chown.arg("postgres").arg(path);
        run(chown, Duration::from_secs(10)).await.expect_success();
    }
}

/// One of PostgreSQL's programs, which Debian keeps out of the path, as somebody whom it lets run.
fn command(program: &str) -> Command {
    let program = installed(program);
    if !geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    // Its clients look for certificates there, and root's is no place for them.
    command.env("HOME", "/nonexistent");
    // Goes with the test that started it.
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=QUIT"]).arg(program);
    command
}

fn installed(program: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|version| version.path().join("bin").join(program)).collect();
    found.retain(|path| path.exists());
    found.sort();
    found.pop().unwrap_or_else(|| Path::new(program).to_owned())
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

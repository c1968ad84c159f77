//! A Docker daemon of its own: Debian's docker.io, without a bridge and without a change to the firewall.
//!
//! Everything it keeps lies in a scratch directory, so several run at once. What it would fetch past its mirrors goes to a
//! proxy that is not there: a pull that leaves the edge fails, and never reaches the Docker Hub.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use crate::eventually;
use crate::process::{Lines, Output, Process, run};

/// A pull of anything in these tests is far from this long.
const PATIENCE: Duration = Duration::from_secs(240);

/// A running daemon and its client. Dropping it stops the daemon, which stops its containerd.
pub struct Docker {
    process: Option<Process>,
    dir: TempDir,
}

impl Docker {
    /// Starts a daemon with these `registry-mirrors`.
    pub async fn start(mirrors: &[String]) -> Docker {
        let dir = tempfile::Builder::new().prefix("pierhead-docker-").tempdir().unwrap();
        let path = dir.path();
        std::fs::create_dir(path.join("client")).unwrap();
        let config = json!({ "registry-mirrors": mirrors, "storage-driver": "vfs" });
        std::fs::write(path.join("daemon.json"), config.to_string()).unwrap();
        let mut command = Command::new("dockerd");
        command
            .args(["--bridge=none", "--iptables=false", "--config-file"])
            .arg(path.join("daemon.json"))
            .arg("--data-root")
            .arg(path.join("data"))
            .arg("--exec-root")
            .arg(path.join("exec"))
            .arg("--pidfile")
            .arg(path.join("dockerd.pid"))
            .arg("--host")
            .arg(address(path));
        for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
            command.env(proxy, "http://127.0.0.1:1");
        }
        command.env("NO_PROXY", "localhost,127.0.0.1").env("no_proxy", "localhost,127.0.0.1");
        let mut process = Process::start(command, Lines::default());
        let socket = path.join("docker.sock");
        eventually("dockerd listens", Duration::from_secs(60), async || {
            assert!(process.ended().is_none(), "dockerd ended:\n{}", process.lines.all().join("\n"));
            tokio::net::UnixStream::connect(&socket).await.ok()
        })
        .await;
        Docker { process: Some(process), dir }
    }

    /// Runs a `docker` command.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("docker");
        command
            .arg("--config")
            .arg(self.dir.path().join("client"))
            .arg("--host")
            .arg(address(self.dir.path()))
            .args(arguments);
        run(command, PATIENCE).await
    }

    /// Pulls.
    pub async fn pull(&self, image: &str) -> Output {
        self.run(&["pull", "--quiet", image]).await
    }

    /// The ID of an image that it has: the digest of its configuration.
    pub async fn id(&self, image: &str) -> String {
        let output = self.run(&["image", "inspect", "--format", "{{.Id}}", image]).await.expect_success();
        output.stdout.trim().to_owned()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        // Killed, it would leave its containerd behind.
        process.signal(Signal::TERM);
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while process.ended().is_none() && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if std::thread::panicking() {
            eprintln!("--- dockerd's log ---\n{}", process.lines.all().join("\n"));
        }
    }
}

fn address(dir: &Path) -> String {
    format!("unix://{}", dir.join("docker.sock").display())
}

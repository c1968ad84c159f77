//! dnsmasq, whose answers a test changes while it runs.

use std::net::SocketAddr;

use rustix::process::Signal;
use tokio::process::Command;

use crate::server::Server;

/// A running name server for the domain `test`. What it does not know, it says does not exist.
pub struct NameServer {
    server: Server,
}

impl NameServer {
    /// One that knows nothing yet.
    pub async fn start() -> NameServer {
        let server = Server::start(1, |dir, ports| {
            let file = |name: &str| {
                let path = dir.join(name);
                std::fs::OpenOptions::new().append(true).create(true).open(&path).unwrap();
                path
            };
            let mut command = Command::new("dnsmasq");
            command.args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--local=/test/", "--local-ttl=1"]);
            command.args(["--listen-address=127.0.0.1", "--bind-interfaces", "--user=root", "--log-facility=-"]);
            command.arg(format!("--port={}", ports[0])).arg(format!("--pid-file={}", dir.join("pid").display()));
            command.arg(format!("--addn-hosts={}", file("hosts").display()));
            command.arg(format!("--conf-file={}", file("dnsmasq.conf").display()));
            command
        })
        .await;
        NameServer { server }
    }

    /// Where it is asked.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// From here on these names have these addresses, and no others have any.
    pub fn set(&self, addresses: &[(&str, &str)]) {
        let lines: String = addresses.iter().map(|(name, address)| format!("{address} {name}\n")).collect();
        std::fs::write(self.server.dir().join("hosts"), lines).unwrap();
        self.server.signal(Signal::HUP);
    }

    /// Further lines of its configuration, such as `srv-host=…`, after its next start.
    pub fn configure(&self, lines: &str) {
        std::fs::write(self.server.dir().join("dnsmasq.conf"), lines).unwrap();
    }

    /// Ends it.
    pub async fn stop(&mut self) {
        self.server.kill().await;
    }

    /// Starts it again where it was.
    pub async fn start_again(&mut self) {
        self.server.start_again().await;
    }
}

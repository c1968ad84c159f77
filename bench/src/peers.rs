//! The peers, as Debian packages them, started from the templates in `bench/peers` on free ports.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use pierhead_tests::eventually;
use pierhead_tests::process::{Lines, Process};
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::machine;
use crate::procfs::Server;

/// A template: its name in the report, its text, and how its program is run.
struct Template {
    text: &'static str,
    file: &'static str,
    command: fn(&Path) -> Command,
}

const NGINX: Template = Template { text: include_str!("../peers/nginx.conf"), file: "nginx.conf", command: nginx };
const HAPROXY: Template =
    Template { text: include_str!("../peers/haproxy.cfg"), file: "haproxy.cfg", command: haproxy };
const HAPROXY_FRONT: Template =
    Template { text: include_str!("../peers/haproxy-front.cfg"), file: "haproxy-front.cfg", command: haproxy };
const HAPROXY_LAYER4: Template =
    Template { text: include_str!("../peers/haproxy-layer4.cfg"), file: "haproxy-layer4.cfg", command: haproxy };
const DOCKER_REGISTRY: Template = Template {
    text: include_str!("../peers/docker-registry.yml"),
    file: "docker-registry.yml",
    command: docker_registry,
};

const DOCKER_REGISTRY_ORIGIN: Template = Template {
    text: include_str!("../peers/docker-registry-origin.yml"),
    file: "docker-registry-origin.yml",
    command: docker_registry,
};

fn nginx(file: &Path) -> Command {
    let mut command = Command::new("nginx");
    command.arg("-e").arg(file.with_file_name("nginx.err")).arg("-c").arg(file);
    command
}

fn haproxy(file: &Path) -> Command {
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f"]).arg(file);
    command
}

fn docker_registry(file: &Path) -> Command {
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(file).env("OTEL_TRACES_EXPORTER", "none");
    command
}

/// A running peer. Dropping it ends it.
pub(crate) struct Peer {
    process: Process,
    ports: Vec<(&'static str, u16)>,
    /// Its configuration, with the name of the scratch directory left out.
    pub(crate) settings: String,
}

impl Peer {
    /// nginx: `FILE_PORT` and `FILE_TLS_PORT` serve `dir`/www, `CACHE_TLS_PORT` caches what `upstream` serves.
    pub(crate) async fn nginx(dir: &Path, upstream: SocketAddr) -> Peer {
        std::fs::create_dir_all(dir.join("www")).expect("scratch directory");
        start(&NGINX, dir, &[upstream], &["FILE_PORT", "FILE_TLS_PORT", "CACHE_TLS_PORT"]).await
    }

    /// haproxy: `CACHE_TLS_PORT` caches what `upstream` serves.
    pub(crate) async fn haproxy(dir: &Path, upstream: SocketAddr) -> Peer {
        start(&HAPROXY, dir, &[upstream], &["CACHE_TLS_PORT"]).await
    }

    /// haproxy before servers that it checks every second: `PROXY_TLS_PORT`, and `PROXY_PORT` without TLS.
    pub(crate) async fn haproxy_front(dir: &Path, servers: &[SocketAddr]) -> Peer {
        start(&HAPROXY_FRONT, dir, servers, &["PROXY_TLS_PORT", "PROXY_PORT"]).await
    }

    /// haproxy before servers that it passes everything on to, on `PROXY_PORT`.
    pub(crate) async fn haproxy_layer4(dir: &Path, servers: &[SocketAddr]) -> Peer {
        start(&HAPROXY_LAYER4, dir, servers, &["PROXY_PORT"]).await
    }

    /// docker-registry as a pull-through cache, on `PORT`.
    pub(crate) async fn docker_registry(dir: &Path, upstream: SocketAddr) -> Peer {
        start(&DOCKER_REGISTRY, dir, &[upstream], &["PORT"]).await
    }

    /// docker-registry to push to, on `PORT`. It trusts the token service whose certificate is `dir`/issuer.pem.
    pub(crate) async fn docker_registry_origin(dir: &Path, tokens: SocketAddr) -> Peer {
        start(&DOCKER_REGISTRY_ORIGIN, dir, &[tokens], &["PORT"]).await
    }

    /// Where it listens.
    pub(crate) fn address(&self, port: &str) -> SocketAddr {
        let (_, port) = self.ports.iter().find(|(name, _)| *name == port).expect("a port of this peer");
        ([127, 0, 0, 1], *port).into()
    }

    /// The process, for its CPU time and memory.
    pub(crate) fn server(&self) -> Server {
        Server(self.process.pid())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // nginx ends its workers on SIGTERM; killed by SIGKILL it would leave them behind.
        if self.process.ended().is_none() {
            self.process.signal(Signal::TERM);
            let deadline = std::time::Instant::now() + Duration::from_secs(5);
            while self.process.ended().is_none() && std::time::Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// They cannot say which port they took, so free ones are looked for, and somebody may be faster.
async fn start(template: &Template, dir: &Path, servers: &[SocketAddr], names: &[&'static str]) -> Peer {
    let lines = Lines::default();
    for _ in 0..10 {
        let ports: Vec<(&'static str, u16)> = names.iter().copied().zip(free_ports(names.len())).collect();
        let text = render(template.text, dir, servers, &ports);
        let file = dir.join(template.file);
        std::fs::write(&file, &text).expect("scratch file");
        let process = Process::start((template.command)(&file), lines.clone());
        let settings = text.replace(&dir.display().to_string(), "DIR");
        let mut peer = Peer { process, ports, settings };
        if listens(&mut peer).await {
            return peer;
        }
    }
    panic!("{} does not start:\n{}", template.file, lines.all().join("\n"));
}

async fn listens(peer: &mut Peer) -> bool {
    let addresses: Vec<SocketAddr> = peer.ports.iter().map(|(name, _)| peer.address(name)).collect();
    for address in addresses {
        let up = eventually("a peer listens", Duration::from_secs(20), async || {
            if peer.process.ended().is_some() {
                return Some(false);
            }
            TcpStream::connect(address).await.ok().map(|_| true)
        })
        .await;
        if !up {
            return false;
        }
    }
    peer.process.ended().is_none()
}

/// Ports that were free, all at once, a moment ago.
fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("free port")).collect();
    held.iter().map(|listener| listener.local_addr().expect("port").port()).collect()
}

fn render(template: &str, dir: &Path, servers: &[SocketAddr], ports: &[(&str, u16)]) -> String {
    let lines: Vec<String> = servers
        .iter()
        .enumerate()
        .map(|(number, server)| format!("  server s{number} {server} check inter 1s"))
        .collect();
    let mut text = template
        .replace("@DIR@", &dir.display().to_string())
        .replace("@UPSTREAM@", &servers.first().map(ToString::to_string).unwrap_or_default())
        .replace("@SERVERS@", &lines.join("\n"))
        .replace("@THREADS@", &machine::threads().to_string());
    for (name, port) in ports {
        text = text.replace(&format!("@{name}@"), &port.to_string());
    }
    assert!(!text.contains('@'), "a template has a gap that nothing fills:\n{text}");
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{free_ports, render};

    #[test]
    fn every_gap_is_filled() {
        let servers = [([127, 0, 0, 1], 5000).into(), ([127, 0, 0, 1], 5001).into()];
        let text = render("d @DIR@ u @UPSTREAM@ p @PORT@\n@SERVERS@", Path::new("/s"), &servers, &[("PORT", 7)]);
        let lines = "  server s0 127.0.0.1:5000 check inter 1s\n  server s1 127.0.0.1:5001 check inter 1s";
        assert_eq!(text, format!("d /s u 127.0.0.1:5000 p 7\n{lines}"));
    }

    #[test]
    #[should_panic(expected = "@OTHER@")]
    fn a_gap_that_stays_is_an_error() {
        render("@OTHER@", Path::new("/s"), &[([127, 0, 0, 1], 5000).into()], &[("PORT", 7)]);
    }

    #[test]
    fn ports_differ() {
        let mut ports = free_ports(8);
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);
    }
}

//! Debian's servers behind the edge, and in front of it: redis, nginx, haproxy. They cannot say which ports they took, so
//! free ones are looked for, and somebody may be faster.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::eventually;
use crate::process::{Lines, Output, Process, run};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes a command of a scratch directory and ports.
type Make = dyn Fn(&Path, &[u16]) -> Command + Send + Sync;

/// A running server and its files.
pub struct Server {
    /// Where it listens: as many as were asked for.
    pub addresses: Vec<SocketAddr>,
    // Before its directory goes.
    process: Process,
    make: Box<Make>,
    dir: TempDir,
}

impl Server {
    /// Starts what `make` makes of a scratch directory and so many free ports, and waits until it listens on all of them.
    pub async fn start(ports: usize, make: impl Fn(&Path, &[u16]) -> Command + Send + Sync + 'static) -> Server {
        let dir = tempfile::Builder::new().prefix("pierhead-server-").tempdir().unwrap();
        let lines = Lines::default();
        for _ in 0..10 {
            let ports = free_ports(ports);
            let addresses: Vec<SocketAddr> = ports.iter().map(|port| (Ipv4Addr::LOCALHOST, *port).into()).collect();
            let mut process = Process::start(make(dir.path(), &ports), lines.clone());
            if listens(&mut process, &addresses).await {
                return Server { addresses, process, make: Box::new(make), dir };
            }
        }
        panic!("does not start:\n{}", lines.all().join("\n"));
    }

    /// redis-server that writes nothing to disk, with further arguments (`--requirepass x`).
    pub async fn redis(arguments: &'static [&'static str]) -> Server {
        Server::start(1, move |dir, ports| {
            let mut command = Command::new("redis-server");
            command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &ports[0].to_string()]);
            command.arg("--dir").arg(dir).args(arguments);
            command
        })
        .await
    }

    /// nginx with these `server` blocks and whatever else belongs into `http`. `@DIR@`, and `@PORT@`, `@PORT1@` … are
    /// filled in.
    pub async fn nginx(ports: usize, http: &str) -> Server {
        let text = format!(
            "daemon off; master_process off; error_log stderr warn; pid @DIR@/nginx.pid;\nevents {{}}\nhttp {{\n\
             access_log off; client_body_temp_path @DIR@/body; proxy_temp_path @DIR@/proxy; \
             fastcgi_temp_path @DIR@/fastcgi; uwsgi_temp_path @DIR@/uwsgi; scgi_temp_path @DIR@/scgi;\n{http}\n}}\n"
        );
        Server::start(ports, move |dir, ports| {
            let mut command = Command::new("nginx");
            command.args(["-e", "stderr", "-c"]).arg(fill(&text, dir, "nginx.conf", ports));
            command
        })
        .await
    }

    /// haproxy with this configuration; see [`Server::nginx`].
    pub async fn haproxy(ports: usize, text: &str) -> Server {
        let text = text.to_owned();
        Server::start(ports, move |dir, ports| {
            let mut command = Command::new("haproxy");
            command.args(["-db", "-f"]).arg(fill(&text, dir, "haproxy.cfg", ports));
            command
        })
        .await
    }

    /// Where it listens; the first, where there are several.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Its scratch directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Ends it at once.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Starts it again where it was.
    pub async fn start_again(&mut self) {
        let ports: Vec<u16> = self.addresses.iter().map(SocketAddr::port).collect();
        let lines = self.process.lines.clone();
        self.process = Process::start((self.make)(self.dir.path(), &ports), lines.clone());
        assert!(listens(&mut self.process, &self.addresses).await, "not again:\n{}", lines.all().join("\n"));
    }
}

/// Runs redis-cli against an address.
pub async fn redis_cli(address: SocketAddr, arguments: &[&str]) -> Output {
    let mut command = Command::new("redis-cli");
    command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()]).args(arguments);
    run(command, Duration::from_secs(30)).await
}

/// Writes a self-signed certificate for these names, and its key; the certificate's file, the key's, and its text. It is good
/// for a season, as those of authorities are.
pub fn certificate(dir: &Path, names: &[&str]) -> (PathBuf, PathBuf, String) {
    certificate_from_to(dir, names, SystemTime::now() - DAY, SystemTime::now() + 90 * DAY)
}

/// The same, good at another time.
pub fn certificate_from_to(dir: &Path, names: &[&str], from: SystemTime, to: SystemTime) -> (PathBuf, PathBuf, String) {
    let date = |time: SystemTime| date_time_ymd(1970, 1, 1) + time.duration_since(UNIX_EPOCH).unwrap();
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    (params.not_before, params.not_after) = (date(from), date(to));
    let key = KeyPair::generate().unwrap();
    let made = params.self_signed(&key).unwrap();
    let file = |ending: &str| dir.join(format!("{}.{ending}", names[0]));
    std::fs::write(file("crt"), made.pem()).unwrap();
    std::fs::write(file("key"), key.serialize_pem()).unwrap();
    (file("crt"), file("key"), made.pem())
}

async fn listens(process: &mut Process, addresses: &[SocketAddr]) -> bool {
    for address in addresses {
        let up = eventually("a server listens", Duration::from_secs(20), async || {
            if process.ended().is_some() {
                return Some(false);
            }
            TcpStream::connect(address).await.ok().map(|_| true)
        })
        .await;
        if !up {
            return false;
        }
    }
    process.ended().is_none()
}

/// Ports that were free, all at once, a moment ago.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

fn fill(text: &str, dir: &Path, name: &str, ports: &[u16]) -> PathBuf {
    let mut text = text.replace("@DIR@", &dir.display().to_string());
    for (number, port) in ports.iter().enumerate() {
        let gap = if number == 0 { "@PORT@".to_owned() } else { format!("@PORT{number}@") };
        text = text.replace(&gap, &port.to_string());
    }
    let file = dir.join(name);
    std::fs::write(&file, text).unwrap();
    file
}

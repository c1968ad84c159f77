//! A Ceph object gateway from Debian's packages, with all that it stands on: one monitor, one manager, one OSD that keeps its
//! objects in memory. Everything listens on the loopback and ends with the test.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use pierhead_registry::store::{S3Settings, UploadId};
use tempfile::TempDir;
use tokio::process::Command;

use crate::eventually;
use crate::process::{Lines, Output, Process, run};
use crate::server::free_ports;

const ACCESS_KEY: &str = "AKIDCEPH";
const SECRET_KEY: &str = "a-secret-of-the-tests";
const BUCKET: &str = "blobs";
/// For each step on the way up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running gateway with an empty bucket.
pub struct Ceph {
    /// Where the gateway listens.
    pub address: SocketAddr,
    // The gateway first, the monitor last, and then their directory.
    _gateway: Process,
    _osd: Process,
    _manager: Process,
    _monitor: Process,
    _dir: TempDir,
}

impl Ceph {
    /// Starts everything, which takes some ten seconds.
    pub async fn start() -> Ceph {
        let dir = tempfile::Builder::new().prefix("pierhead-ceph-").tempdir().unwrap();
        let at = dir.path();
        let ports = free_ports(3);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports[2]));
        for name in ["mon", "mgr", "osd", "rgw", "run", "log"] {
            std::fs::create_dir(at.join(name)).unwrap();
        }
        let id = UploadId::random();
        std::fs::write(at.join("ceph.conf"), config(at, id.as_str(), ports[0], ports[1])).unwrap();
        let keyring = at.join("keyring").display().to_string();
        let map = at.join("monmap").display().to_string();
        tool("ceph-authtool", &["-C", &keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"]).await;
        for name in ["client.admin", "mgr.x", "client.rgw", "osd.0"] {
            let all = ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"];
            tool("ceph-authtool", &[&[keyring.as_str(), "--gen-key", "-n", name], &all[..]].concat()).await;
        }
        let monitors = format!("[v2:127.0.0.1:{},v1:127.0.0.1:{}]", ports[0], ports[1]);
        tool("monmaptool", &["--create", "--fsid", id.as_str(), "--addv", "a", &monitors, &map]).await;
        ceph(at, "ceph-mon", &["-i", "a", "--mkfs", "--monmap", &map, "--keyring", &keyring]).await;
        let monitor = daemon(at, "ceph-mon", &["-i", "a"]);
        let manager = daemon(at, "ceph-mgr", &["-i", "x"]);
        let osd = UploadId::random();
        ceph(at, "ceph", &["osd", "new", osd.as_str()]).await;
        ceph(at, "ceph-osd", &["-i", "0", "--mkfs", "--osd-uuid", osd.as_str()]).await;
        let osd = daemon(at, "ceph-osd", &["-i", "0"]);
        let frontend = format!("--rgw-frontends=beast endpoint={address}");
        let mut gateway = daemon(at, "radosgw", &["-n", "client.rgw", &frontend]);
        eventually("the gateway answers", PATIENCE, async || {
            assert!(gateway.ended().is_none(), "radosgw has ended:\n{}", gateway.lines.all().join("\n"));
            reqwest::get(format!("http://{address}/")).await.ok().filter(|answer| answer.status() == 200)
        })
        .await;
        let account = ["--uid=pierhead", "--display-name=pierhead"];
        let keys = [format!("--access-key={ACCESS_KEY}"), format!("--secret-key={SECRET_KEY}")];
        let create = [&["user", "create"], &account[..], &[keys[0].as_str(), keys[1].as_str()]].concat();
        ceph(at, "radosgw-admin", &create).await;
        let gateway = Ceph { address, _gateway: gateway, _osd: osd, _manager: manager, _monitor: monitor, _dir: dir };
        gateway.make_bucket().await;
        gateway
    }

    /// How a driver reaches it.
    pub fn settings(&self) -> S3Settings {
        S3Settings {
            endpoint: Some(format!("http://{}", self.address).parse().unwrap()),
            bucket: BUCKET.to_owned(),
            prefix: "datastorage/registry".to_owned(),
            credentials: Some((ACCESS_KEY.to_owned(), SECRET_KEY.to_owned())),
            part_size: 5 << 20,
            ..S3Settings::default()
        }
    }

    async fn make_bucket(&self) {
        let (user, url) = (format!("{ACCESS_KEY}:{SECRET_KEY}"), format!("http://{}/{BUCKET}", self.address));
        let sign = ["--aws-sigv4", "aws:amz:us-east-1:s3", "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"];
        tool("curl", &[&["-fsS", "-X", "PUT", "--user", &user, &url], &sign[..]].concat()).await;
    }
}

fn config(at: &Path, id: &str, second: u16, first: u16) -> String {
    let at = at.display();
    format!(
        "[global]
fsid = {id}
mon host = [v2:127.0.0.1:{second},v1:127.0.0.1:{first}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
keyring = {at}/keyring
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail warn = 1
mon data avail crit = 1
auth allow insecure global id reclaim = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 4294967296
run dir = {at}/run
admin socket = {at}/run/$name.asok
log file = {at}/log/$name.log
mon data = {at}/mon
mgr data = {at}/mgr
osd data = {at}/osd
rgw data = {at}/rgw
"
    )
}

/// Runs one of Ceph's own programs to its end.
async fn ceph(at: &Path, program: &str, arguments: &[&str]) -> Output {
    let config = at.join("ceph.conf").display().to_string();
    tool(program, &[&["-c", config.as_str()], arguments].concat()).await
}

async fn tool(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments);
    run(command, PATIENCE).await.expect_success()
}

/// Starts one that goes on.
fn daemon(at: &Path, program: &str, arguments: &[&str]) -> Process {
    let mut command = Command::new(program);
    command.arg("-f").arg("-c").arg(at.join("ceph.conf")).args(arguments);
    Process::start(command, Lines::default())
}

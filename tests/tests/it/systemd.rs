//! What systemd sees and gives: notifications, the watchdog, sockets, the units, and where things are installed.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pierhead_tests::pierhead::{Setup, binary};
use pierhead_tests::process::run;
use pierhead_tests::{eventually, origin};
use rustix::process::Signal;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The service manager's end of the notifications.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn listen(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Manager { socket, heard: Vec::new() }
    }

    /// Waits until something like this is said, and forgets what came before it.
    async fn hears(&mut self, what: &str) -> String {
        eventually(what, Duration::from_secs(20), async || {
            let mut message = [0; 4096];
            while let Ok(length) = self.socket.recv(&mut message) {
                self.heard.extend(String::from_utf8_lossy(&message[..length]).lines().map(str::to_owned));
            }
            let found = self.heard.iter().position(|line| line.starts_with(what))?;
            self.heard.drain(..=found).next_back()
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_is_told_how_the_origin_stands() {
    let setup = origin::Setup::new();
    let socket = setup.dir.path().join("notify");
    let mut manager = Manager::listen(&socket);
    let setup = setup.variable("NOTIFY_SOCKET", socket.to_str().unwrap()).variable("WATCHDOG_USEC", "300000");
    let mut origin = setup.start().await;
    manager.hears("READY=1").await;
    for _ in 0..3 {
        manager.hears("WATCHDOG=1").await;
    }
    origin.signal(Signal::HUP);
    manager.hears("RELOADING=1").await;
    manager.hears("READY=1").await;
    origin.signal(Signal::TERM);
    manager.hears("STOPPING=1").await;
    assert!(origin.wait(Duration::from_secs(30)).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_is_told_how_things_stand() {
    let setup = Setup::new().registry("up.test", "http://127.0.0.1:1");
    let program = setup.dir.path().join("pierhead");
    std::fs::copy(binary(), &program).unwrap();
    let socket = setup.dir.path().join("notify");
    let mut manager = Manager::listen(&socket);
    let setup = setup.program([&program]).variable("NOTIFY_SOCKET", &socket);
    let mut edge = setup.variable("WATCHDOG_USEC", "300000").start().await;
    manager.hears("READY=1").await;
    for _ in 0..3 {
        manager.hears("WATCHDOG=1").await;
    }
    edge.signal(Signal::HUP);
    manager.hears("RELOADING=1").await;
    manager.hears("MONOTONIC_USEC=").await;
    manager.hears("READY=1").await;
    // Of a new process only the old one may tell, and it does not say that it stops.
    let mark = edge.log().len();
    edge.signal(Signal::USR2);
    let main = manager.hears("MAINPID=").await;
    let successor = edge.successor(mark).await;
    assert_eq!(main, format!("MAINPID={}", successor.pid()));
    manager.hears("READY=1").await;
    assert!(edge.wait(Duration::from_secs(10)).await.success());
    for _ in 0..3 {
        manager.hears("WATCHDOG=1").await;
    }
    assert!(!manager.heard.iter().any(|line| line.starts_with("STOPPING")), "{:?}", manager.heard);
    successor.signal(Signal::TERM);
    manager.hears("STOPPING=1").await;
    successor.wait(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_may_be_open_before_the_edge_is() {
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (named, other) = (free(), free());
    let by: Vec<String> = ["systemd-socket-activate", "--fdname=registry:unknown", "-l"].map(str::to_owned).into();
    let by = by.into_iter().chain([named.to_string(), "-l".to_owned(), other.to_string()]);
    let program = by.chain([binary().to_str().unwrap().to_owned()]);
    // The first is found by its name, whatever the file says; the second by its address.
    let setup = Setup::new()
        .registry("up.test", "http://127.0.0.1:1")
        .with("listeners", json!({ "name": "second", "bind": other.to_string() }))
        .program(program);
    // It is started by the first connection.
    let first = eventually("a socket", Duration::from_secs(20), async || TcpStream::connect(named).await.ok());
    let (edge, _first) = tokio::join!(setup.start(), first);
    assert_eq!((edge.address("registry"), edge.address("second")), (named, other));
    assert_eq!(edge.client().get("/v2/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_units_are_hardened() {
    for unit in ["pierhead.service", "pierhead-origin.service"] {
        let path = root().join("systemd").join(unit);
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=true", "--no-pager", "--json=off"]).arg(&path);
        let output = run(command, Duration::from_secs(30)).await.expect_success();
        let level = output.stdout.lines().find(|line| line.contains("Overall exposure level")).unwrap().to_owned();
        let level: f64 = level.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
        assert!(level <= 2.0, "{unit}: {level}\n{}", output.stdout);
        let text = std::fs::read_to_string(&path).unwrap();
        for setting in ["Type=notify", "WatchdogSec=", "LimitNOFILE=", "StateDirectory=", "User=", "ExecReload="] {
            assert!(text.lines().any(|line| line.starts_with(setting)), "{unit}: no {setting}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_installed_and_removed_without_a_trace() {
    let dir = tempfile::tempdir().unwrap();
    let make = |target: &str| {
        let mut command = Command::new("make");
        command.current_dir(root()).arg("--silent").arg(target);
        command.arg(format!("DESTDIR={}", dir.path().display())).arg("PREFIX=/usr");
        command.arg(format!("PROGRAM={}", binary().display()));
        command
    };
    run(make("install"), Duration::from_secs(60)).await.expect_success();
    let program = dir.path().join("usr/bin/pierhead");
    assert_eq!(std::fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
    let mut version = Command::new(&program);
    version.arg("--version");
    run(version, Duration::from_secs(10)).await.expect_success();
    let unit = std::fs::read_to_string(dir.path().join("usr/lib/systemd/system/pierhead.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/pierhead serve"), "{unit}");
    // The example is in order once it is installed; what an operator changed is left alone.
    let config = dir.path().join("etc/pierhead/pierhead.yaml");
    let mut check = Command::new(&program);
    check.arg("check").arg("--config").arg(&config);
    run(check, Duration::from_secs(10)).await.expect_success();
    std::fs::write(&config, "# mine\n").unwrap();
    run(make("install"), Duration::from_secs(60)).await.expect_success();
    assert_eq!(std::fs::read_to_string(&config).unwrap(), "# mine\n");
    run(make("uninstall"), Duration::from_secs(60)).await.expect_success();
    let left = |path: &str| dir.path().join(path).exists();
    assert!(!left("usr/bin/pierhead") && !left("usr/lib/systemd/system/pierhead.service"));
    assert!(config.exists(), "the configuration is the operator's");
}

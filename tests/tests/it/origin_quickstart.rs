//! What `make run` starts, on other ports: a newcomer pushes an image and pulls it back through the edge, with no network at all.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use pierhead_tests::clients::Podman;
use pierhead_tests::process::{Lines, Process};
use pierhead_tests::pull::Client;
use pierhead_tests::{eventually, origin, pierhead};
use rustix::process::Signal;
use tokio::process::Command;

/// The script, told to stop when the test fails: only it knows what it has started.
struct Quickstart(Option<Process>);

impl Drop for Quickstart {
    fn drop(&mut self) {
        let Some(mut process) = self.0.take() else { return };
        process.signal(Signal::TERM);
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while process.ended().is_none() && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        eprintln!("{}", process.lines.all().join("\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_pushes_and_pulls_back() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let scratch = tempfile::Builder::new().prefix("pierhead-quickstart-").tempdir().unwrap();
    let taken: Vec<TcpListener> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<u16> = taken.iter().map(|port| port.local_addr().unwrap().port()).collect();
    for file in ["quickstart.yaml", "origin-quickstart.yaml"] {
        let mut text = std::fs::read_to_string(root.join("config/examples").join(file)).unwrap();
        for (index, port) in ports.iter().enumerate() {
            text = text.replace(&format!(":500{index}"), &format!(":{port}"));
        }
        std::fs::write(scratch.path().join(file), text).unwrap();
    }
    drop(taken);
    let mut command = Command::new(root.join("scripts/run"));
    command.arg(pierhead::binary()).arg(origin::binary()).arg(scratch.path());
    command.env("HOME", scratch.path()).env("XDG_DATA_HOME", scratch.path().join("data"));
    let mut running = Quickstart(Some(Process::start(command, Lines::default())));

    let address = format!("127.0.0.1:{}", ports[0]);
    let edge = Client::new(format!("http://{address}"));
    let serves = async || {
        let answer = edge.request(reqwest::Method::GET, "/v2/").header("host", &address).send().await;
        answer.ok().filter(|answer| answer.status() == 401).map(|_| ())
    };
    eventually("the origin answers through the edge", Duration::from_secs(30), serves).await;

    let file = scratch.path().join("data/pierhead-origin/admin.password");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let password = std::fs::read_to_string(&file).unwrap();
    let image = format!("{address}/admin/readme");
    let podman = Podman::with_registries(&format!("[[registry]]\nlocation = \"{address}\"\ninsecure = true\n"));
    podman.login(&address, &format!("admin:{}", password.trim_end()));
    let tar = scratch.path().join("readme.tar");
    let mut make = Command::new("tar");
    make.arg("-cf").arg(&tar).arg("README.md").current_dir(root);
    assert!(make.status().await.unwrap().success());
    podman.run(&["import", tar.to_str().unwrap(), &image]).await.expect_success();
    podman.push(&image, &image).await.expect_success();
    podman.forget().await;
    podman.pull(&image).await.expect_success();
    assert_eq!(podman.unpacked("README.md").len(), 1);

    let mut process = running.0.take().unwrap();
    process.signal(Signal::INT);
    let ended = process.wait(Duration::from_secs(30)).await;
    assert!(ended.success(), "{ended}\n{}", process.lines.all().join("\n"));
    for port in ports {
        assert!(TcpListener::bind(("127.0.0.1", port)).is_ok(), "somebody still listens on {port}");
    }
}

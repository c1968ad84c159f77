//! What `make run` starts, on other ports: a newcomer pushes an image and pulls it back through the edge, with no network at all.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use pierhead_tests::clients::Podman;
use pierhead_tests::process::{Lines, Process, run};
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

/// The directory of the project.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The script on free ports, and those ports: of the edge, its operators, the origin, its operators.
fn quickstart() -> (tempfile::TempDir, Vec<u16>) {
    let scratch = tempfile::Builder::new().prefix("pierhead-quickstart-").tempdir().unwrap();
    let taken: Vec<TcpListener> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<u16> = taken.iter().map(|port| port.local_addr().unwrap().port()).collect();
    for file in ["quickstart.yaml", "origin-quickstart.yaml"] {
        let mut text = std::fs::read_to_string(root().join("config/examples").join(file)).unwrap();
        for (index, port) in ports.iter().enumerate() {
            text = text.replace(&format!(":500{index}"), &format!(":{port}"));
        }
        std::fs::write(scratch.path().join(file), text).unwrap();
    }
    drop(taken);
    (scratch, ports)
}

/// Runs the script in a scratch directory.
fn script(scratch: &Path) -> Command {
    let mut command = Command::new(root().join("scripts/run"));
    command.arg(pierhead::binary()).arg(origin::binary()).arg(scratch);
    command.env("HOME", scratch).env("XDG_DATA_HOME", scratch.join("data"));
    command.env_remove("XDG_STATE_HOME").env_remove("RUST_LOG");
    command
}

impl Quickstart {
    async fn start(scratch: &Path) -> Quickstart {
        let mut process = Process::start(script(scratch), Lines::default());
        process.expect_line("the banner", 0, |line| line.starts_with("clients ").then_some(())).await;
        Quickstart(Some(process))
    }

    /// Stops it as Ctrl-C does.
    async fn stop(mut self) {
        let mut process = self.0.take().unwrap();
        process.signal(Signal::INT);
        let ended = process.wait(Duration::from_secs(30)).await;
        assert!(ended.success(), "{ended}\n{}", process.lines.all().join("\n"));
    }

    fn lines(&self) -> Vec<String> {
        self.0.as_ref().unwrap().lines.all()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_pushes_and_pulls_back() {
    let (scratch, ports) = quickstart();
    let running = Quickstart::start(scratch.path()).await;
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
    make.arg("-cf").arg(&tar).arg("README.md").current_dir(root());
    assert!(make.status().await.unwrap().success());
    podman.run(&["import", tar.to_str().unwrap(), &image]).await.expect_success();
    podman.push(&image, &image).await.expect_success();
    // A name without an owner ends with what to do.
    let bare = podman.push(&image, &format!("{address}/readme")).await.expect_failure();
    assert!(bare.stderr.contains("name it <owner>/readme"), "{}", bare.stderr);
    podman.forget().await;
    podman.pull(&image).await.expect_success();
    assert_eq!(podman.unpacked("README.md").len(), 1);

    running.stop().await;
    for port in ports {
        assert!(TcpListener::bind(("127.0.0.1", port)).is_ok(), "somebody still listens on {port}");
    }
}

/// What a newcomer sees: a screen of lines with addresses and commands, then a line for each request; no health checks, no
/// migrations.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_screen_says_what_to_do() {
    let (scratch, ports) = quickstart();
    let running = Quickstart::start(scratch.path()).await;
    let (mirror, registry) = (format!("localhost:{}", ports[0]), format!("127.0.0.1:{}", ports[0]));
    let password = scratch.path().join("data/pierhead-origin/admin.password");
    let banner = running.lines();
    for part in [
        "Ctrl-C",
        &format!("http://{mirror} "),
        &format!("http://{registry} "),
        &format!("http://localhost:{} ", ports[1]),
        "user admin",
        &format!("password in {}", password.display()),
        &format!(" pull {mirror}/docker.io/library/alpine").replace(" pull", "pull"),
        &format!("{registry}/admin/alpine"),
        "client-config all --config",
    ] {
        let is_there = |line: &String| line.replace("--tls-verify=false ", "").contains(part);
        assert!(banner.iter().any(is_there), "{part} is not in\n{}", banner.join("\n"));
    }
    assert!(banner.len() <= 12, "{}", banner.join("\n"));

    // The mirror asks for no account, and the registry does.
    let status = async |host: &str| Client::new(format!("http://{host}")).get("/v2/").await.status;
    assert_eq!((status(&mirror).await, status(&registry).await), (200, 401));
    // `ctl` finds the edge without being told where.
    let ctl = async || {
        let mut command = Command::new(pierhead::binary());
        command.args(["ctl", "status"]).env("HOME", scratch.path()).env_remove("XDG_STATE_HOME");
        run(command, Duration::from_secs(30)).await
    };
    let found = ctl().await.expect_success();
    assert!(found.stdout.contains("health         all well"), "{}", found.stdout);

    // A second start says that there is one already, and what to do.
    let second = run(script(scratch.path()), Duration::from_secs(60)).await.expect_failure();
    let said: Vec<&str> = second.stderr.lines().collect();
    assert_eq!((said.len(), second.stdout.as_str()), (2, ""), "{}", second.stderr);
    assert!(said[0].starts_with("already running: ") && said[0].contains(&mirror), "{}", second.stderr);
    assert!(said[1].contains("Ctrl-C") && said[1].contains("kill "), "{}", second.stderr);
    assert_eq!(status(&mirror).await, 200, "the first one serves on");

    // The health checks of the edge have run by now; none is in the log.
    let origin = Client::new(format!("http://localhost:{}", ports[3]));
    eventually("health checks", Duration::from_secs(30), async || {
        let metrics = String::from_utf8(origin.get("/metrics").await.body.to_vec()).unwrap();
        metrics.lines().any(|line| line.contains("/health/instance")).then_some(())
    })
    .await;
    let noise = running.lines().into_iter().filter(|line| line.contains("/health") || line.contains("migrat"));
    assert_eq!(noise.collect::<Vec<_>>(), Vec::<String>::new());
    running.stop().await;
    assert!(ctl().await.expect_failure().stderr.contains("no edge answers"));
}

/// A port that another program has is named before anything starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named() {
    let (scratch, ports) = quickstart();
    let taken = TcpListener::bind(("127.0.0.1", ports[2])).unwrap();
    let refused = run(script(scratch.path()), Duration::from_secs(60)).await.expect_failure();
    let address = format!("localhost:{} is taken", ports[2]);
    assert!(refused.stderr.starts_with(&address) && refused.stderr.lines().count() == 2, "{}", refused.stderr);
    drop(taken);
}

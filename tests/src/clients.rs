//! podman, buildah, skopeo and containerd, each with a store and a configuration of its own, pulling through an edge.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use crate::eventually;
use crate::process::{Lines, Output, Process, run};

/// A pull of anything in these tests is far from this long.
const PATIENCE: Duration = Duration::from_secs(240);

fn scratch(client: &str) -> TempDir {
    tempfile::Builder::new().prefix(&format!("pierhead-{client}-")).tempdir().unwrap()
}

/// A podman that finds the registry `name` at the edge only.
pub struct Podman {
    dir: TempDir,
}

impl Podman {
    /// With an empty store, and a registries.conf that puts the edge in the place of these registries.
    pub fn new(edge: SocketAddr, registries: &[&str]) -> Podman {
        let mut conf = String::from("unqualified-search-registries = []\n");
        for name in registries {
            conf.push_str(&format!(
                "[[registry]]\nprefix = \"{name}\"\nlocation = \"{edge}/{name}\"\ninsecure = true\n"
            ));
        }
        Podman::with_registries(&conf)
    }

    /// With an empty store and this registries.conf.
    pub fn with_registries(conf: &str) -> Podman {
        let dir = scratch("podman");
        std::fs::write(dir.path().join("registries.conf"), conf).unwrap();
        std::fs::write(dir.path().join("auth.json"), "{}").unwrap();
        std::fs::write(dir.path().join("policy.json"), r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{0}/root\"\nrunroot = \"{0}/run\"\n",
            dir.path().display()
        );
        std::fs::write(dir.path().join("storage.conf"), storage).unwrap();
        Podman { dir }
    }

    /// Runs a podman command.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        let dir = self.dir.path();
        let mut command = Command::new("podman");
        command
            .arg("--root")
            .arg(dir.join("root"))
            .arg("--runroot")
            .arg(dir.join("run"))
            .arg("--tmpdir")
            .arg(dir.join("tmp"))
            .args(["--storage-driver", "vfs", "--events-backend", "none", "--cgroup-manager", "cgroupfs"])
            .args(arguments)
            .env("CONTAINERS_REGISTRIES_CONF", dir.join("registries.conf"))
            .env("CONTAINERS_STORAGE_CONF", dir.join("storage.conf"))
            .env("REGISTRY_AUTH_FILE", dir.join("auth.json"))
            .env("TMPDIR", dir);
        run(command, PATIENCE).await
    }

    /// Pulls.
    pub async fn pull(&self, image: &str) -> Output {
        let policy = self.dir.path().join("policy.json");
        self.run(&["pull", "--quiet", "--signature-policy", policy.to_str().unwrap(), image]).await
    }

    /// Pushes an image that it has.
    pub async fn push(&self, image: &str, to: &str) -> Output {
        let policy = self.dir.path().join("policy.json");
        self.run(&["push", "--quiet", "--tls-verify=false", "--signature-policy", policy.to_str().unwrap(), image, to])
            .await
    }

    /// Logs in at the edge, as `podman login` does. It is the edge's address that counts, not the registry's name.
    pub fn login(&self, edge: impl std::fmt::Display, account: &str) {
        let auth = json!({ "auths": { edge.to_string(): { "auth": STANDARD.encode(account) } } });
        std::fs::write(self.dir.path().join("auth.json"), auth.to_string()).unwrap();
    }

    /// Forgets all images.
    pub async fn forget(&self) {
        self.run(&["rmi", "--all", "--force"]).await.expect_success();
    }

    /// The files of this name in the layers of its store.
    pub fn unpacked(&self, name: &str) -> Vec<PathBuf> {
        let Ok(layers) = std::fs::read_dir(self.dir.path().join("root/vfs/dir")) else { return Vec::new() };
        layers.flatten().map(|layer| layer.path().join(name)).filter(|path| path.exists()).collect()
    }
}

/// A buildah with a store of its own.
pub struct Buildah {
    dir: TempDir,
}

impl Default for Buildah {
    fn default() -> Buildah {
        Buildah::new()
    }
}

impl Buildah {
    /// With an empty store.
    pub fn new() -> Buildah {
        let dir = scratch("buildah");
        std::fs::write(dir.path().join("registries.conf"), "unqualified-search-registries = []\n").unwrap();
        std::fs::write(dir.path().join("auth.json"), "{}").unwrap();
        std::fs::write(dir.path().join("policy.json"), r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
        Buildah { dir }
    }

    /// The scratch directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs a buildah command. Those that talk to a registry need `--tls-verify=false` and `--signature-policy`.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        let dir = self.dir.path();
        let mut command = Command::new("buildah");
        command
            .arg("--root")
            .arg(dir.join("root"))
            .arg("--runroot")
            .arg(dir.join("run"))
            .args(["--storage-driver", "vfs"])
            .args(arguments)
            .current_dir(dir)
            .env("BUILDAH_ISOLATION", "chroot")
            .env("CONTAINERS_REGISTRIES_CONF", dir.join("registries.conf"))
            .env("REGISTRY_AUTH_FILE", dir.join("auth.json"))
            .env("TMPDIR", dir);
        run(command, PATIENCE).await
    }

    /// Logs in at a registry, as `buildah login` does.
    pub fn login(&self, registry: impl std::fmt::Display, account: &str) {
        let auth = json!({ "auths": { registry.to_string(): { "auth": STANDARD.encode(account) } } });
        std::fs::write(self.dir.path().join("auth.json"), auth.to_string()).unwrap();
    }
}

/// Copies with skopeo from a registry into a directory of files that are named by their hashes.
pub struct Skopeo {
    dir: TempDir,
}

impl Default for Skopeo {
    fn default() -> Skopeo {
        Skopeo::new()
    }
}

impl Skopeo {
    /// With an empty directory.
    pub fn new() -> Skopeo {
        let dir = scratch("skopeo");
        std::fs::write(dir.path().join("auth.json"), "{}").unwrap();
        std::fs::write(dir.path().join("registries.conf"), "unqualified-search-registries = []\n").unwrap();
        Skopeo { dir }
    }

    /// Copies `host:port/repository:tag`; `arguments` go before it.
    pub async fn copy(&self, image: &str, arguments: &[&str]) -> Output {
        let target = self.dir.path().join("image");
        let _ = std::fs::remove_dir_all(&target);
        let mut command = Command::new("skopeo");
        command
            .args(["--insecure-policy", "copy", "--src-tls-verify=false"])
            .args(arguments)
            .arg(format!("docker://{image}"))
            .arg(format!("dir:{}", target.display()))
            .env("CONTAINERS_REGISTRIES_CONF", self.dir.path().join("registries.conf"))
            .env("REGISTRY_AUTH_FILE", self.dir.path().join("auth.json"))
            .env("TMPDIR", self.dir.path());
        run(command, PATIENCE).await
    }

    /// The files of the last copy that are named by a hash.
    pub fn blobs(&self) -> Vec<PathBuf> {
        hashed_files(&self.dir.path().join("image"))
    }
}

/// A containerd of its own, whose `ctr` finds every registry at the edge.
pub struct Containerd {
    // Before its directory goes.
    _process: Process,
    dir: TempDir,
}

impl Containerd {
    /// Starts it, with hosts.toml files that put the edge before these registries. `server` is where containerd would
    /// go instead, and must not be.
    pub async fn start(edge: SocketAddr, registries: &[&str]) -> Containerd {
        let dir = scratch("containerd");
        let path = dir.path();
        for name in registries {
            let hosts = path.join("certs.d").join(name.replace(':', "_"));
            let hosts_with_port = path.join("certs.d").join(name);
            for directory in [hosts, hosts_with_port] {
                std::fs::create_dir_all(&directory).unwrap();
                let toml = format!(
                    "server = \"http://127.0.0.1:1\"\n[host.\"http://{edge}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
                );
                std::fs::write(directory.join("hosts.toml"), toml).unwrap();
            }
        }
        let config = format!(
            "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[ttrpc]\n  address = \"{}\"\n[plugins.\"io.containerd.internal.v1.opt\"]\n  path = \"{}\"\n",
            path.join("containerd.sock.ttrpc").display(),
            path.join("opt").display(),
        );
        std::fs::write(path.join("config.toml"), config).unwrap();
        let mut command = Command::new("containerd");
        command
            .arg("--config")
            .arg(path.join("config.toml"))
            .arg("--root")
            .arg(path.join("root"))
            .arg("--state")
            .arg(path.join("state"))
            .arg("--address")
            .arg(path.join("containerd.sock"));
        let mut process = Process::start(command, Lines::default());
        let socket = path.join("containerd.sock");
        eventually("containerd listens", Duration::from_secs(30), async || {
            assert!(process.ended().is_none(), "containerd ended:\n{}", process.lines.all().join("\n"));
            tokio::net::UnixStream::connect(&socket).await.ok()
        })
        .await;
        Containerd { dir, _process: process }
    }

    /// Runs a `ctr` command.
    pub async fn ctr(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.dir.path().join("containerd.sock")).args(arguments);
        run(command, PATIENCE).await
    }

    /// Pulls and unpacks.
    pub async fn pull(&self, image: &str, arguments: &[&str]) -> Output {
        let hosts = self.dir.path().join("certs.d");
        let mut all = vec!["images", "pull", "--snapshotter", "native", "--hosts-dir", hosts.to_str().unwrap()];
        all.extend(arguments);
        all.push(image);
        self.ctr(&all).await
    }

    /// Forgets all images and their content.
    pub async fn forget(&self, image: &str) {
        self.ctr(&["images", "rm", "--sync", image]).await.expect_success();
    }

    /// The files of its content store, named by their hashes.
    pub fn blobs(&self) -> Vec<PathBuf> {
        hashed_files(&self.dir.path().join("root/io.containerd.content.v1.content/blobs/sha256"))
    }
}

fn hashed_files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter(|entry| entry.file_name().len() == 64).map(|entry| entry.path()).collect()
}

/// Asserts that files named by their hashes hash to their names, and that each of `expected` is among them.
pub fn assert_hashes<'a>(files: &[PathBuf], expected: impl IntoIterator<Item = &'a crate::image::Blob>) {
    let mut found = Vec::new();
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let digest = crate::pull::hash_file(file);
        assert_eq!(digest.hex(), name, "a wrong blob arrived");
        found.push(digest);
    }
    for blob in expected {
        assert!(found.contains(&blob.digest), "{} did not arrive", blob.digest);
    }
}

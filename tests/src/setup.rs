//! An edge before it runs: its program, its configuration, its directory.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::process::{Output, run};

/// The edge's binary.
pub fn binary() -> PathBuf {
    built("pierhead")
}

/// A binary of ours, which lies beside the running program or, for a test, in a directory above it.
pub(crate) fn built(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let beside = program.ancestors().skip(1).take(2).map(|directory| directory.join(name));
    let found = beside.into_iter().find(|binary| binary.is_file());
    found.unwrap_or_else(|| panic!("no {name} beside {}: run `cargo build --workspace` first", program.display()))
}

/// A configuration in the making. Everything listens on free ports of the loopback.
pub struct Setup {
    /// The scratch directory: configuration, cache, and whatever a test puts there.
    pub dir: TempDir,
    pub(crate) config: Value,
    /// What is started, with what precedes `serve`.
    pub(crate) program: Vec<OsString>,
    pub(crate) variables: Vec<(String, OsString)>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup::new()
    }
}

impl Setup {
    /// No registry yet; a cache of 4 GiB.
    pub fn new() -> Setup {
        let dir = tempfile::Builder::new().prefix("pierhead-edge-").tempdir().unwrap();
        let config = json!({
            "listeners": [{ "name": "registry", "bind": "127.0.0.1:0" }],
            "registries": [],
            "cache": { "path": dir.path().join("cache"), "max_size": "4GiB", "fsync": "never" },
            "admin": { "bind": "127.0.0.1:0" },
        });
        Setup { dir, config, program: vec![binary().into()], variables: Vec::new() }
    }

    /// A front door only: no registry, no cache; a pool is to be added, and the first listener's target to be set.
    pub fn front() -> Setup {
        let mut setup = Setup::new();
        let config = setup.config.as_object_mut().unwrap();
        config.remove("registries");
        config.remove("cache");
        setup
    }

    /// Adds a pool, or a listener, or whatever else is a list at the top of the file.
    pub fn with(mut self, list: &str, entry: Value) -> Setup {
        match &mut self.config[list] {
            Value::Array(entries) => entries.push(entry),
            none => *none = json!([entry]),
        }
        self
    }

    /// Adds a pool.
    pub fn pool(self, pool: Value) -> Setup {
        self.with("pools", pool)
    }

    /// Adds a registry called `name`, fetched from `upstream`.
    pub fn registry(self, name: &str, upstream: impl Into<String>) -> Setup {
        self.registry_with(name, upstream, json!({}))
    }

    /// Adds a registry with further keys.
    pub fn registry_with(mut self, name: &str, upstream: impl Into<String>, more: Value) -> Setup {
        let upstream: String = upstream.into();
        let insecure = upstream.starts_with("http:");
        let mut registry = json!({ "name": name, "upstream": upstream });
        if insecure {
            registry["insecure"] = json!(true);
        }
        registry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.config["registries"].as_array_mut().unwrap().push(registry);
        self
    }

    /// Sets a key, named as a JSON pointer (`/cache/max_size`).
    pub fn set(mut self, pointer: &str, value: impl Into<Value>) -> Setup {
        self.put(pointer, value.into());
        self
    }

    pub(crate) fn put(&mut self, pointer: &str, value: Value) {
        let mut at = &mut self.config;
        for key in pointer.trim_start_matches('/').split('/') {
            at = match key.parse::<usize>() {
                Ok(index) => &mut at[index],
                Err(_) => &mut at[key],
            };
        }
        *at = value;
    }

    /// Starts another program than the one that was built, or by way of another.
    pub fn program<S: Into<OsString>>(mut self, program: impl IntoIterator<Item = S>) -> Setup {
        self.program = program.into_iter().map(Into::into).collect();
        self
    }

    /// Sets a variable of its environment.
    pub fn variable(mut self, name: &str, value: impl Into<OsString>) -> Setup {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// Where the cache lies.
    pub fn cache(&self) -> PathBuf {
        PathBuf::from(self.config["cache"]["path"].as_str().unwrap())
    }

    /// Writes the configuration and returns its path. JSON is YAML.
    pub fn write(&self) -> PathBuf {
        let path = self.dir.path().join("pierhead.yaml");
        std::fs::write(&path, serde_json::to_string_pretty(&self.config).unwrap()).unwrap();
        path
    }

    /// Runs another command of the binary on this configuration.
    pub async fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.args(arguments).arg("--config").arg(self.write());
        run(command, Duration::from_secs(30)).await
    }
}

/// A program of an edge's own, which can be replaced while it runs.
pub struct Program {
    path: PathBuf,
}

impl Program {
    /// In this directory.
    pub fn installed(dir: &Path) -> Program {
        let program = Program { path: dir.join("pierhead") };
        program.install();
        program
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts an edge in its place, as a package manager does.
    pub fn install(&self) {
        let new = self.path.with_extension("new");
        std::fs::copy(binary(), &new).unwrap();
        std::fs::rename(new, &self.path).unwrap();
    }

    /// Puts something in its place that is no edge.
    pub fn spoil(&self, script: &str) {
        let new = self.path.with_extension("new");
        std::fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(new, &self.path).unwrap();
    }
}

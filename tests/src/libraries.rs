//! Client libraries of other languages, each where `scripts/need --test` has put it, driven by a short script.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use crate::process::{Output, run};

/// Far longer than any script here takes.
const PATIENCE: Duration = Duration::from_secs(240);

/// A library and the program that runs scripts with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// `python-dxf`, of PyPI.
    PythonDxf,
    /// `oras`, of PyPI.
    OrasPy,
    /// `@sigstore/oci`, of npm.
    SigstoreOci,
}

impl Library {
    /// As `scripts/need` names it, with its version.
    fn place(self) -> PathBuf {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
        cache.join("pierhead").join(match self {
            Library::PythonDxf => "python-dxf-12.1.1",
            Library::OrasPy => "oras-0.2.43",
            Library::SigstoreOci => "sigstore-oci-0.5.0",
        })
    }

    /// Runs a script in a directory, with arguments.
    pub async fn run(self, script: &str, dir: &Path, arguments: &[&str]) -> Output {
        let place = self.place();
        assert!(place.exists(), "no {}: run `scripts/need --test` first", place.display());
        let mut command = match self {
            Library::PythonDxf | Library::OrasPy => {
                let mut command = Command::new(place.join("bin/python"));
                command.arg("-c").arg(script);
                command
            }
            Library::SigstoreOci => {
                let mut command = Command::new("node");
                command.arg("-e").arg(script).arg("--").env("NODE_PATH", place.join("node_modules"));
                command
            }
        };
        // An account of the machine's user is none of these tests'.
        command.args(arguments).current_dir(dir).env("HOME", dir).env("DOCKER_CONFIG", dir).env("NO_PROXY", "*");
        run(command, PATIENCE).await
    }
}

//! The two registries that are pushed to: pierhead-origin and docker-registry, each over files, each with tokens.

use std::net::SocketAddr;

use pierhead_tests::origin::{Origin, Setup};
use pierhead_tests::token::{Policy, TokenService};
use tempfile::TempDir;

use crate::peers::Peer;
use crate::procfs::Server;

/// What is pushed and pulled.
pub(crate) const REPOSITORY: &str = "bench/image";
const ACCOUNT: &str = "bench";
const PASSWORD: &str = "the password of bench";

/// A registry, as its clients see it.
pub(crate) struct Side {
    /// In the report.
    pub(crate) name: &'static str,
    /// Where.
    pub(crate) address: SocketAddr,
    /// For its CPU time and memory.
    pub(crate) server: Server,
    /// What lets its bearer do everything in [`REPOSITORY`].
    pub(crate) token: String,
}

/// Both, with nothing in them. Dropping them deletes what they hold.
pub(crate) struct Registries {
    origin: Origin,
    peer: Peer,
    tokens: TokenService,
    // After those who write to it.
    _dir: TempDir,
}

impl Registries {
    /// Starts both on the same disk.
    pub(crate) async fn start() -> Registries {
        let setup = Setup::new().set("/access_log", false);
        setup.user(ACCOUNT, PASSWORD, &[]).await;
        let dir = TempDir::with_prefix("pierhead-bench-").expect("scratch directory");
        let tokens = TokenService::start(Policy::default()).await;
        tokens.registry_config(dir.path());
        let peer = Peer::docker_registry_origin(dir.path(), tokens.server.address).await;
        Registries { origin: setup.start().await, peer, tokens, _dir: dir }
    }

    /// Ours first.
    pub(crate) async fn sides(&self) -> [Side; 2] {
        let scopes = [format!("repository:{REPOSITORY}:pull,push")];
        let token = self.origin.token(ACCOUNT, PASSWORD, &[&scopes[0]]).await;
        let (ours, theirs) = (Server(self.origin.pid()), self.peer.server());
        [
            Side { name: "pierhead-origin", address: self.origin.registry, server: ours, token },
            Side {
                name: "docker-registry",
                address: self.peer.address("PORT"),
                server: theirs,
                token: self.tokens.push_token(REPOSITORY),
            },
        ]
    }

    /// Their configurations, with the names of scratch directories left out.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let own = std::fs::read_to_string(self.origin.setup().write("shown.yaml")).expect("configuration");
        let own = own.replace(&self.origin.dir().display().to_string(), "DIR");
        vec![("pierhead-origin".into(), own), ("docker-registry".into(), self.peer.settings.clone())]
    }
}

/// Writes what is dirty to the disk, so that nobody waits for what another has written.
pub(crate) async fn settle() {
    tokio::task::spawn_blocking(rustix::fs::sync).await.expect("sync");
}

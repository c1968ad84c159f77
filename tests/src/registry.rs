//! Debian's docker-registry, as the upstream of tests: plain, behind htpasswd, or behind a token service; alone or as
//! several nodes over one store.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::eventually;
use crate::image::{Blob, Image, Index, Manifest};
use crate::process::{Lines, Process, run};
use crate::pull::Client;
use crate::token::TokenService;

/// A running docker-registry and its files.
pub struct DockerRegistry {
    /// Where it listens; the same after a restart.
    pub address: SocketAddr,
    // Before its directory goes.
    process: Option<Process>,
    dir: Arc<TempDir>,
    auth: Value,
    lines: Lines,
    account: Option<(String, String)>,
}

impl DockerRegistry {
    /// One that lets everybody do everything.
    pub async fn start() -> DockerRegistry {
        DockerRegistry::with(Arc::new(scratch()), Value::Null, None).await
    }

    /// One that takes images of schema 1 too.
    pub async fn with_schema1() -> DockerRegistry {
        let mut registry = DockerRegistry::start().await;
        registry.stop().await;
        let file = registry.config_file();
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        config["compatibility"] = json!({ "schema1": { "enabled": true } });
        std::fs::write(&file, config.to_string()).unwrap();
        registry.restart().await;
        registry
    }

    /// One with a single account.
    pub async fn with_account(user: &str, password: &str) -> DockerRegistry {
        let dir = scratch();
        let mut command = Command::new("htpasswd");
        command.args(["-Bbn", "-C", "4", user, password]);
        let file = dir.path().join("htpasswd");
        std::fs::write(&file, run(command, Duration::from_secs(10)).await.expect_success().stdout).unwrap();
        let auth = json!({ "htpasswd": { "realm": "test", "path": file } });
        DockerRegistry::with(Arc::new(dir), auth, Some((user.to_owned(), password.to_owned()))).await
    }

    /// One that believes a token service.
    pub async fn with_tokens(service: &TokenService) -> DockerRegistry {
        let dir = scratch();
        let auth = service.registry_config(dir.path());
        DockerRegistry::with(Arc::new(dir), auth, None).await
    }

    /// One that believes a token service which clients find elsewhere.
    pub async fn with_tokens_at(service: &TokenService, realm: &str) -> DockerRegistry {
        let dir = scratch();
        let mut auth = service.registry_config(dir.path());
        auth["token"]["realm"] = json!(realm);
        DockerRegistry::with(Arc::new(dir), auth, None).await
    }

    /// Where its files lie.
    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Another node over the same store.
    pub async fn sibling(&self) -> DockerRegistry {
        DockerRegistry::with(Arc::clone(&self.dir), self.auth.clone(), self.account.clone()).await
    }

    async fn with(dir: Arc<TempDir>, auth: Value, account: Option<(String, String)>) -> DockerRegistry {
        let lines = Lines::default();
        // It cannot say which port it took, so a free one is looked for, and somebody may be faster.
        for _ in 0..10 {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let mut config = json!({
                "version": 0.1,
                "log": { "accesslog": { "disabled": false }, "level": "error" },
                "storage": {
                    "filesystem": { "rootdirectory": dir.path().join("store") },
                    "delete": { "enabled": true },
                    "maintenance": { "uploadpurging": { "enabled": false } },
                },
                "http": { "addr": address.to_string(), "secret": "test" },
            });
            if !auth.is_null() {
                config["auth"] = auth.clone();
            }
            let mut registry = DockerRegistry {
                address,
                dir: Arc::clone(&dir),
                auth: auth.clone(),
                process: None,
                lines: lines.clone(),
                account: account.clone(),
            };
            std::fs::write(registry.config_file(), config.to_string()).unwrap();
            if registry.launch().await {
                return registry;
            }
        }
        panic!("docker-registry does not start:\n{}", lines.all().join("\n"));
    }

    async fn launch(&mut self) -> bool {
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(self.config_file()).env_remove("HTTP_PROXY").env("OTEL_TRACES_EXPORTER", "none");
        let mut process = Process::start(command, self.lines.clone());
        let address = self.address;
        let up = eventually("docker-registry listens", Duration::from_secs(20), async || {
            if process.ended().is_some() {
                return Some(false);
            }
            tokio::net::TcpStream::connect(address).await.ok().map(|_| true)
        })
        .await;
        // Another program may have answered in its place.
        let up = up && process.ended().is_none();
        self.process = Some(process);
        up
    }

    fn config_file(&self) -> PathBuf {
        self.dir.path().join(format!("config-{}.yml", self.address.port()))
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its own client, logged in where there is an account.
    pub fn client(&self) -> Client {
        let client = Client::new(self.url());
        match &self.account {
            Some((user, password)) => client.login(user, password),
            None => client,
        }
    }

    /// Ends it at once, connections included.
    pub async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await;
        }
    }

    /// Starts it again on the same port and the same content.
    pub async fn restart(&mut self) {
        self.stop().await;
        assert!(self.launch().await, "docker-registry does not start again:\n{}", self.lines.all().join("\n"));
    }

    /// How many requests with this method and exact path it has answered. A request of our own goes first, so that
    /// everything that ended before this call is in the log.
    pub async fn requests(&self, method: &str, path: &str) -> usize {
        self.settle().await;
        let start = format!("\"{method} {path} ");
        self.lines.count(|line| line.contains(&start))
    }

    /// How many requests of the registry's API it has answered, whatever they were.
    pub async fn asked(&self) -> usize {
        self.settle().await;
        self.lines.count(|line| line.contains("\"GET /v2/") || line.contains("\"HEAD /v2/"))
    }

    async fn settle(&self) {
        let mark = self.lines.len();
        let _ = Client::new(self.url()).get("/mark").await;
        eventually("the access log is written", Duration::from_secs(10), async || {
            self.lines.find(mark, |line| line.contains("\"GET /mark ").then_some(()))
        })
        .await;
    }

    /// How many GETs of this blob it has answered.
    pub async fn blob_gets(&self, repository: &str, blob: &Blob) -> usize {
        self.requests("GET", &format!("/v2/{repository}/blobs/{}", blob.digest)).await
    }

    /// Pushes an image, and tags it unless `tag` is empty.
    pub async fn push(&self, repository: &str, tag: &str, image: &Image) {
        self.push_as(&self.client(), repository, tag, image).await;
    }

    /// The same with another client, which may push.
    pub async fn push_as(&self, client: &Client, repository: &str, tag: &str, image: &Image) {
        for blob in image.blobs() {
            client.push_blob(repository, &blob.digest, blob.bytes.clone()).await;
        }
        push_manifest(client, repository, tag, &image.manifest).await;
    }

    /// Pushes an index with its images, and tags it.
    pub async fn push_index(&self, repository: &str, tag: &str, index: &Index) {
        for image in &index.images {
            self.push(repository, "", image).await;
        }
        push_manifest(&self.client(), repository, tag, &index.manifest).await;
    }

    /// Deletes a manifest, and with it the tags that mean it.
    pub async fn delete(&self, repository: &str, manifest: &Manifest) {
        let path = format!("/v2/{repository}/manifests/{}", manifest.blob.digest);
        let done = self.client().request(reqwest::Method::DELETE, &path).send().await.unwrap();
        assert_eq!(done.status(), 202, "delete of {path}");
    }
}

async fn push_manifest(client: &Client, repository: &str, tag: &str, manifest: &Manifest) {
    let by_digest = manifest.blob.digest.to_string();
    let reference = if tag.is_empty() { by_digest.as_str() } else { tag };
    client.push_manifest(repository, reference, &manifest.media_type, manifest.blob.bytes.clone()).await;
}

fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("pierhead-upstream-").tempdir().unwrap()
}

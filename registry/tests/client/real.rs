//! Debian's docker-registry, on a port and in a directory of its own.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pierhead_registry::oci::{Algorithm, Digest};
use tempfile::TempDir;
use url::Url;

/// A running registry; ends with the value.
pub(crate) struct Registry {
    process: Child,
    port: u16,
    /// Its configuration and content.
    pub(crate) directory: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    /// Starts one. `more` is YAML for the sections beside `http`, `http` for the keys within; `@DIR@` is its directory,
    /// which `prepare` may fill first.
    pub(crate) fn start(http: &str, more: &str, prepare: impl FnOnce(&TempDir)) -> Registry {
        let directory = TempDir::new().unwrap();
        prepare(&directory);
        let yaml = format!(
            "version: 0.1\nstorage: {{ filesystem: {{ rootdirectory: @DIR@/registry }}, delete: {{ enabled: true }} }}\n\
             http:\n  addr: 127.0.0.1:0\n{http}\n{more}\n"
        );
        let yaml = yaml.replace("@DIR@", directory.path().to_str().unwrap());
        let config = directory.path().join("config.yml");
        std::fs::write(&config, yaml).unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(config)
            .stdout(std::fs::File::create(directory.path().join("access.log")).unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let port = loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "docker-registry ended before it listened");
            if let Some((_, rest)) = line.split_once("listening on 127.0.0.1:") {
                break rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
            }
        };
        // Its log must be read on, or it would block some day.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Registry { process, port, directory }
    }

    pub(crate) fn plain() -> Registry {
        Registry::start("", "", |_| {})
    }

    /// Waits for a request to stand in its access log: how it begins, and over which protocol it came.
    pub(crate) async fn logged(&self, request: &str, protocol: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let log = std::fs::read_to_string(self.directory.path().join("access.log")).unwrap();
            if log.lines().any(|line| line.contains(request) && line.contains(&format!(" {protocol}\""))) {
                return;
            }
            assert!(Instant::now() < deadline, "no {request} over {protocol} in {log}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn url(&self, scheme: &str) -> Url {
        Url::parse(&format!("{scheme}://localhost:{}", self.port)).unwrap()
    }

    /// Uploads a blob into `team/app`.
    pub(crate) async fn push_blob(&self, bytes: &[u8], login: Option<(&str, &str)>) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, bytes);
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let sign = |request: reqwest::RequestBuilder| match login {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        };
        let url = self.url("http").join("/v2/team/app/blobs/uploads/").unwrap();
        let begun = sign(http.post(url.clone())).send().await.unwrap();
        assert_eq!(begun.status(), 202);
        let mut at = url.join(begun.headers()["location"].to_str().unwrap()).unwrap();
        at.query_pairs_mut().append_pair("digest", &digest.to_string());
        assert_eq!(sign(http.put(at)).body(bytes.to_vec()).send().await.unwrap().status(), 201);
        digest
    }

    /// Uploads a manifest into `team/app`.
    pub(crate) async fn push_manifest(&self, tag: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = self.url("http").join(&format!("/v2/team/app/manifests/{tag}")).unwrap();
        let put = http.put(url).header("content-type", media_type).body(bytes.to_vec());
        assert_eq!(put.send().await.unwrap().status(), 201);
        Digest::of(Algorithm::Sha256, bytes)
    }
}

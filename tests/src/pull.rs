//! A client that pulls as the specification says and believes nothing: whatever arrives complete under a digest is
//! hashed, and a wrong hash ends the test, whatever the test was about.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use pierhead_registry::oci::media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use pierhead_registry::oci::{Algorithm, Digest, Hasher, Manifest};
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, Response};

/// What every client of today accepts.
pub const ACCEPT: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

/// Why a pull came to nothing.
#[derive(Debug)]
pub enum PullError {
    /// An answer that is no success.
    Status(u16),
    /// No answer, or one that broke off.
    Broken(String),
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Header lines.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Reply {
    /// The value of a header; empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A blob that came whole and right.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Bytes.
    pub size: u64,
    /// From the request to its first byte.
    pub first_byte: Duration,
    /// From the request to its last byte.
    pub total: Duration,
}

/// A client of one registry, or of the edge. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    /// `http://host:port`
    pub base: String,
    http: reqwest::Client,
    account: Option<(String, String)>,
    bearer: Option<String>,
}

impl Client {
    /// Speaks HTTP/1.1, follows no redirects, keeps no idle connections.
    pub fn new(base: impl Into<String>) -> Client {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .connect_timeout(Duration::from_secs(5))
            .read_timeout(Duration::from_secs(60))
            .build()
            .unwrap();
        Client { base: base.into(), http, account: None, bearer: None }
    }

    /// The same with another HTTP client.
    pub fn over(mut self, http: reqwest::Client) -> Client {
        self.http = http;
        self
    }

    /// The same with an account, sent with every request.
    pub fn login(mut self, user: &str, password: &str) -> Client {
        self.account = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// The same with a token, sent with every request.
    pub fn bearer(mut self, token: String) -> Client {
        self.bearer = Some(token);
        self
    }

    /// A request, ready to be adorned and sent.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some((user, password)) = &self.account {
            request = request.basic_auth(user, Some(password));
        }
        if let Some(token) = &self.bearer {
            request = request.bearer_auth(token);
        }
        request
    }

    /// GET of anything small.
    pub async fn get(&self, path: &str) -> Reply {
        reply(self.request(Method::GET, path)).await.unwrap()
    }

    /// GET of anything small, with header lines.
    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        let mut request = self.request(Method::GET, path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        reply(request).await.unwrap()
    }

    /// HEAD of anything.
    pub async fn head(&self, path: &str) -> Reply {
        reply(self.request(Method::HEAD, path)).await.unwrap()
    }

    /// GET of a manifest. What comes by digest is hashed.
    pub async fn manifest(&self, repository: &str, reference: &str) -> Result<Reply, PullError> {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let mut request = self.request(Method::GET, &path);
        for accept in ACCEPT {
            request = request.header("Accept", accept);
        }
        let reply = reply(request).await?;
        if reply.status != 200 {
            return Err(PullError::Status(reply.status));
        }
        let digest: Digest = reply.header("docker-content-digest").parse().expect("Docker-Content-Digest");
        assert_eq!(Digest::of(digest.algorithm(), &reply.body), digest, "a wrong manifest was served: {path}");
        if reference.contains(':') {
            assert_eq!(reference, digest.to_string(), "another manifest was served: {path}");
        }
        Ok(reply)
    }

    /// GET of a blob. Its bytes are hashed as they come and not kept.
    pub async fn blob(&self, repository: &str, digest: &Digest) -> Result<Received, PullError> {
        self.blob_watched(repository, digest, |_| {}).await
    }

    /// The same, telling `watch` after each piece how many bytes there are.
    pub async fn blob_watched(
        &self,
        repository: &str,
        digest: &Digest,
        mut watch: impl FnMut(u64),
    ) -> Result<Received, PullError> {
        let begun = Instant::now();
        let response = self.open_blob(repository, digest).await?;
        // Without one, the last chunk tells the end.
        let expected = response.content_length();
        let mut hasher = Hasher::new(digest.algorithm());
        let (mut size, mut first_byte) = (0, None);
        let mut body = response.bytes_stream();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(broken)?;
            first_byte.get_or_insert_with(|| begun.elapsed());
            hasher.update(&piece);
            size += piece.len() as u64;
            watch(size);
        }
        assert_eq!(size, expected.unwrap_or(size), "a body ended early and looked complete: {digest}");
        assert_eq!(hasher.finish(), *digest, "a wrong blob was served");
        let total = begun.elapsed();
        Ok(Received { size, first_byte: first_byte.unwrap_or(total), total })
    }

    /// The header of a blob's answer; whoever wants its bytes reads on.
    pub async fn open_blob(&self, repository: &str, digest: &Digest) -> Result<Response, PullError> {
        let path = format!("/v2/{repository}/blobs/{digest}");
        let response = self.request(Method::GET, &path).send().await.map_err(broken)?;
        match response.status().as_u16() {
            200 => Ok(response),
            status => Err(PullError::Status(status)),
        }
    }

    /// GET of a part of a blob, `first` to `last` inclusive: status, `Content-Range`, bytes.
    pub async fn range(&self, repository: &str, digest: &Digest, range: &str) -> Reply {
        self.get_with(&format!("/v2/{repository}/blobs/{digest}"), &[("Range", range)]).await
    }

    /// Pulls an image or an index with everything that it needs, each part hashed. Returns how many blobs there were.
    pub async fn pull(&self, repository: &str, reference: &str) -> Result<usize, PullError> {
        let mut manifests = vec![reference.to_owned()];
        let mut blobs = 0;
        while let Some(reference) = manifests.pop() {
            let reply = self.manifest(repository, &reference).await?;
            let manifest = Manifest::parse(&reply.body).unwrap();
            manifests.extend(manifest.manifests.iter().map(|child| child.digest.to_string()));
            for blob in &manifest.blobs {
                let received = self.blob(repository, &blob.digest).await?;
                assert_eq!(received.size, blob.size);
                blobs += 1;
            }
        }
        Ok(blobs)
    }

    /// Pushes a blob in one piece.
    pub async fn push_blob(&self, repository: &str, digest: &Digest, bytes: Bytes) {
        let begun = self.request(Method::POST, &format!("/v2/{repository}/blobs/uploads/")).send().await.unwrap();
        assert_eq!(begun.status(), 202, "push to {repository}");
        let location = begun.headers()["location"].to_str().unwrap().to_owned();
        let path = location.strip_prefix(&self.base).unwrap_or(&location);
        let separator = if path.contains('?') { '&' } else { '?' };
        let done = self
            .request(Method::PUT, &format!("{path}{separator}digest={digest}"))
            .header("Content-Type", "application/octet-stream")
            .body(bytes)
            .send()
            .await
            .unwrap();
        assert_eq!(done.status(), 201, "push of {digest}");
    }

    /// Pushes a manifest by tag or digest.
    pub async fn push_manifest(&self, repository: &str, reference: &str, media_type: &str, bytes: Bytes) {
        let done = self
            .request(Method::PUT, &format!("/v2/{repository}/manifests/{reference}"))
            .header("Content-Type", media_type)
            .body(bytes)
            .send()
            .await
            .unwrap();
        assert_eq!(done.status(), 201, "push of {repository}:{reference}");
    }
}

/// The SHA-256 digest of a file.
pub fn hash_file(path: &std::path::Path) -> Digest {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut file = std::fs::File::open(path).unwrap();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut buffer).unwrap() {
            0 => return hasher.finish(),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// Sends a request and reads all of its answer.
pub async fn reply(request: RequestBuilder) -> Result<Reply, PullError> {
    let response = request.send().await.map_err(broken)?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.bytes().await.map_err(broken)?;
    Ok(Reply { status, headers, body })
}

fn broken(error: reqwest::Error) -> PullError {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    PullError::Broken(text)
}

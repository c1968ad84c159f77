//! What both registries are given to do, by curl, as processes of their own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pierhead_registry::oci::Digest;
use pierhead_tests::image::noise;
use pierhead_tests::process::run;
use pierhead_tests::pull::hash_file;
use reqwest::Method;
use tokio::process::Command;

use crate::origin::{REPOSITORY, Side};

/// How much of a file is made at a time.
const PIECE: usize = 16 << 20;
/// A transfer that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(600);

/// A layer on disk.
pub(crate) struct Layer {
    file: PathBuf,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl Layer {
    /// One that nobody has: of this number and size.
    pub(crate) fn make(dir: &Path, number: u64, size: usize) -> Layer {
        let path = dir.join(format!("layer-{number}"));
        let mut file = std::fs::File::create(&path).expect("scratch file");
        // The first bytes make it different; the rest need not be new each time.
        let piece = noise(number, PIECE.min(size));
        let mut left = size;
        while left > 0 {
            let some = left.min(piece.len());
            file.write_all(&piece[..some]).expect("scratch file");
            left -= some;
        }
        file.sync_all().expect("scratch file");
        Layer { digest: hash_file(&path), file: path, size: size as u64 }
    }
}

fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("client")
}

/// Pushes a layer as podman does: it begins, sends all of it as one stream, and ends.
pub(crate) async fn push(side: &Side, layer: &Layer) {
    let http = http();
    let url = format!("http://{}/v2/{REPOSITORY}/blobs/uploads/", side.address);
    let begun = http.request(Method::POST, url).bearer_auth(&side.token).send().await.expect("answer");
    assert_eq!(begun.status(), 202, "{} begins a push", side.name);
    let location = |answer: &reqwest::Response| {
        let place = answer.headers()["location"].to_str().expect("text").to_owned();
        if place.starts_with('/') { format!("http://{}{place}", side.address) } else { place }
    };
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--http1.1", "--request", "PATCH", "--upload-file"]).arg(&layer.file);
    command.args(["--header", "Expect:", "--header", "Content-Type: application/octet-stream", "--header"]);
    command.arg(format!("Authorization: Bearer {}", side.token));
    command.args(["--output", "/dev/null", "--write-out", "%{http_code} %{size_upload} %header{location}"]);
    command.arg(location(&begun)).env("NO_PROXY", "*");
    let output = run(command, LIMIT).await.expect_success();
    let (told, next) = output.stdout.rsplit_once(' ').expect("curl's line");
    assert_eq!(told, format!("202 {}", layer.size), "{} takes a layer", side.name);
    let next = if next.starts_with('/') { format!("http://{}{next}", side.address) } else { next.to_owned() };
    let separator = if next.contains('?') { '&' } else { '?' };
    let url = format!("{next}{separator}digest={}", layer.digest);
    let ended = http.request(Method::PUT, url).bearer_auth(&side.token).send().await.expect("answer");
    assert_eq!(ended.status(), 201, "{} ends a push", side.name);
}

/// Seconds for all of these at once.
pub(crate) async fn push_all(side: &Side, layers: &[Layer]) -> f64 {
    let begun = Instant::now();
    futures_util::future::join_all(layers.iter().map(|layer| push(side, layer))).await;
    begun.elapsed().as_secs_f64()
}

/// Seconds to pull a layer so many times, one after the other.
pub(crate) async fn pull(side: &Side, layer: &Layer, times: usize) -> f64 {
    let url = format!("http://{}/v2/{REPOSITORY}/blobs/{}", side.address, layer.digest);
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--http1.1", "--header"]);
    command.arg(format!("Authorization: Bearer {}", side.token));
    command.args(["--write-out", "%{http_code} %{size_download}\n"]).env("NO_PROXY", "*");
    for _ in 0..times {
        command.args(["--output", "/dev/null", &url]);
    }
    let begun = Instant::now();
    let output = run(command, LIMIT).await.expect_success();
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(output.stdout, format!("200 {}\n", layer.size).repeat(times), "{} gives a layer", side.name);
    seconds
}

/// Pushes the manifest of an image of one layer.
pub(crate) async fn tag(side: &Side, layer: &Layer) {
    let media_type = pierhead_registry::oci::media_type::OCI_MANIFEST;
    let digest = layer.digest.to_string();
    let body = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": layer.size },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": layer.size }],
    });
    let url = format!("http://{}/v2/{REPOSITORY}/manifests/latest", side.address);
    let request = http().request(Method::PUT, url).bearer_auth(&side.token).header("content-type", media_type);
    let made = request.body(body.to_string()).send().await.expect("answer");
    assert_eq!(made.status(), 201, "{} takes a manifest", side.name);
}

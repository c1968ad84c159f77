//! Pushes, pulls and logins beside 1 000 hostile connections, measured by the same work without them.

use std::time::Duration;

use pierhead_registry::oci::Digest;
use pierhead_tests::hostile::Then;
use pierhead_tests::image::Image;
use pierhead_tests::origin::{Origin, Setup};
use pierhead_tests::pull::Client;

use crate::measurements::attack::{Kind, beside, timed};
use crate::options::Scale;
use crate::report::Findings;
use crate::statistics::median;

/// What is measured.
pub(crate) const ABOUT: &str =
    "push, pull and login beside 1 000 hostile connections of each kind, by the same without them";

/// How often the work is done in a run.
const TIMES: usize = 15;
const PASSWORD: &str = "the password of bench";

/// Measures it.
pub(crate) async fn measure(scale: Scale) -> Findings {
    let setup = Setup::new().set("/access_log", false);
    for name in ["ann", "mallory"] {
        setup.user(name, PASSWORD, &[]).await;
    }
    let origin = setup.start().await;
    let ann = origin.login("ann", PASSWORD, &["repository:ann/image:pull,push"]).await;
    let mallory = ["repository:mallory/image:pull,push"];
    let token = origin.token("mallory", PASSWORD, &mallory).await;
    let large = pierhead_tests::image::Blob::random(7, 8 << 20);
    let image = Image::new(1, &[1000, 1_000_000]);
    push(&ann, &image).await;
    origin
        .login("mallory", PASSWORD, &mallory)
        .await
        .push_blob("mallory/image", &large.digest, large.bytes.clone())
        .await;
    let kinds = kinds(&token, &large.digest);
    beside(scale, origin.registry, &kinds, ["push", "pull", "login"], async |seed| work(&origin, &ann, seed).await)
        .await
}

fn kinds(token: &str, large: &Digest) -> [Kind; 4] {
    let request = |line: &str, more: &str| {
        format!("{line} HTTP/1.1\r\nHost: registry.test\r\nAuthorization: Bearer {token}\r\n{more}\r\n")
    };
    let manifest = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\nContent-Length: 4194304\r\n";
    [
        Kind {
            name: "manifests of which a byte comes",
            first: request("PUT /v2/mallory/image/manifests/t", manifest) + "{",
            then: Then::Drip(Duration::from_secs(20)),
        },
        Kind {
            name: "uploads that drip",
            first: request(
                "POST /v2/mallory/image/blobs/uploads/?digest=sha256:0000000000000000000000000000000000000000000000000000000000000000",
                "Content-Length: 1000000\r\n",
            ) + "a",
            then: Then::Drip(Duration::from_secs(20)),
        },
        Kind {
            name: "slow readers",
            first: request(&format!("GET /v2/mallory/image/blobs/{large}"), ""),
            then: Then::Sip(Duration::from_secs(1)),
        },
        Kind {
            name: "half-sent forms",
            first:
                "POST /v2/auth HTTP/1.1\r\nHost: registry.test\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                    Content-Length: 60000\r\n\r\ngrant_type=password"
                    .to_owned(),
            then: Then::Drip(Duration::from_secs(5)),
        },
    ]
}

/// The median time of a push, a pull and a login, in milliseconds. One that fails ends the measurement.
async fn work(origin: &Origin, ann: &Client, seed: u64) -> [f64; 3] {
    let mut times = [const { Vec::new() }; 3];
    for time in 0..TIMES {
        let image = Image::new(10_000 + 100 * seed + time as u64, &[1000, 1_000_000]);
        times[0].push(timed(push(ann, &image)).await);
        times[1].push(timed(async { assert!(ann.pull("ann/image", "latest").await.is_ok()) }).await);
        times[2].push(timed(async { drop(origin.token("ann", PASSWORD, &["repository:ann/image:pull"]).await) }).await);
    }
    times.map(|times| median(&times))
}

async fn push(client: &Client, image: &Image) {
    for blob in image.blobs() {
        client.push_blob("ann/image", &blob.digest, blob.bytes.clone()).await;
    }
    client.push_manifest("ann/image", "latest", &image.manifest.media_type, image.manifest.blob.bytes.clone()).await;
}

//! Pushes, pulls and logins beside 1 000 hostile connections, measured by the same work without them.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use pierhead_registry::oci::Digest;
use pierhead_tests::hostile::{Attack, Then};
use pierhead_tests::image::Image;
use pierhead_tests::origin::{Origin, Setup};
use pierhead_tests::pull::Client;

use crate::options::Scale;
use crate::report::{Figure, Findings, Series, Target};
use crate::statistics::median;

/// What is measured.
pub(crate) const ABOUT: &str =
    "push, pull and login beside 1 000 hostile connections of each kind, by the same without them";

/// How often the work is done in a run.
const TIMES: usize = 15;
/// What the others may be slowed down by.
const SLOWED: f64 = 2.0;
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const PASSWORD: &str = "the password of bench";

/// One kind of attack.
struct Kind {
    name: &'static str,
    first: String,
    then: Then,
}

/// Measures it.
pub(crate) async fn measure(scale: Scale) -> Findings {
    let count = scale.pick(1000, 100);
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
    let mut figures = Vec::new();
    for kind in kinds(&token, &large.digest) {
        let (mut free, mut attacked) = (Vec::new(), Vec::new());
        for run in 0..scale.runs {
            free.push(work(&origin, &ann, run as u64).await);
            let first = kind.first.clone().into_bytes();
            let attack = Attack::begin(count, ELSEWHERE, origin.registry, |_| first.clone(), kind.then).await;
            attacked.push(work(&origin, &ann, 1000 + run as u64).await);
            drop(attack);
        }
        for (at, what) in ["push", "pull", "login"].into_iter().enumerate() {
            let of = |runs: &[[f64; 3]]| runs.iter().map(|run| run[at]).collect();
            figures.push(Figure::ratio(
                format!("{what}, {}", kind.name),
                Series::new("attacked", "ms", of(&attacked)),
                Series::new("not attacked", "ms", of(&free)),
                Some(Target::AtMost(SLOWED)),
            ));
        }
    }
    let notes = vec![format!(
        "{count} connections from another address, made again when they are closed; none of the others' requests failed"
    )];
    Findings { figures, notes, settings: Vec::new() }
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

async fn timed(work: impl Future<Output = ()>) -> f64 {
    let begun = Instant::now();
    work.await;
    begun.elapsed().as_secs_f64() * 1000.0
}

async fn push(client: &Client, image: &Image) {
    for blob in image.blobs() {
        client.push_blob("ann/image", &blob.digest, blob.bytes.clone()).await;
    }
    client.push_manifest("ann/image", "latest", &image.manifest.media_type, image.manifest.blob.bytes.clone()).await;
}

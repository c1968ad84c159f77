//! Pulls through the edge beside 1 000 hostile connections, measured by the same pulls without them.

use std::time::Duration;

use pierhead_tests::hostile::Then;
use pierhead_tests::image::{Blob, Image};
use pierhead_tests::misbehaving::{Misbehaviour, Upstream};
use pierhead_tests::pull::Client;
use pierhead_tests::registry::DockerRegistry;

use super::attack::{Kind, beside, timed};
use crate::edge::Plan;
use crate::options::Scale;
use crate::report::Findings;
use crate::statistics::median;

/// What is measured.
pub(crate) const ABOUT: &str =
    "cached and cold pulls through the edge beside 1 000 hostile connections of each kind, by the same without them";

/// How often the work is done in a run.
const TIMES: u64 = 15;
const REPOSITORY: &str = "team/app";

/// Measures it.
pub(crate) async fn measure(scale: Scale) -> Findings {
    let registry = DockerRegistry::start().await;
    let silent = Upstream::start().await;
    silent.misbehave(Misbehaviour::Silent);
    registry.push(REPOSITORY, "warm", &Image::new(0, &[1000, 1_000_000])).await;
    let large = Blob::random(7, 8 << 20);
    registry.client().push_blob(REPOSITORY, &large.digest, large.bytes.clone()).await;
    let edge =
        Plan::new(registry.address).registry("silent.bench", silent.url()).set("/access_log", false).start().await;
    let client = Client::new(format!("http://{}", edge.registry));
    pull(&client, "warm").await;
    client.blob(REPOSITORY, &large.digest).await.expect("the large blob");
    let kinds = kinds(&large);
    let mut findings = beside(scale, edge.registry, &kinds, ["cached pull", "cold pull"], async |turn| {
        work(&registry, &client, turn).await
    })
    .await;
    findings.settings.push(("pierhead".to_owned(), edge.settings()));
    findings
}

fn kinds(large: &Blob) -> [Kind; 4] {
    let get = |path: &str| format!("GET /v2/{path} HTTP/1.1\r\nHost: edge\r\n\r\n");
    [
        Kind {
            name: "half-sent requests",
            first: "GET /v2/team/app/manifests/warm HTTP/1.1\r\nHo".to_owned(),
            then: Then::Drip(Duration::from_secs(2)),
        },
        Kind { name: "silent connections", first: String::new(), then: Then::Nothing },
        Kind {
            name: "slow readers",
            first: get(&format!("{REPOSITORY}/blobs/{}", large.digest)),
            then: Then::Sip(Duration::from_secs(1)),
        },
        Kind {
            name: "questions to a silent registry",
            first: get("silent.bench/team/app/manifests/t"),
            then: Then::Nothing,
        },
    ]
}

/// The median time of a pull of what is cached, and of what is not, in milliseconds. One that fails ends the measurement.
async fn work(registry: &DockerRegistry, client: &Client, turn: u64) -> [f64; 2] {
    let mut times = [const { Vec::new() }; 2];
    for time in 0..TIMES {
        let number = 1 + TIMES * turn + time;
        let tag = format!("cold-{number}");
        registry.push(REPOSITORY, &tag, &Image::new(number, &[1000, 1_000_000])).await;
        times[0].push(timed(pull(client, "warm")).await);
        times[1].push(timed(pull(client, &tag)).await);
    }
    times.map(|times| median(&times))
}

async fn pull(client: &Client, tag: &str) {
    client.pull(REPOSITORY, tag).await.unwrap_or_else(|error| panic!("{tag}: {error:?}"));
}

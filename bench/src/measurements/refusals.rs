//! A thing that is missing or refused: what its absence costs when it is learnt through the edge.

use std::time::{Duration, Instant};

use pierhead_registry::oci::{Algorithm, Digest};
use pierhead_tests::pull::Client;
use pierhead_tests::registry::DockerRegistry;

use crate::edge::Plan;
use crate::options::Scale;
use crate::report::{Figure, Findings, Series, Target};
use crate::statistics::median;
use crate::upstream::REPOSITORY;

/// What is measured.
pub(crate) const ABOUT: &str =
    "missing and refused manifests, blobs and lists, each asked for once: time through the edge less the time directly";

/// What is asked for, and the path of the one with a number.
type Question = (&'static str, fn(u64) -> String);

const QUESTIONS: [Question; 4] = [
    ("manifest by tag", |number| format!("manifests/absent-{number}")),
    ("manifest by digest", |number| format!("manifests/{}", digest(number))),
    ("blob", |number| format!("blobs/{}", digest(number))),
    ("referrers", |number| format!("referrers/{}", digest(number))),
];

fn digest(number: u64) -> Digest {
    Digest::of(Algorithm::Sha256, &number.to_be_bytes())
}

/// Measures it.
pub(crate) async fn measure(scale: Scale) -> Findings {
    let open = DockerRegistry::start().await;
    let closed = DockerRegistry::with_account("someone", "password").await;
    let mut figures = Vec::new();
    let mut settings = Vec::new();
    for (kind, registry) in [("missing", &open), ("refused", &closed)] {
        let edge = Plan::new(registry.address).start().await;
        let sides =
            [Client::new(format!("http://{}", registry.address)), Client::new(format!("http://{}", edge.registry))];
        for (thing, path) in QUESTIONS {
            let mut added = Vec::new();
            let mut times = [Vec::new(), Vec::new()];
            for run in 0..scale.runs {
                let count = scale.pick(200, 20);
                let medians = [asked(&sides[0], path, run, count).await, asked(&sides[1], path, run, count).await];
                added.push(medians[1] - medians[0]);
                times[0].push(medians[0]);
                times[1].push(medians[1]);
            }
            let [direct, through] = times;
            figures.push(Figure::limit(
                format!("{thing}, {kind}: added"),
                Series::new("added", "ms", added),
                vec![Series::new("through pierhead", "ms", through), Series::new("directly", "ms", direct)],
                Some(Target::AtMost(10.0)),
            ));
        }
        settings.push((format!("pierhead, {kind}"), edge.settings()));
    }
    Findings {
        figures,
        notes: vec![
            "the median of many requests a turn, each for another name, so that no answer is a remembered one".into(),
            "plain HTTP, upstream is docker-registry; where it refuses, neither side has an account".into(),
        ],
        settings,
    }
}

/// The median of the times of `count` questions, in milliseconds.
async fn asked(client: &Client, path: fn(u64) -> String, run: usize, count: u64) -> f64 {
    let mut times = Vec::new();
    for number in 0..count {
        let path = format!("/v2/{REPOSITORY}/{}", path(run as u64 * count + number));
        let begun = Instant::now();
        let status = client.get(&path).await.status;
        let time: Duration = begun.elapsed();
        assert!((400..500).contains(&status), "{path}: status {status}");
        times.push(time.as_secs_f64() * 1000.0);
    }
    median(&times)
}

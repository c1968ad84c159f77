//! Through the edge is never worse than direct: generated upstreams, asked in both ways.
//!
//! `PIERHEAD_SEED=17` runs one seed and prints its report; `PIERHEAD_SEEDS=1000..6000` runs others than the usual ones.
//! `PIERHEAD_REPORTS=folder` writes the report of each seed that is worse to a file there.

use pierhead_tests::differential::behaviour::{
    Ask, Auth, Bearer, Behaviour, ChallengeForm, Fault, Keys, Name, Naming, Operation, Pages, Phase, Piece, Redirect,
    ScopeSpelling, Site, Thing, Way, What, When,
};
use pierhead_tests::differential::content::Content;
use pierhead_tests::differential::run::{Case, overview, run};

/// Seeds of every run.
const USUAL: u64 = 200;
/// Seeds of every run that were worse once.
const REMEMBERED: [u64; 29] = [
    819, 952, 1045, 1265, 2268, 2602, 2615, 2619, 2711, 2783, 2895, 2944, 3060, 3250, 3267, 3495, 3739, 3971, 3981,
    4094, 4222, 4344, 4460, 4480, 4666, 4681, 4704, 4749, 4858,
];
/// Reports that are printed.
const REPORTS: usize = 3;
const LAYERS: usize = 10;

fn seeds() -> Vec<u64> {
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|error| panic!("seed {text:?}: {error}"));
    if let Ok(seed) = std::env::var("PIERHEAD_SEED") {
        return vec![number(&seed)];
    }
    match std::env::var("PIERHEAD_SEEDS") {
        Ok(range) => match range.split_once("..") {
            Some((from, to)) => (number(from)..number(to)).collect(),
            None => (0..number(&range)).collect(),
        },
        Err(_) => (0..USUAL).chain(REMEMBERED).collect(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_through_is_never_worse_than_direct() {
    let seeds = seeds();
    let count = seeds.len();
    let comparisons = run(seeds.into_iter().map(Case::from_seed)).await;
    let worse: Vec<_> = comparisons.iter().filter(|comparison| !comparison.worse.is_empty()).collect();
    for comparison in &worse[..worse.len().min(REPORTS)] {
        println!("seed {}: {}\n{}", comparison.seed, comparison.worse.join("\n"), comparison.report);
    }
    if let Ok(folder) = std::env::var("PIERHEAD_REPORTS") {
        for comparison in &worse {
            let report = format!("{}\n{}", comparison.worse.join("\n"), comparison.report);
            std::fs::write(format!("{folder}/{}", comparison.seed), report).unwrap();
        }
    }
    if count == 1 && worse.is_empty() {
        println!("{}", comparisons[0].report);
    }
    println!("{count} seeds, worse with {}:\n{}", worse.len(), overview(&comparisons));
    assert!(worse.is_empty(), "worse than direct with {} of {count} seeds; PIERHEAD_SEED=… repeats one", worse.len());
}

/// A registry without a deviation, from which an image with ten further layers is pulled as containerd pulls.
fn plain(seed: u64, auth: Auth, redirect: Option<Redirect>) -> Case {
    let mut operations =
        vec![Operation::Resolve(Name::Tag), Operation::Manifest(Name::Digest), Operation::Blob(Piece::Config)];
    operations.extend((0..LAYERS).map(|layer| Operation::Blob(Piece::Layer(layer))));
    let script = operations.into_iter().map(|operation| Ask { repository: 0, operation }).collect();
    let behaviour = Behaviour {
        seed,
        auth,
        mirror: None,
        redirect,
        pages: Pages::One,
        faults: Vec::new(),
        naming: Naming::Namespace,
        keys: Keys { expired: false, forgetful: false, hasty: false, parallel: false },
        script: vec![(Phase::Cold, script)],
    };
    Case { behaviour, content: Content::with_layers(seed, LAYERS) }
}

/// A 405, a 416 or a 451 is about the request with its method: a HEAD is asked, whatever was said to a GET.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_to_a_get_is_no_rejection_of_a_head() {
    let operations = [
        Operation::Manifest(Name::Tag),
        Operation::Resolve(Name::Tag),
        Operation::Manifest(Name::Digest),
        Operation::Resolve(Name::Digest),
        Operation::Blob(Piece::Small),
        Operation::Exists(Piece::Small),
    ];
    let cases = [400, 405, 406, 416, 451].map(|status| {
        let mut case = plain(u64::from(status), Auth::None, None);
        case.behaviour.faults = vec![Fault {
            things: vec![Thing::Tag, Thing::Digest, Thing::Blob],
            ways: vec![Way::Get, Way::Range],
            first_repository: false,
            site: Site::Registry,
            when: When::Always,
            phase: Phase::Cold,
            what: What::Status { status, retry_after: None, html: false },
        }];
        let script = operations.map(|operation| Ask { repository: 0, operation }).to_vec();
        case.behaviour.script = vec![(Phase::Cold, script)];
        case
    });
    for comparison in run(cases.into_iter()).await {
        assert_eq!(comparison.worse, Vec::<String>::new(), "{}", comparison.report);
        for pair in comparison.pairs.iter().skip(1).step_by(2) {
            assert!(pair.through.outcome.is_success(), "{}", comparison.report);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_pull_costs_upstream_no_more_requests_than_a_direct_one() {
    let bearer = |account, per_repository| {
        Auth::Bearer(Bearer {
            account,
            elsewhere: false,
            per_repository,
            scope: ScopeSpelling::Plain,
            service: true,
            form: ChallengeForm::Plain,
            uses: None,
            moved: None,
            field: "token",
            failing: None,
        })
    };
    let redirect = || Redirect {
        things: vec![Thing::Blob],
        status: 307,
        elsewhere: true,
        hops: 1,
        query: "?signature=x",
        refuses_credentials: true,
    };
    let cases = [
        plain(1, Auth::None, None),
        plain(2, Auth::None, Some(redirect())),
        plain(3, Auth::Basic, None),
        plain(4, bearer(false, false), None),
        plain(5, bearer(true, false), Some(redirect())),
        plain(6, bearer(true, true), None),
    ];
    for comparison in run(cases.into_iter()).await {
        assert_eq!(comparison.worse, Vec::<String>::new(), "{}", comparison.report);
        let direct: usize = comparison.pairs.iter().map(|pair| pair.direct.requests).sum();
        let through: usize = comparison.pairs.iter().map(|pair| pair.through.requests).sum();
        println!("case {}: {direct} requests directly, {through} through", comparison.seed);
        assert!(direct >= LAYERS + 3, "{}", comparison.report);
        assert!(through <= direct + 1, "{direct} directly, {through} through: {}", comparison.report);
    }
}

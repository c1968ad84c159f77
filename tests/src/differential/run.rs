//! Runs behaviours: many upstreams behind one edge, each a registry of its own.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::behaviour::{Ask, Auth, Behaviour, Operation, Phase, Piece};
use super::client::Client;
use super::content::Content;
use super::judge::{Done, Pair, Verdict, judge, judge_requests};
use super::operations::{Address, perform};
use super::outcome::Outcome;
use super::tokens::ACCOUNT;
use super::upstream::{ISSUER, PAGE_TEXT, Upstream};
use crate::pierhead::{Pierhead, Setup};

/// Registries of one edge, whose scripts run at once.
const BATCH: usize = 150;

/// A behaviour, and the content of its upstream.
pub struct Case {
    /// What it does.
    pub behaviour: Behaviour,
    /// What it holds.
    pub content: Content,
}

/// A script, done in both ways.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The behaviour's seed.
    pub seed: u64,
    /// Each operation.
    pub pairs: Vec<Pair>,
    /// What was worse, a line each.
    pub worse: Vec<String>,
    /// The behaviour and both transcripts.
    pub report: String,
}

impl Case {
    /// The case of a seed.
    pub fn from_seed(seed: u64) -> Case {
        Case { behaviour: Behaviour::from_seed(seed), content: Content::new(seed) }
    }
}

/// Runs the cases, which have different seeds, a batch of them behind one edge.
pub async fn run(cases: impl Iterator<Item = Case>) -> Vec<Comparison> {
    let cases: Vec<(Arc<Behaviour>, Arc<Content>)> =
        cases.map(|case| (Arc::new(case.behaviour), Arc::new(case.content))).collect();
    let mut comparisons = Vec::new();
    for batch in cases.chunks(BATCH) {
        let mut setup = Setup::new().set("/access_log", false);
        let mut upstreams = Vec::new();
        for (behaviour, content) in batch {
            let upstream = Upstream::start(behaviour, content).await;
            setup = setup.with("registries", registry(behaviour, &upstream));
            upstreams.push((behaviour, content, upstream));
        }
        let edge = setup.start().await;
        let running =
            upstreams.into_iter().map(|(behaviour, content, upstream)| compare(behaviour, content, upstream, &edge));
        comparisons.extend(join_all(running).await);
    }
    comparisons.sort_by_key(|comparison| comparison.seed);
    comparisons
}

fn name(behaviour: &Behaviour) -> String {
    format!("s{}.test", behaviour.seed)
}

/// The registry in the edge's configuration.
fn registry(behaviour: &Behaviour, upstream: &Upstream) -> Value {
    let keys = &behaviour.keys;
    let mut registry = json!({
        "name": name(behaviour), "upstream": upstream.addresses, "insecure": true,
        "connect_timeout": "2s", "first_byte_timeout": "5s", "idle_timeout": "5s", "resume_for": "5s",
        // Redirects lead to another address of this machine, where they would lead to a public one elsewhere.
        "cool_down": "1s", "realms": [ISSUER.to_string()], "redirects_to": ["127.0.0.2"],
    });
    let mut set = |name: &str, value: Value| registry[name] = value;
    if keys.expired {
        set("tag_ttl", json!("0s"));
    }
    if keys.forgetful {
        set("negative_ttl", json!("0s"));
    }
    if keys.hasty {
        set("retries", json!(2));
    }
    if keys.parallel {
        set("parallel_above", json!("64KiB"));
    }
    if account(behaviour).is_some() {
        set("credentials", json!({ "username": ACCOUNT.0, "password": ACCOUNT.1 }));
    }
    registry
}

fn account(behaviour: &Behaviour) -> Option<(&'static str, &'static str)> {
    match &behaviour.auth {
        Auth::None => None,
        Auth::Basic => Some(ACCOUNT),
        Auth::Bearer(bearer) => bearer.account.then_some(ACCOUNT),
    }
}

/// One side of a comparison.
struct Side<'a> {
    upstream: &'a Upstream,
    client: Client,
    address: Address<'a>,
    content: &'a Content,
}

impl Side<'_> {
    async fn perform(&mut self, ask: Ask) -> Done {
        let before = self.upstream.requests();
        let outcome = perform(&mut self.client, self.address, self.content, ask).await;
        let refused = matches!(self.upstream.last_status(before), Some(401 | 403));
        let gets = self.upstream.gets(before);
        Done { outcome, requests: self.upstream.requests() - before, refused, gets }
    }
}

async fn compare(
    behaviour: &Arc<Behaviour>,
    content: &Arc<Content>,
    upstream: Upstream,
    edge: &Pierhead,
) -> Comparison {
    let own = Upstream::start(behaviour, content).await;
    let registry = name(behaviour);
    let mut direct = Side {
        upstream: &own,
        client: Client::new(&own.addresses, account(behaviour)),
        address: Address { registry: None },
        content,
    };
    let mut through = Side {
        upstream: &upstream,
        client: Client::new(&[edge.url()], None),
        address: Address { registry: Some((&registry, behaviour.naming)) },
        content,
    };
    let (mut pairs, mut worse, mut transcript) = (Vec::new(), Vec::new(), String::new());
    let (mut parts, mut doubts, mut met) = (Vec::new(), Doubts::default(), 0);
    for (phase, asks) in &behaviour.script {
        own.enter(*phase);
        upstream.enter(*phase);
        for ask in asks {
            let marks = [direct.client.transcript.len(), through.client.transcript.len(), upstream.requests()];
            let (direct_done, through_done) = (direct.perform(*ask).await, through.perform(*ask).await);
            let deceived = matches!((ask.operation, &direct_done.outcome),
                (Operation::Exists(_), Outcome::Got { what, .. }) if what.size == PAGE_TEXT.len() as u64);
            let pair = Pair { direct: direct_done, through: through_done, deceived };
            let right = content.right(ask.repository, ask.operation);
            let verdict = judge(ask.operation, right.as_ref(), &pair);
            pairs.push(pair.clone());
            // The length of the blob may have to be asked for, and whether a repository holds what came for the other one.
            if let Operation::Part(piece, ..) = ask.operation
                && (piece == Piece::Large || behaviour.hides_lengths())
                && !parts.contains(&(ask.repository, piece))
            {
                parts.push((ask.repository, piece));
            }
            doubts.note(behaviour, *ask, &pair);
            met = met.max(upstream.passing_faults().saturating_sub(own.passing_faults()));
            let counted = judge_requests(&pairs, allowance(behaviour, parts.len(), met, &pairs) + doubts.requests);
            describe(&mut transcript, *phase, *ask, &pair, &verdict);
            let sides = [
                ("direct", &direct.client.transcript[marks[0]..]),
                ("through", &through.client.transcript[marks[1]..]),
                ("upstream", &upstream.log(marks[2])[..]),
            ];
            for (side, lines) in sides {
                for line in lines {
                    let _ = writeln!(transcript, "    {side:8} {line}");
                }
            }
            let (ours, theirs) = (pair.through.outcome.word(), pair.direct.outcome.word());
            if let Verdict::Worse(why) = verdict {
                worse.push(format!("{phase:?} {:?}: {why} ({theirs}, through {ours})", ask.operation));
            } else if let (Verdict::Worse(why), true) = (counted, worse.is_empty()) {
                worse.push(format!("{phase:?} {:?}: {why}", ask.operation));
            }
        }
    }
    let log: Vec<String> = edge.log().all().into_iter().filter(|line| line.contains(&registry)).collect();
    let report = format!("{behaviour:#?}\n{transcript}  the edge's log:\n    {}\n", log.join("\n    "));
    Comparison { seed: behaviour.seed, pairs, worse, report }
}

/// How many requests more than a direct client the edge may have sent so far, beside the one to find out how the registry wants to
/// be asked: one for each of `parts`, blobs that were first asked for in part, which is redirected as any other.
///
/// Where tokens are good for a few requests, each request that the edge adds by design (the one to find out, such a part, the GET
/// after a HEAD's 404) may cost a renewal too: a 401, the token, and the token service's redirect.
///
/// `met`: how many requests more than the direct client's met, at some time, a fault that passes by itself. Each is sent again, as the
/// direct client does when its turn comes.
fn allowance(behaviour: &Behaviour, parts: usize, met: usize, pairs: &[Pair]) -> usize {
    let renewal = match &behaviour.auth {
        Auth::Bearer(bearer) if bearer.uses.is_some() => 2 + usize::from(bearer.moved.is_some()),
        Auth::None | Auth::Basic | Auth::Bearer(_) => 0,
    };
    let absent = pairs.iter().filter(|pair| pair.through.outcome == Outcome::Absent).count();
    let hops = behaviour.redirect.as_ref().map_or(0, |redirect| redirect.hops as usize);
    met + parts + (1 + parts + met) * hops + (1 + parts + absent + met) * renewal
}

/// What a refusal costs by design: until the repository has said yes again, each blob that the edge has none of is asked about before it
/// is fetched, by HEAD and where that is refused by GET. A 401 costs a renewal of the token as well.
#[derive(Default)]
struct Doubts {
    repositories: Vec<usize>,
    requests: usize,
}

impl Doubts {
    fn note(&mut self, behaviour: &Behaviour, ask: Ask, pair: &Pair) {
        let doubted = self.repositories.contains(&ask.repository);
        if pair.through.refused && !pair.through.outcome.is_success() {
            self.repositories.push(ask.repository);
            return;
        }
        if doubted && pair.through.requests > 0 {
            let hops = behaviour.redirect.as_ref().map_or(0, |redirect| redirect.hops as usize);
            let renewal = match &behaviour.auth {
                Auth::Bearer(bearer) => 1 + usize::from(bearer.moved.is_some()),
                Auth::None | Auth::Basic => 0,
            };
            let blob = matches!(ask.operation, Operation::Blob(_) | Operation::Part(..) | Operation::Exists(_));
            self.requests += renewal + if blob { 2 * (1 + hops) } else { 0 };
            self.repositories.retain(|repository| *repository != ask.repository);
        }
    }
}

fn describe(transcript: &mut String, phase: Phase, ask: Ask, pair: &Pair, verdict: &Verdict) {
    let (direct, through) = (&pair.direct, &pair.through);
    let _ = writeln!(transcript, "  {phase:?} {:?} of repository {}: {verdict:?}", ask.operation, ask.repository);
    let _ = writeln!(transcript, "    directly {:?}, {} requests", direct.outcome, direct.requests);
    let _ = writeln!(transcript, "    through  {:?}, {} requests", through.outcome, through.requests);
}

/// Those that are worse, sorted by what is.
pub fn overview(comparisons: &[Comparison]) -> String {
    let mut kinds: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for comparison in comparisons {
        if let Some(first) = comparison.worse.first() {
            kinds.entry(first.as_str()).or_default().push(comparison.seed);
        }
    }
    let mut text = String::new();
    for (worse, seeds) in kinds {
        let _ = writeln!(text, "{:4} × {worse}, seeds {:?}", seeds.len(), &seeds[..seeds.len().min(8)]);
    }
    text
}

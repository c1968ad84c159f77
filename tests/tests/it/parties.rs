//! Parties that ask for one blob at the same time, each with a right of its own at upstream: repositories, and callers of one repository.
//! What upstream says to one of them is an answer to that one alone.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use pierhead_registry::oci::Digest;
use pierhead_tests::http::{Answer, Request, Server, Step};
use pierhead_tests::image::Blob;
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::pull::{Client, PullError};
use serde_json::json;

const SIZE: usize = 400_000;
const ROUNDS: u64 = 30;

/// A registry that sends halves of blobs first, and then refuses all parties but those of `b` and `ann`.
struct Scene {
    upstream: Server,
    edge: Pierhead,
    halves: Arc<AtomicBool>,
    status: Arc<AtomicU16>,
    passthrough: bool,
}

/// Whose question it is.
fn party(request: &Request) -> String {
    let repository = request.path.split('/').nth(2).unwrap_or_default().to_owned();
    request.basic().map_or(repository, |(user, _)| user)
}

fn is_refused(request: &Request) -> bool {
    !party(request).starts_with(['b', 'n'])
}

/// All of it, or the part that was asked for.
fn sent(blob: &Bytes, request: &Request) -> Answer {
    let Some((from, to)) = request.range() else {
        return Answer::new(200, &[("Accept-Ranges", "bytes")], blob.clone());
    };
    let end = to.map_or(blob.len(), |to| usize::try_from(to).unwrap() + 1).min(blob.len());
    let range = format!("bytes {from}-{}/{}", end - 1, blob.len());
    Answer::new(206, &[("Content-Range", &range)], blob.slice(usize::try_from(from).unwrap()..end))
}

/// A half of it. Then `rest`, and the end of the connection.
fn half(blob: &Bytes, rest: Option<Step>) -> Answer {
    let length = blob.len().to_string();
    let headers = [("Content-Length", length.as_str()), ("Accept-Ranges", "bytes")];
    let half = Answer::head(200, &headers).then(Step::Send(blob.slice(..blob.len() / 2)));
    rest.into_iter().fold(half, Answer::then)
}

fn refusal(status: u16) -> Answer {
    // Long enough for the others to come and wait for it.
    Answer { prelude: Some(Step::Pause(Duration::from_millis(20))), ..Answer::new(status, &[], "{}") }
}

fn blobs(rounds: Range<u64>) -> Vec<Blob> {
    rounds.map(|round| Blob::random(round + 1, SIZE)).collect()
}

fn asked_for(blobs: &[Blob], request: &Request) -> Option<Bytes> {
    let (_, digest) = request.path.split_once("/blobs/")?;
    let digest: Digest = digest.parse().ok()?;
    blobs.iter().find(|blob| blob.digest == digest).map(|blob| blob.bytes.clone())
}

impl Scene {
    async fn new(blobs: &[Blob], passthrough: bool) -> Scene {
        let (halves, status) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU16::new(404)));
        let (in_halves, refuses, held) = (Arc::clone(&halves), Arc::clone(&status), blobs.to_vec());
        let upstream = Server::start(Ipv4Addr::LOCALHOST, move |request: &Request| {
            if passthrough && request.basic().is_none() {
                return Answer::new(401, &[("WWW-Authenticate", "Basic realm=\"x\"")], "{}");
            }
            let Some(blob) = asked_for(&held, request) else { return Answer::new(404, &[], "{}") };
            match (in_halves.load(Ordering::SeqCst), request.range()) {
                (true, Some((1.., _))) => Answer::new(503, &[], "{}"),
                (true, _) => half(&blob, None),
                (false, _) if is_refused(request) => refusal(refuses.load(Ordering::SeqCst)),
                (false, _) => sent(&blob, request),
            }
        })
        .await;
        let auth = if passthrough { "passthrough" } else { "shared" };
        let keys = json!({
            "default": true, "auth": auth, "retries": 0, "resume_for": "100ms", "negative_ttl": "1h", "idle_timeout": "1s",
            "cool_down": "10ms",
        });
        let edge = Setup::new().registry_with("up.test", upstream.url(), keys).start().await;
        Scene { upstream, edge, halves, status, passthrough }
    }

    /// The client and the repository of a party.
    fn party(&self, name: &str, round: u64) -> (Client, String) {
        match self.passthrough {
            true => (self.edge.client().login(name, "secret"), format!("n{round}/app")),
            false => (self.edge.client(), format!("{name}{round}/app")),
        }
    }

    async fn pull(&self, name: &str, round: u64, blob: &Blob) -> Result<(), PullError> {
        let (client, repository) = self.party(name, round);
        client.blob(&repository, &blob.digest).await.map(drop)
    }

    /// How often a party was asked about at upstream since its first `before` requests.
    fn asked(&self, name: &str, round: u64, blob: &Blob, before: usize) -> usize {
        let prefix = if self.passthrough { name.to_owned() } else { format!("{name}{round}") };
        let digest = blob.digest.to_string();
        let requests = self.upstream.requests();
        requests[before..].iter().filter(|request| party(request) == prefix && request.path.ends_with(&digest)).count()
    }

    /// Brings the half of each blob here, and lets both parties be known to hold it.
    async fn halve(&self, names: [&str; 2], blobs: &[Blob]) {
        let rounds = futures_util::stream::iter((0..).zip(blobs));
        let halve = async |(round, blob)| {
            for name in names {
                assert!(matches!(self.pull(name, round, blob).await, Err(PullError::Broken(_))), "{name} in {round}");
            }
        };
        rounds.for_each_concurrent(8, halve).await;
        // The fills are put away. What they left is checked when they are opened again.
        self.edge.metric_until("pierhead_fills_in_progress", &[], |fills| fills == 0.0).await;
        self.halves.store(false, Ordering::SeqCst);
    }
}

/// The scene many times over: `refused` asks twice, and `allowed` once between. None of them sees a body that breaks off.
async fn together(passthrough: bool, refused: &str, allowed: &str) {
    let blobs = blobs(0..2 * ROUNDS);
    let scene = Scene::new(&blobs, passthrough).await;
    scene.halve([refused, allowed], &blobs).await;
    for (round, blob) in (0..).zip(&blobs) {
        let status = if round < ROUNDS { 404 } else { 403 };
        scene.status.store(status, Ordering::SeqCst);
        let before = scene.upstream.requests().len();
        let pulls = [refused, allowed, refused].map(|name| scene.pull(name, round, blob));
        let pulls = join_all(pulls).await;
        assert!(pulls[1].is_ok(), "{status} in {round}: {pulls:?}");
        for pull in [&pulls[0], &pulls[2]] {
            assert!(matches!(pull, Ok(()) | Err(PullError::Status(400..))), "{status} in {round}: {pulls:?}");
        }
        assert_eq!(scene.asked(allowed, round, blob, before), 1, "{status} in {round}: for the rest");
        // For the rest, and as that is refused for the whole; once more by the second, if it comes after the answer to the first.
        let asked = scene.asked(refused, round, blob, before);
        assert!(asked <= 4, "{status} in {round}: {asked} requests of the refused");
        scene.pull(allowed, round, blob).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_to_one_repository_ends_no_download_of_another() {
    together(false, "a", "b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_to_one_caller_ends_no_download_of_another() {
    together(true, "carl", "ben").await;
}

/// A download that was begun in the name of one repository, and is refused to it in the middle: the reader of another goes on in its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_goes_on_in_its_own_name() {
    for status in [404, 403] {
        let blob = Blob::random(1, SIZE);
        let (held, first) = (blob.bytes.clone(), AtomicBool::new(true));
        let upstream = Server::start(Ipv4Addr::LOCALHOST, move |request: &Request| {
            match is_refused(request) {
                // It breaks off when nothing came for as long as `idle_timeout` says: until then the other joins.
                true if first.swap(false, Ordering::SeqCst) => half(&held, Some(Step::Silence)),
                true => refusal(status),
                false => sent(&held, request),
            }
        })
        .await;
        let keys = json!({
            "default": true, "retries": 0, "resume_for": "10s", "idle_timeout": "1s", "first_byte_timeout": "5s",
        });
        let edge = Setup::new().registry_with("up.test", upstream.url(), keys).start().await;
        let client = edge.client();
        let pull = |repository: &'static str| {
            let (client, digest) = (client.clone(), blob.digest);
            tokio::spawn(async move { client.blob(repository, &digest).await })
        };
        let first = pull("a/app");
        edge.metric_until("pierhead_fill_readers", &[], |readers| readers >= 1.0).await;
        let readers = join_all((0..3).map(|_| pull("b/app"))).await;
        for reader in readers {
            reader.unwrap().unwrap_or_else(|error| panic!("{status}: {error:?}"));
        }
        drop(first.await.unwrap());
        let rest = upstream.count(|request| party(request) == "b" && matches!(request.range(), Some((1.., _))));
        assert_eq!(rest, 1, "{status}: the rest is asked for once");
    }
}

/// However many strangers are refused a blob that nobody has yet.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_that_are_refused_stop_no_first_download() {
    let blobs = blobs(0..ROUNDS);
    let scene = Scene::new(&blobs, false).await;
    scene.halves.store(false, Ordering::SeqCst);
    for (round, blob) in (0..).zip(&blobs) {
        let names = ["a", "c", "d", "e", "f", "g", "h", "i", "j", "b", "k", "l"];
        let pulls = join_all(names.map(|name| scene.pull(name, round, blob))).await;
        for (name, pull) in names.iter().zip(&pulls) {
            match pull {
                Ok(()) => assert_eq!(*name, "b", "{round}"),
                Err(PullError::Status(404)) if *name != "b" => {}
                Err(error) => panic!("{name} in {round}: {error:?}"),
            }
            let asked = scene.asked(name, round, blob, 0);
            assert!(asked <= 2, "{name} in {round}: {asked} requests");
        }
    }
}

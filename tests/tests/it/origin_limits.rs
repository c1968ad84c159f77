//! What the origin lets in, how it sends the others away, and how it ends while somebody pushes.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::unfold;
use pierhead_registry::oci::Digest;
use pierhead_tests::eventually;
use pierhead_tests::image::Blob;
use pierhead_tests::origin::{Origin, Setup};
use pierhead_tests::pull::{Client, Reply, reply};
use reqwest::{Body, Method};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

const SCOPES: [&str; 1] = ["repository:org/image:pull,push"];

async fn start(setup: Setup) -> (Origin, Client) {
    setup.user("org", "password of org", &[]).await;
    let origin = setup.start().await;
    let client = origin.login("org", "password of org", &SCOPES).await;
    (origin, client)
}

async fn post(client: &Client) -> Reply {
    reply(client.request(Method::POST, "/v2/org/image/blobs/uploads/")).await.unwrap()
}

/// A push of one blob that has begun, and sends what the test hands it.
struct Push {
    pieces: UnboundedSender<Bytes>,
    answer: JoinHandle<Result<Reply, pierhead_tests::pull::PullError>>,
}

impl Push {
    async fn begin(origin: &Origin, client: &Client, digest: &Digest) -> Push {
        let begun = post(client).await;
        assert_eq!(begun.status, 202);
        let place = begun.header("location").strip_prefix(&client.base).unwrap().to_owned();
        let separator = if place.contains('?') { '&' } else { '?' };
        let (pieces, body) = unbounded_channel();
        let body = unfold(body, |mut body| async { Some((Ok::<Bytes, std::io::Error>(body.recv().await?), body)) });
        let request = client.request(Method::PUT, &format!("{place}{separator}digest={digest}"));
        let answer = tokio::spawn(reply(request.body(Body::wrap_stream(body))));
        let push = Push { pieces, answer };
        push.send(b"a beginning, ");
        let at_work = async || {
            let running = origin.metric("pierhead_origin_requests_running", &[("kind", "write")]).await;
            (running >= 1.0).then_some(())
        };
        eventually("a push at work", Duration::from_secs(10), at_work).await;
        push
    }

    fn send(&self, piece: &'static [u8]) {
        self.pieces.send(Bytes::from_static(piece)).unwrap();
    }

    async fn end(self) -> Reply {
        self.send(b"and an end");
        drop(self.pieces);
        self.answer.await.unwrap().unwrap()
    }
}

fn digest() -> Digest {
    Blob::new(Bytes::from_static(b"a beginning, and an end")).digest
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_write_at_a_time_and_the_others_come_again() {
    let limits = json!({ "running": 1, "queued": 1, "wait": "300ms" });
    let (origin, client) = start(Setup::new().set("/limits/writes", limits)).await;
    let push = Push::begin(&origin, &client, &digest()).await;
    let waited = post(&client).await;
    assert_eq!((waited.status, waited.header("retry-after")), (503, "1"));
    let body: Value = serde_json::from_slice(&waited.body).unwrap();
    assert_eq!(body["errors"][0]["code"], "UNAVAILABLE");
    let labels = [("kind", "write"), ("reason", "waited")];
    assert!(origin.metric("pierhead_origin_refusals_total", &labels).await >= 1.0);
    // Reads have a room of their own, and logins need none.
    assert_eq!(client.get("/v2/org/image/tags/list").await.status, 200);
    origin.login("org", "password of org", &SCOPES).await;
    assert_eq!(push.end().await.status, 201);
    let free = async || (post(&client).await.status == 202).then_some(());
    eventually("there is room again", Duration::from_secs(10), free).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_read_only_is_read() {
    let setup = Setup::new();
    let (mut origin, client) = start(setup).await;
    let blob = Blob::new(Bytes::from_static(b"a blob"));
    client.push_blob("org/image", &blob.digest, blob.bytes.clone()).await;
    origin.stop().await;
    origin.reconfigure("/registry_state", "readonly");
    origin.start_again().await;
    let client = origin.login("org", "password of org", &SCOPES).await;
    let refused = post(&client).await;
    let body: Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!((refused.status, &body["errors"][0]["code"]), (405, &json!("DENIED")));
    client.blob("org/image", &blob.digest).await.unwrap();
    assert_eq!(client.get("/health/instance").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_stands_still_is_given_up_and_its_room_is_free() {
    let (origin, client) = start(Setup::new().set("/limits/idle_timeout", "500ms")).await;
    let push = Push::begin(&origin, &client, &digest()).await;
    // Nothing more is sent. Whether the client still hears why is up to how far it has read.
    let heard = tokio::time::timeout(Duration::from_secs(20), push.answer).await.expect("waited for ever").unwrap();
    if let Ok(reply) = heard {
        assert!((400..500).contains(&reply.status), "{}", reply.status);
    }
    let free = async || {
        let running = origin.metric("pierhead_origin_requests_running", &[("kind", "write")]).await;
        (running == 0.0).then_some(())
    };
    eventually("its room is free", Duration::from_secs(10), free).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_pushes_finish() {
    let (mut origin, client) = start(Setup::new()).await;
    let push = Push::begin(&origin, &client, &digest()).await;
    let mark = origin.log().len();
    origin.signal(Signal::TERM);
    origin.says(mark, "stopping: no longer accepting, waiting for requests").await;
    let refused = async || tokio::net::TcpStream::connect(origin.registry).await.is_err().then_some(());
    eventually("nobody is accepted", Duration::from_secs(10), refused).await;
    assert_eq!(push.end().await.status, 201);
    assert!(origin.wait(Duration::from_secs(20)).await.success());
    origin.start_again().await;
    let client = origin.login("org", "password of org", &SCOPES).await;
    client.blob("org/image", &digest()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_taken_is_given_up() {
    let (origin, client) = start(Setup::new().set("/limits/idle_timeout", "1s")).await;
    let blob = Blob::random(7, 32 << 20);
    client.push_blob("org/image", &blob.digest, blob.bytes.clone()).await;
    let path = format!("/v2/org/image/blobs/{}", blob.digest);
    let http2 = reqwest::Client::builder().no_proxy().http2_prior_knowledge().http2_initial_stream_window_size(65_535);
    for client in [client.clone().over(http2.build().unwrap()), client] {
        let answer = client.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let at_work = async |least: f64, most: f64| {
            let running = origin.metric("pierhead_origin_requests_running", &[("kind", "download")]).await;
            (least..=most).contains(&running).then_some(())
        };
        eventually("a pull at work", Duration::from_secs(10), async || at_work(1.0, 1.0).await).await;
        eventually("its room is free", Duration::from_secs(20), async || at_work(0.0, 0.0).await).await;
        drop(answer);
    }
}

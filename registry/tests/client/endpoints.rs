//! Several addresses, dead ones among them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pierhead_registry::client::{BlobHead, Client, ClientError, ListKind, Observer};
use url::Url;

use crate::fake::{Fake, Seen, Step, answer, head};
use crate::{Watch, client, content, digest, drain, repository, settings, team};

/// An address where connections are refused.
fn refused() -> Url {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap()
}

#[tokio::test]
async fn a_dead_first_endpoint_costs_one_time_out() {
    let silent = Fake::start(|_, _| vec![Step::Hang]).await;
    let good = Fake::start(|_, _| vec![head(200, &["Content-Length: 7"])]).await;
    let mut two = settings(&[silent.url(), good.url()]);
    (two.connect_timeout, two.first_byte_timeout) = (Duration::from_millis(200), Duration::from_millis(800));
    let client = client(two);
    for _ in 0..5 {
        assert_eq!(team(&client).head_blob(&digest(b"x"), None).await.unwrap(), BlobHead::Size(Some(7)));
    }
    let asked = silent.seen().iter().filter(|request| !request.target.ends_with("/v2/")).count();
    assert_eq!((asked, good.seen().len()), (1, 5));
    assert!(client.available());
}

#[tokio::test]
async fn with_all_dead_nobody_waits() {
    let silent = Fake::start(|_, _| vec![Step::Hang]).await;
    let mut dead = settings(&[silent.url(), refused()]);
    (dead.connect_timeout, dead.first_byte_timeout) = (Duration::from_millis(200), Duration::from_millis(800));
    dead.retries = 10;
    let client = client(dead);
    assert!(client.available());
    assert!(matches!(team(&client).head_blob(&digest(b"x"), None).await, Err(ClientError::Unavailable { .. })));
    assert!(!client.available());
    let begun = Instant::now();
    for _ in 0..100 {
        assert!(matches!(team(&client).head_blob(&digest(b"x"), None).await, Err(ClientError::Unavailable { .. })));
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let asked = silent.seen().iter().filter(|request| !request.target.ends_with("/v2/")).count();
    assert_eq!(asked, 1, "only the lookout asks again");
}

#[tokio::test]
async fn the_lookout_finds_out_when_it_is_back() {
    // The request, whether the address answers at all, and the first time that the lookout asks.
    let fake = Fake::start(|_, number| if number < 3 { vec![Step::Hang] } else { answer(404, &[], b"") }).await;
    let mut short = settings(&[fake.url()]);
    (short.connect_timeout, short.first_byte_timeout) = (Duration::from_millis(200), Duration::from_millis(800));
    short.retries = 0;
    let client = client(short);
    assert!(matches!(team(&client).head_blob(&digest(b"x"), None).await, Err(ClientError::Unavailable { .. })));
    assert!(!client.available());
    let deadline = Instant::now() + Duration::from_secs(10);
    while !client.available() {
        assert!(Instant::now() < deadline, "it never became available again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let paths: Vec<_> = fake.seen().into_iter().skip(1).map(|request| request.target).collect();
    assert_eq!(paths, ["/v2/", "/v2/", "/v2/"], "nobody else asked meanwhile");
    assert!(matches!(team(&client).head_blob(&digest(b"x"), None).await, Err(ClientError::Unconfirmed { .. })));
}

#[tokio::test]
async fn a_restart_of_the_only_address_is_waited_for() {
    let url = refused();
    let address = url.socket_addrs(|| None).unwrap()[0];
    let mut patient = settings(&[url]);
    patient.retries = 3;
    let watch = Arc::new(Watch::default());
    let client = Client::new(patient, Arc::clone(&watch) as Arc<dyn Observer>).unwrap();
    let asking = tokio::spawn(async move { team(&client).head_blob(&digest(b"x"), None).await });
    let deadline = Instant::now() + Duration::from_secs(10);
    while watch.statuses.lock().unwrap().is_empty() {
        assert!(Instant::now() < deadline, "the address was never asked");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let fake = Fake::start_at(address, |_, _| vec![head(200, &["Content-Length: 7"])]).await;
    assert_eq!(asking.await.unwrap().unwrap(), BlobHead::Size(Some(7)));
    assert!(fake.seen().len() >= 2, "the lookout and the request");
}

#[tokio::test]
async fn failures_are_tried_again_and_answers_are_not() {
    for (first, retried) in
        [(500, true), (503, true), (408, true), (404, false), (401, false), (403, false), (400, false)]
    {
        let script = move |_: &_, number| if number < 2 { answer(first, &[], b"") } else { answer(200, &[], b"{}") };
        let fake = Fake::start(script).await;
        let result = repository(&[fake.url()]).get_manifest(&"latest".parse().unwrap(), &[]).await;
        assert_eq!((result.is_ok(), fake.questions()), (retried, if retried { 3 } else { 1 }), "{first}");
    }
    let broken = Fake::start(|_, _| answer(502, &[], b"")).await;
    let error = repository(&[broken.url()]).get_manifest(&"latest".parse().unwrap(), &[]).await.unwrap_err();
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");
    assert_eq!(broken.seen().len(), 3);
}

/// notation#659: the edge answers 404 where referrers fail, and a client does not try again after that.
#[tokio::test]
async fn referrers_are_tried_as_often_as_a_client_would() {
    for (status, tries) in [(408, 3), (500, 3), (502, 3), (503, 3), (504, 3), (400, 1), (404, 1), (405, 1), (501, 1)] {
        let fake = Fake::start(move |_, _| answer(status, &[], b"no")).await;
        let kind = ListKind::Referrers(digest(b"{}"));
        let error = repository(&[fake.url()]).get_list(&kind, None).await.unwrap_err();
        let unavailable = matches!(error, ClientError::Unavailable { status: Some(told), .. } if told == status);
        assert_eq!(unavailable, tries > 1, "{status}: {error:?}");
        assert_eq!(fake.seen().len(), tries, "{status}");
        let before = fake.seen().len();
        assert!(repository(&[fake.url()]).get_list(&ListKind::Tags, None).await.is_err(), "{status}");
        assert_eq!(fake.seen().len() - before, 1, "tags, {status}");
    }
}

#[tokio::test]
async fn one_slow_thing_leaves_the_address_available() {
    let slow = |seen: &Seen, _| {
        if seen.target.contains("slow") { vec![Step::Hang] } else { answer(404, &[], b"") }
    };
    let fake = Fake::start(slow).await;
    let mut short = settings(&[fake.url()]);
    (short.connect_timeout, short.first_byte_timeout) = (Duration::from_millis(200), Duration::from_millis(800));
    let client = client(short);
    let slow = team(&client).get_manifest(&"slow".parse().unwrap(), &[]).await;
    assert!(matches!(slow, Err(ClientError::Unavailable { .. })));
    assert!(client.available());
    let asked = fake.seen().iter().filter(|request| request.target.contains("slow")).count();
    assert_eq!(asked, 1, "what did not come in time is not asked for again");
}

#[tokio::test]
async fn avoided_endpoints_are_asked_last() {
    let bytes = content(10);
    let (one, two) = (bytes.clone(), bytes.clone());
    let first = Fake::start(move |_, _| answer(200, &[], &one)).await;
    let second =
        Fake::start(move |_, number| if number == 0 { answer(200, &[], &two) } else { answer(500, &[], b"") }).await;
    let repository = repository(&[first.url(), second.url()]);
    for expected in [1, 0] {
        let mut body = repository.get_blob(&digest(&bytes), 0, None, &[0]).await.unwrap();
        assert_eq!(body.endpoint(), expected);
        assert!(drain(&mut body).await.unwrap() == bytes);
    }
}

#[tokio::test]
async fn headers_that_never_end() {
    let mut long = b"HTTP/1.1 200 OK\r\n".to_vec();
    long.extend_from_slice(b"X-Filler: ");
    let script = move |_: &_, _| vec![Step::Send(long.clone()), Step::Endless(vec![b'x'; 4096])];
    let endless = Fake::start(script).await;
    let mut once = settings(&[endless.url()]);
    once.retries = 0;
    let error = team(&client(once)).get_manifest(&"latest".parse().unwrap(), &[]).await.unwrap_err();
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");

    let drip = Fake::start(|_, _| vec![Step::Drip(vec![b'x'; 10_000], Duration::from_millis(10))]).await;
    let mut impatient = settings(&[drip.url()]);
    (impatient.connect_timeout, impatient.first_byte_timeout) =
        (Duration::from_millis(200), Duration::from_millis(800));
    impatient.retries = 0;
    let begun = Instant::now();
    let error = team(&client(impatient)).get_manifest(&"latest".parse().unwrap(), &[]).await.unwrap_err();
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

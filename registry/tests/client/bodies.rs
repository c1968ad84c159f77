//! Bodies of blobs that break, lie or linger.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pierhead_registry::client::{BlobHead, Client, ClientError};

use crate::fake::{Fake, Seen, Step, answer, blob, head};
use crate::{Watch, client, content, digest, drain, repository, settings, team};

#[tokio::test]
async fn reset_at_half_is_resumed_where_it_stopped() {
    let bytes = content(100_000);
    let body = bytes.clone();
    let fake = Fake::start(move |seen, number| blob(seen, &body, if number < 2 { 30_000 } else { usize::MAX })).await;
    let watch = Arc::new(Watch::default());
    let client = Client::new(settings(&[fake.url()]), watch.clone()).unwrap();
    let mut body = team(&client).get_blob(&digest(&bytes), 0, None, &[]).await.unwrap();
    assert!(drain(&mut body).await.unwrap() == bytes);
    let ranges: Vec<_> = fake.seen().iter().map(|seen| seen.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [None, Some("bytes=30000-".to_owned()), Some("bytes=60000-".to_owned())]);
    assert_eq!(fake.seen()[1].header("if-range"), Some("\"strong\""));
    assert_eq!(watch.bytes.load(std::sync::atomic::Ordering::SeqCst), 100_000, "each byte came once");
}

/// A server that sends a few bytes an answer gets fewer and fewer requests; one whose connections break after something worth it does not.
#[tokio::test]
async fn answers_that_bring_little_are_asked_for_ever_more_seldom() {
    // Each pause is at least half as long as it may be: 50 ms, and twice as long after each answer that brought too little.
    for (each, answers, least, most) in [(10, 6, 1500, 60_000), (16 << 10, 12, 0, 10_000)] {
        let bytes = content(each * answers);
        let body = bytes.clone();
        let fake = Fake::start(move |seen, _| blob(seen, &body, each)).await;
        let begun = Instant::now();
        let mut body = repository(&[fake.url()]).get_blob(&digest(&bytes), 0, None, &[]).await.unwrap();
        assert!(drain(&mut body).await.unwrap() == bytes);
        let took = begun.elapsed().as_millis();
        assert!((least..most).contains(&took), "{answers} answers of {each} bytes: {took} ms");
        assert_eq!(fake.seen().len(), answers);
    }
}

#[tokio::test]
async fn a_part_is_resumed_up_to_its_end() {
    let bytes = content(1000);
    let fake = Fake::start(move |seen, number| {
        let (from, end) = (seen.from(), 900);
        let part = &bytes[from..end];
        let range = format!("Content-Range: bytes {from}-{}/1000", end - 1);
        let length = format!("Content-Length: {}", part.len());
        let sent = if number == 0 { 100 } else { part.len() };
        vec![head(206, &[&range, &length]), Step::Send(part[..sent].to_vec())]
    })
    .await;
    let mut body = repository(&[fake.url()]).get_blob(&digest(b"x"), 200, Some(900), &[]).await.unwrap();
    assert!(drain(&mut body).await.unwrap() == content(1000)[200..900]);
    assert_eq!(fake.seen()[1].header("range"), Some("bytes=300-899"));
    assert_eq!(fake.seen()[1].header("if-range"), None, "there was no validator");
}

#[tokio::test]
async fn a_broken_body_goes_on_at_the_next_endpoint() {
    let bytes = content(100_000);
    let (one, two) = (bytes.clone(), bytes.clone());
    let failing = Fake::start(move |seen, number| match number {
        0 => blob(seen, &one, 40_000),
        _ => answer(500, &[], b""),
    })
    .await;
    let good = Fake::start(move |seen, _| blob(seen, &two, usize::MAX)).await;
    let repository = repository(&[failing.url(), good.url()]);
    let mut body = repository.get_blob(&digest(&bytes), 0, None, &[]).await.unwrap();
    assert_eq!(body.endpoint(), 0);
    assert!(drain(&mut body).await.unwrap() == bytes);
    assert_eq!(body.endpoint(), 1);
    assert_eq!(good.seen().len(), 1);
    assert_eq!(good.seen()[0].header("range"), Some("bytes=40000-"));
    assert_eq!(good.seen()[0].header("if-range"), None, "the validator is another server's");
}

#[tokio::test]
async fn a_resume_answered_from_the_start_is_skipped_over() {
    let bytes = content(100_000);
    let body = bytes.clone();
    let fake = Fake::start(move |_, number| {
        let mut steps = answer(200, &[], &body);
        if number == 0 {
            steps[1] = Step::Send(body[..30_000].to_vec());
        }
        steps
    })
    .await;
    let mut body = repository(&[fake.url()]).get_blob(&digest(&bytes), 0, None, &[]).await.unwrap();
    assert!(!body.ranges());
    assert!(drain(&mut body).await.unwrap() == bytes);
    assert_eq!(fake.seen().len(), 2);
}

#[tokio::test]
async fn a_short_body_is_never_taken_for_whole() {
    let bytes = content(1000);
    let fake =
        Fake::start(move |_, _| vec![head(200, &["Content-Length: 1000"]), Step::Send(bytes[..999].to_vec())]).await;
    let mut short = settings(&[fake.url()]);
    short.resume_for = Duration::from_millis(300);
    let mut body = team(&client(short)).get_blob(&digest(b"x"), 0, None, &[]).await.unwrap();
    let mut got = 0;
    let error = loop {
        match body.chunk().await {
            Ok(Some(piece)) => got += piece.len(),
            Ok(None) => panic!("a short body ended as if whole"),
            Err(error) => break error,
        }
    };
    assert_eq!(got, 999);
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");
    assert!(body.chunk().await.is_err(), "and it stays broken");
}

#[tokio::test]
async fn a_long_body_is_caught() {
    let chunked = |body: &[u8]| {
        let mut text = format!("{:x}\r\n", body.len()).into_bytes();
        text.extend_from_slice(body);
        text.extend_from_slice(b"\r\n");
        text
    };
    // In one piece, and in a piece of its own after what looked like the end.
    for pieces in [vec![chunked(&content(999))], vec![chunked(&content(998)), chunked(b"?")]] {
        let script = move |_: &Seen, _| {
            let lines = ["Transfer-Encoding: chunked", "Content-Range: bytes 2-999/1000"];
            let mut steps = vec![head(206, &lines)];
            steps.extend(pieces.iter().cloned().map(Step::Send));
            steps.push(Step::Send(b"0\r\n\r\n".to_vec()));
            steps
        };
        let fake = Fake::start(script).await;
        let mut body = repository(&[fake.url()]).get_blob(&digest(b"x"), 2, None, &[]).await.unwrap();
        let error = drain(&mut body).await.unwrap_err();
        assert!(matches!(error, ClientError::Invalid { .. }), "{error}");
    }
}

#[tokio::test]
async fn headers_that_cannot_be() {
    for (status, lines, asked) in [
        // Once more, without the range that the server is bad at.
        (206, vec!["Content-Length: 990", "Content-Range: bytes 11-1000/1001"], 2),
        (206, vec!["Content-Length: 5", "Content-Range: bytes 10-999/1000"], 2),
        (206, vec!["Content-Length: 990"], 2),
        (206, vec!["Content-Length: 990", "Content-Type: multipart/byteranges; boundary=x"], 2),
        (416, vec!["Content-Length: 0", "Content-Range: bytes */5"], 1),
        (200, vec!["Content-Length: 5"], 1),
        (204, vec![], 1),
    ] {
        let sent = lines.clone();
        let fake = Fake::start(move |_, _| vec![head(status, &sent), Step::Hang]).await;
        let error = repository(&[fake.url()]).get_blob(&digest(b"x"), 10, None, &[]).await.unwrap_err();
        assert!(matches!(error, ClientError::Invalid { .. }), "{lines:?}: {error}");
        assert_eq!(fake.seen().len(), asked, "{lines:?}");
    }
}

#[tokio::test]
async fn a_length_that_changes_on_the_way_is_caught() {
    let fake = Fake::start(|seen, number| match number {
        0 => blob(seen, &content(1000), 500),
        _ => blob(seen, &content(1001), usize::MAX),
    })
    .await;
    let mut body = repository(&[fake.url()]).get_blob(&digest(b"x"), 0, None, &[]).await.unwrap();
    let error = drain(&mut body).await.unwrap_err();
    assert!(matches!(error, ClientError::Invalid { .. }), "{error}");
}

#[tokio::test]
async fn a_body_that_falls_silent_is_resumed() {
    let bytes = content(1000);
    let body = bytes.clone();
    let fake = Fake::start(move |seen, number| {
        let mut steps = blob(seen, &body, if number == 0 { 500 } else { usize::MAX });
        if number == 0 {
            steps.push(Step::Hang);
        }
        steps
    })
    .await;
    let mut impatient = settings(&[fake.url()]);
    impatient.idle_timeout = Duration::from_millis(200);
    let mut body = team(&client(impatient)).get_blob(&digest(&bytes), 0, None, &[]).await.unwrap();
    assert!(drain(&mut body).await.unwrap() == bytes);
}

#[tokio::test]
async fn a_reader_that_takes_its_time_is_not_given_up_on() {
    let bytes = content(1000);
    let body = bytes.clone();
    let fake = Fake::start(move |seen, number| blob(seen, &body, if number == 0 { 500 } else { usize::MAX })).await;
    let mut short = settings(&[fake.url()]);
    short.resume_for = Duration::from_millis(300);
    let mut body = team(&client(short)).get_blob(&digest(&bytes), 0, None, &[]).await.unwrap();
    let mut got = body.chunk().await.unwrap().unwrap().to_vec();
    tokio::time::sleep(Duration::from_millis(400)).await;
    got.extend(drain(&mut body).await.unwrap());
    assert!(got == bytes);
}

#[tokio::test]
async fn a_slow_drip_is_no_failure() {
    let bytes = content(40);
    let body = bytes.clone();
    let fake = Fake::start(move |_, _| {
        vec![head(200, &["Content-Length: 40"]), Step::Drip(body.clone(), Duration::from_millis(20))]
    })
    .await;
    let mut impatient = settings(&[fake.url()]);
    impatient.idle_timeout = Duration::from_millis(400);
    let begun = Instant::now();
    let mut body = team(&client(impatient)).get_blob(&digest(&bytes), 0, None, &[]).await.unwrap();
    assert!(drain(&mut body).await.unwrap() == bytes);
    assert!(begun.elapsed() > Duration::from_millis(400), "it took longer than the longest silence");
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test]
async fn an_upstream_that_comes_back_is_found_again() {
    let bytes = content(100_000);
    let body = bytes.clone();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let first = Fake::start_at(address, {
        let body = bytes.clone();
        move |seen, _| blob(seen, &body, 50_000)
    })
    .await;
    let mut body_of_blob = repository(&[first.url()]).get_blob(&digest(&bytes), 0, None, &[]).await.unwrap();
    let mut got = body_of_blob.chunk().await.unwrap().unwrap().to_vec();
    drop(first);
    let back = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Fake::start_at(address, move |seen, _| blob(seen, &body, usize::MAX)).await
    });
    // Connections are refused meanwhile, which opens the breaker; a body goes on trying all the same.
    got.extend(drain(&mut body_of_blob).await.unwrap());
    assert!(got == bytes);
    let seen = back.await.unwrap().seen();
    let resumed = seen.iter().find(|request| !request.target.ends_with("/v2/"));
    assert_eq!(resumed.and_then(|request| request.header("range")), Some("bytes=50000-"));
}

/// A caller that must wait for a connection first learns at once that there is nothing to use it for.
#[tokio::test]
async fn a_registry_that_would_not_be_asked_says_so_at_once() {
    let fake = Fake::start(|_, _| answer(429, &["Retry-After: 60"], b"")).await;
    let repository = repository(&[fake.url()]);
    assert!(repository.check(0, None, &[]).is_ok());
    assert!(repository.probe_blob(&digest(b"x"), None, false).await.is_err());
    let error = repository.check(0, None, &[]).unwrap_err();
    assert!(matches!(error, ClientError::RateLimited { .. }), "{error}");
}

#[tokio::test]
async fn dropping_a_chunk_loses_nothing() {
    let bytes = content(2000);
    let body = bytes.clone();
    let fake = Fake::start(move |seen, number| match number {
        0 => blob(seen, &body, 1000),
        _ => {
            let mut steps = blob(seen, &body, usize::MAX);
            steps[1] = Step::Drip(body[seen.from()..].to_vec(), Duration::from_micros(200));
            steps
        }
    })
    .await;
    let mut body = repository(&[fake.url()]).get_blob(&digest(&bytes), 0, None, &[]).await.unwrap();
    let mut got = Vec::new();
    // Every other time it is dropped almost at once, wherever it may wait just then.
    for patience in [1, 500].into_iter().cycle() {
        match tokio::time::timeout(Duration::from_millis(patience), body.chunk()).await {
            Ok(Ok(Some(piece))) => got.extend_from_slice(&piece),
            Ok(Ok(None)) => break,
            Ok(Err(error)) => panic!("{error}"),
            Err(_) => {}
        }
    }
    assert!(got == bytes);
}

fn chunk(body: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", body.len()).as_bytes(), body, b"\r\n"].concat()
}

/// A body in chunks; `whole`: with the last one, which ends it.
fn chunked(body: &[u8], whole: bool) -> Vec<Step> {
    let mut steps = vec![head(200, &["Transfer-Encoding: chunked"]), Step::Send(chunk(body))];
    steps.extend(whole.then(|| Step::Send(b"0\r\n\r\n".to_vec())));
    steps
}

#[tokio::test]
async fn a_body_without_a_length_ends_where_it_ends() {
    for in_chunks in [true, false] {
        let bytes = content(1000);
        let body = bytes.clone();
        let fake = Fake::start(move |_, _| match in_chunks {
            true => chunked(&body, true),
            false => vec![head(200, &[]), Step::Send(body.clone())],
        })
        .await;
        for (start, end) in [(0, None), (10, Some(20))] {
            let mut body = repository(&[fake.url()]).get_blob(&digest(&bytes), start, end, &[]).await.unwrap();
            assert_eq!((body.total(), body.start(), body.ranges()), (None, 0, false));
            let expected = &bytes[..end.map_or(1000, |end| end as usize)];
            assert!(drain(&mut body).await.unwrap() == expected, "{in_chunks} {start}");
            assert_eq!(body.total(), end.is_none().then_some(1000));
            assert!(body.chunk().await.unwrap().is_none());
        }
    }
}

/// Only an end that HTTP proves, or that a second answer shares, is taken for one that is expected later.
#[tokio::test]
async fn a_body_without_a_length_that_breaks_is_resumed() {
    type Rest = fn(&[u8], usize) -> Vec<Step>;
    let rests: [(&str, Rest); 4] = [
        ("a part with a length", |all, from| {
            let range = format!("Content-Range: bytes {from}-{}/{}", all.len() - 1, all.len());
            answer(206, &[&range], &all[from..])
        }),
        ("a part without the total", |all, from| {
            let range = format!("Content-Range: bytes {from}-{}/*", all.len() - 1);
            if from == all.len() {
                return answer(416, &[&format!("Content-Range: bytes */{from}")], b"");
            }
            answer(206, &[&range], &all[from..])
        }),
        ("everything, in chunks", |all, _| chunked(all, true)),
        ("everything, up to where the connection is closed", |all, _| vec![head(200, &[]), Step::Send(all.to_vec())]),
    ];
    for (name, rest) in rests {
        // In chunks that do not end, and up to where the connection is closed.
        for in_chunks in [true, false] {
            let bytes = content(1000);
            let body = bytes.clone();
            let fake = Fake::start(move |seen, number| match (number, in_chunks) {
                (0, true) => chunked(&body[..400], false),
                (0, false) => vec![head(200, &[]), Step::Send(body[..400].to_vec())],
                _ => rest(&body, seen.from()),
            })
            .await;
            let repository = repository(&[fake.url()]);
            let mut body = repository.get_blob_of(&digest(&bytes), Some(1000), 0, None, &[]).await.unwrap();
            assert!(drain(&mut body).await.unwrap() == bytes, "{name}");
            assert_eq!(body.total(), Some(1000), "{name}");
            assert_eq!(fake.seen()[1].header("range"), Some("bytes=400-"));
        }
    }
}

#[tokio::test]
async fn what_a_manifest_says_of_a_length_does_not_make_one() {
    // It says too much: a second answer that ends in the same place is believed.
    let bytes = content(1000);
    let body = bytes.clone();
    let fake = Fake::start(move |_, _| vec![head(200, &[]), Step::Send(body.clone())]).await;
    let repository = repository(&[fake.url()]);
    let mut body = repository.get_blob_of(&digest(&bytes), Some(5000), 0, None, &[]).await.unwrap();
    assert!(drain(&mut body).await.unwrap() == bytes);
    assert_eq!((body.total(), fake.seen().len()), (Some(1000), 2));
}

#[tokio::test]
async fn a_body_without_a_length_that_never_ends_well_fails() {
    let bytes = content(1000);
    let fake = Fake::start(move |_, _| chunked(&bytes[..400], false)).await;
    let mut short = settings(&[fake.url()]);
    short.resume_for = Duration::from_millis(300);
    let mut body = team(&client(short)).get_blob(&digest(b"x"), 0, None, &[]).await.unwrap();
    let error = drain(&mut body).await.unwrap_err();
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");
}

/// What is sent was asked for without an encoding. Whether it is the blob, its digest says.
#[tokio::test]
async fn labels_do_not_keep_a_blob_from_being_read() {
    let bytes = content(1000);
    for label in [
        "Content-Encoding: aws-chunked",
        "Content-Encoding: x-gzip",
        "Content-Encoding: gzip",
        "Content-Encoding: anything, at all",
        "Content-Type: text/html",
        "Docker-Content-Digest: sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ] {
        let body = bytes.clone();
        let fake = Fake::start(move |_, _| answer(200, &[label], &body)).await;
        let mut body = repository(&[fake.url()]).get_blob(&digest(&bytes), 0, None, &[]).await.unwrap();
        assert!(drain(&mut body).await.unwrap() == bytes, "{label}");
        // What may be about a page is answered as it is, and is no yes.
        let unknown = if label.contains("html") { BlobHead::Page } else { BlobHead::Size };
        for (known, expected) in [(None, unknown(Some(1000))), (Some(1000), BlobHead::Size(Some(1000)))] {
            let found = repository(&[fake.url()]).head_blob(&digest(&bytes), known).await.unwrap();
            assert_eq!(found, expected, "{label} {known:?}");
        }
    }
}

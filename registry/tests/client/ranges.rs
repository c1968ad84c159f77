//! Parts of blobs, of servers that take ranges in their own way.

use pierhead_registry::client::{ClientError, Settings};

use crate::fake::{Fake, Step, answer, blob};
use crate::{client, content, digest, drain, repository, settings, team};

#[tokio::test]
async fn a_range_that_is_ignored() {
    let bytes = content(1000);
    let body = bytes.clone();
    let fake = Fake::start(move |_, _| answer(200, &[], &body)).await;
    let mut body = repository(&[fake.url()]).get_blob(&digest(&bytes), 100, Some(200), &[]).await.unwrap();
    assert_eq!((body.start(), body.total()), (0, Some(1000)));
    assert!(drain(&mut body).await.unwrap() == bytes[..200]);
}

#[tokio::test]
async fn a_server_that_takes_no_ranges_is_asked_without_one() {
    for status in [400, 401, 403, 404, 405, 410, 416, 451, 501, 500, 503] {
        let bytes = content(1000);
        let body = bytes.clone();
        let fake = Fake::start(move |seen, _| match seen.header("range") {
            Some(_) => answer(status, &[], b"no"),
            None => answer(200, &["Accept-Ranges: bytes"], &body),
        })
        .await;
        let repository = repository(&[fake.url()]);
        let mut body = repository.get_blob(&digest(&bytes), 0, Some(500), &[]).await.unwrap();
        assert_eq!((body.total(), body.start()), (Some(1000), 0), "{status}");
        assert!(drain(&mut body).await.unwrap() == bytes[..500]);
        assert_eq!(fake.questions(), 2);
        if status == 503 {
            // It may be of the moment: only this request goes on without a range.
            continue;
        }
        assert!(!body.ranges(), "{status}");
        // From then on no range is asked for without need.
        let mut body = repository.get_blob(&digest(&bytes), 0, Some(500), &[]).await.unwrap();
        assert!(drain(&mut body).await.unwrap() == bytes[..500]);
        assert_eq!(fake.questions(), 3, "{status}");
        assert_eq!(repository.probe_blob(&digest(&bytes), None, false).await.unwrap().size, Some(1000));
    }
}

/// A part may be shorter than the one asked for, and need not tell the length of the blob.
#[tokio::test]
async fn parts_as_servers_cut_them() {
    let bytes = content(1000);
    for total in ["1000", "*"] {
        let body = bytes.clone();
        let fake = Fake::start(move |seen, _| {
            let from = seen.from();
            let to = (from + 300).min(1000);
            answer(206, &[&format!("Content-Range: bytes {from}-{}/{total}", to - 1)], &body[from..to])
        })
        .await;
        let mut body = repository(&[fake.url()]).get_blob(&digest(&bytes), 100, Some(900), &[]).await.unwrap();
        assert!(drain(&mut body).await.unwrap() == bytes[100..900], "{total}");
        let ranges: Vec<_> = fake.seen().iter().map(|seen| seen.header("range").unwrap().to_owned()).collect();
        let asked = ["bytes=100-899", "bytes=400-899", "bytes=700-899"];
        assert_eq!(ranges, asked, "{total}");
    }
}

/// A no to a part proves nothing of the whole, cold or in the middle of a body. A no to the whole does.
#[tokio::test]
async fn a_part_that_is_refused_is_asked_for_within_the_whole() {
    let bytes = content(1000);
    for status in [400, 401, 403, 404, 410, 416, 451, 501] {
        for (start, whole) in [(0, true), (424, true), (0, false), (424, false)] {
            let body = bytes.clone();
            let fake = Fake::start(move |seen, number| match seen.header("range").is_some() {
                false if whole => blob(seen, &body, if number == 0 { 500 } else { usize::MAX }),
                _ => answer(status, &[], b"no"),
            })
            .await;
            let case = format!("{status} from {start}, whole: {whole}");
            let repository = repository(&[fake.url()]);
            match repository.get_blob(&digest(&bytes), start, None, &[]).await {
                Ok(mut body) => {
                    assert!(body.start() == 0 && drain(&mut body).await.unwrap() == bytes, "{case}");
                    assert_eq!(fake.questions(), if start == 0 { 3 } else { 2 }, "{case}");
                    assert!(whole, "{case}");
                }
                Err(error) => {
                    assert!(!whole, "{case}: {error}");
                    assert_eq!(
                        matches!(error, ClientError::NotFound { .. }),
                        [404, 410].contains(&status),
                        "{case}: {error}"
                    );
                }
            }
        }
    }
}

/// How a fake fails a request.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Status(u16),
    /// 429, with or without a time.
    Limited(&'static str),
    /// The connection is closed in place of an answer.
    Closed,
    /// 200, and no byte.
    Nothing,
}

impl Fault {
    const ALL: [Fault; 17] = [
        Fault::Status(400),
        Fault::Status(401),
        Fault::Status(403),
        Fault::Status(404),
        Fault::Status(408),
        Fault::Status(410),
        Fault::Status(416),
        Fault::Status(451),
        Fault::Status(500),
        Fault::Status(501),
        Fault::Status(502),
        Fault::Status(503),
        Fault::Status(599),
        Fault::Limited("Retry-After: 3600"),
        Fault::Limited("X-Nothing: said"),
        Fault::Closed,
        Fault::Nothing,
    ];

    fn answer(self) -> Vec<Step> {
        match self {
            Fault::Status(status) => answer(status, &[], b"no"),
            Fault::Limited(line) => answer(429, &[line], b""),
            Fault::Closed => Vec::new(),
            Fault::Nothing => answer(200, &[], b""),
        }
    }
}

/// Clients ask for a blob without a range. So what fails for a range that they did not ask for is asked for without one.
#[tokio::test]
async fn a_failure_of_a_range_proves_nothing_about_the_blob() {
    let bytes = content(1000);
    for fault in Fault::ALL {
        for (retries, mirrored) in [(0, false), (2, false), (0, true)] {
            let case = format!("{fault:?}, {retries} retries, mirrored: {mirrored}");
            let body = bytes.clone();
            let fake = Fake::start(move |seen, _| match seen.header("range") {
                Some(_) => fault.answer(),
                None => answer(200, &["Accept-Ranges: bytes"], &body),
            })
            .await;
            // Behind a mirror is a registry that is of no use.
            let broken = Fake::start(|_, _| answer(503, &[], b"")).await;
            let urls = if mirrored { vec![fake.url(), broken.url()] } else { vec![fake.url()] };
            let client = client(Settings { retries, ..settings(&urls) });
            let ranged = |fake: &Fake| fake.seen().iter().filter(|seen| seen.header("range").is_some()).count();
            let plain = |fake: &Fake| fake.questions() - ranged(fake);
            let mut body = team(&client).get_blob(&digest(&bytes), 0, Some(500), &[]).await.expect(&case);
            assert!(drain(&mut body).await.unwrap() == bytes[..500], "{case}");
            assert_eq!(plain(&fake), 1, "{case}");
            let probe = team(&client).probe_blob(&digest(&bytes), None, false).await.expect(&case);
            assert_eq!((probe.size, plain(&fake)), (Some(1000), 2), "{case}");
            if let Fault::Limited(_) = fault {
                assert!(ranged(&fake) <= 2, "{case}: {} with a range; the limit is kept", ranged(&fake));
            }
            team(&client).get_blob(&digest(&bytes), 0, None, &[]).await.expect(&case);
        }
    }
}

/// Where the blob itself is refused the answer is that, at the cost of one request more.
#[tokio::test]
async fn where_the_whole_fails_as_well_one_request_more_is_sent() {
    let bytes = content(1000);
    for fault in Fault::ALL {
        for retries in [0, 2] {
            let fake = Fake::start(move |_, _| fault.answer()).await;
            let whole = client(Settings { retries, ..settings(&[fake.url()]) });
            let expected = team(&whole).get_blob(&digest(&bytes), 0, None, &[]).await.err();
            let asked = fake.seen().len();
            let part = client(Settings { retries, ..settings(&[fake.url()]) });
            let error = team(&part).get_blob(&digest(&bytes), 0, Some(500), &[]).await.err();
            let kind = |error: Option<ClientError>| error.map(|error| std::mem::discriminant(&error));
            let case = format!("{fault:?}, {retries} retries");
            assert_eq!(kind(error), kind(expected), "{case}");
            let more = fake.seen().len() - 2 * asked;
            // A 429 without a time is waited for, and so answered twice.
            assert!(more <= if matches!(fault, Fault::Limited("X-Nothing: said")) { 2 } else { 1 }, "{case}: {more}");
        }
    }
}

/// A body that breaks goes on without a range before it is given up.
#[tokio::test]
async fn the_rest_of_a_body_is_had_without_a_range() {
    let bytes = content(1000);
    for fault in [Fault::Limited("Retry-After: 3600"), Fault::Nothing, Fault::Status(404), Fault::Status(599)] {
        let body = bytes.clone();
        let fake = Fake::start(move |seen, number| match seen.header("range") {
            Some(_) => fault.answer(),
            None => blob(seen, &body, if number == 0 { 500 } else { usize::MAX }),
        })
        .await;
        let mut body = repository(&[fake.url()]).get_blob(&digest(&bytes), 0, None, &[]).await.unwrap();
        assert!(drain(&mut body).await.unwrap() == bytes, "{fault:?}");
        assert_eq!(fake.seen().len(), 3, "{fault:?}");
    }
}

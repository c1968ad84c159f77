//! Parts of blobs, of servers that take ranges in their own way.

use pierhead_registry::client::ClientError;

use crate::fake::{Fake, answer, blob};
use crate::{content, digest, drain, repository};

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
        assert_eq!(repository.probe_blob(&digest(&bytes), false).await.unwrap().size, Some(1000));
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

//! Clients of HTTP/2 that send what is allowed one by one and meant to wear us out by its number.
//!
//! No real client does any of this, so the frames are made here.

use std::time::Duration;

use pierhead_config::HttpListener;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::tests::{LONG, Running, https, speaking, start, tls_client};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// As much as is sent before the test gives up: more than any limit here.
const MOST: usize = 64 * 1024 * 1024;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block: this method, https, this path, `a`.
fn block(method: u8, path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap();
    [&[method, 0x87, 0x04, length], path.as_bytes(), &[0x41, 1, b'a']].concat()
}

const GET: u8 = 0x82;
const POST: u8 = 0x83;

/// Sends chunk after chunk until the connection is closed, and says how much that was.
async fn flood(running: &Running, read: bool, mut chunk: impl FnMut(u32) -> Vec<u8>) -> usize {
    let (mut reader, mut writer) = tokio::io::split(tls_client(running, b"h2").await);
    let mut sent = 0;
    let attack = async {
        writer.write_all(PREFACE).await?;
        writer.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
        for number in 0.. {
            let bytes = chunk(number);
            writer.write_all(&bytes).await?;
            sent += bytes.len();
            assert!(sent < MOST, "{sent} bytes were taken");
        }
        Ok::<(), std::io::Error>(())
    };
    let drain = async {
        let mut buffer = vec![0; 64 * 1024];
        if !read {
            std::future::pending::<()>().await;
        }
        while reader.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    };
    let closed = async {
        tokio::select! {
            result = attack => assert!(result.is_err()),
            () = drain => {}
        }
    };
    timeout(LONG, closed).await.expect("the connection stays open");
    sent
}

async fn under_attack(change: impl FnOnce(HttpListener) -> HttpListener) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let (settings, _) = https(folder.path());
    start(speaking(change(settings))).await
}

fn stream(number: u32) -> u32 {
    2 * number + 1
}

#[tokio::test]
async fn requests_that_are_taken_back_at_once_end_the_connection() {
    let running = under_attack(|http| http).await;
    let request = |number| {
        let headers = frame(HEADERS, END_STREAM | END_HEADERS, stream(number), &block(GET, "/slow"));
        [headers, frame(RESET, 0, stream(number), &8_u32.to_be_bytes())].concat()
    };
    // Many in each record: they are read together.
    let sent = flood(&running, true, |number| (0..100).flat_map(|one| request(number * 100 + one)).collect()).await;
    assert!(sent < 1024 * 1024, "{sent}");
}

#[tokio::test]
async fn headers_without_end_end_the_connection() {
    let running = under_attack(|http| http).await;
    // A field that is never indexed, again and again, each in a frame of its own.
    let field = [&[0x10, 1, b'a', 100][..], &[b'x'; 100]].concat();
    for padding in [field.as_slice(), &[]] {
        let sent = flood(&running, true, |number| match number {
            0 => frame(HEADERS, END_STREAM, 1, &block(GET, "/")),
            _ => frame(CONTINUATION, 0, 1, padding),
        })
        .await;
        assert!(sent < 1024 * 1024, "{sent}");
    }
}

/// One entry of the table, named ten thousand times in a few bytes each: a header of 40 MB in 10 KB.
#[tokio::test]
async fn headers_that_unfold_are_refused() {
    let running = under_attack(|http| http).await;
    let entry = [&[0x40, 1, b'a', 0x7f, 0x81, 0x1d][..], &[b'x'; 3840]].concat();
    let bomb = [&block(GET, "/")[..], &entry, &[0xbe; 10_000]].concat();
    let sent = flood(&running, true, |number| {
        let (first, rest) = bomb.split_at(10_000);
        let headers = frame(HEADERS, END_STREAM, stream(number), first);
        [headers, frame(CONTINUATION, END_HEADERS, stream(number), rest)].concat()
    })
    .await;
    assert!(sent < MOST / 4, "{sent}");
}

#[tokio::test]
async fn answers_that_nobody_reads_are_not_kept_for_ever() {
    let running = under_attack(|http| HttpListener { write_timeout: Duration::from_millis(300), ..http }).await;
    for chunk in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])] {
        let sent = flood(&running, false, |_| chunk.repeat(100)).await;
        assert!(sent < MOST, "{sent}");
    }
}

/// What takes no memory and asks for nothing may go on for as long as an idle connection may.
#[tokio::test]
async fn noise_is_no_request() {
    let running = under_attack(|http| HttpListener { idle_timeout: Duration::from_millis(300), ..http }).await;
    for chunk in [
        frame(PING, 0, 0, &[0; 8]),
        frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 16]),
        frame(0xfa, 0, 0, b"unknown"),
        frame(SETTINGS, 0, 0, &[]),
    ] {
        let (mut reader, mut writer) = tokio::io::split(tls_client(&running, b"h2").await);
        writer.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
        let noise = async {
            while writer.write_all(&chunk).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let mut buffer = vec![0; 4096];
        let drain = async { while reader.read(&mut buffer).await.is_ok_and(|count| count > 0) {} };
        let over = async {
            tokio::select! {
                () = noise => {}
                () = drain => {}
            }
        };
        timeout(LONG, over).await.expect("noise keeps a connection open");
    }
}

#[tokio::test]
async fn bodies_of_nothing_end_the_connection() {
    let running = under_attack(|http| http).await;
    for size in [0, 1] {
        let sent = flood(&running, true, |number| match number {
            0 => frame(HEADERS, END_HEADERS, 1, &block(POST, "/slow")),
            _ => frame(DATA, 0, 1, &vec![0; size]).repeat(1000),
        })
        .await;
        assert!(sent < MOST / 4, "{size}: {sent}");
    }
}

#[tokio::test]
async fn more_streams_than_allowed_end_the_connection() {
    let running = under_attack(|http| http).await;
    let sent = flood(&running, true, |number| {
        let request = |number| frame(HEADERS, END_HEADERS, stream(number), &block(POST, "/slow"));
        (0..100).flat_map(|one| request(number * 100 + one)).collect()
    })
    .await;
    assert!(sent < 1024 * 1024, "{sent}");
}

#[tokio::test]
async fn windows_that_overflow_end_the_connection() {
    let running = under_attack(|http| http).await;
    let sent = flood(&running, true, |_| frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())).await;
    assert!(sent < 1024 * 1024, "{sent}");
}

/// The other way in: what HTTP/1 would call smuggling.
#[tokio::test]
async fn requests_that_http1_would_read_otherwise_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, _) = https(folder.path());
    let running = start(speaking(settings)).await;
    let field = |name: &str, value: &[u8]| {
        let (name_length, value_length) = (u8::try_from(name.len()).unwrap(), u8::try_from(value.len()).unwrap());
        [&[0x10, name_length], name.as_bytes(), &[value_length], value].concat()
    };
    for (fields, accepted) in [
        (field("x-fine", b"yes"), true),
        (field("te", b"trailers"), true),
        (field("te", b"gzip"), false),
        (field("connection", b"close"), false),
        (field("keep-alive", b"5"), false),
        (field("proxy-connection", b"keep-alive"), false),
        (field("upgrade", b"websocket"), false),
        (field("transfer-encoding", b"chunked"), false),
        (field("host", b"other"), false),
        (field("X-Upper", b"case"), false),
        (field("x-value", b"a\r\nx-more: b"), false),
        (field("x-value", b"a\nb"), false),
        (field("x-value", b"a\0b"), false),
        (field("x-na\rme", b"a"), false),
        (field("x name", b"a"), false),
        (field("content-length", b"5"), false),
        ([field("content-length", b"0"), field("content-length", b"1")].concat(), false),
        (field(":path", b"/other"), false),
        (field(":unknown", b"a"), false),
    ] {
        let mut client = tls_client(&running, b"h2").await;
        let headers = frame(HEADERS, END_STREAM | END_HEADERS, 1, &[block(GET, "/one"), fields.clone()].concat());
        client.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &headers].concat()).await.unwrap();
        let status = timeout(LONG, status(&mut client)).await.expect("no answer");
        assert_eq!(status == Some(200), accepted, "{:?}: {status:?}", String::from_utf8_lossy(&fields));
        assert!(accepted || status.is_none_or(|status| status == 400), "{status:?}");
    }
}

/// The status of the first answer; `None` when the stream or the connection is ended instead.
async fn status(client: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Option<u16> {
    loop {
        let mut head = [0; 9];
        client.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        client.read_exact(&mut payload).await.ok()?;
        match head[3] {
            // Indexed in the static table.
            HEADERS => {
                return Some(if payload[0] == 0x88 {
                    200
                } else if payload[0] == 0x8c {
                    400
                } else {
                    0
                });
            }
            RESET | 7 => return None,
            _ => {}
        }
    }
}

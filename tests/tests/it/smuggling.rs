//! Requests that could be read in two ways, through the edge to nginx: they are refused, or everybody reads the same.

use std::net::SocketAddr;
use std::time::Duration;

use pierhead_tests::eventually;
use pierhead_tests::pierhead::{Pierhead, Setup};
use pierhead_tests::server::Server;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const CORPUS: &str = include_str!("../../corpus/smuggling.txt");
const LONG: Duration = Duration::from_secs(20);

/// One request of the corpus.
struct Case {
    name: String,
    /// To which host.
    forwarded: Option<String>,
    bytes: Vec<u8>,
}

fn corpus() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in CORPUS.lines() {
        match (line.strip_prefix("## "), cases.last_mut()) {
            (Some(title), _) => {
                let (fate, name) = title.split_once(": ").unwrap();
                let forwarded =
                    fate.strip_prefix("forwarded").map(|to| to.strip_prefix(" to ").unwrap_or("a").to_owned());
                assert!(forwarded.is_some() || fate == "refused", "{title}");
                cases.push(Case { name: name.to_owned(), forwarded, bytes: Vec::new() });
            }
            (None, Some(case)) => case.bytes.extend(unescape(line)),
            (None, None) => {}
        }
    }
    cases
}

fn unescape(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = line.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match (byte, byte == b'\\') {
            (_, true) => match rest.next().unwrap() {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'0' => 0,
                b'x' => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                other => other,
            },
            (byte, false) => byte,
        });
    }
    bytes
}

/// nginx that writes down what it is asked for, and an edge that forwards to it.
async fn parts() -> (Server, Pierhead) {
    let nginx = Server::nginx(
        1,
        "log_format seen '$request_uri $host'; keepalive_timeout 60s; \
         server { listen 127.0.0.1:@PORT@; server_name _; access_log @DIR@/seen.log seen; \
         location / { return 200 \"$request_uri\"; } }",
    )
    .await;
    let edge = Setup::front()
        .pool(json!({ "name": "web", "servers": [nginx.address().to_string()] }))
        .set("/listeners/0/pool", "web")
        .set("/listeners/0/body_timeout", "500ms")
        .set("/listeners/0/idle_timeout", "500ms")
        .start()
        .await;
    (nginx, edge)
}

/// What nginx has been asked for so far, after a request that ends it.
async fn seen(nginx: &Server) -> Vec<String> {
    let text = tokio::fs::read_to_string(nginx.dir().join("seen.log")).await.unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Sends bytes; all that comes back until the connection ends, which it must.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut client = TcpStream::connect(address).await.unwrap();
    // It may be closed before all of it is taken.
    let _ = client.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = timeout(LONG, client.read_to_end(&mut answer)).await.expect("the connection stays open");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_smuggled_past_the_edge() {
    let (nginx, edge) = parts().await;
    let cases = corpus();
    assert!(cases.len() > 50);
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let before = seen(&nginx).await.len();
        let answer = exchange(edge.registry, &case.bytes).await;
        let answers = answer.matches("HTTP/1.1 ").count();
        let status: u16 = answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default();
        // Whoever comes next, over the same connections to nginx, gets its own answer.
        let canary = format!("/canary-{number}");
        let request = format!("GET {canary} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let next = exchange(edge.registry, request.as_bytes()).await;
        let lines = eventually("the canary in nginx's log", LONG, async || {
            let lines = seen(&nginx).await;
            lines.iter().any(|line| line.starts_with(&canary)).then_some(lines)
        })
        .await;
        let between: Vec<&str> = lines[before..].iter().map(String::as_str).collect();
        let fine = match &case.forwarded {
            Some(host) => status == 200 && answers == 1 && between == [format!("/outer {host}"), format!("{canary} a")],
            // Some are only found out in their bodies, when they have been begun to be passed on: never more than that.
            None => {
                (400..=502).contains(&status) && answers == 1 && between.iter().all(|line| !line.contains("smuggled"))
            }
        };
        if !fine || !next.ends_with(&canary) {
            wrong.push(format!("{}: {answers} answers, {answer:?}; nginx saw {between:?}; next {next:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

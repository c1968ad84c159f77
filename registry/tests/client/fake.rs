//! Upstreams that misbehave in ways no real registry can be made to: raw bytes on a socket, one request a connection.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;
use tokio::task::JoinHandle;
use url::Url;

/// More than anybody should read of what ought to be small; a test that fails must not fill the memory.
const ENDLESS: usize = 64 * 1024 * 1024;

/// What a fake does after it read a request. When the steps end, the connection is closed.
#[derive(Clone)]
pub(crate) enum Step {
    /// Sends bytes.
    Send(Vec<u8>),
    /// Sends bytes one by one, with pauses.
    Drip(Vec<u8>, Duration),
    /// Sends the same bytes until the other side has had enough, or [`ENDLESS`] are sent.
    Endless(Vec<u8>),
    /// Waits until as many requests wait here as the barrier says.
    Meet(Arc<Barrier>),
    /// Says nothing more, and keeps the connection.
    Hang,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    headers: HashMap<String, String>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte asked for; 0 without a range.
    pub(crate) fn from(&self) -> usize {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes="));
        range.and_then(|range| range.split('-').next()).and_then(|first| first.parse().ok()).unwrap_or(0)
    }
}

/// A listening fake.
pub(crate) struct Fake {
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    /// Answers each request with what `script` says; the number counts requests from 0.
    pub(crate) async fn start(script: impl Fn(&Seen, usize) -> Vec<Step> + Send + Sync + 'static) -> Fake {
        Fake::start_at(([127, 0, 0, 1], 0).into(), script).await
    }

    /// The same, at a given address.
    pub(crate) async fn start_at(
        address: SocketAddr,
        script: impl Fn(&Seen, usize) -> Vec<Step> + Send + Sync + 'static,
    ) -> Fake {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, script) = (Arc::new(Mutex::new(Vec::new())), Arc::new(script));
        let all = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (all, script) = (Arc::clone(&all), Arc::clone(&script));
                tokio::spawn(async move { serve(stream, &all, script.as_ref()).await });
            }
        });
        Fake { port, seen, task }
    }

    pub(crate) fn url(&self) -> Url {
        self.on("127.0.0.1")
    }

    /// Its URL, with another name for this host.
    pub(crate) fn on(&self, host: &str) -> Url {
        Url::parse(&format!("http://{host}:{}", self.port)).unwrap()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How many requests for anything but `/v2/` it saw.
    pub(crate) fn questions(&self) -> usize {
        self.seen().iter().filter(|seen| seen.target != "/v2/").count()
    }
}

async fn serve(
    mut stream: TcpStream,
    all: &Mutex<Vec<Seen>>,
    script: &(dyn Fn(&Seen, usize) -> Vec<Step> + Send + Sync),
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    let request = Seen { method, target, headers };
    let number = {
        let mut all = all.lock().unwrap();
        all.push(request.clone());
        all.len() - 1
    };
    for step in script(&request, number) {
        match step {
            Step::Send(bytes) => stream.write_all(&bytes).await.ok()?,
            Step::Drip(bytes, pause) => {
                for byte in bytes {
                    stream.write_all(&[byte]).await.ok()?;
                    stream.flush().await.ok()?;
                    tokio::time::sleep(pause).await;
                }
            }
            Step::Endless(bytes) => {
                for _ in 0..ENDLESS / bytes.len() {
                    stream.write_all(&bytes).await.ok()?;
                }
            }
            Step::Meet(barrier) => {
                barrier.wait().await;
            }
            Step::Hang => std::future::pending().await,
        }
    }
    stream.shutdown().await.ok()
}

/// A header, with what stands in `lines` and no length unless they say so.
pub(crate) fn head(status: u16, lines: &[&str]) -> Step {
    let mut text = format!("HTTP/1.1 {status} Whatever\r\nConnection: close\r\n");
    for line in lines {
        text.push_str(line);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    Step::Send(text.into_bytes())
}

/// A whole answer.
pub(crate) fn answer(status: u16, lines: &[&str], body: &[u8]) -> Vec<Step> {
    let length = format!("Content-Length: {}", body.len());
    vec![head(status, &[lines, &[&length]].concat()), Step::Send(body.to_vec())]
}

/// What a good registry answers to a request for a blob, ranges included, cut off after `cut` bytes of body.
pub(crate) fn blob(seen: &Seen, body: &[u8], cut: usize) -> Vec<Step> {
    let from = seen.from();
    let rest = &body[from..];
    let length = format!("Content-Length: {}", rest.len());
    let range = format!("Content-Range: bytes {from}-{}/{}", body.len() - 1, body.len());
    let head = match seen.header("range") {
        None => head(200, &[&length, "Accept-Ranges: bytes", "ETag: \"strong\""]),
        Some(_) => head(206, &[&length, &range, "ETag: \"strong\""]),
    };
    vec![head, Step::Send(rest[..cut.min(rest.len())].to_vec())]
}

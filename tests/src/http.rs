//! A minimal HTTP/1.1 server, one request a connection, that can answer with any bytes at any pace: what the
//! misbehaving upstreams and the token service are made of. A proper server library would not misbehave.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A request, as it came in.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `HEAD` …
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The query, without `?`; empty when there is none.
    pub query: String,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// User and password of `Authorization: Basic`.
    pub fn basic(&self) -> Option<(String, String)> {
        let encoded = self.header("authorization")?.strip_prefix("Basic ")?;
        let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        Some((user.to_owned(), password.to_owned()))
    }

    /// The value of a query parameter, percent-decoded as far as scopes need it.
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.parameters(name).next()
    }

    /// All values of a query parameter.
    pub fn parameters(&self, name: &str) -> impl Iterator<Item = String> {
        let values = self.query.split('&').filter_map(move |pair| pair.strip_prefix(name)?.strip_prefix('='));
        values.map(|value| {
            value.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",").replace('+', " ").replace("%20", " ")
        })
    }

    /// First and last byte of `Range: bytes=a-b`; the last is `None` for an open range.
    pub fn range(&self) -> Option<(u64, Option<u64>)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()))
    }
}

/// A step of an answer.
#[derive(Clone, Debug)]
pub enum Step {
    /// Writes bytes.
    Send(Bytes),
    /// Writes bytes in pieces of `size`, one every `every`.
    Drip {
        /// What.
        bytes: Bytes,
        /// How much at a time.
        size: usize,
        /// How often.
        every: Duration,
    },
    /// Writes these bytes again and again until the peer has had enough.
    Forever(Bytes),
    /// Says nothing for a while.
    Pause(Duration),
    /// Says nothing until the peer goes away.
    Silence,
}

/// An answer: what is written, then the connection is closed.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Said before the header: nothing, or nothing for a while.
    pub prelude: Option<Step>,
    /// What is written, the header first, in order. HEAD gets the first step only.
    pub steps: Vec<Step>,
}

impl Answer {
    /// The status line and headers, with `Connection: close`.
    pub fn head(status: u16, headers: &[(&str, &str)]) -> Answer {
        let mut head = format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        Answer { prelude: None, steps: vec![Step::Send(head.into())] }
    }

    /// A whole answer with its `Content-Length`.
    pub fn new(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let body = body.into();
        let length = body.len().to_string();
        let mut headers = headers.to_vec();
        headers.push(("Content-Length", &length));
        Answer::head(status, &headers).then(Step::Send(body))
    }

    /// The status of its header; 0: it has none.
    pub fn status(&self) -> u16 {
        let Some(Step::Send(head)) = self.steps.first() else { return 0 };
        let code = head.split(|byte| *byte == b' ').nth(1).and_then(|code| std::str::from_utf8(code).ok());
        code.and_then(|code| code.parse().ok()).unwrap_or_default()
    }

    /// One more step.
    pub fn then(mut self, step: Step) -> Answer {
        self.steps.push(step);
        self
    }
}

/// A running server. Dropping it closes its listener and ends its connections.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts on a free port of `ip`.
    pub async fn start(ip: impl Into<IpAddr>, handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind((ip.into(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, handler) = (Arc::clone(&requests), Arc::new(handler));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                connections.spawn(serve(stream, Arc::clone(&seen), Arc::clone(&handler)));
                while connections.try_join_next().is_some() {}
            }
        });
        Server { address, requests, task }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// How many requests satisfy `test`.
    pub fn count(&self, test: impl Fn(&Request) -> bool) -> usize {
        self.requests.lock().unwrap().iter().filter(|request| test(request)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<H>(mut stream: TcpStream, seen: Arc<Mutex<Vec<Request>>>, handler: Arc<H>)
where
    H: Fn(&Request) -> Answer + Send + Sync + 'static,
{
    let Some(request) = read_head(&mut stream).await else { return };
    let answer = handler(&request);
    let head_only = request.method == "HEAD";
    seen.lock().unwrap().push(request);
    // A peer that leaves early ends the answer; that is no fault of either side.
    let _ = write(&mut stream, answer, head_only).await;
    let _ = stream.shutdown().await;
}

async fn read_head(stream: &mut TcpStream) -> Option<Request> {
    // What is read beyond the header is nothing that anybody waits for: one request a connection, and without a body.
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_until(b'\n', &mut head).await.ok()? == 0 {
            return None;
        }
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.split("\r\n");
    let mut start = lines.next()?.split(' ');
    let (method, target) = (start.next()?.to_owned(), start.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some(Request { method, path: path.replace("%3A", ":"), query: query.to_owned(), headers })
}

async fn write(stream: &mut TcpStream, answer: Answer, head_only: bool) -> std::io::Result<()> {
    let steps = if head_only { 1 } else { answer.steps.len() };
    for step in answer.prelude.into_iter().chain(answer.steps.into_iter().take(steps)) {
        match step {
            Step::Send(bytes) => stream.write_all(&bytes).await?,
            Step::Drip { bytes, size, every } => {
                for piece in bytes.chunks(size) {
                    stream.write_all(piece).await?;
                    tokio::time::sleep(every).await;
                }
            }
            Step::Forever(bytes) => loop {
                stream.write_all(&bytes).await?;
            },
            Step::Pause(time) => tokio::time::sleep(time).await,
            Step::Silence => {
                let _ = stream.read_u8().await;
            }
        }
    }
    Ok(())
}

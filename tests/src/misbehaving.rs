//! Upstreams that do what no real registry can be made to do, each named by it. They hold the content of real images
//! and answer honestly until they are told otherwise.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use crate::http::{Answer, Request, Server, Step};
use crate::image::{Image, Manifest};

/// What an upstream does wrong.
#[derive(Clone, Debug, Default)]
pub enum Misbehaviour {
    /// Nothing.
    #[default]
    None,
    /// Blobs have one byte changed in their middle.
    WrongBytes,
    /// All bytes of blobs are wrong, and come in chunks, without a length.
    WrongChunks,
    /// Blobs end at their middle, wherever they were asked for from.
    ShortBody,
    /// Blobs go on after the length that was announced.
    LongBody,
    /// Blobs are announced, and sent, with a kilobyte too much.
    WrongLength,
    /// The header of an answer never ends.
    EndlessHeader,
    /// Blobs come in pieces of this size, one every so often.
    SlowDrip(usize, Duration),
    /// Blobs stop at their middle, wherever they were asked for from, with the connection open.
    Stall,
    /// Every answer is a 429 with this `Retry-After`, in seconds.
    RateLimited(u64),
    /// Every answer has this status.
    Failing(u16),
    /// As many answers have this status; after them it is well.
    FailingAtFirst(u16, usize),
    /// Blobs redirect to themselves.
    RedirectLoop,
    /// Blobs redirect to this base URL, with a query that must not be shown to anybody.
    Redirect(String),
    /// Every answer is a challenge whose realm is this URL.
    Challenge(String),
    /// Ranges are ignored.
    NoRanges,
    /// Ranges are answered with bytes that begin elsewhere, honestly labelled.
    WrongRange,
    /// Manifests by digest and by tag are others than those that were asked for.
    WrongManifest,
    /// Nothing is ever answered.
    Silent,
    /// HEAD is refused with 405.
    NoHead,
    /// Every HEAD is answered with this status, whatever is held.
    HeadLies(u16),
    /// HEAD of a blob is a 404 until a client got it, as of a cache that fetches for a GET only.
    BlobsAfterGet,
    /// HEAD of a manifest has neither its type nor its length.
    EmptyHeads,
    /// Referrers are answered with this status, by a page.
    NoReferrers(u16),
    /// Lists are refused with this status and this body.
    ListsRejected(u16, &'static str),
    /// Every answer comes after this time.
    Late(Duration),
}

#[derive(Default)]
struct Content {
    manifests: HashMap<String, (String, Bytes)>,
    blobs: HashMap<String, Bytes>,
    others: HashMap<String, (Vec<(String, String)>, Bytes)>,
}

#[derive(Default)]
struct State {
    content: Content,
    misbehaviour: Misbehaviour,
    answered: usize,
    /// Paths of blobs that were sent.
    sent: HashSet<String>,
}

/// A running upstream.
pub struct Upstream {
    /// Where it listens and what it was asked.
    pub server: Server,
    state: Arc<Mutex<State>>,
}

impl Upstream {
    /// An honest and empty one.
    pub async fn start() -> Upstream {
        Upstream::on(Ipv4Addr::LOCALHOST).await
    }

    /// One on another address of the loopback: another host, as far as credentials are concerned.
    pub async fn on(ip: impl Into<IpAddr>) -> Upstream {
        let state = Arc::new(Mutex::new(State::default()));
        let answering = Arc::clone(&state);
        let server = Server::start(ip, move |request| answering.lock().unwrap().answer(request)).await;
        Upstream { server, state }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// From now on.
    pub fn misbehave(&self, how: Misbehaviour) {
        let mut state = self.state.lock().unwrap();
        state.misbehaviour = how;
        state.answered = 0;
    }

    /// Holds an image, under a tag unless that is empty.
    pub fn hold(&self, repository: &str, tag: &str, image: &Image) {
        for blob in image.blobs() {
            self.hold_blob(repository, &blob.digest.to_string(), blob.bytes.clone());
        }
        self.hold_manifest(repository, tag, &image.manifest);
    }

    /// Holds a manifest, by digest and under a tag unless that is empty.
    pub fn hold_manifest(&self, repository: &str, tag: &str, manifest: &Manifest) {
        let digest = manifest.blob.digest.to_string();
        for reference in [digest.as_str(), tag].into_iter().filter(|reference| !reference.is_empty()) {
            self.state.lock().unwrap().content.manifests.insert(
                format!("/v2/{repository}/manifests/{reference}"),
                (manifest.media_type.clone(), manifest.blob.bytes.clone()),
            );
        }
    }

    /// Holds a blob under any digest.
    pub fn hold_blob(&self, repository: &str, digest: &str, bytes: Bytes) {
        let path = format!("/v2/{repository}/blobs/{digest}");
        self.state.lock().unwrap().content.blobs.insert(path, bytes);
    }

    /// Answers a path with these header lines and this body.
    pub fn hold_other(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.state.lock().unwrap().content.others.insert(path.to_owned(), (headers, body.into()));
    }

    /// Forgets a tag.
    pub fn forget(&self, repository: &str, tag: &str) {
        self.state.lock().unwrap().content.manifests.remove(&format!("/v2/{repository}/manifests/{tag}"));
    }

    /// First and last byte of the parts that were asked for at a path, in the order of the requests.
    pub fn ranges(&self, path: &str) -> Vec<(u64, Option<u64>)> {
        let requests = self.server.requests();
        requests.iter().filter(|request| request.path == path).filter_map(Request::range).collect()
    }

    /// How many requests with this method had a path that contains `part`.
    pub fn count(&self, method: &str, part: &str) -> usize {
        self.server.count(|request| request.method == method && request.path.contains(part))
    }
}

impl State {
    fn answer(&mut self, request: &Request) -> Answer {
        self.answered += 1;
        let how = self.misbehaviour.clone();
        match &how {
            Misbehaviour::EndlessHeader => {
                return Answer {
                    prelude: Some(Step::Send("HTTP/1.1 200 OK\r\n".into())),
                    steps: vec![endless_header()],
                };
            }
            Misbehaviour::RateLimited(seconds) => {
                let headers = [("Retry-After", seconds.to_string())];
                return Answer::new(429, &headers.each_ref().map(|(name, value)| (*name, value.as_str())), "");
            }
            Misbehaviour::Failing(status) => return Answer::new(*status, &[], ""),
            Misbehaviour::FailingAtFirst(status, times) if self.answered <= *times => {
                return Answer::new(*status, &[], "");
            }
            Misbehaviour::Challenge(realm) if request.header("authorization").is_none() => {
                let challenge = format!("Bearer realm=\"{realm}\",service=\"test\"");
                return Answer::new(401, &[("WWW-Authenticate", &challenge)], r#"{"errors":[]}"#);
            }
            Misbehaviour::Silent => return Answer { prelude: Some(Step::Silence), ..Answer::default() },
            Misbehaviour::NoHead if request.method == "HEAD" => return Answer::new(405, &[], ""),
            Misbehaviour::HeadLies(status) if request.method == "HEAD" => return Answer::new(*status, &[], ""),
            Misbehaviour::BlobsAfterGet if request.path.contains("/blobs/") => {
                if request.method == "HEAD" && !self.sent.contains(&request.path) {
                    return Answer::new(404, &[], "");
                }
                self.sent.insert(request.path.clone());
            }
            Misbehaviour::EmptyHeads if request.method == "HEAD" => return Answer::new(200, &[], ""),
            Misbehaviour::NoReferrers(status) if request.path.contains("/referrers/") => {
                return Answer::new(*status, &[("Content-Type", "text/html")], "<html>no such page</html>");
            }
            Misbehaviour::ListsRejected(status, body) if is_list(&request.path) => {
                return Answer::new(*status, &[("Content-Type", "application/json")], *body);
            }
            Misbehaviour::Late(after) => {
                return Answer { prelude: Some(Step::Pause(*after)), ..self.honest(request) };
            }
            _ => {}
        }
        if let Some(bytes) = self.content.blobs.get(&request.path) {
            return blob(request, bytes, &how);
        }
        let mut answer = self.honest(request);
        if let (Misbehaviour::WrongManifest, Some(Step::Send(body))) = (&how, answer.steps.last_mut()) {
            let mut changed = body.to_vec();
            // Still JSON, and no longer what it says it is.
            if let Some(at) = changed.iter().position(|byte| *byte == b'\n') {
                changed[at] = b' ';
            }
            *body = changed.into();
        }
        answer
    }

    fn honest(&self, request: &Request) -> Answer {
        if request.path == "/v2/" {
            return Answer::new(200, &[("Content-Type", "application/json")], "{}");
        }
        if let Some(bytes) = self.content.blobs.get(&request.path) {
            return blob(request, bytes, &Misbehaviour::None);
        }
        if let Some((media_type, bytes)) = self.content.manifests.get(&request.path) {
            let digest = crate::image::Blob::new(bytes.clone()).digest.to_string();
            let headers = [("Content-Type", media_type.as_str()), ("Docker-Content-Digest", &digest)];
            return Answer::new(200, &headers, bytes.clone());
        }
        if let Some((headers, bytes)) = self.content.others.get(&request.path) {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            return Answer::new(200, &headers, bytes.clone());
        }
        let code = if request.path.contains("/blobs/") { "BLOB_UNKNOWN" } else { "MANIFEST_UNKNOWN" };
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"unknown"}}]}}"#);
        Answer::new(404, &[("Content-Type", "application/json")], body)
    }
}

fn is_list(path: &str) -> bool {
    path.ends_with("/tags/list") || path.contains("/referrers/")
}

fn endless_header() -> Step {
    Step::Forever(Bytes::from(format!("X-Filler: {}\r\n", "a".repeat(1000))))
}

fn blob(request: &Request, bytes: &Bytes, how: &Misbehaviour) -> Answer {
    let total = bytes.len();
    match how {
        Misbehaviour::RedirectLoop => return Answer::new(307, &[("Location", &request.path)], ""),
        Misbehaviour::Redirect(base) => {
            let location = format!("{base}{}?signature=secret-signature", request.path);
            return Answer::new(307, &[("Location", &location)], "");
        }
        Misbehaviour::WrongLength => {
            let mut longer = bytes.to_vec();
            longer.extend_from_slice(&[0; 1024]);
            return Answer::new(200, &[("Accept-Ranges", "bytes")], longer);
        }
        _ => {}
    }
    let ranged = if matches!(how, Misbehaviour::NoRanges) { None } else { request.range() };
    let (first, last) = match ranged {
        Some((first, last)) => {
            (usize::try_from(first).unwrap(), last.map_or(total, |last| usize::try_from(last).unwrap() + 1).min(total))
        }
        None => (0, total),
    };
    if ranged.is_some() && first >= total {
        return Answer::new(416, &[("Content-Range", &format!("bytes */{total}"))], "");
    }
    let shift = if matches!(how, Misbehaviour::WrongRange) && ranged.is_some() { first / 2 } else { first };
    let body = bytes.slice(shift..last);
    let length = body.len().to_string();
    let content_range = format!("bytes {shift}-{}/{total}", last.saturating_sub(1));
    let mut headers = vec![("Content-Type", "application/octet-stream"), ("Content-Length", length.as_str())];
    if !matches!(how, Misbehaviour::NoRanges) {
        headers.push(("Accept-Ranges", "bytes"));
    }
    if ranged.is_some() {
        headers.push(("Content-Range", &content_range));
    }
    let head = Answer::head(if ranged.is_some() { 206 } else { 200 }, &headers);
    match how {
        Misbehaviour::WrongBytes => {
            let mut changed = body.to_vec();
            let middle = changed.len() / 2;
            changed[middle] ^= 1;
            head.then(Step::Send(changed.into()))
        }
        Misbehaviour::WrongChunks => {
            let head = Answer::head(200, &[("Transfer-Encoding", "chunked")]);
            let chunk = [format!("{total:x}\r\n").as_bytes(), &vec![7; total], b"\r\n0\r\n\r\n"].concat();
            head.then(Step::Send(chunk.into()))
        }
        Misbehaviour::ShortBody => head.then(Step::Send(bytes.slice(shift..(total / 2).max(shift)))),
        Misbehaviour::LongBody => head.then(Step::Send(body)).then(Step::Send(vec![7; 4096].into())),
        Misbehaviour::SlowDrip(size, every) => head.then(Step::Drip { bytes: body, size: *size, every: *every }),
        Misbehaviour::Stall => head.then(Step::Send(bytes.slice(shift..(total / 2).max(shift)))).then(Step::Silence),
        _ => head.then(Step::Send(body)),
    }
}

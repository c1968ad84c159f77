//! An upstream that behaves as its seed says: the registry, a mirror before it, the server that it redirects to, and the
//! token service, each on an address of its own.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use pierhead_registry::oci::media_type::OCI_INDEX;
use serde_json::json;
use tokio::net::TcpSocket;

use super::behaviour::{
    Auth, Behaviour, DigestLabel, Etag, Fault, Length, Mirror, Pages, Phase, Ranges, Site, Thing, Way, What, When,
};
use super::content::{Content, PAGE, REPOSITORIES, TAG};
use super::tokens::{Gate, Permit};
use crate::http::{Answer, Request, Server, Step};
use crate::image::Blob;

/// Where the registry redirects to, when that is another host.
pub const TARGET: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Where tokens come from, when that is another host.
pub const ISSUER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// A page in place of what was asked for.
pub const PAGE_TEXT: &str = "<!DOCTYPE html><html><body>Please log in</body></html>";

/// A running upstream.
pub struct Upstream {
    /// Its addresses in the order in which they are to be tried.
    pub addresses: Vec<String>,
    /// Dropping them ends them.
    _servers: Vec<Server>,
    /// The port of a dead mirror, bound so that no other server gets it.
    _dead: Option<TcpSocket>,
    state: Arc<Mutex<State>>,
}

struct State {
    behaviour: Arc<Behaviour>,
    content: Arc<Content>,
    phase: Phase,
    gate: Gate,
    /// How often each fault was met, by its place and the path.
    met: HashMap<(usize, String), u32>,
    /// How often a fault was met that passes by itself.
    passing: usize,
    /// What a GET has asked for.
    gotten: Vec<String>,
    /// Base URL of the server that is redirected to.
    target: String,
    /// Base URL of the token service.
    issuer: String,
    /// Each request, a line.
    /// Requests, and the status that each got.
    log: Vec<(String, u16)>,
}

/// Which of the servers was asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Registry,
    Mirror,
    Target,
    Issuer,
}

/// What a path asks for.
struct Asked<'a> {
    repository: usize,
    thing: Thing,
    way: Way,
    name: &'a str,
}

impl Upstream {
    /// Starts all servers of a behaviour.
    pub async fn start(behaviour: &Arc<Behaviour>, content: &Arc<Content>) -> Upstream {
        let state = Arc::new(Mutex::new(State {
            behaviour: Arc::clone(behaviour),
            content: Arc::clone(content),
            phase: Phase::Cold,
            gate: Gate::default(),
            met: HashMap::new(),
            passing: 0,
            gotten: Vec::new(),
            target: String::new(),
            issuer: String::new(),
            log: Vec::new(),
        }));
        let serve = async |ip: Ipv4Addr, role: Role| {
            let state = Arc::clone(&state);
            Server::start(ip, move |request| state.lock().unwrap().answer(role, request)).await
        };
        let registry = serve(Ipv4Addr::LOCALHOST, Role::Registry).await;
        let mut addresses = vec![registry.url()];
        let (mut target, mut issuer) = (registry.url(), registry.url());
        let (mut servers, mut dead) = (vec![registry], None);
        if behaviour.redirect.as_ref().is_some_and(|redirect| redirect.elsewhere) {
            servers.push(serve(TARGET, Role::Target).await);
            target = servers[servers.len() - 1].url();
        }
        if matches!(&behaviour.auth, Auth::Bearer(bearer) if bearer.elsewhere) {
            servers.push(serve(ISSUER, Role::Issuer).await);
            issuer = servers[servers.len() - 1].url();
        }
        if let Some(mirror) = &behaviour.mirror {
            if mirror.dead {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
                addresses.insert(0, format!("http://{}", socket.local_addr().unwrap()));
                dead = Some(socket);
            } else {
                let server = serve(Ipv4Addr::LOCALHOST, Role::Mirror).await;
                addresses.insert(0, server.url());
                servers.push(server);
            }
        }
        {
            let mut state = state.lock().unwrap();
            (state.target, state.issuer) = (target, issuer);
        }
        Upstream { addresses, _servers: servers, _dead: dead, state }
    }

    /// The next part of the script begins.
    pub fn enter(&self, phase: Phase) {
        self.state.lock().unwrap().phase = phase;
    }

    /// How many requests all of its servers have got.
    pub fn requests(&self) -> usize {
        self.state.lock().unwrap().log.len()
    }

    /// How many requests so far met a fault that passes by itself, at the token service as well.
    pub fn passing_faults(&self) -> usize {
        let state = self.state.lock().unwrap();
        state.passing + state.gate.failed()
    }

    /// The requests that its servers have got from a place on, a line each.
    pub fn log(&self, from: usize) -> Vec<String> {
        self.state.lock().unwrap().log[from..].iter().map(|(line, status)| format!("{line} → {status}")).collect()
    }

    /// The statuses of the answers to GETs from a place on, those for tokens left out.
    pub fn gets(&self, from: usize) -> Vec<u16> {
        let log = &self.state.lock().unwrap().log[from..];
        let content = log.iter().filter(|(line, _)| line.starts_with("GET ") && line.contains("/v2/"));
        content.map(|(_, status)| *status).collect()
    }

    /// The status of the last answer, of those to the requests from a place on.
    pub fn last_status(&self, from: usize) -> Option<u16> {
        self.state.lock().unwrap().log[from..].last().map(|(_, status)| *status)
    }
}

/// A request as a line of a report.
fn line(request: &Request) -> String {
    let headers: Vec<String> = (request.headers.iter())
        .filter(|(name, _)| ["host", "authorization", "range", "if-range"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
    format!("{} {}{query} {}", request.method, request.path, headers.join(", "))
}

impl State {
    fn answer(&mut self, role: Role, request: &Request) -> Answer {
        self.log.push((line(request), 0));
        let answer = self.decide(role, request);
        if let Some((_, status)) = self.log.last_mut() {
            *status = answer.status();
        }
        answer
    }

    fn decide(&mut self, role: Role, request: &Request) -> Answer {
        if let Some(path) = request.path.strip_prefix("/token") {
            return match self.behaviour.auth.clone() {
                Auth::Bearer(bearer) => self.gate.issue(&bearer, path, request),
                _ => refusal(404),
            };
        }
        if let Some(stored) = request.path.strip_prefix("/store") {
            return self.stored(stored, request);
        }
        if matches!(role, Role::Target | Role::Issuer) {
            return refusal(404);
        }
        let Some(asked) = Asked::parse(request) else { return refusal(404) };
        if role == Role::Mirror {
            let mirror = self.behaviour.mirror.clone();
            return match mirror.filter(|mirror| mirror.lacks.contains(&asked.thing)) {
                Some(mirror) => lack(&mirror),
                None => self.content(&asked, Site::Registry, request, false),
            };
        }
        let auth = self.behaviour.auth.clone();
        if let Permit::Challenge(lines) = self.gate.admit(&auth, &self.issuer, asked.scope(), request) {
            let headers: Vec<(&str, &str)> = lines.iter().map(|line| ("WWW-Authenticate", line.as_str())).collect();
            return Answer::new(401, &headers, r#"{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}"#);
        }
        if let Some(answer) = self.failure(&asked, Site::Registry, request) {
            return answer;
        }
        let redirect = self.behaviour.redirect.clone();
        if let Some(redirect) = redirect.filter(|redirect| redirect.things.contains(&asked.thing)) {
            return self.redirected(&request.path, &request.query, redirect.hops);
        }
        self.content(&asked, Site::Registry, request, true)
    }

    /// What a redirect led to: `/1/v2/…`, where the number is that of the hops that are left.
    fn stored(&mut self, path: &str, request: &Request) -> Answer {
        let Some(redirect) = self.behaviour.redirect.clone() else { return refusal(404) };
        let left = path
            .strip_prefix('/')
            .and_then(|rest| rest.split_once('/'))
            .map(|(hops, rest)| (hops.parse::<u32>().unwrap_or_default(), format!("/{rest}")));
        let Some((left, path)) = left else { return refusal(404) };
        // The signature is the beginning of the query, byte for byte; what the client asked with follows it.
        let Some(own) = format!("?{}", request.query).strip_prefix(redirect.query).map(str::to_owned) else {
            return Answer::new(403, &[("Content-Type", "application/xml")], "<Error>SignatureDoesNotMatch</Error>");
        };
        let own = own.trim_start_matches(['?', '&']).to_owned();
        if redirect.refuses_credentials && redirect.elsewhere && request.header("authorization").is_some() {
            return Answer::new(400, &[("Content-Type", "application/xml")], "<Error>InvalidArgument</Error>");
        }
        if left > 0 {
            return self.redirected(&path, &own, left);
        }
        let inner = Request { path, query: own, ..request.clone() };
        let Some(asked) = Asked::parse(&inner) else { return refusal(404) };
        if let Some(answer) = self.failure(&asked, Site::Target, &inner) {
            return answer;
        }
        self.content(&asked, Site::Target, &inner, true)
    }

    fn redirected(&self, path: &str, query: &str, hops: u32) -> Answer {
        let Some(redirect) = &self.behaviour.redirect else { return refusal(404) };
        // Hops within the target are without its name.
        let base = if hops < redirect.hops || !redirect.elsewhere { "" } else { self.target.as_str() };
        let own = match (redirect.query, query) {
            (_, "") => String::new(),
            ("", query) => format!("?{query}"),
            (_, query) => format!("&{query}"),
        };
        let location = format!("{base}/store/{}{path}{}{own}", hops - 1, redirect.query);
        Answer::new(redirect.status, &[("Location", &location)], "")
    }

    /// The first fault that leaves nothing of the content.
    fn failure(&mut self, asked: &Asked<'_>, site: Site, request: &Request) -> Option<Answer> {
        let behaviour = Arc::clone(&self.behaviour);
        let known = self.gotten.contains(&request.path);
        if request.method == "GET" && site == Site::Registry {
            self.gotten.push(request.path.clone());
        }
        for (place, fault) in behaviour.faults.iter().enumerate() {
            if !fault.concerns(asked.repository, asked.thing, asked.way, site, self.phase) {
                continue;
            }
            let answer = match &fault.what {
                What::Status { status, retry_after, html } => failure(*status, *retry_after, *html),
                What::Page => Answer::new(200, &[("Content-Type", "text/html; charset=utf-8")], PAGE_TEXT),
                _ => continue,
            };
            if self.meets(place, fault, &request.path, known) {
                return Some(answer);
            }
        }
        None
    }

    fn meets(&mut self, place: usize, fault: &Fault, path: &str, gotten: bool) -> bool {
        match fault.when {
            When::Always => true,
            When::UntilGet => !gotten,
            When::First(times) => {
                let met = self.met.entry((place, path.to_owned())).or_default();
                *met += 1;
                let meets = *met <= times;
                self.passing += usize::from(meets);
                meets
            }
        }
    }

    fn content(&mut self, asked: &Asked<'_>, site: Site, request: &Request, faulty: bool) -> Answer {
        let content = Arc::clone(&self.content);
        let repository = content.repository(asked.repository);
        let mut extra = Vec::new();
        let (media_type, bytes) = match asked.thing {
            Thing::Ping => ("application/json", Bytes::from_static(b"{}")),
            Thing::Tag | Thing::Digest => {
                let manifest = &repository.image.manifest;
                if asked.name != TAG && asked.name != manifest.blob.digest.to_string() {
                    return missing("MANIFEST_UNKNOWN");
                }
                (manifest.media_type.as_str(), manifest.blob.bytes.clone())
            }
            Thing::Blob => match content.find_blob(asked.repository, asked.name) {
                Some(blob) => ("application/octet-stream", blob.bytes.clone()),
                None => return missing("BLOB_UNKNOWN"),
            },
            Thing::Tags => {
                let (page, link) = self.page(asked.repository, request, &repository.tags);
                extra.extend(link.map(|link| ("Link".to_owned(), link)));
                let body = json!({ "name": REPOSITORIES[asked.repository], "tags": page }).to_string();
                ("application/json", body.into())
            }
            Thing::Referrers => match repository.image.digest().to_string() == asked.name {
                true => (OCI_INDEX, repository.referrers.clone()),
                false => return missing("MANIFEST_UNKNOWN"),
            },
        };
        let whats: Vec<What> = if faulty { self.labels(asked, site, request) } else { Vec::new() };
        Labelled { media_type, bytes, extra, whats: &whats, answered: self.log.len() }.answer(asked, request)
    }

    /// The faults that leave the content but not its labels.
    fn labels(&mut self, asked: &Asked<'_>, site: Site, request: &Request) -> Vec<What> {
        let behaviour = Arc::clone(&self.behaviour);
        let mut whats = Vec::new();
        for (place, fault) in behaviour.faults.iter().enumerate() {
            let failing = matches!(fault.what, What::Status { .. } | What::Page);
            if !failing
                && fault.concerns(asked.repository, asked.thing, asked.way, site, self.phase)
                && self.meets(place, fault, &request.path, false)
            {
                whats.push(fault.what.clone());
            }
        }
        whats
    }

    /// A page of the tag list, and the `Link` to the next.
    fn page(&self, repository: usize, request: &Request, tags: &[String]) -> (Vec<String>, Option<String>) {
        let form = self.behaviour.pages;
        if form == Pages::One {
            return (tags.to_vec(), None);
        }
        let last = request.parameter("last").unwrap_or_default();
        let last = last.split(',').next().unwrap_or_default();
        let page: Vec<String> = tags.iter().filter(|tag| tag.as_str() > last).take(PAGE).cloned().collect();
        let Some(end) = page.last().filter(|end| Some(*end) != tags.last()) else { return (page, None) };
        let cursor = if form == Pages::Comma { format!("{end},x") } else { end.clone() };
        // Redirected or not, the registry's own path.
        let path = format!("/v2/{}/tags/list?n={PAGE}&last={cursor}", REPOSITORIES[repository]);
        let host = request.header("host").unwrap_or_default();
        let link = match form {
            Pages::Absolute => format!("<http://{host}{path}>; rel=\"next\""),
            Pages::Bare => format!("<{path}>;Rel=next"),
            Pages::Second => format!("</v2/>; rel=\"start\", <{path}>; title=\"a, b\"; rel=\"next\""),
            Pages::One | Pages::Path | Pages::Comma => format!("<{path}>; rel=\"next\""),
        };
        (page, Some(link))
    }
}

/// Content and what is said about it.
struct Labelled<'a> {
    media_type: &'a str,
    bytes: Bytes,
    extra: Vec<(String, String)>,
    whats: &'a [What],
    answered: usize,
}

impl Labelled<'_> {
    fn answer(self, asked: &Asked<'_>, request: &Request) -> Answer {
        let total = self.bytes.len();
        let refused = self.whats.iter().find_map(|what| match what {
            What::Ranges(Ranges::Refused(status)) => Some(*status),
            _ => None,
        });
        let ranges = asked.thing == Thing::Blob && !self.whats.contains(&What::Ranges(Ranges::Ignored));
        let mut headers: Vec<(String, String)> = self.extra;
        let mut put = |name: &str, value: String| headers.push((name.to_owned(), value));
        let (mut status, mut body) = (200, self.bytes.clone());
        if let (true, Some((first, last))) = (ranges, request.range()) {
            if let Some(status) = refused {
                return refusal(status);
            }
            let first = usize::try_from(first).unwrap_or(total);
            let end = last.map_or(total, |last| usize::try_from(last + 1).unwrap_or(total).min(total));
            if first >= end {
                return Answer::new(416, &[("Content-Range", &format!("bytes */{total}"))], "");
            }
            status = 206;
            body = self.bytes.slice(first..end);
            let unknown = self.whats.contains(&What::Ranges(Ranges::UnknownTotal));
            let whole = if unknown { "*".to_owned() } else { total.to_string() };
            put("Content-Range", format!("bytes {first}-{}/{whole}", end - 1));
        }
        if ranges && !self.whats.contains(&What::Ranges(Ranges::Unannounced)) && refused.is_none() {
            put("Accept-Ranges", "bytes".to_owned());
        }
        let (mut media_type, mut digest, mut length) = (self.media_type, None, None);
        if matches!(asked.thing, Thing::Tag | Thing::Digest | Thing::Blob) {
            digest = Some(Blob::new(self.bytes.clone()).digest.to_string());
        }
        let (mut truncated, mut slow) = (false, false);
        for what in self.whats {
            match what {
                What::Type(named) => media_type = named,
                What::ContentDigest(DigestLabel::None) => digest = None,
                What::ContentDigest(DigestLabel::Wrong) => digest = Some(Blob::new("wrong").digest.to_string()),
                What::ContentDigest(DigestLabel::Garbage) => digest = Some("sha256:none".to_owned()),
                What::Encoding(encoding) => put("Content-Encoding", (*encoding).to_owned()),
                What::Etag(Etag::Weak) => put("ETag", "W/\"1\"".to_owned()),
                What::Etag(Etag::Unquoted) => put("ETag", "abc".to_owned()),
                What::Etag(Etag::Changing) => put("ETag", format!("\"{}\"", self.answered)),
                What::Length(how) => length = Some(*how),
                What::Truncated => truncated = true,
                What::Slow => slow = true,
                What::Ranges(_) | What::Status { .. } | What::Page => {}
            }
        }
        if !media_type.is_empty() {
            put("Content-Type", media_type.to_owned());
        }
        if let Some(digest) = digest {
            put("Docker-Content-Digest", digest);
        }
        let head = asked.way == Way::Head;
        match length {
            Some(Length::Chunked) => put("Transfer-Encoding", "chunked".to_owned()),
            Some(Length::UntilClose) => {}
            Some(Length::HeadZero) if head => put("Content-Length", "0".to_owned()),
            Some(Length::HeadNone) if head => {}
            _ => put("Content-Length", body.len().to_string()),
        }
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let sent = if truncated { body.slice(..body.len() / 2) } else { body };
        let mut answer = Answer::head(status, &headers);
        let pieces = if slow { 5 } else { 2 };
        for piece in sent.chunks(sent.len().div_ceil(pieces).max(1)) {
            let piece = sent.slice_ref(piece);
            answer = answer.then(Step::Send(if length == Some(Length::Chunked) { chunk(&piece) } else { piece }));
            if slow {
                answer = answer.then(Step::Pause(Duration::from_millis(10)));
            }
        }
        if length == Some(Length::Chunked) && !truncated {
            answer = answer.then(Step::Send(Bytes::from_static(b"0\r\n\r\n")));
        }
        answer
    }
}

fn chunk(piece: &[u8]) -> Bytes {
    [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat().into()
}

impl<'a> Asked<'a> {
    fn parse(request: &'a Request) -> Option<Asked<'a>> {
        let way = match request.method.as_str() {
            "HEAD" => Way::Head,
            "GET" if request.header("range").is_some() => Way::Range,
            "GET" => Way::Get,
            _ => return None,
        };
        let path = request.path.strip_prefix("/v2/")?;
        if path.is_empty() {
            return Some(Asked { repository: 0, thing: Thing::Ping, way, name: "" });
        }
        let (repository, rest) = (REPOSITORIES.iter().enumerate())
            .find_map(|(number, name)| Some((number, path.strip_prefix(name)?.strip_prefix('/')?)))?;
        let (kind, name) = rest.split_once('/')?;
        let thing = match kind {
            "manifests" if name.contains(':') => Thing::Digest,
            "manifests" => Thing::Tag,
            "blobs" => Thing::Blob,
            "tags" => Thing::Tags,
            "referrers" => Thing::Referrers,
            _ => return None,
        };
        Some(Asked { repository, thing, way, name })
    }

    /// The repository that a token must be good for.
    fn scope(&self) -> Option<&'static str> {
        (self.thing != Thing::Ping).then(|| REPOSITORIES[self.repository])
    }
}

fn lack(mirror: &Mirror) -> Answer {
    match mirror.challenge {
        Some(challenge) => Answer::new(mirror.status, &[("WWW-Authenticate", challenge)], ""),
        None => failure(mirror.status, None, false),
    }
}

fn failure(status: u16, retry_after: Option<u64>, html: bool) -> Answer {
    let retry_after = retry_after.map(|seconds| seconds.to_string());
    let media_type = if html { "text/html" } else { "application/json" };
    let mut headers = vec![("Content-Type", media_type)];
    headers.extend(retry_after.iter().map(|seconds| ("Retry-After", seconds.as_str())));
    Answer::new(status, &headers, if html { PAGE_TEXT } else { r#"{"errors":[{"code":"UNKNOWN","message":"no"}]}"# })
}

fn refusal(status: u16) -> Answer {
    failure(status, None, false)
}

fn missing(code: &str) -> Answer {
    let body = json!({ "errors": [{ "code": code, "message": "unknown" }] }).to_string();
    Answer::new(404, &[("Content-Type", "application/json")], body)
}

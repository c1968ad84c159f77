//! A registry client as the Go ones are: it follows redirects as net/http does, does the token dance as containerd
//! does, asks again as go-containerregistry does, and believes no length and no digest.
//!
//! It asks a registry and an edge in one and the same way, and writes down each request, for the report of a failure.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::challenge::{self, Challenge};

/// How long a header, and then a piece of a body, is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// As net/http.
const REDIRECTS: usize = 10;
/// Tries of a request that failed.
const TRIES: u32 = 3;
/// Tries of a request that met a limit.
const LIMITED_TRIES: u32 = 6;
/// Longest `Retry-After` that a user waits for.
const LONGEST_WAIT: u64 = 2;
const BODY_LIMIT: usize = 16 << 20;

/// An absolute URL of plain HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// With the port.
    pub authority: String,
    /// With the query.
    pub path: String,
}

/// An answer, its body as far as it came.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Header lines.
    pub headers: HeaderMap,
    /// What came of the body.
    pub body: Vec<u8>,
    /// Why it came no further.
    pub broken: Option<String>,
}

/// A client of one registry or edge, at one or several addresses.
pub struct Client {
    /// Base URLs, in the order in which they are tried.
    pub bases: Vec<Url>,
    /// Shown to the last address only.
    account: Option<(String, String)>,
    /// `Authorization` by address and repository.
    shown: HashMap<(String, String), String>,
    /// What was asked, a line each.
    pub transcript: Vec<String>,
}

impl Client {
    /// A client of these base URLs (`http://host:port`).
    pub fn new(bases: &[String], account: Option<(&str, &str)>) -> Client {
        Client {
            bases: bases.iter().map(|base| Url::parse(&format!("{base}/")).expect("base URL")).collect(),
            account: account.map(|(user, password)| (user.to_owned(), password.to_owned())),
            shown: HashMap::new(),
            transcript: Vec::new(),
        }
    }

    /// Asks one address, with all that belongs to it: tokens, redirects, further tries.
    pub async fn ask(
        &mut self,
        base: usize,
        method: &str,
        repository: &str,
        path: &str,
        headers: &[(&str, String)],
    ) -> Result<Reply, String> {
        let (mut failed, mut limited) = (0, 0);
        loop {
            let result = self.authenticated(base, method, repository, path, headers).await;
            match &result {
                Ok(reply) if reply.status == 429 => {
                    limited += 1;
                    let asked = reply.header("retry-after").and_then(|value| value.parse::<u64>().ok());
                    let pause = match asked {
                        Some(seconds) if seconds > LONGEST_WAIT => return result,
                        Some(seconds) => Duration::from_secs(seconds),
                        None => Duration::from_millis(20 << limited),
                    };
                    if limited == LIMITED_TRIES {
                        return result;
                    }
                    tokio::time::sleep(pause).await;
                }
                Ok(reply) if !matches!(reply.status, 408 | 500 | 502 | 503 | 504) => return result,
                _ => {
                    failed += 1;
                    if failed == TRIES {
                        return result;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    async fn authenticated(
        &mut self,
        base: usize,
        method: &str,
        repository: &str,
        path: &str,
        headers: &[(&str, String)],
    ) -> Result<Reply, String> {
        let url = Url { path: path.to_owned(), ..self.bases[base].clone() };
        let key = (url.authority.clone(), repository.to_owned());
        for _ in 0..3 {
            let shown = self.shown.get(&key).cloned();
            let (reply, last) = self.follow(method, &url, headers, shown.as_deref()).await?;
            // What another server wants is nothing that this client has.
            if reply.status != 401 || last != url {
                return Ok(reply);
            }
            let lines = reply.headers.get_all("www-authenticate");
            let challenges = challenge::parse(lines.iter().filter_map(|line| line.to_str().ok()));
            match self.answer_to(base, repository, &challenges).await? {
                Some(answer) if shown.as_ref() != Some(&answer) => {
                    self.shown.insert(key.clone(), answer);
                }
                _ => return Ok(reply),
            }
        }
        self.follow(method, &url, headers, self.shown.get(&key).cloned().as_deref()).await.map(|(reply, _)| reply)
    }

    /// What to show, after a challenge; `None`: there is nothing.
    async fn answer_to(
        &mut self,
        base: usize,
        repository: &str,
        challenges: &[Challenge],
    ) -> Result<Option<String>, String> {
        let account = self.account.clone().filter(|_| base + 1 == self.bases.len());
        let basic = account.map(|(user, password)| format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
        let Some(bearer) = challenges.iter().find(|challenge| challenge.scheme == "bearer") else {
            let asked = challenges.iter().any(|challenge| challenge.scheme == "basic");
            return Ok(basic.filter(|_| asked));
        };
        let realm = bearer.parameter("realm").and_then(Url::parse).ok_or("a challenge without a realm")?;
        let mut query = Vec::new();
        query.extend(bearer.parameter("service").map(|service| format!("service={service}")));
        let derived = format!("repository:{repository}:pull");
        let scopes = bearer.parameter("scope").filter(|scope| !scope.is_empty()).unwrap_or(&derived);
        if !repository.is_empty() {
            query.extend(scopes.split(' ').map(|scope| format!("scope={scope}")));
        }
        let url = Url { path: format!("{}?{}", realm.path, query.join("&")), ..realm };
        for tried in 1..=TRIES {
            let (reply, _) = self.follow("GET", &url, &[], basic.as_deref()).await?;
            match reply.status {
                200 => {
                    let body: Value = serde_json::from_slice(&reply.body).map_err(|error| error.to_string())?;
                    let token = body["token"].as_str().or(body["access_token"].as_str());
                    return Ok(token.map(|token| format!("Bearer {token}")));
                }
                500 | 502 | 503 | 504 if tried < TRIES => {}
                500.. => return Err(format!("the token service answered {}", reply.status)),
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// One request and the redirects after it; where the last one went, too.
    async fn follow(
        &mut self,
        method: &str,
        url: &Url,
        headers: &[(&str, String)],
        authorization: Option<&str>,
    ) -> Result<(Reply, Url), String> {
        let mut at = url.clone();
        let mut authorization = authorization;
        for _ in 0..=REDIRECTS {
            let result = once(method, &at, headers, authorization).await;
            let told = match &result {
                Ok(reply) => reply.to_string(),
                Err(error) => error.clone(),
            };
            let range = headers.iter().find(|(name, _)| *name == "range").map_or("", |(_, value)| value.as_str());
            let with = if authorization.is_some() { "with credentials" } else { "" };
            self.transcript.push(format!("{method} {at} {range} {with} → {told}"));
            let reply = result?;
            if !matches!(reply.status, 301 | 302 | 303 | 307 | 308) {
                return Ok((reply, at));
            }
            let location = reply.header("location").ok_or("a redirect without a location")?;
            at = at.join(location).ok_or_else(|| format!("no URL: {location}"))?;
            // As net/http: by the name, without the port; and once it is gone it does not come back.
            if at.host() != url.host() {
                authorization = None;
            }
        }
        Err("too many redirects".to_owned())
    }
}

/// One request on a connection of its own.
async fn once(
    method: &str,
    url: &Url,
    headers: &[(&str, String)],
    authorization: Option<&str>,
) -> Result<Reply, String> {
    let mut request = hyper::Request::builder()
        .method(method)
        .uri(&url.path)
        .header("host", &url.authority)
        .header("user-agent", "go-like/1")
        .header("accept-encoding", "identity");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    let request = request.body(String::new()).map_err(|error| error.to_string())?;
    let answer = async {
        let stream = TcpStream::connect(&url.authority).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        // It ends with the body that it carries.
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(|error| error.to_string())
    };
    let answer = timeout(PATIENCE, answer).await.map_err(|_| "no answer in time".to_owned())??;
    let (parts, incoming) = answer.into_parts();
    let (body, broken) = read(incoming).await;
    Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, body, broken })
}

async fn read(mut incoming: Incoming) -> (Vec<u8>, Option<String>) {
    let mut body = Vec::new();
    loop {
        let frame = timeout(PATIENCE, poll_fn(|context| Pin::new(&mut incoming).poll_frame(context))).await;
        match frame {
            Ok(None) => return (body, None),
            Ok(Some(Ok(frame))) => body.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            Ok(Some(Err(error))) => return (body, Some(error.to_string())),
            Err(_) => return (body, Some("the body stopped coming".to_owned())),
        }
        if body.len() > BODY_LIMIT {
            return (body, Some("the body is too long".to_owned()));
        }
    }
}

impl Reply {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} bytes", self.status, self.body.len())?;
        for (name, value) in &self.headers {
            if !["date", "connection", "x-request-id"].contains(&name.as_str()) {
                write!(f, " [{name}: {}]", String::from_utf8_lossy(value.as_bytes()))?;
            }
        }
        if self.status >= 400 && !self.body.is_empty() {
            write!(f, " {:.200}", String::from_utf8_lossy(&self.body))?;
        }
        self.broken.as_ref().map_or(Ok(()), |broken| write!(f, " broken: {broken}"))
    }
}

impl Url {
    /// Reads `http://authority/path`.
    pub fn parse(text: &str) -> Option<Url> {
        let rest = text.strip_prefix("http://")?;
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        (!authority.is_empty()).then(|| Url { authority: authority.to_owned(), path })
    }

    /// A reference, as seen from here.
    pub fn join(&self, reference: &str) -> Option<Url> {
        if let Some(rest) = reference.strip_prefix("//") {
            return Url::parse(&format!("http://{rest}"));
        }
        if reference.contains("://") {
            return Url::parse(reference);
        }
        let own = self.path.split('?').next().unwrap_or_default();
        let path = match reference {
            _ if reference.starts_with('/') => reference.to_owned(),
            _ if reference.starts_with('?') => format!("{own}{reference}"),
            _ => format!("{}/{reference}", own.rsplit_once('/').map_or("", |(folder, _)| folder)),
        };
        Some(Url { authority: self.authority.clone(), path })
    }

    fn host(&self) -> &str {
        self.authority.split(':').next().unwrap_or_default()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::Url;

    #[test]
    fn joins_references() {
        let base = Url::parse("http://a:1/v2/x/y?z=1").unwrap();
        for (reference, expected) in [
            ("http://b/c?d", "http://b/c?d"),
            ("//b:2/c", "http://b:2/c"),
            ("/c?d", "http://a:1/c?d"),
            ("?d", "http://a:1/v2/x/y?d"),
            ("c", "http://a:1/v2/x/c"),
            ("http://b", "http://b/"),
        ] {
            assert_eq!(base.join(reference).unwrap().to_string(), expected, "{reference}");
        }
    }
}

//! A client's operations, each made of the requests that the Go clients make of it, and checked as they check it.

use serde_json::Value;

use super::behaviour::{Ask, Naming, Operation, Piece};
use super::client::{Client, Reply, Url};
use super::content::{Content, REPOSITORIES, Right};
use super::outcome::Outcome;
use crate::image::Blob;
use crate::pull::ACCEPT;

/// How often a broken blob is taken up again.
const RESUMES: usize = 3;
const PAGES: usize = 20;

/// How a client writes the path of a repository.
#[derive(Clone, Copy)]
pub struct Address<'a> {
    /// The edge's name for the registry; `None`: the registry itself.
    pub registry: Option<(&'a str, Naming)>,
}

impl Address<'_> {
    fn path(&self, rest: &str) -> String {
        match self.registry {
            None => format!("/v2/{rest}"),
            Some((_, _)) if rest.is_empty() => "/v2/".to_owned(),
            Some((registry, Naming::Path)) => format!("/v2/{registry}/{rest}"),
            Some((registry, Naming::Namespace)) => {
                let separator = if rest.contains('?') { '&' } else { '?' };
                format!("/v2/{rest}{separator}ns={registry}")
            }
        }
    }
}

/// Does one operation, at each address until one succeeds.
pub async fn perform(client: &mut Client, address: Address<'_>, content: &Content, ask: Ask) -> Outcome {
    let mut outcome = Outcome::Failed("no address".to_owned());
    for base in 0..client.bases.len() {
        let mut turn = Turn { client: &mut *client, address, base, repository: REPOSITORIES[ask.repository] };
        outcome = turn.perform(content, ask).await.unwrap_or_else(Outcome::Failed);
        if outcome.is_success() {
            break;
        }
    }
    outcome
}

/// One operation at one address.
struct Turn<'a> {
    client: &'a mut Client,
    address: Address<'a>,
    base: usize,
    repository: &'static str,
}

impl Turn<'_> {
    async fn perform(&mut self, content: &Content, ask: Ask) -> Result<Outcome, String> {
        match ask.operation {
            Operation::Ping => {
                let path = self.address.path("");
                let reply = self.client.ask(self.base, "GET", "", &path, &[]).await?;
                Ok(if reply.status == 200 { got(b"") } else { Outcome::status(reply.status) })
            }
            Operation::Resolve(name) => self.resolve(&content.reference(ask.repository, name)).await,
            Operation::Manifest(name) => self.manifest(&content.reference(ask.repository, name)).await,
            Operation::Exists(piece) => self.exists(content, ask.repository, piece).await,
            Operation::Blob(piece) => self.blob(content.blob(ask.repository, piece).0).await,
            Operation::Part(piece, first, last) => self.part(content.blob(ask.repository, piece).0, first, last).await,
            Operation::Tags => self.tags().await,
            Operation::Referrers => {
                let digest = content.repository(ask.repository).image.digest();
                let reply = self.get(&format!("referrers/{digest}"), &[]).await?;
                Ok(match reply.status {
                    200 => json(&reply).map_or_else(Outcome::Failed, |_| got(&reply.body)),
                    status => Outcome::status(status),
                })
            }
        }
    }

    async fn get(&mut self, rest: &str, headers: &[(&str, String)]) -> Result<Reply, String> {
        let path = self.address.path(&format!("{}/{rest}", self.repository));
        self.client.ask(self.base, "GET", self.repository, &path, headers).await
    }

    async fn head(&mut self, rest: &str, headers: &[(&str, String)]) -> Result<Reply, String> {
        let path = self.address.path(&format!("{}/{rest}", self.repository));
        self.client.ask(self.base, "HEAD", self.repository, &path, headers).await
    }

    /// As containerd: a HEAD that is refused, or tells too little, is followed by a GET.
    async fn resolve(&mut self, reference: &str) -> Result<Outcome, String> {
        let accept = [("accept", ACCEPT.join(", "))];
        let reply = self.head(&format!("manifests/{reference}"), &accept).await?;
        match reply.status {
            200 => {}
            403 | 405 => return self.manifest(reference).await,
            status => return Ok(Outcome::status(status)),
        }
        let digest = reply.header("docker-content-digest").filter(|digest| is_digest(digest));
        let size = reply.header("content-length").and_then(|length| length.parse::<u64>().ok());
        match (digest, size) {
            (Some(digest), Some(size)) if size > 0 => {
                if is_digest(reference) && reference != digest {
                    return Ok(Outcome::Failed("another digest than the one asked for".to_owned()));
                }
                let what = Right { digest: digest.to_owned(), size, media_type: media_type(&reply) };
                Ok(Outcome::Got { what, partial: false })
            }
            _ => self.manifest(reference).await,
        }
    }

    /// By digest, the hash decides; by tag, it must be JSON.
    async fn manifest(&mut self, reference: &str) -> Result<Outcome, String> {
        let accept = [("accept", ACCEPT.join(", "))];
        let mut failure = String::new();
        for _ in 0..=RESUMES {
            let reply = self.get(&format!("manifests/{reference}"), &accept).await?;
            if reply.status != 200 {
                return Ok(Outcome::status(reply.status));
            }
            if let Some(broken) = &reply.broken {
                failure.clone_from(broken);
                continue;
            }
            let digest = Blob::new(reply.body.clone()).digest.to_string();
            if is_digest(reference) && digest != reference {
                failure = "the manifest does not hash to its digest".to_owned();
                continue;
            }
            if let Err(error) = json(&reply) {
                failure = error;
                continue;
            }
            let what = Right { digest, size: reply.body.len() as u64, media_type: media_type(&reply) };
            return Ok(Outcome::Got { what, partial: false });
        }
        Ok(Outcome::Failed(failure))
    }

    async fn exists(&mut self, content: &Content, repository: usize, piece: Piece) -> Result<Outcome, String> {
        let (blob, _) = content.blob(repository, piece);
        let reply = self.head(&format!("blobs/{}", blob.digest), &[]).await?;
        if reply.status != 200 {
            return Ok(Outcome::status(reply.status));
        }
        // A length that is not told is as good as the right one: who asks knows it from the descriptor.
        let own = blob.bytes.len() as u64;
        let size = reply.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(own);
        let what = Right { digest: blob.digest.to_string(), size, media_type: None };
        Ok(Outcome::Got { what, partial: false })
    }

    /// A body that breaks is taken up again where it broke; an answer that begins elsewhere is read up to there.
    async fn blob(&mut self, blob: &Blob) -> Result<Outcome, String> {
        let mut bytes = Vec::new();
        let mut failure = String::new();
        for _ in 0..=RESUMES {
            let range: Vec<(&str, String)> =
                (!bytes.is_empty()).then(|| ("range", format!("bytes={}-", bytes.len()))).into_iter().collect();
            let reply = self.get(&format!("blobs/{}", blob.digest), &range).await?;
            match reply.status {
                200 if bytes.len() <= reply.body.len() => bytes.clone_from(&reply.body),
                200 => {}
                206 if start(&reply) == Some(bytes.len() as u64) => bytes.extend_from_slice(&reply.body),
                206 => return Ok(Outcome::Failed("a part that begins elsewhere".to_owned())),
                // It cannot be taken up; a client that has nothing yet would not have asked for a part.
                400 | 416 | 501 if !bytes.is_empty() => bytes.clear(),
                status => return Ok(Outcome::status(status)),
            }
            if let Some(broken) = &reply.broken {
                failure.clone_from(broken);
                continue;
            }
            if bytes.len() < blob.bytes.len() {
                failure = "the body ended early".to_owned();
                continue;
            }
            return Ok(match bytes == blob.bytes {
                true => got(&bytes),
                false => Outcome::Failed("the blob does not hash to its digest".to_owned()),
            });
        }
        Ok(Outcome::Failed(failure))
    }

    /// The whole is as good as the part that it holds.
    async fn part(&mut self, blob: &Blob, first: u64, last: Option<u64>) -> Result<Outcome, String> {
        let end = last.map(|last| last.to_string()).unwrap_or_default();
        let range = [("range", format!("bytes={first}-{end}"))];
        let mut failure = String::new();
        for _ in 0..=RESUMES {
            let reply = self.get(&format!("blobs/{}", blob.digest), &range).await?;
            if let Some(broken) = &reply.broken {
                failure.clone_from(broken);
                continue;
            }
            let total = blob.bytes.len();
            let from = usize::try_from(first).unwrap_or(total).min(total);
            let to = last.map_or(total, |last| usize::try_from(last + 1).unwrap_or(total).min(total));
            let (bytes, partial) = match reply.status {
                200 if reply.body.len() == total => (&reply.body[from..to], false),
                200 => {
                    failure = "the body ended early".to_owned();
                    continue;
                }
                206 if start(&reply) == Some(first) => (&reply.body[..], true),
                206 => return Ok(Outcome::Failed("a part that begins elsewhere".to_owned())),
                status => return Ok(Outcome::status(status)),
            };
            if partial && bytes.len() < to - from {
                failure = "the body ended early".to_owned();
                continue;
            }
            return Ok(match got(bytes) {
                Outcome::Got { what, .. } => Outcome::Got { what, partial },
                other => other,
            });
        }
        Ok(Outcome::Failed(failure))
    }

    /// All pages, by their links.
    async fn tags(&mut self) -> Result<Outcome, String> {
        let mut tags: Vec<String> = Vec::new();
        let mut path = self.address.path(&format!("{}/tags/list", self.repository));
        for _ in 0..PAGES {
            let reply = self.client.ask(self.base, "GET", self.repository, &path, &[]).await?;
            if reply.status != 200 {
                return Ok(Outcome::status(reply.status));
            }
            if let Some(broken) = &reply.broken {
                return Ok(Outcome::Failed(broken.clone()));
            }
            let body = json(&reply)?;
            let names = body["tags"].as_array().ok_or("no list of tags")?;
            tags.extend(names.iter().filter_map(|name| name.as_str().map(str::to_owned)));
            let here = Url { path: path.clone(), ..self.client.bases[self.base].clone() };
            match reply.header("link").and_then(next).and_then(|next| here.join(&next)) {
                Some(next) => path = next.path,
                None => return Ok(got(tags.join(" ").as_bytes())),
            }
        }
        Ok(Outcome::Failed("the list never ends".to_owned()))
    }
}

fn got(bytes: &[u8]) -> Outcome {
    let digest = Blob::new(bytes.to_vec()).digest.to_string();
    Outcome::Got { what: Right { digest, size: bytes.len() as u64, media_type: None }, partial: false }
}

fn json(reply: &Reply) -> Result<Value, String> {
    if let Some(broken) = &reply.broken {
        return Err(broken.clone());
    }
    serde_json::from_slice(&reply.body).map_err(|error| format!("no JSON: {error}"))
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64)
}

fn media_type(reply: &Reply) -> Option<String> {
    reply.header("content-type").map(str::to_owned)
}

/// The first byte that `Content-Range` names.
fn start(reply: &Reply) -> Option<u64> {
    let range = reply.header("content-range")?.strip_prefix("bytes ")?;
    range.split('-').next()?.parse().ok()
}

/// The target of the link to the next page (RFC 8288).
fn next(header: &str) -> Option<String> {
    let mut rest = header;
    while let Some((_, after)) = rest.split_once('<') {
        let (target, after) = after.split_once('>')?;
        // The parameters go on to a comma outside of quotes.
        let mut quoted = false;
        let end = after.find(|letter| {
            quoted ^= letter == '"';
            letter == ',' && !quoted
        });
        let parameters = &after[..end.unwrap_or(after.len())];
        let is_next = parameters.split(';').any(|parameter| {
            parameter.split_once('=').is_some_and(|(name, value)| {
                name.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
            })
        });
        if is_next {
            return Some(target.to_owned());
        }
        rest = &after[end.unwrap_or(after.len())..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::next;

    #[test]
    fn finds_the_next_page() {
        for (header, expected) in [
            ("</v2/a/tags/list?last=b>; rel=\"next\"", Some("/v2/a/tags/list?last=b")),
            ("</v2/a?last=b,x>; rel=\"next\"", Some("/v2/a?last=b,x")),
            ("</a>;Rel=Next", Some("/a")),
            ("</a>; rel=\"start\", </b>; title=\"x, y\"; rel=\"next\"", Some("/b")),
            ("</a>; rel=\"prev\"", None),
            ("", None),
        ] {
            assert_eq!(next(header).as_deref(), expected, "{header}");
        }
    }
}

//! One request to one endpoint, redirects followed.
//!
//! Redirects are followed here and not by the HTTP client, because of what must not go along: past the endpoint's own
//! origin a request carries neither credential nor token nor client certificate, and does not get them back when a
//! further redirect returns. The number of hops is limited, and https never becomes http. Where they may lead at all is
//! for [`super::reach`] to say.
//!
//! Labels of an answer, such as `Content-Encoding`, refuse nothing: identity was asked for, and the digest or the JSON of
//! the body decides.

use std::time::Instant;

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use super::endpoint::Endpoint;
use super::failure::{Failure, Rejection, host_of};
use super::pauses::Kind;
use super::reach::Aim;
use super::upstream::{Asking, Line, Upstream};
use super::verdict::{self, Verdict};
use crate::oci::RepositoryName;

/// Real registries redirect once or twice.
const REDIRECTS: usize = 5;

/// What a registry says about a rejected request is read this far.
const REJECTION_LIMIT: u64 = 64 * 1024;

/// What is asked of a repository, at whichever endpoint.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// GET or HEAD.
    pub(super) method: Method,
    /// Below the repository's own.
    pub(super) path: String,
    /// Without the `?`.
    pub(super) query: Option<String>,
    /// Everything but the authorization.
    pub(super) headers: HeaderMap,
    /// The body of a blob: on a connection of its own.
    pub(super) blob: bool,
    /// Whose pauses it takes part in.
    pub(super) kind: Kind,
    /// Whether a digest proves what comes back.
    pub(super) aim: Aim,
    /// When it began: a token that came later is as good as can be.
    pub(super) since: Instant,
}

impl Call {
    /// Whether it asks for a list.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.kind, Kind::Tags | Kind::Referrers)
    }
}

/// The header of an answer, its body still to come.
pub(super) struct Answer {
    /// Of the last hop.
    pub(super) response: Response,
    /// Whether that was past the endpoint's own origin.
    pub(super) foreign: bool,
    /// Of the last hop.
    host: String,
    method: Method,
}

impl Upstream {
    /// Fails unless an answer carries what was asked for.
    pub(super) async fn accept(&self, answer: Answer) -> Result<Response, Failure> {
        let Answer { response, foreign, host, method } = answer;
        let status = response.status();
        let number = status.as_u16();
        let from = if foreign { "the redirect's target answered" } else { "status" };
        let failure = match verdict::judge(&method, status, foreign) {
            Verdict::Success => return Ok(response),
            Verdict::Absent => Failure::NotFound,
            Verdict::Unproven => Failure::Unconfirmed(number),
            Verdict::Unauthorized => Failure::Unauthorized,
            Verdict::Forbidden => Failure::Forbidden,
            Verdict::Rejected => {
                let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
                let content_type = content_type.map(str::to_owned);
                let body = self.read_beginning(response, REJECTION_LIMIT).await;
                Failure::Rejected(Rejection { status: number, content_type, body })
            }
            Verdict::Expired | Verdict::Transient => Failure::broken(format!("{from} {number}")),
            Verdict::Useless => Failure::invalid(format!("{from} {number}, which has no meaning here")),
        };
        Err(failure.at(&host, Some(number)))
    }

    /// Sends `call` with `authorization`, and follows where it leads.
    pub(super) async fn send(
        &self,
        endpoint: &Endpoint,
        call: &Call,
        repository: &RepositoryName,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Failure> {
        let mut headers = call.headers.clone();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, value.clone());
        }
        let mut line = if call.blob { Line::Body } else { Line::Api };
        let mut visited = vec![endpoint.within(repository, &call.path, call.query.as_deref())];
        let mut foreign = false;
        // A mirror before the registry is not waited for, nor a HEAD where a GET decides.
        let patient = endpoint.last && !matches!(call.kind, Kind::ManifestHead | Kind::BlobHead);
        loop {
            let Some(url) = visited.last() else { return Err(Failure::invalid("no address")) };
            let asking = Asking { line, method: &call.method, kind: call.kind, aim: call.aim, patient };
            let result = self.request(endpoint, &asking, url, &headers).await;
            let response = result.map_err(|failure| if foreign { failure.abroad() } else { failure })?;
            let at = |failure: Failure| failure.at(&host_of(url), Some(response.status().as_u16()));
            let Some(target) = redirect(&response, url, &endpoint.url).map_err(at)? else {
                let host = host_of(url);
                return Ok(Answer { response, foreign, host, method: call.method.clone() });
            };
            if visited.contains(&target) {
                return Err(at(Failure::invalid("a redirect loop")));
            }
            if visited.len() > REDIRECTS {
                return Err(at(Failure::invalid(format!("more than {REDIRECTS} redirects"))));
            }
            if endpoint.is_foreign(&target) {
                foreign = true;
                line = Line::Foreign;
                headers.remove(AUTHORIZATION);
            }
            visited.push(target);
        }
    }
}

/// Where an answer redirects to, if it does.
pub(super) fn redirect(response: &Response, from: &Url, endpoint: &Url) -> Result<Option<Url>, Failure> {
    let moved = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    if !moved.contains(&response.status()) {
        return Ok(None);
    }
    let location = response.headers().get(LOCATION).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
    target(location.unwrap_or_default(), from, endpoint).map(Some)
}

fn target(location: &str, from: &Url, endpoint: &Url) -> Result<Url, Failure> {
    let broken = || Failure::invalid("a redirect to nowhere");
    if location.is_empty() {
        return Err(broken());
    }
    let mut target = from.join(location).map_err(|_| broken())?;
    target.set_fragment(None);
    let (https, http) = (target.scheme() == "https", target.scheme() == "http");
    if !target.has_host() || !(https || http) {
        return Err(broken());
    }
    if http && endpoint.scheme() != "http" {
        return Err(Failure::invalid("a redirect from https to http"));
    }
    // They would become an Authorization header.
    if !target.username().is_empty() || target.password().is_some() {
        return Err(Failure::invalid("a redirect that carries a credential"));
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::target;

    #[test]
    fn finds_the_target() {
        let (secure, plain) = ("https://registry.example.com/v2/a", "http://localhost:5000/v2/a");
        for (from, location, expected) in [
            (secure, "/v2/b?x=1#y", Ok("https://registry.example.com/v2/b?x=1")),
            (secure, "https://cdn.example.net/b", Ok("https://cdn.example.net/b")),
            (plain, "http://localhost:5001/b", Ok("http://localhost:5001/b")),
            (plain, "https://cdn.example.net/b", Ok("https://cdn.example.net/b")),
            (secure, "http://registry.example.com/b", Err("a redirect from https to http")),
            (secure, "https://user:pass@cdn.example.net/b", Err("a redirect that carries a credential")),
            (secure, "file:///etc/passwd", Err("a redirect to nowhere")),
            (secure, "https://", Err("a redirect to nowhere")),
            (secure, "", Err("a redirect to nowhere")),
        ] {
            let from = Url::parse(from).unwrap();
            let result = target(location, &from, &from).map(String::from).map_err(|failure| failure.to_string());
            assert_eq!(result, expected.map(str::to_owned).map_err(str::to_owned), "{location}");
        }
    }
}

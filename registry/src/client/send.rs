//! One request to one endpoint, redirects followed.
//!
//! Redirects are followed here and not by the HTTP client, because of what must not go along: past the endpoint's own
//! origin a request carries neither credential nor token nor client certificate, and does not get them back when a
//! further redirect returns. The number of hops is limited, and https never becomes http.

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use super::endpoint::Endpoint;
use super::failure::Failure;
use super::upstream::{Line, Upstream};

/// Real registries redirect once or twice.
const REDIRECTS: usize = 5;

/// What is asked of a registry, at whichever endpoint.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// GET or HEAD.
    pub(super) method: Method,
    /// Below `/v2/`.
    pub(super) path: String,
    /// Without the `?`.
    pub(super) query: Option<String>,
    /// Everything but the authorization.
    pub(super) headers: HeaderMap,
    /// A blob: on a connection of its own.
    pub(super) blob: bool,
}

/// The header of an answer, its body still to come.
pub(super) struct Answer {
    /// Of the last hop.
    pub(super) response: Response,
    /// Whether that was past the endpoint's own origin.
    pub(super) foreign: bool,
    /// Whether a blob was asked for, so that `foreign` means an object store.
    blob: bool,
}

impl Answer {
    /// Fails unless the status is a success.
    pub(super) fn success(self) -> Result<Response, Failure> {
        let status = self.response.status();
        if status.is_success() { Ok(self.response) } else { Err(Failure::status(status, self.foreign && self.blob)) }
    }
}

impl Upstream {
    /// Sends `call` with `authorization`, and follows where it leads.
    pub(super) async fn send(
        &self,
        endpoint: &Endpoint,
        call: &Call,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Failure> {
        let mut headers = call.headers.clone();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, value.clone());
        }
        let mut line = if call.blob { Line::Body } else { Line::Api };
        let mut visited = vec![endpoint.join(&call.path, call.query.as_deref())];
        let mut foreign = false;
        loop {
            let Some(url) = visited.last() else { return Err(Failure::invalid("no address")) };
            let result = self.request(endpoint, line, &call.method, url, &headers).await;
            let response = result.map_err(|failure| if foreign { failure.abroad() } else { failure })?;
            let Some(target) = redirect(&response, url, &endpoint.url)? else {
                // `Content-Encoding` is a label: identity was asked for, and whoever checks the body sees whether it came.
                return Ok(Answer { response, foreign, blob: call.blob });
            };
            if visited.contains(&target) {
                return Err(Failure::invalid("a redirect loop"));
            }
            if visited.len() > REDIRECTS {
                return Err(Failure::invalid(format!("more than {REDIRECTS} redirects")));
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
fn redirect(response: &Response, from: &Url, endpoint: &Url) -> Result<Option<Url>, Failure> {
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

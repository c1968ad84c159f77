//! Where a redirect leads, and how the request for it is written.
//!
//! A signed URL may be signed as text: one byte of it in another spelling, and its server refuses it. So the path and query
//! of a request are those of `Location`, byte for byte, wherever RFC 3986 allows them. The `url` crate, which follows the
//! rules for browsers, would write `'` in a query as `%27`, and take `%2e%2e` for `..`.

use http::uri::PathAndQuery;
use reqwest::header::LOCATION;
use reqwest::{Response, StatusCode};
use url::Url;

use super::failure::Failure;

/// Where to send a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The server, and the path and query as the `url` crate spells them.
    pub(super) url: Url,
    /// Path and query as they are sent, where the URL has them in another spelling.
    pub(super) exact: Option<PathAndQuery>,
}

impl From<Url> for Target {
    fn from(url: Url) -> Target {
        Target { url, exact: None }
    }
}

/// Where an answer redirects to, if it does.
pub(super) fn redirect(response: &Response, from: &Url, endpoint: &Url) -> Result<Option<Target>, Failure> {
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

fn target(location: &str, from: &Url, endpoint: &Url) -> Result<Target, Failure> {
    let broken = || Failure::invalid("a redirect to nowhere");
    if location.is_empty() {
        return Err(broken());
    }
    let mut url = from.join(location).map_err(|_| broken())?;
    url.set_fragment(None);
    let (https, http) = (url.scheme() == "https", url.scheme() == "http");
    if !url.has_host() || !(https || http) {
        return Err(broken());
    }
    if http && endpoint.scheme() != "http" {
        return Err(Failure::invalid("a redirect from https to http"));
    }
    // They would become an Authorization header.
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Failure::invalid("a redirect that carries a credential"));
    }
    let exact = written(location, &url).filter(|exact| *exact != spelling(&url));
    Ok(Target { url, exact: exact.and_then(|exact| exact.parse().ok()) })
}

/// Path and query as a URL spells them.
fn spelling(url: &Url) -> String {
    url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()))
}

/// Path and query as a reference writes them; `None` where they are not all as RFC 3986 has them. A relative path, and one
/// with `.` or `..`, is as `resolved` has it.
fn written(reference: &str, resolved: &Url) -> Option<String> {
    let reference = reference.split('#').next().unwrap_or_default();
    let (path, query) = reference.split_once('?').map_or((reference, None), |(path, query)| (path, Some(query)));
    let path = match path.split_once("//") {
        Some((scheme, rest)) if scheme.is_empty() || scheme.ends_with(':') => {
            rest.find('/').map_or("/", |start| &rest[start..])
        }
        _ => path,
    };
    let relative = !path.starts_with('/') || path.split('/').any(|segment| segment == "." || segment == "..");
    let path = if relative { resolved.path() } else { path };
    let text = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&byte);
    text.bytes().all(allowed).then_some(text)
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::{spelling, target};

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
            let result = target(location, &from, &from).map(|target| String::from(target.url));
            let result = result.map_err(|failure| failure.to_string());
            assert_eq!(result, expected.map(str::to_owned).map_err(str::to_owned), "{location}");
        }
    }

    #[test]
    fn is_written_as_the_redirect_writes_it() {
        let from = Url::parse("https://registry.example.com/v2/team/blobs/x?own=1").unwrap();
        for (location, sent) in [
            ("https://cdn.example.net/b?sig=a%2Fb%3D&e=1", "/b?sig=a%2Fb%3D&e=1"),
            ("https://cdn.example.net/b?q='a'&r=(b)", "/b?q='a'&r=(b)"),
            ("https://cdn.example.net/b?q=%27a%27", "/b?q=%27a%27"),
            ("//cdn.example.net/b?f*=UTF-8''x", "/b?f*=UTF-8''x"),
            ("/b?q='a'#fragment", "/b?q='a'"),
            ("?q='a'", "/v2/team/blobs/x?q='a'"),
            ("y?q='a'", "/v2/team/blobs/y?q='a'"),
            ("https://cdn.example.net?q='a'", "/?q='a'"),
            ("https://cdn.example.net/a//b?u=http://x/'", "/a//b?u=http://x/'"),
            ("/b?u=//x/'", "/b?u=//x/'"),
            ("/a%2e%2e/%2E%2E/b", "/a%2e%2e/%2E%2E/b"),
            ("/a/../b?q='a'", "/b?q='a'"),
            ("/a/./b", "/a/b"),
            ("/b?", "/b?"),
            // What RFC 3986 does not allow is spelled as browsers spell it.
            ("/b?q=' '", "/b?q=%27%20%27"),
            ("/b?q=\"<>'", "/b?q=%22%3C%3E%27"),
            ("/b c", "/b%20c"),
            ("/b\\c", "/b/c"),
            ("/b?q=é'", "/b?q=%C3%A9%27"),
        ] {
            let found = target(location, &from, &from).unwrap();
            let own = spelling(&found.url);
            assert_eq!(found.exact.as_ref().map_or(own.as_str(), |exact| exact.as_str()), sent, "{location}");
        }
    }
}
